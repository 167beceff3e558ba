"""What an attack is: a named story on a platform, what was tried, what was seen in the bytes, and the check that it proves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from teeio.attestation import policy
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.spdm import rules
from teeio.spdm.messages import Request
from teeio.spdm.rules import Place
from teeio.tdisp import preconditions


class Expected(Enum):
    """How an attack must end."""

    STOPPED = "stopped"
    SUCCEEDS = "succeeds, as the specification in question lets it"


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
class Removed:
    """One attribute of a class or module with what stands in its place while a mutant lives."""

    owner: Any
    name: str
    replacement: Any


@dataclass(frozen=True, slots=True)
class Mutant:
    """A device, TSM, VMM or TVM with one check removed; `what` completes "without ..."."""

    what: str
    removed: tuple[Removed, ...]

    @contextmanager
    def living(self) -> Iterator[None]:
        """Take the check out for as long as this lasts. It is taken out of the running code, so play nothing else meanwhile."""
        with ExitStack() as undo:
            for one in self.removed:
                undo.callback(setattr, one.owner, one.name, vars(one.owner)[one.name])
                setattr(one.owner, one.name, one.replacement)
            yield


def without(what: str, owner: Any, name: str, replacement: Any) -> Mutant:
    """Make the mutant in which `owner.name` is `replacement`."""
    return Mutant(what, (Removed(owner, name, replacement),))


def nothing(*_: object, **__: object) -> None:
    """Stand in for a check that raises or acts: it finds nothing wrong."""


def without_rule(*names: str) -> Mutant:
    """Make the mutant whose attestation policy lacks one rule, or several that stop the same thing."""
    rest = tuple(rule for rule in policy.RULES if rule.id not in names)
    return without(f"the policy's rule{'s' * (len(names) > 1)} {' and '.join(names)}", policy, "RULES", rest)


def legal_at(request: type[Request[Any]], place: Place) -> Mutant:
    """Make the mutant whose responder takes a request at one place more."""
    rule = rules.BY_REQUEST[request.CODE]
    lenient = {**rules.BY_REQUEST, request.CODE: replace(rule, place=rule.place | place)}
    return without(f"the rule that {request.NAME} has no place there", rules, "BY_REQUEST", lenient)


def without_lock_checks(*names: str) -> Mutant:
    """Make the mutant whose device lacks conditions of LOCK_INTERFACE."""
    rest = tuple(check for check in preconditions.LOCK_CHECKS if check.name not in names)
    return without(f"the device's checks of {' and '.join(names)}", preconditions, "LOCK_CHECKS", rest)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A story: who attacks, in which phase, which rule must stop it, and how it is played on a fresh platform.

    `number` is the entry's in the catalogue of attacks. `mutants` are the checks without which it would not be stopped.
    `options` are those of `Platform.assemble`. A scenario that is expected to succeed shows what a published rule leaves
    open; `counterpart` then names the scenario with the rule that closes it.
    """

    number: int
    name: str
    title: str
    attacker: str
    phase: str
    rule: str
    play: Callable[[Platform, Journal], Outcome]
    mutants: tuple[Mutant, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    expected: Expected = Expected.STOPPED
    counterpart: str = ""

    def as_expected(self, outcome: Outcome) -> bool:
        """Tell whether the attack ended as it must."""
        return outcome.stopped is (self.expected is Expected.STOPPED)

    def as_dict(self, outcome: Outcome) -> dict[str, object]:
        """Give scenario and outcome for JSON."""
        return {
            "number": self.number,
            "name": self.name,
            "title": self.title,
            "attacker": self.attacker,
            "phase": self.phase,
            "rule": self.rule,
            "tried": outcome.tried,
            "stopped": outcome.stopped,
            "expected": self.expected.name.lower(),
            "as_expected": self.as_expected(outcome),
            "seen": [{"what": what, "as_it_must_be": holds} for what, holds in outcome.seen],
            "tdi_states": outcome.tdi_states,
        }
