"""What a benchmark found: figures that depend on the machine, and ratios of one run that hardly do."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Figures:
    """Collects and prints. A ratio may have a limit that it should keep, "at most" or "at least"."""

    title: str
    ratios: list[dict[str, object]] = field(default_factory=list)
    measured: dict[str, dict[str, object]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def measure(self, name: str, value: float, unit: str) -> float:
        """Keep a figure of this machine."""
        self.measured[name] = {"value": value, "unit": unit}
        return value

    def ratio(self, name: str, value: float, wanted: str = "") -> None:
        """Keep a ratio."""
        self.ratios.append({"name": name, "ratio": value, "wanted": wanted})

    def note(self, text: str) -> None:
        """Say why something was not measured."""
        self.notes.append(text)

    def show(self, as_json: bool) -> None:
        """Print everything."""
        if as_json:
            print(json.dumps(vars(self), indent=1))
            return
        print(self.title)
        for name, figure in self.measured.items():
            print(f"  {name:62} {figure['value']:>12,.3f} {figure['unit']}")
        print("  ratios of this run")
        for row in self.ratios:
            wanted = f"  ({row['wanted']})" if row["wanted"] else ""
            print(f"  {row['name']!s:62} {row['ratio']:>12.3f}{wanted}")
        for text in self.notes:
            print(f"  not measured: {text}")
        sys.stdout.flush()


def cpu(work: Callable[[], object], seconds: float = 1.0, least: int = 3) -> float:
    """Give the CPU seconds (user and system) of one `work`, warm: the mean of repetitions over about `seconds`."""
    work()
    count = 0
    begun = time.process_time()
    while count < least or time.process_time() - begun < seconds:
        work()
        count += 1
    return (time.process_time() - begun) / count


def options(description: str, *extra: tuple[str, dict[str, object]]) -> argparse.Namespace:
    """Read the command line: --json, --seconds, and what a benchmark has besides."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU seconds for each figure")
    for name, settings in extra:
        parser.add_argument(name, **settings)  # type: ignore[arg-type]
    return parser.parse_args()
