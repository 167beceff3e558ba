"""Attacks between lock and start: entries 49 and 50 of the catalogue."""

from __future__ import annotations

from dataclasses import replace

from teeio.abi import Result
from teeio.abi.operands import DevifOperation, LockParameters
from teeio.abi.tdcalls import TdgDevifValidate
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.tdx.interface import Devif
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.rogue import Rogue
from teeio.scenarios.scenario import Mutant, Outcome, Removed, Scenario, nothing, without
from teeio.scenarios.stage import Stage
from teeio.tdisp import flows, interface
from teeio.tdisp.interface import Interface
from teeio.tdisp.messages import InterfaceState, LockFlags, MessageType
from teeio.tdisp.states import REQUEST_RULES

PLANTED = bytes.fromhex("bad0c0de")


def _relock(platform: Platform, journal: Journal) -> Outcome:
    """Unlock, change the device, and lock again between the evidence and its acceptance, at once and at the last moment.

    The TVM looks for itself before it accepts anything, so the VMM's better time is between this look and TDG.DEVIF.VALIDATE.
    """
    stage = Stage(platform, journal)
    interface, tsm = stage.attested, stage.guest.tvm.tsm
    outcome = Outcome("stopped the attested TDI, wrote its memory, and locked it again before the TVM accepted it")
    _lock_again(stage, outcome)
    said = stage.refused(lambda: stage.running)
    outcome.see(f"before the TVM looks: {said or 'accepted'}", bool(said))
    interface.lock(stage.now())
    interface.attest(stage.guest.verifier, TRUSTED_REGISTERS, stage.now())
    honest = tsm.tdg_devif_validate

    def interrupted(call: TdgDevifValidate) -> Result[None]:
        _lock_again(stage, outcome)
        return honest(call)

    evidence_of = interface.bind_session_id
    with stage.instead(tsm, honest.__name__, interrupted):
        said = stage.refused(lambda: interface.accept(stage.now()))
    outcome.see(f"after it has looked, under lock {evidence_of:#x}: {said or 'accepted'}", "BIND_SESSION" in said)
    outcome.tdi_states = stage.tdi_states()
    outcome.see("the TDI never ran", "RUN" not in outcome.tdi_states)
    return outcome


def _lock_again(stage: Stage, outcome: Outcome) -> None:
    host, vf, guest_req = stage.platform.root_complex.vmm, stage.vf, stage.vmm.pci_tsm.guest_req
    with stage.attack("VMM", "STOP, plant bytes in the device, LOCK again"):
        lock = stage.tsm.records.devif(vf.function_id).lock
        parameters = LockParameters(int(LockFlags.NO_FW_UPDATE), lock.mmio_reporting_offset if lock else 0)
        guest_req(vf, DevifOperation.STOP, stage.now())
        memory = vf.bars[0].address + vf.bars[0].size // 2
        host.mmio_write(memory, PLANTED)
        read = host.mmio_read(memory, len(PLANTED))
        outcome.see(f"unlocked, the VMM writes the device, and reads back {read.hex()}", read == PLANTED)
        guest_req(vf, DevifOperation.LOCK, stage.now(), parameters)
        read = host.mmio_read(memory, len(PLANTED))
        outcome.see(f"in {stage.state().name} the VMM reads {read.hex()}", read == b"\xff" * len(PLANTED))


def _nonce_replay(platform: Platform, journal: Journal) -> Outcome:
    """Start the first lock twice, and a second lock with the nonce of the first."""
    stage = Stage(platform, journal)
    function_id = stage.vf.function_id
    rogue = Rogue(stage)
    rogue.open_session()
    rogue.key_stream()
    outcome = Outcome("started a TDI twice with one START_INTERFACE_NONCE, and with the one of an earlier lock")
    first = rogue.lock()
    rogue.inside(flows.start_interface(function_id, first))
    with stage.attack("VMM", "START_INTERFACE in RUN, with the nonce that is spent"):
        said = stage.refused(lambda: rogue.inside(flows.start_interface(function_id, first)))
        outcome.see(f"the first lock started twice: {said or 'started'}", "INVALID_INTERFACE_STATE" in said)
        outcome.see(f"the TDI is in {stage.state().name}", stage.state() is InterfaceState.RUN)
    rogue.inside(flows.stop_interface(function_id))
    second = rogue.lock()
    differ = f"the nonces of two locks differ: {first[:4].hex()}... and {second[:4].hex()}..."
    outcome.see(differ, first != second)
    with stage.attack("VMM", "START_INTERFACE with the first lock's nonce"):
        said = stage.refused(lambda: rogue.inside(flows.start_interface(function_id, first)))
        outcome.see(f"the device: {said or 'started'}", "INVALID_NONCE" in said)
        outcome.see(f"the TDI is in {stage.state().name}", stage.state() is InterfaceState.CONFIG_LOCKED)
    outcome.tdi_states = stage.tdi_states()
    return outcome


def _start_again(self: Interface, session_id: int, nonce: bytes) -> None:
    """Start with a nonce that is not spent by it."""
    self.admit(MessageType.START_INTERFACE_REQUEST, session_id)
    self.check_nonce(nonce)
    self._enter(InterfaceState.RUN, "START_INTERFACE_REQUEST")


_START = REQUEST_RULES[MessageType.START_INTERFACE_REQUEST]
_START_IN_RUN = {**REQUEST_RULES, _START.request: replace(_START, legal=_START.legal | {InterfaceState.RUN})}

STARTING = (
    Scenario(
        49,
        "relock",
        "the VMM unlocks and locks a TDI again between evidence and acceptance",
        "VMM",
        "accept",
        "PCIe Base 11.3.9: the nonce is of one lock; TDX Connect: evidence is tied to start by the bind session id",
        _relock,
        (without("the TSM's comparison of bind session ids", Devif, "check_bind_session", nothing),),
    ),
    Scenario(
        50,
        "nonce-replay",
        "the VMM starts a TDI with a nonce that is spent, and with that of an earlier lock",
        "VMM",
        "start",
        "PCIe Base 11.3.14: the nonce must be the one of this lock, and is spent by use",
        _nonce_replay,
        (
            without("the device's comparison of nonces", Interface, "check_nonce", nothing),
            Mutant(
                "the rule that START is illegal in RUN, and the spending of the nonce",
                (Removed(interface, "REQUEST_RULES", _START_IN_RUN), Removed(Interface, "start", _start_again)),
            ),
        ),
    ),
)
