"""Attacks on the keys of IDE streams: entries 36 to 39 of the catalogue."""

from __future__ import annotations

import copy
from typing import Any

from teeio.errors import ErrorResponse
from teeio.flow import Flow
from teeio.ide_km import flows as ide_km
from teeio.ide_km import responder
from teeio.ide_km.messages import (
    INITIAL_IFV,
    KEY_SIZE,
    PROTOCOL_ID,
    STANDARD_ID,
    VENDOR_ID,
    Direction,
    KeyProg,
    KeySet,
    KeySlot,
    KeySubStream,
    KpAck,
    KpAckStatus,
    ObjectId,
    decode_message,
    key_slots,
)
from teeio.ide_km.responder import IdeKmResponder
from teeio.ide_km.slots import SLOT_RULES
from teeio.ide_km.slots import SlotState as KmSlotState
from teeio.pcie import ide as pcie
from teeio.pcie.capabilities.ide import SELECTIVE_STATUS
from teeio.pcie.ide import Stream
from teeio.pcie.ide_key import SlotState
from teeio.pcie.ide_keyed import KeyedStreams
from teeio.pcie.tlp import SubStream
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.rogue import PORT_INDEX, Rogue
from teeio.scenarios.scenario import Outcome, Scenario, nothing, without
from teeio.scenarios.stage import STREAM_ID, Stage
from teeio.spdm import flows
from teeio.spdm.vendor import vendor_exchange
from teeio.tdisp.messages import InterfaceState

_RECEIVING = key_slots(KeySet.K0, Direction.RX)


def _second_session(platform: Platform, journal: Journal) -> Outcome:
    """Open a second session in the TSM's own connection, whose negotiation travelled in the clear, and program keys."""
    stage = Stage(platform, journal)
    work = stage.work
    tsm = stage.agent.requester
    rogue = Rogue(stage)
    rogue.requester.connection, rogue.requester.chains = tsm.connection, dict(tsm.chains)
    rogue.requester.transcript = copy.deepcopy(tsm.transcript)
    outcome = Outcome("opened a second session with the device and programmed keys for the live stream in it")
    rogue.session = rogue.run(flows.key_exchange(rogue.requester))
    both = set(stage.device.responder.sessions) >= {stage.agent.need_session().session_id, rogue.session.session_id}
    outcome.see(f"beside the TSM's the VMM has {'a' if both else 'no'} session of its own, as it may", both)
    with stage.attack("VMM", "QUERY and KEY_PROG in the second session"):
        said = stage.refused(lambda: rogue.inside(ide_km.query(PORT_INDEX)))
        outcome.see(f"QUERY: {said or 'answered'}", bool(said))
    again = rogue.requester
    rogue.session = rogue.run(flows.key_exchange(again))
    with stage.attack("VMM", "KEY_PROG in a third session"):
        key = rogue.entropy(KEY_SIZE)
        said = stage.refused(lambda: rogue.inside(ide_km.program_key(PORT_INDEX, STREAM_ID, _RECEIVING[0], key)))
        outcome.see(f"KEY_PROG: {said or 'taken'}", bool(said))
    outcome.see("the stream is Secure as before", stage.device.port.ide.is_secure(STREAM_ID))
    outcome.see(f"the TDI is in {stage.state().name}", stage.state() is InterfaceState.RUN)
    refusal = stage.refused(work.copy)
    outcome.see(f"the TVM's next job: {refusal or 'done'}", not refusal)
    with journal.step("VMM", "disconnect the TSM, and come back"):
        work.leave()
        stage.vmm.pci_tsm.disconnect(stage.pf, stage.now())
        later = Rogue(stage, "later")
        later.open_session()
        said = stage.refused(later.key_stream)
    outcome.see(f"once the TSM's session is over, QUERY and KEY_PROG: {said or 'taken'}", not said)
    return outcome


