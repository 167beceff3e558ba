"""`teeio bench`: what the platform's data paths cost."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from teeio.cli.outcome import Exit, complain, reported

bench = typer.Typer(name="bench", help="Measure what data paths cost.", no_args_is_help=True)

_WIDE = 140
"""Columns where there is no terminal to ask."""
_SUFFIXES = {"": 1, "k": 1 << 10, "m": 1 << 20}


@bench.callback()
def _bench() -> None:
    """Measure what data paths cost."""


def _size(text: str) -> int:
    number = text.strip().lower().removesuffix("b").removesuffix("i")
    digits = number.rstrip("km")
    if not digits.isdecimal() or number[len(digits) :] not in _SUFFIXES:
        raise typer.BadParameter(f"{text!r} is no size: write 4096, 64K or 8M, separated by commas")
    return int(digits) * _SUFFIXES[number[len(digits) :]]


def _plots(wanted: list[Path] | None) -> list[Path] | None:
    for path in wanted or ():
        if path.suffix not in (".png", ".svg"):
            raise typer.BadParameter(f"{path} is neither .png nor .svg")
        if not path.parent.is_dir():
            raise typer.BadParameter(f"there is no folder {path.parent}")
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise typer.BadParameter(f"{path} cannot be written")
    return wanted


@bench.command()
def io(
    sizes: Annotated[
        str | None,
        typer.Option(help="Message sizes, separated by commas; default: powers of 4 from 64 to 1M, and 8M."),
    ] = None,
    paths: Annotated[
        str | None,
        typer.Option(help="Paths, separated by commas: direct, bounce-encrypted, bounce-copy, tdisp; default: all."),
    ] = None,
    plot: Annotated[
        list[Path] | None,
        typer.Option(help="Draw the figures here, as .png or .svg; may be given twice.", callback=_plots),
    ] = None,
    seed: Annotated[int, typer.Option(help="All randomness follows from N; counts and virtual times repeat.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Compare four data paths on real bytes: direct DMA, bounce buffers with and without encryption, TDISP.

    Example: teeio bench io --sizes 4K,64K,1M --plot io.svg
    """
    from rich.progress import Progress

    from teeio.cli import bench_tables
    from teeio.costs.lanes import Lane
    from teeio.costs.report import SIZES, compare
    from teeio.costs.shapes import bytes_of

    known = {lane.value: lane for lane in Lane}
    names = [name.strip() for name in paths.split(",")] if paths else list(known)
    if not set(names) <= known.keys():
        raise typer.BadParameter(f"{paths!r}: the paths are {', '.join(known)}", param_hint="--paths")
    chosen = [_size(one) for one in sizes.split(",")] if sizes else list(SIZES)
    with reported():
        if plot:
            from teeio.cli import bench_plot

            bench_plot.need_matplotlib()
        errors = Console(stderr=True)
        begun = time.perf_counter()
        with Progress(console=errors, transient=True, disable=as_json or not errors.is_terminal) as bar:
            task = bar.add_task("", total=sum(chosen) * len(names))
            done = 0

            def progress(lane: Lane, size: int) -> None:
                nonlocal done
                bar.update(task, completed=done, description=f"{lane.value}, {bytes_of(size)}")
                done += size

            report = compare(
                chosen,
                [known[name] for name in dict.fromkeys(names)],
                seed=seed,
                cpu_clock=time.thread_time,
                wall_clock=time.perf_counter,
                progress=progress,
            )
        seconds = time.perf_counter() - begun
        for path in plot or ():
            bench_plot.draw(report, path)
        if as_json:
            typer.echo(json.dumps({**report.as_dict(), "wall_seconds": seconds}, indent=2))
        else:
            console = Console(highlight=False)
            if not console.is_terminal:
                console.width = _WIDE
            bench_tables.show(console, report)
            console.print(f"\n[dim]The simulator took {seconds:.1f} s.[/]")
        if not report.correct:
            complain("a message did not come back as it must: see the table of counts")
            raise typer.Exit(Exit.FAILED)
