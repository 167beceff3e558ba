"""Showing a run: live progress, ladder diagram, steps, states, verdict, costs; and the same as one JSON document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from teeio.attestation import Outcome as RuleOutcome
from teeio.cli.ladder import WIDE, column_width, heading, ladder
from teeio.observe import Event, MessageMoved, Observer, StepDone, TlpMoved, ignore
from teeio.scenarios import DataPath, Journal, Life, Outcome, Played
from teeio.scenarios.journal import is_envelope
from teeio.scenarios.scenario import Expected

_STYLES = {
    "secured": "cyan",
    "plain": "yellow",
    "call": "dim",
    "tlp": "magenta",
    "state": "bold green",
    "refused": "bold red",
}


class Progress:
    """An observer that prints each step when it is done and passes everything on."""

    def __init__(self, console: Console, then: Observer = ignore) -> None:
        self._console = console
        self._then = then

    def __call__(self, event: Event) -> None:
        """Observe."""
        self._then(event)
        if isinstance(event, StepDone):
            took = f" [dim]{event.seconds * 1e3:.0f} ms[/]" if event.seconds else ""
            note = f"  [dim]{escape(event.note)}[/]" if event.note else ""
            self._console.print(
                f"[green]✓[/] [bold]{event.actor:<3}[/] {escape(event.title)}{took}{note}", soft_wrap=True
            )


def show_outcome(console: Console, outcome: Outcome, expected: Expected = Expected.STOPPED) -> None:
    """Say how an attack went."""
    console.print(f"  tried: {escape(outcome.tried)}", soft_wrap=True)
    for what, holds in outcome.seen:
        mark = "[green]✓[/]" if holds else "[bold red]✗[/]"
        console.print(f"  {mark} {escape(what)}", soft_wrap=True)
    if expected is Expected.SUCCEEDS:
        word = "[bold red]stopped, against expectation[/]" if outcome.stopped else f"[bold yellow]{expected.value}[/]"
    else:
        word = "[bold green]stopped[/]" if outcome.stopped else "[bold red]NOT STOPPED[/]"
    console.print(f"  {word}")


def show_ladder(console: Console, journal: Journal) -> None:
    """Draw who told whom what, by step; memory traffic is summed up per step."""
    console.print(
        "\n[bold]Who tells whom what[/]  (yellow in the clear, cyan in the SPDM session, magenta on the link)"
    )
    column = column_width(console.width) if console.is_terminal else WIDE
    console.print(heading(column), style="bold", soft_wrap=True)
    for step in journal.steps:
        lines = list(ladder(_told(step.events), column))
        if lines:
            console.print(f"── {step.actor}: {step.title}", style="bold blue", soft_wrap=True)
        for style, line in lines:
            console.print(escape(line), style=_STYLES[style], soft_wrap=True)


def _told(events: Iterable[Event]) -> Iterator[Event]:
    """Leave configuration traffic out and put the memory traffic of a step at its end, once for each kind."""
    traffic: Counter[tuple[str, str, str, str]] = Counter()
    for event in events:
        if not isinstance(event, TlpMoved):
            if not is_envelope(event):
                yield event
        elif event.protection != "plain":
            traffic[event.source, event.target, event.kind, event.protection] += 1
    for (source, target, kind, protection), count in traffic.items():
        yield TlpMoved(source, target, f"{count} {kind}", protection, 0)


def show_steps(console: Console, journal: Journal) -> None:
    """Print the table of steps."""
    table = Table("actor", "step", title="Steps", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("time", "messages", "calls", "TLPs", "bytes"):
        table.add_column(name, justify="right")
    for step in journal.steps:
        seconds = "-" if step.seconds is None else f"{step.seconds * 1e3:.1f} ms"
        counts = (f"{count:,}" for count in (step.messages, step.calls, step.tlps, step.bytes))
        table.add_row(step.actor, step.title, seconds, *counts)
    console.print()
    console.print(table)


def show_states(console: Console, life: Life) -> None:
    """Print the TDI's states."""
    console.print(f"\n[bold]States of {life.tdi}[/]\n  {' > '.join(life.tdi_states)}")


def show_verdict(console: Console, life: Life) -> None:
    """Print the verdict with every rule."""
    if life.verdict is None:
        return
    colour = "green" if life.verdict.accepted else "red"
    console.print(f"\n[bold]Attestation verdict: [{colour}]{life.verdict.decision.value}[/][/]")
    marks = {RuleOutcome.PASSED: "[green]✓[/]", RuleOutcome.FAILED: "[red]✗[/]", RuleOutcome.UNCHECKED: "[yellow]?[/]"}
    table = Table("", "rule", "result", box=None, pad_edge=False)
    for result in life.verdict.results:
        table.add_row(marks[result.outcome], escape(result.rule.title), f"[dim]{escape(result.explanation)}[/]")
    console.print(table)


def show_data_paths(console: Console, life: Life) -> None:
    """Print what the same work cost the TVM by each path."""
    title = "What the same work cost the TVM, per byte of payload"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, justify in (("", "left"), *((path.name, "right") for path in life.data_paths)):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in _cost_rows(life.data_paths):
        table.add_row(*row)
    console.print()
    console.print(table)


def _cost_rows(paths: Sequence[DataPath]) -> Iterator[tuple[str, ...]]:
    costs = [path.cost for path in paths]
    per_byte = [path.as_dict()["per_payload_byte"] for path in paths]
    yield ("payload", *(f"{cost.payload:,} B" for cost in costs))
    yield ("copies", *(str(cost.copies) for cost in costs))
    yield ("bytes copied", *(f"{found['bytes_copied']:.2f}" for found in per_byte))
    yield ("bytes encrypted or decrypted by the CPU", *(f"{found['bytes_encrypted']:.2f}" for found in per_byte))
    times = (found["cpu_nanoseconds"] for found in per_byte)
    yield ("CPU time of the TVM", *("not measured" if spent is None else f"{spent:.2f} ns" for spent in times))
    yield ("TLPs on the link", *(f"{path.tlps:,}" for path in paths))
    yield ("result checked by the TVM", *("correct" if path.correct else "WRONG" for path in paths))


def went_well(life: Life, attack: Played) -> bool:
    """Tell whether everything is as it must be."""
    accepted = life.verdict is not None and life.verdict.accepted
    correct = all(path.correct for path in life.data_paths)
    returned = life.pages_returned and life.streams_returned
    return accepted and correct and returned and attack.as_it_must_be


def as_document(journal: Journal, life: Life, attack: Played) -> dict[str, Any]:
    """Give the run as one JSON document."""
    return {
        "steps": [step.as_dict() for step in journal.steps],
        "tdi": life.tdi,
        "tdi_states": life.tdi_states,
        "verdict": life.verdict.as_dict() if life.verdict else None,
        "data_paths": {path.name: path.as_dict() for path in life.data_paths},
        "returned": {"pages": life.pages_returned, "streams_and_sessions": life.streams_returned},
        "messages": [_message(event) for event in journal.events() if isinstance(event, MessageMoved)],
        "scenarios": [attack.scenario.as_dict(attack.outcome)],
    }


def _message(event: MessageMoved) -> dict[str, Any]:
    return {
        "from": event.source,
        "to": event.target,
        "protocol": event.protocol,
        "name": event.name,
        "size": event.size,
        "session": event.session,
    }
