"""What the pages are made of: tables in Markdown, and layouts of records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from teeio.wire import Record, table


def grid(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
    yield ""


def first_line(thing: object) -> str:
    """Give the first line of a docstring."""
    return (thing.__doc__ or "").strip().splitlines()[0]


def layout(cls: type[Record], version: int, title: str) -> Iterator[str]:
    """Yield the lines of a record's layout."""
    yield from (f"### {title}", "", first_line(cls), "")
    rows = [(row.offset, row.size, f"`{row.name}`", row.doc) for row in table(cls, version)]
    yield from grid(("offset", "size", "field", "meaning"), rows)
