"""TLPs in Flit Mode: golden frames, round trips from and to the form of Non-Flit Mode, and bytes that are no TLP."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from pcie.flit_samples import PASID, TLPS, memory
from teeio.errors import DecodeError, Misuse
from teeio.pcie.flit_decoding import take
from teeio.pcie.flit_headers import OhcA1, OhcC
from teeio.pcie.flit_mode import FlitMode
from teeio.pcie.flit_types import FLIT_TYPE_OF, FLIT_TYPES
from teeio.pcie.link_mode import NON_FLIT
from teeio.pcie.tlp import (
    TYPES,
    CompletionStatus,
    MessageCode,
    Routing,
    Tlp,
    TlpType,
    completion,
    config_read,
    config_write,
    memory_read,
    memory_write,
    message,
)
from teeio.pcie.translation import (
    AddressType,
    Invalidation,
    InvalidationDone,
    PageRequest,
    address_type,
    invalidate_completion,
    invalidate_request,
    page_request,
    translated,
    translation_request,
)

FLIT, SEGMENT = FlitMode(0), FlitMode(3)


@pytest.mark.parametrize(
    ("tlp", "frame"),
    [
        pytest.param(memory_read(0x100, 7, 0x1000, 64), "03000010 01000007 00001000", id="MRd32"),
        pytest.param(memory_read(0x100, 7, 0x5_0000_1000, 4), "20000001 01000007 00000005 00001000", id="MRd64"),
        pytest.param(memory_read(0x100, 7, 0x1001, 2), "03010001 01000007 00001000 00000006", id="MRd32 with A1"),
        pytest.param(memory_read(0x100, 7, 0x1000, 0), "03010001 01000007 00001000 00000000", id="MRd of nothing"),
        pytest.param(memory_write(0x100, 0, 0x1000, b"abcd"), "40000001 01000000 00001000 61626364", id="MWr32"),
        pytest.param(
            memory_write(0x100, 0, 0x1_0000_0003, b"abcde", traffic_class=5),
            "60a10002 01000000 00000001 00000000 000000f8 00000061 62636465",
            id="MWr64 with A1",
        ),
        pytest.param(config_read(8, 1, 0x1EA, 0x104), "04010001 00080001 01ea0104 0300800f", id="CfgRd0"),
        pytest.param(
            config_write(8, 1, 0x1EA, 6, 2, 0xBBAA, type_1=True),
            "45010001 00080001 01ea0004 0300800c 0000aabb",
            id="CfgWr1",
        ),
        pytest.param(completion(0x100, 8, 7), "0a000000 01000007 00080004", id="Cpl"),
        pytest.param(
            completion(0x100, 8, 7, b"abcd", byte_count=3, lower_address=0x45),
            "4a010001 01004007 00081003 00030008 61626364",
            id="CplD with A5",
        ),
        pytest.param(
            completion(0x100, 8, 7, status=CompletionStatus.UR), "0a010000 01000007 00080004 00030001", id="UR"
        ),
        pytest.param(
            message(8, 0x7E, Routing.TO_ROOT_COMPLEX, b"12345678"),
            "30040000 0008007e 31323334 35363738 03000078",
            id="Msg",
        ),
        pytest.param(
            message(8, 0x7F, Routing.BY_ID, bytes.fromhex("0100000000000000"), b"abcd"),
            "72050001 0008007f 01000000 00000000 03008000 03000078 61626364",
            id="MsgD by ID",
        ),
        pytest.param(
            invalidate_request(8, 0x100, 21, Invalidation(page=5)),
            "72050002 00081501 01000000 00000000 03008000 03000078 00000000 00005000",
            id="Invalidate Request",
        ),
        pytest.param(
            translation_request(0x100, 0x5000, 1, no_write=True),
            "03010002 01000000 00005001 800000ff",
            id="Translation Request",
        ),
        pytest.param(translated(memory_read(0x100, 7, 0x5000, 4)), "03000001 01000007 00005002", id="translated"),
        pytest.param(memory(TlpType.IOWR, 0x80, b"abcd"), "42010001 01a50042 00000080 0000000f 61626364", id="IOWr"),
        pytest.param(memory(TlpType.CAS, 0x80, bytes(8), enables=0, dwords=2), "4e000002 01a50042 00000080" + "00" * 8),
        pytest.param(
            memory_read(0x100, 7, 0x1000, 4)._replace(prefixes=PASID),
            "03010001 01000007 00001000 5123450f",
            id="PASID",
        ),
        pytest.param(
            memory_read(0x100, 7, 0x1000, 4)._replace(prefixes=bytes.fromhex("9e112233 9f445566")),
            "03100001 01000007 00001000 1e112233 1f445566",
            id="vendor prefixes",
        ),
    ],
)
def test_golden_frames(tlp: Tlp, frame: str) -> None:
    wire = bytes.fromhex(frame)
    assert SEGMENT.encode(tlp).hex(" ", 4) == wire.hex(" ", 4)
    assert SEGMENT.decode(wire) == tlp


def test_types_differ_from_those_of_non_flit_mode_in_one() -> None:
    assert {first: kind for first, kind in FLIT_TYPE_OF.items() if first != kind} == {0x00: 0x03}
    assert [row.kind for row in FLIT_TYPES.values()] == list(TYPES.values())
    assert 0 not in FLIT_TYPES  # NOP


@given(TLPS)
def test_round_trip_in_both_modes(tlp: Tlp) -> None:
    for mode in (NON_FLIT, FLIT, SEGMENT):
        frame = mode.encode(tlp)
        assert mode.decode(frame) == tlp
        assert mode.type_of(frame) is tlp.type
        assert mode.ide_fields(frame) is None
        assert mode.stream_of(frame) is None
        assert mode.carries(tlp)


@given(TLPS, st.data())
def test_a_frame_of_another_length_is_refused(tlp: Tlp, data: st.DataObject) -> None:
    frame = FLIT.encode(tlp)
    for wrong in (frame[: data.draw(st.integers(0, len(frame) - 1))], frame + bytes(4)):
        with pytest.raises(DecodeError):
            FLIT.decode(wrong)


@given(st.one_of(st.binary(max_size=64), st.tuples(st.sampled_from(list(FLIT_TYPES)), st.binary(max_size=64))))
def test_any_bytes_decode_or_raise_decode_error(data: bytes | tuple[int, bytes]) -> None:
    frame = data if isinstance(data, bytes) else bytes([data[0]]) + data[1]
    for read in (FLIT.decode, FLIT.heading, FLIT.stream_of, FLIT.ide_fields, FLIT.type_of, FLIT.logged):
        with contextlib.suppress(DecodeError):
            read(frame)


@given(st.sampled_from(list(FLIT_TYPES)), st.integers(0, 0xFF), st.integers(0, 7), st.binary(min_size=60, max_size=60))
def test_what_decodes_means_the_same_when_encoded(kind: int, second: int, attributes: int, rest: bytes) -> None:
    """Random bytes under a first DW that says how many there are."""
    head = take(bytes((kind, second, attributes << 2, 1)) + rest)
    frame = (bytes((kind, second, attributes << 2, 1)) + rest)[: head.head + head.payload]
    try:
        tlp = FLIT.decode(frame)
    except DecodeError:
        return
    event("decodes")
    assert FLIT.decode(FLIT.encode(tlp)) == tlp


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ("00000000", "no Type"),
        ("22000002 00000000 00000000 00000000", "no Type"),
        ("03080001 01000007 00001000", "OHC need"),
        ("03002001 01000007 00001000", "ECRC on a TLP without IDE"),
        ("0300a001 01000007 00001000", "MAC on a TLP without IDE"),
        ("03004001 01000007 00001000", "no trailer"),
        ("03000001 01000407 00001000", "more than 10 bits"),
        ("04000001 00080001 01ea0104", "has to have one"),
        ("42000001 01a50042 00000080 61626364", "has to have one"),
        ("04010001 00080001 01ea0104 0700800f", "segment"),
        ("30040000 0008007e 31323334 35363738 04000078", "segment"),
        ("03080001 01000007 00001000 2e112233", "no End-End prefix"),
        ("03080001 01000007 00001000 11412345", "no End-End prefix"),
    ],
)
def test_malformed_frames(frame: str, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        SEGMENT.decode(bytes.fromhex(frame))


def test_a_segment_that_is_not_valid_is_not_looked_at() -> None:
    for frame in ("04010001 00080001 01ea0104 0700000f", "30040000 0008007e 31323334 35363738 04000070"):
        assert SEGMENT.decode(bytes.fromhex(frame))
    with pytest.raises(Misuse):
        FlitMode(256)


def test_hints_are_dropped() -> None:
    hinted = Tlp(bytes.fromhex("40010001 0100420f 00001002"), b"abcd", bytes.fromhex("90000000"))
    assert FLIT.decode(FLIT.encode(hinted)) == memory_write(0x100, 0x42, 0x1000, b"abcd")
    with_ohc_b = bytes.fromhex("40020001 01000042 00001000 00001234 61626364")
    assert FLIT.decode(with_ohc_b) == memory_write(0x100, 0x42, 0x1000, b"abcd")


@pytest.mark.parametrize("prefixes", ["93000000", "91000001 91000002"])
def test_prefixes_without_a_place_in_flit_mode(prefixes: str) -> None:
    tlp = memory_read(0x100, 7, 0x1000, 4)._replace(prefixes=bytes.fromhex(prefixes))
    assert not FLIT.carries(tlp)
    assert NON_FLIT.carries(tlp)
    with pytest.raises(Misuse, match="no form in Flit Mode"):
        FLIT.encode(tlp)


def test_a_page_request_has_its_pasid_in_a1_and_other_messages_in_a4() -> None:
    asked = page_request(0x100, PageRequest(read=1, page=5))._replace(prefixes=PASID)
    answered = invalidate_completion(0x100, InvalidationDone(destination=8))._replace(
        prefixes=bytes.fromhex("91012345")
    )
    for tlp, ohc_a in ((asked, "51234500"), (answered, "0023c145")):
        frame = FLIT.encode(tlp)
        assert frame[16:20].hex() == ohc_a
        assert FLIT.decode(frame) == tlp
    assert OhcA1.decode(bytes.fromhex("51234500")).pasid == 0x12345
    assert asked.header[7] == MessageCode.PAGE_REQUEST


def test_ohc_c_of_sub_stream_7_makes_no_ide_tlp() -> None:
    plain, head = memory_read(0x100, 7, 0x1000, 4), "03040001 01000007 00001000"
    for sub_stream in range(8):
        frame = bytes.fromhex(head) + OhcC(stream_id=5, sub_stream=sub_stream).encode()
        assert FLIT.stream_of(frame) == (None if sub_stream == 7 else 5)
    assert FLIT.decode(frame) == plain


def test_translation_requests_keep_no_write() -> None:
    for no_write in (False, True):
        asked = translation_request(0x100, 0x7_0000_5000, 1, no_write=no_write)
        assert FLIT.decode(FLIT.encode(asked)) == asked
        assert address_type(asked) == AddressType.TRANSLATION_REQUEST
