"""What a fault may lead to: by how far the device was when it struck, by what it struck, and which error bits go with it.

A `Row` says it for one place. Whatever is in no row must not be.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from teeio.faults.points import Moment, Seam, Strike
from teeio.faults.standing import End, Standing
from teeio.faults.states import State
from teeio.pcie.capabilities.aer import Uncorrectable
from teeio.tdisp.messages import InterfaceState

TAKING_DOWN = ("remove", "unlock", "shut down", "disconnect")
"""Steps that take down what the others have set up: what is lost in them is lost on the way out."""


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
    Ending.UNFINISHED: "taking down, or an exchange with the device, has stopped: it goes on where it stopped when it is asked for again",
    Ending.HALTED: "the TVM does nothing any more; what it had stays until the VMM ends it",
    Ending.HALF_DONE: "none of these: something is neither done nor undone",
}


class Stage(Enum):
    """How far the device was when a fault struck."""

    NONE = "no session"
    SESSION = "session"
    STREAM = "Secure stream"
    LOCKED = "locked"
    RUN = "RUN"


def stage_of(found: Standing) -> Stage:
    """Tell how far a device is."""
    if found.device_end is End.SECURE and found.root_end is End.SECURE:
        return {InterfaceState.CONFIG_LOCKED: Stage.LOCKED, InterfaceState.RUN: Stage.RUN}.get(
            found.tdi or InterfaceState.CONFIG_UNLOCKED, Stage.STREAM
        )
    return Stage.SESSION if found.device_session or found.tsm_session else Stage.NONE


@dataclass(frozen=True, slots=True)
class Signs:
    """Error bits at one end: those that must be set, and those that may."""

    must: frozenset[Uncorrectable] = frozenset()
    may: frozenset[Uncorrectable] = frozenset()

    def allow(self, found: frozenset[Uncorrectable]) -> bool:
        """Tell whether these bits are as they must be."""
        return self.must <= found <= self.must | self.may

    def __str__(self) -> str:
        listed = [error.name for error in sorted(self.must)] + [f"({error.name})" for error in sorted(self.may)]
        return ", ".join(listed) or "none"


QUIET = Signs()
Outcome = tuple[Ending, State]


@dataclass(frozen=True, slots=True)
class Row:
    """What may follow where a fault strikes at one of `stages`; `down` says in steps that take down, or in the others.

    `of` names what it strikes: one of these, each words that must all be in the name; none: whatever it is. `steps` are
    the only ones, if there are any. The error bits are those of the device's port and of the root port.
    """

    stages: tuple[Stage, ...]
    outcomes: tuple[Outcome, ...]
    down: bool | None = None
    of: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    seams: tuple[Seam, ...] = tuple(Seam)
    moments: tuple[Moment, ...] = tuple(Moment)
    device: Signs = QUIET
    root_port: Signs = QUIET

    @property
    def place(self) -> str:
        """Say where it is."""
        parts = [", ".join(self.of)] if self.of else []
        if len(self.seams) < len(Seam):
            parts.append(f"at a {' or a '.join(seam.value for seam in self.seams)}")
        if len(self.moments) < len(Moment):
            parts.append(", ".join(moment.value for moment in self.moments))
        if self.steps:
            parts.append(f"in {', '.join(self.steps)}")
        elif self.down is not None:
            parts.append("taking down" if self.down else "setting up, at work")
        return "; ".join(parts) or "anywhere"

    @property
    def expectation(self) -> str:
        """Say what may follow."""
        return " or ".join(f"{ending.value} ({state.value})" for ending, state in self.outcomes)

    def as_dict(self) -> dict[str, object]:
        """Give it for JSON."""
        return {
            "when": [stage.value for stage in self.stages],
            "where": self.place,
            "outcomes": [{"ending": ending.value, "state": state.value} for ending, state in self.outcomes],
            "device_errors": str(self.device),
            "root_port_errors": str(self.root_port),
        }

    def covers(self, strike: Strike, stage: Stage) -> bool:
        """Tell whether a strike is of this row."""
        point = strike.point
        return (
            stage in self.stages
            and self.down in (None, point.step in TAKING_DOWN)
            and point.seam in self.seams
            and strike.moment in self.moments
            and (not self.of or any(all(word in point.name for word in words.split()) for words in self.of))
            and (not self.steps or point.step in self.steps)
        )
