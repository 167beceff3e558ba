"""What a scenario is: a named story on a platform, with what was tried and what was seen in the bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from teeio.platform import Platform
from teeio.scenarios.journal import Journal


@dataclass(slots=True)
class Outcome:
    """How a scenario ended. `seen` are observations, each a sentence with whether it is as it must be."""

    tried: str
    seen: list[tuple[str, bool]] = field(default_factory=list)
    tdi_states: list[str] = field(default_factory=list)

    def see(self, what: str, holds: bool) -> None:
        """Note an observation."""
        self.seen.append((what, holds))

    @property
    def stopped(self) -> bool:
        """Tell whether everything is as it must be: the attack was stopped, or the story went well."""
        return bool(self.seen) and all(holds for _, holds in self.seen)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A story: who attacks, which rule must stop it, and how it is played on a fresh platform."""

    name: str
    title: str
    attacker: str
    rule: str
    play: Callable[[Platform, Journal], Outcome]

    def as_dict(self, outcome: Outcome) -> dict[str, object]:
        """Give scenario and outcome for JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "attacker": self.attacker,
            "rule": self.rule,
            "tried": outcome.tried,
            "stopped": outcome.stopped,
            "seen": [{"what": what, "as_it_must_be": holds} for what, holds in outcome.seen],
            "tdi_states": outcome.tdi_states,
        }
