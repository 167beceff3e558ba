"""The verdict: accept, reject or could-not-check, with every rule and how it came out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from teeio.attestation.rule import Outcome, Result, Severity


class Decision(Enum):
    """What to do with the interface. Only ACCEPT allows its start."""

    ACCEPT = "accept"
    REJECT = "reject"
    COULD_NOT_CHECK = "could-not-check"

    @property
    def exit_code(self) -> int:
        """The exit code of a tool that reports this decision."""
        return {Decision.ACCEPT: 0, Decision.REJECT: 1, Decision.COULD_NOT_CHECK: 2}[self]


@dataclass(frozen=True, slots=True)
class Verdict:
    """All results of one appraisal. `waived` names rules that the relying party has said need not be checked."""

    results: tuple[Result, ...]
    waived: frozenset[str] = frozenset()

    @property
    def decision(self) -> Decision:
        """Decide: any failure rejects; anything unchecked and not waived, or no result at all, prevents acceptance."""
        if self.failures:
            return Decision.REJECT
        if self.unchecked or not self.results:
            return Decision.COULD_NOT_CHECK
        return Decision.ACCEPT

    @property
    def accepted(self) -> bool:
        """Tell whether the interface may be started."""
        return self.decision is Decision.ACCEPT

    @property
    def failures(self) -> tuple[Result, ...]:
        """The required rules that the evidence breaks; a waiver never covers a failure."""
        return tuple(result for result in self._required() if result.outcome is Outcome.FAILED)

    @property
    def unchecked(self) -> tuple[Result, ...]:
        """The required rules that could not be checked and were not waived."""
        return tuple(
            result
            for result in self._required()
            if result.outcome is Outcome.UNCHECKED and result.rule.id not in self.waived
        )

    def _required(self) -> Iterable[Result]:
        return (result for result in self.results if result.rule.severity is Severity.REQUIRED)

    def as_dict(self) -> dict[str, Any]:
        """Give the verdict as JSON can hold it."""
        return {
            "decision": self.decision.value,
            "waived": sorted(self.waived),
            "results": [
                {
                    "rule": result.rule.id,
                    "title": result.rule.title,
                    "severity": result.rule.severity.value,
                    "clause": result.rule.clause,
                    "attack": result.rule.attack,
                    "outcome": result.outcome.value,
                    "explanation": result.explanation,
                }
                for result in self.results
            ],
        }

    def __str__(self) -> str:
        """Give a short text: the decision, then one line for each rule that did not pass."""
        counts = {outcome: sum(result.outcome is outcome for result in self.results) for outcome in Outcome}
        head = f"{self.decision.value}: " + ", ".join(f"{count} {outcome.value}" for outcome, count in counts.items())
        return "\n".join(
            [head, *(self._line(result) for result in self.results if result.outcome is not Outcome.PASSED)]
        )

    def _line(self, result: Result) -> str:
        waived = " (waived)" if result.outcome is Outcome.UNCHECKED and result.rule.id in self.waived else ""
        advisory = " (advisory)" if result.rule.severity is Severity.ADVISORY else ""
        return (
            f"  {result.outcome.value}{waived}{advisory} {result.rule.id}: {result.explanation} [{result.rule.clause}]"
        )
