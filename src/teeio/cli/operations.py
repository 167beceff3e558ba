"""The operations that `teeio connect --operations` performs, one after the other, in the order that it is given.

Negotiation comes first in any case. What needs a session travels in the one opened last; what may travel in one does so too once
there is one. `end` ends the session opened last; one that is not ended stays open on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from teeio.cli.choices import parse_algorithms
from teeio.cli.operation_table import ENTRIES, NAMES, NOTHING, Entry
from teeio.cli.visits import authentication, events, information, negotiation, provisioning, sessions, streams
from teeio.cli.visits.visit import Visit
from teeio.errors import Misuse
from teeio.spdm.constants import ALL_MEASUREMENTS, Capability
from teeio.spdm.device_state import KeyUsage
from teeio.spdm.messages import DmtfEvent
from teeio.spdm.rules import Phase

Action = Callable[[Visit], None]
Make = Callable[[str], Action]
"""Reads an operation's argument and gives what to do. Raises `Misuse` or `ValueError` if the argument is none."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation with its argument, ready to be performed."""

    entry: Entry
    text: str
    run: Action


@dataclass(slots=True)
class Performance:
    """A visit that does one thing after the other; `log` lists what was done with what it found."""

    visit: Visit
    log: list[dict[str, Any]] = field(default_factory=list)

    def perform(self, operations: Sequence[Operation]) -> None:
        """Do these operations; what goes wrong raises and ends the rest."""
        for operation in operations:
            self._perform(operation)

    def _perform(self, operation: Operation) -> None:
        visit = self.visit
        if operation.entry.negotiated and visit.connection.phase is not Phase.NEGOTIATED:
            self._perform(read_operation("negotiate"))
        before, visit.found = visit.found, {}
        operation.run(visit)
        self.log.append({"operation": operation.text, **visit.found})
        visit.found = {**before, **visit.found}


# -- arguments ---------------------------------------------------------------------------------------------------------


def _plain(action: Action) -> Make:
    def make(argument: str) -> Action:
        if argument:
            raise Misuse("it takes no argument")
        return action

    return make


def _slot(text: str) -> int:
    slot = int(text, 0)
    if not 0 <= slot <= 7:
        raise Misuse(f"slot {slot}: slots are 0 to 7")
    return slot


def _at_slot(action: Callable[[Visit, int | None], None]) -> Make:
    return lambda argument: partial(_called, action, _slot(argument) if argument else None)


def _called(action: Callable[..., None], value: Any, visit: Visit) -> None:
    action(visit, value)


def _measurements(argument: str) -> Action:
    text = argument.strip().lower()
    if text == "each":
        return information.measure_each
    if text == "count":
        return information.count_measurements
    return partial(_called, information.measure, parse_measurements(text.replace("+", ",")) if text else None)


def _with_word(word: str, action: Callable[[Visit, bool], None]) -> Make:
    """Make an operation whose argument is one word or nothing."""

    def make(argument: str) -> Action:
        if argument not in ("", word):
            raise Misuse(f"{argument!r} is not {word}")
        return partial(_called, action, bool(argument))

    return make


def _key_update(argument: str) -> Action:
    if argument not in ("", "all", "request"):
        raise Misuse(f"{argument!r} is neither all nor request")
    return lambda visit: sessions.update_keys(visit, both=argument != "request")


def _subscribe(argument: str) -> Action:
    return partial(_called, events.subscribe, events.parse_types(argument))


def _send_event(argument: str) -> Action:
    name, _, detail = argument.partition(":")
    groups = events.parse_types(name)
    if not groups or len(groups[0].types) != 1:
        raise Misuse("it sends one event")
    kind, content = DmtfEvent(groups[0].types[0].type_id), bytes.fromhex(detail)
    return lambda visit: events.send(visit, kind, content)


def _get_csr(argument: str) -> Action:
    where, _, info = argument.partition("+info=")
    name, _, tag = where.partition(":")
    file, overwrite = Path(name) if name else None, tag == "new"
    number = int(tag, 0) if tag and not overwrite else 0
    wanted = Path(info) if info else None
    return lambda visit: provisioning.get_csr(visit, file, number, overwrite=overwrite, info=wanted)


def _set_certificate(argument: str) -> Action:
    slot, separator, name = argument.partition(":")
    if not separator or not name:
        raise Misuse("it needs a slot and a file")
    number = _slot(slot)
    return lambda visit: provisioning.set_certificate(visit, number, Path(name))


def _erase_certificate(argument: str) -> Action:
    return partial(_called, provisioning.erase_certificate, _slot(argument))


def _key_pair_info(argument: str) -> Action:
    return partial(_called, provisioning.describe_key_pairs, _key_pair(argument) if argument else None)


def _key_pair(text: str) -> int:
    number = int(text, 0)
    if not 1 <= number <= 0xFF:
        raise Misuse(f"key pair {number}: key pairs are 1 to 255")
    return number


