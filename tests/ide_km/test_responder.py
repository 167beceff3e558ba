"""IDE_KM, flows against responder: slot states x requests, KP_ACK statuses, sessions, hostile answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import mutated, records
from teeio.errors import DecodeError, ErrorResponse, Misuse, PeerViolation
from teeio.flow import Flow
from teeio.ide_km import flows
from teeio.ide_km.messages import (
    BY_CODE,
    Direction,
    KeyProg,
    KeySet,
    KeySlot,
    KeySubStream,
    KpAck,
    KpAckStatus,
    KSetGo,
    KSetStop,
    ObjectId,
    Query,
    SubStream,
    decode_message,
    key_slots,
)
from teeio.ide_km.responder import IdeKmResponder
from teeio.ide_km.slots import SLOT_RULES, SlotState
from teeio.observe import Refused
from teeio.wire import NO_FACTS

Rig = Any
SESSION, OTHER = 0x11, 0x22
SLOT = KeySlot(KeySet.K0, Direction.RX, SubStream.PR)
NAMED = {"stream_id": 7, "key_sub_stream": KeySubStream.of(SLOT), "port_index": 1}
REQUESTS = {
    ObjectId.KEY_PROG: KeyProg(**NAMED, key_dwords=bytes(range(32))),
    ObjectId.K_SET_GO: KSetGo(**NAMED),
    ObjectId.K_SET_STOP: KSetStop(**NAMED),
}
KEYS = {
    slot: bytes([number]) * 32
    for number, slot in enumerate(key_slots(KeySet.K0, Direction.RX) + key_slots(KeySet.K0, Direction.TX))
}


def run(flow: Flow[Any]) -> Any:
    """Run a flow whose exchanges are answered at once."""
    try:
        next(flow)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the flow asked for something else")


def connect(monkeypatch: pytest.MonkeyPatch, respond: Callable[[bytes], bytes]) -> None:
    def answer(standard_id: int, vendor_id: bytes, payload: bytes) -> Flow[bytes]:
        assert (standard_id, vendor_id, payload[:1]) == (3, b"\x01\x00", b"\x00")
        return respond(payload)
        yield

    monkeypatch.setattr(flows, "vendor_exchange", answer)


def ask(rig: Rig, message: bytes, session: int = SESSION) -> Any:
    answer = rig.responder.respond(session, message, 0.0)
    return None if answer is None else decode_message(answer)


def take(rig: Rig, session: int = SESSION) -> None:
    """Let a session own the ports."""
    assert ask(rig, Query(port_index=1).encode(), session) is not None


# -- states ----------------------------------------------------------------------------------------------------------


def test_the_slot_table_is_complete() -> None:
    assert set(SLOT_RULES) == {(request, state) for request in REQUESTS for state in SlotState}


@pytest.mark.parametrize(("request_code", "state"), list(SLOT_RULES))
def test_every_state_and_request(rig: Rig, request_code: ObjectId, state: SlotState) -> None:
    take(rig)
    rig.ports[1].states[7, SLOT] = state
    answer = ask(rig, REQUESTS[request_code].encode())
    rule = SLOT_RULES[request_code, state]
    assert rig.ports[1].slot_state(7, SLOT) is (rule.next_state or state)
    if rule.next_state is not None:
        assert ("KP_ACK" if request_code is ObjectId.KEY_PROG else "K_GOSTOP_ACK") == answer.NAME
        assert (answer.stream_id, answer.port_index, answer.key_sub_stream) == (7, 1, KeySubStream.of(SLOT))
        assert request_code is not ObjectId.KEY_PROG or answer.status is KpAckStatus.SUCCESSFUL
    else:
        assert rig.seen[-1] == Refused("IDE_KM", request_code.name, rule.why)
        assert answer is None or answer.status is KpAckStatus.UNSPECIFIED_FAILURE


# -- KEY_PROG --------------------------------------------------------------------------------------------------------

GOOD = REQUESTS[ObjectId.KEY_PROG].encode()


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (GOOD, KpAckStatus.SUCCESSFUL),
        (GOOD[:-1], KpAckStatus.INCORRECT_LENGTH),
        (GOOD + b"\0", KpAckStatus.INCORRECT_LENGTH),
        (GOOD[:7], KpAckStatus.INCORRECT_LENGTH),
        (GOOD[:6] + b"\x02" + GOOD[7:], KpAckStatus.UNSUPPORTED_PORT_INDEX),
        (GOOD[:3] + b"\x08" + GOOD[4:], KpAckStatus.UNSUPPORTED_VALUE),
        (GOOD[:5] + b"\x30" + GOOD[6:], KpAckStatus.UNSUPPORTED_VALUE),
        (GOOD[:-4] + b"\x02\0\0\0", KpAckStatus.UNSUPPORTED_VALUE),
        (GOOD[:-8] + b"\x01\0\0\0\x01\0\0\0", KpAckStatus.UNSUPPORTED_VALUE),
        (GOOD[:-8] + b"\x01\0\0\0\0\0\0\0", KpAckStatus.UNSUPPORTED_VALUE),
    ],
)
def test_kp_ack_statuses(rig: Rig, message: bytes, status: KpAckStatus) -> None:
    answer = ask(rig, message)
    assert isinstance(answer, KpAck)
    assert answer.status is status
    echoed = rig.responder.respond(SESSION, message, 0.0)
    assert echoed[3:4] + echoed[5:7] == message[3:4] + message[5:7]
    assert bool(rig.ports[1].keys) == (status is KpAckStatus.SUCCESSFUL)


def test_reserved_bits_are_echoed(rig: Rig) -> None:
    answer = rig.responder.respond(SESSION, GOOD[:5] + b"\x0c" + GOOD[6:], 0.0)
    assert answer == bytes([0x03, 0, 0, 7, 0, 0x0C, 1])


def test_a_port_that_cannot_take_the_key(rig: Rig) -> None:
    rig.ports[1].problem = "the key was installed before"
    assert ask(rig, GOOD).status is KpAckStatus.UNSPECIFIED_FAILURE
    assert rig.seen[-1] == Refused("IDE_KM", "KEY_PROG", "the key was installed before")


def test_wrong_length_may_stay_without_answer(make_rig: Callable[..., Rig]) -> None:
    assert ask(make_rig(answer_wrong_length=False), GOOD[:-1]) is None


@pytest.mark.parametrize(
    "message",
    [
        b"",
        GOOD[:6],
        b"\x09\0\0",
        b"\x00\0",
        b"\x00\0\x02",
        b"\x04\0\0\x07\0\x00",
        b"\x04\0\0\x08\0\x00\x01",
        b"\x04\0\0\x07\0\x30\x01",
        b"\x04\0\0\x07\0\x00\x05",
        b"\x01\0\x01\0\0\0\0",
    ],
)
def test_other_bad_requests_get_no_answer(rig: Rig, message: bytes) -> None:
    take(rig)
    assert ask(rig, message) is None
    assert isinstance(rig.seen[-1], Refused)


# -- sessions --------------------------------------------------------------------------------------------------------

ALL_REQUESTS = {ObjectId.QUERY: Query(port_index=1), **REQUESTS}


@pytest.mark.parametrize("request_code", list(ALL_REQUESTS))
@pytest.mark.parametrize("first", [Query(port_index=0).encode(), GOOD], ids=["queried", "programmed"])
def test_a_second_live_session_gets_no_answer(rig: Rig, first: bytes, request_code: ObjectId) -> None:
    assert ask(rig, first) is not None
    before = dict(rig.ports[1].keys), dict(rig.ports[1].states)
    assert ask(rig, ALL_REQUESTS[request_code].encode(), OTHER) is None
    assert ask(rig, GOOD[:-1], OTHER) is None
    assert (rig.ports[1].keys, rig.ports[1].states) == before
    assert rig.responder.owner == SESSION


@pytest.mark.parametrize("survive", [False, True])
@pytest.mark.parametrize("first", [Query(port_index=1).encode(), GOOD], ids=["QUERY", "KEY_PROG"])
def test_after_the_owner_ends_the_next_session_starts_without_keys(
    make_rig: Callable[..., Rig], survive: bool, first: bytes
) -> None:
    rig = make_rig(keys_survive_session=survive)
    ask(rig, GOOD)
    rig.responder.session_ended(OTHER)
    assert rig.responder.owner == SESSION
    rig.responder.session_ended(SESSION)
    assert bool(rig.ports[1].keys) == survive
    rig.ports[1].keys[0, SLOT] = b"left over"
    assert ask(rig, first, OTHER) is not None
    assert rig.responder.owner == OTHER
    assert (0, SLOT) not in rig.ports[1].keys or not survive
    assert rig.ports[1].kills == 1
    ask(rig, first, OTHER)
    assert rig.ports[1].kills == 1


@pytest.mark.parametrize("request_code", [ObjectId.K_SET_GO, ObjectId.K_SET_STOP])
def test_go_and_stop_do_not_take_ownership(make_rig: Callable[..., Rig], request_code: ObjectId) -> None:
    rig = make_rig(keys_survive_session=True)
    ask(rig, GOOD)
    rig.responder.session_ended(SESSION)
    assert ask(rig, REQUESTS[request_code].encode(), OTHER) is None
    assert rig.responder.owner is None
    assert rig.ports[1].slot_state(7, SLOT) is SlotState.PROGRAMMED


@pytest.mark.parametrize("ports", [{}, {256: None}])
def test_ports_must_have_indices(ports: dict[int, Any]) -> None:
    with pytest.raises(Misuse):
        IdeKmResponder(ports)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_message_makes_the_responder_raise(make_rig: Callable[..., Rig], data: st.DataObject) -> None:
    rig = make_rig()
    for _ in range(4):
        cls = data.draw(st.sampled_from(list(BY_CODE.values())))
        message = data.draw(mutated(data.draw(records(cls, NO_FACTS)).encode()))
        answer = rig.responder.respond(SESSION, message, 0.0)
        assert answer is None or decode_message(answer).NAME in ("QUERY_RESP", "KP_ACK", "K_GOSTOP_ACK")


# -- flows -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def talk(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Give a rig that the flows talk to over the session SESSION."""
    connect(monkeypatch, lambda payload: payload[:1] + rig.responder.respond(SESSION, payload[1:], 0.0))
    return rig


