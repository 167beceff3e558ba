"""`teeio interop`: run our two roles against the DMTF reference emulator over a grid of what can be negotiated."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from teeio.cli.outcome import Exit, complain, reported

if TYPE_CHECKING:
    from rich.console import Console

    from teeio.interop.campaign import Plan, Results
    from teeio.interop.cells import Cell
    from teeio.interop.peer import Peer
    from teeio.interop.runs import Outcome


class GridChoice(Enum):
    """Values of --grid."""

    QUICK = "quick"
    FULL = "full"
    MAIN = "main"
    MUTUAL = "mutual"
    SPECIAL = "special"


class RoleChoice(Enum):
    """Values of --role."""

    REQUESTER = "requester"
    RESPONDER = "responder"
    BOTH = "both"


def interop(
    peer: Annotated[
        Path, typer.Option(help="The bin folder of a built spdm-emu, with its sample keys.", metavar="DIR")
    ],
    grid: Annotated[GridChoice, typer.Option(help="Which cells are run.")] = GridChoice.QUICK,
    role: Annotated[RoleChoice, typer.Option(help="Which side is ours.")] = RoleChoice.BOTH,
    only: Annotated[
        str | None,
        typer.Option(help="Only the cells whose name has this in it, for example '1.4 tcp'.", metavar="TEXT"),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Runs at the same time; they wait most of the time.")] = 3,
    results: Annotated[
        Path | None,
        typer.Option(help="Keep the outcomes here, and leave out what has passed according to it.", metavar="FILE"),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the outcomes here as a page of Markdown.", metavar="FILE")
    ] = None,
    about: Annotated[
        str,
        typer.Option(
            help="What the page says of the peer besides, such as its version if git cannot tell.", metavar="TEXT"
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Run our requester and our responder against the reference emulator, each cell of the grid a run.

    Example: teeio interop --peer spdm-emu/build/bin --grid quick
    """
    from rich.console import Console

    from teeio.interop.campaign import Plan, Results, missing_features
    from teeio.interop.cells import Role
    from teeio.interop.peer import Peer

    console = Console(stderr=as_json, highlight=False)
    with reported():
        emulator = Peer.at(peer)
        cells = tuple(cell for cell in _cells(grid) if only is None or only in cell.name)
        roles = tuple(one for one in Role if role in (RoleChoice.BOTH, RoleChoice(one.value)))
        plan = Plan(cells, roles, missing_features(emulator, cells))
        kept = Results.load(results)
        _perform(plan, emulator, jobs, kept, console)
        found = kept.of(plan)
        if report is not None:
            report.write_text(_page(plan, kept, emulator, about))
        if as_json:
            left_out = [cell.name for cell in plan.left_out]
            outcomes = [asdict(outcome) for _, outcome in found]
            typer.echo(json.dumps({"peer": emulator.build(), "runs": outcomes, "not_run": left_out}, indent=2))
        else:
            _show(console, plan, kept)
    if not cells:
        complain(f"--only {only!r} leaves no cell")
        raise typer.Exit(Exit.USAGE)
    if not all(outcome.passed for _, outcome in found):
        raise typer.Exit(Exit.FAILED)


def _cells(choice: GridChoice) -> tuple[Cell, ...]:
    from teeio.interop import grid
    from teeio.interop.cells import Grid

    if choice is GridChoice.QUICK:
        return grid.quick()
    return tuple(cell for cell in grid.full() if choice is GridChoice.FULL or cell.grid is Grid(choice.value))


def _perform(plan: Plan, peer: Peer, jobs: int, results: Results, console: Console) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from teeio.interop.campaign import perform

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    runs = list(plan.runs())
    done = sum(results.passed(cell, role) for cell, role in runs)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("runs", total=len(runs), completed=done)

        def tell(outcome: Outcome) -> None:
            progress.advance(task)
            if not outcome.passed:
                console.print(f"✗ {outcome.text}", style="red", markup=False, soft_wrap=True)

        perform(plan, peer, jobs, results, tell)


def _page(plan: Plan, results: Results, peer: Peer, about: str) -> str:
    from datetime import UTC, datetime

    from teeio.interop.report import page

    facts = [about] if about else []
    facts += [f"{title} {value}" for title, value in peer.build().items()]
    return page(plan, results.of(plan), facts, datetime.now(UTC).date().isoformat())


def _show(console: Console, plan: Plan, results: Results) -> None:
    from rich.table import Table

    from teeio.interop.report import Count, totals

    table = Table("part", *(f"our {role.value}" for role in plan.roles), "")
    for part, counts in totals(results.of(plan)).items():
        ours = [counts.get(role.value, Count()) for role in plan.roles]
        table.add_row(part, *map(str, ours), "✓" if all(one.passed == one.run for one in ours) else "✗")
    console.print(table)
    if plan.missing:
        console.print(f"{len(plan.left_out)} cells not run, the peer is built without: {', '.join(plan.missing_names)}")
