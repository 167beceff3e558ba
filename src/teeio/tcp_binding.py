"""TCP as a transport of SPDM: the frame, its message types, the binding for the SPDM engines (DSP0287).

A frame is a length, the version of the binding, a message type, and the message. Secured messages carry the same frame
once more inside their ciphertext, as the DMTF reference library does. Moving frames over a socket is `transport.tcp`.
"""

from __future__ import annotations

from enum import IntEnum

from teeio.errors import DecodeError
from teeio.wire import REST, Record, blob, record, u8, u16

HEADER_SIZE = 4
BINDING_VERSION = 1

UNCOUNTED = 2
"""Bytes of the header that PayloadLength does not count: itself."""

MAX_MESSAGE = 0xFFFF - (HEADER_SIZE - UNCOUNTED)
"""Largest SPDM or secured message that a frame holds."""


class MessageType(IntEnum):
    """Message types of a frame."""

    SPDM = 0x05
    SECURED_SPDM = 0x06
    ROLE_INQUIRY = 0xBF
    TOO_LARGE = 0xC0
    NOT_SUPPORTED = 0xC1
    CANNOT_BE_REQUESTER = 0xC2
    CANNOT_BE_RESPONDER = 0xC3


MEANINGS = {
    MessageType.ROLE_INQUIRY: "it wants to be the responder and asks us to be the requester",
    MessageType.TOO_LARGE: "our message is too large for it",
    MessageType.NOT_SUPPORTED: "it does not support that kind of message",
    MessageType.CANNOT_BE_REQUESTER: "it cannot be a requester",
    MessageType.CANNOT_BE_RESPONDER: "it cannot be a responder",
}
"""What a peer says with the types that carry no message."""


@record
class TcpFrame(Record):
    """A frame of the TCP binding. Use `encode_notice` and `decode_frame`."""

    payload_length: int = u16("Bytes after this field; 0 where no message follows")
    binding_version: int = u8("Version of the binding", default=BINDING_VERSION)
    message_type: int = u8("What the frame carries", enum=MessageType)
    message: bytes = blob(REST, "SPDM message or secured message", default=b"")


def encode_notice(kind: MessageType) -> bytes:
    """Make a frame without a message: a role inquiry or an error.

    UNCONFIRMED: PayloadLength is 0, as the reference library writes and demands it, though two bytes follow.
    """
    return TcpFrame(payload_length=0, message_type=kind).encode()


def frame_size(header: bytes) -> int:
    """Give the size of the frame that begins with these four bytes. Raises `DecodeError` where there is no such frame."""
    found = TcpFrame.decode(header[:HEADER_SIZE])
    if found.binding_version != BINDING_VERSION:
        raise DecodeError(
            "TcpFrame", "binding_version", 2, f"is {found.binding_version}, this is version {BINDING_VERSION}"
        )
    if found.payload_length == 1:
        raise DecodeError("TcpFrame", "payload_length", 0, "is 1, the version and the type alone are 2 bytes")
    return max(HEADER_SIZE, UNCOUNTED + found.payload_length)


def decode_frame(frame: bytes) -> TcpFrame:
    """Decode exactly one frame. Raises `DecodeError`, also if its length field is not the length of `frame`."""
    found = TcpFrame.decode(frame)
    size = frame_size(frame)
    if size != len(frame):
        raise DecodeError("TcpFrame", "payload_length", 0, f"says {size} bytes, there are {len(frame)}")
    return found


class TcpBinding:
    """SPDM over TCP: frames of types 0x05 and 0x06; no padding, and no sequence number travels."""

    name = "tcp"
    sequence_number_size = 0
    max_random_padding = 0
    max_transport_padding = 0
    max_message = MAX_MESSAGE

    def wrap(self, message: bytes, secured: bool) -> bytes:
        """Make a frame of an SPDM message or of a secured message; of one too large, the frame that says so."""
        return _frame(MessageType.SECURED_SPDM if secured else MessageType.SPDM, message)

    def unwrap(self, frame: bytes) -> tuple[bytes, bool]:
        """Give the message in a frame and whether it is secured. Raises `DecodeError`."""
        found = decode_frame(frame)
        _expect(found, MessageType.SPDM, MessageType.SECURED_SPDM)
        return found.message, found.message_type == MessageType.SECURED_SPDM

    def wrap_application(self, message: bytes) -> bytes:
        """Make the application data of a secured message: a frame of its own."""
        return _frame(MessageType.SPDM, message)

    def unwrap_application(self, data: bytes) -> bytes:
        """Give the SPDM message in application data. Raises `DecodeError`."""
        found = decode_frame(data)
        _expect(found, MessageType.SPDM)
        return found.message


def _frame(kind: MessageType, message: bytes) -> bytes:
    if len(message) > MAX_MESSAGE:
        return encode_notice(MessageType.TOO_LARGE)
    length = HEADER_SIZE - UNCOUNTED + len(message)
    return TcpFrame(payload_length=length, message_type=kind, message=message).encode()


def _expect(found: TcpFrame, *kinds: MessageType) -> None:
    if found.message_type in kinds and found.payload_length:
        return
    wanted = " or ".join(f"{kind:#04x}" for kind in kinds)
    meaning = MEANINGS.get(MessageType(found.message_type)) if found.message_type in set(MessageType) else None
    told = f" (the peer says: {meaning})" if meaning else ""
    raise DecodeError("TcpFrame", "message_type", 3, f"{found.message_type:#04x} is not {wanted}{told}")
