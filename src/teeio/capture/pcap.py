"""Classic pcap files with the link types of MCTP (291) and PCI DOE (292).

Follows the file format of libpcap (draft-ietf-opsawg-pcap) in both byte orders and both timestamp resolutions. Leaves
out every other link type; `pcapng` reads files of that format.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TypeVar

from teeio import mctp
from teeio.errors import DecodeError, Misuse
from teeio.observe import Event, FrameMoved
from teeio.wire import NO_FACTS, Record, record, reserved, u16, u32

MAGIC_MICROSECONDS = 0xA1B2C3D4
MAGIC_NANOSECONDS = 0xA1B23C4D
PCAPNG_MAGIC = 0x0A0D0D0A
VERSION = (2, 4)
FILE_HEADER_SIZE = 24
PACKET_HEADER_SIZE = 16
MAX_FRAME = 1 << 21
"""Largest frame taken: twice the largest DOE data object (2^18 DWs)."""

USUAL_SNAP_LENGTH = 1 << 16
"""What a written header says unless a frame is larger: the DMTF reference dissector takes no file that says more."""

_NOT_PCAP = "give a pcap or pcapng file with link type 291 (MCTP) or 292 (PCI DOE)"


R = TypeVar("R", bound=Record)


class LinkType(IntEnum):
    """Link types that are read and written (tcpdump's registry)."""

    MCTP = mctp.LINK_TYPE
    PCI_DOE = 292


@record
class FileHeader(Record):
    """The header of the file, here in the little-endian order."""

    magic: int = u32("Byte order and timestamp resolution", default=MAGIC_MICROSECONDS)
    version_major: int = u16("Major version", default=VERSION[0])
    version_minor: int = u16("Minor version", default=VERSION[1])
    _time_zone: None = reserved(8)
    snap_length: int = u32("Largest frame that the writer keeps", default=USUAL_SNAP_LENGTH)
    link_type: LinkType = u32("Link type", enum=LinkType)


@record
class PacketHeader(Record):
    """The header of one frame, here in the little-endian order."""

    seconds: int = u32("Time, seconds since 1970")
    fraction: int = u32("Time, micro- or nanoseconds")
    captured_length: int = u32("Bytes that follow")
    original_length: int = u32("Bytes of the frame on the link")


def _big_endian(cls: type[R]) -> type[R]:
    """Give the same layout with every integer in network order."""
    fields = tuple(replace(field, big=True) for field in cls.FIELDS)
    return type(cls.__name__, (cls,), {"__slots__": (), "FIELDS": fields, "_codecs": {}})


_FILE_HEADERS: dict[str, type[FileHeader]] = {"little": FileHeader, "big": _big_endian(FileHeader)}
_PACKET_HEADERS: dict[str, type[PacketHeader]] = {"little": PacketHeader, "big": _big_endian(PacketHeader)}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: `number` counts from 1, `time` is in nanoseconds since 1970, `interface` is an index from 0."""

    number: int
    data: bytes
    time: int = 0
    interface: int = 0


@dataclass(frozen=True, slots=True)
class Interface:
    """Where frames were taken; a classic file has one, without a name."""

    link_type: LinkType
    name: str = ""


@dataclass(frozen=True, slots=True)
class Capture:
    """The frames of a file; `problem` says why reading ended before the end of the file, or is None.

    `left_out` counts frames of interfaces with link types that are not read.
    """

    interfaces: tuple[Interface, ...]
    frames: tuple[Frame, ...]
    problem: DecodeError | None = None
    left_out: int = 0

    @property
    def link_type(self) -> LinkType:
        """The link type of the first interface."""
        return self.interfaces[0].link_type


def read_pcap(data: bytes) -> Capture:
    """Read a pcap file. Raises `DecodeError` if its header cannot be read.

    A frame that is cut short ends the reading; the frames before it are given with the problem.
    """
    data = bytes(data)
    order, scale = _flavour(data)
    header = _FILE_HEADERS[order].decode_prefix(data)[0]
    if header.version_major != VERSION[0]:
        reason = f"is {header.version_major}, must be {VERSION[0]}"
        raise DecodeError("Pcap", "version_major", 4, reason, remedy=_NOT_PCAP)
    if not isinstance(header.link_type, LinkType):
        raise DecodeError("Pcap", "link_type", 20, f"{header.link_type} is neither 291 nor 292", remedy=_NOT_PCAP)
    frames: list[Frame] = []
    problem = None
    try:
        _read_frames(data, _PACKET_HEADERS[order], scale, frames)
    except DecodeError as error:
        problem = error
    return Capture((Interface(header.link_type),), tuple(frames), problem)


def _flavour(data: bytes) -> tuple[str, int]:
    """Give the byte order and the nanoseconds of one unit of time fractions."""
    if len(data) < FILE_HEADER_SIZE:
        raise DecodeError("Pcap", "header", 0, f"needs {FILE_HEADER_SIZE} bytes, has {len(data)}", remedy=_NOT_PCAP)
    for order in ("little", "big"):
        magic = int.from_bytes(data[:4], "little" if order == "little" else "big")
        if magic in (MAGIC_MICROSECONDS, MAGIC_NANOSECONDS):
            return order, 1000 if magic == MAGIC_MICROSECONDS else 1
        if magic == PCAPNG_MAGIC:
            raise DecodeError("Pcap", "magic", 0, "this is a pcapng file", remedy="read it with `read_capture`")
    raise DecodeError("Pcap", "magic", 0, f"{data[:4].hex()} does not begin a pcap file", remedy=_NOT_PCAP)


def _read_frames(data: bytes, layout: type[PacketHeader], scale: int, frames: list[Frame]) -> None:
    decode = layout.codec(0).decode
    at, end = FILE_HEADER_SIZE, len(data)
    while at < end:
        number = len(frames) + 1
        if end - at < PACKET_HEADER_SIZE:
            raise _cut_short(number, at, f"its header needs {PACKET_HEADER_SIZE} bytes, {end - at} are left")
        header, start = decode(data, at, end, NO_FACTS)
        size = header.captured_length
        if size > MAX_FRAME:
            raise _cut_short(number, at + 8, f"it claims {size} bytes, at most {MAX_FRAME} are taken")
        if size > end - start:
            raise _cut_short(number, at + 8, f"it needs {size} bytes, {end - start} are left")
        frames.append(Frame(number, data[start : start + size], header.seconds * 10**9 + header.fraction * scale))
        at = start + size


def _cut_short(number: int, offset: int, reason: str) -> DecodeError:
    remedy = "the frames before it are shown; capture again if the rest matters"
    return DecodeError("Pcap", f"frame {number}", offset, reason, remedy=remedy)


def pcap_file(link_type: LinkType, packets: Sequence[bytes]) -> bytes:
    """Give the file of these records, in little-endian order with microseconds, as every reader takes it."""
    largest = max(map(len, packets), default=0) - PACKET_HEADER_SIZE
    header = FileHeader(link_type=link_type, snap_length=max(USUAL_SNAP_LENGTH, largest))
    return header.encode() + b"".join(packets)


def packet(frame: bytes, at: float) -> bytes:
    """Give the record of one frame as it crosses the link, taken at `at` seconds since 1970."""
    if len(frame) > MAX_FRAME:
        raise Misuse(f"a frame of {len(frame)} bytes cannot be written, at most {MAX_FRAME}")
    micros = max(0, round(at * 1_000_000))
    header = PacketHeader(
        seconds=micros // 1_000_000 & 0xFFFFFFFF,
        fraction=micros % 1_000_000,
        captured_length=len(frame),
        original_length=len(frame),
    )
    return header.encode() + frame


def write_pcap(link_type: LinkType, frames: Iterable[tuple[bytes, float]]) -> bytes:
    """Give a whole file of (frame, seconds) pairs."""
    return pcap_file(link_type, [packet(frame, at) for frame, at in frames])


class PcapWriter:
    """Collects frames as they cross the link and gives the pcap file of them; it can observe.

    An MCTP message has no transport header there; a fixed one is put before it, as readers of link type 291 expect.
    """

    def __init__(self, link_type: int) -> None:
        self.link_type = LinkType(link_type)
        self._prefix = mctp.MctpHeader().encode() if self.link_type is LinkType.MCTP else b""
        self._packets: list[bytes] = []

    def add(self, frame: bytes, at: float) -> None:
        """Add a frame that crossed the link at `at` seconds since 1970."""
        self._packets.append(packet(self._prefix + frame, at))

    def __call__(self, event: Event) -> None:
        """Observe: add every `FrameMoved`."""
        if isinstance(event, FrameMoved):
            self.add(event.frame, event.at)

    def data(self) -> bytes:
        """Give the file of all frames so far."""
        return pcap_file(self.link_type, self._packets)
