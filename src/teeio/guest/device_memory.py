"""Buffers that lie in device memory: of the driver's own device, or of a peer to which it has direct access.

A driver gives buffers by guest address. Where that lies says how the device gets there: in its own memory by offset, in a
peer's by translated address, everywhere else by DMA, which is the back end's (`dma`). Nothing in device memory is copied
or sealed: it is private where the interface is accepted.
"""

from __future__ import annotations

from teeio.accelerator_interface import MEMORY_OFFSET, MEMORY_SIZE, REGISTER_BAR, DescriptorFlags
from teeio.guest.dma import DmaInterface, Label, Mapping, Place, ProtectedSession
from teeio.guest.pci import PciFunction
from teeio.guest.tvm import MemoryRegion
from teeio.pcie.address import AddressRange

_SOURCE = {
    Place.MEMORY: DescriptorFlags.NONE,
    Place.OWN_DEVICE: DescriptorFlags.LOCAL_SOURCE,
    Place.PEER_DEVICE: DescriptorFlags.TRANSLATED_SOURCE,
}
_DESTINATION = {
    Place.MEMORY: DescriptorFlags.NONE,
    Place.OWN_DEVICE: DescriptorFlags.LOCAL_DESTINATION,
    Place.PEER_DEVICE: DescriptorFlags.TRANSLATED_DESTINATION,
}


def reached(source: Place, destination: Place) -> DescriptorFlags:
    """Give the flags that tell the accelerator how it reaches both."""
    return _SOURCE[source] | _DESTINATION[destination]


def device_memory(function: PciFunction) -> AddressRange:
    """Give where the TVM has the device memory of an accelerator."""
    return AddressRange(function.need_bar(REGISTER_BAR, MEMORY_OFFSET + MEMORY_SIZE).gpa + MEMORY_OFFSET, MEMORY_SIZE)


class DeviceMemoryDma:
    """A back end that knows of device memory: `own`, and what `peers` have; all else is `inner`'s."""

    def __init__(self, inner: DmaInterface, own: AddressRange) -> None:
        self.peers: list[AddressRange] = []
        self._inner = inner
        self._own = own

    @property
    def trusted(self) -> bool:
        """Whether the device reaches private memory."""
        return self._inner.trusted

    @property
    def session(self) -> ProtectedSession | None:
        """The session under which payload is sealed, if it is."""
        return self._inner.session

    @property
    def max_segment(self) -> int:
        """Bytes of payload that one mapping can hold."""
        return self._inner.max_segment

    def allocate(self, size: int, now: float) -> MemoryRegion:
        """Take memory that both sides use all the time."""
        return self._inner.allocate(size, now)

    def free(self, region: MemoryRegion, now: float) -> None:
        """Give such memory back."""
        self._inner.free(region, now)

    def expect(self, gpa: int, size: int) -> None:
        """Raises `Misuse` unless these bytes lie in device memory, or where the back end maps."""
        if self._place(gpa, size) is Place.MEMORY:
            self._inner.expect(gpa, size)

    def to_device(self, gpa: int, size: int, label: Label) -> Mapping:
        """Map a source."""
        return self._in_device(gpa, size, label) or self._inner.to_device(gpa, size, label)

    def from_device(self, gpa: int, size: int, label: Label) -> Mapping:
        """Map a destination."""
        return self._in_device(gpa, size, label) or self._inner.from_device(gpa, size, label)

    def finish(self, mapping: Mapping) -> None:
        """Put what the device wrote to memory into private memory, and unmap."""
        if mapping.place is Place.MEMORY:
            self._inner.finish(mapping)

    def release(self, mapping: Mapping) -> None:
        """Unmap without looking at the data."""
        if mapping.place is Place.MEMORY:
            self._inner.release(mapping)

    def close(self, now: float) -> None:
        """Give back everything."""
        self._inner.close(now)

    def _in_device(self, gpa: int, size: int, label: Label) -> Mapping | None:
        place = self._place(gpa, size)
        if place is Place.MEMORY:
            return None
        return Mapping(gpa - self._own.start if place is Place.OWN_DEVICE else gpa, size, gpa, label, place)

    def _place(self, gpa: int, size: int) -> Place:
        if size > 0 and self._own.holds(gpa, size):
            return Place.OWN_DEVICE
        if size > 0 and any(peer.holds(gpa, size) for peer in self.peers):
            return Place.PEER_DEVICE
        return Place.MEMORY
