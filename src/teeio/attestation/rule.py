"""What a rule of the policy is: a row with the attack it stops, its clause, and a small function that judges a case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from teeio.attestation.evidence import Evidence, MeasurementRecord, Negotiation, parse_measurements, parse_vca
from teeio.attestation.expectations import Expectations
from teeio.attestation.reference_values import ReferenceValues
from teeio.crypto.certificates import Finding, errors, load_certificate, parse_chain, validate_chain
from teeio.errors import AuthenticationFailed, DecodeError, Incompatible
from teeio.tdisp.messages import DeviceInterfaceReport


class Outcome(Enum):
    """How a rule came out. UNCHECKED is not a failure of the device: the verifier had nothing to check against."""

    PASSED = "pass"
    FAILED = "fail"
    UNCHECKED = "unchecked"


class Severity(Enum):
    """A REQUIRED rule decides the verdict; an ADVISORY one is only told."""

    REQUIRED = "required"
    ADVISORY = "advisory"


class Profile(Enum):
    """Which TSM the TVM runs under: TDX adds what the TDX Connect module insists on.

    PEERS is this model's own: what TDX insists on, but with peer-to-peer and the ATS that it needs.
    """

    BASE = "base"
    TDX = "tdx"
    PEERS = "peers"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a rule's function says."""

    outcome: Outcome
    explanation: str


def passed(explanation: str) -> Judgement:
    """Say that the rule holds."""
    return Judgement(Outcome.PASSED, explanation)


def failed(explanation: str) -> Judgement:
    """Say that the evidence breaks the rule."""
    return Judgement(Outcome.FAILED, explanation)


def unchecked(explanation: str) -> Judgement:
    """Say that the rule could not be checked."""
    return Judgement(Outcome.UNCHECKED, explanation)


MAX_EXPLANATION = 2000
"""Characters of an explanation: a device must not be able to fill a log."""

MAX_SHOWN = 64
"""Bytes of a value that an explanation shows."""


def printable(text: str) -> str:
    """Escape what a device may have put into a name to forge lines or drive a terminal, and cut what is too long."""
    text = text[:MAX_EXPLANATION]
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: bytes) -> str:
    """Give a value in hex, cut if it is long."""
    return value.hex() if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN].hex()}... ({len(value)} bytes)"


def all_of(problems: list[str], otherwise: str) -> Judgement:
    """Fail with all `problems`, or pass with `otherwise`."""
    return failed("; ".join(problems)) if problems else passed(otherwise)


@dataclass(frozen=True)
class Case:
    """Evidence with what it is judged by. Reading it raises `DecodeError`, which fails the rule that read it."""

    evidence: Evidence
    reference: ReferenceValues
    expectations: Expectations

    @cached_property
    def negotiation(self) -> Negotiation:
        """What the VCA says."""
        return parse_vca(self.evidence.vca)

    @cached_property
    def record(self) -> MeasurementRecord:
        """The measurement exchanges."""
        return parse_measurements(self.evidence.measurements, self.evidence.vca, self.negotiation)

    @cached_property
    def report(self) -> DeviceInterfaceReport:
        """The interface report."""
        return DeviceInterfaceReport.decode(self.evidence.report)

    @cached_property
    def leaf(self) -> bytes:
        """The leaf certificate, DER, authentic or not."""
        leaf = parse_chain(self.evidence.certificate_chain, self.negotiation.base_hash)[1][-1]
        load_certificate(leaf)
        return leaf

    @cached_property
    def chain_findings(self) -> tuple[Finding, ...]:
        """What is wrong with the certificate chain."""
        found = validate_chain(
            self.evidence.certificate_chain,
            self.expectations.anchors,
            self.negotiation.base_hash,
            self.negotiation.base_asym,
            self.expectations.at_time,
            model=self.expectations.model,
            version=self.negotiation.version,
        )
        return tuple(found)

    @property
    def leaf_is_authentic(self) -> bool:
        """Tell whether the chain has no error."""
        return not errors(self.chain_findings)


@dataclass(frozen=True, slots=True)
class Result:
    """A rule's outcome on one case."""

    rule: Rule
    outcome: Outcome
    explanation: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the policy. `attack` is what would succeed without it; a rule of profile BASE always applies."""

    id: str
    title: str
    attack: str
    clause: str
    judge: Callable[[Case], Judgement]
    severity: Severity = Severity.REQUIRED
    profile: Profile = Profile.BASE

    def apply(self, case: Case) -> Result:
        """Judge a case: what does not parse fails, an algorithm that is not implemented leaves the rule unchecked."""
        try:
            judgement = self.judge(case)
        except DecodeError as error:
            judgement = failed(f"the evidence does not parse: {error}")
        except AuthenticationFailed as error:
            judgement = failed(str(error))
        except Incompatible as error:
            judgement = unchecked(str(error))
        return Result(self, judgement.outcome, printable(judgement.explanation))
