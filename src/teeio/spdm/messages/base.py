"""What all SPDM messages share: the header, the negotiated facts, and the registry by code.

DSP0274, "Generic SPDM message format": SPDMVersion, RequestResponseCode, Param1, Param2. A message class declares the fields from
Param1 on; version and code come from the facts and the decorator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, Generic, NamedTuple, TypeVar, dataclass_transform

from teeio.errors import DecodeError, Misuse
from teeio.spdm.constants import Version
from teeio.wire import (
    Field,
    Record,
    bits,
    blob,
    build,
    const,
    count_of,
    i64,
    length_of,
    part,
    repeat,
    reserved,
    reserved_bits,
    total_length,
    u8,
    u16,
    u24,
    u32,
    u64,
)

HEADER_SIZE = 4


class Facts(NamedTuple):
    """Negotiated facts that the layouts refer to; sizes in bytes, 0 where nothing is negotiated.

    `summary_size` and `signed` depend on the request that a response answers: the side that decodes the response sets them.
    """

    version: int = Version.V1_0
    hash_size: int = 0
    signature_size: int = 0
    req_signature_size: int = 0
    request_exchange_size: int = 0
    response_exchange_size: int = 0
    handshake_in_the_clear: bool = False
    multi_key: bool = False
    summary_size: int = 0
    signed: bool = True

    def answering(self, request: Message) -> Facts:
        """Give the facts for decoding the response to `request`."""
        summary = self.hash_size if getattr(request, "summary_type", 0) else 0
        signed = bool(getattr(request, "signature_requested", True))
        if (summary, signed) == (self.summary_size, self.signed):
            return self
        return self._replace(summary_size=summary, signed=signed)


class Message(Record):
    """An SPDM message."""

    __slots__ = ()
    CODE: ClassVar[int] = 0
    NAME: ClassVar[str] = ""


Rsp = TypeVar("Rsp", bound="Response", covariant=True)


class Response(Message):
    """A message that a responder sends."""

    __slots__ = ()


class Request(Message, Generic[Rsp]):
    """A message that a requester sends; `Rsp` is the response it expects."""

    __slots__ = ()

    @classmethod
    def response_class(cls) -> type[Response]:
        """Give the class of the expected response: its code is the request's with bit 7 clear."""
        found = BY_CODE[cls.CODE & 0x7F]
        if not issubclass(found, Response):
            raise Misuse(f"{cls.NAME} has no declared response")
        return found


BY_CODE: dict[int, type[Message]] = {}
"""Every declared message by its RequestResponseCode."""

M = TypeVar("M", bound=Message)


@dataclass_transform(
    kw_only_default=True,
    field_specifiers=(
        u8,
        u16,
        u24,
        u32,
        u64,
        i64,
        blob,
        bits,
        part,
        repeat,
        reserved,
        reserved_bits,
        const,
        length_of,
        count_of,
        total_length,
    ),
)
def message(code: int, name: str, *, version: int | None = None) -> Callable[[type[M]], type[M]]:
    """Declare an SPDM message: `name` as DSP0274 writes it; `version` fixes the version byte (GET_VERSION and VERSION)."""

    def decorate(cls: type[M]) -> type[M]:
        header = (
            Field("const", 1, "SPDMVersion", count="version" if version is None else str(version), name="spdm_version"),
            Field("const", 1, "RequestResponseCode", count=str(code), name="code"),
        )
        made: type[M] = build(cls, header)
        made.CODE = code
        made.NAME = name
        BY_CODE[code] = made
        return made

    return decorate


class Header(NamedTuple):
    """The four bytes that every SPDM message begins with."""

    version: int
    code: int
    param1: int
    param2: int


def header(data: bytes) -> Header:
    """Read the header. Raises `DecodeError` if there are fewer than four bytes."""
    if len(data) < HEADER_SIZE:
        raise _too_short(data)
    return Header(*data[:HEADER_SIZE])


def _too_short(data: bytes) -> DecodeError:
    return DecodeError("SpdmMessage", "header", 0, f"needs {HEADER_SIZE} bytes, has {len(data)}")


def decode(data: bytes, facts: Facts) -> tuple[Message, int]:
    """Decode the message at the start of `data` by its code; give it and its size. Trailing bytes are the caller's business."""
    if len(data) < HEADER_SIZE:
        raise _too_short(data)
    cls = BY_CODE.get(data[1])
    if cls is None:
        raise DecodeError("SpdmMessage", "code", 1, f"{data[1]:#04x} is not a declared RequestResponseCode")
    return cls.decode_prefix(data, facts)


def name_of(code: int) -> str:
    """Give a message's name, or its code in hex for an undeclared one."""
    cls = BY_CODE.get(code)
    return cls.NAME if cls else f"{code:#04x}"


def declared() -> Iterator[type[Message]]:
    """Yield all message classes in the order of their codes."""
    for code in sorted(BY_CODE):
        yield BY_CODE[code]
