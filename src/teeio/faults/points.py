"""Where a fault can strike: before and after each data object, call and frame of a life, which a life without faults names."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Seam(Enum):
    """What can be got at between two actors."""

    MESSAGE = "message"
    CALL = "call"
    FRAME = "frame"


class Moment(Enum):
    """When a fault strikes; INSTEAD is one that takes the place of what should happen."""

    BEFORE = "before"
    AFTER = "after"
    INSTEAD = "at"


@dataclass(frozen=True, slots=True)
class Point:
    """The `count`th time, from 1, that something called `name` passes a seam; `step` is the life's step then."""

    seam: Seam
    step: str
    name: str
    count: int

    @property
    def call(self) -> str:
        """The declared name of the call that it is a pass of."""
        return self.name.partition(",")[0]

    def __str__(self) -> str:
        return f"{self.step}: {self.name}" + (f" ({self.count})" if self.count > 1 else "")


@dataclass(frozen=True, slots=True)
class Strike:
    """Where and when a fault strikes, once."""

    point: Point
    moment: Moment

    def __str__(self) -> str:
        return f"{self.moment.value} {self.point}"
