"""Attacks on the configuration of a locked device: entry 48 of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from teeio.device import tdi
from teeio.device.tdi import Tdi
from teeio.guest.accept import Phase
from teeio.guest.driver import TRUSTED_REGISTERS, DeviceLost
from teeio.host.vmm.bus import PciFunction
from teeio.pcie.capabilities.ide import RID_ASSOCIATION_1
from teeio.pcie.capabilities.msix import MsixCapability
from teeio.pcie.capabilities.sriov import VF_BARS_AT, SriovCapability
from teeio.pcie.registers import BitField, disturbs
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.rogue import Rogue
from teeio.scenarios.scenario import Outcome, Scenario, nothing, without
from teeio.scenarios.stage import SECRET, Stage
from teeio.tdisp import flows
from teeio.tdisp.messages import InterfaceState, LockFlags, RangeAttributes
from teeio.tdisp.tlp_rules import Target, target_of

PLANTED, OWN = bytes.fromhex("bad0c0de"), bytes.fromhex("07000000")

_MESSAGE_DATA = 8
"""Where an entry of an MSI-X table has the data of its message."""


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
    """Change other registers that are locked with the TDI, one in each of its lives; in the first it does not run yet."""
    stage = Stage(platform, journal)
    interface, guest, vf, host = stage.attested, stage.guest, stage.vf, platform.root_complex.vmm
    outcome = Outcome("changed registers other than BARs that are locked with the TDI, one in each of its lives")
    with stage.attack("VMM", "Bus Master Enable cleared between LOCK and START"):
        vf.command(bus_master=0)
        state = stage.state()
        outcome.see(f"in CONFIG_LOCKED: the TDI is in {state.name}", state is InterfaceState.ERROR)
        vf.command(bus_master=1)
    said = stage.refused(lambda: interface.accept(stage.now()))
    outcome.see(f"in CONFIG_LOCKED: the TVM accepts: {said or 'yes'}", bool(said))
    with journal.step("TVM", "begin anew with all the evidence"):
        if interface.phase is not Phase.UNLOCKED:
            interface.unlock(stage.now())
        interface.bring_up(guest.verifier, TRUSTED_REGISTERS, stage.now())
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


def _msix_change(platform: Platform, journal: Journal) -> Outcome:
    """Rewrite an MSI-X entry of an interface in RUN, and MSI-X Control: first not locked, as TDX Connect has it, then locked.

    No TSM of TDX Connect asks for LOCK_MSIX, so the lock that has it is made in a session of the VMM's own.
    """
    stage = Stage(platform, journal)
    work = stage.work
    outcome = Outcome(
        "rewrote an MSI-X entry and the function mask of an interface in RUN, not locked and locked with it"
    )
    with stage.attack("VMM", "rewrite an entry of a table that is not locked"):
        _see_rewritten(stage, outcome, "not locked", PLANTED, lands=True)
        _see_masked(stage, outcome, "not locked", InterfaceState.RUN)
    work.result.write(0, bytes(len(SECRET)))
    said = stage.refused(work.copy)
    whole = work.result.read(0, len(SECRET)) == SECRET
    outcome.see(f"not locked: the TVM's job without its interrupt: {said or 'done'}", not said and whole)
    work.leave()
    platform.shut_down(stage.guest)
    stage.vmm.pci_tsm.disconnect(stage.pf, stage.now())
    rogue = Rogue(stage)
    rogue.open_session()
    rogue.key_stream()
    _see_rewritten(stage, outcome, "before the lock", OWN, lands=True)
    nonce = rogue.lock(LockFlags.NO_FW_UPDATE | LockFlags.LOCK_MSIX)
    with stage.attack("VMM", "rewrite an entry of a locked table"):
        _see_rewritten(stage, outcome, "locked", PLANTED, lands=False)
        rogue.inside(flows.start_interface(stage.vf.function_id, nonce))
        _see_rewritten(stage, outcome, "locked, in RUN", PLANTED, lands=False)
        _see_masked(stage, outcome, "locked", InterfaceState.ERROR)
        _see_rewritten(stage, outcome, "in ERROR", PLANTED, lands=False)
    outcome.tdi_states = stage.tdi_states()
    return outcome


def _see_rewritten(stage: Stage, outcome: Outcome, case: str, data: bytes, *, lands: bool) -> None:
    """Rewrite the data of the first entry with T=0, and look at what the device and the VMM have there then."""
    msix, host = stage.device.tdi(stage.vf.address).function.msix, stage.platform.root_complex.vmm
    before = msix.table.message(0)
    at = stage.vf.bars[msix.bar].address + msix.table_offset + _MESSAGE_DATA
    host.mmio_write(at, data)
    read, after = host.mmio_read(at, len(data)), msix.table.message(0)
    wanted = data if lands else b"\xff" * len(data)
    outcome.see(f"{case}: the VMM writes {data.hex()} to the table and reads {read.hex()}", read == wanted)
    kept = f"{before.data:#x}, as before" if after == before else f"{after.data:#x}"
    outcome.see(f"{case}: the device's message is {kept}", (after == before) is not lands)


def _see_masked(stage: Stage, outcome: Outcome, case: str, wanted: InterfaceState) -> None:
    """Mask the whole function in MSI-X Message Control, and look where that leads the TDI."""
    at = stage.vf.capabilities[MsixCapability.ID]
    stage.vf.config.set(MsixCapability.CONTROL, at, function_mask=1)
    state = stage.state()
    outcome.see(f"{case}: with Function Mask set the TDI is in {state.name}", state is wanted)


def _open_table(attributes: RangeAttributes) -> Target:
    """Take the pages of a locked MSI-X table for anybody's."""
    msix = attributes & (RangeAttributes.MSIX_TABLE | RangeAttributes.MSIX_PBA)
    return Target.NON_TEE if msix else target_of(attributes)


def _unlocked_control(*changed: Any, msix_locked: bool, **others: Any) -> list[BitField]:
    """Judge a change as if no MSI-X table were locked."""
    return disturbs(*changed, msix_locked=False, **others)


def _tracks_in_run(self: Tdi, *changed: Any) -> None:
    """Track changes in RUN only."""
    if self.state is InterfaceState.RUN:
        _written(self, *changed)


_written = Tdi._written
_NO_TRACKING = without("the device's tracking of what is locked", Tdi, "_written", nothing)

CONFIGURATION = (
    Scenario(
        48,
        "bar-move",
        "the VMM moves a BAR of a locked device",
        "VMM",
        "run",
        "PCIe Base 11.2.6: a change to the locked configuration moves the TDI to ERROR",
        _bar_move,
        (_NO_TRACKING,),
    ),
    Scenario(
        48,
        "config-change",
        "the VMM changes other registers of a locked device",
        "VMM",
        "locked, run",
        "PCIe Base 11.2.6: a change to the locked configuration moves the TDI to ERROR",
        _other_registers,
        (_NO_TRACKING, without("the device's tracking before it runs", Tdi, "_written", _tracks_in_run)),
    ),
    Scenario(
        48,
        "msix-change",
        "the VMM rewrites an MSI-X entry of a running interface, and masks its interrupts",
        "VMM",
        "locked, run",
        "PCIe Base 11.2.1, 11.2.6: a locked MSI-X table is the TVM's, and MSI-X Control is locked with it; one that is not is the host's",
        _msix_change,
        (
            without("the device's protection of a locked table", tdi, "target_of", _open_table),
            without("the rule that MSI-X Control is locked with the table", tdi, "disturbs", _unlocked_control),
        ),
    ),
)
