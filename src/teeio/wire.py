"""Declared binary layouts: one declaration gives encode, decode, byte spans, tables and test strategies.

A layout is a class whose fields are specifiers; `@record` makes it a keyword-only dataclass::

    @record
    class Range:
        first_page: int = u64("First 4 KiB page")
        pages: int = u32("Number of pages")
        name_length: None = length_of("name", 2)
        name: bytes = blob("name_length", "A name")

Sizes, counts and conditions are Python expressions over the names of earlier fields and, for every other name, over attributes
of the *facts* object handed to encode and decode (negotiated sizes, the version). A length or count field is never stored: it is
derived from what it counts, so it cannot be set wrong. All integers are little-endian unless a field says otherwise.

For each layout and version, straight-line encode and decode functions are compiled on first use. Nothing but `DecodeError` comes
out of decoding any bytes; every repetition is bounded by the bytes that are there.
"""

from __future__ import annotations

import ast
import inspect
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from enum import IntEnum, IntFlag
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, dataclass_transform

from teeio.errors import DecodeError, Misuse

R = TypeVar("R", bound="Record")

REST = "rest"
"""Size of a blob that takes all bytes to the end of its layout."""

REQUIRED: Any = object()
"""Default of a field that must be given."""


MAX_REMEMBERED_FLAGS = 4096
"""Combinations of one kind of flags that the interpreter may remember at a time."""


def flags_of(kind: type[IntFlag]) -> Callable[[int], IntFlag]:
    """Make `kind` of a number without remembering every number that a peer ever sends, as `enum` alone would."""
    remembered = kind._value2member_map_
    named = dict(remembered)

    def flags(value: int) -> IntFlag:
        found = kind(value)
        if len(remembered) > MAX_REMEMBERED_FLAGS:
            remembered.clear()
            remembered.update(named)
        return found

    return flags


@dataclass(frozen=True, slots=True)
class Field:
    """One declared field: what the specifiers below record, and what docs, tests and codecs read."""

    kind: Literal["int", "blob", "reserved", "const", "length", "count", "total", "bits", "record", "repeat"]
    size: int | str = 0
    doc: str = ""
    default: Any = REQUIRED
    enum: type[IntEnum] | type[IntFlag] | None = None
    since: int = 0
    until: int = 255
    held: bool = False
    when: str = ""
    item: Any = None
    count: str = ""
    unit: int = 1
    bias: int = 0
    big: bool = False
    signed: bool = False
    secret: bool = False
    container: int = 0
    name: str = ""

    def present(self, version: int) -> bool:
        """Tell whether the field has a meaning in `version`."""
        return self.since <= version <= self.until

    @property
    def stored(self) -> bool:
        """Tell whether the field is an attribute of the decoded object."""
        return self.kind in ("int", "blob", "record", "repeat") or (
            self.kind == "bits" and not self.name.startswith("_")
        )


class Span(NamedTuple):
    """Where a field lies in encoded bytes: [start, end)."""

    field: str
    start: int
    end: int


# -- specifiers ---------------------------------------------------------------------------------------------------------


def _integer(size: int, doc: str, options: dict[str, Any]) -> Any:
    return Field("int", size, doc, **options)


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


# -- the record base ----------------------------------------------------------------------------------------------------


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
        result: tuple[R, int] = cls.codec(facts.version).decode(data, 0, len(data), facts)
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
        except (struct.error, OverflowError, TypeError) as error:
            raise Misuse(f"{type(self).__name__} cannot be encoded: {error}: {self!r}") from error

    def shown(self) -> dict[str, Any]:
        """Give the stored fields by name, for people and JSON; secrets included, so mind where it goes."""
        return {field.name: getattr(self, field.name) for field in self.FIELDS if field.stored}


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
            options = {} if _default(f) is REQUIRED else {"default": _default(f)}
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


def _default(f: Field) -> Any:
    if f.default is not REQUIRED:
        return f.default
    if f.when or f.since or f.until != 255:
        return {"int": 0, "bits": 0, "blob": b"", "repeat": (), "record": None}[f.kind]
    return REQUIRED


# -- compilation --------------------------------------------------------------------------------------------------------


