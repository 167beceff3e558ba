"""An input surface, and the loop that strikes it: what may come out, what counts as a crash, how it is repeated."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from fuzz.mutation import Mutator

Strike = Callable[[bytes], bool]
"""Gives an input to the code under test; whether it was taken as valid. Whatever it raises is a crash."""

SLOW_SECONDS = 2.0
"""An input that takes longer than this is reported as a crash too: its work is not bounded well."""

MAX_CRASHES = 20
"""Distinct crashes that are kept of a surface."""


@dataclass(frozen=True)
class Surface:
    """A named surface. `prepare` makes its seeds and its strike; `share` weighs it when inputs are divided up.

    The first `selector` bytes of an input say what it is for (a state, a version) and are not damaged.
    """

    name: str
    prepare: Callable[[Random], tuple[Sequence[bytes], Strike]]
    share: float = 1.0
    selector: int = 0


@dataclass(frozen=True)
class Crash:
    """An input that raised, by the place that raised."""

    surface: str
    number: int
    data: bytes
    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.surface} input {self.number}: {self.what} at {self.where}\n    {self.data[:512].hex()}"


@dataclass
class Outcome:
    """What striking a surface gave."""

    surface: str
    inputs: int = 0
    taken: int = 0
    seconds: float = 0.0
    crashes: list[Crash] = field(default_factory=list)
    crashed: int = 0


def strike(
    surface: Surface,
    seed: int,
    inputs: int,
    *,
    deadline: float | None = None,
    progress: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """Strike a surface `inputs` times, or until `deadline` (time.monotonic). The inputs follow from `seed` and the surface's name.

    Input number N of a surface is the same in every run with the same seed, whatever came of the ones before it.
    """
    random = Random(f"{seed} {surface.name}")
    seeds, code = surface.prepare(Random(f"{seed} {surface.name} seeds"))
    mutator = Mutator(random, seeds, surface.selector)
    outcome = Outcome(surface.name)
    places: set[str] = set()
    begun = last = time.monotonic()
    for number in range(inputs):
        data = mutator.draw()
        try:
            outcome.taken += code(data)
        except Exception as error:
            outcome.crashed += 1
            _keep(outcome, places, Crash(surface.name, number, data, _said(error), _place(error)))
        outcome.inputs += 1
        now = time.monotonic()
        if now - last > SLOW_SECONDS:
            outcome.crashed += 1
            _keep(outcome, places, Crash(surface.name, number, data, f"took {now - last:.1f} s", "(time)"))
        last = now
        if progress is not None and not number % 256:
            progress(outcome)
        if deadline is not None and now > deadline:
            break
    outcome.seconds = time.monotonic() - begun
    return outcome


def _keep(outcome: Outcome, places: set[str], crash: Crash) -> None:
    if crash.where not in places and len(outcome.crashes) < MAX_CRASHES:
        places.add(crash.where)
        outcome.crashes.append(crash)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames[-4:]))
