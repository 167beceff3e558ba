"""IDE_KM layouts: known bytes, the key's byte order, round trips, and nothing but DecodeError on any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import records
from teeio.errors import DecodeError
from teeio.ide_km.messages import (
    BY_CODE,
    Direction,
    KeyProg,
    KeySet,
    KeySlot,
    KeySubStream,
    KGostopAck,
    KpAck,
    KpAckStatus,
    KSetGo,
    Message,
    ObjectId,
    Query,
    QueryResp,
    Request,
    SubStream,
    decode_message,
    key_slots,
    reverse_dwords,
)
from teeio.wire import NO_FACTS

# The key of intel/tee-io-validator's key_byte_order.md, in AES order and as it travels.
AES_KEY = bytes.fromhex("df254152056e02e0ef8b7feb9739d4d96a4eb80103241df7cd5e24b49ccd2720")
WIRE_KEY = bytes.fromhex("524125dfe0026e05eb7f8befd9d4399701b84e6af71d2403b4245ecd2027cd9c")
SLOT = KeySlot(KeySet.K1, Direction.TX, SubStream.CPL)


def test_every_object_id_is_declared_once() -> None:
    assert {int(code) for code in ObjectId} == set(BY_CODE)


def test_key_byte_order() -> None:
    assert reverse_dwords(AES_KEY) == WIRE_KEY
    assert reverse_dwords(WIRE_KEY) == AES_KEY


def test_key_prog_bytes() -> None:
    message = KeyProg(stream_id=9, key_sub_stream=KeySubStream.of(SLOT), port_index=2, key_dwords=WIRE_KEY)
    wire = "02000009002302" + WIRE_KEY.hex() + "0000000001000000"
    assert message.encode().hex() == wire
    decoded = decode_message(bytes.fromhex(wire))
    assert isinstance(decoded, KeyProg)
    assert decoded.key == AES_KEY
    assert decoded.ifv == 1
    assert decoded.key_sub_stream.slot() == SLOT


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (Query(port_index=3), "000003"),
        (
            QueryResp(port_index=3, device_function=8, bus=0x2A, segment=1, max_port_index=4, registers=b"\1\2\3\4"),
            "010003082a010401020304",
        ),
        (
            KpAck(
                stream_id=9, status=KpAckStatus.UNSUPPORTED_VALUE, key_sub_stream=KeySubStream.of(SLOT), port_index=2
            ),
            "03000009032302",
        ),
        (KSetGo(stream_id=9, key_sub_stream=KeySubStream.of(SLOT), port_index=2), "04000009002302"),
        (KGostopAck(stream_id=9, key_sub_stream=KeySubStream.of(SLOT), port_index=2), "06000009002302"),
    ],
)
def test_known_bytes(message: Message, wire: str) -> None:
    assert message.encode().hex() == wire
    assert decode_message(bytes.fromhex(wire)) == message


def test_the_key_is_not_in_the_repr() -> None:
    text = repr(KeyProg(stream_id=9, key_sub_stream=KeySubStream.of(SLOT), port_index=2, key_dwords=WIRE_KEY))
    assert "key_dwords" not in text
    assert "\\x52" not in text


def test_twelve_slots() -> None:
    slots = {slot for key_set in KeySet for direction in Direction for slot in key_slots(key_set, direction)}
    assert len(slots) == 12


def test_a_reserved_sub_stream_has_no_slot() -> None:
    assert KeySubStream.decode(b"\x30").slot() is None


def test_every_request_has_a_response() -> None:
    requests = [cls for cls in BY_CODE.values() if issubclass(cls, Request)]
    assert {cls.response_class().NAME for cls in requests} == {"QUERY_RESP", "KP_ACK", "K_GOSTOP_ACK"}


@pytest.mark.parametrize("cls", list(BY_CODE.values()), ids=lambda cls: cls.__name__)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_round_trip(cls: type[Message], data: st.DataObject) -> None:
    value = data.draw(records(cls, NO_FACTS))
    assert decode_message(value.encode()) == value


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_give_nothing_but_decode_error(data: bytes) -> None:
    try:
        decode_message(data)
    except DecodeError:
        return
    assert data[0] in BY_CODE
