"""The ladder diagram: actors as columns, messages and calls as arrows, repeats folded into one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from teeio.observe import BoundaryCalled, Event, MessageMoved, Refused, StateChanged, TlpMoved

WIDE = 30
"""Characters from one rail to the next where there is room."""

NARROW = 18
"""The least that still names most messages."""

ACTORS = ("TVM", "VMM", "TSM", "root port", "device")
"""The columns, from the guest to the device."""

_COLUMN_OF = (
    ("TSM", 2),
    ("TPA", 2),
    ("session", 2),
    ("root port", 3),
    ("root complex", 3),
    ("TVM", 0),
    ("VMM", 1),
    ("TDI", 4),
    ("DSM", 4),
    ("device", 4),
)
"""Words by which an actor's or a subject's column is found, looked for in this order."""

_CARRIED = "SPDM_REQUEST"
"""Status of a call that gives the VMM a data object to carry: the diagram shows the message instead, and counts."""


@dataclass(frozen=True, slots=True)
class Arrow:
    """One arrow; `style` is a name that the printer gives a colour."""

    source: int
    target: int
    text: str
    style: str


def column_of(name: str) -> int:
    """Give the column of an actor, or of whoever a subject belongs to; unknown names stand with the VMM."""
    return next((column for word, column in _COLUMN_OF if word in name), 1)


def arrows(events: Iterable[Event]) -> Iterator[Arrow]:
    """Turn events into arrows; what is no arrow is left out."""
    carried = 0
    for event in events:
        if isinstance(event, BoundaryCalled) and event.status == _CARRIED:
            carried += 1
        elif isinstance(event, BoundaryCalled):
            text = event.name if event.status in ("SUCCESS", "DONE") else f"{event.name}: {event.status}"
            if carried and event.callee == "TSM" and event.caller == "VMM":
                text, carried = f"{text} ({carried} carried)", 0
            yield Arrow(column_of(event.caller), column_of(event.callee), text, "call")
        elif isinstance(event, MessageMoved):
            text = event.name if event.protocol == "SPDM" else f"{event.protocol} {event.name}"
            style = "secured" if event.session is not None else "plain"
            yield Arrow(column_of(event.source), column_of(event.target), text, style)
        elif isinstance(event, TlpMoved):
            yield Arrow(column_of(event.source), column_of(event.target), f"{event.kind} {event.protection}", "tlp")
        elif isinstance(event, StateChanged):
            at = column_of(event.subject)
            yield Arrow(at, at, f"{event.subject}: {event.new}", "state")
        elif isinstance(event, Refused):
            at = column_of(event.by)
            yield Arrow(at, at, f"refused: {event.what}", "refused")


def _folded(found: list[Arrow]) -> Iterator[tuple[Arrow, int]]:
    """Fold repeats of one arrow, and of a request and its response that take turns."""
    at = 0
    while at < len(found):
        pair = found[at : at + 2]
        count = 1
        while len(pair) == 2 and found[at + 2 * count : at + 2 * count + 2] == pair:
            count += 1
        if count > 1 and pair[0] != pair[1]:
            yield from ((arrow, count) for arrow in pair)
            at += 2 * count
            continue
        same = len(list(next(groupby(found[at:]))[1]))
        yield found[at], same
        at += same


def column_width(console_width: int) -> int:
    """Give the distance of the rails on a console of so many characters."""
    return max(NARROW, min(WIDE, (console_width - 2) // (len(ACTORS) - 1)))


def ladder(events: Iterable[Event], column: int = WIDE) -> Iterator[tuple[str, str]]:
    """Give the diagram's lines as (style, text), rails `column` characters apart."""
    for arrow, count in _folded(list(arrows(events))):
        text = arrow.text + (f" x{count}" if count > 1 else "")
        yield arrow.style, _line(arrow, text, column)


def heading(column: int = WIDE) -> str:
    """Give the line of actors."""
    return "".join(actor.ljust(column) for actor in ACTORS).rstrip()


def _line(arrow: Arrow, text: str, column: int) -> str:
    rails = ["│"] * len(ACTORS)
    if arrow.source == arrow.target:
        return _note(arrow.source, text, column)
    left, right = sorted((arrow.source, arrow.target))
    width = (right - left) * column - 1
    label = f" {text} " if len(text) + 2 <= width else f" {text[: width - 3]}… "
    shaft = label.center(width, "─")
    body = "├" + shaft + "►" if arrow.source < arrow.target else "◄" + shaft + "┤"
    before = "".join(rail.ljust(column) for rail in rails[:left])
    after = "".join(" " * (column - 1) + rail for rail in rails[right + 1 :])
    return before + body + after


def _note(at: int, text: str, column: int) -> str:
    """Write a note at a column's rail, over the rails that it covers."""
    note = f"● {text} "
    start = min(at * column, max(0, (len(ACTORS) - 1) * column + 1 - len(note)))
    line = "".join(rail.ljust(column) for rail in ["│"] * len(ACTORS)).rstrip()
    return (line[:start] + note + line[start + len(note) :]).rstrip()
