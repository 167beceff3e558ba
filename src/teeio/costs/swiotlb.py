"""One lock against a pool for each queue: the swiotlb table of C. Gao, on the discrete-event clock (shape S2).

Each job is a core that maps a bounce buffer, does the rest of its I/O work, and hands the I/O to the disk, with more
in flight than the disk can hold up. On one lock all jobs queue for the pool, spinning; with areas each has its own.
Seven constants come from the table (`hardware`); what that fits, and what is left to predict, is said in `TABLE`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from teeio.costs import hardware as hw
from teeio.costs.events import Process, Resource, Simulation, Use, Wait

IOS = 2000
"""I/Os of each job in a run."""
DEPTH = 256
"""I/Os of a job in flight (fio iodepth of the table)."""


class Kind(Enum):
    """Reads or writes: seconds of a core for each, seconds below the one lock, and I/Os a second of the disk."""

    READS = (hw.IO_WORK.value, hw.SWIOTLB_HOLD.value, hw.DISK_RATE.value)
    WRITES = (hw.WRITE_WORK.value, hw.WRITE_HOLD.value, hw.DISK_WRITE_RATE.value)

    def __init__(self, work: float, hold: float, disk: float) -> None:
        self.work, self.hold, self.disk = work, hold, disk


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: thousands of I/Os a second and guest CPU in percent; `fitted` if its rate set a constant."""

    kind: Kind
    jobs: int
    areas: bool
    kiops: float
    cpu: float
    fitted: bool


TABLE = (
    Row(Kind.READS, 1, False, 253.0, 101.92, True),
    Row(Kind.READS, 1, True, 283.0, 101.12, True),
    Row(Kind.READS, 4, False, 214.9, 401.12, True),
    Row(Kind.READS, 4, True, 567.0, 202.8, True),
    Row(Kind.WRITES, 1, False, 280.0, 100.96, True),
    Row(Kind.WRITES, 1, True, 292.0, 100.64, True),
    Row(Kind.WRITES, 4, False, 212.1, 400.64, False),
    Row(Kind.WRITES, 4, True, 488.0, 173.92, True),
)
"""lkml 2206.3/04847, 4 KiB sequential. No constant comes from a CPU column."""


def published(kind: Kind, jobs: int, *, areas: bool) -> Row:
    """Give the row of the table."""
    return next(row for row in TABLE if (row.kind, row.jobs, row.areas) == (kind, jobs, areas))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the clock says of a row: thousands of I/Os a second, guest CPU in percent with the time spent spinning."""

    kiops: float
    cpu: float


class _Job:
    """A core that issues I/Os, `DEPTH` of them at the disk at most; `pool` is what it takes bounce slots from."""

    def __init__(self, kind: Kind, disk: Resource, pool: Resource, hold: Callable[[int], float]) -> None:
        self._kind, self._disk, self._pool, self._hold = kind, disk, pool, hold
        self._in_flight = 0

    def issue(self, simulation: Simulation) -> Process:
        """Issue all I/Os; while the disk is full, look again after each one that it could have done."""
        for _ in range(IOS):
            while self._in_flight >= DEPTH:
                yield Wait(1 / self._kind.disk)
            yield Wait(self._kind.work)
            yield Use(self._pool, self._hold)
            self._in_flight += 1
            simulation.start(self._at_disk())

    def _at_disk(self) -> Process:
        yield Use(self._disk, 1 / self._kind.disk)
        self._in_flight -= 1


def _hold(kind: Kind, areas: bool) -> Callable[[int], float]:
    """Give how long the pool is held for an I/O, by how many wait for it."""

    def held(waiting: int) -> float:
        if areas:
            return 0.0  # the short search is part of the I/O work
        return hw.SWIOTLB_CONTENDED.value if waiting else kind.hold

    return held


def play(kind: Kind, jobs: int, *, areas: bool) -> Outcome:
    """Run `jobs` jobs against the disk, on one lock or with an area each."""
    simulation, disk = Simulation(), Resource("disk")
    pools = [Resource(f"area {number}") for number in range(jobs)] if areas else [Resource("pool")] * jobs
    for pool in pools:
        simulation.start(_Job(kind, disk, pool, _hold(kind, areas)).issue(simulation))
    seconds = simulation.run()
    count = jobs * IOS
    spent = count * kind.work + sum(pool.busy + pool.waited for pool in set(pools))
    return Outcome(count / seconds / 1e3, 100 * spent / seconds)
