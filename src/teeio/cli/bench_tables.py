"""The tables of `teeio bench io`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from teeio.costs.hardware import CONSTANTS
from teeio.costs.ide_efficiency import Efficiency
from teeio.costs.lanes import Lane, Sample
from teeio.costs.report import Report
from teeio.costs.shapes import bytes_of, throughput_gain
from teeio.costs.timing import IN_FLIGHT, Timing

_MARKS = {True: "[green]✓[/]", False: "[yellow]✗[/]", None: "[dim]-[/]"}


def show(console: Console, report: Report) -> None:
    """Print everything."""
    for lane in report.samples:
        console.print(f"[bold]{lane.value}[/]  {escape(lane.title)}", soft_wrap=True)
    _show_counts(console, report)
    _show_virtual(console, report)
    _show_gain(console, report)
    _show_shapes(console, report)
    _show_efficiency(console, report)
    _show_constants(console)
    _show_simulator(console, report)


def _table(console: Console, title: str, columns: Sequence[str], rows: Iterator[Sequence[str]], text: int = 1) -> None:
    """Print a table whose first `text` columns are text, the others figures."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < text else "right", no_wrap=number >= text)
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)


_COUNTS: tuple[tuple[str, Callable[[Sample], str]], ...] = (
    ("copied", lambda s: f"{s.cost.bytes_copied / s.cost.payload:.3f}"),
    ("cipher", lambda s: f"{(s.cost.bytes_encrypted + s.cost.bytes_decrypted) / s.cost.payload:.3f}"),
    ("device", lambda s: f"{(s.device_opened + s.device_sealed) / s.cost.payload:.3f}"),
    ("IDE", lambda s: f"{(s.down + s.up).ide_bytes / s.cost.payload:.3f}"),
    ("TLP", lambda s: f"{(s.down + s.up).tlp_bytes / s.cost.payload:.3f}"),
    ("TLPs", lambda s: f"{(s.down + s.up).tlps:,}"),
    ("desc", lambda s: f"{s.cost.descriptors}"),
    ("irq", lambda s: f"{s.cost.interrupts}"),
    ("halts", lambda s: f"{s.cost.halts}"),
    ("calls", lambda s: f"{s.cost.exits}"),
    ("ns/B", lambda s: f"{s.cost.cpu_seconds * 1e9 / s.cost.payload:.2f}"),
    ("right", lambda s: "yes" if s.correct else "NO"),
)
_LEGEND = (
    "for each byte of payload: copied and ciphered by the guest's CPU, ciphered by the device, IDE prefixes and MACs, TLPs, "
    "the guest's measured CPU time in this simulator; for each message: TLPs, descriptors, interrupts, halts, calls of VMM and TSM"
)


def _show_counts(console: Console, report: Report) -> None:
    def rows() -> Iterator[Sequence[str]]:
        for size in report.sizes:
            for lane, found in report.samples.items():
                yield (bytes_of(size), lane.value, *(write(found[size]) for _, write in _COUNTS))

    _table(console, "Counted on real bytes", ("message", "path", *(name for name, _ in _COUNTS)), rows(), text=2)
    console.print(f"[dim]{_LEGEND}[/]")


def _show_virtual(console: Console, report: Report) -> None:
    def rows(write: Callable[[Timing], str]) -> Iterator[Sequence[str]]:
        for size in report.sizes:
            yield (bytes_of(size), *(write(found[size]) for found in report.timings.values()))

    columns = ("message", *(lane.value for lane in report.samples))
    _table(console, "Virtual latency of one message, us", columns, rows(lambda t: f"{t.latency * 1e6:,.1f}"))
    title = f"Virtual throughput of {IN_FLIGHT} messages under way, GB/s of payload, and what is full"
    _table(console, title, columns, rows(lambda t: f"{t.throughput / 1e9:.2f}  [dim]{t.busiest:>12}[/]"))
    _table(
        console, "Virtual time of the guest's core for a message, us", columns, rows(lambda t: f"{t.cpu * 1e6:,.1f}")
    )


def _show_gain(console: Console, report: Report) -> None:
    gain = throughput_gain(report.samples)
    if not gain or Lane.TDISP not in report.samples:
        return

    def rows() -> Iterator[Sequence[str]]:
        for size in report.sizes:
            yield (bytes_of(size), *(f"{found[size]:.2f}" for found in gain.values()))

    _table(console, "Virtual throughput of tdisp, times", ("message", *(lane.value for lane in gain)), rows())


def _show_shapes(console: Console, report: Report) -> None:
    rows = (
        (_MARKS[c.holds], c.shape, escape(c.what), escape(c.published), escape(c.model), f"[dim]{escape(c.remark)}[/]")
        for c in report.claims
    )
    columns = ("", "shape", "what", "published", "model", "remark")
    _table(console, "Published shapes and the model", columns, rows, text=len(columns))


def _show_efficiency(console: Console, report: Report) -> None:
    units = sorted({row.unit for row in report.efficiencies})
    found = {(row.payload, row.unit): row for row in report.efficiencies}

    def rows() -> Iterator[Sequence[str]]:
        for payload in sorted({row.payload for row in report.efficiencies}):
            cells = (_ratio(found[payload, unit]) for unit in units)
            yield (f"{payload} B", f"{found[payload, 1].plain_counted:.3f}", *cells)

    columns = ("payload", "without", *(f"{unit} TLP{'s' * (unit > 1)} a MAC" for unit in units))
    _table(
        console, "Link efficiency without IDE, and with IDE to that; 4 DW headers, counted on frames", columns, rows()
    )
    console.print("[dim]in brackets: by the formula alone, since a unit carries 1 KiB at most (PCIe Base 6.33.6)[/]")


def _ratio(row: Efficiency) -> str:
    return f"({row.ratio_formula:.3f})" if row.ratio_counted is None else f"{row.ratio_counted:.3f} "


def _show_constants(console: Console) -> None:
    rows = (
        (escape(c.name), f"{c.value:.4g} {c.unit}", c.basis.value, f"[dim]{escape(c.source)}[/]") for c in CONSTANTS
    )
    columns = ("constant", "value", "how known", "source")
    _table(console, "The declared hardware", columns, rows, text=len(columns))


def _show_simulator(console: Console, report: Report) -> None:
    rates = ", ".join(f"{lane.value} {report.simulator_rate(lane) / 1e6:.1f} MB/s" for lane in report.samples)
    console.print(
        f"\n[dim]Speed of the simulator itself, which says nothing about hardware: {rates}[/]", soft_wrap=True
    )