class Codec:
    """The compiled functions of one layout in one version."""

    __slots__ = ("cls", "decode", "encode", "trace")

    decode: Callable[[bytes, int, int, Any], tuple[Any, int]]
    trace: Callable[[bytes, int, int, Any, list[Span], str], tuple[Any, int]]
    encode: Callable[[Any, Any], bytes]

    def __init__(self, cls: type[Record], version: int) -> None:
        self.cls = cls
        fields = [f for f in cls.FIELDS if f.present(version) or f.held or f.kind == "bits"]
        self.decode = _Decoder(cls, fields, version, traced=False).compile()
        self.trace = _Decoder(cls, fields, version, traced=True).compile()
        self.encode = _Encoder(cls, fields, version).compile()


class _Source:
    """Python source being written, with the objects it refers to."""

    def __init__(self, cls: type[Record], fields: list[Field], version: int) -> None:
        self.cls = cls
        self.fields = fields
        self.version = version
        self.lines: list[str] = []
        self.scope: dict[str, Any] = {
            "CLS": cls,
            "ERR": DecodeError,
            "MISUSE": Misuse,
            "NEW": object.__new__,
            "SPAN": Span,
        }
        self.names = {f.name for f in cls.FIELDS}
        self.indent = 1

    def put(self, line: str) -> None:
        self.lines.append("    " * self.indent + line)

    def bind(self, prefix: str, value: Any) -> str:
        name = f"{prefix}{len(self.scope)}"
        self.scope[name] = value
        return name

    def expression(self, text: int | str, local: Callable[[str], str]) -> str:
        """Rewrite names: a field's name by `local`, any other to an attribute of the facts."""
        if isinstance(text, int):
            return str(text)
        names = self.names
        here = {f.name for f in self.fields}
        absent = {f.name: _default(f) if f.stored else 0 for f in self.cls.FIELDS if f.name not in here}

        class Rename(ast.NodeTransformer):
            def visit_Name(self, node: ast.Name) -> ast.AST:
                source = local(node.id) if node.id in names else f"F.{node.id}"
                source = repr(absent[node.id]) if node.id in absent else source
                return ast.parse(source, mode="eval").body

        return ast.unparse(ast.fix_missing_locations(Rename().visit(ast.parse(text, mode="eval"))).body)

    def build(self, signature: str, name: str) -> Any:
        source = f"def {name}({signature}):\n" + "\n".join(self.lines) + "\n"
        exec(compile(source, f"<{self.cls.__name__} {name} v{self.version:#x}>", "exec"), self.scope)
        return self.scope[name]

    def unsuited(self, f: Field) -> bool:
        """Tell whether a held field's value has no meaning in this version: it is then zero on the wire."""
        return not f.present(self.version)

    def groups(self) -> Iterator[list[Field]]:
        """Yield bit groups as one list each, and every other field as a list of one."""
        group: list[Field] = []
        for f in self.fields:
            if f.kind != "bits":
                yield [f]
                continue
            group.append(f)
            if sum(int(member.size) for member in group) == 8 * group[0].container:
                yield group
                group = []
        if group:
            raise TypeError(
                f"{self.cls.__name__}: the bits from {group[0].name} on do not fill {group[0].container} bytes"
            )


def _order(f: Field) -> str:
    return "big" if f.big else "little"


