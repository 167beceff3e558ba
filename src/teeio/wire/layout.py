"""The base of every declared layout: encode, decode and spans, by functions compiled on first use in each version."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, NamedTuple, TypeVar

from teeio.errors import DecodeError, Misuse
from teeio.wire.decoder import Decode, Trace, compile_decoder, compile_tracer
from teeio.wire.encoder import Encode, compile_encoder
from teeio.wire.field import Field, Span

R = TypeVar("R", bound="Record")


class NoFacts(NamedTuple):
    """Facts of a layout that depends on nothing but its version."""

    version: int = 0


NO_FACTS = NoFacts()


class Record:
    """Base of every declared layout."""

    __slots__ = ()
    FIELDS: ClassVar[tuple[Field, ...]] = ()
    _codecs: ClassVar[dict[int, Codec]]

    @classmethod
    def codec(cls, version: int) -> Codec:
        """Give the compiled functions for `version`, compiling them on first use."""
        found = cls._codecs.get(version)
        if found is None:
            found = cls._codecs[version] = Codec(cls, version)
        return found

    @classmethod
    def decode(cls: type[R], data: bytes, facts: Any = NO_FACTS) -> R:
        """Decode all of `data`; trailing bytes are an error."""
        value, used = cls.decode_prefix(data, facts)
        if used != len(data):
            raise DecodeError(cls.__name__, "(end)", used, f"{len(data) - used} trailing bytes")
        return value

    @classmethod
    def decode_prefix(cls: type[R], data: bytes, facts: Any = NO_FACTS) -> tuple[R, int]:
        """Decode from the start of `data`; give the object and the number of bytes used. The caller rules on the rest."""
        data = bytes(data)
        codec = cls._codecs.get(facts.version) or cls.codec(facts.version)
        result: tuple[R, int] = codec.decode(data, 0, len(data), facts)
        return result

    @classmethod
    def spans(cls, data: bytes, facts: Any = NO_FACTS) -> list[Span]:
        """Say where each field of the encoded `data` lies; nested fields are named "ranges[0].pages"."""
        data = bytes(data)
        found: list[Span] = []
        cls.codec(facts.version).trace(data, 0, len(data), facts, found, "")
        return found

    def encode(self, facts: Any = NO_FACTS) -> bytes:
        """Encode. Raises `Misuse` naming the field whose value does not fit."""
        codec = self.codec(facts.version)
        try:
            return codec.encode(self, facts)
        except (OverflowError, TypeError) as error:
            raise Misuse(f"{type(self).__name__} cannot be encoded: {error}: {self!r}") from error

    def shown(self) -> dict[str, Any]:
        """Give the stored fields by name, for people and JSON; secrets included, so mind where it goes."""
        return {field.name: getattr(self, field.name) for field in self.FIELDS if field.stored}


class Codec:
    """The functions of one layout in one version, each compiled on first use."""

    def __init__(self, cls: type[Record], version: int) -> None:
        self._cls = cls
        self._version = version

    @cached_property
    def decode(self) -> Decode:
        """The decoder."""
        return compile_decoder(self._cls, self._cls.FIELDS, self._version)

    @cached_property
    def trace(self) -> Trace:
        """The decoder that also says where each field lies."""
        return compile_tracer(self._cls, self._cls.FIELDS, self._version)

    @cached_property
    def encode(self) -> Encode:
        """The encoder."""
        return compile_encoder(self._cls.__name__, self._cls.FIELDS, self._version)
