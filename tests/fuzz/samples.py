"""What mutation starts from: objects drawn from the declared layouts, and conversations of our own engines."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from enum import Enum
from functools import cache
from random import Random
from typing import Any, TypeVar

from teeio.crypto.algorithms import Aead, BaseHash
from teeio.crypto.entropy import SeededEntropy
from teeio.device.device import Device
from teeio.device.profiles import EMULATOR_FUNCTION, EMULATOR_PORT_INDEX, emulator_device
from teeio.errors import AuthenticationFailed, DecodeError, Misuse
from teeio.flow import Done, Flow, Send
from teeio.ide_km import flows as ide_flows
from teeio.ide_km.messages import Direction, KeySet, key_slots
from teeio.mctp import MctpBinding
from teeio.pcie.doe import DoeBinding
from teeio.spdm import flows
from teeio.spdm.binding import Binding
from teeio.spdm.constants import Capability, SummaryType, Version
from teeio.spdm.key_schedule import KeySchedule
from teeio.spdm.record import RecordKey
from teeio.spdm.requester import Requester
from teeio.spdm.responder import Responder
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, Session, Settings
from teeio.tdisp import flows as tdisp_flows
from teeio.tdisp.messages import LockParameters
from teeio.wire import REST, Record

T = TypeVar("T")
NOW = 1.8e9
PSK_HINT, PSK = b"TestPskHint\0", b"TestPskData\0"


# -- layouts -------------------------------------------------------------------------------------------------------------


def sample_records(random: Random, cls: type[Record], facts: Any, count: int) -> Iterator[bytes]:
    """Encode objects drawn from a layout; one that the layout's own code refuses is left out."""
    for _ in range(count):
        try:
            yield _drawn(random, cls, facts).encode(facts)
        except (Misuse, DecodeError):
            continue


class _Names(dict[str, Any]):
    def __init__(self, facts: Any, drawn: dict[str, Any]) -> None:
        super().__init__(drawn)
        self.facts = facts

    def __missing__(self, key: str) -> Any:
        return getattr(self.facts, key)


def _drawn(random: Random, cls: type[Record], facts: Any) -> Any:
    drawn: dict[str, Any] = {}
    derived = {f.name for f in cls.FIELDS if f.kind in ("length", "count", "total")}

    def value(text: int | str) -> int:
        return text if isinstance(text, int) else int(eval(text, {}, _Names(facts, drawn)))

    for f in cls.FIELDS:
        if not f.stored:
            continue
        if not f.present(facts.version) or (f.when and not value(f.when)):
            drawn[f.name] = f.default
        elif f.kind in ("int", "bits"):
            width = int(f.size) * (8 if f.kind == "int" else 1)
            top = (1 << width - f.signed) - 1
            choices = [0, 1, 2, top, random.randint(0, top), *([int(e) for e in f.enum] if f.enum else [])]
            drawn[f.name] = random.choice(choices) & top
        elif f.kind == "blob":
            free = f.size == REST or f.size in derived
            drawn[f.name] = random.randbytes(random.randint(0, 40) if free else value(f.size))
        elif f.kind == "record":
            drawn[f.name] = _drawn(random, f.item, facts)
        else:
            free = (f.count or f.size) in derived or f.size == REST
            count = random.randint(0, 3) if free else value(f.count)
            drawn[f.name] = tuple(
                random.randint(0, (1 << 8 * f.item) - 1) if isinstance(f.item, int) else _drawn(random, f.item, facts)
                for _ in range(count)
            )
    return cls(**drawn)


# -- records -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opening:
    """A record key at a sequence number, the binding and the protection it is used with."""

    schedule: KeySchedule
    binding: Binding
    encrypted: bool

    def opens(self, data: bytes) -> bool:
        """Try to open; a refusal leaves the sequence number where it was."""
        key = RecordKey(self.schedule, bytes(48))
        try:
            key.open(data, self.binding, encrypted=self.encrypted)
        except (DecodeError, AuthenticationFailed):
            # A record whose tag verifies counts, whatever lies inside it.
            return key.sequence == 1
        return True


def sealed_records() -> tuple[list[Opening], list[bytes]]:
    """Give keys and records that they open."""
    entropy = SeededEntropy(b"records")
    schedule = KeySchedule(Version.V1_2, BaseHash.SHA_384, Aead.AES_256_GCM)
    keys = [Opening(schedule, binding, mode) for binding in (DoeBinding(), MctpBinding()) for mode in (True, False)]
    seeds = [
        RecordKey(schedule, bytes(48)).seal(7, message, key.binding, entropy, encrypted=key.encrypted)
        for key in keys
        for message in (b"\x12\xe8\0\0", bytes(200))
    ]
    return keys, seeds


# -- engines that can be put back to where they were -----------------------------------------------------------------------


def forked(value: T) -> T:
    """Copy an engine with all that it may change; keys, frozen facts, settings and functions are shared.

    What several parts of it hold together, such as a list of identities, they hold together in the copy too.
    """
    return _forked(value, {})  # type: ignore[no-any-return]


