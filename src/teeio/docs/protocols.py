"""Pages on the protocols: SPDM, TDISP, IDE_KM."""

from __future__ import annotations

from collections.abc import Iterator

from teeio.crypto.availability import NOT_PROVIDED
from teeio.docs.parts import grid, layout
from teeio.ide_km import messages as ide_messages
from teeio.spdm import messages as spdm_messages
from teeio.spdm.constants import Version
from teeio.spdm.error_rules import ERROR_RULES
from teeio.spdm.rules import RULES, Place
from teeio.tdisp import messages as tdisp_messages
from teeio.tdisp.messages import InterfaceState
from teeio.tdisp.states import EVENT_RULES, REQUEST_RULES, next_state
from teeio.tdisp.tlp_rules import COMPLETER_TABLE, REQUESTER_TABLE


def _place(place: Place) -> str:
    return ", ".join((member.name or "").lower() for member in Place if member & place)


def _errors() -> Iterator[tuple[str, ...]]:
    for rule in ERROR_RULES:
        since = Version(rule.since)
        differs = rule.when and since is not Version.V1_0 and rule.before is not rule.code
        before = rule.before.name if differs else "-"
        yield rule.code.name, f"{rule.code:#04x}", since.text, rule.when or f"never: {rule.never}", before


def spdm_page() -> Iterator[str]:
    """SPDM messages and legality rules."""
    yield from ("# SPDM", "", "## What is legal when", "")
    yield from grid(
        ("request", "code", "since", "after", "where", "responder needs", "requester needs", "transcripts", "rule"),
        (
            (
                rule.request.NAME,
                f"{rule.request.CODE:#04x}",
                Version(rule.since).text,
                f"from {rule.phase.name}" if rule.onward else rule.phase.name,
                _place(rule.place),
                " or ".join(flag.name or "" for flag in rule.responder) or "-",
                " or ".join(flag.name or "" for flag in rule.requester) or "-",
                rule.effect.value,
                rule.clause,
            )
            for rule in RULES
        ),
    )
    yield from ("## Algorithms that are not provided", "")
    rows = ((one.name, type(row.algorithms).__name__, row.reason) for row in NOT_PROVIDED for one in row.algorithms)
    yield from grid(("algorithm", "kind", "why"), rows)
    yield from ("## Error codes", "")
    yield from grid(("code", "value", "since", "the responder answers with it when", "before that version"), _errors())
    yield from (
        "## Messages",
        "",
        "Layouts as in 1.4; what an earlier version lacks is left out or reserved there.",
        "",
    )
    for cls in spdm_messages.declared():
        yield from layout(cls, Version.V1_4, f"{cls.NAME} ({cls.CODE:#04x})")


def tdisp_page() -> Iterator[str]:
    """TDISP messages, states and TLP rules."""
    states = list(InterfaceState)
    yield from ("# TDISP", "", "## Requests by state", "")
    yield from grid(
        ("request", *(state.name for state in states), "own errors", "clause"),
        (
            (
                rule.request.name,
                *(
                    ("-> " + rule.next_state.name if rule.next_state is not None else "legal")
                    if state in rule.legal
                    else "-"
                    for state in states
                ),
                ", ".join(error.name for error in rule.errors) or "-",
                rule.clause,
            )
            for rule in REQUEST_RULES.values()
        ),
    )
    yield from ("## Events by state", "")
    yield from grid(
        ("event", *(state.name for state in states), "clause"),
        (
            (event.value, *(next_state(event, state).name for state in states), rule.clause)
            for event, rule in EVENT_RULES.items()
        ),
    )
    yield from ("## TLPs that a TDI sends", "")
    yield from grid(
        ("TLP", *(state.name for state in states)),
        ((kind.value, *(row[state].value for state in states)) for kind, row in REQUESTER_TABLE.items()),
    )
    yield from ("## Memory requests to a TDI's MMIO", "")
    yield from grid(
        ("range", "arrives", *(state.name for state in states)),
        (
            (target.value, access.value, *(row[state].value for state in states))
            for target, accesses in COMPLETER_TABLE.items()
            for access, row in accesses.items()
        ),
    )
    yield from ("## Messages", "")
    for code, cls in sorted(tdisp_messages.BY_CODE.items()):
        yield from layout(cls, tdisp_messages.VERSION_1_0, f"{cls.__name__} ({code:#04x})")


def ide_km_page() -> Iterator[str]:
    """IDE_KM messages."""
    yield from ("# IDE_KM", "")
    for code, cls in sorted(ide_messages.BY_CODE.items()):
        yield from layout(cls, 0, f"{cls.NAME} ({int(code):#04x})")
