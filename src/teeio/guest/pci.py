"""The TVM's PCI tree, as the VMM shows it: functions, BARs, MSI-X, the TEE-IO bit.

All of it is the VMM's word, read through hypercalls, and only good for finding things: what counts comes later, from
the device's report and the TSM. So every value is bounded here and none is believed elsewhere. Follows PCIe Base 7.5,
7.7; the capability layouts are those of `pcie`. Left out: bridges below bus 0 of the guest, I/O BARs, ROMs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from teeio.abi.operands import ECAM, MESSAGE_ADDRESS
from teeio.errors import PeerViolation, TransportError
from teeio.guest.mmio import MmioWindow, request_mmio
from teeio.guest.tvm import Tvm
from teeio.pcie.address import DEVICES, FUNCTIONS, AddressRange, Bdf
from teeio.pcie.capabilities.bar import MAX_BARS
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.pcie.capabilities.header import ABSENT_ID, BARS_AT, CommonHeader
from teeio.pcie.capabilities.msix import ENTRY_SIZE, MsixCapability, MsixMessage, MsixTable
from teeio.pcie.config_space import FIRST_CAPABILITY, MAX_CAPABILITIES, SPACE_SIZE, all_ones
from teeio.pcie.registers import Register


@dataclass(frozen=True, slots=True)
class GuestBar:
    """A memory BAR: its guest address, without `GPA_SHARED_BIT`, and its size."""

    number: int
    gpa: int
    size: int
    wide: bool

    @property
    def range(self) -> AddressRange:
        """Its guest addresses."""
        return AddressRange(self.gpa, self.size)


@dataclass(frozen=True, slots=True)
class MsixPlace:
    """Where the MSI-X capability and table lie."""

    capability: int
    bar: int
    table_offset: int
    vectors: int


class ConfigWindow:
    """Configuration space of one function, by hypercalls."""

    def __init__(self, tvm: Tvm, function: Bdf) -> None:
        self.function = function
        self._tvm = tvm
        self._base = ECAM.start + (function.requester_id << 12)

    def read(self, offset: int, size: int, now: float) -> int:
        """Read 1, 2 or 4 bytes."""
        return request_mmio(self._tvm, self._base + offset, size, None, now)

    def write(self, offset: int, size: int, value: int, now: float) -> None:
        """Write 1, 2 or 4 bytes."""
        request_mmio(self._tvm, self._base + offset, size, value, now)

    def get(self, register: Register, name: str, now: float, base: int = 0) -> int:
        """Read one field of a register of the block at `base`."""
        return register.get(self.read(base + register.offset, register.size, now), name)

    def set(self, register: Register, now: float, base: int = 0, **fields: int) -> None:
        """Change fields of a register of the block at `base`, leaving the others."""
        at = base + register.offset
        self.write(at, register.size, register.put(self.read(at, register.size, now), **fields), now)

    def capabilities(self, now: float) -> dict[int, int]:
        """Give the offsets of the capabilities by id.

        Raises `TransportError` if there is nobody, `PeerViolation` for a list that has no end.
        """
        found: dict[int, int] = {}
        at = self.get(CommonHeader.CAPABILITIES_POINTER, "first", now) & ~3
        for _ in range(MAX_CAPABILITIES):
            if at < FIRST_CAPABILITY:
                return found
            word = self.read(at, 2, now)
            if word == all_ones(2):  # the VMM emulates the header, so it answers even if the device does not
                raise TransportError(
                    f"{self.function} does not answer: its capability at {at:#x} reads as all ones (PCIe Base 2.3.2)",
                    remedy="its device was removed or is in reset: give the interface back, wait for another",
                )
            found.setdefault(word & 0xFF, at)
            at = word >> 8 & ~3
        raise PeerViolation(f"the capability list of {self.function} has a loop", "PCIe Base 7.5.3")


@dataclass(frozen=True)
class PciFunction:
    """A function as the VMM shows it."""

    address: Bdf
    vendor_id: int
    device_id: int
    class_code: int
    tee_io: bool
    bars: tuple[GuestBar, ...]
    msix: MsixPlace | None
    config: ConfigWindow = field(repr=False, compare=False)

    def bar(self, number: int) -> GuestBar | None:
        """Find a BAR by number."""
        return next((bar for bar in self.bars if bar.number == number), None)

    def need_bar(self, number: int, size: int) -> GuestBar:
        """Give a BAR of at least `size` bytes. Raises `PeerViolation`."""
        bar = self.bar(number)
        if bar is None or bar.size < size:
            raise PeerViolation(f"{self.address} has no BAR {number} of {size:#x} bytes", "the device's datasheet")
        return bar

    def enable(self, now: float) -> None:
        """Turn on memory decoding and bus mastering; before the lock, because the lock needs and freezes them."""
        self.config.set(CommonHeader.COMMAND, now, memory_space=1, bus_master=1)

    def enable_msix(self, tvm: Tvm, vectors: dict[int, int], now: float) -> None:
        """Let MSI-X entries raise processor vectors (entry to vector), and turn MSI-X on.

        The table is not locked, so the VMM may still change it: an interrupt is a hint, never a proof.
        """
        if self.msix is None or max(vectors) >= self.msix.vectors:
            raise PeerViolation(f"{self.address} has too few MSI-X vectors", "the device's datasheet")
        bar = self.need_bar(self.msix.bar, self.msix.table_offset + ENTRY_SIZE * self.msix.vectors)
        table = MmioWindow(tvm, bar.gpa, bar.size, trusted=False)
        for entry, vector in vectors.items():
            message = MsixMessage(MESSAGE_ADDRESS, vector)
            low, high = message.address & 0xFFFF_FFFF, message.address >> 32
            for register, value in zip(MsixTable.ENTRY, (low, high, message.data, 0), strict=True):
                table.write(self.msix.table_offset + ENTRY_SIZE * entry + register.offset, 4, value, now)
        self.config.set(MsixCapability.CONTROL, now, self.msix.capability, enable=1, function_mask=0)


def enumerate_functions(tvm: Tvm, now: float, buses: range = range(1)) -> list[PciFunction]:
    """Find all functions on `buses`. Raises `CallRefused`; `PeerViolation` for what no configuration space says."""
    return [read_function(tvm, function, now) for function in _present(tvm, now, buses)]


def _present(tvm: Tvm, now: float, buses: range) -> Iterator[Bdf]:
    for bus in buses:
        for device in range(DEVICES):
            for number in range(FUNCTIONS):
                function = Bdf(0, bus, device, number)
                config = ConfigWindow(tvm, function)
                present = config.get(CommonHeader.VENDOR_ID, "id", now) != ABSENT_ID
                if present:
                    yield function
                if number == 0 and not (present and _multi_function(config, now)):
                    break


def _multi_function(config: ConfigWindow, now: float) -> bool:
    value = config.read(CommonHeader.HEADER_TYPE.offset, 1, now)
    return value != 0xFF and bool(CommonHeader.HEADER_TYPE.get(value, "multi_function"))


def read_function(tvm: Tvm, address: Bdf, now: float) -> PciFunction:
    """Read what the VMM shows of one function. Sizes its BARs, so it must not be locked."""
    config = ConfigWindow(tvm, address)
    capabilities = config.capabilities(now)
    express = capabilities.get(ExpressCapability.ID)
    return PciFunction(
        address,
        config.get(CommonHeader.VENDOR_ID, "id", now),
        config.get(CommonHeader.DEVICE_ID, "id", now),
        config.get(CommonHeader.CLASS_CODE, "class_code", now),
        express is not None and bool(config.get(ExpressCapability.DEVICE_CAPABILITIES, "tee_io", now, express)),
        tuple(_bars(config, now)),
        _msix(config, capabilities.get(MsixCapability.ID), now),
        config,
    )


def _bars(config: ConfigWindow, now: float) -> Iterator[GuestBar]:
    number = 0
    while number < MAX_BARS:
        at = BARS_AT + 4 * number
        low = config.read(at, 4, now)
        wide = low & 6 == 4
        if wide and number + 1 == MAX_BARS:
            raise PeerViolation("BAR 5 claims to be 64 bit wide", "PCIe Base 7.5.1.2.1")
        value, mask = _sized(config, at, 8 if wide else 4, now)
        size = (~(mask & ~0xF) & (1 << (64 if wide else 32)) - 1) + 1
        if mask & ~0xF and not low & 1:
            if size & size - 1 or value & ~0xF & size - 1:
                raise PeerViolation(f"BAR {number} of {size:#x} bytes at {value & ~0xF:#x}", "PCIe Base 7.5.1.2.1")
            yield GuestBar(number, value & ~0xF, size, wide)
        number += 2 if wide else 1


def _sized(config: ConfigWindow, at: int, size: int, now: float) -> tuple[int, int]:
    """Give the value of a BAR and what it reads as after all ones were written; then put the value back."""
    places = range(at, at + size, 4)
    values = [config.read(place, 4, now) for place in places]
    masks = []
    for place, value in zip(places, values, strict=True):
        config.write(place, 4, 0xFFFF_FFFF, now)
        masks.append(config.read(place, 4, now))
        config.write(place, 4, value, now)
    return _joined(values), _joined(masks)


def _joined(words: list[int]) -> int:
    return sum(word << 32 * index for index, word in enumerate(words))


def _msix(config: ConfigWindow, capability: int | None, now: float) -> MsixPlace | None:
    if capability is None or capability + MsixCapability.PENDING.offset + 4 > SPACE_SIZE:
        return None
    table = config.read(capability + MsixCapability.TABLE.offset, 4, now)
    return MsixPlace(
        capability,
        MsixCapability.TABLE.get(table, "bir"),
        MsixCapability.TABLE.get(table, "offset") * 8,
        config.get(MsixCapability.CONTROL, "table_size", now, capability) + 1,
    )
