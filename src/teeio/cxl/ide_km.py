"""CXL IDE_KM: messages of CXL.cachemem IDE and a port that answers them (CXL 3.0, "CXL IDE key management").

Left out: GET_KEY is declared, but the port offers neither key nor IV generation, so it has no answer to it. No key is
stored, since no link uses it: the port only remembers which directions have one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, IntEnum, IntFlag
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar, dataclass_transform

from teeio.cxl import STANDARD_ID, VENDOR_ID
from teeio.errors import DecodeError, Reject
from teeio.observe import Observer, Refused, ignore
from teeio.wire import REST, Field, Record, bits, blob, build, part, record, reserved, reserved_bits, u8

PROTOCOL_ID = 0x00
"""CXL IDE_KM among CXL's protocols."""

REGISTERS = 9
"""32-bit registers of the CXL IDE capability that QUERY_RESP carries."""


class ObjectId(IntEnum):
    """Object ID, the first byte of a message."""

    QUERY = 0x00
    QUERY_RESP = 0x01
    KEY_PROG = 0x02
    KP_ACK = 0x03
    K_SET_GO = 0x04
    K_SET_STOP = 0x05
    K_GOSTOP_ACK = 0x06
    GET_KEY = 0x07
    GET_KEY_ACK = 0x08


class Direction(IntEnum):
    """Direction as the responding port sees it."""

    RX = 0
    TX = 1


class QueryCaps(IntFlag):
    """Capabilities in QUERY_RESP; bits 3:0 are the version."""

    VERSION_1 = 0x01
    IV_GENERATION = 0x10
    KEY_GENERATION = 0x20
    K_SET_STOP = 0x40


class KpAckStatus(IntEnum):
    """Status of KP_ACK."""

    SUCCESS = 0
    INVALID = 1


CXL_SUB_STREAM = 8
"""Sub-stream of CXL.cachemem."""


class Message(Record):
    """A CXL IDE_KM message."""

    __slots__ = ()
    CODE: ClassVar[int] = 0
    NAME: ClassVar[str] = ""


BY_CODE: dict[int, type[Message]] = {}
"""Every declared message by its Object ID."""

M = TypeVar("M", bound=Message)


@dataclass_transform(kw_only_default=True, field_specifiers=(u8, blob, part, reserved))
def message(code: ObjectId) -> Callable[[type[M]], type[M]]:
    """Declare the CXL IDE_KM message with Object ID `code`; fields of a layout that it inherits from come first."""

    def decorate(cls: type[M]) -> type[M]:
        object_id = Field("const", 1, "Object ID", count=str(int(code)), name="object_id")
        made: type[M] = build(cls, (object_id, *cls.FIELDS))
        made.CODE = code
        made.NAME = code.name
        BY_CODE[code] = made
        return made

    return decorate


def decode_message(data: bytes) -> Message:
    """Decode any CXL IDE_KM message by its Object ID. Raises `DecodeError`, also for an undeclared one."""
    found = BY_CODE.get(data[0]) if data else None
    if found is None:
        raise DecodeError(
            "CxlIdeKmMessage", "object_id", 0, f"{data[:1].hex() or 'nothing'} is not a declared Object ID"
        )
    return found.decode(data)


@record
class KeySubStream(Record):
    """Which key, and how: bit 3 asks for the default IV in KEY_PROG and for containment mode in K_SET_GO."""

    _key_set: None = reserved_bits(1, of=1)
    direction: Direction = bits(1, "RxTxB", enum=Direction)
    _reserved: None = reserved_bits(1)
    option: int = bits(1, "Default IV, or containment mode", default=0)
    sub_stream: int = bits(4, "Sub-stream: 8 CXL.cachemem", default=CXL_SUB_STREAM)


@record
class KeyAddress(Record):
    """Which key of which stream at which port: most messages consist of these fields."""

    _reserved: None = reserved(2)
    stream_id: int = u8("Stream ID")
    _reserved_2: None = reserved(1)
    key_sub_stream: KeySubStream = part(KeySubStream, "Which key")
    port_index: int = u8("PortIndex")


