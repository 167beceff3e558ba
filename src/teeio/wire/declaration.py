"""Declaration of layouts: the specifiers of fields, and `@record`, which makes a keyword-only dataclass of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, Literal, TypeVar, dataclass_transform

from teeio.wire.field import REQUIRED, Field
from teeio.wire.layout import Record

R = TypeVar("R", bound=Record)


def u8(doc: str = "", **options: Any) -> Any:
    """Declare an unsigned byte. Options: default, enum, since, until, held, when."""
    return _integer(1, doc, options)


def u16(doc: str = "", **options: Any) -> Any:
    """Declare a 2-byte unsigned integer; `big=True` for network order."""
    return _integer(2, doc, options)


def u24(doc: str = "", **options: Any) -> Any:
    """Declare a 3-byte unsigned integer."""
    return _integer(3, doc, options)


def u32(doc: str = "", **options: Any) -> Any:
    """Declare a 4-byte unsigned integer."""
    return _integer(4, doc, options)


def u64(doc: str = "", **options: Any) -> Any:
    """Declare an 8-byte unsigned integer."""
    return _integer(8, doc, options)


def i64(doc: str = "", **options: Any) -> Any:
    """Declare an 8-byte two's-complement integer."""
    return _integer(8, doc, {**options, "signed": True})


def blob(size: int | str, doc: str = "", **options: Any) -> Any:
    """Declare bytes of `size`: a number, an expression, the name of a length field, or `REST`."""
    return Field("blob", size, doc, **options)


def bits(width: int, doc: str = "", *, of: int = 0, **options: Any) -> Any:
    """Declare `width` bits; the first of a group gives `of`, its bytes, and a group runs from bit 0 until it is full."""
    return Field("bits", width, doc, container=of, **options)


def reserved_bits(width: int, *, of: int = 0, init: Literal[False] = False, **options: Any) -> Any:
    """Declare bits of a group that are written as zero and ignored when read; name them with a leading underscore."""
    return Field("bits", width, "Reserved", container=of, **options)


def part(cls: type[R], doc: str = "", **options: Any) -> Any:
    """Declare a nested layout."""
    return Field("record", 0, doc, item=cls, **options)


def repeat(item: Any, doc: str = "", *, count: str = "", size: int | str = 0, **options: Any) -> Any:
    """Declare a tuple of nested layouts (or of integers of `item` bytes), by `count` or filling `size` bytes (or `REST`)."""
    return Field("repeat", size, doc, item=item, count=count, **options)


def reserved(size: int, *, init: Literal[False] = False, **options: Any) -> Any:
    """Declare bytes that are written as zero and ignored when read."""
    return Field("reserved", size, "Reserved", **options)


def const(size: int, value: int | str, doc: str = "", *, init: Literal[False] = False, **options: Any) -> Any:
    """Declare an integer that must have `value` (a number or an expression)."""
    return Field("const", size, doc, count=str(value), **options)


def length_of(target: str, size: int, doc: str = "", *, init: Literal[False] = False, **options: Any) -> Any:
    """Declare the byte length of field `target`; `unit` divides it, `bias` is added."""
    return Field("length", size, doc or f"Bytes of {target}", item=target, **options)


def count_of(target: str, size: int, doc: str = "", *, init: Literal[False] = False, **options: Any) -> Any:
    """Declare the number of items of field `target`."""
    return Field("count", size, doc or f"Number of {target}", item=target, **options)


def total_length(size: int, doc: str = "", *, init: Literal[False] = False, **options: Any) -> Any:
    """Declare the byte length of the whole layout; `unit` divides it. Decoding is bounded by it."""
    return Field("total", size, doc or "Bytes of the whole structure", **options)


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
def record(cls: type[Any]) -> Any:
    """Make a layout of a class whose annotated fields are specifiers."""
    return build(cls, ())


def build(cls: type[Any], header: tuple[Field, ...]) -> Any:
    """Make the slotted dataclass of a layout, with `header` fields before its own."""
    declared = [Field(**{**_as_dict(value), "name": name}) for name, value in _specifiers(cls)]
    fields = (*header, *declared)
    namespace: dict[str, Any] = {
        key: value
        for key, value in vars(cls).items()
        if not isinstance(value, Field) and key not in ("__dict__", "__weakref__")
    }
    namespace["__annotations__"] = {f.name: cls.__annotations__[f.name] for f in declared if f.stored}
    for f in declared:
        if f.stored:
            options = {} if f.fallback is REQUIRED else {"default": f.fallback}
            namespace[f.name] = dataclass_field(repr=not f.secret, kw_only=True, **options)
    bases = tuple(base for base in cls.__bases__ if base is not object)
    if not any(issubclass(base, Record) for base in bases):
        bases = (*bases, Record)
    made: Any = dataclass(slots=True, kw_only=True)(type(cls.__name__, bases, namespace))
    made.FIELDS = fields
    made._codecs = {}
    made.__qualname__ = cls.__qualname__
    return made


def _as_dict(value: Field) -> dict[str, Any]:
    return {name: getattr(value, name) for name in Field.__slots__}


def _specifiers(cls: type[Any]) -> Iterator[tuple[str, Field]]:
    for name in inspect.get_annotations(cls):
        value = cls.__dict__.get(name)
        if isinstance(value, Field):
            yield name, value


def _integer(size: int, doc: str, options: dict[str, Any]) -> Any:
    return Field("int", size, doc, **options)
