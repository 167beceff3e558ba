"""A received IDE TLP taken apart before its MAC is checked, by the rules of its stream (PCIe Base 6.33.4 to 6.33.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from teeio.errors import DecodeError
from teeio.pcie.ide_key import MAC_SIZE, PCRC_SIZE, IdeCheckFailed, PcrcCheckFailed, pcrc
from teeio.pcie.ide_tlp import M_FLAG, P_FLAG, PREFIX_SIZE, SUB_STREAM_SHIFT, T_FLAG
from teeio.pcie.tlp import TYPES, MessageCode, SubStream, Tlp, header_sizes


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What a port samples from the stream's control register when it is enabled, and the rules of its link.

    `aggregation` is the largest unit that is sent, in TLPs, by sub-stream.
    """

    stream_id: int
    selective: bool = True
    pcrc: bool = False
    aggregation: tuple[int, int, int] = (1, 1, 1)
    escorts: bool = False

    @property
    def classes(self) -> bytes:
        """The sub-stream for each byte 0 of a header, `FORBIDDEN` for types that may not travel on the stream."""
        return _SELECTIVE_CLASSES if self.selective else _LINK_CLASSES


Part: TypeAlias = tuple[bytes, int, int, bytes, bytes]
"""A received TLP before its MAC is checked: its part of A, where in that its header lies, flags, ciphertext, MAC."""

PR = int(SubStream.PR)
FORBIDDEN = 0xFF


def _classes(selective: bool) -> bytes:
    """Give the sub-stream for each byte 0 of a header; Link streams take all types, Selective ones some."""
    known = (TYPES.get(first) for first in range(256))
    return bytes(
        kind.value.sub_stream if kind and (kind.value.selective or not selective) else FORBIDDEN for kind in known
    )


_LINK_CLASSES, _SELECTIVE_CLASSES = _classes(False), _classes(True)
_MESSAGE = 0x30


def parse(frame: bytes, settings: StreamSettings, classes: bytes) -> Part:
    """Take a frame apart; `classes` are those of the settings. Raises `IdeCheckFailed`."""
    if len(frame) < PREFIX_SIZE:
        raise IdeCheckFailed("the prefix is cut short", "PCIe Base 6.33.5")
    flags = frame[3] & 0x7F
    at = PREFIX_SIZE
    while at + 4 < len(frame) and 0x90 <= frame[at] <= 0x9F:
        at += 4
    try:
        size, length = header_sizes(frame, at)
    except DecodeError as error:
        raise IdeCheckFailed(str(error), "PCIe Base 6.33.5") from None
    if classes[frame[at]] != flags >> SUB_STREAM_SHIFT and not (
        settings.escorts and is_escort(frame[at:]) and classes[frame[at]] == PR
    ):
        raise IdeCheckFailed("the TLP type may not travel on this sub-stream", "PCIe Base 6.33.4")
    head = at + size
    end = whole = head + length
    if flags & M_FLAG:
        whole += MAC_SIZE
    if flags & P_FLAG:
        if not (flags & M_FLAG and settings.pcrc):
            raise IdeCheckFailed("P is set without M, or although PCRC is off", "PCIe Base 6.33.5")
        end += PCRC_SIZE
        whole += PCRC_SIZE
    if len(frame) != whole:
        raise IdeCheckFailed(f"the frame has {len(frame)} bytes, its header says otherwise", "PCIe Base 6.33.5")
    return frame[:head], at, flags, frame[head:end], frame[end:]


def is_escort(header: bytes) -> bool:
    """Tell whether a header is that of an IDE Escort."""
    return is_message(header) and header[7] == MessageCode.IDE_ESCORT


def is_message(header: bytes) -> bool:
    """Tell whether a header is that of a message without data."""
    return header[0] & 0xF8 == _MESSAGE


def opened(part: Part, payload: bytes) -> tuple[Tlp, bool]:
    """Give the TLP and its T bit."""
    clear, at, flags, _, _ = part
    prefixes = clear[PREFIX_SIZE:at] if at > PREFIX_SIZE else b""
    return Tlp(clear[at:], payload, prefixes), flags & T_FLAG != 0


def without_pcrc(plaintext: bytes, present: bool) -> bytes:
    """Check and remove the PCRC. Raises `PcrcCheckFailed`."""
    if not present:
        raise PcrcCheckFailed("the PCRC is missing", "PCIe Base 6.33.5")
    data = plaintext[:-PCRC_SIZE]
    if pcrc(data) != plaintext[-PCRC_SIZE:]:
        raise PcrcCheckFailed("the PCRC is wrong", "PCIe Base 6.33.5")
    return data
