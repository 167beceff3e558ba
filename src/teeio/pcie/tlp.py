"""Transaction layer packets in Non-Flit Mode, as bytes (PCIe Base 2.2).

A `Tlp` is its End-End prefixes, its header and its payload, as they travel. What each Fmt/Type means says
`tlp_types`; the header layouts are those of `tlp_headers`. Decoding raises nothing but `DecodeError`.

Left out: ECRC (IDE forbids it), Local prefixes, 10-bit tags, TPH, I/O and AtomicOp constructors.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from teeio.errors import DecodeError, Misuse
from teeio.pcie.tlp_headers import (
    Common,
    CompletionHeader,
    CompletionStatus,
    ConfigurationHeader,
    MemoryHeader,
    MessageCode,
    MessageHeader,
)
from teeio.pcie.tlp_types import CONFIGURATION, TYPE_0, TYPES, Routing, SubStream, TlpType
from teeio.wire import frozen

__all__ = [
    "CONFIGURATION",
    "MAX_PAYLOAD",
    "PAGE",
    "TYPES",
    "TYPE_0",
    "CompletionStatus",
    "MessageCode",
    "Routing",
    "SubStream",
    "Tlp",
    "TlpType",
    "byte_enables",
    "completion",
    "config_read",
    "config_write",
    "header_sizes",
    "memory_read",
    "memory_write",
    "message",
]

PAGE = 4096
MAX_PAYLOAD = 4096
MAX_PREFIXES = 4


_END_END_PREFIX = range(0x90, 0xA0)

_BUS_AT = 8
"""Where the target's bus number lies in the header of a configuration request."""
_TAG_AT = next(span.start for span in ConfigurationHeader.spans(bytes(12)) if span.field == "tag")
"""Where the tag lies in the header of a request: in the same place in all of them."""
_BYTES = [bytes([value]) for value in range(256)]

# -- the packet --------------------------------------------------------------------------------------------


class Tlp(NamedTuple):
    """A TLP as it travels.

    `header` is 12 or 16 bytes, `payload` whole DWs, `prefixes` the End-End prefixes other than IDE's.
    """

    header: bytes
    payload: bytes = b""
    prefixes: bytes = b""

    @classmethod
    def decode(cls, data: bytes) -> Tlp:
        """Decode a TLP that carries no IDE prefix. Raises `DecodeError`."""
        data, prefixes = bytes(data), 0
        while len(data) > prefixes and data[prefixes] in _END_END_PREFIX and prefixes < 4 * MAX_PREFIXES:
            prefixes += 4
        size, length = header_sizes(data, prefixes)
        end = prefixes + size
        if len(data) != end + length:
            raise DecodeError("Tlp", "payload", end, f"has {len(data) - end} bytes, its header says {length}")
        tlp = cls(data[prefixes:end], data[end:], data[:prefixes])
        tlp.check()
        return tlp

    def encode(self) -> bytes:
        """Give the bytes on the wire, without IDE."""
        return self.prefixes + self.header + self.payload

    @property
    def type(self) -> TlpType:
        """What the TLP is."""
        return TYPES[self.header[0]]

    @property
    def sub_stream(self) -> SubStream:
        """The flow-control class, which is the IDE sub-stream."""
        return TYPES[self.header[0]].sub_stream

    @property
    def traffic_class(self) -> int:
        """TC."""
        return self.header[1] >> 4 & 7

    @property
    def requester_id(self) -> int:
        """Requester ID; of a completion: whom it is for."""
        header = self.header
        at = 8 if TYPES[header[0]].is_completion else 4
        return header[at] << 8 | header[at + 1]

    def memory(self) -> MemoryHeader:
        """Read the header of a memory request, frozen. Raises `DecodeError` if this is none."""
        return _memory_header(self._header_if(self.type.is_memory, "MemoryHeader"))

    def completion(self) -> CompletionHeader:
        """Read the header of a completion, frozen. Raises `DecodeError` if this is none."""
        return _completion_header(self._header_if(self.type.is_completion, "CompletionHeader"))

    def configuration(self) -> ConfigurationHeader:
        """Read the header of a configuration request, frozen. Raises `DecodeError` if this is none."""
        return _configuration_header(self._header_if(self.type.is_configuration, "ConfigurationHeader"))

    def message(self) -> MessageHeader:
        """Read the header of a message. Raises `DecodeError` if this is none."""
        if not self.type.is_message:
            raise DecodeError("MessageHeader", "common", 0, f"a {self.type.value.label} is no message")
        return MessageHeader.decode(self.header)

    def _header_if(self, fits: bool, layout: str) -> bytes:
        if not fits:
            raise DecodeError(layout, "common", 0, f"a {self.type.label} has another header")
        return self.header

    def with_tag(self, tag: int) -> Tlp:
        """Give the same memory or configuration request under another tag of 8 bits."""
        header = self.header
        return Tlp(header[:_TAG_AT] + _BYTES[tag] + header[_TAG_AT + 1 :], self.payload, self.prefixes)

    def as_type_0(self) -> Tlp:
        """Give a configuration request as it is on the bus of its target: of Type 0 (PCIe Base 7.3.3)."""
        kind = TlpType.CFGRD0 if self.type in (TlpType.CFGRD0, TlpType.CFGRD1) else TlpType.CFGWR0
        return Tlp(bytes([kind.first_byte(False)]) + self.header[1:], self.payload, self.prefixes)

    def on_bus(self, bus: int) -> Tlp:
        """Give the same configuration request to another bus number."""
        return Tlp(self.header[:_BUS_AT] + bytes([bus]) + self.header[_BUS_AT + 1 :], self.payload, self.prefixes)

    @classmethod
    def heading(cls, frame: bytes, at: int = 0) -> Tlp:
        """Read prefixes and header alone, as who only routes does; `at` is where they begin. Raises `DecodeError`."""
        start = at
        while start + 4 < len(frame) and frame[start] in _END_END_PREFIX:
            start += 4
        size, _ = header_sizes(frame, start)
        return cls(frame[start : start + size], b"", frame[at:start])

    def check(self) -> None:
        """Apply the rules whose breach makes a TLP malformed (PCIe Base 2.2.5, 2.2.7). Raises `DecodeError`."""
        if self.header[2] & 0x80:
            raise DecodeError("Tlp", "digest", 2, "an ECRC is announced, which this model does not carry")
        kind = self.type
        if not kind.is_memory:
            return
        header = self.memory()
        if header.address % PAGE + 4 * header.dwords > PAGE and kind is not TlpType.FETCH_ADD:
            raise DecodeError(
                "MemoryHeader", "address_low", len(self.header) - 4, "the request crosses a 4 KiB boundary"
            )
        if kind in (TlpType.MRD, TlpType.MWR) and not self.header[1] & 1:
            single = header.dwords == 1
            if (single and header.last_be) or (not single and not (header.first_be and header.last_be)):
                raise DecodeError(
                    "MemoryHeader", "last_be", 7, f"{header.last_be:#x} does not go with {header.dwords} DW"
                )


