"""Attacks on an interface in RUN: entries 55 and 56 of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from teeio.accelerator_interface import BAR_SIZE
from teeio.device.device import Device
from teeio.device.identity import Firmware
from teeio.guest.cost import CostMeter
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.memory import PhysicalMemory
from teeio.host.vmm.vfio import UnitKind
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.mutants import NO_STATE_RULES
from teeio.scenarios.scenario import Mutant, Outcome, Scenario, without
from teeio.scenarios.stage import SECRET, STREAM_ID, Stage, Work
from teeio.scenarios.trusted_life import no_cpu_clock
from teeio.tdisp.interface import Interface
from teeio.tdisp.messages import InterfaceState
from teeio.tdisp.states import Event

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


def _surprise_reset(platform: Platform, journal: Journal) -> Outcome:
    """Reset, unplug and change the device under a TVM, and look whether anything but a whole new life revives it."""
    stage = Stage(platform, journal)
    outcome = Outcome("reset and unplugged a device in RUN, and hoped that the TVM goes on with what comes back")
    interface, guest = stage.running, stage.guest
    strikes: tuple[tuple[str, Callable[[], None]], ...] = (
        ("function level reset of the VF", lambda: stage.vmm.vfio.reset(stage.vf)),
        ("function level reset of the PF", lambda: stage.vmm.vfio.reset(stage.pf)),
        ("link down and up again", lambda: _replug(stage)),
    )
    for case, strike in strikes:
        work = Work(stage, guest, interface)
        with stage.attack("VMM", case):
            strike()
            outcome.see(f"{case}: the TDI is in {stage.state().name}", stage.state() is not InterfaceState.RUN)
        said = stage.refused(work.copy)
        outcome.see(f"{case}: the TVM's job: {said or 'done'}", bool(said))
        work.leave()
        said = stage.refused(lambda: interface.accept(stage.now()))
        outcome.see(f"{case}: accepted again without evidence: {said or 'yes'}", bool(said))
        with journal.step("TVM", "unlock, and begin anew with all the evidence"):
            stage.begin_anew(interface, guest)
            outcome.see(f"{case}: after a whole new life the TDI is in RUN", stage.state() is InterfaceState.RUN)
    with stage.attack("VMM", "update the firmware of the running device"):
        firmware = replace(platform.configuration.manufacture.firmware, svn=0)
        taken = stage.device.update_firmware(firmware)
        outcome.see(f"the device {'takes' if taken else 'refuses'} it while the TDI is locked", not taken)
    interface.unlock(stage.now())
    outcome.see("unlocked, it takes it", stage.device.update_firmware(firmware))
    said = stage.refused(lambda: interface.bring_up(guest.verifier, TRUSTED_REGISTERS, stage.now()))
    outcome.see(f"the TVM: {said.splitlines()[0] if said else 'accepted it'}", "not accepted" in said)
    outcome.tdi_states = stage.tdi_states()
    return outcome


def _replug(stage: Stage) -> None:
    stage.link.fail()
    stage.link.restore()


_hears = Interface.happen


def _deaf(what: str, *events: Event) -> Mutant:
    """Make the mutant whose TDIs go on after these events."""

    def happen(self: Interface, event: Event) -> None:
        if event not in events:
            _hears(self, event)

    return without(f"the TDI's way to ERROR on {what}", Interface, "happen", happen)


def _any_firmware(self: Device, firmware: Firmware) -> bool:
    """Run other firmware whatever is locked."""
    self.runs.run(firmware)
    return True


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
        56,
        "surprise-reset",
        "the VMM resets, unplugs and changes a device in RUN",
        "VMM",
        "run",
        "PCIe Base 11.4.8, 11.4.9: out of RUN; only new evidence under a new lock leads back",
        _surprise_reset,
        (
            _deaf("a function level reset, and the registers that it resets", Event.FLR, Event.CONFIG_CHANGED),
            _deaf("a lost stream or session", Event.STREAM_INSECURE, Event.SESSION_ENDED, Event.CONVENTIONAL_RESET),
            without("NO_FW_UPDATE", Device, "update_firmware", _any_firmware),
        ),
    ),
)
