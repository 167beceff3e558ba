"""pcap files: round trips, both byte orders, and files that end or lie."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeio.capture.pcap import (
    MAX_FRAME,
    LinkType,
    PcapWriter,
    packet,
    read_pcap,
    write_pcap,
)
from teeio.errors import DecodeError, Misuse
from teeio.observe import FrameMoved, StateChanged

FRAMES = [(b"first", 1.5), (b"", 2.000001), (b"x" * 70000, 3.0)]
FILE = write_pcap(LinkType.PCI_DOE, FRAMES)


@given(
    st.sampled_from(LinkType),
    st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 2**32 * 10**6 - 1)), max_size=6),
)
def test_what_is_written_is_read(link_type: LinkType, frames: list[tuple[bytes, int]]) -> None:
    capture = read_pcap(write_pcap(link_type, [(data, micros / 10**6) for data, micros in frames]))
    assert capture.link_type is link_type
    assert capture.problem is None
    assert [(frame.number, frame.data) for frame in capture.frames] == [
        (number, data) for number, (data, _) in enumerate(frames, 1)
    ]
    for frame, (_, micros) in zip(capture.frames, frames, strict=True):
        assert abs(frame.time - micros * 1000) <= 1000


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "scale"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_both_byte_orders_and_resolutions(order: str, magic: int, scale: int) -> None:
    data = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65536, 291)
    data += struct.pack(f"{order}IIII", 7, 5, 3, 3) + b"abc"
    capture = read_pcap(data)
    assert capture.link_type is LinkType.MCTP
    assert [(frame.time, frame.data) for frame in capture.frames] == [(7 * 10**9 + 5 * scale, b"abc")]


def test_the_header_is_what_other_tools_expect() -> None:
    made = write_pcap(LinkType.PCI_DOE, FRAMES[:2])
    assert made[:24] == struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65536, 292)
    assert made[24:45] == struct.pack("<IIII", 1, 500000, 5, 5) + b"first"


def test_the_header_never_says_less_than_the_largest_frame() -> None:
    assert struct.unpack_from("<I", FILE, 16) == (70_000,)


@pytest.mark.parametrize("size", [*range(70), len(FILE) - 1])
def test_a_file_may_end_anywhere(size: int) -> None:
    if size < 24:
        with pytest.raises(DecodeError, match=r"Pcap\.header at byte 0") as caught:
            read_pcap(FILE[:size])
        assert caught.value.remedy
        return
    capture = read_pcap(FILE[:size])
    whole = [24, 24 + 16 + 5, 24 + 2 * 16 + 5]
    assert len(capture.frames) == sum(size >= end for end in whole) - 1
    assert (capture.problem is None) == (size in whole)
    if capture.problem is not None:
        assert f"frame {len(capture.frames) + 1}" in str(capture.problem)
        assert capture.problem.remedy


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((0, b"\x0a\x0d\x0d\x0a"), "pcapng"),
        ((0, b"\x7fELF"), "does not begin a pcap file"),
        ((4, b"\x03"), "version_major at byte 4"),
        ((20, b"\x01\x00"), "neither 291 nor 292"),
    ],
)
def test_files_of_another_kind_are_refused(change: tuple[int, bytes], said: str) -> None:
    at, value = change
    with pytest.raises(DecodeError, match=said) as caught:
        read_pcap(FILE[:at] + value + FILE[at + len(value) :])
    assert caught.value.remedy


def test_a_frame_that_claims_too_much_ends_the_reading() -> None:
    capture = read_pcap(FILE[:32] + (MAX_FRAME + 1).to_bytes(4, "little") + FILE[36:])
    assert capture.frames == ()
    assert "at most" in str(capture.problem)


def test_frames_too_large_are_not_written() -> None:
    with pytest.raises(Misuse):
        packet(bytes(MAX_FRAME + 1), 0.0)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_capture_or_a_decode_error(tail: bytes) -> None:
    assert read_pcap(FILE[:24] + tail).link_type is LinkType.PCI_DOE
    with pytest.raises(DecodeError):
        read_pcap(b"\0" + tail)


@pytest.mark.parametrize(("link_type", "before"), [(291, bytes.fromhex("000000c0")), (292, b"")])
def test_the_writer_observes(link_type: int, before: bytes) -> None:
    writer = PcapWriter(link_type)
    writer(FrameMoved("a", "b", b"frame", 4.25))
    writer(StateChanged("s", "x", "y", "z"))
    capture = read_pcap(writer.data())
    assert [(frame.data, frame.time) for frame in capture.frames] == [(before + b"frame", 4_250_000_000)]
