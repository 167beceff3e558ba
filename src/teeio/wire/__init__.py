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

Each file builds on the ones before it: `field` and `flags`, `source` (what is written to compile), `decoder` and `encoder`, `layout`
(the base class), `declaration` (specifiers and `@record`), and what is derived: `tables`, `editing` and `frozen`.
"""

from teeio.wire.declaration import (
    bits,
    blob,
    build,
    const,
    count_of,
    i64,
    length_of,
    part,
    record,
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
from teeio.wire.editing import edit
from teeio.wire.field import REQUIRED, REST, Field, Span
from teeio.wire.flags import MAX_REMEMBERED_FLAGS, flags_of
from teeio.wire.frozen import frozen
from teeio.wire.layout import NO_FACTS, Codec, NoFacts, Record
from teeio.wire.tables import Row, table

__all__ = [
    "MAX_REMEMBERED_FLAGS",
    "NO_FACTS",
    "REQUIRED",
    "REST",
    "Codec",
    "Field",
    "NoFacts",
    "Record",
    "Row",
    "Span",
    "bits",
    "blob",
    "build",
    "const",
    "count_of",
    "edit",
    "flags_of",
    "frozen",
    "i64",
    "length_of",
    "part",
    "record",
    "repeat",
    "reserved",
    "reserved_bits",
    "table",
    "total_length",
    "u8",
    "u16",
    "u24",
    "u32",
    "u64",
]