def test_a_stream_is_keyed_and_unkeyed(talk: Rig) -> None:
    response = run(flows.query(1))
    assert (response.device_function, response.bus, response.segment, response.max_port_index) == (8, 0x2A, 1, 1)
    assert response.registers == bytes(range(40))
    run(flows.program_keys(1, 7, KEYS))
    assert talk.ports[1].keys == {(7, slot): key for slot, key in KEYS.items()}
    for direction in Direction:
        run(flows.set_go(1, 7, KeySet.K0, direction))
    assert {talk.ports[1].slot_state(7, slot) for slot in KEYS} == {SlotState.ACTIVE}
    with pytest.raises(ErrorResponse, match="K0 RX PR") as refusal:
        run(flows.program_key(1, 7, SLOT, bytes(32)))
    assert "idle set" in refusal.value.remedy
    for direction in Direction:
        run(flows.set_stop(1, 7, KeySet.K0, direction))
    assert talk.ports[1].keys == {}


def test_interleaved_programming_and_go(talk: Rig) -> None:
    for slot, key in KEYS.items():
        run(flows.program_key(1, 0, slot, key))
        run(flows.set_key_go(1, 0, slot))
    assert {talk.ports[1].slot_state(0, slot) for slot in KEYS} == {SlotState.ACTIVE}


