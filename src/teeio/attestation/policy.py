"""The policy: the table of all rules, and the appraisal that applies it.

A relying party picks a profile and may waive rules that it cannot check; a waiver never covers a failure, and the
verdict shows it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from teeio.attestation.evidence import Evidence
from teeio.attestation.expectations import Expectations
from teeio.attestation.identity_rules import IDENTITY_RULES
from teeio.attestation.interface_rules import INTERFACE_RULES
from teeio.attestation.measurement_rules import MEASUREMENT_RULES
from teeio.attestation.reference_values import ReferenceValues
from teeio.attestation.rule import Case, Profile, Rule
from teeio.attestation.verdict import Verdict
from teeio.errors import Misuse

RULES: tuple[Rule, ...] = (*IDENTITY_RULES, *MEASUREMENT_RULES, *INTERFACE_RULES)
"""Every rule, in the order in which they are judged and shown."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Which rules apply, and which of them the relying party lets pass unchecked."""

    profile: Profile = Profile.TDX
    waived: frozenset[str] = frozenset()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that apply under this profile."""
        return tuple(rule for rule in RULES if rule.profile in (Profile.BASE, self.profile))

    @classmethod
    def with_waivers(cls, profile: Profile, waived: Collection[str]) -> Policy:
        """Make a policy. Raises `Misuse` for a waiver of a rule that does not exist."""
        known = {rule.id for rule in RULES}
        if unknown := set(waived) - known:
            raise Misuse(
                f"no rule is named {', '.join(sorted(unknown))}", remedy=f"waive only {', '.join(sorted(known))}"
            )
        return cls(profile, frozenset(waived))

    def appraise(self, evidence: Evidence, reference: ReferenceValues, expectations: Expectations) -> Verdict:
        """Judge evidence by every rule; uses up its nonce. Never raises on what the evidence holds."""
        case = Case(evidence, reference, expectations)
        return Verdict(tuple(rule.apply(case) for rule in self.rules), self.waived)
