"""TLPs: the Fmt/Type table, byte enables, round trips, and malformed packets."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeio.errors import DecodeError, Misuse
from teeio.pcie.ide_tlp import failed_stream, ide_fail, ide_sync, message_code, sync_counters
from teeio.pcie.tlp import (
    TYPES,
    CompletionStatus,
    MessageCode,
    Routing,
    SubStream,
    Tlp,
    TlpType,
    byte_enables,
    completion,
    config_read,
    config_write,
    memory_read,
    memory_write,
    message,
)

ADDRESSES = st.integers(0, (1 << 64) - 4096)


def inside_page(address: int, size: int) -> int:
    return min(size, 4096 - address % 4096)


@pytest.mark.parametrize(
    ("first", "kind", "sub_stream"),
    [
        (0x00, TlpType.MRD, SubStream.NPR),
        (0x20, TlpType.MRD, SubStream.NPR),
        (0x40, TlpType.MWR, SubStream.PR),
        (0x60, TlpType.MWR, SubStream.PR),
        (0x04, TlpType.CFGRD0, SubStream.NPR),
        (0x45, TlpType.CFGWR1, SubStream.NPR),
        (0x0A, TlpType.CPL, SubStream.CPL),
        (0x4A, TlpType.CPLD, SubStream.CPL),
        (0x34, TlpType.MSG_LOCAL, SubStream.PR),
        (0x32, TlpType.MSG_ID, SubStream.PR),
        (0x72, TlpType.MSGD_ID, SubStream.PR),
        (0x5B, TlpType.DMWR, SubStream.NPR),
    ],
)
def test_first_byte_of_the_header(first: int, kind: TlpType, sub_stream: SubStream) -> None:
    assert TYPES[first] is kind
    assert kind.value.sub_stream is sub_stream


@given(ADDRESSES, st.integers(1, 4096), st.integers(0, 0xFFFF), st.integers(0, 255))
def test_memory_requests_round_trip(address: int, size: int, requester_id: int, tag: int) -> None:
    size = inside_page(address, size)
    data = bytes(n % 251 + 1 for n in range(size))
    write = Tlp.decode(memory_write(requester_id, tag, address, data).encode())
    header = write.memory()
    assert (header.requester_id, header.tag, header.span) == (requester_id, tag, (address, size))
    assert header.enabled(write.payload) == [(address, data)]
    assert len(write.header) == (16 if address >> 32 else 12)
    read = Tlp.decode(memory_read(requester_id, tag, address, size).encode())
    assert read.memory().span == (address, size)
    assert read.requester_id == requester_id


@given(ADDRESSES, st.integers(1, 4096))
def test_byte_enables_are_contiguous(address: int, size: int) -> None:
    dwords, first, last = byte_enables(address, inside_page(address, size))
    assert 1 <= dwords <= 1024
    assert first
    assert bool(last) == (dwords > 1)


def test_scattered_byte_enables_are_written_one_run_at_a_time() -> None:
    write = memory_write(0x100, 0, 0x1000, bytes(range(8)))
    scattered = write._replace(header=write.header[:7] + bytes([0b0110_1001]) + write.header[8:])
    runs = scattered.memory().enabled(scattered.payload)
    assert runs == [(0x1000, b"\0"), (0x1003, b"\3"), (0x1005, b"\5\6")]


@pytest.mark.parametrize("dwords", [1, 2, 3])
def test_a_write_lets_through_what_its_byte_enables_say(dwords: int) -> None:
    payload = bytes(range(4 * dwords))
    write = memory_write(0x100, 0, 0x1000, payload)
    for enables in range(256):
        first, last = enables & 0xF, enables >> 4
        masks = [first] if dwords == 1 else [first, *[0xF] * (dwords - 2), last]
        through = {0x1000 + 4 * dw + n: 4 * dw + n for dw, mask in enumerate(masks) for n in range(4) if mask >> n & 1}
        header = write._replace(header=write.header[:7] + bytes([enables]) + write.header[8:]).memory()
        assert {at + n: byte for at, run in header.enabled(payload) for n, byte in enumerate(run)} == through


def test_a_read_of_nothing_asks_for_one_dw_without_bytes() -> None:
    header = memory_read(0x100, 0, 0x1000, 0).memory()
    assert (header.dwords, header.span) == (1, (0x1000, 0))


@pytest.mark.parametrize(("address", "size"), [(0xFFF, 2), (0, 4097), (4000, 200), (-1, 1), ((1 << 64) - 1, 2)])
def test_requests_across_a_page_are_refused(address: int, size: int) -> None:
    with pytest.raises(Misuse, match="4 KiB"):
        memory_read(0x100, 0, address, size)


@pytest.mark.parametrize("status", list(CompletionStatus)[:4])
def test_completions_round_trip(status: CompletionStatus) -> None:
    tlp = Tlp.decode(completion(0x100, 0x8, 7, status=status).encode())
    header = tlp.completion()
    assert (tlp.type, header.status, header.tag, tlp.requester_id) == (TlpType.CPL, status, 7, 0x8)
    data = Tlp.decode(completion(0x100, 0x8, 7, bytes(4096), lower_address=0x1C4).encode()).completion()
    assert (data.byte_count, data.lower_address, data.completer_id) == (0, 0x44, 0x100)


def test_a_timeout_never_travels() -> None:
    with pytest.raises(Misuse):
        completion(0x100, 0x8, 7, status=CompletionStatus.TIMEOUT)


@pytest.mark.parametrize(("offset", "size", "enables"), [(0, 4, 15), (4, 2, 3), (6, 2, 12), (0xFFF, 1, 8)])
def test_configuration_requests(offset: int, size: int, enables: int) -> None:
    tlp = Tlp.decode(config_write(8, 1, 0x1EA, offset, size, 0xDDCCBBAA & (1 << 8 * size) - 1).encode())
    header = tlp.configuration()
    assert (header.first_be, header.register, header.target_id) == (enables, offset // 4, 0x1EA)
    at = offset % 4
    assert tlp.payload[at : at + size] == bytes.fromhex("aabbccdd")[:size]
    assert Tlp.decode(config_read(8, 1, 0x1EA, offset, size, type_1=True).encode()).type is TlpType.CFGRD1


@pytest.mark.parametrize(("offset", "size"), [(1, 2), (2, 4), (0, 3), (4096, 1), (0, 8)])
def test_configuration_accesses_that_cannot_be(offset: int, size: int) -> None:
    with pytest.raises(Misuse):
        config_read(8, 1, 0x100, offset, size)


@pytest.mark.parametrize("tag", [0, 1, 0x7F, 0xFF])
def test_another_tag_is_all_that_changes(tag: int) -> None:
    assert config_read(8, 0, 0x100, 4).with_tag(tag) == config_read(8, tag, 0x100, 4)
    assert config_write(8, 3, 0x100, 4, 4, 5).with_tag(tag) == config_write(8, tag, 0x100, 4, 4, 5)
    for address in (0x1000, 0x1_0000_0000):
        assert memory_read(8, 1, address, 64).with_tag(tag) == memory_read(8, tag, address, 64)


@pytest.mark.parametrize(("destination", "first"), [(0x100, 0x32), (None, 0x34)])
def test_ide_messages(destination: int | None, first: int) -> None:
    sync, fail = ide_sync(0x8, destination, 245, 3, 1), ide_fail(0x8, destination, 0xAB)
    for tlp in (sync, fail):
        assert Tlp.decode(tlp.encode()) == tlp
        assert tlp.header[0] == first
        assert tlp.message().body[:2] == (destination or 0).to_bytes(2, "big")
    assert (sync.header[7], fail.header[7]) == (0x54, 0x55)
    assert sync_counters(sync) == (245, 3)
    assert sync.traffic_class == 1
    assert failed_stream(fail) == 0xAB
    assert message_code(sync) == MessageCode.IDE_SYNC
    assert message_code(memory_read(8, 0, 0, 4)) is None
    with pytest.raises(DecodeError):
        sync_counters(fail)


SAMPLES = [
    memory_write(0x100, 1, 0x1_0000_0000, bytes(64)),
    memory_read(0x100, 1, 0xFEC0_0004, 12),
    completion(0x100, 8, 1, bytes(16)),
    config_write(8, 1, 0x100, 0x10, 4, 0xFFFFFFFF),
    message(8, 0x7F, Routing.TO_ROOT_COMPLEX, data=bytes(8)),
    memory_write(0x100, 1, 0x4, bytes(4))._replace(prefixes=bytes.fromhex("91000001")),
]


@pytest.mark.parametrize("tlp", SAMPLES)
def test_what_is_encoded_decodes(tlp: Tlp) -> None:
    assert Tlp.decode(tlp.encode()) == tlp


@given(st.sampled_from(SAMPLES), st.data())
def test_mutated_bytes_raise_only_decode_errors(tlp: Tlp, data: st.DataObject) -> None:
    frame = bytearray(tlp.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(frame[: data.draw(st.integers(0, len(frame)))]) + data.draw(st.binary(max_size=8))
    with contextlib.suppress(DecodeError):
        decoded = Tlp.decode(cut)
        for view in (decoded.memory, decoded.completion, decoded.configuration, decoded.message):
            with contextlib.suppress(DecodeError):
                view()
        assert decoded.encode() == cut


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ("", "needs 12"),
        ("1f" + "00" * 11, "no Fmt"),
        ("2000000101000000" + "00" * 4, "needs 16"),
        ("0000000101000010" + "00" * 4, "does not go with"),
        ("000000020100000f" + "00" * 4, "does not go with"),
        ("00000002010000ff" + "00000ffc", "4 KiB"),
        ("0000800101000000" + "00" * 4, "ECRC"),
        ("400000010100000f" + "00" * 4, "payload"),
    ],
)
def test_malformed(frame: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        Tlp.decode(bytes.fromhex(frame))


def test_headers_that_many_look_at_cannot_be_changed() -> None:
    """The same bytes give the same object, so one reader's change would be every later reader's header."""
    for header in (
        memory_read(0x100, 1, 0x1000, 4).memory(),
        config_read(0x8, 1, 0x100, 0).configuration(),
        completion(0x100, 0x8, 1, bytes(4)).completion(),
    ):
        with pytest.raises(Misuse):
            header.requester_id = 0x666
        with pytest.raises(Misuse):
            header.common.poisoned = 1
