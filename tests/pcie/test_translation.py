"""ATS and page requests as bytes: where each bit lies, and what a root port does with what makes no sense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeio.errors import Misuse
from teeio.pcie.seams import DONE, UNSUPPORTED, Reply
from teeio.pcie.tlp import CompletionStatus, Tlp, TlpType, memory_read, memory_write
from teeio.pcie.translation import (
    MAX_TRANSLATIONS,
    AddressType,
    Invalidation,
    InvalidationDone,
    PageRequest,
    PageResponse,
    ResponseCode,
    Translation,
    address_type,
    invalidate_completion,
    invalidate_request,
    page_request,
    page_response,
    translated,
    translation_request,
)
from teeio.pcie.translation_service import concerns_translation, serve_translation

WORDS = st.integers(0, (1 << 64) - 1)


def test_a_translation_request_is_a_read_with_address_type_1() -> None:
    low = translation_request(0x0108, 0x3000, 2, no_write=True)
    assert low.header == bytes.fromhex("00000404" + "010800ff" + "00003001")
    high = translation_request(0x0108, 0x1_0000_3000, 1, no_write=False)
    assert high.header == bytes.fromhex("20000402" + "010800ff" + "00000001" + "00003000")
    assert Tlp.decode(high.encode()) == high
    assert address_type(high) == AddressType.TRANSLATION_REQUEST


def test_a_translated_request_differs_in_its_address_type_only() -> None:
    tlp = memory_write(0x0108, 0, 0x3000, b"data")
    other = translated(tlp)
    assert (address_type(tlp), address_type(other)) == (AddressType.UNTRANSLATED, AddressType.TRANSLATED)
    assert [n for n in range(12) if tlp.header[n] != other.header[n]] == [2]
    assert other.payload == tlp.payload


def test_the_bodies_of_the_messages() -> None:
    assert PageRequest(read=1, write=1, last=1, group=0x1FF, page=0xDEADB).encode() == bytes.fromhex("00000000deadbfff")
    assert PageRequest(read=0, write=1, last=0, group=1, page=0).encode() == bytes.fromhex("000000000000000a")
    response = PageResponse(destination=0x0108, group=0x105, code=ResponseCode.FAILURE)
    assert response.encode() == bytes.fromhex("0108f10500000000")
    done = InvalidationDone(destination=0x0008, completions=1, itags=1 << 31)
    assert done.encode() == bytes.fromhex("0008000180000000")
    assert Translation(read=1, write=1, page=0x12345).encode() == bytes.fromhex("0000000012345003")
    assert Translation(untranslated_only=1, no_snoop=1, large=1).encode() == bytes.fromhex("0000000000000c04")
    assert Invalidation(page=3, large=1).encode() == bytes.fromhex("0000000000003800")


def test_the_messages_around_them() -> None:
    assert page_request(0x0108, PageRequest()).header[:8] == bytes.fromhex("3000000001080004")
    assert page_response(0x0008, PageResponse(destination=0x0108)).header[:8] == bytes.fromhex("3200000000080005")
    request = invalidate_request(0x0008, 0x0108, 5, Invalidation(page=1))
    assert request.header == bytes.fromhex("72000002" + "00080501" + "0108000000000000")
    assert request.payload == bytes.fromhex("0000000000001000")
    completion = invalidate_completion(0x0108, InvalidationDone(destination=0x0008, itags=1 << 5))
    assert completion.header == bytes.fromhex("32000000" + "01080002" + "0008000100000020")


@pytest.mark.parametrize(
    ("page", "large", "pages"),
    [
        (5, 0, range(5, 6)),
        (0, 1, range(2)),
        (4, 1, range(4, 6)),
        (1, 1, range(4)),
        (0xB, 1, range(8, 16)),
        ((1 << 52) - 1, 1, range(1 << 53)),
    ],
)
def test_the_lowest_clear_page_bit_says_how_much_is_invalidated(page: int, large: int, pages: range) -> None:
    assert Invalidation(page=page, large=large).pages == pages


@given(WORDS)
def test_what_travels_is_what_was_said(word: int) -> None:
    for layout in (Translation, PageRequest, PageResponse, Invalidation, InvalidationDone):
        item = layout.decode(word.to_bytes(8, "big"))
        assert layout.decode(item.encode()) == item


@pytest.mark.parametrize(("address", "pages"), [(1, 1), (0, 0), (0, MAX_TRANSLATIONS + 1), (-4096, 1), (1 << 64, 1)])
def test_a_request_that_cannot_travel_is_not_built(address: int, pages: int) -> None:
    with pytest.raises(Misuse):
        translation_request(0, address, pages, no_write=False)


class Agent:
    """An agent that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.translated = self

    def translate(
        self, requester_id: int, address: int, pages: int, no_write: bool, t_bit: bool, stream_id: int | None
    ) -> Reply:
        self.asked.append((address, pages, no_write, t_bit, stream_id))
        return DONE

    def receive(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
        self.asked.append((tlp.message().code,))
        return DONE

    def dma_read(self, requester_id: int, address: int, size: int, t_bit: bool, stream_id: int | None = None) -> Reply:
        self.asked.append(("read", address, size))
        return Reply(CompletionStatus.SC, bytes(size))

    def dma_write(
        self, requester_id: int, address: int, data: bytes, t_bit: bool, stream_id: int | None = None
    ) -> CompletionStatus:
        self.asked.append(("write", address, data))
        return CompletionStatus.UR if data == b"bad!" else CompletionStatus.SC


def _retyped(tlp: Tlp, kind: int) -> Tlp:
    return tlp._replace(header=tlp.header[:2] + bytes([tlp.header[2] & 0xF3 | kind << 2]) + tlp.header[3:])


def test_an_agent_is_asked_what_concerns_it() -> None:
    agent = Agent()
    asked = (
        (translation_request(1, 0x3000, 4, no_write=True), (0x3000, 4, True, True, 5)),
        (translated(memory_read(1, 0, 0x3004, 8)), ("read", 0x3004, 8)),
        (translated(memory_write(1, 0, 0x3001, b"ab")), ("write", 0x3001, b"ab")),
        (page_request(1, PageRequest()), (4,)),
        (invalidate_completion(1, InvalidationDone(destination=8)), (2,)),
    )
    for tlp, expected in asked:
        assert concerns_translation(tlp)
        assert serve_translation(agent, tlp, True, 5).ok
        assert agent.asked == [expected]
        agent.asked.clear()
        assert serve_translation(None, tlp, True, 5) == UNSUPPORTED
    assert not concerns_translation(memory_read(1, 0, 0x3000, 8))
    assert not serve_translation(agent, translated(memory_write(1, 0, 0x3000, b"bad!")), False, None).ok


@pytest.mark.parametrize(
    "tlp",
    [
        _retyped(memory_write(1, 0, 0x3000, b"12345678"), AddressType.TRANSLATION_REQUEST),
        _retyped(memory_read(1, 0, 0x3000, 4), AddressType.TRANSLATION_REQUEST),
        _retyped(memory_read(1, 0, 0x3000, 12), AddressType.TRANSLATION_REQUEST),
        _retyped(memory_read(1, 0, 0x3000, 7), AddressType.TRANSLATION_REQUEST),
        _retyped(memory_read(1, 0, 0x3000, 8), 3),
    ],
    ids=["a write", "half an entry", "an entry and a half", "byte enables", "reserved address type"],
)
def test_requests_that_make_no_sense_reach_no_agent(tlp: Tlp) -> None:
    agent = Agent()
    assert tlp.type in (TlpType.MRD, TlpType.MWR)
    assert serve_translation(agent, tlp, False, None) == UNSUPPORTED
    assert agent.asked == []
