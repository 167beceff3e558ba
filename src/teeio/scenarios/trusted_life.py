"""The trusted life of one device, from power-on to removal: the story that `teeio run` tells.

Enumerate, connect, key the link, assign, lock, attest, accept, start, work on private memory, the same work by today's bounce
buffers on a function that is not trusted, stop, remove; at the end every page and stream is where it was.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from teeio.abi.operands import StreamOptions
from teeio.accelerator_interface import Operation
from teeio.attestation import Verdict
from teeio.crypto.entropy import Entropy
from teeio.device.configuration import Configuration
from teeio.guest.accept import AssignedInterface
from teeio.guest.cost import Cost, CostMeter
from teeio.guest.dma import ProtectedSession
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.vfio import UnitKind
from teeio.observe import BoundaryCalled, Event, TlpMoved
from teeio.platform import Guest, Platform, forked
from teeio.scenarios.journal import Journal

WORK_SIZE = 1 << 16
"""Bytes that the accelerator works on by each path."""

SCALE, ADDEND = 3, 0x01020304
VFS = 4

_STREAM_CALLS = "TDH.IDE.STREAM."


def no_cpu_clock() -> float:
    """Stand in for a CPU clock where runs must repeat."""
    return 0.0


@dataclass(slots=True)
class DataPath:
    """What the same work cost by one path. CPU time is None where it was not measured."""

    name: str
    cost: Cost
    tlps: int
    link_bytes: int
    measured: bool
    correct: bool

    def as_dict(self) -> dict[str, Any]:
        """Give the path for JSON."""
        totals = asdict(self.cost)
        per_byte: dict[str, float | None] = dict(self.cost.per_byte())
        if not self.measured:
            totals["cpu_seconds"] = per_byte["cpu_nanoseconds"] = None
        return {
            **totals,
            "tlps": self.tlps,
            "link_bytes": self.link_bytes,
            "per_payload_byte": per_byte,
            "result_correct": self.correct,
        }


@dataclass(slots=True)
class Life:
    """What the story produced."""

    tdi: str = ""
    tdi_states: list[str] = field(default_factory=list)
    verdict: Verdict | None = None
    data_paths: list[DataPath] = field(default_factory=list)
    pages_returned: bool = False
    streams_returned: bool = False


def scale_add(data: bytes) -> bytes:
    """Compute what the accelerator computes: 32-bit words times SCALE plus ADDEND, modulo 2^32."""
    words = array("I", data)
    if sys.byteorder == "big":
        words.byteswap()
    return b"".join(((word * SCALE + ADDEND) & 0xFFFF_FFFF).to_bytes(4, "little") for word in words)


def configuration_for(unit: UnitKind) -> Configuration:
    """Give a device that offers this unit of assignment."""
    return Configuration(vfs=VFS if unit in (UnitKind.PF, UnitKind.VF) else 0)


def live(
    platform: Platform,
    journal: Journal,
    cpu_clock: Callable[[], float] | None = None,
    unit: UnitKind = UnitKind.VF,
) -> Life:
    """Play the story on a fresh platform. Whatever goes wrong raises; nothing is hidden.

    Today's path runs on a second VF beside the trusted one, or, where there is none, on the function itself once it is stopped.
    """
    life = Life()
    vmm = platform.vmm
    pf = enumerate_device(platform, journal, VFS if unit is UnitKind.VF else 0)
    before = platform.memory.accounting()
    with connecting(platform, journal):
        vmm.pci_tsm.connect(pf, platform.now())
    trusted, untrusted = (*pf.vfs, pf, pf)[:2]
    with journal.step("VMM", f"assign a {unit.value} to a TVM") as step:
        guest = platform.launch("TVM", vmm.vfio.unit(unit, trusted.address))
        if untrusted is not trusted:
            vmm.kvm.assign(guest.machine, vmm.vfio.unit(unit, untrusted.address))
        step.note = f"{trusted.address}, TVM with {len(guest.machine.private)} pages of private memory"
    interface = bring_up(platform, journal, guest)
    life.tdi, life.verdict = f"TDI {trusted.address}", interface.verdict
    life.data_paths.append(_work_trusted(platform, journal, guest, interface, cpu_clock))
    if untrusted is not trusted:
        life.data_paths.append(_work_as_today(platform, journal, guest, untrusted, cpu_clock))
    with journal.step("TVM", "STOP_INTERFACE: the device scrubs, mappings go"):
        interface.unlock(platform.now())
    if untrusted is trusted:
        life.data_paths.append(_work_as_today(platform, journal, guest, untrusted, cpu_clock))
    with journal.step("VMM", "end the TVM, stop the stream, end the session") as step:
        platform.shut_down(guest)
        # Taking function 0 back from a guest resets it, and that ends streams and session already.
        if pf.address in vmm.pci_tsm.connections:
            vmm.pci_tsm.disconnect(pf, platform.now())
        life.pages_returned = platform.memory.accounting() == before
        life.streams_returned = not _streams(platform)
        step.note = (
            "every page and stream is back" if life.pages_returned and life.streams_returned else "something is missing"
        )
    life.tdi_states = journal.states(life.tdi)
    return life


def _streams(platform: Platform) -> list[str]:
    """List what is left of streams and sessions, as the devices and the TSM themselves have it."""
    tsm, left = platform.module, []
    for device in platform.devices:
        name = device.configuration.name
        left += [f"session {session_id:#x} at the {name}" for session_id in device.responder.sessions]
        left += [
            f"stream block {at} enabled at the {name}"
            for at, block in enumerate(device.streams.streams)
            if block.field("enable")
        ]
    left += [f"stream {stream.stream_id} at the TSM" for stream in tsm.records.streams()]
    return left + [f"session {spdm_id} at the TSM" for spdm_id in tsm.records.contexts]


def enumerate_device(platform: Platform, journal: Journal, vfs: int = VFS) -> PciFunction:
    """Let the VMM find the device in configuration space, place its BARs and enable VFs."""
    with journal.step(
        "VMM", "enumerate: DOE, IDE, TEE-IO found, BARs placed" + (", VFs enabled" if vfs else "")
    ) as step:
        bus = platform.vmm.bus
        (pf,) = bus.enumerate()
        if vfs:
            bus.enable_vfs(pf, vfs)
        step.note = f"{pf.address} and {len(pf.vfs)} VFs, {len(pf.extended)} extended capabilities"
        if platform.link.mode.is_flit:
            step.note += ", link in Flit Mode"
    return pf


@contextmanager
def connecting(platform: Platform, journal: Journal) -> Iterator[None]:
    """File a connect under two steps: SPDM first, and from the first call about streams on, IDE."""
    with journal.step("TSM", "connect: SPDM through the DOE mailbox, carried by the VMM") as step:
        step.note = "authenticated, measured, session established"

        def turn(event: Event) -> None:
            if isinstance(event, BoundaryCalled) and event.name.startswith(_STREAM_CALLS):
                platform.listeners.remove(turn)
                ide = journal.turn("TSM", "IDE: six keys at both ends, K_SET_GO, stream Secure")
                ide.note = _features(platform.vmm.pci_tsm.stream_options)

        platform.listeners.append(turn)
        yield


def _features(options: StreamOptions) -> str:
    largest = 1 << max(options.aggregation)
    return ", ".join(["PCRC"] * options.pcrc + [f"up to {largest} TLPs a MAC"] * (largest > 1))


def bring_up(platform: Platform, journal: Journal, guest: Guest) -> AssignedInterface:
    """Take the guest's first function to RUN: enumerate, lock, attest, accept, start."""
    with journal.step("TVM", "enumerate the TDI") as step:
        function = guest.functions()[0]
        interface = AssignedInterface(guest.tvm, function)
        step.note = f"{function.address} in the guest, TEE-IO {'yes' if function.tee_io else 'no'}"
    with journal.step("TVM", "LOCK_INTERFACE: the TSM keeps the start nonce") as step:
        interface.lock(platform.now())
        step.note = f"bind session {interface.bind_session_id:#x}"
    with journal.step("TVM", "attest: certificates, VCA, measurements, report") as step:
        verdict = interface.attest(guest.verifier, TRUSTED_REGISTERS, platform.now())
        step.note = f"{verdict.decision.value}, {len(verdict.results)} rules"
    with journal.step("TVM", "accept MMIO and DMA, START_INTERFACE: RUN") as step:
        interface.accept(platform.now())
        step.note = f"{len(interface.ranges)} TEE ranges"
    return interface


