"""How tests strike: a fault, where a step first passes something."""

from __future__ import annotations

from dataclasses import dataclass

from teeio.faults import FAULTS, Moment, Played, Point, Strike, play


@dataclass(frozen=True)
class Struck:
    """Plays faults at the points `passed` of a life."""

    passed: list[Point]

    def __call__(self, fault: str, step: str, name: str, moment: Moment | None = None) -> Played:
        """Let a fault strike the first `name` in `step`; `moment` is the fault's first one if it is not given."""
        point = next(point for point in self.passed if (point.step, point.name) == (step, name))
        strike = Strike(point, moment or FAULTS[fault].moments[0])
        assert strike in FAULTS[fault].strikes(self.passed)
        return play(FAULTS[fault], strike)
