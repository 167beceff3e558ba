"""Attacks on an interface in RUN: entries 48, 55 and 56 of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from teeio.abi.operands import PAGE_SIZE
from teeio.accelerator_interface import BAR_SIZE, Operation
from teeio.device.tdi import Tdi
from teeio.guest.accept import AssignedInterface
from teeio.guest.cost import CostMeter
from teeio.guest.driver import TRUSTED_REGISTERS, DeviceLost
from teeio.host.iommu import FaultReason
from teeio.host.memory import PhysicalMemory
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.vfio import UnitKind
from teeio.pcie.capabilities.sriov import VF_BARS_AT, SriovCapability
from teeio.platform import Guest, Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.mutants import NO_STATE_RULES
from teeio.scenarios.scenario import Outcome, Scenario, nothing, without
from teeio.scenarios.stage import SECRET, Stage, Work
from teeio.scenarios.trusted_life import no_cpu_clock
from teeio.tdisp.interface import Interface
from teeio.tdisp.messages import InterfaceState

PLANTED = bytes.fromhex("bad0c0debad0c0de")


def _bar_move(platform: Platform, journal: Journal) -> Outcome:
    """Move a BAR of a TDI in RUN.

    The move itself completes, as a configuration write does. It takes the TDI out of RUN, so the TVM's private memory and
    the device's registers are out of reach for everybody until the TVM has locked and attested anew.
    """
    stage = Stage(platform, journal, vfs=4)
    pf, vf, work = stage.pf, stage.vf, stage.work
    outcome = Outcome(f"moved BAR 0 of the VFs of {pf.address} in the SR-IOV capability while {vf.address} was in RUN")
    with stage.attack("VMM", "move BAR 0 of the locked VF"):
        moved = _move_vf_bar(pf)
        outcome.see(f"the configuration write completed: BAR 0 reads back {moved:#x}", moved != vf.bars[0].address)
    with journal.step("TVM", "notice, and stop using the device") as step:
        noticed = "nothing"
        try:
            work.copy()
        except DeviceLost as lost:
            noticed = str(lost)
        step.note = noticed
        outcome.see(f"the TVM's next job failed: {noticed}", "ERROR" in noticed)
    with journal.step("VMM", "look for the secret in memory and in the device"):
        outcome.see("the secret is nowhere in the memory that the VMM reads", not stage.the_vmm_reads(SECRET[:16]))
        registers = platform.root_complex.vmm.mmio_read(moved, 4)
        seen = f"the VMM's read of the device's registers gives {registers.hex()}"
        outcome.see(seen, registers == b"\xff" * 4)
    outcome.tdi_states = stage.tdi_states()
    outcome.see(f"the TDI's states were {' > '.join(outcome.tdi_states)}", outcome.tdi_states[-2:] == ["RUN", "ERROR"])
    return outcome


def _move_vf_bar(pf: PciFunction) -> int:
    """Rewrite BAR 0 of the VFs, as the VMM may; give what it reads back."""
    at = pf.extended[SriovCapability.ID] + VF_BARS_AT
    address = pf.vf_bars[0].address ^ 1 << 32
    pf.config.write(at, 4, address & 0xFFFF_FFFF)
    pf.config.write(at + 4, 4, address >> 32)
    return (pf.config.read(at, 4) & ~0xF) | pf.config.read(at + 4, 4) << 32


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
    accomplice = platform.launch("accomplice", stage.vmm.vfio.unit(UnitKind.VF, stage.pf.vfs[1].address))
    driver, _ = accomplice.driver(accomplice.functions()[0], CostMeter(no_cpu_clock))
    with stage.attack("VMM", "lead an unlocked function's DMA to the TVM's private page"):
        domain, secret = accomplice.machine.domain, work.host_address()
        buffers = [accomplice.tvm.allocate(PAGE_SIZE) for _ in range(2)]
        for iova in list(accomplice.machine.shared):
            domain.map(iova, secret)
        said = stage.refused(lambda: driver.run(Operation.COPY, buffers[0].gpa, PAGE_SIZE, buffers[1].gpa, stage.now()))
        outcome.see(f"the accomplice's job: {said or 'done'}", bool(said))
        faults = {fault.reason for fault in platform.root_complex.iommus[0].faults}
        logged = FaultReason.PRIVATE_MEMORY in faults
        outcome.see(f"the IOMMU logged: {', '.join(sorted(one.value for one in faults)) or 'nothing'}", logged)
        outcome.see("the accomplice has nothing of the secret", SECRET[:16] not in buffers[1].read(0, PAGE_SIZE))
    untouched = work.source.read(0, len(SECRET)) == SECRET
    outcome.see("the TVM's secret is as it was", untouched)
    with journal.step("TVM", "go on working"):
        outcome.see("the TVM's next job is done", not stage.refused(work.copy))
    return outcome


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
            _recover(stage, interface, guest)
            outcome.see(f"{case}: after a whole new life the TDI is in RUN", stage.state() is InterfaceState.RUN)
    with stage.attack("VMM", "update the firmware of the running device"):
        firmware = replace(platform.configuration.manufacture.firmware, svn=0)
        outcome.see("the device refuses it while the TDI is locked", not stage.device.update_firmware(firmware))
    interface.unlock(stage.now())
    outcome.see("unlocked, it takes it", stage.device.update_firmware(firmware))
    said = stage.refused(lambda: interface.bring_up(guest.verifier, TRUSTED_REGISTERS, stage.now()))
    outcome.see(f"the TVM: {said.splitlines()[0] if said else 'accepted it'}", "not accepted" in said)
    outcome.tdi_states = stage.tdi_states()
    return outcome


def _replug(stage: Stage) -> None:
    stage.link.fail()
    stage.link.restore()


def _recover(stage: Stage, interface: AssignedInterface, guest: Guest) -> None:
    """Give the interface back, connect the device anew if its session is gone, and bring the interface up."""
    interface.unlock(stage.now())
    stage.vmm.pci_tsm.disconnect(stage.pf, stage.now())
    stage.vmm.vfio.reset(stage.pf)
    stage.vmm.pci_tsm.connect(stage.pf, stage.now())
    interface.bring_up(guest.verifier, TRUSTED_REGISTERS, stage.now())


RUNNING = (
    Scenario(
        48,
        "bar-move",
        "the VMM moves a BAR of a locked device",
        "VMM",
        "locked, run",
        "PCIe Base 11.2.6: a change to the locked configuration moves the TDI to ERROR",
        _bar_move,
        (without("the device's tracking of what is locked", Tdi, "_written", nothing),),
    ),
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
        (without("the device's way to ERROR on a reset", Interface, "happen", nothing),),
    ),
)