def _work_trusted(
    platform: Platform,
    journal: Journal,
    guest: Guest,
    interface: AssignedInterface,
    cpu_clock: Callable[[], float] | None,
) -> DataPath:
    with journal.step("TVM", "work on private memory: T=1, IDE, no copies") as step:
        meter = CostMeter(cpu_clock or no_cpu_clock)
        driver, dma = guest.driver(interface.function, meter, interface=interface)
        correct = _compute(platform, guest, driver.run, forked(platform.entropy, "work"))
        driver.remove(platform.now())
        dma.close(platform.now())
    return _path("trusted", meter, step.events, cpu_clock is not None, correct)


def _work_as_today(
    platform: Platform,
    journal: Journal,
    guest: Guest,
    function: PciFunction,
    cpu_clock: Callable[[], float] | None,
) -> DataPath:
    with journal.step("TVM", "the same work as today: T=0, encrypt, copy out, copy in, decrypt") as step:
        meter = CostMeter(cpu_clock or no_cpu_clock)
        # As if agreed in the driver's own SPDM session with the device; how is outside this story.
        key = forked(platform.entropy, "driver session")(32)
        platform.use_session_key(function.address, key)
        driver, dma = guest.driver(guest.functions()[-1], meter, session=ProtectedSession(key))
        correct = _compute(platform, guest, driver.run, forked(platform.entropy, "work"))
        driver.remove(platform.now())
        dma.close(platform.now())
    return _path("bounce", meter, step.events, cpu_clock is not None, correct)


def _compute(platform: Platform, guest: Guest, run: Callable[..., None], entropy: Entropy) -> bool:
    """Let the device compute and check the result against our own; give whether it is right."""
    data = entropy(WORK_SIZE)
    source, result = guest.tvm.allocate(WORK_SIZE), guest.tvm.allocate(WORK_SIZE)
    source.write(0, data)
    run(Operation.SCALE_ADD, source.gpa, WORK_SIZE, result.gpa, platform.now(), scale=SCALE, addend=ADDEND)
    correct = result.read(0, WORK_SIZE) == scale_add(data)
    for region in (source, result):
        guest.tvm.free(region, platform.now())
    return correct


def _path(name: str, meter: CostMeter, events: list[Event], measured: bool, correct: bool) -> DataPath:
    tlps = [event for event in events if isinstance(event, TlpMoved)]
    return DataPath(name, meter.total, len(tlps), sum(tlp.size for tlp in tlps), measured, correct)