_GOOD = KeySubStream.of(_RECEIVING[0])
_RESERVED: Any = 9
_BAD_KEY_PROGS: tuple[tuple[str, dict[str, Any], int, KpAckStatus], ...] = (
    ("a port that does not exist", {"port_index": 7}, 0, KpAckStatus.UNSUPPORTED_PORT_INDEX),
    ("a stream that does not exist", {"stream_id": 200}, 0, KpAckStatus.UNSUPPORTED_VALUE),
    (
        "a reserved sub-stream",
        {"key_sub_stream": KeySubStream(key_set=KeySet.K0, direction=Direction.RX, sub_stream=_RESERVED)},
        0,
        KpAckStatus.UNSUPPORTED_VALUE,
    ),
    ("an IFV of 0", {"ifv_low": 0}, 0, KpAckStatus.UNSUPPORTED_VALUE),
    ("a key cut short", {}, -4, KpAckStatus.INCORRECT_LENGTH),
)


def _bad_key_prog(platform: Platform, journal: Journal) -> Outcome:
    """Program keys by messages that are wrong in one field each, then one over a key in use."""
    stage = Stage(platform, journal)
    rogue = Rogue(stage)
    rogue.open_session()
    rogue.key_stream(slots=[])
    outcome = Outcome("sent KEY_PROG with a wrong port, stream, sub-stream, IFV and length, and over a key in use")
    port = stage.device.port.ide

    def attempt(case: str, fields: dict[str, Any], cut: int, wanted: KpAckStatus) -> None:
        with stage.attack("VMM", f"KEY_PROG with {case}"):
            ack = rogue.inside(_raw_key_prog(rogue, fields, cut))
            outcome.see(f"{case}: KP_ACK {ack.name}", ack is wanted)

    for case, fields, cut, wanted in _BAD_KEY_PROGS:
        attempt(case, fields, cut, wanted)
    slots = [(key_set, direction, one) for key_set in pcie.KeySet for direction in pcie.Direction for one in SubStream]
    filled = sum(port.slot_state(STREAM_ID, *slot) is not SlotState.EMPTY for slot in slots)
    outcome.see(f"{filled} of the stream's {len(slots)} key slots hold a key", not filled)
    rogue.key_stream()
    rogue.inside(ide_km.set_go(PORT_INDEX, STREAM_ID, KeySet.K0, Direction.RX))
    attempt("a key over one in use", {}, 0, KpAckStatus.UNSPECIFIED_FAILURE)
    state = port.slot_state(STREAM_ID, *slots[0])
    outcome.see(f"that slot holds a key that is {state.value}, as before", state is SlotState.READY)
    return outcome


def _raw_key_prog(rogue: Rogue, fields: dict[str, Any], cut: int) -> Flow[KpAckStatus]:
    request = KeyProg(
        **{
            "stream_id": STREAM_ID,
            "key_sub_stream": _GOOD,
            "port_index": PORT_INDEX,
            "key_dwords": rogue.entropy(KEY_SIZE),
            "ifv_high": INITIAL_IFV >> 32,
            "ifv_low": INITIAL_IFV & 0xFFFF_FFFF,
            **fields,
        }
    ).encode()
    message = request[: len(request) + cut]
    answer = yield from vendor_exchange(STANDARD_ID, VENDOR_ID, bytes([PROTOCOL_ID]) + message)
    return KpAckStatus(KpAck.decode(answer[1:]).status)


_LENGTH = len(
    KeyProg(stream_id=0, key_sub_stream=_GOOD, port_index=0, key_dwords=bytes(32), ifv_high=0, ifv_low=0).encode()
)


def _padded(message: bytes) -> Any:
    """Decode a message as if missing bytes were zero."""
    return decode_message(message.ljust(_LENGTH, b"\0") if message[0] == KeyProg.CODE else message)


def _any_slot(request: KeyProg) -> KeySlot:
    """Take a reserved sub-stream for the first one."""
    return request.key_sub_stream.slot() or _RECEIVING[0]


_SLOT_RULES = {
    **SLOT_RULES,
    (ObjectId.KEY_PROG, KmSlotState.ACTIVE): SLOT_RULES[ObjectId.KEY_PROG, KmSlotState.PROGRAMMED],
}
_KEY_PROG_MUTANTS = (
    without("the look at PortIndex", IdeKmResponder, "named_port", lambda self, _: next(iter(self.ports.values()))),
    without("the look at the Stream ID", responder, "check_stream", nothing),
    without("the look at reserved sub-streams", responder, "named_slot", _any_slot),
    without("the look at the IFV", responder, "check_ifv", nothing),
    without("the look at the length", responder, "decode_message", _padded),
    without("the rule that a key in use stays", responder, "SLOT_RULES", _SLOT_RULES),
)


