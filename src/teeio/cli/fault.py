"""`teeio fault`: let things go wrong at every point of a life, and show that nothing is left half done and that all comes back."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import Pool
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from teeio.cli.outcome import Exit, complain, reported
from teeio.errors import Misuse

if TYPE_CHECKING:
    from teeio.faults import Fault, Played, Strike


def fault(
    name: Annotated[str, typer.Argument(help="A fault by name, `all`, or `list`.")] = "list",
    at: Annotated[str, typer.Option(help="Strike in this step only.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Strike once with each fault, and in each step.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that play.")] = os.cpu_count() or 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Let messages, calls and TLPs get lost, devices vanish, memory run out: before and after every step of a life.

    After each the step is undone or the device is in a documented state, everything can be taken down, and a new life works.
    Example: teeio fault session-end --at work
    """
    from teeio.faults import FAULTS

    console = Console(highlight=False, quiet=as_json)
    with reported():
        if name == "list":
            _list(console, as_json)
            return
        if name != "all" and name not in FAULTS:
            raise Misuse(f"there is no fault {name!r}", remedy="`teeio fault list` names them")
        played = _played(console, list(FAULTS.values()) if name == "all" else [FAULTS[name]], at, quick, jobs)
        if as_json:
            typer.echo(json.dumps([one.as_dict() for one in played], indent=2))
        _show(console, played, whole=name == "all" or not at)
        if not all(one.as_it_must_be for one in played):
            complain("something is left, half done or wrong after a fault: see above")
            raise typer.Exit(Exit.FAILED)


def _list(console: Console, as_json: bool) -> None:
    from teeio.faults import FAULTS, STEPS

    if as_json:
        typer.echo(json.dumps([one.as_dict() for one in FAULTS.values()], indent=2))
        return
    table = Table("name", "what goes wrong", "strikes at", box=None, pad_edge=False)
    for one in FAULTS.values():
        table.add_row(f"[bold]{one.name}[/]", escape(one.what), ", ".join(sorted(seam.value for seam in one.seams)))
    console.print(table)
    console.print(f"\nSteps of a life, for --at: {', '.join(STEPS)}", soft_wrap=True)


def _played(console: Console, faults: Sequence[Fault], at: str, quick: bool, jobs: int) -> list[Played]:
    from teeio.faults import STEPS, campaign, points, sampled, selected

    if at and at not in STEPS:
        raise Misuse(f"a life has no step {at!r}", remedy=f"its steps are {', '.join(STEPS)}")
    with console.status("a life without faults"):
        passed = [point for point in sampled(points()) if at in ("", point.step)]
    strikes = list(selected(faults, passed) if quick else campaign(faults, passed))
    if not strikes:
        raise Misuse(f"{faults[0].name} cannot strike in the step {at!r}", remedy="leave out --at")
    return list(_with_progress(_play_all(strikes, jobs), len(strikes)))


def _with_progress(played: Iterator[Played], total: int) -> Iterator[Played]:
    """Show how far it is, on stderr: a bar on a terminal, else a line now and then."""
    errors = Console(stderr=True, highlight=False)
    if errors.is_terminal:
        with Progress(console=errors, transient=True) as progress:
            yield from progress.track(played, total, description="playing")
        return
    told, bad = time.monotonic(), 0
    for number, one in enumerate(played, start=1):
        bad += not one.as_it_must_be
        if number % LINE_EACH == 0 or time.monotonic() - told >= LINE_AFTER:
            told = time.monotonic()
            errors.print(f"{number} of {total} played, {bad} not as they must be", soft_wrap=True)
        yield one


LINE_EACH, LINE_AFTER = 500, 30.0
"""Where there is no terminal: strikes after which a line says how far it is, and seconds."""


def _play_all(strikes: Sequence[tuple[Fault, Strike]], jobs: int) -> Iterator[Played]:
    work = [(one.name, strike) for one, strike in strikes]
    if jobs == 1 or len(work) == 1:
        yield from map(_play, work)
        return
    with Pool(jobs) as pool:
        yield from pool.imap(_play, work)


def _play(work: tuple[str, Strike]) -> Played:
    from teeio.faults import FAULTS, play

    name, strike = work
    return play(FAULTS[name], strike)


def _show(console: Console, played: Sequence[Played], *, whole: bool) -> None:
    if not whole or len(played) <= MANY:
        _show_each(console, played)
    if len(played) > 1:
        console.print(_by_step(played))
        console.print("")
        console.print(_returns(played))
        good = sum(one.as_it_must_be for one in played)
        console.print(f"\n[bold]{good} of {len(played)} as they must be[/]")
    for one in played:
        for problem in one.problems:
            console.print(f"[bold red]✗[/] {one.fault} {escape(str(one.strike))}: {escape(problem)}", soft_wrap=True)


MANY = 40
"""More than this many strikes are shown as tables only."""


def _show_each(console: Console, played: Iterable[Played]) -> None:
    for one in played:
        mark = "[green]✓[/]" if one.as_it_must_be else "[bold red]✗[/]"
        state = f" ({one.state.value})" if one.state else ""
        why = f" [dim]{escape(one.refusal)}[/]" if one.refusal else ""
        console.print(
            f"{mark} {one.fault} {escape(str(one.strike))}: [bold]{one.ending.value}[/]{state}, all back {one.returned.value}{why}",
            soft_wrap=True,
        )


def _by_step(played: Sequence[Played]) -> Table:
    """Tell how lives ended, by fault and step, in letters that `_returns` explains."""
    from teeio.faults import STEPS, Ending

    table = Table("fault", "how lives stood, by step", "", box=None, pad_edge=False)
    for name in dict.fromkeys(one.fault for one in played):
        ours = [one for one in played if one.fault == name]
        cells = []
        for step in STEPS:
            found = {one.ending for one in ours if one.strike.point.step == step}
            if found:
                cells.append(f"{step} {''.join(LETTERS[ending.name] for ending in Ending if ending in found)}")
        good = all(one.as_it_must_be for one in ours)
        mark = "[green]✓[/]" if good else "[bold red]✗[/]"
        table.add_row(f"[bold]{name}[/]", ", ".join(cells), f"{mark} {len(ours)}")
    return table


LETTERS = {
    "WENT_ON": "w",
    "UNDONE": "u",
    "GIVEN_BACK": "g",
    "SET_ASIDE": "s",
    "ERROR": "E",
    "LOST": "l",
    "UNFINISHED": "f",
    "HALTED": "h",
    "HALF_DONE": "[bold red]?[/]",
}


def _returns(played: Sequence[Played]) -> Table:
    from teeio.faults import Ending, Returned

    table = Table("", "how a life stood", *(f"back {one.value}" for one in Returned), box=None, pad_edge=False)
    for ending in Ending:
        counted = Counter(one.returned for one in played if one.ending is ending)
        if counted:
            numbers = (str(counted[one]) if counted[one] else "" for one in Returned)
            table.add_row(LETTERS[ending.name], f"[bold]{ending.value}[/]", *numbers)
    return table
