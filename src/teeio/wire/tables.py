"""Tables of layouts, for documentation."""

from __future__ import annotations

from typing import NamedTuple

from teeio.wire.field import Field
from teeio.wire.layout import Record


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
