"""A function as a TVM sees it: emulated header and MSI-X table, everything else passed on (as VFIO and QEMU do it).

Emulated are the BARs (guest addresses), the Command register, the IDs of a VF, and the MSI-X table: the guest's messages
stay here, the device is given the host's. Bus Master Enable of the device stays set, so that a guest cannot move its own
locked interface to ERROR by clearing it; the guest's opens and closes the IOMMU, and lets interrupts through. Device Control,
SR-IOV, DOE and IDE are the host's; writes to them are dropped.
"""

from __future__ import annotations

from collections.abc import Callable

from teeio.abi.operands import MESSAGE_ADDRESS
from teeio.host.root_complex import DEVICE_MEMORY, Interrupt
from teeio.host.vmm.bus import HostBar, PciFunction
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.bar import Bar
from teeio.pcie.capabilities.header import CommonHeader, Type0Header
from teeio.pcie.capabilities.msix import ENTRY_SIZE, MsixCapability, MsixTable
from teeio.pcie.config_space import FIRST_CAPABILITY, FIRST_EXTENDED, SPACE_SIZE, all_ones

GUEST_DEVICE_MEMORY = 1 << 38
"""Where guests find what lies at the start of the host's device memory; the distance is the same for all BARs."""

_VECTOR_CONTROL = MsixTable.ENTRY[-1].offset
"""The part of a vector's entry that is written last, and passed on: its mask. The rest of what the guest writes is its own."""


def guest_address(bar: HostBar) -> int:
    """Give the guest address of a BAR: shifted above 4 GiB, as it is below."""
    return bar.address + guest_shift(bar)


def guest_shift(bar: HostBar) -> int:
    """Give how far the guest's address of a BAR is from the host's."""
    return GUEST_DEVICE_MEMORY - DEVICE_MEMORY.start if bar.address >= DEVICE_MEMORY.start else 0


class GuestFunction:
    """One function in a guest's PCI tree, at `address` there.

    `deliver` gets the vectors that the guest chose, `on_bus_master` the guest's Bus Master Enable when it changes.
    """

    def __init__(
        self,
        function: PciFunction,
        address: Bdf,
        deliver: Callable[[int], None],
        on_bus_master: Callable[[bool], None],
    ) -> None:
        self.function = function
        self.address = address
        self._deliver = deliver
        self._on_bus_master = on_bus_master
        self._header = self._make_header()
        self._msix = function.capabilities.get(MsixCapability.ID)
        self._table = MsixTable(self._msix_field("table_size") + 1 if self._msix is not None else 0)
        self._table_bar, self._table_offset = self._msix_place()

    def _make_header(self) -> Type0Header:
        function = self.function
        header = Type0Header(
            function.vendor_id,
            function.device_id,
            function.class_code,
            [Bar(bar.number, bar.size, bar.wide) for bar in function.bars.values()],
        )
        for bar in function.bars.values():
            header.place(bar.number, guest_address(bar))
        pointer = function.config.read(CommonHeader.CAPABILITIES_POINTER.offset, 1)
        header.link(pointer)
        return header

    # -- configuration space

    def config_read(self, offset: int, size: int) -> int:
        """Read what the guest sees."""
        if size not in (1, 2, 4) or offset % size or not 0 <= offset < SPACE_SIZE:
            return all_ones(size)
        return self._header.read(offset, size) if offset < FIRST_CAPABILITY else self.function.config.read(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write what the guest may."""
        if size not in (1, 2, 4) or offset % size or not 0 <= offset < SPACE_SIZE:
            return
        if offset < FIRST_CAPABILITY:
            before = self._header.bus_master
            self._header.write(offset, size, value)
            if self._header.bus_master is not before:
                self._on_bus_master(self._header.bus_master)
        elif self._msix is not None and self._msix <= offset < min(self._msix + 12, FIRST_EXTENDED):
            self.function.config.write(offset, size, value)

    # -- BARs

    def find_bar(self, gpa: int, size: int) -> tuple[HostBar, int] | None:
        """Find the BAR that holds these guest addresses, and the offset in it."""
        for bar in self.function.bars.values():
            start = guest_address(bar)
            if start <= gpa and gpa + size <= start + bar.size:
                return bar, gpa - start
        return None

    def holds_msix(self, bar: HostBar) -> bool:
        """Tell whether the MSI-X table lies in a BAR; its accesses are emulated."""
        return self._msix is not None and self._table_bar == bar.number

    def msix_read(self, offset: int, size: int) -> bytes:
        """Read the BAR of the MSI-X table: the guest's entries; the rest is not shown."""
        at = offset - self._table_offset
        return self._table.read(max(at, 0), size).to_bytes(size, "little") if at >= 0 else bytes(size)

    def msix_write(self, offset: int, data: bytes) -> None:
        """Write the BAR of the MSI-X table: keep the guest's message, give the device the host's with the guest's mask."""
        at = offset - self._table_offset
        if not 0 <= at < self._table.size:
            return
        self._table.write(at, len(data), int.from_bytes(data, "little"))
        table = self.function.bars[self._table_bar].address + self._table_offset
        for vector in range(at // ENTRY_SIZE, (at + len(data) - 1) // ENTRY_SIZE + 1):
            if vector < self._table.vectors and at <= ENTRY_SIZE * vector + _VECTOR_CONTROL < at + len(data):
                # The data of the device's messages is the number of the vector.
                entry = MESSAGE_ADDRESS | vector << 64 | int(self._table.masked(vector)) << 96
                self._write_device(table + ENTRY_SIZE * vector, entry.to_bytes(ENTRY_SIZE, "little"))

    def _write_device(self, address: int, entry: bytes) -> None:
        for at in range(0, ENTRY_SIZE, 4):
            self.function.config.bus.mmio_write(address + at, entry[at : at + 4])

    def interrupt(self, interrupt: Interrupt) -> None:
        """Take an interrupt of the device to the guest's vector; it is a memory write, so Bus Master Enable rules it."""
        heard = self._header.bus_master and interrupt.data < self._table.vectors
        if heard and not self._table.masked(interrupt.data):
            self._deliver(self._table.message(interrupt.data).data & 0xFF)

    def _msix_place(self) -> tuple[int, int]:
        """Read BAR number and offset of the MSI-X table: once, as a device that has gone says all ones."""
        value = self.function.config.read((self._msix or 0) + MsixCapability.TABLE.offset, 4)
        return MsixCapability.TABLE.get(value, "bir"), 8 * MsixCapability.TABLE.get(value, "offset")

    def _msix_field(self, name: str) -> int:
        return self.function.config.get(MsixCapability.CONTROL, name, self._msix or 0)
