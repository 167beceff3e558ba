"""CXL IDE_KM: key states x requests, the reference sequence, sessions, and any bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import records
from teeio.cxl.ide_km import (
    BY_CODE,
    CXL_SUB_STREAM,
    KEY_RULES,
    CxlIdeKmResponder,
    Direction,
    GetKey,
    KeyProg,
    KeyState,
    KeySubStream,
    KpAckStatus,
    KSetGo,
    KSetStop,
    Message,
    ObjectId,
    Query,
    QueryCaps,
    decode_message,
)
from teeio.errors import DecodeError
from teeio.observe import Event, Refused
from teeio.wire import NO_FACTS

SESSION, OTHER = 0x11, 0x22
RX = KeySubStream(direction=Direction.RX)
TX = KeySubStream(direction=Direction.TX)
NAMED: dict[str, Any] = {"stream_id": 0, "key_sub_stream": RX, "port_index": 0}
REQUESTS: dict[ObjectId, Message] = {
    ObjectId.KEY_PROG: KeyProg(**NAMED, key_dwords=bytes(32), iv_dwords=bytes(12)),
    ObjectId.K_SET_GO: KSetGo(**NAMED),
    ObjectId.K_SET_STOP: KSetStop(**NAMED),
}


def ask(responder: CxlIdeKmResponder, message: Message | bytes, session: int = SESSION) -> Any:
    data = message if isinstance(message, bytes) else message.encode()
    answer = responder.respond(session, data, 0.0)
    return None if answer is None else decode_message(answer)


def bring_to(responder: CxlIdeKmResponder, state: KeyState) -> None:
    ask(responder, Query(port_index=0))
    if state is not KeyState.EMPTY:
        ask(responder, REQUESTS[ObjectId.KEY_PROG])
    if state is KeyState.ACTIVE:
        ask(responder, REQUESTS[ObjectId.K_SET_GO])
    assert responder.state(Direction.RX) is state


def test_the_table_is_complete() -> None:
    assert set(KEY_RULES) == {(request, state) for request in REQUESTS for state in KeyState}


@pytest.mark.parametrize(("request_code", "state"), list(KEY_RULES))
def test_every_state_and_request(request_code: ObjectId, state: KeyState) -> None:
    seen: list[Event] = []
    responder = CxlIdeKmResponder(observer=seen.append)
    bring_to(responder, state)
    answer = ask(responder, REQUESTS[request_code])
    expected = KEY_RULES[request_code, state]
    assert responder.state(Direction.RX) is (expected or state)
    assert responder.state(Direction.TX) is KeyState.EMPTY
    assert (answer is None) == (expected is None)
    assert bool(seen) == (expected is None)


def test_the_sequence_of_the_reference_requester() -> None:
    responder = CxlIdeKmResponder()
    response = ask(responder, Query(port_index=0))
    assert len(response.registers) == 36
    assert response.caps == QueryCaps.VERSION_1 | QueryCaps.K_SET_STOP
    for key in (RX, TX):
        request = KeyProg(
            stream_id=0, key_sub_stream=key, port_index=0, key_dwords=bytes(range(32)), iv_dwords=bytes(12)
        )
        answer = ask(responder, request)
        assert (answer.status, answer.key_sub_stream) == (KpAckStatus.SUCCESS, key)
    for key in (RX, TX):
        assert ask(responder, KSetGo(stream_id=0, key_sub_stream=key, port_index=0)).key_sub_stream == key
    assert {responder.state(direction) for direction in Direction} == {KeyState.ACTIVE}
    for key in (RX, TX):
        assert ask(responder, KSetStop(stream_id=0, key_sub_stream=key, port_index=0)).key_sub_stream == key
    assert {responder.state(direction) for direction in Direction} == {KeyState.EMPTY}


def test_key_prog_bytes() -> None:
    message = KeyProg(
        stream_id=3, key_sub_stream=TX, port_index=1, key_dwords=bytes(range(32)), iv_dwords=bytes(range(12))
    )
    assert message.encode().hex() == "02000003008201" + bytes(range(32)).hex() + bytes(range(12)).hex()
    assert "key_dwords" not in repr(message)
    assert message.key_sub_stream.sub_stream == CXL_SUB_STREAM


@pytest.mark.parametrize(
    "change",
    [{"stream_id": 1}, {"port_index": 1}, {"key_sub_stream": KeySubStream(direction=Direction.RX, sub_stream=0)}],
)
def test_another_stream_port_or_sub_stream(change: dict[str, Any]) -> None:
    responder = CxlIdeKmResponder()
    bring_to(responder, KeyState.PROGRAMMED)
    named = {**NAMED, **change}
    assert ask(responder, KeyProg(**named, key_dwords=bytes(32), iv_dwords=bytes(12))).status is KpAckStatus.INVALID
    assert ask(responder, KSetGo(**named)) is None
    assert responder.state(Direction.RX) is KeyState.PROGRAMMED


def test_a_second_session_waits_for_the_end_of_the_first() -> None:
    responder = CxlIdeKmResponder()
    bring_to(responder, KeyState.ACTIVE)
    assert ask(responder, Query(port_index=0), OTHER) is None
    responder.session_ended(OTHER)
    assert responder.state(Direction.RX) is KeyState.ACTIVE
    responder.session_ended(SESSION)
    assert responder.state(Direction.RX) is KeyState.EMPTY
    assert ask(responder, Query(port_index=0), OTHER) is not None


@pytest.mark.parametrize(
    "message", [b"", b"\x33", b"\x00", Query(port_index=1).encode(), GetKey(**NAMED).encode(), b"\x03" + bytes(6)]
)
def test_what_is_not_answered(message: bytes) -> None:
    seen: list[Event] = []
    assert ask(CxlIdeKmResponder(observer=seen.append), message) is None
    assert isinstance(seen[-1], Refused)


@pytest.mark.parametrize("cls", list(BY_CODE.values()), ids=lambda cls: cls.__name__)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_round_trip(cls: type[Message], data: st.DataObject) -> None:
    value = data.draw(records(cls, NO_FACTS))
    assert decode_message(value.encode()) == value


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=8) | st.binary(min_size=51, max_size=51).map(lambda b: b"\x02" + b[1:]), max_size=5))
def test_any_bytes(messages: list[bytes]) -> None:
    responder = CxlIdeKmResponder()
    for message in messages:
        answer = responder.respond(SESSION, message, 0.0)
        assert answer is None or decode_message(answer)
        try:
            decode_message(message)
        except DecodeError:
            assert answer is None
