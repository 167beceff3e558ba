"""pcapng files, which most tools write, with the link types of MCTP and PCI DOE (draft-ietf-opsawg-pcapng).

Sections of both byte orders, interfaces with their names and time resolutions, enhanced, simple and old packet blocks
are read. Interfaces tell devices apart where the frames do not: a DOE data object names nobody. Every other block is
passed over, and so are the frames of interfaces with other link types.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from teeio.capture.pcap import MAX_FRAME, PCAPNG_MAGIC, Capture, Frame, Interface, LinkType, read_pcap
from teeio.errors import DecodeError

SECTION, INTERFACE, OLD_PACKET, SIMPLE_PACKET, ENHANCED_PACKET = PCAPNG_MAGIC, 1, 2, 3, 6
BYTE_ORDER_MAGIC = 0x1A2B3C4D
MAX_INTERFACES = 1 << 16

_END_OF_OPTIONS, _NAME, _RESOLUTION = 0, 2, 9
_BLOCK_SIZE = 12
"""Bytes of a block without a body: type, length, length again."""

_REMEDY = "the frames before it are shown; capture again if the rest matters"
_LINK_TYPES = frozenset(int(known) for known in LinkType)


@dataclass(frozen=True, slots=True)
class _Source:
    """An interface of the section: its index in the capture, None if its link type is not read; units a second."""

    index: int | None
    units: int
    snap_length: int


@dataclass(slots=True)
class _Reading:
    """What has been read so far."""

    order: str = "little"
    sources: list[_Source] = field(default_factory=list)
    interfaces: list[Interface] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    packets: int = 0
    left_out: int = 0

    def number(self, data: bytes, at: int, size: int) -> int:
        """Read an integer in the byte order of the section."""
        return int.from_bytes(data[at : at + size], "little" if self.order == "little" else "big")


def read_capture(data: bytes) -> Capture:
    """Read a pcap or a pcapng file. Raises `DecodeError` if it is neither, or has no interface that is read.

    A block that is cut short or damaged ends the reading; the frames before it are given with the problem. Frames are
    numbered over the whole file, those left out among them.
    """
    data = bytes(data)
    if int.from_bytes(data[:4], "little") != PCAPNG_MAGIC:
        return read_pcap(data)
    reading = _Reading()
    problem = None
    try:
        for kind, at, end in _blocks(data, reading):
            _take(reading, kind, data, at, end)
    except DecodeError as error:
        problem = error
    if not reading.interfaces:
        remedy = "give a capture with link type 291 (MCTP) or 292 (PCI DOE)"
        raise problem or DecodeError("Pcapng", "interfaces", 0, "none has link type 291 or 292", remedy=remedy)
    return Capture(tuple(reading.interfaces), tuple(reading.frames), problem, reading.left_out)


def _blocks(data: bytes, reading: _Reading) -> Iterator[tuple[int, int, int]]:
    """Yield the type of each block with the bounds of its body."""
    at = 0
    while at < len(data):
        left = len(data) - at
        if left < _BLOCK_SIZE:
            raise DecodeError("Pcapng", "block", at, f"needs {_BLOCK_SIZE} bytes, {left} are left", remedy=_REMEDY)
        if int.from_bytes(data[at : at + 4], "little") == SECTION:
            _begin_section(reading, data, at)
        kind, size = reading.number(data, at, 4), reading.number(data, at + 4, 4)
        if size < _BLOCK_SIZE or size % 4 or size > left:
            reason = f"says {size} bytes, {left} are left" if size > left else f"says {size} bytes, which no block has"
            raise DecodeError("Pcapng", "block_length", at + 4, reason, remedy=_REMEDY)
        if reading.number(data, at + size - 4, 4) != size:
            raise DecodeError("Pcapng", "block_length", at + size - 4, "differs from that before", remedy=_REMEDY)
        yield kind, at + 8, at + size - 4
        at += size


def _begin_section(reading: _Reading, data: bytes, at: int) -> None:
    for order in ("little", "big"):
        reading.order = order
        if reading.number(data, at + 8, 4) == BYTE_ORDER_MAGIC:
            break
    else:
        raise DecodeError("Pcapng", "byte_order_magic", at + 8, f"is {data[at + 8 : at + 12].hex()}", remedy=_REMEDY)
    reading.sources = []


def _take(reading: _Reading, kind: int, data: bytes, at: int, end: int) -> None:
    if kind == INTERFACE:
        _need(at, end, 8, "interface")
        _add_interface(reading, data, at, end)
    elif kind == ENHANCED_PACKET:
        _need(at, end, 20, "packet")
        words = [reading.number(data, at + offset, 4) for offset in (0, 4, 8, 12)]
        _add_frame(reading, words[0], words[1] << 32 | words[2], words[3], data, at + 20, end)
    elif kind == OLD_PACKET:
        _need(at, end, 20, "packet")
        stamp = reading.number(data, at + 4, 4) << 32 | reading.number(data, at + 8, 4)
        _add_frame(reading, reading.number(data, at, 2), stamp, reading.number(data, at + 12, 4), data, at + 20, end)
    elif kind == SIMPLE_PACKET:
        _need(at, end, 4, "packet")
        limit = reading.sources[0].snap_length if reading.sources else 0
        size = min(reading.number(data, at, 4), limit or MAX_FRAME, end - at - 4)
        _add_frame(reading, 0, 0, size, data, at + 4, end)


def _need(at: int, end: int, size: int, what: str) -> None:
    if end - at < size:
        raise DecodeError("Pcapng", what, at, f"needs {size} bytes, has {end - at}", remedy=_REMEDY)


def _add_interface(reading: _Reading, data: bytes, at: int, end: int) -> None:
    if len(reading.sources) >= MAX_INTERFACES:
        raise DecodeError("Pcapng", "interface", at, f"is one more than {MAX_INTERFACES}", remedy=_REMEDY)
    link_type, snap_length = reading.number(data, at, 2), reading.number(data, at + 4, 4)
    name, units = "", 10**6
    for code, value in _options(reading, data, at + 8, end):
        if code == _NAME:
            name = value.decode("utf-8", "replace").rstrip("\0")
        elif code == _RESOLUTION and value:
            # Above 64 binary or 19 decimal digits no 64-bit stamp makes sense.
            units = 2 ** min(value[0] & 0x7F, 64) if value[0] & 0x80 else 10 ** min(value[0], 19)
    index = None
    if link_type in _LINK_TYPES:
        index = len(reading.interfaces)
        reading.interfaces.append(Interface(LinkType(link_type), name))
    reading.sources.append(_Source(index, units, snap_length))


def _options(reading: _Reading, data: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    while end - at >= 4:
        code, size = reading.number(data, at, 2), reading.number(data, at + 2, 2)
        if code == _END_OF_OPTIONS or size > end - at - 4:
            return
        yield code, data[at + 4 : at + 4 + size]
        at += 4 + size + -size % 4


def _add_frame(reading: _Reading, source: int, stamp: int, size: int, data: bytes, at: int, end: int) -> None:
    number = reading.packets + 1
    if source >= len(reading.sources):
        raise DecodeError("Pcapng", f"frame {number}", at, f"is of interface {source}, not declared", remedy=_REMEDY)
    if size > end - at or size > MAX_FRAME:
        reason = f"claims {size} bytes, {min(end - at, MAX_FRAME)} can be taken"
        raise DecodeError("Pcapng", f"frame {number}", at, reason, remedy=_REMEDY)
    reading.packets = number
    where = reading.sources[source]
    if where.index is None:
        reading.left_out += 1
        return
    time = stamp * 10**9 // where.units
    reading.frames.append(Frame(number, data[at : at + size], time, where.index))
