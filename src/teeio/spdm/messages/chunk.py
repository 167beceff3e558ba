"""CHUNK_SEND and CHUNK_GET with their responses (DSP0274, 1.2 and later). Sequence numbers have 32 bits from 1.4 on."""

from __future__ import annotations

from teeio.spdm.constants import Version
from teeio.spdm.messages.base import Request, Response, message
from teeio.wire import REST, bits, blob, length_of, reserved, reserved_bits, u8, u16, u32


@message(0x85, "CHUNK_SEND")
class ChunkSend(Request["ChunkSendAck"]):
    """Send a piece of a large request."""

    last: int = bits(1, "Last chunk", of=1, default=0)
    _param1: None = reserved_bits(7)
    handle: int = u8("Handle")
    sequence: int = u16("ChunkSeqNo", until=Version.V1_3, default=0)
    _reserved: None = reserved(2, until=Version.V1_3)
    large_sequence: int = u32("ChunkSeqNo", since=Version.V1_4, default=0)
    chunk_size: None = length_of("chunk", 4)
    large_message_size: int = u32(
        "LargeMessageSize, in the first chunk", when="sequence + large_sequence == 0", default=0
    )
    chunk: bytes = blob("chunk_size", "Chunk")


@message(0x05, "CHUNK_SEND_ACK")
class ChunkSendAck(Response):
    """Acknowledge CHUNK_SEND; the last one carries the response to the large request."""

    early_error: int = bits(1, "Early error", of=1, default=0)
    _param1: None = reserved_bits(7)
    handle: int = u8("Handle")
    sequence: int = u16("ChunkSeqNo", until=Version.V1_3, default=0)
    large_sequence: int = u32("ChunkSeqNo", since=Version.V1_4, default=0)
    response: bytes = blob(REST, "Response to the large request", default=b"")


@message(0x86, "CHUNK_GET")
class ChunkGet(Request["ChunkResponse"]):
    """Ask for a piece of a large response."""

    _param1: None = reserved(1)
    handle: int = u8("Handle")
    sequence: int = u16("ChunkSeqNo", until=Version.V1_3, default=0)
    large_sequence: int = u32("ChunkSeqNo", since=Version.V1_4, default=0)


@message(0x06, "CHUNK_RESPONSE")
class ChunkResponse(Response):
    """Answer CHUNK_GET."""

    last: int = bits(1, "Last chunk", of=1, default=0)
    _param1: None = reserved_bits(7)
    handle: int = u8("Handle")
    sequence: int = u16("ChunkSeqNo", until=Version.V1_3, default=0)
    _reserved: None = reserved(2, until=Version.V1_3)
    large_sequence: int = u32("ChunkSeqNo", since=Version.V1_4, default=0)
    chunk_size: None = length_of("chunk", 4)
    large_message_size: int = u32(
        "LargeMessageSize, in the first chunk", when="sequence + large_sequence == 0", default=0
    )
    chunk: bytes = blob("chunk_size", "Chunk")
