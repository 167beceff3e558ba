"""The state table of key slots: what each request does to a slot in each state, and what the port behind it must offer.

A slot is one key of a stream at a port: key set, direction and sub-stream (PCIe Base 6.33.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Protocol

from teeio.ide_km.messages import KeySlot, ObjectId


class SlotState(Enum):
    """What a key slot holds."""

    EMPTY = "no key"
    PROGRAMMED = "a key that waits for K_SET_GO"
    ACTIVE = "a key ready for use, or in use"


@dataclass(frozen=True, slots=True)
class SlotRule:
    """One request to a slot in one state: the state after it, or None if it is refused; `why` says the rule."""

    next_state: SlotState | None
    why: str


_EMPTY, _PROGRAMMED, _ACTIVE = SlotState.EMPTY, SlotState.PROGRAMMED, SlotState.ACTIVE

SLOT_RULES: Mapping[tuple[ObjectId, SlotState], SlotRule] = MappingProxyType(
    {
        (ObjectId.KEY_PROG, _EMPTY): SlotRule(_PROGRAMMED, "a key is programmed"),
        (ObjectId.KEY_PROG, _PROGRAMMED): SlotRule(_PROGRAMMED, "a key that is not in use may be replaced"),
        # UNCONFIRMED: that a key in use may not be overwritten; a refresh programs the idle set.
        (ObjectId.KEY_PROG, _ACTIVE): SlotRule(None, "a key in use may not be overwritten: program the other key set"),
        (ObjectId.K_SET_GO, _EMPTY): SlotRule(None, "there is no key to make ready"),
        (ObjectId.K_SET_GO, _PROGRAMMED): SlotRule(_ACTIVE, "the key becomes ready"),
        (ObjectId.K_SET_GO, _ACTIVE): SlotRule(_ACTIVE, "the key is ready already"),
        # UNCONFIRMED: that stopping an empty slot is acknowledged; erasing nothing leaves what was asked for.
        (ObjectId.K_SET_STOP, _EMPTY): SlotRule(_EMPTY, "there is no key left to erase"),
        (ObjectId.K_SET_STOP, _PROGRAMMED): SlotRule(_EMPTY, "the key is erased"),
        (ObjectId.K_SET_STOP, _ACTIVE): SlotRule(_EMPTY, "the key is erased"),
    }
)
"""The rule for each request and state."""


class KeyPort(Protocol):
    """One port's IDE keys. None of these calls may raise; keys are 32 bytes in AES byte order."""

    @property
    def device_function(self) -> int:
        """Device number in bits 7:3, function number in bits 2:0."""

    @property
    def bus(self) -> int:
        """Bus number."""

    @property
    def segment(self) -> int:
        """Segment number."""

    def capability_registers(self) -> bytes:
        """Copy the IDE extended capability as it is now, from its Capability register (+0x04) on."""

    def stream_ids(self) -> Set[int]:
        """Give the Stream IDs that the port's register blocks carry."""

    def slot_state(self, stream_id: int, slot: KeySlot) -> SlotState:
        """Tell what the slot holds; a key that a toggle of the K bit or the Insecure state erased is gone."""

    def program(self, stream_id: int, slot: KeySlot, key: bytes, ifv: int) -> str | None:
        """Take a key; or say why the port cannot, for instance because it had this key before."""

    def set_go(self, stream_id: int, slot: KeySlot) -> None:
        """Make the key ready within 10 ms."""

    def set_stop(self, stream_id: int, slot: KeySlot) -> None:
        """Erase the key within 10 ms."""

    def kill_keys(self) -> None:
        """Erase all keys of all streams that were programmed by IDE_KM; Secure streams go Insecure."""
