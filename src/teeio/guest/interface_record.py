"""What a TVM remembers of an interface: one record a function in the TVM, however many views look at it.

Whether a driver is bound, and under which lock the interface is, are facts of the function, not of who asks. So an
`AssignedInterface` keeps nothing of its own, and sysfs, a driver and the owner's tools agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from teeio.abi.tdcalls import NO_BIND_SESSION
from teeio.attestation import Evidence, Verdict
from teeio.guest.ranges import TeeRange


class Phase(Enum):
    """How far the TVM is with an interface."""

    UNLOCKED = "not locked"
    LOCKED = "locked, not accepted"
    ACCEPTED = "accepted and in RUN"
    LOST = "lost: it left RUN, or was not given back"


@dataclass(slots=True)
class InterfaceRecord:
    """One function's record: phase, bound driver, lock, and what was attested and accepted under that lock."""

    phase: Phase = Phase.UNLOCKED
    driver: str | None = None
    function_id: int = 0
    bind_session_id: int = NO_BIND_SESSION
    evidence: Evidence | None = None
    verdict: Verdict | None = None
    ranges: tuple[TeeRange, ...] = ()

    def forget(self) -> None:
        """Give up the lock, and what was attested and accepted under it."""
        self.bind_session_id, self.evidence, self.ranges = NO_BIND_SESSION, None, ()
