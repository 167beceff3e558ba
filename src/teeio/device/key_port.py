"""A device port's IDE keys, as IDE_KM sees them: the `KeyPort` over an `IdePort` (PCIe Base 6.33.3)."""

from __future__ import annotations

from collections.abc import Callable, Set

from teeio.ide_km.messages import KeySlot
from teeio.ide_km.slots import SlotState
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.ide import IdeCapability
from teeio.pcie.ide import Direction, KeySet
from teeio.pcie.ide_key import SlotState as Held
from teeio.pcie.ide_port import IdePort, ProgramResult
from teeio.pcie.tlp import SubStream

_STATES = {Held.PROGRAMMED: SlotState.PROGRAMMED, Held.READY: SlotState.ACTIVE}
"""What IDE_KM calls the states of a slot that holds a key; in all others it holds none."""


class DeviceKeyPort:
    """One port; `function` gives the address of the function that holds the capability, as it is now."""

    def __init__(self, port: IdePort, capability: IdeCapability, function: Callable[[], Bdf]) -> None:
        self._port = port
        self._capability = capability
        self._function = function

    @property
    def device_function(self) -> int:
        """Device number in bits 7:3, function number in bits 2:0."""
        return self._function().requester_id & 0xFF

    @property
    def bus(self) -> int:
        """Bus number."""
        return self._function().bus

    @property
    def segment(self) -> int:
        """Segment number, as far as QUERY_RESP can carry it."""
        return self._function().segment & 0xFF

    def capability_registers(self) -> bytes:
        """Copy the IDE extended capability as it is now, from its Capability register on."""
        return self._capability.copied_registers()

    def stream_ids(self) -> Set[int]:
        """Give the Stream IDs that the register blocks carry."""
        return {block.field("stream_id") for block in self._capability.streams}

    def slot_state(self, stream_id: int, slot: KeySlot) -> SlotState:
        """Tell what the slot holds."""
        return _STATES.get(self._port.slot_state(stream_id, *_named(slot)), SlotState.EMPTY)

    def program(self, stream_id: int, slot: KeySlot, key: bytes, ifv: int) -> str | None:
        """Take a key; otherwise say why the port cannot."""
        result = self._port.program(stream_id, *_named(slot), key, ifv)
        return None if result is ProgramResult.OK else result.value

    def set_go(self, stream_id: int, slot: KeySlot) -> None:
        """Make the key ready."""
        self._port.set_go(stream_id, *_named(slot))

    def set_stop(self, stream_id: int, slot: KeySlot) -> None:
        """Erase the key."""
        self._port.set_stop(stream_id, *_named(slot))

    def kill_keys(self) -> None:
        """Erase all keys; Secure streams go Insecure."""
        self._port.erase_keys()


def _named(slot: KeySlot) -> tuple[KeySet, Direction, SubStream]:
    return KeySet(slot.key_set), Direction(slot.direction), SubStream(slot.sub_stream)
