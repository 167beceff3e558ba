"""The device's end of an IDE stream, which the VMM sets up through configuration space (PCIe Base 7.9.26).

The partner is the root port; the stream is the Default Stream, as TDISP wants it, so that it needs no address
association. The layout of the blocks follows from the capability's own fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from teeio.errors import Incompatible
from teeio.host.vmm.bus import PciFunction
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.ide import (
    RID_ASSOCIATION_1,
    RID_ASSOCIATION_2,
    SECURE,
    SELECTIVE_CAPABILITY,
    SELECTIVE_CONTROL,
    SELECTIVE_STATUS,
    IdeCapability,
)

FIRST_BLOCK = 0x0C
LINK_BLOCK = 8
CONTROL, STATUS, RID_1, RID_2, ADDRESSES = 0x04, 0x08, 0x0C, 0x10, 0x14
"""Places in a Selective block."""
ADDRESS_BLOCK = 12


@dataclass(frozen=True, slots=True)
class DeviceStream:
    """A Selective stream of a device, its block at the offset `base` of configuration space."""

    function: PciFunction
    stream_id: int
    base: int

    @classmethod
    def free(cls, function: PciFunction, stream_id: int) -> DeviceStream:
        """Find a block that is not enabled. Raises `Incompatible`."""
        for base in _selective_blocks(function):
            if not function.config.get(SELECTIVE_CONTROL, "enable", base + CONTROL):
                return cls(function, stream_id, base)
        raise Incompatible(f"{function.address} has no free Selective IDE stream")

    def associate(self, root_port: Bdf) -> None:
        """Write everything but Enable."""
        config, partner = self.function.config, root_port.requester_id
        config.write(self.base + RID_1, 4, RID_ASSOCIATION_1.put(0, limit=partner))
        config.write(self.base + RID_2, 4, RID_ASSOCIATION_2.put(0, valid=1, base=partner, segment=root_port.segment))
        config.write(self.base + CONTROL, 4, SELECTIVE_CONTROL.put(0, default=1, stream_id=self.stream_id))

    def enable(self) -> bool:
        """Set Enable; tell whether the device says that the stream is Secure."""
        self.function.config.set(SELECTIVE_CONTROL, self.base + CONTROL, enable=1)
        return self.secure

    @property
    def secure(self) -> bool:
        """What the device says of the stream."""
        # The status register declares its own place in a block; here it is read on its own.
        value = self.function.config.read(self.base + STATUS, 4)
        return SELECTIVE_STATUS.get(value, "state") == SECURE

    def disable(self) -> None:
        """Clear Enable: the device erases its keys."""
        self.function.config.set(SELECTIVE_CONTROL, self.base + CONTROL, enable=0)

    def clear(self) -> None:
        """Give the block its reset values."""
        self.disable()
        for place in (CONTROL, RID_2, RID_1):
            self.function.config.write(self.base + place, 4, 0)


def _selective_blocks(function: PciFunction) -> Iterator[int]:
    """Yield where the Selective blocks of a function lie. Raises `Incompatible` if it has none."""
    capability = function.extended.get(IdeCapability.ID)
    if capability is None:
        raise Incompatible(f"{function.address} has no IDE capability")
    config = function.config
    says = {
        name: config.get(IdeCapability.CAPABILITY, name, capability)
        for name in ("link", "link_classes", "selective", "selective_streams")
    }
    at = capability + FIRST_BLOCK + (LINK_BLOCK * (says["link_classes"] + 1) if says["link"] else 0)
    for _ in range(says["selective_streams"] + 1 if says["selective"] else 0):
        yield at
        at += ADDRESSES + ADDRESS_BLOCK * config.get(SELECTIVE_CAPABILITY, "address_blocks", at)
