"""Large messages in pieces (DSP0274 1.2 and later, "Large SPDM message transfer mechanism").

CHUNK_SEND carries a request that is larger than the peer's DataTransferSize, CHUNK_GET fetches a response that is larger than ours.
Transcripts only ever see the reassembled message.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from teeio.errors import PeerViolation, Reject
from teeio.spdm.constants import MIN_DATA_TRANSFER_SIZE, ErrorCode, Version
from teeio.spdm.messages import ChunkGet, ChunkSend, GetVersion, name_of

CHUNK_CODES = (ChunkSend.CODE, ChunkGet.CODE)
"""The requests that large messages travel in."""

_OVERHEAD = 12
"""Bytes of CHUNK_SEND and CHUNK_RESPONSE before the chunk; the first one has LargeMessageSize besides."""

_SIZE_FIELD = 4
_CLAUSE = "DSP0274 CHUNK_SEND and CHUNK_GET"


def max_sequence(version: int) -> int:
    """Give the largest ChunkSeqNo: it must not wrap."""
    return 0xFFFF_FFFF if version >= Version.V1_4 else 0xFFFF


def sequence_fields(version: int, number: int) -> dict[str, int]:
    """Give the field of a chunk message that holds the sequence number in `version`."""
    return {"large_sequence": number} if version >= Version.V1_4 else {"sequence": number}


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk of a large message; `size` is LargeMessageSize, in the first chunk only."""

    number: int
    chunk: bytes
    last: bool
    size: int = 0


@dataclass(slots=True)
class Outgoing:
    """A large message on its way out, in chunks whose messages have at most `limit` bytes."""

    message: bytes
    handle: int
    limit: int
    sent: int = 0
    number: int = 0

    def next(self) -> Piece:
        """Give the next chunk."""
        first = self.number == 0
        room = max(self.limit, MIN_DATA_TRANSFER_SIZE) - _OVERHEAD - (_SIZE_FIELD if first else 0)
        chunk = self.message[self.sent : self.sent + room]
        self.sent += len(chunk)
        piece = Piece(self.number, chunk, self.finished, len(self.message) if first else 0)
        self.number += 1
        return piece

    @property
    def finished(self) -> bool:
        """Tell whether everything has been handed out."""
        return self.sent >= len(self.message)


@dataclass(slots=True)
class Incoming:
    """A large message being put together, of `limit` bytes at most. Raises `PeerViolation` on anything out of order."""

    handle: int
    version: int
    limit: int
    size: int = 0
    number: int = 0
    data: bytearray = field(default_factory=bytearray)

    def add(self, handle: int, number: int, chunk: bytes, size: int, *, last: bool) -> None:
        """Take a chunk."""
        if handle != self.handle or number != self.number or number > max_sequence(self.version):
            raise PeerViolation(f"chunk {number} of handle {handle}, expected {self.number} of {self.handle}", _CLAUSE)
        if number == 0:
            self._begin(size, last)
        if not last and _OVERHEAD + (0 if number else _SIZE_FIELD) + len(chunk) < MIN_DATA_TRANSFER_SIZE:
            raise PeerViolation(f"a chunk of {len(chunk)} bytes that is not the last one", _CLAUSE)
        if not chunk or len(self.data) + len(chunk) > self.size:
            raise PeerViolation(f"{len(self.data) + len(chunk)} bytes of a message of {self.size}", _CLAUSE)
        self.data += chunk
        self.number += 1
        if last != (len(self.data) == self.size):
            raise PeerViolation(f"the last chunk is at {len(self.data)} of {self.size} bytes", _CLAUSE)

    def _begin(self, size: int, last: bool) -> None:
        if last or size <= MIN_DATA_TRANSFER_SIZE:
            raise PeerViolation("a message in chunks has more than one chunk and more than 42 bytes", _CLAUSE)
        if size > self.limit:
            raise PeerViolation(f"LargeMessageSize {size} is above MaxSPDMmsgSize {self.limit}", _CLAUSE)
        self.size = size


@dataclass(slots=True)
class LargeMessages:
    """What is on its way in chunks at one place: outside sessions, or inside one session.

    Each place has its own, so that a message begun under one protection never goes on under another.
    """

    incoming: Incoming | None = None
    outgoing: Outgoing | None = None

    def check_uninterrupted(self, code: int) -> None:
        """Refuse a request that is no part of the transfer under way, which goes on; GET_VERSION alone may end it.

        As the DMTF reference quotes DSP0274: UnexpectedRequest does not interrupt the transfer.
        """
        part_of_it = ChunkSend.CODE if self.incoming else ChunkGet.CODE
        if (self.incoming or self.outgoing) and code not in (part_of_it, GetVersion.CODE):
            raise Reject(ErrorCode.UNEXPECTED_REQUEST, f"{name_of(code)} amid a large message ({_CLAUSE})")

    def abandon(self) -> None:
        """Give up both."""
        self.incoming = self.outgoing = None
