"""Which faults are played where: all of them at every point, with a sample of what repeats, or a few that cover everything once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from teeio.faults.fault import Fault
from teeio.faults.points import Point, Seam, Strike


def sampled(passed: Sequence[Point]) -> list[Point]:
    """Take of equal points in one step the first, the second and the last: what is done page by page is done the same way."""
    groups: dict[tuple[Seam, str, str], list[Point]] = {}
    for point in passed:
        groups.setdefault((point.seam, point.step, point.name), []).append(point)
    wanted = {point for group in groups.values() for point in (*group[:2], group[-1])}
    return [point for point in passed if point in wanted]


def campaign(faults: Sequence[Fault], passed: Sequence[Point]) -> Iterator[tuple[Fault, Strike]]:
    """List all strikes of these faults at these points."""
    for fault in faults:
        for strike in fault.strikes(list(passed)):
            yield fault, strike


def selected(faults: Iterable[Fault], passed: Sequence[Point]) -> Iterator[tuple[Fault, Strike]]:
    """List one strike of each fault, so that as many steps as can be are struck."""
    covered: set[str] = set()
    for number, fault in enumerate(faults):
        strikes = fault.strikes(list(passed))
        fresh = [strike for strike in strikes if strike.point.step not in covered] or strikes
        chosen = fresh[number * STRIDE % len(fresh)]
        covered.add(chosen.point.step)
        yield fault, chosen


STRIDE = 37
"""How far apart in the life the strikes of neighbouring faults are chosen."""
