"""The whole system assembled: devices on links, the host with its TSM and VMM, and the TVMs that run on it.

device, host and guest meet only here. Randomness and time come from outside: `Platform.assemble(seed=N)` gives a platform whose
every byte repeats, `Platform.assemble()` one with the system's randomness and clock handed in by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf

from teeio.abi.operands import NO_OPTIONS, PAGE_SIZE, StreamOptions
from teeio.attestation import Expectations, NonceRegistry, Policy, Profile, ReferenceValues
from teeio.crypto.algorithms import MeasurementHash
from teeio.crypto.entropy import Entropy, SeededEntropy, system_entropy
from teeio.device.configuration import Configuration, expect_distinct
from teeio.device.device import Device
from teeio.device.identity import Manufacturer, measured
from teeio.device.models.accelerator import Accelerator
from teeio.errors import Misuse, TeeioError, TransportError
from teeio.guest.accept import AssignedInterface
from teeio.guest.attest import Verifier
from teeio.guest.cost import CostMeter
from teeio.guest.dma import DmaInterface, ProtectedSession, dma_for
from teeio.guest.driver import AcceleratorDriver
from teeio.guest.pci import PciFunction, enumerate_functions
from teeio.guest.tvm import Tvm
from teeio.host.iommu import Iommu
from teeio.host.memory import PhysicalMemory
from teeio.host.root_complex import RootComplex
from teeio.host.tdx.module import TdxModule
from teeio.host.tdx.tpa import TPA_SETTINGS
from teeio.host.vmm.bus import PciFunction as PciHostFunction
from teeio.host.vmm.kvm import GuestMachine
from teeio.host.vmm.vfio import Unit
from teeio.host.vmm.vmm import Vmm
from teeio.observe import Audience, Event, MessageMoved, Observer, SecretDerived, StateChanged, ignore
from teeio.pcie.address import AddressRange, Bdf
from teeio.pcie.link import Link, join
from teeio.pcie.link_rules import CLOSED, LinkRules
from teeio.pcie.ports import RootPort
from teeio.pcie.switch import Switch, SwitchPort
from teeio.spdm.device_state import DeviceMeasurements
from teeio.spdm.state import Settings
from teeio.tdisp.messages import LockFlags

SEEDED_EPOCH = 1_767_225_600.0
"""The time at which seeded platforms begin: 2026-01-01 00:00 UTC."""

TICK = 1e-3
"""Seconds between two readings of a seeded platform's clock."""

MEMORY_SIZE = 64 << 20
TVM_MEMORY_SIZE = 16 << 20
ROOT_PORT = Bdf(0, 0, 1, 0)
"""The first device's root port; those of further devices follow it."""

KERNEL = b"the TVM's kernel image"


def _mark(index: int) -> str:
    """Tell further devices from the first."""
    return f" {index + 1}" if index else ""


class VirtualClock:
    """A clock that moves by `TICK` whenever it is read: the same run reads the same times."""

    def __init__(self, start: float = SEEDED_EPOCH) -> None:
        self._now = start

    def __call__(self) -> float:
        """Give the time in seconds since 1970 UTC."""
        self._now += TICK
        return self._now


def forked(entropy: Entropy, name: str) -> Entropy:
    """Give one actor its own stream of a seeded entropy, so that no actor's draws shift another's."""
    return entropy.fork(name) if isinstance(entropy, SeededEntropy) else entropy


@dataclass(slots=True)
class Guest:
    """A TVM with what its owner knows: how to reach it from outside, and what it accepts of devices."""

    tvm: Tvm
    machine: GuestMachine
    verifier: Verifier
    clock: Callable[[], float]
    unit: Unit | None = None

    def functions(self) -> list[PciFunction]:
        """Enumerate the PCI functions that the VMM shows the TVM."""
        return enumerate_functions(self.tvm, self.clock())

    def interface(self) -> AssignedInterface:
        """Give the one function that is assigned to the TVM, not accepted yet. Raises `Misuse` if there is not one."""
        found = self.functions()
        if len(found) != 1:
            raise Misuse(f"the TVM sees {len(found)} functions", remedy="assign it one")
        return AssignedInterface(self.tvm, found[0])

    def driver(
        self,
        function: PciFunction,
        meter: CostMeter,
        *,
        interface: AssignedInterface | None = None,
        session: ProtectedSession | None = None,
        dma: DmaInterface | None = None,
    ) -> tuple[AcceleratorDriver, DmaInterface]:
        """Probe the accelerator's driver: on `dma`, or on private memory for an accepted interface, else on bounce buffers."""
        dma = dma or dma_for(self.tvm, interface, meter, self.clock(), session=session)
        driver = AcceleratorDriver(self.tvm, function, dma, meter, interface=interface)
        driver.probe(self.clock())
        return driver, dma


