"""Every IDE_KM message, declared once, and the byte order of keys (PCIe Base 6.33.3).

A message starts with its Object ID. Offsets count from there, after the protocol id byte of the vendor-defined SPDM
message.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import ClassVar, Generic, NamedTuple, TypeVar, dataclass_transform

from teeio.errors import DecodeError, Misuse
from teeio.wire import REST, Field, Record, bits, blob, build, part, record, reserved, u8, u32

STANDARD_ID = 3
"""StandardID of the vendor-defined SPDM message: PCI-SIG."""
VENDOR_ID = b"\x01\x00"
"""PCI-SIG's VendorID 0x0001."""
PROTOCOL_ID = 0x00
"""IDE_KM among PCI-SIG's protocols."""

KEY_SIZE = 32
INITIAL_IFV = 1
"""Value that the invocation field of the IV must start from."""


class ObjectId(IntEnum):
    """Object ID, the first byte of a message."""

    QUERY = 0x00
    QUERY_RESP = 0x01
    KEY_PROG = 0x02
    KP_ACK = 0x03
    K_SET_GO = 0x04
    K_SET_STOP = 0x05
    K_GOSTOP_ACK = 0x06


class KeySet(IntEnum):
    """The two key sets between which a stream alternates."""

    K0 = 0
    K1 = 1


class Direction(IntEnum):
    """Direction as the responding port sees it."""

    RX = 0
    TX = 1


class SubStream(IntEnum):
    """Sub-streams of an IDE stream."""

    PR = 0
    NPR = 1
    CPL = 2


class KpAckStatus(IntEnum):
    """Status of KP_ACK; 5 to 255 are reserved and read as UNSPECIFIED_FAILURE."""

    SUCCESSFUL = 0
    INCORRECT_LENGTH = 1
    UNSUPPORTED_PORT_INDEX = 2
    UNSUPPORTED_VALUE = 3
    UNSPECIFIED_FAILURE = 4


class KeySlot(NamedTuple):
    """One of a stream's twelve keys at a port."""

    key_set: KeySet
    direction: Direction
    sub_stream: SubStream


def key_slots(key_set: KeySet, direction: Direction) -> tuple[KeySlot, ...]:
    """Give the slots of one key set in one direction: PR, NPR, CPL."""
    return tuple(KeySlot(key_set, direction, sub_stream) for sub_stream in SubStream)


def key_name(stream_id: int, port_index: int, slot: KeySlot) -> str:
    """Name a key in key logs: "stream=5 port=0 set=K0 dir=RX sub=PR", the direction as the device sees it."""
    words = f"set={slot.key_set.name} dir={slot.direction.name} sub={slot.sub_stream.name}"
    return f"stream={stream_id} port={port_index} {words}"


def reverse_dwords(data: bytes) -> bytes:
    """Turn a key between AES order and wire order: the DWs keep their places, each DW's four bytes are reversed.

    KEY_PROG carries Key_DW7 first and each DW little-endian, while byte 0 of the AES key is the most significant of
    Key_DW7.
    """
    return b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))


# -- what all messages share -----------------------------------------------------------------------------------------


class Message(Record):
    """An IDE_KM message."""

    __slots__ = ()
    CODE: ClassVar[int] = 0
    NAME: ClassVar[str] = ""


Rsp = TypeVar("Rsp", bound="Response", covariant=True)


class Response(Message):
    """A message of the responding port."""

    __slots__ = ()


class Request(Message, Generic[Rsp]):
    """A message of the key manager; `Rsp` is the response it expects."""

    __slots__ = ()
    ANSWER: ClassVar[ObjectId]

    @classmethod
    def response_class(cls) -> type[Response]:
        """Give the class of the expected response."""
        found = BY_CODE[cls.ANSWER]
        if not issubclass(found, Response):
            raise Misuse(f"{cls.NAME} has no declared response")
        return found


BY_CODE: dict[int, type[Message]] = {}
"""Every declared message by its Object ID."""

M = TypeVar("M", bound=Message)


@dataclass_transform(kw_only_default=True, field_specifiers=(u8, u32, blob, part, reserved))
def message(code: ObjectId) -> Callable[[type[M]], type[M]]:
    """Declare the IDE_KM message with Object ID `code`; fields of a layout that it inherits from come first."""

    def decorate(cls: type[M]) -> type[M]:
        object_id = Field("const", 1, "Object ID", count=str(int(code)), name="object_id")
        made: type[M] = build(cls, (object_id, *cls.FIELDS))
        made.CODE = code
        made.NAME = code.name
        BY_CODE[code] = made
        return made

    return decorate


