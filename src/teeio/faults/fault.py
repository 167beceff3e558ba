"""What a fault is: what it does where it strikes, and what may follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from teeio.faults.expected import Ending, Row, stage_of
from teeio.faults.points import Moment, Point, Seam, Strike
from teeio.faults.scene import Inflict
from teeio.faults.standing import Standing
from teeio.faults.states import state_of


def anywhere(point: Point) -> bool:
    """Tell that a fault can strike at every point of its seams."""
    return True


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault; `applies` says at which points of its seams it can strike, the first row that covers one what may follow."""

    name: str
    what: str
    seams: frozenset[Seam]
    moments: tuple[Moment, ...]
    rows: tuple[Row, ...]
    inflict: Callable[[Moment], Inflict]
    applies: Callable[[Point], bool] = anywhere

    def strikes(self, points: list[Point]) -> list[Strike]:
        """List where it can strike."""
        return [
            Strike(point, moment)
            for point in points
            if point.seam in self.seams and self.applies(point)
            for moment in self.moments
        ]

    def as_dict(self) -> dict[str, object]:
        """Give it for JSON."""
        return {
            "name": self.name,
            "what": self.what,
            "seams": sorted(seam.value for seam in self.seams),
            "rows": [row.as_dict() for row in self.rows],
        }

    def row_of(self, strike: Strike, before: Standing) -> Row | None:
        """Find what is said of a strike, by how the device stood before."""
        stage = stage_of(before)
        return next((row for row in self.rows if row.covers(strike, stage)), None)

    def judged(self, strike: Strike, before: Standing, ending: Ending, after: Standing) -> str:
        """Say what is not as the table has it; "" if all is."""
        stage, row, state = stage_of(before), self.row_of(strike, before), state_of(after)
        if row is None:
            return f"no row says what follows at the stage {stage.value!r}"
        if state is None:
            return f"it {ending.value} in no documented state: {after}"
        if (ending, state) not in row.outcomes:
            return f"it {ending.value} ({state.value}); expected {row.expectation}: {after}"
        for where, signs, found in (
            ("device", row.device, after.device_errors),
            ("root port", row.root_port, after.root_errors),
        ):
            if not signs.allow(found):
                named = ", ".join(sorted(error.name for error in found)) or "none"
                return f"error bits at the {where}: {named}; expected {signs}"
        return ""