@message(ObjectId.QUERY)
class Query(Message):
    """Ask for a port's identity and capabilities."""

    _reserved: None = reserved(1)
    port_index: int = u8("PortIndex")


@message(ObjectId.QUERY_RESP)
class QueryResp(Message):
    """Answer QUERY."""

    _reserved: None = reserved(1)
    port_index: int = u8("PortIndex")
    device_function: int = u8("Device and Function Number", default=0)
    bus: int = u8("Bus Number", default=0)
    segment: int = u8("Segment", default=0)
    max_port_index: int = u8("MaxPortIndex")
    caps: QueryCaps = u8("Capabilities", enum=QueryCaps)
    registers: bytes = blob(REST, "CXL IDE capability registers")


@message(ObjectId.KEY_PROG)
class KeyProg(KeyAddress, Message):
    """Program one key."""

    key_dwords: bytes = blob(32, "Key, 8 DWs", secret=True)
    iv_dwords: bytes = blob(12, "Pending initial IV, 3 DWs; ignored with the default IV")


@message(ObjectId.KP_ACK)
class KpAck(Message):
    """Answer KEY_PROG."""

    _reserved: None = reserved(2)
    stream_id: int = u8("Stream ID")
    status: KpAckStatus = u8("Status", enum=KpAckStatus)
    key_sub_stream: KeySubStream = part(KeySubStream, "Which key")
    port_index: int = u8("PortIndex")


@message(ObjectId.K_SET_GO)
class KSetGo(KeyAddress, Message):
    """Make a programmed key active."""


@message(ObjectId.K_SET_STOP)
class KSetStop(KeyAddress, Message):
    """Erase a key."""


@message(ObjectId.K_GOSTOP_ACK)
class KGostopAck(KeyAddress, Message):
    """Answer K_SET_GO and K_SET_STOP."""


@message(ObjectId.GET_KEY)
class GetKey(KeyAddress, Message):
    """Ask the port to make a key."""


@message(ObjectId.GET_KEY_ACK)
class GetKeyAck(KeyAddress, Message):
    """Answer GET_KEY."""

    key_dwords: bytes = blob(32, "Key, 8 DWs", secret=True)
    iv_dwords: bytes = blob(12, "IV, 3 DWs")


# -- the port --------------------------------------------------------------------------------------------------------


class KeyState(Enum):
    """What one direction of the port holds."""

    EMPTY = "no key"
    PROGRAMMED = "a key that waits for K_SET_GO"
    ACTIVE = "a key in use"


KEY_RULES: Mapping[tuple[ObjectId, KeyState], KeyState | None] = MappingProxyType(
    {
        (ObjectId.KEY_PROG, KeyState.EMPTY): KeyState.PROGRAMMED,
        (ObjectId.KEY_PROG, KeyState.PROGRAMMED): KeyState.PROGRAMMED,
        # UNCONFIRMED: CXL.cachemem has no key sets, so a refresh programs over the active key; K_SET_GO must follow.
        (ObjectId.KEY_PROG, KeyState.ACTIVE): KeyState.PROGRAMMED,
        (ObjectId.K_SET_GO, KeyState.EMPTY): None,
        (ObjectId.K_SET_GO, KeyState.PROGRAMMED): KeyState.ACTIVE,
        (ObjectId.K_SET_GO, KeyState.ACTIVE): KeyState.ACTIVE,
        (ObjectId.K_SET_STOP, KeyState.EMPTY): KeyState.EMPTY,
        (ObjectId.K_SET_STOP, KeyState.PROGRAMMED): KeyState.EMPTY,
        (ObjectId.K_SET_STOP, KeyState.ACTIVE): KeyState.EMPTY,
    }
)
"""The state after each request, or None where it is refused."""

_CLAUSE = "CXL 3.0 CXL IDE key management"


