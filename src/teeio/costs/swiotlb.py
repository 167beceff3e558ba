"""One lock against a pool for each queue: the swiotlb table of C. Gao, on the discrete-event clock (shape S2).

Each job is a core that maps a bounce buffer, does the rest of its I/O work, and hands the I/O to the disk, with more
in flight than the disk can hold up. On one lock all jobs queue for the pool, spinning; with areas each has its own.
Three constants come from the read column of the table (`hardware`): what that fits is said in `TABLE`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from teeio.costs import hardware as hw
from teeio.costs.events import Process, Resource, Simulation, Use, Wait

IOS = 2000
"""I/Os of each job in a run."""
DEPTH = 256
"""I/Os of a job in flight (fio iodepth of the table)."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: thousands of I/Os a second and guest CPU in percent; `fitted` if a constant was set by it."""

    jobs: int
    areas: bool
    read: float
    write: float
    cpu: float
    fitted: bool


TABLE = (
    Row(1, False, 253.0, 280.0, 101.92, True),
    Row(1, True, 283.0, 292.0, 101.12, True),
    Row(4, False, 214.9, 212.1, 401.12, True),
    Row(4, True, 567.0, 488.0, 202.8, True),
)
"""lkml 2206.3/04847, 4 KiB sequential; CPU of the reads. No constant comes from the writes or the CPU of four jobs."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the clock says of a row: thousands of I/Os a second, guest CPU in percent with the time spent spinning."""

    jobs: int
    areas: bool
    kiops: float
    cpu: float


class _Job:
    """A core that issues I/Os, `DEPTH` of them at the disk at most; `pool` is what it takes bounce slots from."""

    def __init__(self, disk: Resource, pool: Resource, hold: Callable[[int], float]) -> None:
        self._disk, self._pool, self._hold = disk, pool, hold
        self._in_flight = 0

    def issue(self, simulation: Simulation) -> Process:
        """Issue all I/Os; while the disk is full, look again after each one that it could have done."""
        for _ in range(IOS):
            while self._in_flight >= DEPTH:
                yield Wait(1 / hw.DISK_RATE.value)
            yield Wait(hw.IO_WORK.value)
            yield Use(self._pool, self._hold)
            self._in_flight += 1
            simulation.start(self._at_disk())

    def _at_disk(self) -> Process:
        yield Use(self._disk, 1 / hw.DISK_RATE.value)
        self._in_flight -= 1


def _one_lock(waiting: int) -> float:
    return hw.SWIOTLB_CONTENDED.value if waiting else hw.SWIOTLB_HOLD.value


def _area(waiting: int) -> float:
    return 0.0  # the short search is part of the I/O work


def play(jobs: int, *, areas: bool) -> Outcome:
    """Run `jobs` jobs against the disk, on one lock or with an area each."""
    simulation, disk = Simulation(), Resource("disk")
    pools = [Resource(f"area {number}") for number in range(jobs)] if areas else [Resource("pool")] * jobs
    for pool in pools:
        simulation.start(_Job(disk, pool, _area if areas else _one_lock).issue(simulation))
    seconds = simulation.run()
    count = jobs * IOS
    spent = count * hw.IO_WORK.value + sum(pool.busy + pool.waited for pool in set(pools))
    return Outcome(jobs, areas, count / seconds / 1e3, 100 * spent / seconds)