@dataclass(slots=True)
class Platform:
    """One host with its devices: each below a root port of its own by its own link, or all below one switch.

    `listeners` may be added to at any time.
    """

    entropy: Entropy
    clock: Callable[[], float]
    manufacturer: Manufacturer
    memory: PhysicalMemory
    root_complex: RootComplex
    devices: list[Device]
    links: list[Link]
    module: TdxModule
    vmm: Vmm
    observer: Observer
    listeners: list[Observer]
    switch: Switch | None = None
    """The switch above all devices; their links are then those below it."""
    uplink: Link | None = None
    """The link between root port and switch."""
    profile: Profile = Profile.TDX
    """What its TSM insists on."""
    waited: float = 0.0
    """Seconds that were waited for somebody, by which the platform's time is ahead of its clock."""

    @classmethod
    def assemble(
        cls,
        *,
        seed: int | None = None,
        clock: Callable[[], float] | None = None,
        configuration: Configuration | None = None,
        others: Sequence[Configuration] = (),
        iommus: int = 1,
        memory_size: int = MEMORY_SIZE,
        switch: bool = False,
        flit_mode: bool = False,
        peer_to_peer: bool = False,
        stream_options: StreamOptions = NO_OPTIONS,
        link_rules: LinkRules = CLOSED,
        tsm_settings: Settings = TPA_SETTINGS,
        observer: Observer = ignore,
    ) -> Platform:
        """Build a platform that is powered on and does nothing yet.

        `configuration` is how the first device is built, `others` are further devices, certified by the same
        manufacturer. The root ports are dealt out to the IOMMUs in turn. With `switch` all devices are below one switch
        and one root port; with `flit_mode` all links are in Flit Mode. With `peer_to_peer` the TSM has this model's
        own profile of that name, and the VMM locks interfaces for it. `stream_options` are what the VMM
        sets IDE streams to. `link_rules` says which gaps of the published
        specifications are closed, `tsm_settings` what the TSM offers in SPDM. With `seed` all randomness and the clock
        repeat; without it `clock` (seconds since 1970 UTC) must be given.
        """
        if seed is None and clock is None:
            raise Misuse("a platform without a seed needs a clock", remedy="give seed=1 or clock=time.time")
        entropy: Entropy = system_entropy if seed is None else SeededEntropy(str(seed).encode())
        clock = clock or VirtualClock()
        told = Audience(observer)

        def told_by_device(event: Event) -> None:
            # The TPA tells of the session, its messages and secrets; the DSM would tell of each again.
            session = isinstance(event, StateChanged) and event.subject.startswith("session")
            if not session and not isinstance(event, MessageMoved | SecretDerived):
                told(event)

        configurations = [
            replace(one, flit_mode=flit_mode or one.flit_mode) for one in (configuration or Configuration(), *others)
        ]
        expect_distinct(configurations)
        made = configurations[0].manufacture.info
        manufacturer = Manufacturer.found(made, forked(entropy, "manufacturer"), clock())
        memory = PhysicalMemory(memory_size, forked(entropy, "memory"), told)
        units = {number: Iommu(f"IOMMU {number}", memory, told) for number in range(iommus)}
        root_complex = RootComplex(memory, units, told)
        ports = [
            root_complex.add_root_port(
                Bdf(ROOT_PORT.segment, ROOT_PORT.bus, ROOT_PORT.device + index, 0),
                index % iommus,
                name=f"root port{_mark(index)}",
                rules=link_rules,
                flit_mode=flit_mode,
            )
            for index in range(1 if switch else len(configurations))
        ]
        tops: Sequence[RootPort | SwitchPort] = ports
        made_switch, uplink = None, None
        if switch:
            made_switch = Switch(max(2, len(configurations)), observer=told, rules=link_rules, flit_mode=flit_mode)
            uplink = join(ports[0], made_switch.upstream, observer=told)
            tops = made_switch.downstream
        devices, links = [], []
        for index, (built, top) in enumerate(zip(configurations, tops, strict=False)):
            device = Device(
                # Until the host numbers it: a switch takes two buses of its own.
                replace(built, address=replace(built.address, bus=built.address.bus + 2)) if switch else built,
                forked(entropy, f"device{_mark(index)}"),
                clock(),
                manufacturer=manufacturer,
                observer=told_by_device,
                link_rules=link_rules,
            )
            devices.append(device)
            links.append(join(top, device.port, observer=told))
        module = TdxModule(
            memory,
            root_complex,
            forked(entropy, "TSM"),
            settings=tsm_settings,
            rules=link_rules,
            peer_to_peer=peer_to_peer,
            observer=told,
        )
        flags = LockFlags.NO_FW_UPDATE | (LockFlags.BIND_P2P if peer_to_peer else LockFlags.NONE)
        vmm = Vmm(module, root_complex.vmm, memory.vmm, module.shared_ept, lock_flags=flags, observer=told)
        platform = cls(
            entropy,
            clock,
            manufacturer,
            memory,
            root_complex,
            devices,
            links,
            module,
            vmm,
            told,
            told.listeners,
            made_switch,
            uplink,
            Profile.PEERS if peer_to_peer else Profile.TDX,
        )
        vmm.pci_tsm.wait = platform.wait
        vmm.pci_tsm.stream_options = stream_options
        return platform

    @property
    def device(self) -> Device:
        """The first device."""
        return self.devices[0]

    @property
    def link(self) -> Link:
        """The first device's link."""
        return self.links[0]

    @property
    def configuration(self) -> Configuration:
        """How the first device is built."""
        return self.device.configuration

    def device_of(self, function: PciHostFunction) -> Device:
        """Give the device that the VMM has found a function of."""
        found = next((device for device in self.devices if function.address in device.present()), None)
        if found is None:
            raise TransportError(f"there is no function {function.address} any more", remedy="was its device reset?")
        return found

    def now(self) -> float:
        """Read the time in seconds since 1970 UTC; the devices' time goes on with it."""
        at = self.clock() + self.waited
        for device in self.devices:
            device.advance(at)
        return at

    def wait(self, until: float, *, heartbeats: bool = True) -> float:
        """Let time pass until then, for all devices and the VMM's timer; gives the time that it is then.

        The VMM keeps the sessions alive meanwhile, unless it sends no `heartbeats`. Nobody at the clock waits for it.
        """
        due = self.vmm.keep_alive(self.now()) if heartbeats else inf
        while due < until:
            self._pass(due)
            due = self.vmm.keep_alive(max(due, self.now()))
        self._pass(until)
        return max(until, self.now())

    def _pass(self, until: float) -> None:
        self.waited += max(0.0, until - self.now())

    def work(self) -> bool:
        """Let every device do what it has accepted; False if there was nothing to do."""
        worked = [device.work() for device in self.devices]
        return any(worked)

    def launch(
        self,
        name: str = "TVM",
        unit: Unit | None = None,
        *,
        memory_size: int = TVM_MEMORY_SIZE,
        huge_pages: bool = False,
    ) -> Guest:
        """Create a TVM, assign it a unit of a device if one is given, and boot it. What fails is undone.

        Its verifier is for that device.

        With `huge_pages` its memory comes in pages of 2 MiB where it can, which is much sooner; what it shares of them is split.
        """
        machine = self.vmm.kvm.create(name, memory_size, {0: KERNEL}, huge_pages=huge_pages)
        try:
            return self._boot(machine, unit)
        except BaseException:
            with suppress(TeeioError):
                self.vmm.kvm.destroy(machine, self.now())
            raise

    def _boot(self, machine: GuestMachine, unit: Unit | None) -> Guest:
        if unit is not None:
            self.vmm.kvm.assign(machine, unit)
        name, memory_size, huge_pages = machine.name, machine.memory_size, machine.huge_pages
        tvm = Tvm(
            self.module.guest(machine.tdr),
            self.vmm.hypercalls(machine),
            self.module.processor(machine.tdr),
            forked(self.entropy, name),
            AddressRange(0, memory_size),
            initial=[AddressRange(0, PAGE_SIZE)],
            huge_pages=huge_pages,
            halt=self.work,
            wait=self.wait,
            observer=self.observer,
        )
        machine.on_interrupt = tvm.interrupts.deliver
        tvm.boot()
        device = self.device if unit is None else self.device_of(unit.function)
        return Guest(tvm, machine, self.verifier(tvm.entropy, device), self.now, unit)

    def shut_down(self, guest: Guest) -> None:
        """End a TVM; its memory and what was assigned to it go back to the VMM."""
        self.vmm.kvm.destroy(guest.machine, self.now())

    def accelerator(self, function: Bdf) -> Accelerator:
        """Give the accelerator behind a function. Raises `Misuse` if it is none."""
        model = next(found.model for one in self.devices for found in one.tdis if one.address_of(found) == function)
        if not isinstance(model, Accelerator):
            raise Misuse(f"{function} is no accelerator")
        return model

    def use_session_key(self, function: Bdf, key: bytes) -> None:
        """Give an accelerator function the key that it shares with its driver for protected transfers.

        How driver and device agree on it (in practice in an SPDM session of their own) is outside the model.
        """
        self.accelerator(function).use_session_key(key)

    def verifier(self, entropy: Entropy, device: Device | None = None) -> Verifier:
        """Give what the owner of a TVM accepts: one device, the first if none is named, with its firmware, locked as TDX wants it.

        Anchors, revocation lists and reference values are the manufacturer's publications, not the device's word.
        """
        manufacture = (device or self.device).configuration.manufacture
        blocks = DeviceMeasurements(measured(manufacture)).blocks(MeasurementHash.SHA_384)
        return Verifier(
            Policy(self.profile),
            ReferenceValues.of_blocks(blocks, MeasurementHash.SHA_384, minimum_svn=manufacture.firmware.svn),
            Expectations(
                anchors=self.manufacturer.roots,
                # The verifier's `now` is seconds since 1970 already.
                at_time=0.0,
                nonces=NonceRegistry(entropy),
                bind_session_id=0,
                device=manufacture.info,
                pci=manufacture.pci,
                revocation_lists=self.manufacturer.revocation_lists(self.now()),
            ),
        )
