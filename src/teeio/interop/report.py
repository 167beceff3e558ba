"""The outcomes as a page of Markdown: what was run, by each dimension, in each role."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from teeio.interop.campaign import Plan
from teeio.interop.cells import MUTUAL_NAMES, Cell, Grid
from teeio.interop.runs import Outcome
from teeio.interop.special import LEFT_OUT, PEERS_FAIL, Unsupported

Results = list[tuple[Cell, Outcome]]
Dimension = tuple[str, Callable[[Cell], str | None]]

_MAIN: tuple[Dimension, ...] = (
    ("transport", lambda cell: cell.transport.value),
    ("version", lambda cell: cell.version.text),
    ("signatures", lambda cell: cell.asym.name),
    ("group", lambda cell: cell.group.name if cell.has_sessions else None),
    ("cipher", lambda cell: cell.aead.name if cell.has_sessions else None),
    ("hash", lambda cell: cell.base_hash.name),
    ("handshake", lambda cell: ("in the clear" if cell.clear else "encrypted") if cell.has_sessions else None),
)
_MUTUAL: tuple[Dimension, ...] = (
    ("version", lambda cell: cell.version.text),
    ("transport", lambda cell: cell.transport.value),
    ("mode", lambda cell: MUTUAL_NAMES[cell.mode]),
    ("basic", lambda cell: "BASIC" if cell.basic else "NO"),
    ("requester's signatures", lambda cell: cell.req_asym.name if cell.req_asym is not None else None),
)
_SPECIAL: tuple[Dimension, ...] = (("case", lambda cell: cell.case),)

SECTIONS: tuple[tuple[Grid, str, tuple[Dimension, ...]], ...] = (
    (Grid.MAIN, "Main grid", _MAIN),
    (Grid.MUTUAL, "Mutual authentication", _MUTUAL),
    (Grid.SPECIAL, "Special cases", _SPECIAL),
)

INTRODUCTION = """\
Each run is one of our roles against the other role of the DMTF reference emulator, spdm-emu. It passes only if both sides complete,
the emulator writes nothing to its standard error and prints no usage text, and our side has seen what the run is about: the version
and algorithms named, every step, sessions established and ended, the requester authenticated where it must be.

This page is what the command writes, and a run of the whole grid takes about a quarter of an hour on two cores:

```
teeio interop --peer spdm-emu/build/bin --grid full --results runs.jsonl --report docs/interop.md
```

`--grid quick` is a sample for everyday use. `--only TEXT` takes the cells with that text in their names, `--role` one of our roles.
With `--results` an interrupted run goes on where it stopped, and what has failed is tried again. Failures show the emulator's command
line and the end of its output; the exit code is 1 then. `--json` gives every outcome.
"""

FLOW = """\
The flow is DIGESTS, CERTIFICATE, CHALLENGE, MEASUREMENTS, then a session by KEY_EXCHANGE and one by PSK_EXCHANGE, in each
heartbeat, key update and measurements, unless a case says otherwise. The emulator's requester opens one more session by another
slot where our responder has one. With mutual authentication a session by KEY_EXCHANGE has a heartbeat and a key update that the
responder asks for.
"""


@dataclass(frozen=True, slots=True)
class Count:
    """How many of the runs passed."""

    passed: int = 0
    run: int = 0

    def plus(self, *, passed: bool) -> Count:
        """Count one more run."""
        return Count(self.passed + passed, self.run + 1)

    def __str__(self) -> str:
        return f"{self.passed}/{self.run}"


def counted(results: Results, title_of: Callable[[Cell], str | None]) -> dict[str, dict[str, Count]]:
    """Count runs by the value of one dimension (in order of appearance) and by role."""
    table: dict[str, dict[str, Count]] = {}
    for cell, outcome in results:
        title = title_of(cell)
        if title is not None:
            row = table.setdefault(title, {})
            row[outcome.role] = row.get(outcome.role, Count()).plus(passed=outcome.passed)
    return table


def totals(results: Results) -> dict[str, dict[str, Count]]:
    """Count runs by the part of the grid and by role."""
    return counted(results, lambda cell: cell.grid.value)


def page(plan: Plan, results: Results, facts: Sequence[str], date: str) -> str:
    """Give the page. `facts` tell of the peer's build; `date` is the day of the run."""
    build = ", ".join(facts) or "a build outside its sources"
    lines = [
        "# Interoperability",
        "",
        INTRODUCTION,
        f"Peer: {build}. Date: {date}.",
        "",
        *_overview(plan, results),
        FLOW,
    ]
    for grid, title, dimensions in SECTIONS:
        part = [(cell, outcome) for cell, outcome in results if cell.grid is grid]
        if part:
            lines += [f"## {title}", "", *_tables(plan, part, dimensions)]
    lines += _not_run(plan)
    lines += _failures(outcome for _, outcome in results if not outcome.passed)
    return "\n".join(lines).rstrip() + "\n"


def _overview(plan: Plan, results: Results) -> Iterator[str]:
    yield from _table("part", plan, totals(results))


def _tables(plan: Plan, results: Results, dimensions: Iterable[Dimension]) -> Iterator[str]:
    for name, title_of in dimensions:
        yield from _table(name, plan, counted(results, title_of))


def _table(name: str, plan: Plan, rows: Mapping[str, Mapping[str, Count]]) -> Iterator[str]:
    roles = [role.value for role in plan.roles]
    yield "| " + " | ".join([name, *(f"our {role}, passed/run" for role in roles)]) + " |"
    yield "|" + "---|" * (len(roles) + 1)
    for title, counts in rows.items():
        yield "| " + " | ".join([title, *(str(counts.get(role, Count())) for role in roles)]) + " |"
    yield ""


def _not_run(plan: Plan) -> Iterator[str]:
    yield "## Not run"
    yield ""
    if plan.missing:
        yield f"The peer is built without: {', '.join(plan.missing_names)}."
        yield ""
    yield from _list("The reference peers do not complete with each other:", PEERS_FAIL)
    yield from _list("The grid leaves out:", LEFT_OUT)


def _list(title: str, rows: Iterable[Unsupported]) -> Iterator[str]:
    yield title
    yield ""
    yield "| combination | reason |"
    yield "|---|---|"
    for row in rows:
        yield f"| {row.combination} | {row.reason} |"
    yield ""


def _failures(failures: Iterable[Outcome]) -> Iterator[str]:
    found = list(failures)
    yield "## Failures"
    yield ""
    if not found:
        yield "None."
    for outcome in found:
        yield f"- our {outcome.role}: {outcome.cell}: {outcome.problem}"
