"""`teeio sysfs`: what Linux's sysfs shows, on the host and in the TVM, while a VF goes through its trusted life."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from teeio.cli.outcome import Exit, complain, reported

if TYPE_CHECKING:
    from teeio.scenarios.sysfs_tour import Change, TourStep


def sysfs(
    seed: Annotated[int, typer.Option(help="All randomness and time follow from N.")] = 1,
    tree: Annotated[bool, typer.Option(help="Show the whole tree before the first step.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Take a VF through its trusted life by writes to sysfs, and show what each write changes in the trees of host and TVM.

    Example: teeio sysfs --no-tree
    """
    from teeio.platform import Platform
    from teeio.scenarios.sysfs_tour import tour

    console = Console(highlight=False, quiet=as_json)
    with reported():
        with console.status("touring"):
            taken = tour(Platform.assemble(seed=seed))
        if as_json:
            typer.echo(json.dumps(taken.as_dict(), indent=2))
        else:
            for path, text in taken.before.items() if tree else ():
                console.print(f"[dim]{escape(path)}[/] {escape(text)}", soft_wrap=True)
            for step in taken.steps:
                _show(console, step)
            left = "as it was before" if taken.before == taken.after else "not as it was before"
            console.print(f"\nThe host's tree is {left}.")
        if not taken.went_well:
            complain("a step did not end as it must, or something is left: see above")
            raise typer.Exit(Exit.FAILED)


def _show(console: Console, step: TourStep) -> None:
    colour = "green" if step.went_well else "bold red"
    outcome = f"  [{colour}]{step.error}[/]" if step.error else ""
    missing = "" if step.went_well else f" [bold red]expected {step.expected or 'success'}[/]"
    console.print(f"\n[bold]{step.side}#[/] {escape(step.command)}{outcome}{missing}", soft_wrap=True)
    for change in step.changes:
        console.print(f"  {_described(change)}", soft_wrap=True)


def _described(change: Change) -> str:
    path = escape(change.path)
    if change.before is None:
        return f"[green]+[/] [dim]{change.side}[/] {path} {escape(change.after or '')}"
    if change.after is None:
        return f"[red]-[/] [dim]{change.side}[/] {path}"
    return f"[yellow]~[/] [dim]{change.side}[/] {path} {escape(change.before) or '(empty)'} > {escape(change.after) or '(empty)'}"
