"""One declared field of a layout, and where it lies in encoded bytes.

This is all that the compiler of codecs knows of a declaration.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, Literal, NamedTuple

REST = "rest"
"""Size of a blob that takes all bytes to the end of its layout."""

REQUIRED: Any = object()
"""Default of a field that must be given."""


@dataclass(frozen=True, slots=True)
class Field:
    """One declared field: what a specifier records, and what codecs, docs and tests read."""

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

    @property
    def fallback(self) -> Any:
        """Give the attribute's value where nothing gives one: a conditional field has one anyway. `REQUIRED` if there is none."""
        if self.default is not REQUIRED:
            return self.default
        if self.when or self.since or self.until != 255:
            return {"int": 0, "bits": 0, "blob": b"", "repeat": (), "record": None}[self.kind]
        return REQUIRED

    @property
    def byte_order(self) -> Literal["big", "little"]:
        """Give the order of the field's bytes, as `int.from_bytes` calls it."""
        return "big" if self.big else "little"


class Span(NamedTuple):
    """Where a field lies in encoded bytes: [start, end)."""

    field: str
    start: int
    end: int
