"""Pages on calls across the trust boundaries, and on the commands: exit codes, operations, attacks, exploration, faults."""

from __future__ import annotations

from collections.abc import Iterator

from teeio import abi
from teeio.abi.absent import ABSENT
from teeio.cli.operation_table import ENTRIES
from teeio.cli.outcome import EXIT_MEANINGS
from teeio.docs.parts import grid
from teeio.explorer import ACTIONS, OF_STEPS, PROPERTIES, REMOVALS, ROOTS
from teeio.faults import ACCOUNTS, FAULTS, STEPS, Ending, State
from teeio.scenarios import ATTACKS


def calls_page() -> Iterator[str]:
    """Calls across the trust boundaries."""
    yield from ("# Calls across the trust boundaries", "")
    yield from grid(
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
    yield from grid(
        ("call", "leaf", "why not"), ((one.name, "-" if one.leaf is None else one.leaf, one.reason) for one in ABSENT)
    )


def exit_codes_page() -> Iterator[str]:
    """Exit codes."""
    yield from ("# Exit codes", "")
    yield from grid(("code", "meaning"), ((code.value, meaning) for code, meaning in EXIT_MEANINGS.items()))


def operations_page() -> Iterator[str]:
    """Operations of teeio connect."""
    yield from ("# Operations of teeio connect", "", "What `teeio connect --operations` can be told to do.", "")
    yield from grid(
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
    yield from grid(
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
    yield from ("", "Of every step:", "", *(f"- {rule}" for rule in OF_STEPS), "", "## What can happen", "")
    yield from grid(
        ("actor", "action", "about", "may leave if refused"),
        ((one.actor, one.name, str(one.topic), one.leaves.value) for one in ACTIONS),
    )
    yield from ("## Where it begins", "")
    yield from grid(
        ("root", "reached by", "explored", "of", "actions"),
        ((r.name, r.way or "-", str(r.topics), " and ".join(r.tenants), len(r.choices)) for r in ROOTS.values()),
    )
    yield from ("Without a root named, `teeio explore` leaves out those that lie within reach of others: ",)
    yield from (", ".join(one.name for one in ROOTS.values() if one.near) + ".", "")
    yield from ("## Checks that can be taken out", "")
    yield from grid(
        ("name", "without", "shows from", "within"),
        ((f"`{one.name}`", one.mutant.what, one.root, one.depth) for one in REMOVALS.values()),
    )


def _states_of_devices() -> Iterator[str]:
    yield from ("## How the device stands after a fault", "")
    yield from grid(
        (
            "state",
            "TDI",
            "as the TSM knows it",
            "stream at the device",
            "at the root port",
            "in the TSM",
            "session at the device",
            "at the TSM",
            "that is",
            "what leads on",
        ),
        ((state.value, *state.form.cells(), state.form.meaning, state.form.leads_on) for state in State),
    )


def faults_page() -> Iterator[str]:
    """Faults, how lives stand after them, and what must come back."""
    yield from ("# Faults", "", f"What `teeio fault` plays. Steps of a life: {', '.join(STEPS)}.", "")
    yield from grid(
        ("name", "what goes wrong", "strikes", "seams"),
        (
            (
                f"`{one.name}`",
                one.what,
                ", ".join(moment.value for moment in one.moments),
                ", ".join(sorted(seam.value for seam in one.seams)),
            )
            for one in FAULTS.values()
        ),
    )
    yield from ("## How a life stands after a fault", "")
    yield from grid(("it", "that is"), ((ending.value, ending.meaning) for ending in Ending))
    yield from _states_of_devices()
    yield from ("## What may follow", "")
    yield from (
        'Of the rows of a fault the first that covers a strike counts. "When" is how far the device was. Error bits in '
        "brackets may be set, the others must.",
        "",
    )
    for rows in dict.fromkeys(one.rows for one in FAULTS.values()):
        names = ", ".join(f"`{one.name}`" for one in FAULTS.values() if one.rows == rows)
        yield from (f"### {names}", "")
        yield from grid(
            ("when", "where", "the life, the device", "errors at the device", "errors at the root port"),
            (
                (
                    ", ".join(s.value for s in row.stages),
                    row.place,
                    row.expectation,
                    str(row.device),
                    str(row.root_port),
                )
                for row in rows
            ),
        )
    yield from ("## What is counted, and is zero again", "")
    yield from grid(("what", "where"), ((account.what, account.where) for account in ACCOUNTS))
