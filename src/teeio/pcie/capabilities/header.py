"""The configuration space headers: type 0 of an endpoint or VF, type 1 of a root port (PCIe Base 7.5.1, 9.3.4).

Left out: I/O space and windows, expansion ROM, BIST.
"""

from __future__ import annotations

from collections.abc import Sequence

from teeio.pcie.address import AddressRange
from teeio.pcie.capabilities.bar import Bar, bar_address, bar_registers, place_bar
from teeio.pcie.config_space import FIRST_CAPABILITY, Header
from teeio.pcie.registers import Access, Locked, Register, bit, bits

BARS_AT = 0x10
ABSENT_ID = 0xFFFF
"""Vendor and device ID that a VF shows in its own header (PCIe Base 9.3.4.1.1)."""


class CommonHeader(Header):
    """What both header types have."""

    VENDOR_ID = Register(0x00, 2, "Vendor ID", (bits("id", 15, 0, Access.HWINIT, "Vendor"),))
    DEVICE_ID = Register(0x02, 2, "Device ID", (bits("id", 15, 0, Access.HWINIT, "Device"),))
    COMMAND = Register(
        0x04,
        2,
        "Command",
        (
            bit("memory_space", 1, Access.RW, "Decode memory addresses", locked=Locked.ERROR_ON_CLEAR),
            bit("bus_master", 2, Access.RW, "Issue memory requests", locked=Locked.ERROR_ON_CLEAR),
            bit("parity_error_response", 6, Access.RW, "Report poisoned TLPs"),
            bit("serr", 8, Access.RW, "Report errors to the root complex"),
            bit("interrupt_disable", 10, Access.RW, "No INTx"),
        ),
    )
    STATUS = Register(
        0x06,
        2,
        "Status",
        (
            bit("interrupt", 3, Access.RO, "INTx is pending"),
            bit("capabilities", 4, Access.RO, "There is a capability list", reset=1),
            bit("master_data_parity_error", 8, Access.RW1C, "A poisoned completion came, or a poisoned write went"),
            bit("signaled_target_abort", 11, Access.RW1C, "Completed with Completer Abort"),
            bit("received_target_abort", 12, Access.RW1C, "A request was answered with Completer Abort"),
            bit("received_master_abort", 13, Access.RW1C, "A request was answered with Unsupported Request"),
            bit("signaled_system_error", 14, Access.RW1C, "Sent an error message"),
            bit("detected_parity_error", 15, Access.RW1C, "Received a poisoned TLP"),
        ),
    )
    CLASS_CODE = Register(
        0x08,
        4,
        "Revision and Class Code",
        (
            bits("revision", 7, 0, Access.HWINIT, "Revision"),
            bits("class_code", 31, 8, Access.HWINIT, "Class, subclass, interface"),
        ),
    )
    CACHE_LINE_SIZE = Register(0x0C, 1, "Cache Line Size", (bits("size", 7, 0, Access.RW, "No effect on PCIe"),))
    HEADER_TYPE = Register(
        0x0E,
        1,
        "Header Type",
        (
            bits("layout", 6, 0, Access.HWINIT, "0: endpoint, 1: bridge"),
            bit("multi_function", 7, Access.HWINIT, "The device has more functions"),
        ),
    )
    CAPABILITIES_POINTER = Register(
        0x34, 1, "Capabilities Pointer", (bits("first", 7, 0, Access.RO, "First capability"),)
    )
    INTERRUPT_LINE = Register(0x3C, 1, "Interrupt Line", (bits("line", 7, 0, Access.RW, "For software"),))

    def __init__(
        self, vendor_id: int, device_id: int, class_code: int, revision: int, bars: Sequence[Bar], layout: int
    ) -> None:
        self.bars = tuple(bars)
        super().__init__(FIRST_CAPABILITY, bar_registers(bars, BARS_AT, "BAR"))
        self.set(self.VENDOR_ID, id=vendor_id)
        self.set(self.DEVICE_ID, id=device_id)
        self.set(self.CLASS_CODE, class_code=class_code, revision=revision)
        self.set(self.HEADER_TYPE, layout=layout)

    def link(self, first: int) -> None:
        """Point to the first capability."""
        self.set(self.CAPABILITIES_POINTER, first=first)
        self.set(self.STATUS, capabilities=int(first != 0))

    def bar_ranges(self) -> dict[int, AddressRange]:
        """Give the memory that each BAR decodes now, by BAR number; nothing while memory decoding is off."""
        if not self.get(self.COMMAND, "memory_space"):
            return {}
        return self.placed()

    def placed(self) -> dict[int, AddressRange]:
        """Give where each BAR lies, by BAR number, whether memory decoding is on or off."""
        return {bar.number: AddressRange(bar_address(self, BARS_AT, bar), bar.size) for bar in self.bars}

    def place(self, number: int, address: int) -> None:
        """Write a BAR's address as software does; the low bits that its size leaves read-only are dropped."""
        place_bar(self, BARS_AT, self.bars, number, address)

    @property
    def bus_master(self) -> bool:
        """Whether the function may issue memory requests."""
        return bool(self.get(self.COMMAND, "bus_master"))


