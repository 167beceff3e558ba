"""TDISP layouts: known bytes, round trips from the declarations, and nothing but DecodeError on any bytes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import mutated, records
from teeio.errors import DecodeError
from teeio.tdisp import messages
from teeio.tdisp.messages import (
    BY_CODE,
    DeviceInterfaceReport,
    ErrorCode,
    ExtendedErrorData,
    FunctionId,
    InterfaceInfo,
    LockFlags,
    LockInterfaceRequest,
    LockParameters,
    MessageType,
    MmioRange,
    RangeAttributes,
    Request,
    Response,
    StartInterfaceRequest,
    TdispCapabilities,
    TdispError,
    TdispVersion,
    decode_message,
    interface_key,
)
from teeio.wire import NO_FACTS

STRUCTURES = [DeviceInterfaceReport, MmioRange, LockParameters, FunctionId, ExtendedErrorData]
HEADER = "0000efbe00000000000000000000"


def test_every_message_type_is_declared_once() -> None:
    assert {int(code) for code in MessageType} == set(BY_CODE)


@pytest.mark.parametrize("code", sorted(c for c in BY_CODE if c & 0x80))
def test_a_request_is_answered_by_its_code_with_bit_7_clear(code: int) -> None:
    request = BY_CODE[code]
    assert issubclass(request, Request)
    assert issubclass(request.response_class(), Response)
    assert code & 0x7F == request.response_class().CODE


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (TdispVersion(function_id=0xBEEF, versions=(0x10,)), "1001" + HEADER + "0110"),
        (
            LockInterfaceRequest(
                function_id=0xBEEF,
                parameters=LockParameters(
                    flags=LockFlags.NO_FW_UPDATE | LockFlags.LOCK_MSIX,
                    default_stream_id=7,
                    mmio_reporting_offset=-0x1000,
                    bind_p2p_address_mask=0xFF,
                ),
            ),
            "1083" + HEADER + "05000700" + "00f0ffffffffffff" + "ff00000000000000",
        ),
        (
            TdispCapabilities(
                function_id=0xBEEF,
                req_msgs_supported=b"\x7f" + bytes(15),
                lock_flags_supported=LockFlags.NO_FW_UPDATE,
                dev_addr_width=52,
                num_req_this=1,
                num_req_all=2,
            ),
            "1002" + HEADER + "00000000" + "7f" + "00" * 15 + "0100" + "000000" + "34" + "01" + "02",
        ),
        (
            TdispError(function_id=0xBEEF, code=ErrorCode.UNSUPPORTED_REQUEST, data=0x90),
            "107f" + HEADER + "0700000090000000",
        ),
    ],
)
def test_known_bytes(message: messages.Message, wire: str) -> None:
    assert message.encode().hex() == wire
    assert decode_message(bytes.fromhex(wire)) == message


def test_the_report_layout() -> None:
    report = DeviceInterfaceReport(
        info=InterfaceInfo.DMA_WITHOUT_PASID,
        ranges=(MmioRange(first_page=8, pages=4, attributes=RangeAttributes.IS_NON_TEE_MEM, range_id=2),),
        device_specific=b"\xaa\xbb",
    )
    wire = "020000000000000000000000010000000800000000000000040000000400020002000000aabb"
    assert report.encode().hex() == wire
    assert DeviceInterfaceReport.decode(bytes.fromhex(wire)) == report


@pytest.mark.parametrize("cls", [*BY_CODE.values(), *STRUCTURES], ids=lambda cls: cls.__name__)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_round_trip(cls: type[messages.Record], data: st.DataObject) -> None:
    value = data.draw(records(cls, NO_FACTS))
    encoded = value.encode()
    assert cls.decode(encoded) == value
    assert "".join(encoded[s.start : s.end].hex() for s in cls.spans(encoded)) == encoded.hex()


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_mutated_messages_give_nothing_but_decode_error(data: st.DataObject) -> None:
    cls = data.draw(st.sampled_from(list(BY_CODE.values())))
    damaged = data.draw(mutated(data.draw(records(cls, NO_FACTS)).encode()))
    for decode in (decode_message, DeviceInterfaceReport.decode):
        with suppress(DecodeError):
            decode(damaged)


def test_an_undeclared_type_is_named() -> None:
    with pytest.raises(DecodeError, match="0x99"):
        decode_message(b"\x10\x99" + bytes(14))


def test_the_nonce_is_not_in_the_repr() -> None:
    assert "nonce" not in repr(StartInterfaceRequest(function_id=1, nonce=bytes(32)))


@pytest.mark.parametrize(
    ("function_id", "key"),
    [(0xBEEF, 0xBEEF), (0x0005_BEEF, 0xBEEF), (0x0105_BEEF, 0x0105_BEEF), (0xFF05_BEEF, 0x0105_BEEF)],
)
def test_a_segment_counts_only_when_valid(function_id: int, key: int) -> None:
    assert interface_key(function_id) == key


def test_function_id_fields() -> None:
    assert FunctionId(requester_id=0xBEEF, segment=5, segment_valid=1).number() == 0x0105_BEEF


def test_first_address_unit() -> None:
    item = MmioRange(first_page=8, pages=1, range_id=0)
    assert item.first_address() == 0x8000
    assert item.first_address(page_is_address=True) == 8
