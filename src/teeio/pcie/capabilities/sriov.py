"""The SR-IOV extended capability of a physical function (PCIe Base 9.3.3): VFs exist only while VF Enable is set.

Left out: VF migration, function dependency lists, page sizes other than those declared.
"""

from __future__ import annotations

from collections.abc import Sequence

from teeio.errors import Misuse
from teeio.pcie.address import AddressRange
from teeio.pcie.capabilities.bar import Bar, bar_address, bar_registers, place_bar
from teeio.pcie.config_space import ExtendedCapability
from teeio.pcie.registers import Access, Locked, Register, bit, bits

VF_BARS_AT = 0x24
_LOCKED = Locked.ERROR


class SriovCapability(ExtendedCapability):
    """How many VFs there are, their routing IDs, and their BARs."""

    NAME = "SR-IOV Capability"
    ID = 0x0010
    CAPABILITIES = Register(
        0x04, 4, "SR-IOV Capabilities", (bit("ari_preserved", 1, Access.HWINIT, "ARI Hierarchy Preserved"),)
    )
    CONTROL = Register(
        0x08,
        2,
        "SR-IOV Control",
        (
            bit("vf_enable", 0, Access.RW, "VF Enable", locked=_LOCKED),
            bit("vf_memory_space", 3, Access.RW, "VF Memory Space Enable", locked=_LOCKED),
            bit("ari_hierarchy", 4, Access.RW, "ARI Capable Hierarchy", locked=_LOCKED),
        ),
    )
    INITIAL_VFS = Register(0x0C, 2, "InitialVFs", (bits("count", 15, 0, Access.HWINIT, "VFs at first"),))
    TOTAL_VFS = Register(0x0E, 2, "TotalVFs", (bits("count", 15, 0, Access.HWINIT, "VFs at most"),))
    NUM_VFS = Register(0x10, 2, "NumVFs", (bits("count", 15, 0, Access.RW, "VFs wanted", locked=_LOCKED),))
    FIRST_VF_OFFSET = Register(
        0x14, 2, "First VF Offset", (bits("offset", 15, 0, Access.HWINIT, "From the PF's routing ID"),)
    )
    VF_STRIDE = Register(
        0x16, 2, "VF Stride", (bits("stride", 15, 0, Access.HWINIT, "From one VF's routing ID to the next"),)
    )
    VF_DEVICE_ID = Register(0x1A, 2, "VF Device ID", (bits("id", 15, 0, Access.HWINIT, "Device ID of the VFs"),))
    SUPPORTED_PAGE_SIZES = Register(
        0x1C, 4, "Supported Page Sizes", (bits("sizes", 31, 0, Access.HWINIT, "Bit n: 4096 << n bytes", reset=0x553),)
    )
    SYSTEM_PAGE_SIZE = Register(
        0x20, 4, "System Page Size", (bits("size", 31, 0, Access.RW, "The one in use", reset=1, locked=_LOCKED),)
    )

    def __init__(
        self, total: int, vf_device_id: int, bars: Sequence[Bar] = (), *, first_offset: int = 1, stride: int = 1
    ) -> None:
        if not 0 < total <= 0xFFFF or first_offset < 1 or stride < 1:
            raise Misuse("SR-IOV needs 1 to 65535 VFs, and a first offset and a stride of at least 1")
        self.bars = tuple(bars)
        super().__init__(0x40, bar_registers(bars, VF_BARS_AT, "VF BAR"))
        self.set(self.INITIAL_VFS, count=total)
        self.set(self.TOTAL_VFS, count=total)
        self.set(self.FIRST_VF_OFFSET, offset=first_offset)
        self.set(self.VF_STRIDE, stride=stride)
        self.set(self.VF_DEVICE_ID, id=vf_device_id)
        self._enabled = 0
        self._offsets = range(0)
        self.watch(self.CONTROL, self._control)

    def _control(self, register: Register, old: int, new: int) -> None:
        if not register.get(new, "vf_enable"):
            self._enabled = 0
        elif not register.get(old, "vf_enable"):
            # NumVFs counts at the moment VF Enable is set; later writes to it have no defined effect.
            self._enabled = min(self.value(self.NUM_VFS), self.value(self.TOTAL_VFS))
        first, stride = self.value(self.FIRST_VF_OFFSET), self.value(self.VF_STRIDE)
        self._offsets = range(first, first + self._enabled * stride, stride)

    def reset(self, *, sticky_too: bool = False) -> None:
        """Give all registers their reset values: the VFs are gone."""
        super().reset(sticky_too=sticky_too)
        self._enabled = 0
        self._offsets = range(0)

    def offsets(self) -> range:
        """Give the routing ID distance from the PF to each VF that exists now."""
        return self._offsets

    def vf_bar_ranges(self, number: int) -> dict[int, AddressRange]:
        """Give the memory that each BAR of VF `number` (from 0) decodes now."""
        if number >= self._enabled or not self.get(self.CONTROL, "vf_memory_space"):
            return {}
        return self.vf_placed(number)

    def place(self, number: int, address: int) -> None:
        """Write a VF BAR's address, that of VF 0, as software does."""
        place_bar(self, VF_BARS_AT, self.bars, number, address)

    def vf_placed(self, number: int) -> dict[int, AddressRange]:
        """Give where each BAR of VF `number` (from 0) lies, whether VFs are on or off."""
        return {
            bar.number: AddressRange(bar_address(self, VF_BARS_AT, bar) + number * bar.size, bar.size)
            for bar in self.bars
        }