def _half_keys(platform: Platform, journal: Journal) -> Outcome:
    """Let the device receive but not send, then send but not receive, and take the stream into use."""
    stage = Stage(platform, journal)
    outcome = Outcome("programmed and started the keys of one direction only, and enabled the stream")
    for direction in Direction:
        only = f"{direction.name} only"
        rogue = Rogue(stage, only)
        rogue.open_session()
        rogue.key_stream(slots=list(key_slots(KeySet.K0, direction)))
        with stage.attack("VMM", f"K_SET_GO for {only}, then Enable"):
            rogue.inside(ide_km.set_go(PORT_INDEX, STREAM_ID, KeySet.K0, direction))
            rogue.stream.enable()
        status = stage.pf.config.read(rogue.stream.base + SELECTIVE_STATUS.offset, 4)
        outcome.see(f"{only}: the stream's status register reads {status:#010x}", not rogue.stream.secure)
        said = stage.refused(rogue.lock)
        outcome.see(f"{only}: LOCK_INTERFACE on it: {said or 'done'}", "INVALID_REQUEST" in said)
        rogue.stream.clear()
    return outcome


def _any_direction(self: Stream, key_set: KeySet, *states: Any) -> bool:
    return any(slot.state in states for slots in self._slots for slot in slots[key_set])


def _reused_key(platform: Platform, journal: Journal) -> Outcome:
    """Refresh a stream with the keys that it has."""
    stage = Stage(platform, journal)
    rogue = Rogue(stage)
    rogue.open_session()
    keys = rogue.key_stream()
    outcome = Outcome("programmed the idle key set with the keys in use, whose IVs would begin at 1 again")
    with stage.attack("VMM", "KEY_PROG with a key that was used"):
        taken = 0
        for slot, key in keys.items():
            following = KeySlot(KeySet.K1, slot.direction, slot.sub_stream)
            try:
                rogue.inside(ide_km.program_key(PORT_INDEX, STREAM_ID, following, key))
                taken += 1
            except ErrorResponse as error:
                said = str(error)
        outcome.see(f"the device took {taken} of {len(keys)} keys a second time", not taken)
    noted = [refused.rule for refused in journal.refusals() if "key for IDE stream" in refused.what]
    outcome.see(f"the device noted {len(noted)} times: {noted[0] if noted else 'nothing'}", len(noted) == len(keys))
    if not taken:
        outcome.see(f"the VMM was told: {said}", True)
    return outcome


KEYS = (
    Scenario(
        36,
        "second-session",
        "the VMM programs keys of a live stream in a session of its own",
        "VMM",
        "IDE_KM",
        "PCIe Base 6.33.3: the session that programmed the keys owns the port until it ends",
        _second_session,
        (without("the ports' ownership by one session", IdeKmResponder, "check_owner", nothing),),
    ),
    Scenario(
        37,
        "bad-key-prog",
        "the VMM sends KEY_PROG with wrong fields",
        "VMM",
        "IDE_KM",
        "PCIe Base 6.33.3: status of KP_ACK",
        _bad_key_prog,
        _KEY_PROG_MUTANTS,
    ),
    Scenario(
        38,
        "half-keys",
        "the VMM takes a stream into use with keys of one direction",
        "VMM",
        "IDE_KM",
        "PCIe Base 6.33.3: Secure needs all sub-streams of both directions",
        _half_keys,
        (without("the port's look at all six slots", Stream, "_all", _any_direction),),
    ),
    Scenario(
        39,
        "reused-key",
        "the VMM refreshes a stream with the keys that it has",
        "VMM",
        "IDE_KM",
        "NIST SP 800-38D: no IV twice under one key; a port never takes a key twice",
        _reused_key,
        (without("the port's memory of used keys", KeyedStreams, "was_used", nothing),),
    ),
)
