"""`teeio run`: take one device through its whole trusted life, then try one attack, and show all of it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from teeio.cli.outcome import Exit, complain, reported
from teeio.transport.kinds import Transport


class AssignedUnit(Enum):
    """Values of --unit."""

    VF = "vf"
    PF = "pf"
    FUNCTION = "function"
    DEVICE = "device"


class UnitSize(Enum):
    """Values of --aggregate."""

    ONE = "1"
    TWO = "2"
    FOUR = "4"
    EIGHT = "8"


def run(
    seed: Annotated[
        int | None,
        typer.Option(
            help="Repeat byte for byte: all randomness and time follow from N; wall-clock figures are left out."
        ),
    ] = None,
    unit: Annotated[AssignedUnit, typer.Option(help="What is assigned to the TVM.")] = AssignedUnit.VF,
    flit_mode: Annotated[bool, typer.Option("--flit-mode", help="Links in Flit Mode (PCIe 6), IDE in OHC-C.")] = False,
    pcrc: Annotated[bool, typer.Option("--pcrc", help="IDE with PCRC: a checksum before each MAC.")] = False,
    aggregate: Annotated[
        UnitSize, typer.Option(help="IDE with aggregation: up to N TLPs of a sub-stream share a MAC.")
    ] = UnitSize.ONE,
    ladder: Annotated[bool, typer.Option(help="Show the ladder diagram.")] = True,
    pcap: Annotated[Path | None, typer.Option(help="Write the DOE traffic here as a capture.")] = None,
    keylog: Annotated[Path | None, typer.Option(help="Write session and IDE secrets here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Take one device through its whole trusted life in one process, then let the VMM move a BAR of it.

    Example: teeio run --seed 1 --pcap run.pcap --keylog run.keys
    """
    from teeio.abi.operands import StreamOptions
    from teeio.cli import story
    from teeio.cli.recording import Recording
    from teeio.host.vmm.vfio import UnitKind
    from teeio.platform import Platform
    from teeio.scenarios import ATTACKS, Journal, live, play
    from teeio.scenarios.trusted_life import configuration_for

    kind = UnitKind[unit.name]
    code = list(UnitSize).index(aggregate)
    options: dict[str, Any] = {"flit_mode": flit_mode, "stream_options": StreamOptions(pcrc, (code, code, code))}
    console = Console(highlight=False, quiet=as_json)
    wall_clock = time.perf_counter if seed is None else None
    cpu_clock = time.thread_time if seed is None else None
    clock = time.time if seed is None else None
    with reported(), Recording(keylog, pcap, Transport.PCI_DOE) as recording:
        journal = Journal(wall_clock, story.Progress(console, recording))
        console.print(f"[bold]The trusted life of a {kind.value}[/]")
        platform = Platform.assemble(
            seed=seed, clock=clock, configuration=configuration_for(kind), observer=journal, **options
        )
        life = live(platform, journal, cpu_clock, kind)
        scenario = replace(ATTACKS["bar-move"], options=options)
        console.print(f"\n[bold]Attack: {scenario.title}[/]")
        attack = play(scenario, seed=seed, clock=clock, wall_clock=wall_clock, listener=story.Progress(console))
        story.show_outcome(console, attack.outcome)
        if as_json:
            typer.echo(json.dumps(story.as_document(journal, life, attack), indent=2))
        else:
            if ladder:
                story.show_ladder(console, journal)
            story.show_steps(console, journal)
            story.show_states(console, life)
            story.show_verdict(console, life)
            story.show_data_paths(console, life)
        if not story.went_well(life, attack):
            complain("the run did not end as it must: see above")
            raise typer.Exit(Exit.FAILED)