class _Decoder(_Source):
    def __init__(self, cls: type[Record], fields: list[Field], version: int, *, traced: bool) -> None:
        super().__init__(cls, fields, version)
        self.traced = traced

    def local(self, name: str) -> str:
        return f"v_{name}"

    def compile(self) -> Any:
        for group in self.groups():
            self.group(group)
        self.put("R = NEW(CLS)")
        for f in self.cls.FIELDS:
            if not f.stored:
                continue
            if f in self.fields:
                self.put(f"R.{f.name} = v_{f.name}")
            else:
                self.put(f"R.{f.name} = {self.bind('K', _default(f))}")
        self.put("return R, O")
        self.lines.insert(0, "    B = O")
        signature = "D, O, E, F, S, P" if self.traced else "D, O, E, F"
        return self.build(signature, "trace" if self.traced else "decode")

    def group(self, group: list[Field]) -> None:
        f = group[0]
        if self.traced:
            self.put("A = O")
        if f.when:
            self.put(f"if {self.expression(f.when, self.local)}:")
            self.indent += 1
        getattr(self, f"read_{f.kind}")(f if f.kind != "bits" else group)
        if self.traced and f.kind not in ("record", "repeat"):
            label = f.name if f.kind != "bits" else "/".join(member.name for member in group)
            self.put(f"S.append(SPAN(P + {label!r}, A, O))")
        if f.when:
            self.indent -= 1
            self.put(f"else: v_{f.name} = {self.bind('K', _default(f) if f.stored else 0)}")

    def fail(self, f: Field, reason: str, at: str = "O") -> str:
        return f"raise ERR({self.cls.__name__!r}, {f.name!r}, {at}, {reason})"

    def need(self, f: Field, size: str) -> None:
        message = f"f'needs {{{size}}} bytes, {{E - O}} are left'"
        self.put(f"if {'' if size.isdigit() else f'{size} < 0 or '}E - O < {size}: {self.fail(f, message)}")

    def read_number(self, f: Field, size: int, target: str, signed: bool = False) -> None:
        self.need(f, str(size))
        if size == 1 and not signed:
            self.put(f"{target} = D[O]")
        else:
            self.put(f"{target} = int.from_bytes(D[O:O + {size}], {_order(f)!r}, signed={signed})")
        self.put(f"O += {size}")

    def read_int(self, f: Field) -> None:
        self.read_number(f, int(f.size), f"v_{f.name}", f.signed)
        if self.unsuited(f):
            self.put(f"v_{f.name} = {self.bind('K', _default(f))}")
        elif f.enum is not None:
            self.put(f"v_{f.name} = {self.enumerated(f, f'v_{f.name}')}")

    def enumerated(self, f: Field, value: str) -> str:
        assert f.enum is not None
        if issubclass(f.enum, IntFlag):
            return f"{self.bind('ENUM', flags_of(f.enum))}({value})"
        return f"{self.bind('ENUM', {int(m): m for m in f.enum})}.get({value}, {value})"

    def read_bits(self, group: list[Field]) -> None:
        first = group[0]
        self.read_number(first, first.container, "W")
        shift = 0
        for f in group:
            value = f"W >> {shift} & {(1 << int(f.size)) - 1}"
            shift += int(f.size)
            if self.unsuited(f):
                value = self.bind("K", _default(f))
            elif f.enum is not None:
                value = self.enumerated(f, f"({value})")
            self.put(f"v_{f.name} = {value}")

    def read_reserved(self, f: Field) -> None:
        self.need(f, str(f.size))
        self.put(f"O += {f.size}")

    def read_const(self, f: Field) -> None:
        self.read_number(f, int(f.size), f"v_{f.name}")
        expected = self.expression(f.count, self.local)
        reason = f"f'is {{v_{f.name}:#x}}, must be {{{expected}:#x}}'"
        self.put(f"if v_{f.name} != {expected}: {self.fail(f, reason, f'O - {f.size}')}")

    def read_length(self, f: Field) -> None:
        self.read_number(f, int(f.size), f"v_{f.name}")
        if f.unit != 1 or f.bias:
            self.put(f"v_{f.name} = (v_{f.name} - {f.bias}) * {f.unit}")

    read_count = read_length

    def read_total(self, f: Field) -> None:
        self.read_number(f, int(f.size), f"v_{f.name}")
        self.put(f"v_{f.name} *= {f.unit}")
        reason = f"f'says {{v_{f.name}}} bytes, {{E - B}} are there'"
        self.put(f"if not O - B <= v_{f.name} <= E - B: {self.fail(f, reason, f'O - {f.size}')}")
        self.put(f"E = B + v_{f.name}")

    def read_blob(self, f: Field) -> None:
        if f.size == REST:
            self.put(f"v_{f.name} = D[O:E]; O = E")
            return
        self.put(f"N = {self.expression(f.size, self.local)}")
        self.need(f, "N")
        self.put(f"v_{f.name} = D[O:O + N]; O += N")

    def read_record(self, f: Field) -> None:
        self.put(f"v_{f.name}, O = {self.nested(f, f.name)}")

    def nested(self, f: Field, label: str, end: str = "E") -> str:
        cls = self.bind("ITEM", f.item)
        if self.traced:
            return f"{cls}.codec(F.version).trace(D, O, {end}, F, S, P + f'{label}.')"
        return f"{cls}.codec(F.version).decode(D, O, {end}, F)"

    def read_repeat(self, f: Field) -> None:
        self.put(f"v_{f.name} = []")
        if f.count:
            self.put(f"N = {self.expression(f.count, self.local)}")
            reason = "f'{N} items cannot fit in {E - O} bytes'"
            self.put(f"if N < 0 or N > E - O: {self.fail(f, reason)}")
            self.put("for I in range(N):")
            self.read_item(f, "E")
        else:
            if f.size == REST:
                self.put("L = E")
            else:
                self.put(f"N = {self.expression(f.size, self.local)}")
                self.need(f, "N")
                self.put("L = O + N")
            self.put("I = 0")
            self.put("while O < L:")
            self.read_item(f, "L")
            self.put("    I += 1")
        self.put(f"v_{f.name} = tuple(v_{f.name})")

    def read_item(self, f: Field, end: str) -> None:
        self.indent += 1
        if isinstance(f.item, int):
            reason = "'the list is cut short'"
            self.put(f"if {end} - O < {f.item}: {self.fail(f, reason)}")
            self.put(f"v_{f.name}.append(int.from_bytes(D[O:O + {f.item}], 'little')); O += {f.item}")
            if self.traced:
                self.put(f"S.append(SPAN(P + f'{f.name}[{{I}}]', O - {f.item}, O))")
        else:
            self.put("C = O")
            self.put(f"X, O = {self.nested(f, f.name + '[{I}]', end)}")
            empty = "'an item without bytes'"
            self.put(f"if O == C: {self.fail(f, empty)}")
            self.put(f"v_{f.name}.append(X)")
        self.indent -= 1


