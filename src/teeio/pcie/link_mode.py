"""What TLPs look like on a link: the one seam that ports, switches, and whoever sits on a link or listens go through.

A link is in Non-Flit Mode or in Flit Mode (`flit_mode`), the same for both its ends. A `Tlp` does not know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from teeio.errors import DecodeError
from teeio.pcie.ide import Stream
from teeio.pcie.ide_tlp import K_FLAG, M_FLAG, PREFIX_SIZE, SUB_STREAM_SHIFT, T_FLAG, is_ide
from teeio.pcie.tlp import MAX_PREFIXES, TYPES, Tlp, TlpType


class IdeFields(NamedTuple):
    """What an IDE TLP says of itself in the clear."""

    stream_id: int
    sub_stream: int
    pr_sent_counter: int
    t_bit: bool
    key_set: int
    with_mac: bool
    """Whether it ends with a MAC: last TLP of its unit."""


class LinkMode(ABC):
    """How TLPs travel on a link, and what of a frame is in the clear. Sealing and opening is the streams'."""

    name: ClassVar[str]
    is_flit: ClassVar[bool]

    @abstractmethod
    def encode(self, tlp: Tlp) -> bytes:
        """Give the frame of a TLP that goes without IDE. Raises `Misuse` if the mode has no place for it."""

    @abstractmethod
    def decode(self, frame: bytes) -> Tlp:
        """Read a frame without IDE. Raises `DecodeError`."""

    @abstractmethod
    def carries(self, tlp: Tlp) -> bool:
        """Tell whether a TLP can travel in this mode."""

    @abstractmethod
    def heading(self, frame: bytes) -> Tlp:
        """Read what of an IDE TLP is in the clear: a TLP without its payload. Raises `DecodeError`."""

    @abstractmethod
    def stream_of(self, frame: bytes) -> int | None:
        """Give the Stream ID of an IDE TLP, None of any other frame. Raises `DecodeError` if it is cut short."""

    @abstractmethod
    def ide_fields(self, frame: bytes) -> IdeFields | None:
        """Read what an IDE TLP says of itself; None of any other frame, whatever its bytes are."""

    @abstractmethod
    def type_of(self, frame: bytes) -> TlpType | None:
        """Say what TLP a frame is, whatever its bytes are; None if it is none."""

    @abstractmethod
    def logged(self, frame: bytes) -> bytes:
        """Give what an error register logs of a frame: the header, without prefixes."""

    @abstractmethod
    def header_of(self, tlp: Tlp) -> bytes:
        """Give what an error register logs of a TLP."""

    @abstractmethod
    def stream(self, keys: Stream) -> Stream:
        """Give a stream that seals and opens in this mode, with the keys of one that is not enabled; that one if it does."""


class NonFlitMode(LinkMode):
    """TLPs with Fmt and Type, and IDE in a prefix (PCIe Base 2.2)."""

    name = "Non-Flit Mode"
    is_flit = False

    def encode(self, tlp: Tlp) -> bytes:
        """Give the frame of a TLP that goes without IDE."""
        return tlp.encode()

    def decode(self, frame: bytes) -> Tlp:
        """Read a frame without IDE. Raises `DecodeError`."""
        return Tlp.decode(frame)

    def carries(self, tlp: Tlp) -> bool:
        """Tell whether a TLP can travel in this mode: it has no more prefixes than a TLP may have; OHC-E may bring one more."""
        return len(tlp.prefixes) <= PREFIX_SIZE * MAX_PREFIXES

    def heading(self, frame: bytes) -> Tlp:
        """Read what of an IDE TLP is in the clear. Raises `DecodeError`."""
        return Tlp.heading(frame, PREFIX_SIZE)

    def stream_of(self, frame: bytes) -> int | None:
        """Give the Stream ID of an IDE TLP, None of any other frame. Raises `DecodeError` if it is cut short."""
        if not is_ide(frame):
            return None
        if len(frame) < PREFIX_SIZE:
            raise DecodeError("IdePrefix", "(end)", len(frame), "the prefix is cut short")
        return frame[2]

    def ide_fields(self, frame: bytes) -> IdeFields | None:
        """Read the IDE prefix."""
        if not is_ide(frame) or len(frame) < PREFIX_SIZE:
            return None
        _, counter, stream_id, flags = frame[:PREFIX_SIZE]
        key_set = int(flags & K_FLAG > 0)
        return IdeFields(
            stream_id, flags >> SUB_STREAM_SHIFT & 7, counter, flags & T_FLAG > 0, key_set, flags & M_FLAG > 0
        )

    def type_of(self, frame: bytes) -> TlpType | None:
        """Say what TLP a frame is, behind all its prefixes."""
        at = _header_at(frame)
        return TYPES.get(frame[at]) if at < len(frame) else None

    def logged(self, frame: bytes) -> bytes:
        """Give the header; of what has none, what stands in its place."""
        try:
            return Tlp.heading(frame).header
        except DecodeError:
            at = _header_at(frame)
            return frame[at : at + 16]

    def header_of(self, tlp: Tlp) -> bytes:
        """Give the header."""
        return tlp.header

    def stream(self, keys: Stream) -> Stream:
        """Give a stream of Non-Flit Mode."""
        return keys if type(keys) is Stream else Stream(keys)


def _header_at(frame: bytes) -> int:
    """Give where the header begins: behind all End-End prefixes."""
    at = 0
    while at + PREFIX_SIZE < len(frame) and frame[at] & 0xF0 == 0x90:
        at += PREFIX_SIZE
    return at


NON_FLIT = NonFlitMode()
"""Non-Flit Mode, in which every link is that is not said to be in the other."""