def test_our_own_mistakes_are_named() -> None:
    with pytest.raises(Misuse, match="32 bytes"):
        run(flows.program_key(1, 0, SLOT, bytes(16)))
    with pytest.raises(Misuse, match="equal"):
        run(flows.program_keys(1, 0, dict.fromkeys(KEYS, bytes(32))))


@pytest.mark.parametrize(
    ("flow", "answer", "error", "text"),
    [
        (lambda: flows.query(1), b"\x01", PeerViolation, "protocol"),
        (lambda: flows.query(1), b"\x00", DecodeError, "empty"),
        (lambda: flows.query(1), b"\x00\x06" + bytes(6), PeerViolation, "K_GOSTOP_ACK answers QUERY"),
        (lambda: flows.query(1), b"\x00\x77", PeerViolation, "0x77 answers"),
        (lambda: flows.query(1), b"\x00\x01\x00\x02" + bytes(4), PeerViolation, "port 2, not 1"),
        (lambda: flows.query(1), b"\x00\x01\x00\x01" + bytes(5), PeerViolation, "32-bit"),
        (lambda: flows.set_key_go(1, 7, SLOT), b"\x00\x06\0\0\x08\0\0\x01", PeerViolation, "stream 8"),
        (lambda: flows.set_key_stop(1, 7, SLOT), b"\x00\x06\0\0\x07\0\x02\x01", PeerViolation, "another key"),
        (lambda: flows.program_key(1, 7, SLOT, bytes(32)), b"\x00\x03\0\0\x07\x63\0\x01", ErrorResponse, "UNSPECIFIED"),
        (lambda: flows.program_key(1, 7, SLOT, bytes(32)), b"\x00\x03\0\0\x07\0", DecodeError, "key_set"),
    ],
)
def test_a_wrong_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, flow: Callable[[], Flow[Any]], answer: bytes, error: type[Exception], text: str
) -> None:
    connect(monkeypatch, lambda payload: answer)
    with pytest.raises(error, match=text):
        run(flow())