class _Encoder(_Source):
    def local(self, name: str) -> str:
        f = next(other for other in self.cls.FIELDS if other.name == name)
        return self.derived(f) if f.kind in ("length", "count") else f"M.{name}"

    def derived(self, f: Field) -> str:
        """Give the expression of a length or count field: what it counts, not its wire form."""
        target = next(other for other in self.cls.FIELDS if other.name == f.item)
        return f"len(M.{target.name})" if f.kind == "count" or target.kind == "blob" else f"len({self.joined(target)})"

    def compile(self) -> Any:
        self.lines.append("    T = []")
        self.totals: list[Field] = []
        for group in self.groups():
            f = group[0]
            if f.when:
                self.put(f"if {self.expression(f.when, self.local)}:")
                self.indent += 1
            getattr(self, f"write_{f.kind}")(f if f.kind != "bits" else group)
            if f.when:
                self.indent -= 1
        self.put("T = b''.join(T)")
        for f in self.totals:
            self.put(f"if len(T) % {f.unit}: raise MISUSE('{self.cls.__name__}: length is not a multiple of {f.unit}')")
            self.put(
                f"T = T[:{self.offset(f)}] + (len(T) // {f.unit}).to_bytes({f.size}, {_order(f)!r}) + T[{self.offset(f)} + {f.size}:]"
            )
        self.put("return T")
        return self.build("M, F", "encode")

    def offset(self, total: Field) -> int:
        offset = 0
        for group in self.groups():
            if group[0].name == total.name:
                return offset
            offset += group[0].container if group[0].kind == "bits" else int(group[0].size)
        raise TypeError(f"{self.cls.__name__}.{total.name} must follow fixed-size fields only")

    def number(self, f: Field, value: str) -> None:
        self.put(f"V = {value}")
        low, high = (-(1 << 8 * int(f.size) - 1), 1 << 8 * int(f.size) - 1) if f.signed else (0, 1 << 8 * int(f.size))
        self.put(
            f"if not {low} <= V < {high}: raise MISUSE(f'{self.cls.__name__}.{f.name}: {{V}} does not fit in {f.size} bytes')"
        )
        self.put(f"T.append(V.to_bytes({f.size}, {_order(f)!r}, signed={f.signed}))")

    def write_int(self, f: Field) -> None:
        self.number(f, "0" if self.unsuited(f) else f"M.{f.name}")

    def write_bits(self, group: list[Field]) -> None:
        self.put("W = 0")
        shift = 0
        for f in group:
            if f.stored and not self.unsuited(f):
                self.put(f"V = M.{f.name}")
                self.put(
                    f"if not 0 <= V < {1 << int(f.size)}: "
                    f"raise MISUSE(f'{self.cls.__name__}.{f.name}: {{V}} does not fit in {f.size} bits')"
                )
                self.put(f"W |= V << {shift}")
            shift += int(f.size)
        self.put(f"T.append(W.to_bytes({group[0].container}, {_order(group[0])!r}))")

    def write_reserved(self, f: Field) -> None:
        self.put(f"T.append({bytes(int(f.size))!r})")

    def write_const(self, f: Field) -> None:
        self.number(f, self.expression(f.count, self.local))

    def write_total(self, f: Field) -> None:
        self.totals.append(f)
        self.put(f"T.append({bytes(int(f.size))!r})")

    def write_length(self, f: Field) -> None:
        self.number(f, f"{self.derived(f)} // {f.unit} + {f.bias}")

    write_count = write_length

    def joined(self, f: Field) -> str:
        if f.kind == "record":
            return f"M.{f.name}.encode(F)"
        if isinstance(f.item, int):
            return f"b''.join([X.to_bytes({f.item}, 'little') for X in M.{f.name}])"
        return f"b''.join([X.encode(F) for X in M.{f.name}])"

    def write_blob(self, f: Field) -> None:
        lengths = {other.name for other in self.cls.FIELDS if other.kind in ("length", "count", "total")}
        free = f.size == REST or (
            isinstance(f.size, str)
            and any(isinstance(n, ast.Name) and n.id in lengths for n in ast.walk(ast.parse(f.size)))
        )
        if not free:
            self.put(f"N = {self.expression(f.size, self.local)}")
            self.put(
                f"if len(M.{f.name}) != N: raise MISUSE(f'{self.cls.__name__}.{f.name}: has {{len(M.{f.name})}} bytes, needs {{N}}')"
            )
        self.put(f"T.append(M.{f.name})")

    def write_record(self, f: Field) -> None:
        self.put(f"T.append({self.joined(f)})")

    write_repeat = write_record