class CxlIdeKmResponder:
    """Answers CXL IDE_KM messages for one port with one stream; what it refuses gets no answer, or KP_ACK INVALID."""

    standard_id = STANDARD_ID
    vendor_id = VENDOR_ID
    protocol_id = PROTOCOL_ID

    def __init__(
        self,
        *,
        port_index: int = 0,
        stream_id: int = 0,
        registers: bytes = bytes(4 * REGISTERS),
        observer: Observer = ignore,
    ) -> None:
        self.port_index = port_index
        self.stream_id = stream_id
        self.registers = registers
        self.caps = QueryCaps.VERSION_1 | QueryCaps.K_SET_STOP
        self._observer = observer
        self._owner: int | None = None
        self._keys = dict.fromkeys(Direction, KeyState.EMPTY)

    def state(self, direction: Direction) -> KeyState:
        """Tell what one direction holds."""
        return self._keys[direction]

    def respond(self, session_id: int, message: bytes, now: float) -> bytes | None:
        """Answer one message of the SPDM session `session_id`; None gives no answer. Never raises on peer bytes."""
        try:
            return self._answer(session_id, bytes(message)).encode()
        except (Reject, DecodeError) as refusal:
            self._observer(Refused("CXL IDE_KM", bytes(message[:1]).hex(), str(refusal)))
            return None

    def session_ended(self, session_id: int) -> None:
        """Erase the keys of the session that programmed them."""
        if session_id == self._owner:
            self._owner = None
            self._keys = dict.fromkeys(Direction, KeyState.EMPTY)

    def _answer(self, session_id: int, message: bytes) -> Message:
        request = decode_message(message)
        handler: Callable[[CxlIdeKmResponder, Any], Message] | None = _HANDLERS.get(type(request))
        if handler is None:
            raise Reject(0, f"{request.NAME} is not answered ({_CLAUSE})")
        if self._owner not in (None, session_id):
            raise Reject(0, f"another live session owns the port ({_CLAUSE})")
        response = handler(self, request)
        self._owner = session_id
        return response

    def _query(self, request: Query) -> Message:
        if request.port_index != self.port_index:
            raise Reject(0, f"port index {request.port_index} does not exist ({_CLAUSE})")
        return QueryResp(
            port_index=self.port_index, max_port_index=self.port_index, caps=self.caps, registers=self.registers
        )

    def _key_prog(self, request: KeyProg) -> Message:
        known = self._addresses_this(request)
        if known:
            self._advance(ObjectId.KEY_PROG, request.key_sub_stream.direction)
        return KpAck(
            stream_id=request.stream_id,
            status=KpAckStatus.SUCCESS if known else KpAckStatus.INVALID,
            key_sub_stream=request.key_sub_stream,
            port_index=request.port_index,
        )

    def _go_or_stop(self, request: KSetGo | KSetStop) -> Message:
        if not self._addresses_this(request):
            raise Reject(0, f"{request.NAME} is for another port, stream or sub-stream ({_CLAUSE})")
        self._advance(ObjectId(request.CODE), request.key_sub_stream.direction)
        return KGostopAck(
            stream_id=request.stream_id, key_sub_stream=request.key_sub_stream, port_index=request.port_index
        )

    def _addresses_this(self, request: KeyAddress) -> bool:
        asked = (request.port_index, request.stream_id, request.key_sub_stream.sub_stream)
        return asked == (self.port_index, self.stream_id, CXL_SUB_STREAM)

    def _advance(self, request: ObjectId, direction: Direction) -> None:
        state = KEY_RULES[request, self._keys[direction]]
        if state is None:
            raise Reject(0, f"{request.name} without a programmed key ({_CLAUSE})")
        self._keys[direction] = state


_HANDLERS: dict[type[Any], Callable[..., Message]] = {
    Query: CxlIdeKmResponder._query,
    KeyProg: CxlIdeKmResponder._key_prog,
    KSetGo: CxlIdeKmResponder._go_or_stop,
    KSetStop: CxlIdeKmResponder._go_or_stop,
}