class Type0Header(CommonHeader):
    """The header of an endpoint function."""

    NAME = "Type 0 Header"
    SUBSYSTEM_VENDOR_ID = Register(0x2C, 2, "Subsystem Vendor ID", (bits("id", 15, 0, Access.HWINIT, "Board vendor"),))
    SUBSYSTEM_ID = Register(0x2E, 2, "Subsystem ID", (bits("id", 15, 0, Access.HWINIT, "Board"),))

    def __init__(
        self,
        vendor_id: int,
        device_id: int,
        class_code: int,
        bars: Sequence[Bar] = (),
        *,
        revision: int = 0,
        subsystem_vendor_id: int = 0,
        subsystem_id: int = 0,
        multi_function: bool = False,
    ) -> None:
        super().__init__(vendor_id, device_id, class_code, revision, bars, layout=0)
        self.set(self.SUBSYSTEM_VENDOR_ID, id=subsystem_vendor_id)
        self.set(self.SUBSYSTEM_ID, id=subsystem_id)
        self.set(self.HEADER_TYPE, multi_function=int(multi_function))


class VirtualFunctionHeader(Type0Header):
    """The header of a VF: its IDs read as all ones; its BARs and Memory Space Enable are in the SR-IOV capability."""

    NAME = "VF Header"
    COMMAND = Register(
        0x04, 2, "Command", (bit("bus_master", 2, Access.RW, "Issue memory requests", locked=Locked.ERROR_ON_CLEAR),)
    )

    def __init__(
        self, class_code: int, *, revision: int = 0, subsystem_vendor_id: int = 0, subsystem_id: int = 0
    ) -> None:
        super().__init__(
            ABSENT_ID,
            ABSENT_ID,
            class_code,
            revision=revision,
            subsystem_vendor_id=subsystem_vendor_id,
            subsystem_id=subsystem_id,
        )

    def bar_ranges(self) -> dict[int, AddressRange]:
        """A VF header decodes nothing."""
        return {}


class Type1Header(CommonHeader):
    """The header of a root port: the buses and the memory behind it."""

    NAME = "Type 1 Header"
    BUSES = Register(
        0x18,
        4,
        "Bus Numbers",
        (
            bits("primary", 7, 0, Access.RW, "Bus above"),
            bits("secondary", 15, 8, Access.RW, "Bus below"),
            bits("subordinate", 23, 16, Access.RW, "Last bus below"),
        ),
    )
    MEMORY = Register(
        0x20,
        4,
        "Memory Base and Limit",
        (
            bits("base", 15, 4, Access.RW, "Address bits 31:20", reset=0xFFF),
            bits("limit", 31, 20, Access.RW, "Address bits 31:20"),
        ),
    )
    PREFETCHABLE = Register(
        0x24,
        4,
        "Prefetchable Memory Base and Limit",
        (
            bits("base_type", 3, 0, Access.RO, "1: 64 bit", reset=1),
            bits("base", 15, 4, Access.RW, "Address bits 31:20", reset=0xFFF),
            bits("limit_type", 19, 16, Access.RO, "1: 64 bit", reset=1),
            bits("limit", 31, 20, Access.RW, "Address bits 31:20"),
        ),
    )
    PREFETCHABLE_BASE = Register(
        0x28, 4, "Prefetchable Base Upper", (bits("high", 31, 0, Access.RW, "Address bits 63:32"),)
    )
    PREFETCHABLE_LIMIT = Register(
        0x2C, 4, "Prefetchable Limit Upper", (bits("high", 31, 0, Access.RW, "Address bits 63:32"),)
    )

    def __init__(self, vendor_id: int, device_id: int, *, revision: int = 0) -> None:
        super().__init__(vendor_id, device_id, 0x060400, revision, (), layout=1)
        self._windows: tuple[int, Sequence[AddressRange]] = self.stores, self._find_windows()

    def forwards_bus(self, bus: int) -> bool:
        """Tell whether a configuration request for `bus` goes below this port."""
        return 0 < self.secondary <= bus <= self.subordinate

    def _store(self, register: Register, value: int) -> None:
        super()._store(register, value)
        if register is self.BUSES:  # asked for every configuration request
            self.secondary, self.subordinate = register.get(value, "secondary"), register.get(value, "subordinate")

    def windows(self) -> Sequence[AddressRange]:
        """Give the memory that goes below this port now; nothing while memory decoding is off."""
        if self._windows[0] != self.stores:
            self._windows = self.stores, self._find_windows()
        return self._windows[1]

    def _find_windows(self) -> list[AddressRange]:
        if not self.get(self.COMMAND, "memory_space"):
            return []
        high_base, high_limit = self.value(self.PREFETCHABLE_BASE) << 32, self.value(self.PREFETCHABLE_LIMIT) << 32
        found = []
        for register, base_high, limit_high in ((self.MEMORY, 0, 0), (self.PREFETCHABLE, high_base, high_limit)):
            start = base_high | self.get(register, "base") << 20
            end = (limit_high | self.get(register, "limit") << 20) + (1 << 20)
            if start < end:
                found.append(AddressRange(start, end - start))
        return found
