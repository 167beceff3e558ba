"""Attestation: how a TVM judges the evidence on a device interface before it accepts it."""

from teeio.attestation.evidence import (
    Evidence,
    MeasurementRecord,
    Negotiation,
    TsmStatement,
    measurement_object,
    parse_measurements,
    parse_vca,
)
from teeio.attestation.expectations import AlgorithmFloor, Expectations, PlacedRange, RegisterWindow
from teeio.attestation.freshness import NonceRegistry
from teeio.attestation.policy import RULES, Policy
from teeio.attestation.reference_values import ReferenceValue, ReferenceValues
from teeio.attestation.rule import Outcome, Profile, Result, Rule, Severity
from teeio.attestation.verdict import Decision, Verdict

__all__ = [
    "RULES",
    "AlgorithmFloor",
    "Decision",
    "Evidence",
    "Expectations",
    "MeasurementRecord",
    "Negotiation",
    "NonceRegistry",
    "Outcome",
    "PlacedRange",
    "Policy",
    "Profile",
    "ReferenceValue",
    "ReferenceValues",
    "RegisterWindow",
    "Result",
    "Rule",
    "Severity",
    "TsmStatement",
    "Verdict",
    "measurement_object",
    "parse_measurements",
    "parse_vca",
]
