"""The comparison of the data paths, put together: counts, virtual times, shapes, IDE's efficiency, as one document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from teeio.costs import primitives
from teeio.costs.hardware import CONSTANTS
from teeio.costs.ide_efficiency import Efficiency, efficiencies
from teeio.costs.lanes import LARGEST, MAX_PAYLOAD, SMALLEST, Lane, Sample, expect_size, prepared
from teeio.costs.shapes import Claim, claims, throughput_gain
from teeio.costs.timing import IN_FLIGHT, Timing, timing
from teeio.crypto.entropy import SeededEntropy

SIZES = (*(SMALLEST << shift for shift in range(0, 16, 2)), LARGEST)
"""Powers of 4 from the smallest to 1 MiB, and the largest."""


@dataclass(slots=True)
class Report:
    """Everything that one comparison gives. Only CPU and wall-clock seconds differ between two runs."""

    seed: int
    sizes: tuple[int, ...]
    samples: dict[Lane, dict[int, Sample]] = field(default_factory=dict)
    timings: dict[Lane, dict[int, Timing]] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    efficiencies: list[Efficiency] = field(default_factory=list)

    @property
    def correct(self) -> bool:
        """Whether every message came back as it must."""
        return all(sample.correct for found in self.samples.values() for sample in found.values())

    def simulator_rate(self, lane: Lane) -> float:
        """Give the payload that the simulator itself moves in a second of wall-clock time, with its largest message."""
        sample = self.samples[lane][max(self.samples[lane])]
        return sample.cost.payload / sample.wall_seconds if sample.wall_seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Give the report for JSON. Seconds, bytes; virtual figures rest on `constants`, the others on this run."""
        return {
            "seed": self.seed,
            "sizes": list(self.sizes),
            "max_payload_size": MAX_PAYLOAD,
            "messages_in_flight": IN_FLIGHT,
            "constants": [one.as_dict() for one in CONSTANTS],
            "paths": {lane.value: self._path(lane) for lane in self.samples},
            "tdisp_throughput_to": {
                lane.value: {str(size): gain for size, gain in found.items()}
                for lane, found in throughput_gain(self.samples).items()
            },
            "shapes": [claim.as_dict() for claim in self.claims],
            "ide_efficiency": [row.as_dict() for row in self.efficiencies],
        }

    def _path(self, lane: Lane) -> dict[str, Any]:
        messages = {
            str(size): {**sample.as_dict(), "virtual": self.timings[lane][size].as_dict()}
            for size, sample in self.samples[lane].items()
        }
        return {
            "title": lane.title,
            "simulator_bytes_per_second": self.simulator_rate(lane),
            "messages": messages,
        }


def _unheard(lane: Lane, size: int) -> None:
    return None


def compare(
    sizes: Sequence[int] = SIZES,
    lanes: Sequence[Lane] = tuple(Lane),
    *,
    seed: int = 1,
    cpu_clock: Callable[[], float],
    wall_clock: Callable[[], float],
    progress: Callable[[Lane, int], None] = _unheard,
) -> Report:
    """Send messages of all sizes by all paths; `progress` hears of each before it starts. Raises `Misuse` for a size."""
    report = Report(seed, tuple(sorted(set(sizes))))
    for size in report.sizes:
        expect_size(size)
    for lane in lanes:
        found = report.samples[lane] = {}
        with prepared(lane, largest=max(sizes), cpu_clock=cpu_clock, wall_clock=wall_clock, seed=seed) as bed:
            for size in report.sizes:
                progress(lane, size)
                found[size] = bed.measure(size)
        report.timings[lane] = {size: timing(sample) for size, sample in found.items()}
    measured = primitives.claims(report.sizes, SeededEntropy(f"primitives {seed}".encode()), cpu_clock)
    report.claims = measured + claims(report.samples)
    report.efficiencies = efficiencies(SeededEntropy(f"efficiency {seed}".encode()))
    return report
