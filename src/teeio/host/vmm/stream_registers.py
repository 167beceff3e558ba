"""The device's end of an IDE stream, which the VMM sets up through configuration space (PCIe Base 7.9.26).

The partner is the root port; the stream is the Default Stream, as TDISP wants it, so that it needs no address
association. A stream to another device has the other's MMIO as its association. Where the blocks lie follows from the
capability's own fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from teeio.abi.operands import NO_OPTIONS, StreamOptions
from teeio.errors import Incompatible
from teeio.host.vmm.bus import Config, PciFunction
from teeio.pcie.address import AddressRange, Bdf
from teeio.pcie.capabilities.ide import (
    ADDRESS_ASSOCIATION_1,
    ADDRESS_ASSOCIATION_2,
    ADDRESS_ASSOCIATION_3,
    ADDRESS_BLOCK_SIZE,
    FIRST_STREAM,
    LINK_SIZE,
    MEGABYTE,
    RID_ASSOCIATION_1,
    RID_ASSOCIATION_2,
    SECURE,
    SELECTIVE_CAPABILITY,
    SELECTIVE_CONTROL,
    SELECTIVE_SIZE,
    SELECTIVE_STATUS,
    IdeCapability,
)
from teeio.pcie.registers import Register


@dataclass(frozen=True, slots=True)
class DeviceStream:
    """A Selective stream of a device, its block at the offset `base` of configuration space."""

    function: PciFunction
    stream_id: int
    base: int

    @classmethod
    def free(cls, function: PciFunction, stream_id: int) -> DeviceStream:
        """Find a block that is not enabled. Raises `Incompatible`."""
        for base in selective_blocks(function.config, function.extended):
            if not function.config.get(SELECTIVE_CONTROL, "enable", base):
                return cls(function, stream_id, base)
        raise Incompatible(f"{function.address} has no free Selective IDE stream")

    def require(self, options: StreamOptions) -> None:
        """Raise `Incompatible` if the device's port does not support these options."""
        at = self.function.extended[IdeCapability.ID]
        lacking = [
            name for name in options.features if not self.function.config.get(IdeCapability.CAPABILITY, name, at)
        ]
        if lacking:
            raise Incompatible(f"the IDE port of {self.function.address} does not support {' and '.join(lacking)}")

    def associate(self, root_port: Bdf, *, traffic_class: int = 0, options: StreamOptions = NO_OPTIONS) -> None:
        """Write everything but Enable. TDISP wants traffic class 0."""
        partner = root_port.requester_id
        self._write(RID_ASSOCIATION_1, limit=partner)
        self._write(RID_ASSOCIATION_2, valid=1, base=partner, segment=root_port.segment)
        self._write(
            SELECTIVE_CONTROL, default=1, stream_id=self.stream_id, traffic_class=traffic_class, **options.control
        )

    def associate_peer(self, requesters: range, memory: AddressRange) -> None:
        """Write everything but Enable for a stream to another device: who is there, and what of its MMIO is addressed.

        Raises `Incompatible` if the block has no address association.
        """
        if not self.function.config.get(SELECTIVE_CAPABILITY, "address_blocks", self.base):
            raise Incompatible(f"IDE stream {self.index} of {self.function.address} has no address association")
        limit = memory.end - MEGABYTE
        at = self.base + SELECTIVE_SIZE
        for register, fields in (
            (ADDRESS_ASSOCIATION_2, {"limit": limit >> 32}),
            (ADDRESS_ASSOCIATION_3, {"base": memory.start >> 32}),
            (ADDRESS_ASSOCIATION_1, {"valid": 1, "base": memory.start >> 20 & 0xFFF, "limit": limit >> 20 & 0xFFF}),
        ):
            self.function.config.write(at + register.offset, register.size, register.put(0, **fields))
        self._write(RID_ASSOCIATION_1, limit=requesters.stop - 1)
        self._write(RID_ASSOCIATION_2, valid=1, base=requesters.start)
        self._write(SELECTIVE_CONTROL, stream_id=self.stream_id)

    def enable(self) -> bool:
        """Set Enable; tell whether the device says that the stream is Secure."""
        self.function.config.set(SELECTIVE_CONTROL, self.base, enable=1)
        return self.secure

    @property
    def secure(self) -> bool:
        """What the device says of the stream."""
        return self.function.config.get(SELECTIVE_STATUS, "state", self.base) == SECURE

    def disable(self) -> None:
        """Clear Enable: the device erases its keys."""
        self.function.config.set(SELECTIVE_CONTROL, self.base, enable=0)

    def clear(self) -> None:
        """Give the block its reset values."""
        self.disable()
        for register in (SELECTIVE_CONTROL, RID_ASSOCIATION_2, RID_ASSOCIATION_1):
            self._write(register)

    def clear_peer(self) -> None:
        """Give the block of a stream to another device its reset values."""
        self.clear()
        for register in (ADDRESS_ASSOCIATION_1, ADDRESS_ASSOCIATION_3, ADDRESS_ASSOCIATION_2):
            self.function.config.write(self.base + SELECTIVE_SIZE + register.offset, register.size, 0)

    @property
    def index(self) -> int:
        """Which of the device's Selective blocks it is, from 0."""
        return list(selective_blocks(self.function.config, self.function.extended)).index(self.base)

    def _write(self, register: Register, **fields: int) -> None:
        """Write a register, its other fields zero."""
        self.function.config.write(self.base + register.offset, register.size, register.put(0, **fields))


def selective_blocks(config: Config, extended: Mapping[int, int]) -> Iterator[int]:
    """Yield where the Selective blocks of a function lie. Raises `Incompatible` if it has none."""
    capability = extended.get(IdeCapability.ID)
    if capability is None:
        raise Incompatible(f"{config.function} has no IDE capability")
    says = {
        name: config.get(IdeCapability.CAPABILITY, name, capability)
        for name in ("link", "link_classes", "selective", "selective_streams")
    }
    at = capability + FIRST_STREAM + (LINK_SIZE * (says["link_classes"] + 1) if says["link"] else 0)
    for _ in range(says["selective_streams"] + 1 if says["selective"] else 0):
        yield at
        at += SELECTIVE_SIZE + ADDRESS_BLOCK_SIZE * config.get(SELECTIVE_CAPABILITY, "address_blocks", at)
