"""Checks whose removal the exploration must notice, each with the root and the depth at which it does."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from teeio.abi.operands import AUTHORITY, PAGE_SIZE, Actor, DevifOperation
from teeio.host.memory import PhysicalMemory
from teeio.host.tdx import interface_calls
from teeio.host.tdx.interface import Devif, Request
from teeio.scenarios.mutants import NO_COUNTER, NO_STATE_RULES
from teeio.scenarios.scenario import Mutant, Removed, nothing, without


@dataclass(frozen=True, slots=True)
class Removal:
    """A mutant, and where its fault shows: within `depth` actions from `root`."""

    name: str
    mutant: Mutant
    root: str
    depth: int


def _unscrubbed(self: PhysicalMemory, hpa: int, size: int, old: int, new: int) -> None:
    first, end = hpa // PAGE_SIZE, (hpa + size) // PAGE_SIZE
    self._owners[first:end] = bytes([new]) * (end - first)


def _asked_under_any_lock(self: Devif, operation: DevifOperation) -> Request | None:
    return self.request if self.request is not None and self.request.operation is operation else None


_ANYBODY_STARTS = MappingProxyType({**AUTHORITY, DevifOperation.START: frozenset({Actor.VMM, Actor.TVM})})

REMOVALS = MappingProxyType(
    {
        one.name: one
        for one in (
            Removal(
                "state-rules",
                NO_STATE_RULES,
                "assigned",
                1,
            ),
            Removal(
                "start-authority",
                without("the TSM's rule that the TVM allows the start", interface_calls, "AUTHORITY", _ANYBODY_STARTS),
                "assigned",
                2,
            ),
            Removal(
                "lock-binding",
                Mutant(
                    "the TSM's two comparisons of bind session ids",
                    (Removed(Devif, "check_bind_session", nothing), Removed(Devif, "asked_for", _asked_under_any_lock)),
                ),
                "relocked",
                3,
            ),
            Removal("scrubbing", without("scrubbing of pages", PhysicalMemory, "_move", _unscrubbed), "page going", 1),
            Removal("counters", NO_COUNTER, "running", 2),
        )
    }
)
"""Every removal by its name."""
