"""The ladder diagram: actors as columns, messages and calls as arrows, repeats folded into one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from teeio.observe import BoundaryCalled, Event, MessageMoved, Refused, StateChanged, TlpMoved

COLUMN = 26

ACTORS = ("TVM", "VMM", "TSM", "root port", "device")
"""The columns, from the guest to the device."""

_STATUSES = {"SUCCESS": "", "DONE": "", "SPDM_REQUEST": " (carry)", "INTERRUPTED_RESUMABLE": " (wait)"}
"""Statuses that the diagram shortens."""

_COLUMN_OF = {
    "TVM": 0,
    "VMM": 1,
    "TSM": 2,
    "TPA": 2,
    "requester": 2,
    "TDX module": 2,
    "root port": 3,
    "root complex": 3,
    "DSM": 4,
    "responder": 4,
    "device": 4,
    "endpoint": 4,
}


@dataclass(frozen=True, slots=True)
class Arrow:
    """One arrow; `style` is a name that the printer gives a colour."""

    source: int
    target: int
    text: str
    style: str


def column_of(actor: str) -> int:
    """Give the column of an actor; an unknown one stands with the device if its name is that of a function."""
    for name, column in _COLUMN_OF.items():
        if actor.startswith(name):
            return column
    return 4 if actor[:1].isdigit() else 1


def arrows(events: Iterable[Event]) -> Iterator[Arrow]:
    """Turn events into arrows; what is no arrow is left out."""
    for event in events:
        if isinstance(event, MessageMoved):
            text = event.name if event.protocol == "SPDM" else f"{event.protocol} {event.name}"
            style = "secured" if event.session is not None else "plain"
            yield Arrow(column_of(event.source), column_of(event.target), text, style)
        elif isinstance(event, BoundaryCalled):
            status = _STATUSES.get(event.status, f" = {event.status}")
            yield Arrow(column_of(event.caller), column_of(event.callee), event.name + status, "call")
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


def ladder(events: Iterable[Event]) -> Iterator[tuple[str, str]]:
    """Give the diagram's lines as (style, text)."""
    for arrow, count in _folded(list(arrows(events))):
        text = arrow.text + (f" x{count}" if count > 1 else "")
        yield arrow.style, _line(arrow, text)


def heading(actors: Sequence[str] = ACTORS) -> str:
    """Give the line of actors."""
    return "".join(actor.ljust(COLUMN) for actor in actors).rstrip()


def _line(arrow: Arrow, text: str) -> str:
    rails = ["│"] * len(ACTORS)
    if arrow.source == arrow.target:
        line = [rail.ljust(COLUMN) for rail in rails]
        line[arrow.source] = ("● " + text).ljust(COLUMN)
        return "".join(line).rstrip()
    left, right = sorted((arrow.source, arrow.target))
    width = (right - left) * COLUMN - 1
    label = f" {text} " if len(text) + 2 <= width else f" {text[: width - 3]}… "
    shaft = label.center(width, "─")
    body = "├" + shaft + "►" if arrow.source < arrow.target else "◄" + shaft + "┤"
    before = "".join(rail.ljust(COLUMN) for rail in rails[:left])
    after = "".join(" " * (COLUMN - 1) + rail for rail in rails[right + 1 :])
    return before + body + after
