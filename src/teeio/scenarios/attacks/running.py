"""Attacks by requests whose T bit does not fit: entry 55 of the catalogue."""

from __future__ import annotations

from teeio.accelerator_interface import BAR_SIZE, MAGIC, MEMORY_OFFSET, REGISTER_BAR
from teeio.device.configuration import Configuration
from teeio.device.device import Device
from teeio.guest.cost import CostMeter
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.memory import PhysicalMemory
from teeio.host.vmm.vfio import UnitKind
from teeio.pcie.capabilities.aer import Uncorrectable
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.mutants import NO_STATE_RULES
from teeio.scenarios.scenario import Outcome, Scenario, without
from teeio.scenarios.stage import SECRET, STREAM_ID, Stage, Work
from teeio.scenarios.trusted_life import no_cpu_clock

PLANTED = bytes.fromhex("bad0c0debad0c0de")


def _redirected_dma(platform: Platform, journal: Journal) -> Outcome:
    """Reach a TDI in RUN, and the memory it works on, with T=0."""
    stage = Stage(platform, journal)
    work, registers = stage.work, stage.vf.bars[0].address
    outcome = Outcome("reached for a running TDI's registers and for private memory with requests that have T=0")
    with stage.attack("VMM", "read and write the registers of the running TDI"):
        host = platform.root_complex.vmm
        seen = host.mmio_read(registers, 4)
        outcome.see(f"the VMM reads {seen.hex()} where the TVM's registers are", seen == b"\xff" * 4)
        window = work.interface.window(0, 0, BAR_SIZE)
        window.write(BAR_SIZE - 8, 8, 1, stage.now())
        _see_logged(stage.device, outcome)
        host.mmio_write(registers + BAR_SIZE - 8, PLANTED)
        kept = window.read(BAR_SIZE - 8, 8, stage.now()) == 1
        outcome.see("the VMM's write changed nothing that the TVM reads", kept)
    _unlocked_accomplice(stage, work, outcome)
    secret = bytearray()
    said = stage.refused(lambda: secret.extend(work.source.read(0, len(SECRET))))
    whole = secret == SECRET
    outcome.see(f"the TVM's secret is {'as it was' if whole else said or 'not what it was'}", whole)
    with journal.step("TVM", "go on working"):
        outcome.see("the TVM's next job is done", not stage.refused(work.copy))
    return outcome


def _unlocked_accomplice(stage: Stage, work: Work, outcome: Outcome) -> None:
    """Lead the DMA of a function that is not locked to the TVM's private page, with T=0 and with a T=1 that it may not set."""
    platform, vf = stage.platform, stage.pf.vfs[1]
    accomplice = platform.launch("accomplice", stage.vmm.vfio.unit(UnitKind.VF, vf.address))
    accomplice.driver(accomplice.functions()[0], CostMeter(no_cpu_clock))
    engine, iova = platform.device.bus_of(vf.address), next(iter(accomplice.machine.shared))
    with stage.attack("VMM", "lead an unlocked function's DMA to the TVM's private page"):
        accomplice.machine.domain.map(iova, work.host_address())
        read = bytearray()
        said = stage.refused(lambda: read.extend(engine.read(iova, 16)))
        outcome.see(f"the unlocked function reads {read.hex() or 'nothing'}: {said or 'done'}", not read)
        engine.write(iova, PLANTED)
    with stage.attack("device", "set T=1 for a function that is not in RUN"):
        reply = platform.device.port.dma_read(vf.function_id, work.source.gpa, 16, True, STREAM_ID)
        outcome.see(f"with T=1 it reads {reply.data.hex() or 'nothing'}: {reply.status.name}", not reply.ok)
    faults = [one for one in platform.root_complex.iommus[0].faults if one.requester_id == vf.function_id]
    for t_bit in (False, True):
        reasons = {one.reason.value for one in faults if one.t_bit is t_bit}
        outcome.see(f"the IOMMU logged with T={int(t_bit)}: {'; '.join(sorted(reasons)) or 'nothing'}", bool(reasons))


def _peer_dma(platform: Platform, journal: Journal) -> Outcome:
    """Reach for the registers of a TDI from another device below the same switch, which has no stream."""
    vmm, now = platform.vmm, platform.now
    with journal.step("VMM", "enumerate two devices below one switch, and connect the first one"):
        first, second = vmm.bus.enumerate()
        vmm.bus.enable_vfs(first, 1)
        vmm.pci_tsm.connect(first, now())
        second.command(bus_master=1)
    vf, engine = first.vfs[0], platform.devices[1].bus_of(second.address)
    tdi, registers = platform.device.tdi(vf.address), vf.bars[REGISTER_BAR].address
    outcome = Outcome("let another device below the same switch read and write a TDI's registers, with T=0")

    def reach(wanted: bytes) -> None:
        read = bytearray()
        with journal.step("device", "attack: another device reads the registers"):
            said = Stage.refused(lambda: read.extend(engine.read(registers, 4)))
        outcome.see(
            f"in {tdi.state.name} the other device reads {read.hex() or 'nothing'}: {said or 'done'}", read == wanted
        )

    reach(MAGIC.to_bytes(4, "little"))
    guest = platform.launch("TVM", vmm.vfio.unit(UnitKind.VF, vf.address))
    interface = guest.interface()
    with journal.step("TVM", "LOCK_INTERFACE, and attest"):
        interface.lock(now())
        interface.attest(guest.verifier, TRUSTED_REGISTERS, now())
    reach(b"")
    with journal.step("TVM", "accept and START_INTERFACE: RUN"):
        interface.accept(now())
    reach(b"")
    window = interface.window(REGISTER_BAR, MEMORY_OFFSET, 8)
    window.write(0, 8, 1, now())
    with journal.step("device", "attack: another device writes the device's memory"):
        engine.write(registers + MEMORY_OFFSET, PLANTED)
    outcome.see("its write changed nothing that the TVM reads", window.read(0, 8, now()) == 1)
    _see_logged(platform.device, outcome)
    outcome.tdi_states = journal.states(f"TDI {vf.address}")
    return outcome


def _see_logged(device: Device, outcome: Outcome) -> None:
    logged = device.port.aer is not None and device.port.aer.recorded(Uncorrectable.UNSUPPORTED_REQUEST)
    outcome.see(f"the device's Unsupported Request error bit is {int(logged)}", logged)


_SWITCHED = Configuration(vfs=1)

RUNNING = (
    Scenario(
        55,
        "redirected-dma",
        "the VMM reaches for a running TDI and its memory with T=0",
        "VMM",
        "run",
        "PCIe Base 11.2.1: T bit and state; T=0 DMA ends on shared memory only",
        _redirected_dma,
        (
            NO_STATE_RULES,
            without("the IOMMU's look at who owns a page", PhysicalMemory, "is_unencrypted", lambda *_: True),
        ),
    ),
    Scenario(
        55,
        "peer-dma",
        "the VMM lets another device below the same switch reach for a TDI's registers with T=0",
        "VMM",
        "locked, run",
        "PCIe Base 11.2.1: T bit and state, whoever the requester is",
        _peer_dma,
        (NO_STATE_RULES,),
        options={"configuration": _SWITCHED, "others": [_SWITCHED.another(1)], "switch": True},
    ),
)
