"""Ports of plain dictionaries, and a responder in front of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from teeio.ide_km.messages import KeySlot
from teeio.ide_km.responder import IdeKmResponder
from teeio.ide_km.slots import SlotState
from teeio.observe import Event


@dataclass
class PlainPort:
    """A `KeyPort` that keeps keys in a dictionary."""

    streams: set[int] = field(default_factory=lambda: {0, 7})
    keys: dict[tuple[int, KeySlot], bytes] = field(default_factory=dict)
    states: dict[tuple[int, KeySlot], SlotState] = field(default_factory=dict)
    problem: str | None = None
    kills: int = 0
    device_function: int = 0x08
    bus: int = 0x2A
    segment: int = 1

    def capability_registers(self) -> bytes:
        return bytes(range(40))

    def stream_ids(self) -> set[int]:
        return self.streams

    def slot_state(self, stream_id: int, slot: KeySlot) -> SlotState:
        return self.states.get((stream_id, slot), SlotState.EMPTY)

    def program(self, stream_id: int, slot: KeySlot, key: bytes, ifv: int) -> str | None:
        assert ifv == 1
        if self.problem is None:
            self.keys[stream_id, slot] = key
            self.states[stream_id, slot] = SlotState.PROGRAMMED
        return self.problem

    def set_go(self, stream_id: int, slot: KeySlot) -> None:
        self.states[stream_id, slot] = SlotState.ACTIVE

    def set_stop(self, stream_id: int, slot: KeySlot) -> None:
        self.keys.pop((stream_id, slot), None)
        self.states.pop((stream_id, slot), None)

    def kill_keys(self) -> None:
        self.kills += 1
        self.keys.clear()
        self.states.clear()


@dataclass
class Rig:
    """Two ports, their responder, and what was observed."""

    ports: dict[int, PlainPort]
    responder: IdeKmResponder
    seen: list[Event]


@pytest.fixture(scope="session")
def make_rig() -> Callable[..., Rig]:
    """Give the function that makes a fresh rig; its arguments are those of `IdeKmResponder`."""

    def make(**options: bool) -> Rig:
        seen: list[Event] = []
        ports = {0: PlainPort(), 1: PlainPort()}
        return Rig(ports, IdeKmResponder(ports, observer=seen.append, **options), seen)

    return make


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    """Give a fresh rig."""
    return make_rig()