def decode_message(data: bytes) -> Message:
    """Decode any IDE_KM message by its Object ID. Raises `DecodeError`, also for an undeclared one."""
    if not data:
        raise DecodeError("IdeKmMessage", "object_id", 0, "the message is empty")
    found = BY_CODE.get(data[0])
    if found is None:
        raise DecodeError("IdeKmMessage", "object_id", 0, f"{data[0]:#04x} is not a declared Object ID")
    return found.decode(data)


@record
class KeySubStream(Record):
    """Which of a stream's keys: the key set, the direction, the sub-stream."""

    key_set: KeySet = bits(1, "Key Set: 0 K0, 1 K1", of=1, enum=KeySet)
    direction: Direction = bits(1, "RxTxB: 0 receive, 1 transmit, as the port sees it", enum=Direction)
    reserved: int = bits(2, "Reserved, echoed", default=0)
    sub_stream: SubStream = bits(4, "Key Sub-stream: 0 PR, 1 NPR, 2 CPL", enum=SubStream)

    @classmethod
    def of(cls, slot: KeySlot) -> KeySubStream:
        """Give the field for a slot."""
        return cls(key_set=slot.key_set, direction=slot.direction, sub_stream=slot.sub_stream)

    def slot(self) -> KeySlot | None:
        """Give the slot, or None if the sub-stream is a reserved one."""
        if not isinstance(self.sub_stream, SubStream):
            return None
        return KeySlot(self.key_set, self.direction, self.sub_stream)


@record
class KeyAddress(Record):
    """Which key of which stream at which port: the fields that K_SET_GO, K_SET_STOP and K_GOSTOP_ACK consist of."""

    _reserved: None = reserved(2)
    stream_id: int = u8("Stream ID")
    _reserved_2: None = reserved(1)
    key_sub_stream: KeySubStream = part(KeySubStream, "Which key")
    port_index: int = u8("PortIndex")


# -- the messages ----------------------------------------------------------------------------------------------------


@message(ObjectId.QUERY)
class Query(Request["QueryResp"]):
    """Ask for a port's identity and its IDE capability registers."""

    ANSWER = ObjectId.QUERY_RESP

    _reserved: None = reserved(1)
    port_index: int = u8("PortIndex")


@message(ObjectId.QUERY_RESP)
class QueryResp(Response):
    """Answer QUERY."""

    _reserved: None = reserved(1)
    port_index: int = u8("PortIndex")
    device_function: int = u8("Device and Function Number")
    bus: int = u8("Bus Number")
    segment: int = u8("Segment")
    max_port_index: int = u8("MaxPortIndex")
    registers: bytes = blob(REST, "The IDE extended capability from its Capability register (+0x04) on")


@message(ObjectId.KEY_PROG)
class KeyProg(KeyAddress, Request["KpAck"]):
    """Program one key."""

    ANSWER = ObjectId.KP_ACK

    key_dwords: bytes = blob(KEY_SIZE, "Key_DW7 to Key_DW0, each little-endian: see reverse_dwords", secret=True)
    ifv_high: int = u32("IFV_DW1: high half of the invocation field's first value", default=0)
    ifv_low: int = u32("IFV_DW0: its low half", default=INITIAL_IFV)

    @property
    def key(self) -> bytes:
        """The AES key, in AES byte order."""
        return reverse_dwords(self.key_dwords)

    @property
    def ifv(self) -> int:
        """The first value of the IV's invocation field."""
        return self.ifv_high << 32 | self.ifv_low


@message(ObjectId.KP_ACK)
class KpAck(Response):
    """Answer KEY_PROG."""

    _reserved: None = reserved(2)
    stream_id: int = u8("Stream ID")
    status: KpAckStatus = u8("Status", enum=KpAckStatus)
    key_sub_stream: KeySubStream = part(KeySubStream, "Which key")
    port_index: int = u8("PortIndex")


@message(ObjectId.K_SET_GO)
class KSetGo(KeyAddress, Request["KGostopAck"]):
    """Make a programmed key ready for use."""

    ANSWER = ObjectId.K_GOSTOP_ACK


@message(ObjectId.K_SET_STOP)
class KSetStop(KeyAddress, Request["KGostopAck"]):
    """Erase a key."""

    ANSWER = ObjectId.K_GOSTOP_ACK


@message(ObjectId.K_GOSTOP_ACK)
class KGostopAck(KeyAddress, Response):
    """Answer K_SET_GO and K_SET_STOP."""
