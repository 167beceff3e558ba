"""`teeio attack`: play the attacks of the catalogue on the platform, and show that each check is what stops its attack."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from teeio.cli.outcome import Exit, complain, reported
from teeio.errors import Misuse

if TYPE_CHECKING:
    from teeio.scenarios import Played, Scenario

DEFAULT_SEED = 1


def attack(
    name: Annotated[str, typer.Argument(help="An attack by name or number, `all`, or `list`.")] = "list",
    seed: Annotated[int, typer.Option(help="Randomness and time follow from N.")] = DEFAULT_SEED,
    mutants: Annotated[bool, typer.Option(help="Play each attack on its mutants, too.")] = True,
    ladder: Annotated[bool, typer.Option("--ladder", help="Show the ladder diagram of each attack.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Attack the platform: who tries what, which rule stops it, and what was seen in the bytes.

    A mutant is a device, TSM, VMM or TVM with just one check removed; an attack that a mutant lets through is caught.
    Example: teeio attack bar-move
    """
    from teeio.scenarios import ATTACKS

    console = Console(highlight=False, quiet=as_json)
    with reported():
        if name == "list":
            _list(console, ATTACKS.values(), as_json)
            return
        chosen = list(ATTACKS.values()) if name == "all" else _find(name)
        played = [_play(console, scenario, seed, mutants, ladder) for scenario in chosen]
        if as_json:
            typer.echo(json.dumps([one.as_dict() for one in played], indent=2))
        elif len(played) > 1:
            console.print(_summary(played))
        if not all(one.as_it_must_be for one in played):
            complain("not every attack ended as it must: see above")
            raise typer.Exit(Exit.FAILED)


def _find(name: str) -> list[Scenario]:
    from teeio.scenarios import ATTACKS

    found = [one for one in ATTACKS.values() if name in (one.name, str(one.number))]
    if not found:
        raise Misuse(f"there is no attack {name!r}", remedy="`teeio attack list` names them")
    return found


def _list(console: Console, scenarios: Iterable[Scenario], as_json: bool) -> None:
    if as_json:
        fields = ("number", "name", "title", "attacker", "phase", "rule")
        typer.echo(json.dumps([{field: getattr(one, field) for field in fields} for one in scenarios], indent=2))
        return
    table = Table("", "name", "attacker", "what is tried", "rule that must stop it", box=None, pad_edge=False)
    for one in scenarios:
        table.add_row(str(one.number), f"[bold]{one.name}[/]", one.attacker, escape(one.title), escape(one.rule))
    console.print(table)


def _play(console: Console, scenario: Scenario, seed: int, mutants: bool, ladder: bool) -> Played:
    from teeio.cli import story
    from teeio.scenarios import play, play_mutants

    console.print(f"\n[bold]{scenario.number} {scenario.name}: {escape(scenario.title)}[/]", soft_wrap=True)
    console.print(f"  {scenario.attacker}, {scenario.phase}; rule: {escape(scenario.rule)}", soft_wrap=True)
    with console.status("playing"):
        played = play(scenario, seed=seed)
    story.show_outcome(console, played.outcome, scenario.expected)
    if ladder:
        story.show_ladder(console, played.journal)
    if mutants:
        with console.status("playing on mutants"):
            play_mutants(played, seed=seed)
        for mutant in played.mutants:
            mark, word = ("[green]✓[/]", "caught") if mutant.caught else ("[bold red]✗[/]", "NOT CAUGHT")
            console.print(
                f"  {mark} without {escape(mutant.mutant.what)}: {word}: [dim]{escape(mutant.why)}[/]", soft_wrap=True
            )
    return played


def _summary(played: list[Played]) -> Table:
    table = Table("", "attack", "outcome", "mutants", title="\nAttacks", title_justify="left", box=None, pad_edge=False)
    for one in played:
        table.add_row(*_row(one))
    stopped = sum(one.outcome.stopped for one in played)
    caught = [mutant.caught for one in played for mutant in one.mutants]
    table.add_section()
    table.add_row("", f"[bold]{len(played)} played[/]", f"{stopped} stopped", f"{sum(caught)} of {len(caught)} caught")
    return table


def _row(one: Played) -> tuple[Any, ...]:
    scenario = one.scenario
    as_expected = scenario.as_expected(one.outcome)
    outcome = "stopped" if one.outcome.stopped else "succeeds"
    if scenario.counterpart and as_expected:
        outcome += f", as published; {scenario.counterpart} closes it"
    caught = f"{sum(mutant.caught for mutant in one.mutants)} of {len(one.mutants)} caught" if one.mutants else "-"
    colour = "green" if one.as_it_must_be else "bold red"
    return str(scenario.number), scenario.name, f"[{colour}]{outcome}[/]", caught
