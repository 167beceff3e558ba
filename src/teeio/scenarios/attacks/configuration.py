"""Attacks on the configuration of a locked device: entry 48 of the catalogue."""

from __future__ import annotations

from collections.abc import Callable

from teeio.device.tdi import Tdi
from teeio.guest.driver import DeviceLost
from teeio.host.vmm.bus import PciFunction
from teeio.pcie.capabilities.ide import RID_ASSOCIATION_1
from teeio.pcie.capabilities.sriov import VF_BARS_AT, SriovCapability
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.scenario import Outcome, Scenario, nothing, without
from teeio.scenarios.stage import SECRET, Stage
from teeio.tdisp.messages import InterfaceState


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


def _other_registers(platform: Platform, journal: Journal) -> Outcome:
    """Change other registers that are locked with the TDI, one in each of its lives."""
    stage = Stage(platform, journal)
    interface, guest, vf, host = stage.running, stage.guest, stage.vf, platform.root_complex.vmm
    outcome = Outcome("changed registers other than BARs that are locked with the TDI, one in each of its lives")
    sriov = stage.pf.extended[SriovCapability.ID]

    def widen_stream() -> None:
        stream = stage.vmm.pci_tsm.connections[stage.pf.address].stream
        stage.pf.config.write(stream.base + RID_ASSOCIATION_1.offset, 4, 0xFFFF00)

    strikes: tuple[tuple[str, Callable[[], None]], ...] = (
        ("Bus Master Enable cleared", lambda: vf.command(bus_master=0)),
        (
            "VF Memory Space Enable cleared",
            lambda: stage.pf.config.set(SriovCapability.CONTROL, sriov, vf_memory_space=0),
        ),
        ("the stream's requester ids widened", widen_stream),
    )
    for case, strike in strikes:
        with stage.attack("VMM", case):
            strike()
            state = stage.state()
            outcome.see(f"{case}: the TDI is in {state.name}", state is InterfaceState.ERROR)
            read = host.mmio_read(vf.bars[0].address, 4)
            outcome.see(f"{case}: the VMM reads {read.hex()} where the registers are", read == b"\xff" * 4)
        known = interface.check(stage.now())
        outcome.see(f"{case}: the TVM learns that the interface is in {known.name}", known is not InterfaceState.RUN)
        with journal.step("TVM", "unlock, and begin anew with all the evidence"):
            stage.begin_anew(interface, guest)
    outcome.tdi_states = stage.tdi_states()
    return outcome


CONFIGURATION = (
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
        48,
        "config-change",
        "the VMM changes other registers of a locked device",
        "VMM",
        "locked, run",
        "PCIe Base 11.2.6: a change to the locked configuration moves the TDI to ERROR",
        _other_registers,
        (without("the device's tracking of what is locked", Tdi, "_written", nothing),),
    ),
)
