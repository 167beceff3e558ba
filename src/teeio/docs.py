"""Writes the tables of `docs/generated` from the declarations in the code: `python -m teeio.docs [--check] DIR`.

With `--check` nothing is written; it fails if a table is not what the code says.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from teeio import abi
from teeio.abi.absent import ABSENT
from teeio.cli.operation_table import ENTRIES
from teeio.cli.outcome import EXIT_MEANINGS
from teeio.crypto.availability import NOT_PROVIDED
from teeio.explorer import ACTIONS, PROPERTIES, REMOVALS, ROOTS
from teeio.faults import ACCOUNTS, FAULTS, STEPS, Ending
from teeio.ide_km import messages as ide_messages
from teeio.pcie import capabilities
from teeio.pcie.registers import Block, declared_registers
from teeio.scenarios import ATTACKS
from teeio.spdm import messages as spdm_messages
from teeio.spdm.constants import Version
from teeio.spdm.error_rules import ERROR_RULES
from teeio.spdm.rules import RULES, Place
from teeio.tdisp import messages as tdisp_messages
from teeio.tdisp.messages import InterfaceState
from teeio.tdisp.states import EVENT_RULES, REQUEST_RULES, next_state
from teeio.tdisp.tlp_rules import COMPLETER_TABLE, REQUESTER_TABLE
from teeio.wire import Record, table


def _grid(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
    yield ""


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]


def _layout(cls: type[Record], version: int, title: str) -> Iterator[str]:
    yield from (f"### {title}", "", _first_line(cls), "")
    rows = [(row.offset, row.size, f"`{row.name}`", row.doc) for row in table(cls, version)]
    yield from _grid(("offset", "size", "field", "meaning"), rows)


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
    yield from _grid(
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
    yield from _grid(("algorithm", "kind", "why"), rows)
    yield from ("## Error codes", "")
    yield from _grid(("code", "value", "since", "the responder answers with it when", "before that version"), _errors())
    yield from (
        "## Messages",
        "",
        "Layouts as in 1.4; what an earlier version lacks is left out or reserved there.",
        "",
    )
    for cls in spdm_messages.declared():
        yield from _layout(cls, Version.V1_4, f"{cls.NAME} ({cls.CODE:#04x})")


def tdisp_page() -> Iterator[str]:
    """TDISP messages, states and TLP rules."""
    states = list(InterfaceState)
    yield from ("# TDISP", "", "## Requests by state", "")
    yield from _grid(
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
    yield from _grid(
        ("event", *(state.name for state in states), "clause"),
        (
            (event.value, *(next_state(event, state).name for state in states), rule.clause)
            for event, rule in EVENT_RULES.items()
        ),
    )
    yield from ("## TLPs that a TDI sends", "")
    yield from _grid(
        ("TLP", *(state.name for state in states)),
        ((kind.value, *(row[state].value for state in states)) for kind, row in REQUESTER_TABLE.items()),
    )
    yield from ("## Memory requests to a TDI's MMIO", "")
    yield from _grid(
        ("range", "arrives", *(state.name for state in states)),
        (
            (target.value, access.value, *(row[state].value for state in states))
            for target, accesses in COMPLETER_TABLE.items()
            for access, row in accesses.items()
        ),
    )
    yield from ("## Messages", "")
    for code, cls in sorted(tdisp_messages.BY_CODE.items()):
        yield from _layout(cls, tdisp_messages.VERSION_1_0, f"{cls.__name__} ({code:#04x})")


def ide_km_page() -> Iterator[str]:
    """IDE_KM messages."""
    yield from ("# IDE_KM", "")
    for code, cls in sorted(ide_messages.BY_CODE.items()):
        yield from _layout(cls, 0, f"{cls.NAME} ({int(code):#04x})")


def _blocks() -> Iterator[type[Block]]:
    for module in sorted(pkgutil.iter_modules(capabilities.__path__), key=lambda found: found.name):
        loaded = importlib.import_module(f"{capabilities.__name__}.{module.name}")
        for value in vars(loaded).values():
            if isinstance(value, type) and issubclass(value, Block) and value.__module__ == loaded.__name__:
                yield value


def registers_page() -> Iterator[str]:
    """Register maps."""
    yield from ("# PCIe registers", "", "The last column says what a change does to a TDI in CONFIG_LOCKED or RUN.", "")
    for block in _blocks():
        registers = declared_registers(block)
        if not registers:
            continue
        yield from (f"## {block.__name__}", "", _first_line(block), "")
        yield from _grid(
            ("offset", "register", "bits", "field", "access", "reset", "meaning", "while locked"),
            (
                (
                    f"{register.offset:#04x}",
                    register.name,
                    f"{field.low + field.width - 1}:{field.low}" if field.width > 1 else field.low,
                    field.name,
                    field.access.name,
                    f"{field.reset:#x}",
                    field.doc,
                    field.locked.value,
                )
                for register in registers
                for field in register.fields
            ),
        )


def calls_page() -> Iterator[str]:
    """Calls across the trust boundaries."""
    yield from ("# Calls across the trust boundaries", "")
    yield from _grid(
        ("call", "leaf", "caller", "callee", "meaning", "other generation", "refusals"),
        (
            (
                call.name,
                "-" if call.leaf is None else call.leaf,
                call.caller.value,
                call.callee.value,
                call.meaning,
                call.alias or "-",
                ", ".join(sorted(status.name for status in call.refusals)) or "-",
            )
            for call in abi.CALLS.values()
        ),
    )
    yield from ("", "## Not modelled", "", "Public calls on memory, devices and I/O that have no declaration.", "")
    yield from _grid(
        ("call", "leaf", "why not"), ((one.name, "-" if one.leaf is None else one.leaf, one.reason) for one in ABSENT)
    )


def exit_codes_page() -> Iterator[str]:
    """Exit codes."""
    yield from ("# Exit codes", "")
    yield from _grid(("code", "meaning"), ((code.value, meaning) for code, meaning in EXIT_MEANINGS.items()))


def operations_page() -> Iterator[str]:
    """Operations of teeio connect."""
    yield from ("# Operations of teeio connect", "", "What `teeio connect --operations` can be told to do.", "")
    yield from _grid(
        ("operation", "also", "what it does", "session", "before it"),
        (
            (
                f"`{entry.form}`",
                f"`{entry.also}`" if entry.also else "-",
                entry.meaning,
                "needed" if entry.in_session else "-",
                "negotiation" if entry.negotiated else "-",
            )
            for entry in ENTRIES.values()
        ),
    )


def attacks_page() -> Iterator[str]:
    """Attacks and their mutants."""
    yield from ("# Attacks", "", "What `teeio attack` plays; the numbers are those of the catalogue.", "")
    yield from _grid(
        ("", "name", "attacker", "phase", "what is tried", "rule", "ends", "shown by leaving out"),
        (
            (
                one.number,
                f"`{one.name}`",
                one.attacker,
                one.phase,
                one.title,
                one.rule,
                one.expected.value + (f" (`{one.counterpart}` closes it)" if one.counterpart else ""),
                "; ".join(mutant.what for mutant in one.mutants) or "-",
            )
            for one in ATTACKS.values()
        ),
    )


def exploration_page() -> Iterator[str]:
    """Properties, actions and roots of the exploration."""
    yield from ("# Exploration", "", "## What must hold in every state", "")
    yield from (f"- {one.name}" for one in PROPERTIES)
    yield from ("", "## What can happen", "")
    yield from _grid(("actor", "action"), ((action.actor, action.name) for action in ACTIONS))
    yield from ("## Where it begins", "")
    yield from _grid(("root", "reached by"), ((name, ", ".join(trail) or "-") for name, trail in ROOTS.items()))
    yield from ("## Checks that can be taken out", "")
    yield from _grid(
        ("name", "without", "shows from", "within"),
        ((f"`{one.name}`", one.mutant.what, one.root, one.depth) for one in REMOVALS.values()),
    )


def faults_page() -> Iterator[str]:
    """Faults, how lives stand after them, and what must come back."""
    yield from ("# Faults", "", f"What `teeio fault` plays. Steps of a life: {', '.join(STEPS)}.", "")
    yield from _grid(
        ("name", "what goes wrong", "strikes", "seams", "a life may stand"),
        (
            (
                f"`{one.name}`",
                one.what,
                ", ".join(moment.value for moment in one.moments),
                ", ".join(sorted(seam.value for seam in one.seams)),
                ", ".join(ending.value for ending in Ending if ending in one.endings),
            )
            for one in FAULTS.values()
        ),
    )
    yield from ("## How a life stands after a fault", "")
    yield from _grid(("it", "that is"), ((ending.value, ending.meaning) for ending in Ending))
    yield from ("## What is counted, and is zero again", "")
    yield from _grid(("what", "where"), ((account.what, account.where) for account in ACCOUNTS))


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "spdm.md": spdm_page,
    "tdisp.md": tdisp_page,
    "ide_km.md": ide_km_page,
    "registers.md": registers_page,
    "calls.md": calls_page,
    "exit_codes.md": exit_codes_page,
    "operations.md": operations_page,
    "attacks.md": attacks_page,
    "exploration.md": exploration_page,
    "faults.md": faults_page,
}


def generate() -> dict[str, str]:
    """Give every page's text by its file name."""
    return {name: "\n".join(page()).rstrip() + "\n" for name, page in PAGES.items()}


def main(arguments: Sequence[str]) -> int:
    """Write or check the pages; 1 if a check fails."""
    check = "--check" in arguments
    folder = Path(next((item for item in arguments if not item.startswith("-")), "docs")) / "generated"
    stale = [
        name
        for name, text in generate().items()
        if not (folder / name).is_file() or (folder / name).read_text() != text
    ]
    if check:
        for name in stale:
            sys.stderr.write(f"{folder / name} is not what the code says: run `python -m teeio.docs {folder.parent}`\n")
        return int(bool(stale))
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in generate().items():
        (folder / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
