"""`teeio explore`: all interleavings of what VMM, TVMs and link can do, up to a depth, on the real TSM, DSM and IOMMU."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from teeio.cli.outcome import Exit, complain, reported
from teeio.errors import Misuse

if TYPE_CHECKING:
    from teeio.explorer import Found, Report
    from teeio.scenarios.scenario import Mutant

DEFAULT_DEPTH = 2


def explore(
    root: Annotated[str, typer.Option(help="Where to begin, by name, or `all`.")] = "all",
    depth: Annotated[
        int | None, typer.Option(min=1, help="Actions in a row; with --without what the removal needs.")
    ] = None,
    removed: Annotated[
        str | None, typer.Option("--without", help="Take this check out first, or `list` the checks.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that search.")] = os.cpu_count() or 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Explore every sequence of actions up to a depth, and check isolation after each.

    With a check removed, the shortest sequence that breaks a property is shown as a ladder.
    Example: teeio explore --without start-authority
    """
    from teeio.explorer import ROOTS

    console = Console(highlight=False, quiet=as_json)
    with reported():
        if removed == "list":
            _list(console)
            return
        mutant, begin, limit = _removal(removed, root, depth)
        reports = [
            _explore(console, one, limit, workers, mutant)
            for one in ([begin] if begin != "all" else [one.name for one in ROOTS.values() if not one.near])
        ]
        if as_json:
            typer.echo(json.dumps([report.as_dict() for report in reports], indent=2))
        if any(report.found for report in reports) is (mutant is None):
            complain(
                "a property does not hold: see above" if mutant is None else "nothing noticed that the check is gone"
            )
            raise typer.Exit(Exit.FAILED)


def _list(console: Console) -> None:
    from teeio.explorer import REMOVALS

    for one in REMOVALS.values():
        where = f"shows within {one.depth} actions from {one.root}"
        console.print(f"[bold]{one.name}[/]: without {escape(one.mutant.what)}; {where}", soft_wrap=True)


def _removal(removed: str | None, root: str, depth: int | None) -> tuple[Mutant | None, str, int]:
    from teeio.explorer import REMOVALS

    if removed is None:
        return None, root, depth or DEFAULT_DEPTH
    if removed not in REMOVALS:
        raise Misuse(f"there is no check {removed!r}", remedy="`teeio explore --without list` names them")
    found = REMOVALS[removed]
    return found.mutant, found.root if root == "all" else root, depth or found.depth


def _explore(console: Console, root: str, depth: int, workers: int, mutant: Mutant | None) -> Report:
    from teeio.explorer import explore as search

    with console.status(f"from {root}") as status:

        def progress(report: Report) -> None:
            status.update(f"from {root}: {report.states:,} states, {report.steps:,} actions")

        report = search(root, depth, workers=workers, mutant=mutant, progress=progress)
    counts = f"{report.states:,} states, {report.steps:,} actions taken, {report.refused:,} of them refused"
    mark = "[green]✓[/] every property holds" if report.found is None else "[bold red]✗[/]"
    console.print(f"[bold]{root}[/], depth {depth}: {counts}: {mark}", soft_wrap=True)
    if report.found is not None:
        _show(console, report.found, mutant)
    return report


def _show(console: Console, found: Found, mutant: Mutant | None) -> None:
    """Play the counterexample once more and draw it."""
    from teeio.cli import story
    from teeio.explorer import replayed

    console.print(f"  {escape(found.name)}: [bold red]{escape(found.problem)}[/]", soft_wrap=True)
    console.print(f"  from {found.root} by: {escape(' > '.join(found.trail))}", soft_wrap=True)
    story.show_ladder(console, replayed(found.root, found.trail, mutant))
