"""What the receiver of an IDE stream keeps for one sub-stream: its key, a unit under way, a count (PCIe Base 6.33)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from teeio.pcie.ide_frame import Shape
from teeio.pcie.ide_key import INVOCATIONS, PCRC_SIZE, IdeCheckFailed, KeySlot, SlotState, StaleKey

MAX_UNIT = 8
MAX_UNIT_PAYLOAD = 4 * 256

_OVERTAKEN = "a TLP overtook Posted TLPs, or they are lost"

Part: TypeAlias = tuple[Shape, bytes, bytes]
"""A received TLP before its MAC is checked: shape, part of A, ciphertext."""


class Inbound:
    """The receiving side of one sub-stream.

    `slot` is that of the key set in use, `pending` the TLPs of a unit whose MAC has not come, `relied` the number of Posted
    TLPs that this sub-stream's TLPs, and Syncs, have said were sent before them, `escorts` that of IDE Escorts whose TLP has not come.
    """

    __slots__ = ("_slots", "escorts", "key_set", "pending", "relied", "slot")

    def __init__(self, slots: Sequence[KeySlot]) -> None:
        self._slots = slots
        self.clear()

    def clear(self, key_set: int | None = None) -> None:
        """Begin anew, under `key_set`, or None if the first TLP shall say."""
        self.key_set = key_set
        self.slot = self._slots[key_set or 0]
        self.pending: list[Part] = []
        self.relied = 0
        self.escorts = 0

    def follow(self, key_set: int) -> None:
        """Accept a change of the K bit: only on the first TLP of a unit, to a ready set (PCIe Base 6.33.3)."""
        slot = self._slots[key_set]
        if slot.state is SlotState.RETIRED:
            raise StaleKey("the TLP uses a key set that its sub-stream has left", "PCIe Base 6.33.3")
        if self.pending:
            raise IdeCheckFailed("K changed inside a unit", "PCIe Base 6.33.6")
        if slot.state is not SlotState.READY:
            raise IdeCheckFailed(f"K names a key set that is {slot.state.value}", "PCIe Base 6.33.3")
        if self.key_set is not None:
            self.slot.erase(SlotState.RETIRED)
        self.key_set, self.slot = key_set, slot

    def rely(self, carried: int, posted: int, otherwise: str = _OVERTAKEN) -> None:
        """Check that `carried` more of the Posted TLPs sent are among the `posted` that came (PCIe Base 6.33.7).

        PR_Received_Counter is `posted` less `relied`. Raises `IdeCheckFailed`.
        """
        if posted - self.relied >= INVOCATIONS:
            raise IdeCheckFailed("a PR_Received_Counter overflows", "PCIe Base 6.33.7")
        self.relied += carried
        if self.relied > posted:
            raise IdeCheckFailed(otherwise, "PCIe Base 6.33.7")

    def claim_escort(self) -> None:
        """Take one of the IDE Escorts that came, for a TLP that went right after it. Raises `IdeCheckFailed`."""
        if not self.escorts:
            raise IdeCheckFailed("a TLP came without its IDE Escort", "IDE TLP Reordering Enhancement")
        self.escorts -= 1

    def gather(self, part: Part) -> list[Part]:
        """Take a TLP of a unit; give all of them when the last has come (PCIe Base 6.33.6)."""
        unit = [*self.pending, part]
        if part[0].last:
            self.pending = []
            if len(unit) > 1 and sum(len(ciphertext) for _, _, ciphertext in unit) > MAX_UNIT_PAYLOAD + PCRC_SIZE:
                raise IdeCheckFailed("a unit carries more than 256 DW", "PCIe Base 6.33.6")
            return unit
        if len(unit) >= MAX_UNIT:
            raise IdeCheckFailed(f"{MAX_UNIT} TLPs without a MAC", "PCIe Base 6.33.6")
        self.pending = unit
        return []