def header_sizes(data: bytes, at: int) -> tuple[int, int]:
    """Give the bytes of the header that starts at `at` and of the payload it announces. Raises `DecodeError`."""
    if len(data) < at + 12:
        raise DecodeError("Tlp", "header", at, f"needs 12 or 16 bytes, {max(len(data) - at, 0)} are there")
    first = data[at]
    if first not in TYPES:
        raise DecodeError("Tlp", "first_byte", at, f"{first:#04x} is no Fmt and Type known here")
    size = 16 if first & 0x20 else 12
    if len(data) < at + size:
        raise DecodeError("Tlp", "header", at, f"needs {size} bytes, {len(data) - at} are there")
    if not first & 0x40:
        return size, 0
    return size, 4 * (((data[at + 2] & 3) << 8 | data[at + 3]) or 1024)


# Headers are decoded once and built once: ports, completions and whoever serves a request each look at them, and the same
# registers are read and written over and over, with no more than 256 tags. As all see the same object it is frozen.


@lru_cache(maxsize=256)
def _memory_header(header: bytes) -> MemoryHeader:
    return frozen(MemoryHeader.decode(header))


@lru_cache(maxsize=4096)
def _configuration_header(header: bytes) -> ConfigurationHeader:
    return frozen(ConfigurationHeader.decode(header))


@lru_cache(maxsize=4096)
def _completion_header(header: bytes) -> CompletionHeader:
    return frozen(CompletionHeader.decode(header))


# -- constructors ------------------------------------------------------------------------------------------


def byte_enables(address: int, size: int) -> tuple[int, int, int]:
    """Give DW count, first and last byte enables of `size` bytes at `address` (PCIe Base 2.2.5).

    Raises `Misuse` if the bytes cross a 4 KiB boundary, which no request may.
    """
    if size < 0 or address < 0 or address + size > 1 << 64 or address % PAGE + max(size, 1) > PAGE:
        raise Misuse(f"{size} bytes at {address:#x} cross a 4 KiB boundary", remedy="split the transfer")
    if size == 0:
        return 1, 0, 0
    start, end = address % 4, (address + size - 1) % 4
    dwords = (address % 4 + size + 3) // 4
    first, last = 0xF << start & 0xF, 0xF >> 3 - end
    return (1, first & last, 0) if dwords == 1 else (dwords, first, last)


def _memory(kind: TlpType, requester_id: int, tag: int, address: int, size: int, traffic_class: int) -> bytes:
    dwords, first, last = byte_enables(address, size)
    # A 64-bit header may not carry an address below 4 GiB (PCIe Base 2.2.4.1).
    common = Common(first_byte=kind.first_byte(address >> 32 != 0), length=dwords & 0x3FF, traffic_class=traffic_class)
    return MemoryHeader(
        common=common,
        requester_id=requester_id,
        tag=tag,
        first_be=first,
        last_be=last,
        address_high=address >> 32,
        address_low=address & 0xFFFFFFFC,
    ).encode()


