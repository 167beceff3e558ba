"""The figures of `teeio bench io`, drawn with matplotlib (the extra `bench`)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from teeio.costs.lanes import Lane
from teeio.costs.report import Report
from teeio.costs.shapes import FASTRACK, ratios
from teeio.errors import Misuse

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {Lane.DIRECT: "#7f7f7f", Lane.ENCRYPTED: "#d62728", Lane.COPIED: "#ff7f0e", Lane.TDISP: "#2ca02c"}


def need_matplotlib() -> None:
    """Raises `Misuse` where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise Misuse("--plot needs matplotlib, which is not installed", remedy="pip install 'teeio[bench]'")


def draw(report: Report, path: Path) -> None:
    """Draw throughput, guest CPU, the ratio by size and IDE's efficiency into one file; its suffix says the format."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "teeio", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(10, 7), layout="constrained")
        (throughput, cpu), (ratio, efficiency) = figure.subplots(2, 2)
        _lines(throughput, report, "Throughput in virtual time", "GB/s of payload")
        for lane, found in report.timings.items():
            throughput.plot(list(found), [t.throughput / 1e9 for t in found.values()], marker="o", **_style(lane))
        _lines(cpu, report, "Guest CPU in virtual time", "ns for each byte of payload")
        for lane, found in report.timings.items():
            payloads = [report.samples[lane][size].cost.payload for size in found]
            spent = [t.cpu * 1e9 / n for t, n in zip(found.values(), payloads, strict=True)]
            cpu.plot(list(found), spent, marker="o", **_style(lane))
        _ratio(ratio, report)
        _efficiency(efficiency, report)
        throughput.legend(fontsize=8)
        figure.savefig(path, dpi=100, metadata={"Date": None} if path.suffix == ".svg" else None)


def _style(lane: Lane) -> dict[str, str | float]:
    # Direct DMA and TDISP nearly coincide: dashes on top let both be seen.
    on_top: dict[str, str | float] = {"linestyle": "--", "zorder": 3.0} if lane is Lane.DIRECT else {}
    return {"color": _COLOURS[lane], "label": lane.value, "markersize": 3.5, "linewidth": 1.3, **on_top}


def _lines(axes: Axes, report: Report, title: str, unit: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("bytes of a message")
    axes.set_ylabel(unit)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.grid(alpha=0.3)


def _ratio(axes: Axes, report: Report) -> None:
    axes.set_title("S1: latency, encrypted bounce to direct")
    axes.set_xlabel("bytes of a message")
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)
    axes.axhspan(*FASTRACK, color="#d62728", alpha=0.12, label="FASTRACK 12.69 to 33.53")
    if {Lane.DIRECT, Lane.ENCRYPTED} <= report.samples.keys():
        found = ratios(report.samples)
        axes.plot(list(found), list(found.values()), "o-", color="#d62728", markersize=3.5, label="model")
    axes.legend(fontsize=8)


def _efficiency(axes: Axes, report: Report) -> None:
    axes.set_title("Link efficiency under IDE, counted, to without IDE")
    axes.set_xlabel("bytes of a TLP's payload")
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)
    for unit in sorted({row.unit for row in report.efficiencies}):
        rows = [row for row in report.efficiencies if row.unit == unit and row.ratio_counted is not None]
        axes.plot(
            [row.payload for row in rows],
            [row.ratio_counted or 0.0 for row in rows],
            "o-",
            markersize=3.5,
            label=f"{unit} TLP{'s' if unit > 1 else ''} a MAC",
        )
    axes.legend(fontsize=8)
