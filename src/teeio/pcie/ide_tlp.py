"""What IDE adds to TLPs: the Non-Flit Mode prefix, the messages IDE Sync, IDE Escort and IDE Fail (PCIe Base 2.2.10, 6.33.7)."""

from __future__ import annotations

from teeio.errors import DecodeError
from teeio.pcie.tlp import MessageCode, Routing, Tlp, message
from teeio.wire import Record, bits, const, record, reserved, u8, u16

PREFIX_TYPE = 0x92
_FIRST_BYTE = bytes([PREFIX_TYPE])
PREFIX_SIZE = 4
SUPPORTED_SUB_STREAMS = 3


@record
class IdePrefix(Record):
    """The IDE TLP prefix, first of the End-End prefixes."""

    _type: None = const(1, PREFIX_TYPE, "Fmt 100b, End-End prefix, IDE")
    pr_sent_counter: int = u8("Posted TLPs since the last TLP of this sub-stream; 0 on Posted", default=0)
    stream_id: int = u8("Stream ID")
    t: int = bits(1, "Trusted: the TLP originates in, or is meant for, a TEE", of=1, default=0)
    k: int = bits(1, "Key set", default=0)
    m: int = bits(1, "A MAC follows: last TLP of its unit", default=1)
    p: int = bits(1, "A PCRC follows", default=0)
    sub_stream: int = bits(3, "0 PR, 1 NPR, 2 CPL")
    escorted: int = bits(1, "An IDE Escort went right before (UNCONFIRMED place); reserved on Posted", default=0)


def _flag(name: str) -> int:
    values = {"stream_id": 0, "sub_stream": 0, "m": 0}
    return IdePrefix(**{**values, name: 1}).encode()[3]


T_FLAG, K_FLAG, M_FLAG, P_FLAG = (_flag(name) for name in "tkmp")
ESCORTED_FLAG = _flag("escorted")
SUB_STREAM_SHIFT = _flag("sub_stream").bit_length() - 1


@record
class IdeSyncBody(Record):
    """Bytes 8 to 15 of IDE Sync. UNCONFIRMED: the places of the counters are shown only in a figure."""

    destination_id: int = u16("Routing by ID: RID Base of the stream", big=True, default=0)
    _reserved: None = reserved(4)
    npr_counter: int = u8("PR_Sent_Counter of NPR")
    cpl_counter: int = u8("PR_Sent_Counter of CPL")


@record
class IdeFailBody(Record):
    """Bytes 8 to 15 of IDE Fail. UNCONFIRMED: the place of the Stream ID is shown only in a figure."""

    destination_id: int = u16("Routing by ID: RID Base of the stream", big=True, default=0)
    _reserved: None = reserved(5)
    stream_id: int = u8("The stream that went Insecure")


def _message(code: MessageCode, requester_id: int, destination: int | None, body: bytes, traffic_class: int) -> Tlp:
    routing = Routing.LOCAL if destination is None else Routing.BY_ID
    return message(requester_id, code, routing, body, traffic_class=traffic_class)


def ide_sync(
    requester_id: int, destination: int | None, npr_counter: int, cpl_counter: int, traffic_class: int = 0
) -> Tlp:
    """Build IDE Sync; `destination` None makes it local, for a Link stream."""
    body = IdeSyncBody(destination_id=destination or 0, npr_counter=npr_counter, cpl_counter=cpl_counter).encode()
    return _message(MessageCode.IDE_SYNC, requester_id, destination, body, traffic_class)


def ide_fail(requester_id: int, destination: int | None, stream_id: int, traffic_class: int = 0) -> Tlp:
    """Build IDE Fail; `destination` None makes it local, for a Link stream."""
    body = IdeFailBody(destination_id=destination or 0, stream_id=stream_id).encode()
    return _message(MessageCode.IDE_FAIL, requester_id, destination, body, traffic_class)


def ide_escort(requester_id: int, destination: int | None, sub_stream: int, traffic_class: int = 0) -> Tlp:
    """Build an IDE Escort, a Posted message that announces the next TLP of `sub_stream`, NPR or CPL.

    What it does is public in Intel's formal model of the draft ECN "IDE TLP Reordering Enhancement": after an IDE Sync the
    next NPR, and the next CPL, has an escort right before it, and says so; the receiver counts the escorts of each
    sub-stream, and a TLP that says so without one fails. UNCONFIRMED is how it looks: the message code, the sub-stream in bits 1:0 of
    byte 6, and that bit 7 of prefix byte 3, or of OHC-C byte 3, is what says so.
    """
    routing = Routing.LOCAL if destination is None else Routing.BY_ID
    body = (destination or 0).to_bytes(2, "big") + bytes(6)
    return message(requester_id, MessageCode.IDE_ESCORT, routing, body, tag=sub_stream, traffic_class=traffic_class)


def escorted_sub_stream(tlp: Tlp) -> int:
    """Give the sub-stream whose next TLP an IDE Escort announces."""
    return tlp.header[6] & 3


def is_ide(frame: bytes) -> bool:
    """Tell whether a frame starts with an IDE prefix."""
    return frame[:1] == _FIRST_BYTE


def message_code(tlp: Tlp) -> int | None:
    """Give the code of a message, None of any other TLP."""
    return tlp.header[7] if tlp.type.is_message else None


def sync_counters(tlp: Tlp) -> tuple[int, int]:
    """Read the NPR and CPL counters of an IDE Sync. Raises `DecodeError` on another TLP."""
    body = IdeSyncBody.decode(_body(tlp, MessageCode.IDE_SYNC))
    return body.npr_counter, body.cpl_counter


def failed_stream(tlp: Tlp) -> int:
    """Read the Stream ID of an IDE Fail. Raises `DecodeError` on another TLP."""
    return IdeFailBody.decode(_body(tlp, MessageCode.IDE_FAIL)).stream_id


def _body(tlp: Tlp, code: MessageCode) -> bytes:
    header = tlp.message()
    if header.code != code:
        raise DecodeError("MessageHeader", "code", 7, f"is {header.code:#x}, must be {code:#x}")
    return header.body
