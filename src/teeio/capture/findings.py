"""What was verified in a capture, and how it came out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How a check came out."""

    OK = "ok"
    WRONG = "wrong"
    NOT_CHECKABLE = "not checkable"


@dataclass(frozen=True, slots=True)
class Finding:
    """One signature, verify-data value or digest that was looked at; `reason` is empty when all is well."""

    check: str
    verdict: Verdict
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.check}: {self.verdict.value}" + (f": {self.reason}" if self.reason else "")


def compared(check: str, same: bool, reason: str) -> Finding:
    """Give the finding of a comparison; `reason` is why it matters when the two differ."""
    return Finding(check, Verdict.OK) if same else Finding(check, Verdict.WRONG, reason)


def not_checkable(check: str, reason: str) -> Finding:
    """Give the finding of a check for which something is missing."""
    return Finding(check, Verdict.NOT_CHECKABLE, reason)
