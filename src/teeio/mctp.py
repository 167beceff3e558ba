"""MCTP as a transport of SPDM: message types, the binding for the SPDM engines, and the packet header of captures.

DSP0275 (SPDM over MCTP), DSP0276 (secured messages over MCTP), DSP0236 (the MCTP header). Left out: splitting
messages into packets; a frame here is one whole MCTP message, as reference emulators exchange it.
"""

from __future__ import annotations

from enum import IntEnum

from teeio.errors import DecodeError
from teeio.spdm.binding import NO_LIMIT, OtherApplication
from teeio.wire import Record, bits, record, reserved_bits, u8

LINK_TYPE = 291
"""Link type of MCTP in pcap files."""

_INTEGRITY_CHECK = 0x80


class MessageType(IntEnum):
    """MCTP message type, bits 6:0 of a message's first byte."""

    PLDM = 0x01
    SPDM = 0x05
    SECURED_SPDM = 0x06
    VENDOR_PCI = 0x7E


@record
class MctpHeader(Record):
    """The four bytes before a packet's message in captures (DSP0236)."""

    version: int = bits(4, "Header version", of=1, default=0)
    _reserved: None = reserved_bits(4)
    destination: int = u8("Destination endpoint id", default=0)
    source: int = u8("Source endpoint id", default=0)
    tag: int = bits(3, "Message tag", of=1, default=0)
    tag_owner: int = bits(1, "Tag owner", default=0)
    packet_sequence: int = bits(2, "Packet sequence number", default=0)
    end: int = bits(1, "End of message", default=1)
    start: int = bits(1, "Start of message", default=1)


class MctpBinding:
    """SPDM over MCTP: one message type byte, then the message; no padding follows.

    In a secured message two bytes of the sequence number travel, and up to 32 random bytes pad the plaintext (DSP0276).
    """

    name = "mctp"
    sequence_number_size = 2
    max_random_padding = 32
    max_transport_padding = 0
    max_message = NO_LIMIT

    def wrap(self, message: bytes, secured: bool) -> bytes:
        """Make an MCTP message of an SPDM message or of a secured message."""
        return bytes([MessageType.SECURED_SPDM if secured else MessageType.SPDM]) + message

    def unwrap(self, frame: bytes) -> tuple[bytes, bool]:
        """Give the message in an MCTP message and whether it is secured. Raises `DecodeError`."""
        kind = _message_type(frame)
        if kind not in (MessageType.SPDM, MessageType.SECURED_SPDM):
            raise DecodeError(
                "MctpMessage", "message_type", 0, f"{kind:#04x} is neither SPDM (0x05) nor secured (0x06)"
            )
        return bytes(frame[1:]), kind == MessageType.SECURED_SPDM

    def wrap_application(self, message: bytes) -> bytes:
        """Make the application data of a secured message: an MCTP message of its own."""
        return bytes([MessageType.SPDM]) + message

    def unwrap_application(self, data: bytes) -> bytes:
        """Give the SPDM message in application data. Raises `OtherApplication` for another MCTP message type."""
        kind = _message_type(data)
        if kind != MessageType.SPDM:
            raise OtherApplication(
                "MctpMessage", "message_type", f"{kind:#04x} in application data is not SPDM (0x05)", bytes(data)
            )
        return bytes(data[1:])


def _message_type(frame: bytes) -> int:
    if not frame:
        raise DecodeError("MctpMessage", "message_type", 0, "the frame is empty")
    if frame[0] & _INTEGRITY_CHECK:
        raise DecodeError("MctpMessage", "message_type", 0, "an integrity check, which SPDM does not use (DSP0275)")
    return frame[0]