def _set_key_pair_info(argument: str) -> Action:
    number_text, _, rest = argument.partition(":")
    action, *changes = rest.split("+")
    if action not in ("erase", "generate", "change"):
        raise Misuse(f"{action!r} is neither erase nor generate nor change")
    number, given = _key_pair(number_text), dict(change.partition("=")[::2] for change in changes)
    unknown = given.keys() - {"algorithm", "slots", "usage"}
    if unknown or (given and action == "erase"):
        raise Misuse(f"{', '.join(sorted(unknown or given))}: not part of {action}")
    algorithm = parse_algorithms("algorithm", given["algorithm"])[0] if "algorithm" in given else None
    slots = int(given["slots"], 0) if "slots" in given else None
    usage = KeyUsage(int(given["usage"], 0)) if "usage" in given else None
    return partial(
        provisioning.set_key_pair, number=number, action=action, algorithm=algorithm, slots=slots, usage=usage
    )


def _vendor_defined(argument: str) -> Action:
    registry, vendor, payload = argument.split(":")
    values = int(registry, 0), bytes.fromhex(vendor), bytes.fromhex(payload)
    return lambda visit: information.say_to_vendor(visit, *values)


MAKERS: dict[str, Make] = {
    "discovery": _plain(negotiation.discover),
    "version": _plain(negotiation.list_versions),
    "negotiate": _with_word("list", lambda visit, listed: negotiation.negotiate(visit, listed=listed)),
    "digests": _plain(authentication.get_digests),
    "certificate": _at_slot(authentication.get_certificate),
    "slot-size": _at_slot(authentication.get_slot_size),
    "challenge": _at_slot(authentication.challenge),
    "measurements": _measurements,
    "respond-if-ready": _plain(information.measure_patiently),
    "mel": _plain(information.read_log),
    "endpoint-info": _plain(information.read_endpoint_info),
    "session": _plain(sessions.open_session),
    "psk": _plain(sessions.open_psk_session),
    "quick-start": _plain(sessions.quick_start),
    "heartbeat": _plain(sessions.heartbeat),
    "key-update": _key_update,
    "serve": _plain(sessions.serve),
    "supported-event-types": _plain(events.list_event_types),
    "subscribe": _subscribe,
    "send-event": _send_event,
    "get-csr": _get_csr,
    "set-certificate": _set_certificate,
    "erase-certificate": _erase_certificate,
    "key-pair-info": _key_pair_info,
    "set-key-pair-info": _set_key_pair_info,
    "vendor-defined": _vendor_defined,
    "ide": _plain(streams.key_stream_or_fail),
    "tdisp": _plain(streams.live_interface),
    "ide-stop": _plain(streams.stop_stream),
    "end": _with_word("clear", lambda visit, clear: sessions.end(visit, clear=clear)),
}
"""What each operation of the table does."""


# -- reading -----------------------------------------------------------------------------------------------------------


def read_operation(text: str) -> Operation:
    """Read one operation, `NAME` or `NAME:ARGUMENT`. Raises `Misuse` naming the nearest name, or how the argument is written."""
    name, _, argument = text.strip().partition(":")
    entry = NAMES.get(name.strip().lower())
    if entry is None:
        near = get_close_matches(name.strip().lower(), NAMES, 1)
        raise Misuse(
            f"--operations: {name.strip() or 'the empty name'} is not known",
            remedy=(f"did you mean {near[0]}? " if near else "") + f"known are {', '.join(ENTRIES)}",
        )
    try:
        return Operation(entry, text.strip(), MAKERS[entry.name](argument.strip()))
    except (Misuse, ValueError) as error:
        said = str(error) if isinstance(error, Misuse) else f"{argument!r} cannot be read"
        detail = f"; {error.remedy}" if isinstance(error, Misuse) and error.remedy else ""
        raise Misuse(f"--operations {text.strip()}: {said}", remedy=f"it is written {entry.form}{detail}") from None


def parse_operations(text: str) -> tuple[Operation, ...]:
    """Read --operations. Raises `Misuse`."""
    operations = tuple(read_operation(part) for part in text.split(",") if part.strip())
    if not operations:
        raise Misuse("--operations: the empty list", remedy=f"known are {', '.join(ENTRIES)}")
    return operations


def needed(operations: Sequence[Operation]) -> Capability:
    """Give the capabilities of ours that operations make us offer."""
    found = NOTHING
    for operation in operations:
        found |= operation.entry.needs
    return found


def parse_measurements(text: str) -> tuple[int, ...]:
    """Read --measurements: "all" or block indices. Raises `Misuse`."""
    if text.strip().lower() == "all":
        return (ALL_MEASUREMENTS,)
    try:
        indices = tuple(int(part, 0) for part in text.split(","))
    except ValueError:
        indices = ()
    if not indices or not all(0 < index < ALL_MEASUREMENTS for index in indices):
        raise Misuse(
            f"--measurements {text!r} is neither all nor a list of indices",
            remedy=f"an index is 1 to {ALL_MEASUREMENTS - 1:#x}, for example 1,2,0xfd",
        )
    return indices
