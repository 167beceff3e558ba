"""PLDM as far as a reference requester asks for it in a session over MCTP: the terminus id (DSP0240, DSP0241).

A terminus answers GetTID; every other command gets the completion code that says it is not supported. Left out: everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from teeio.errors import DecodeError
from teeio.mctp import MessageType
from teeio.wire import REST, Record, bits, blob, record, reserved_bits, u8


class CompletionCode(IntEnum):
    """Generic completion codes."""

    SUCCESS = 0x00
    ERROR_INVALID_LENGTH = 0x03
    ERROR_UNSUPPORTED_PLDM_CMD = 0x05
    ERROR_INVALID_PLDM_TYPE = 0x20


CONTROL_AND_DISCOVERY = 0
GET_TID = 0x02


@record
class PldmMessage(Record):
    """A PLDM message as MCTP carries it."""

    message_type: int = u8("MCTP message type", default=int(MessageType.PLDM))
    instance_id: int = bits(5, "Matches a response to its request", of=1, default=0)
    _reserved: None = reserved_bits(1)
    datagram: int = bits(1, "No response is wanted", default=0)
    request: int = bits(1, "Request, not response", default=0)
    pldm_type: int = bits(6, "PLDM type", of=1, default=CONTROL_AND_DISCOVERY)
    header_version: int = bits(2, "Header version", default=0)
    command: int = u8("Command code")
    payload: bytes = blob(REST, "Completion code (responses), then the command's data", default=b"")


@dataclass(frozen=True, slots=True)
class Terminus:
    """A PLDM terminus with its id."""

    terminus_id: int = 1

    def respond(self, message: bytes) -> bytes | None:
        """Answer a PLDM message; None for what is none, or wants no answer."""
        try:
            asked = PldmMessage.decode(message)
        except DecodeError:
            return None
        if asked.message_type != MessageType.PLDM or asked.header_version or not asked.request or asked.datagram:
            return None
        code, data = self._execute(asked)
        return PldmMessage(
            instance_id=asked.instance_id,
            pldm_type=asked.pldm_type,
            command=asked.command,
            payload=bytes([code]) + data,
        ).encode()

    def _execute(self, asked: PldmMessage) -> tuple[CompletionCode, bytes]:
        if asked.pldm_type != CONTROL_AND_DISCOVERY:
            return CompletionCode.ERROR_INVALID_PLDM_TYPE, b""
        if asked.command != GET_TID:
            return CompletionCode.ERROR_UNSUPPORTED_PLDM_CMD, b""
        if asked.payload:
            return CompletionCode.ERROR_INVALID_LENGTH, b""
        return CompletionCode.SUCCESS, bytes([self.terminus_id])
