"""Playing attacks: each on a fresh platform, then each of its mutants, which must let it through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from teeio.errors import TeeioError
from teeio.observe import Observer, ignore
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.scenario import Mutant, Outcome, Scenario


@dataclass(slots=True)
class MutantPlayed:
    """How an attack went on a mutant; `caught` if the scenario noticed that the check is gone."""

    mutant: Mutant
    caught: bool
    why: str

    def as_dict(self) -> dict[str, object]:
        """Give it for JSON."""
        return {"without": self.mutant.what, "caught": self.caught, "why": self.why}


@dataclass(slots=True)
class Played:
    """A scenario with its outcome, its journal and its mutants."""

    scenario: Scenario
    outcome: Outcome
    journal: Journal
    mutants: list[MutantPlayed] = field(default_factory=list)

    @property
    def as_it_must_be(self) -> bool:
        """Tell whether the attack ended as expected and every mutant was caught."""
        return self.scenario.as_expected(self.outcome) and all(mutant.caught for mutant in self.mutants)

    def as_dict(self) -> dict[str, object]:
        """Give it for JSON."""
        return {**self.scenario.as_dict(self.outcome), "mutants": [mutant.as_dict() for mutant in self.mutants]}


def play(
    scenario: Scenario,
    *,
    seed: int | None = None,
    clock: Callable[[], float] | None = None,
    wall_clock: Callable[[], float] | None = None,
    listener: Observer = ignore,
) -> Played:
    """Play a scenario on a fresh platform; randomness and time as in `Platform.assemble`, durations as in `Journal`."""
    journal = Journal(wall_clock, listener)
    platform = Platform.assemble(seed=seed, clock=clock, observer=journal, **scenario.options)
    return Played(scenario, scenario.play(platform, journal), journal)


def play_mutants(
    played: Played, *, seed: int | None = None, clock: Callable[[], float] | None = None
) -> list[MutantPlayed]:
    """Play the scenario on each of its mutants and note which ones it catches.

    A mutant on which the story breaks off is caught only if the unchanged code would not have broken off, which its
    outcome has shown.
    """
    for mutant in played.scenario.mutants:
        with mutant.living():
            played.mutants.append(_on(mutant, played.scenario, seed, clock))
    return played.mutants


def _on(mutant: Mutant, scenario: Scenario, seed: int | None, clock: Callable[[], float] | None) -> MutantPlayed:
    try:
        outcome = play(scenario, seed=seed, clock=clock).outcome
    except TeeioError as error:
        return MutantPlayed(mutant, True, f"the story broke off: {error}")
    failed = [what for what, holds in outcome.seen if not holds]
    return MutantPlayed(mutant, bool(failed), failed[0] if failed else "the attack was stopped all the same")
