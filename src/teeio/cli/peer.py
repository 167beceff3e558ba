"""`teeio peer`: one device produces what another consumes, directly, over private memory, and over shared memory as today."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from teeio.cli.outcome import Exit, complain, reported

if TYPE_CHECKING:
    from teeio.scenarios.peer_ways import Consumption

_WIDE = 140
"""Columns where there is no terminal to ask."""


def peer(
    seed: Annotated[
        int | None,
        typer.Option(
            help="Repeat byte for byte: all randomness and time follow from N; wall-clock figures are left out."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Let two devices of one TVM exchange data directly, over its private memory, and over bounce buffers; compare.

    Direct access is this model's own extension: TDX Connect has no peer-to-peer.

    Example: teeio peer --json
    """
    from teeio.cli.story import Progress, show_steps
    from teeio.scenarios import Journal
    from teeio.scenarios.peer_consumption import assemble, consume

    console = Console(highlight=False, quiet=as_json)
    if not console.is_terminal:
        console = Console(highlight=False, quiet=as_json, width=_WIDE)
    wall_clock = time.perf_counter if seed is None else None
    cpu_clock = time.thread_time if seed is None else None
    clock = time.time if seed is None else None
    with reported():
        journal = Journal(wall_clock, Progress(console))
        console.print("[bold]Peer consumption: A produces, B consumes[/]")
        told = consume(assemble(seed=seed, clock=clock, observer=journal), journal, cpu_clock)
        if as_json:
            document = {"steps": [step.as_dict() for step in journal.steps], **told.as_dict()}
            typer.echo(json.dumps(document, indent=2))
        else:
            show_steps(console, journal)
            _show(console, told)
        if not told.went_well:
            complain("the story did not end as it must: see above")
            raise typer.Exit(Exit.FAILED)


def _show(console: Console, told: Consumption) -> None:
    title = f"What {told.payload:,} bytes cost by each way"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("")
    for passage in told.passages:
        table.add_column(passage.way.value, justify="right")
    for name, cells in _rows(told):
        table.add_row(name, *cells)
    console.print()
    console.print(table)
    for passage in told.passages:
        console.print(f"[dim]{passage.way.value}: {escape(passage.way.title)}[/]", soft_wrap=True)
    console.print()
    for what, holds in told.seen:
        console.print(f"{'[green]✓[/]' if holds else '[bold red]✗[/]'} {escape(what)}", soft_wrap=True)


def _rows(told: Consumption) -> Iterator[tuple[str, list[str]]]:
    passages = told.passages
    costs = [passage.cost for passage in passages]
    yield "copies by the TVM's CPU", [str(cost.copies) for cost in costs]
    yield "bytes copied", [f"{cost.bytes_copied:,}" for cost in costs]
    yield "bytes encrypted or decrypted", [f"{cost.bytes_encrypted + cost.bytes_decrypted:,}" for cost in costs]
    yield (
        "CPU time of the TVM",
        [f"{one.cost.cpu_seconds * 1e6:.0f} us" if one.measured else "not measured" for one in passages],
    )
    yield "exits of the TVM", [str(cost.exits) for cost in costs]
    for link in passages[0].links:
        yield f"{link}: TLPs", [f"{one.links[link].tlps:,}" for one in passages]
        yield f"{link}: bytes", [f"{one.links[link].bytes:,}" for one in passages]
        yield f"{link}: TLPs of the peer stream", [f"{one.links[link].peer_tlps:,}" for one in passages]
    readable = (
        ("payload for a listener on the links", [one.on_links for one in passages]),
        ("payload for the VMM in memory", [one.in_memory for one in passages]),
        ("payload for the VMM in device memory", [one.in_devices for one in passages]),
    )
    for name, found in readable:
        yield name, ["readable" if one else "not readable" for one in found]
    yield "result checked by the TVM", ["correct" if one.correct else "WRONG" for one in passages]