def memory_read(requester_id: int, tag: int, address: int, size: int, *, traffic_class: int = 0) -> Tlp:
    """Build an MRd of 0 to 4096 bytes inside a 4 KiB page; the header has 4 DW from 4 GiB on."""
    return Tlp(_memory(TlpType.MRD, requester_id, tag, address, size, traffic_class))


def memory_write(requester_id: int, tag: int, address: int, data: bytes, *, traffic_class: int = 0) -> Tlp:
    """Build an MWr of 1 to 4096 bytes inside a 4 KiB page; bytes outside `data` are zero and not enabled."""
    header = _memory(TlpType.MWR, requester_id, tag, address, len(data), traffic_class)
    front = address % 4
    return Tlp(header, bytes(front) + data + bytes(-(front + len(data)) % 4))


def completion(
    completer_id: int,
    requester_id: int,
    tag: int,
    data: bytes = b"",
    *,
    status: CompletionStatus = CompletionStatus.SC,
    byte_count: int | None = None,
    lower_address: int = 0,
    traffic_class: int = 0,
) -> Tlp:
    """Build a CplD with `data` (whole DWs), or a Cpl without.

    `byte_count` is what is left of the request, by default the length of `data`, or 4.
    """
    kind = TlpType.CPLD if data else TlpType.CPL
    if len(data) % 4 or len(data) > MAX_PAYLOAD:
        raise Misuse(f"a completion carries whole DWs, up to {MAX_PAYLOAD} bytes, not {len(data)}")
    left = byte_count if byte_count is not None else len(data) or 4
    length = len(data) // 4 & 0x3FF
    ids, place = (completer_id, requester_id, tag), (length, left & 0xFFF, lower_address & 0x7F)
    return Tlp(_completion(kind.first_byte(False), traffic_class, int(status), *ids, *place), data)


@lru_cache(maxsize=4096)
def _completion(
    first_byte: int,
    traffic_class: int,
    status: int,
    completer_id: int,
    requester_id: int,
    tag: int,
    length: int,
    byte_count: int,
    lower_address: int,
) -> bytes:
    return CompletionHeader(
        common=Common(first_byte=first_byte, length=length, traffic_class=traffic_class),
        byte_count=byte_count,
        status=CompletionStatus(status),
        completer_id=completer_id,
        requester_id=requester_id,
        tag=tag,
        lower_address=lower_address,
    ).encode()


@lru_cache(maxsize=4096)
def _configuration(first_byte: int, requester_id: int, tag: int, target_id: int, offset: int, size: int) -> bytes:
    if size not in (1, 2, 4) or offset % size or not 0 <= offset < PAGE:
        raise Misuse(
            f"configuration access of {size} bytes at {offset:#x}; it takes 1, 2 or 4 aligned bytes below 1000h"
        )
    return ConfigurationHeader(
        common=Common(first_byte=first_byte),
        requester_id=requester_id,
        tag=tag,
        first_be=(1 << size) - 1 << offset % 4,
        register=offset // 4,
        target_id=target_id,
    ).encode()


def config_read(
    requester_id: int, tag: int, target_id: int, offset: int, size: int = 4, *, type_1: bool = False
) -> Tlp:
    """Build a CfgRd of 1, 2 or 4 aligned bytes; the completion brings the whole DW."""
    kind = TlpType.CFGRD1 if type_1 else TlpType.CFGRD0
    return Tlp(_configuration(kind.first_byte(False), requester_id, tag, target_id, offset, size))


def config_write(
    requester_id: int, tag: int, target_id: int, offset: int, size: int, value: int, *, type_1: bool = False
) -> Tlp:
    """Build a CfgWr of 1, 2 or 4 aligned bytes."""
    kind = TlpType.CFGWR1 if type_1 else TlpType.CFGWR0
    header = _configuration(kind.first_byte(False), requester_id, tag, target_id, offset, size)
    return Tlp(header, (value << 8 * (offset % 4) & 0xFFFFFFFF).to_bytes(4, "little"))


def message(
    requester_id: int,
    code: int,
    routing: Routing,
    body: bytes = bytes(8),
    data: bytes = b"",
    *,
    tag: int = 0,
    traffic_class: int = 0,
) -> Tlp:
    """Build a Msg, or a MsgD with `data` (whole DWs); `body` is bytes 8 to 15."""
    if len(data) % 4:
        raise Misuse("a message carries whole DWs")
    first = (0x70 if data else 0x30) | routing
    common = Common(first_byte=first, length=len(data) // 4 & 0x3FF, traffic_class=traffic_class)
    return Tlp(MessageHeader(common=common, requester_id=requester_id, tag=tag, code=code, body=body).encode(), data)