# -- what docs and tests derive -----------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One line of a layout's table: `offset` is a number, or "+" after the first field of variable size."""

    offset: str
    size: str
    name: str
    doc: str


def table(cls: type[Record], version: int) -> list[Row]:
    """List the layout of `cls` in `version` as rows for documentation."""
    rows: list[Row] = []
    at: int | None = 0
    bit = container = 0
    for f in cls.FIELDS:
        if not f.present(version) and not f.held and f.kind != "bits":
            continue
        size = _shown_size(f, bit)
        doc = f.doc + (f" (if {f.when})" if f.when else "")
        if f.kind == "bits":
            rows.append(Row("+" if at is None else str(at), size, f.name, doc))
            container = f.container or container
            bit += int(f.size)
            if bit == 8 * container:
                at, bit = (None if at is None else at + container), 0
            continue
        rows.append(Row("+" if at is None else str(at), size, f.name, doc))
        fixed = f.kind not in ("record", "repeat") and isinstance(f.size, int) and not f.when
        at = at + int(f.size) if fixed and at is not None else None
    return rows


def _shown_size(f: Field, bit: int) -> str:
    if f.kind == "bits":
        return f"bit {bit}" if f.size == 1 else f"bits {bit + int(f.size) - 1}:{bit}"
    if f.kind == "record":
        return str(f.item.__name__)
    if f.kind == "repeat":
        item = f"{f.item} B" if isinstance(f.item, int) else f.item.__name__
        return f"{item} x {f.count or f.size}"
    return str(f.size)


def edit(data: bytes, cls: type[Record], field: str, value: bytes, facts: Any = NO_FACTS) -> bytes:
    """Make a malformed message: replace the bytes of `field` in the encoded `data`, whatever follows from it."""
    for span in cls.spans(data, facts):
        if span.field == field or field in span.field.split("/"):
            return data[: span.start] + value + data[span.end :]
    raise Misuse(f"{cls.__name__} has no field {field!r} in these bytes")
