"""A received IDE TLP taken apart before its MAC is checked, by the rules of its stream (PCIe Base 6.33.4 to 6.33.6)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from teeio.errors import DecodeError
from teeio.pcie.ide_key import MAC_SIZE, PCRC_SIZE, IdeCheckFailed, PcrcCheckFailed, pcrc
from teeio.pcie.ide_tlp import ESCORTED_FLAG, K_FLAG, M_FLAG, P_FLAG, PREFIX_SIZE, SUB_STREAM_SHIFT, T_FLAG
from teeio.pcie.tlp import TYPES, SubStream, Tlp, header_sizes


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What a port samples from the stream's control register when it is enabled, and the rules of its link.

    `aggregation` is the largest unit that is sent, in TLPs, by sub-stream; `takes_units` says whether any may come.
    """

    stream_id: int
    selective: bool = True
    pcrc: bool = False
    aggregation: tuple[int, int, int] = (1, 1, 1)
    escorts: bool = False
    takes_units: bool = True

    @property
    def classes(self) -> bytes:
        """The sub-stream for each byte 0 of a header, `FORBIDDEN` for types that may not travel on the stream."""
        return _SELECTIVE_CLASSES if self.selective else _LINK_CLASSES


NO_UNITS = "a TLP without a MAC, at a port that does not support aggregation"
PR = int(SubStream.PR)
FORBIDDEN = 0xFF


def _classes(selective: bool) -> bytes:
    """Give the sub-stream for each byte 0 of a header; Link streams take all types, Selective ones some."""
    known = (TYPES.get(first) for first in range(256))
    return bytes(
        kind.value.sub_stream if kind and (kind.value.selective or not selective) else FORBIDDEN for kind in known
    )


_LINK_CLASSES, _SELECTIVE_CLASSES = _classes(False), _classes(True)

WrongLength = struct.error
"""What cutting a frame raises that is longer or shorter than its header says."""

_COUNTER_AT = 1
FRONT = slice(3, 8)
"""Flags and first DW of the header: they determine a frame's shape, unless there are other End-End prefixes."""


Splitter: TypeAlias = Callable[[bytes], tuple[bytes, bytes, bytes]]
"""Cuts a frame into its part of A, ciphertext with PCRC, and MAC. Raises `WrongLength` if the frame has another length."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What flags, prefixes and the first DW of the header say about a frame: all that is the same in most TLPs of a stream.

    `last` is the M bit, `pcrc` the P bit, `escorted` whether an IDE Escort must have come before. A TLP is `simple` that is of
    Non-Flit Mode and has a MAC, no other prefixes, no PCRC, and nothing to say to the stream itself: as most are. The header begins
    at `header` in A, the PR_Sent_Counter is at `counter`, `split` cuts the frame.
    """

    sub_stream: int
    key_set: int
    t_bit: bool
    last: bool
    pcrc: bool
    message: bool
    escorted: bool
    simple: bool
    header: int
    counter: int
    split: Splitter


def shape_of(frame: bytes, settings: StreamSettings) -> Shape:
    """Work out the shape of a frame, by nothing but what makes it alike with others. Raises `IdeCheckFailed`."""
    if len(frame) < PREFIX_SIZE:
        raise IdeCheckFailed("the prefix is cut short", "PCIe Base 6.33.5")
    flags = frame[3]
    last, with_pcrc = flags & M_FLAG != 0, flags & P_FLAG != 0
    at = PREFIX_SIZE
    while at + 4 < len(frame) and 0x90 <= frame[at] <= 0x9F:
        at += 4
    try:
        size, length = header_sizes(frame, at)
    except DecodeError as error:
        raise IdeCheckFailed(str(error), "PCIe Base 6.33.5") from None
    sub_stream, message = flags >> SUB_STREAM_SHIFT & 7, is_message(frame[at])
    check_sub_stream(settings, frame[at], sub_stream)
    if not last and not settings.takes_units:
        raise IdeCheckFailed(NO_UNITS, "PCIe Base 6.33.6")
    if with_pcrc and not (last and settings.pcrc):
        raise IdeCheckFailed("P is set without M, or although PCRC is off", "PCIe Base 6.33.5")
    return Shape(
        sub_stream=sub_stream,
        key_set=int(flags & K_FLAG != 0),
        t_bit=flags & T_FLAG != 0,
        last=last,
        pcrc=with_pcrc,
        message=message,
        escorted=settings.escorts and flags & ESCORTED_FLAG != 0,
        simple=last and not message and not settings.pcrc and at == PREFIX_SIZE,
        header=at,
        counter=_COUNTER_AT,
        split=cutting(at + size, length, last, with_pcrc),
    )


def check_sub_stream(settings: StreamSettings, first_byte: int, sub_stream: int) -> None:
    """Refuse a TLP on a sub-stream that is not its class's, reserved ones included. Raises `IdeCheckFailed`."""
    if settings.classes[first_byte] != sub_stream:
        raise IdeCheckFailed("the TLP type may not travel on this sub-stream", "PCIe Base 6.33.4")


@lru_cache(maxsize=1024)
def cutting(associated: int, payload: int, last: bool, with_pcrc: bool) -> Splitter:
    """Give what cuts frames whose part of A and payload have these sizes."""
    return struct.Struct(f"{associated}s{payload + PCRC_SIZE * with_pcrc}s{MAC_SIZE * last}s").unpack


def is_message(first_byte: int) -> bool:
    """Tell whether a header is that of a message without data, as IDE Sync and Escort are."""
    return first_byte & 0xF8 == 0x30


def opened(shape: Shape, associated: bytes, payload: bytes) -> tuple[Tlp, bool]:
    """Give the TLP and its T bit."""
    at = shape.header
    return Tlp(associated[at:], payload, associated[PREFIX_SIZE:at]), shape.t_bit


def without_pcrc(plaintext: bytes, present: bool) -> bytes:
    """Check and remove the PCRC. Raises `PcrcCheckFailed`."""
    if not present:
        raise PcrcCheckFailed("the PCRC is missing", "PCIe Base 6.33.5")
    data = plaintext[:-PCRC_SIZE]
    if pcrc(data) != plaintext[-PCRC_SIZE:]:
        raise PcrcCheckFailed("the PCRC is wrong", "PCIe Base 6.33.5")
    return data
