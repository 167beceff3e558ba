"""A root port's IDE stream registers and key slots, as the TSM alone uses them.

It stands for the key configuration unit of a host (Intel: KEYP table and KCBAR) together with the IDE registers of the
root port. Directions and key sets are those of IDE_KM, as this port sees them: what the device receives with, the root
port transmits with.
"""

from __future__ import annotations

from teeio.abi.operands import NO_OPTIONS, StreamOptions
from teeio.ide_km.messages import Direction, KeySet, KeySlot, key_slots
from teeio.pcie import ide as pcie_ide
from teeio.pcie.address import AddressRange, Bdf
from teeio.pcie.capabilities.ide import MEGABYTE, IdeCapability, StreamBlock
from teeio.pcie.ide_key import FIRST_INVOCATION
from teeio.pcie.ide_port import ProgramResult
from teeio.pcie.ports import RootPort
from teeio.pcie.registers import Register
from teeio.pcie.tlp import SubStream


def partner_slot(slot: KeySlot) -> KeySlot:
    """Give the slot at the other end of the link that holds the same key."""
    return slot._replace(direction=Direction(1 - slot.direction))


class KeyUnit:
    """The streams of one root port; `iommu_id` names the IOMMU that its requests from below go through."""

    def __init__(self, port: RootPort, iommu_id: int) -> None:
        self.iommu_id = iommu_id
        self._port = port
        self._claimed: dict[int, StreamBlock] = {}

    @property
    def function(self) -> Bdf:
        """The root port."""
        return self._port.function

    @property
    def streams(self) -> tuple[int, ...]:
        """The Stream IDs in use."""
        return tuple(self._claimed)

    def has(self, stream_id: int) -> bool:
        """Tell whether the stream was set up here: all of these are Selective, and nobody but the TSM has their keys."""
        return stream_id in self._claimed

    def holds(self, offset: int, size: int) -> bool:
        """Tell whether a configuration access touches the IDE registers."""
        capability = self._port.ide.capability
        return capability is not None and offset < capability.base + capability.size and capability.base < offset + size

    def lacks(self, options: StreamOptions) -> list[str]:
        """List what the root port does not support of what these options need."""
        capability = self._port.ide.capability
        if capability is None:
            return options.features
        return [name for name in options.features if not capability.get(IdeCapability.CAPABILITY, name)]

    def claim(
        self, stream_id: int, requesters: range, memory: AddressRange, options: StreamOptions = NO_OPTIONS
    ) -> bool:
        """Write a free block's registers, not enabled; False if none is free or the Stream ID is in use."""
        capability = self._port.ide.capability
        used = [block.index for block in self._claimed.values()]
        free = [b for b in capability.streams if b.addresses and b.index not in used] if capability else []
        if stream_id in self._claimed or not free:
            return False
        block = free[0]
        first, second, third = block.addresses[0]
        limit = memory.end - MEGABYTE
        if block.rid is not None:  # every Selective block has one
            _write(block, block.rid[0], limit=requesters.stop - 1)
            _write(block, block.rid[1], valid=1, base=requesters.start, segment=self.function.segment)
        _write(block, second, limit=limit >> 32)
        _write(block, third, base=memory.start >> 32)
        _write(block, first, valid=1, base=memory.start >> 20 & 0xFFF, limit=limit >> 20 & 0xFFF)
        _write(block, block.control, stream_id=stream_id, **options.control)
        self._claimed[stream_id] = block
        return True

    def program(self, stream_id: int, slot: KeySlot, key: bytes) -> str | None:
        """Install a key; or say why it cannot be."""
        if stream_id not in self._claimed:
            return ProgramResult.UNKNOWN_STREAM.value
        result = self._port.ide.program(stream_id, *_named(slot), key, FIRST_INVOCATION)
        return None if result is ProgramResult.OK else result.value

    def set_go(self, stream_id: int, key_set: KeySet, direction: Direction) -> bool:
        """Let the keys of all sub-streams be used; False if one is missing."""
        return all(self._port.ide.set_go(stream_id, *_named(slot)) for slot in key_slots(key_set, direction))

    def set_stop(self, stream_id: int, key_set: KeySet) -> None:
        """Erase the keys of a set, both directions."""
        for direction in Direction:
            for slot in key_slots(key_set, direction):
                self._port.ide.set_stop(stream_id, *_named(slot))

    def enable(self, stream_id: int) -> bool:
        """Enable the stream; tell whether it is Secure now."""
        block = self._claimed[stream_id]
        _write(block, block.control, enable=1)
        return self.is_secure(stream_id)

    def disable(self, stream_id: int) -> None:
        """Clear Enable: all keys are gone."""
        block = self._claimed[stream_id]
        _write(block, block.control, enable=0)

    def block(self, stream_id: int) -> None:
        """Let nothing pass any more: Insecure, which the device is told, then not enabled."""
        self._port.ide.make_insecure(stream_id)
        self.disable(stream_id)

    def is_secure(self, stream_id: int) -> bool:
        """Tell whether the stream is Secure."""
        return stream_id in self._claimed and self._port.ide.is_secure(stream_id)

    def release(self, stream_id: int) -> None:
        """Clear a stream's registers, so that the block is free again."""
        block = self._claimed.pop(stream_id)
        for register in reversed(block.registers()):
            block.block.write(register.offset, register.size, 0)


def _named(slot: KeySlot) -> tuple[pcie_ide.KeySet, pcie_ide.Direction, SubStream]:
    return pcie_ide.KeySet(slot.key_set), pcie_ide.Direction(slot.direction), SubStream(slot.sub_stream)


def _write(block: StreamBlock, register: Register, **fields: int) -> None:
    """Write fields as software does, so that the port takes notice."""
    value = register.put(block.block.value(register), **fields)
    block.block.write(register.offset, register.size, value)