def _forked(value: Any, known: dict[int, Any]) -> Any:
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, dict):
        made: Any = {}
        known[id(value)] = made
        made.update((key, _forked(item, known)) for key, item in value.items())
        return made
    if isinstance(value, list):
        known[id(value)] = made = []
        made.extend(_forked(item, known) for item in value)
        return made
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_forked(item, known) for item in value)
    if isinstance(value, bytearray):
        return bytearray(value)
    cls = type(value)
    if not cls.__module__.startswith("teeio.spdm") or isinstance(value, Enum) or _frozen(cls):
        return value
    made = copy.copy(value)
    known[id(value)] = made
    for name in _attributes(cls, made):
        if hasattr(made, name):
            object.__setattr__(made, name, _forked(getattr(made, name), known))
    return made


def _frozen(cls: type) -> bool:
    parameters = getattr(cls, "__dataclass_params__", None)
    return is_dataclass(cls) and parameters is not None and bool(parameters.frozen)


def _attributes(cls: type, value: Any) -> set[str]:
    names = set(getattr(value, "__dict__", ()))
    for base in cls.__mro__:
        slots = base.__dict__.get("__slots__", ())
        names.update((slots,) if isinstance(slots, str) else slots)
    return names - {"__weakref__", "__dict__"}


@dataclass
class Conversation:
    """A device's responder and a requester, somewhere in their life. `exchanged` are (request, response) frames so far."""

    device: Device
    requester: Requester
    responder: Responder
    exchanged: list[tuple[bytes, bytes]]
    session: Session | None = None

    def run(self, flow: Flow[Any], session: int | None = None) -> Any:
        action = self.requester.start(flow, NOW, session)
        while not isinstance(action, Done):
            assert isinstance(action, Send)
            answer = self.responder.respond(action.frame, NOW)
            assert answer is not None
            self.exchanged.append((action.frame, answer))
            action = self.requester.receive(answer, NOW)
        return action.result


def device() -> Device:
    """Make a device that speaks every version, by certificate and by pre-shared key."""
    settings = Settings(
        versions=tuple(sorted(Version, reverse=True)),
        capabilities=RESPONDER_CAPABILITIES | Capability.PSK_WITH_CONTEXT,
        heartbeat_period=0xF0,
    )
    return emulator_device(SeededEntropy(b"fuzzed device"), NOW, settings=settings)


@cache
def conversation(version: int, state: str) -> Conversation:
    """Give the one conversation at a state that is only ever forked; its device is shared by the forks."""
    return converse(version, state)


def converse(version: int, state: str) -> Conversation:
    """Bring a new connection to a new device to `state`: start, negotiated, authenticated, handshake, established or locked."""
    made = device()
    responder = made.dsm.responder(DoeBinding())
    offered = Settings(versions=(version,), capabilities=REQUESTER_CAPABILITIES | Capability.PSK)
    requester = Requester(DoeBinding(), offered, SeededEntropy(f"{version} {state}".encode()))
    c = Conversation(made, requester, responder, [])
    if state == "start":
        return c
    c.run(flows.connect(requester))
    if state == "negotiated":
        return c
    c.run(flows.get_digests())
    c.run(flows.get_certificate(requester))
    if state == "authenticated":
        return c
    if state == "handshake":
        _open_handshake(c)
        return c
    c.session = c.run(flows.key_exchange(requester, 0, SummaryType.ALL))
    session_id = c.session.session_id
    slots = [slot for direction in Direction for slot in key_slots(KeySet.K0, direction)]
    c.run(ide_flows.query(EMULATOR_PORT_INDEX), session_id)
    keys = {slot: bytes([number]) * 32 for number, slot in enumerate(slots)}
    c.run(ide_flows.program_keys(EMULATOR_PORT_INDEX, 0, keys), session_id)
    for direction in Direction:
        c.run(ide_flows.set_go(EMULATOR_PORT_INDEX, 0, KeySet.K0, direction), session_id)
    c.run(tdisp_flows.get_version(EMULATOR_FUNCTION), session_id)
    if state == "locked":
        c.run(tdisp_flows.lock_interface(EMULATOR_FUNCTION, LockParameters(mmio_reporting_offset=0)), session_id)
        c.run(tdisp_flows.get_device_interface_report(EMULATOR_FUNCTION), session_id)
    return c


def _open_handshake(c: Conversation) -> None:
    """Exchange KEY_EXCHANGE only; our side of the session is kept as it is before FINISH is sealed."""
    action = c.requester.start(flows.key_exchange(c.requester), NOW)
    assert isinstance(action, Send)
    answer = c.responder.respond(action.frame, NOW)
    assert answer is not None
    c.exchanged.append((action.frame, answer))
    c.requester.receive(answer, NOW)
    c.session = forked(next(iter(c.requester.sessions.values())))
    c.session.request_key.sequence = 0
    c.requester.cancel()
    c.requester.sessions[c.session.session_id] = c.session
