"""Large messages put together from chunks (DSP0274, "Large SPDM message transfer mechanism")."""

from __future__ import annotations

from teeio.spdm.messages import ChunkResponse, ChunkSend

MAX_LARGE_MESSAGE = 1 << 20
"""Bytes of one large message that are put together."""


class ChunkAssembly:
    """The chunks of one direction that have come so far."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._next = 0
        self._handle: int | None = None

    def add(self, chunk: ChunkSend | ChunkResponse) -> bytes | None:
        """Add a chunk; give the large message when this was its last. Chunks out of order are dropped."""
        sequence = chunk.sequence or chunk.large_sequence
        if sequence == 0:
            self._data.clear()
            self._next, self._handle = 0, chunk.handle
        if sequence != self._next or chunk.handle != self._handle:
            return None
        if len(self._data) + len(chunk.chunk) > MAX_LARGE_MESSAGE:
            return None
        self._data += chunk.chunk
        self._next += 1
        if not chunk.last:
            return None
        self._handle = None
        return bytes(self._data)
