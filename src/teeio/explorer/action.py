"""What an action is: one thing that somebody can do, whether it makes sense or not, and what it is about.

An action that is refused is no error: that it changes nothing is what is explored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, Flag, auto
from typing import NamedTuple

from teeio.errors import TeeioError
from teeio.explorer.world import Tenant, World


class Topic(Flag):
    """What an action is about, one thing or several; a root says which topics are explored from it."""

    LIFE = auto()
    MEMORY = auto()
    DMA = auto()
    MMIO = auto()
    LINK = auto()
    DEVICE = auto()
    EXCHANGE = auto()

    def __str__(self) -> str:
        """Name the topics."""
        return "all" if self == ~Topic(0) else ", ".join((one.name or "").lower() for one in self)


class Leaves(Enum):
    """What of a refused action may stay."""

    NOTHING = "nothing"
    SENT = "what was sent to the device, or by it, and what follows from that"
    STEPS = "of several steps those before the refused one"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that can happen. `do` raises `TeeioError` where it is refused. `tenant` is whose it is, if anybody's.

    `leaves` says what may be another though it was refused.
    """

    name: str
    actor: str
    topic: Topic
    do: Callable[[World], object]
    tenant: str = ""
    leaves: Leaves = Leaves.NOTHING

    def happen(self, world: World) -> str:
        """Let it happen; give why it was refused, or an empty text."""
        try:
            self.do(world)
        except TeeioError as error:
            return str(error).splitlines()[0]
        return ""

    def must_leave_nothing(self, sent: bool) -> bool:
        """Tell whether, refused, it must have left everything as it was; `sent` says whether anything was sent."""
        return self.leaves is Leaves.NOTHING or (self.leaves is Leaves.SENT and not sent)


class Own(NamedTuple):
    """An action that there is for each tenant, or for the first alone: what the second could do is the same."""

    actor: str
    name: str
    topic: Topic
    do: Callable[[World, Tenant], object]
    of: str = "AB"
    leaves: Leaves = Leaves.NOTHING


class Common(NamedTuple):
    """An action that there is once."""

    actor: str
    name: str
    topic: Topic
    do: Callable[[World], object]
    leaves: Leaves = Leaves.NOTHING
