"""What a fault is: what it does where it strikes, and how a life may stand after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from teeio.faults.points import Moment, Point, Seam, Strike
from teeio.faults.scene import Inflict


class Ending(Enum):
    """How a life stands after a fault. Whatever is none of these is half done."""

    WENT_ON = "went on"
    UNDONE = "undone"
    GIVEN_BACK = "given back"
    SET_ASIDE = "set aside"
    ERROR = "ERROR"
    LOST = "lost"
    UNFINISHED = "unfinished"
    HALTED = "halted"
    HALF_DONE = "half done"

    @property
    def meaning(self) -> str:
        """Say what is the case."""
        return MEANINGS[self]


MEANINGS = {
    Ending.WENT_ON: "nobody noticed, or all that was refused was repeated: the life came to its end with the right results",
    Ending.UNDONE: "the step failed, and what is given out is exactly what was before it",
    Ending.GIVEN_BACK: "the step failed, and the TVM has given the interface back: CONFIG_UNLOCKED, bound to nobody",
    Ending.SET_ASIDE: "the TVM uses pages no more whose conversion has stopped; they come back when it ends",
    Ending.ERROR: "the TDI is in ERROR or its stream not Secure: unlock it, bring it up anew",
    Ending.LOST: "the session or the connection is gone: disconnect the device, connect it anew",
    Ending.UNFINISHED: "taking something down has stopped: it goes on where it stopped when it is asked for again",
    Ending.HALTED: "the TVM does nothing any more; what it had stays until the VMM ends it",
    Ending.HALF_DONE: "none of these: something is neither done nor undone",
}


def anywhere(point: Point) -> bool:
    """Tell that a fault can strike at every point of its seams."""
    return True


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault; `endings` are those that are acceptable, `applies` says at which points of its seams it can strike."""

    name: str
    what: str
    seams: frozenset[Seam]
    moments: tuple[Moment, ...]
    endings: frozenset[Ending]
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
