"""The PCI bus as the VMM finds it: bus numbers, BARs, capabilities, VFs, all through configuration space (PCIe Base 7).

64-bit BARs go above 4 GiB, where private MMIO must lie, each root port's in one window of whole 2 MiB; so one address
association of an IDE stream covers them. Left out: switches, I/O space, expansion ROMs, rebalancing, hot-plug.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from teeio.errors import Misuse, TransportError
from teeio.host.root_complex import DEVICE_MEMORY, LOW_DEVICE_MEMORY, HostBus
from teeio.pcie.address import FUNCTIONS, AddressRange, Bdf
from teeio.pcie.capabilities.bar import MAX_BARS
from teeio.pcie.capabilities.doe import DoeCapability
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.pcie.capabilities.header import ABSENT_ID, BARS_AT, CommonHeader, Type1Header
from teeio.pcie.capabilities.ide import IdeCapability
from teeio.pcie.capabilities.sriov import VF_BARS_AT, SriovCapability
from teeio.pcie.config_space import (
    FIRST_CAPABILITY,
    FIRST_EXTENDED,
    MAX_CAPABILITIES,
    MAX_EXTENDED,
    ExtendedCapability,
)
from teeio.pcie.registers import Register

LAST_BUS = 0xFF
WINDOW = 2 << 20
"""Granularity of a root port's windows here: that of private MMIO metadata."""
MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Config:
    """Configuration space of one function."""

    bus: HostBus
    function: Bdf

    def read(self, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes."""
        return self.bus.config_read(self.function, offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write 1, 2 or 4 bytes."""
        self.bus.config_write(self.function, offset, size, value)

    def get(self, register: Register, name: str, base: int = 0) -> int:
        """Read one field of a register of the block at `base`."""
        return register.get(self.read(base + register.offset, register.size), name)

    def set(self, register: Register, base: int = 0, /, **fields: int) -> None:
        """Change fields of a register of the block at `base`, leaving the others."""
        at = base + register.offset
        self.write(at, register.size, register.put(self.read(at, register.size), **fields))


@dataclass(slots=True)
class HostBar:
    """A memory BAR: its register, its size, and where it lies (0: nowhere yet)."""

    number: int
    size: int
    wide: bool
    address: int = 0


class FunctionKind(Enum):
    """What a function is to SR-IOV."""

    PLAIN = "function without SR-IOV"
    PF = "physical function"
    VF = "virtual function"


@dataclass(slots=True, eq=False)
class PciFunction:
    """A function below a root port. `capabilities` and `extended` give offsets by capability id."""

    config: Config
    root_port: Bdf
    kind: FunctionKind
    vendor_id: int
    device_id: int
    class_code: int
    bars: dict[int, HostBar]
    capabilities: dict[int, int]
    extended: dict[int, int]
    parent: PciFunction | None = field(default=None, repr=False)
    vf_bars: dict[int, HostBar] = field(default_factory=dict)
    vfs: list[PciFunction] = field(default_factory=list)

    @property
    def address(self) -> Bdf:
        """Where it is."""
        return self.config.function

    @property
    def function_id(self) -> int:
        """FUNCTION_ID of TDISP."""
        return self.address.requester_id

    @property
    def tee_io(self) -> bool:
        """Whether the function says that it supports TDISP."""
        express = self.capabilities.get(ExpressCapability.ID)
        return express is not None and bool(self.config.get(ExpressCapability.DEVICE_CAPABILITIES, "tee_io", express))

    @property
    def last_requester(self) -> int:
        """The last requester id of the function and all VFs that it could have."""
        at = self.extended.get(SriovCapability.ID)
        if at is None:
            return self.address.requester_id
        total = self.config.get(SriovCapability.TOTAL_VFS, "count", at)
        first = self.config.get(SriovCapability.FIRST_VF_OFFSET, "offset", at)
        stride = self.config.get(SriovCapability.VF_STRIDE, "stride", at)
        return self.address.requester_id + (first + (total - 1) * stride if total else 0)

    def command(self, **fields: int) -> None:
        """Write fields of the Command register."""
        self.config.set(CommonHeader.COMMAND, **fields)

    def write_bars(self) -> None:
        """Write the BARs, and those of the VFs, as they were placed."""
        for base, bars in ((BARS_AT, self.bars), (self._vf_bars_at, self.vf_bars)):
            for bar in bars.values() if self.kind is not FunctionKind.VF else ():
                self.config.write(base + 4 * bar.number, 4, bar.address & 0xFFFF_FFFF)
                if bar.wide:
                    self.config.write(base + 4 * bar.number + 4, 4, bar.address >> 32)

    @property
    def _vf_bars_at(self) -> int:
        return self.extended.get(SriovCapability.ID, 0) + VF_BARS_AT


class Space:
    """Addresses handed out from a range, in order, never taken back."""

    def __init__(self, area: AddressRange) -> None:
        self._area = area
        self._next = area.start

    def take(self, size: int, align: int) -> int:
        """Give `size` bytes. Raises `Misuse` if none are left."""
        start = -(-self._next // align) * align
        if start + size > self._area.end:
            raise Misuse(f"no {size:#x} bytes of device memory are left below {self._area.end:#x}")
        self._next = start + size
        return start


class PciBus:
    """The functions below all root ports."""

    def __init__(self, bus: HostBus) -> None:
        self.host = bus
        self.functions: dict[Bdf, PciFunction] = {}
        self.windows: dict[Bdf, AddressRange] = {}
        self._high = Space(DEVICE_MEMORY)
        self._low = Space(LOW_DEVICE_MEMORY)

    def enumerate(self) -> list[PciFunction]:
        """Number the buses, find all functions and place their BARs. Call it once."""
        bus = 1
        for root_port in self.host.root_ports:
            config = Config(self.host, root_port)
            config.set(Type1Header.BUSES, primary=root_port.bus, secondary=bus, subordinate=LAST_BUS)
            found = list(self._scan(root_port, bus))
            last = max((function.last_requester >> 8 for function in found), default=bus)
            config.set(Type1Header.BUSES, subordinate=last)
            self._forward_ari(config)
            self._place(root_port, config, found)
            self.functions.update({function.address: function for function in found})
            bus = last + 1
        return list(self.functions.values())

    def function(self, address: Bdf) -> PciFunction:
        """Look a function up. Raises `Misuse`."""
        found = self.functions.get(address)
        if found is None:
            raise Misuse(f"there is no function {address}", remedy=f"there is {', '.join(map(str, self.functions))}")
        return found

    # -- finding

    def _scan(self, root_port: Bdf, bus: int) -> Iterator[PciFunction]:
        """Read the functions of device 0, the only one below a link."""
        for number in range(FUNCTIONS):
            config = Config(self.host, Bdf(root_port.segment, bus, 0, number))
            if config.get(CommonHeader.VENDOR_ID, "id") != ABSENT_ID:
                yield self._read(config, root_port)
            if number == 0 and not self._multi_function(config):
                return

    @staticmethod
    def _multi_function(config: Config) -> bool:
        value = config.read(CommonHeader.HEADER_TYPE.offset, 1)
        return value != 0xFF and bool(CommonHeader.HEADER_TYPE.get(value, "multi_function"))

    def _read(self, config: Config, root_port: Bdf) -> PciFunction:
        config.set(CommonHeader.COMMAND, memory_space=0, bus_master=0)
        extended = extended_capabilities(config)
        sriov = extended.get(SriovCapability.ID)
        return PciFunction(
            config,
            root_port,
            FunctionKind.PLAIN if sriov is None else FunctionKind.PF,
            config.get(CommonHeader.VENDOR_ID, "id"),
            config.get(CommonHeader.DEVICE_ID, "id"),
            config.get(CommonHeader.CLASS_CODE, "class_code"),
            sized_bars(config, BARS_AT),
            capabilities(config),
            extended,
            vf_bars={} if sriov is None else sized_bars(config, sriov + VF_BARS_AT),
        )

    # -- placing

    @staticmethod
    def _forward_ari(config: Config) -> None:
        express = capabilities(config).get(ExpressCapability.ID)
        if express is not None:
            config.set(ExpressCapability.DEVICE_CONTROL_2, express, ari_forwarding=1)

    def _place(self, root_port: Bdf, config: Config, found: list[PciFunction]) -> None:
        """Place all BARs, largest first, in one window above and one below 4 GiB, and open the root port for them."""
        wanted = [(bar, 1) for function in found for bar in function.bars.values()]
        wanted += [(bar, _total_vfs(function)) for function in found for bar in function.vf_bars.values()]
        wanted.sort(key=lambda item: -item[0].size * item[1])
        high = self._window(self._high, [item for item in wanted if item[0].wide])
        low = self._window(self._low, [item for item in wanted if not item[0].wide])
        for function in found:
            function.write_bars()
            function.command(memory_space=1)
        config.set(Type1Header.PREFETCHABLE_BASE, high=high.start >> 32)
        config.set(Type1Header.PREFETCHABLE_LIMIT, high=(high.end - 1) >> 32)
        # No bridge prefetches on PCI Express, so 64-bit BARs lie in this window whether prefetchable or not.
        config.set(Type1Header.PREFETCHABLE, **_base_and_limit(high))
        config.set(Type1Header.MEMORY, **_base_and_limit(low))
        config.set(CommonHeader.COMMAND, memory_space=1, bus_master=1)
        self.windows[root_port] = high

    @staticmethod
    def _window(space: Space, wanted: list[tuple[HostBar, int]]) -> AddressRange:
        """Place BARs in a window of their own; an empty one if there are none."""
        if not wanted:
            return AddressRange(0, 0)
        start = space.take(0, max(WINDOW, *(bar.size for bar, _ in wanted)))
        for bar, count in wanted:
            bar.address = space.take(bar.size * count, max(bar.size, 4096))
        return AddressRange(start, space.take(0, WINDOW) - start)

    def set_max_payload(self, function: PciFunction, size: int) -> None:
        """Set Max_Payload_Size, in bytes, of a device's function 0 and of its root port. Raises `Misuse`."""
        value = size.bit_length() - 8
        for config in (Config(self.host, function.root_port), function.config):
            at = capabilities(config)[ExpressCapability.ID]
            if size != 128 << value or value > config.get(ExpressCapability.DEVICE_CAPABILITIES, "max_payload", at):
                raise Misuse(
                    f"a Max_Payload_Size of {size} bytes at {config.function}", remedy="use what both ends can"
                )
            config.set(ExpressCapability.DEVICE_CONTROL, at, max_payload=value)

    # -- VFs

    def enable_vfs(self, pf: PciFunction, count: int) -> list[PciFunction]:
        """Enable `count` VFs of a PF, and read them. Raises `Misuse`."""
        at = pf.extended.get(SriovCapability.ID)
        if at is None or pf.vfs or not 0 < count <= _total_vfs(pf):
            raise Misuse(f"{count} VFs of {pf.address}", remedy="name a PF without VFs, and no more than it can have")
        config = pf.config
        _switch_vfs_on(pf, at, count)
        first = pf.function_id + config.get(SriovCapability.FIRST_VF_OFFSET, "offset", at)
        stride = config.get(SriovCapability.VF_STRIDE, "stride", at)
        device_id = config.get(SriovCapability.VF_DEVICE_ID, "id", at)
        for number in range(count):
            vf_config = Config(self.host, Bdf.of(first + number * stride, pf.address.segment))
            vf = PciFunction(
                vf_config,
                pf.root_port,
                FunctionKind.VF,
                pf.vendor_id,
                device_id,
                vf_config.get(CommonHeader.CLASS_CODE, "class_code"),
                {b.number: HostBar(b.number, b.size, b.wide, b.address + number * b.size) for b in pf.vf_bars.values()},
                capabilities(vf_config),
                extended_capabilities(vf_config),
                parent=pf,
            )
            pf.vfs.append(vf)
            self.functions[vf.address] = vf
        return list(pf.vfs)

    def restore_vfs(self, pf: PciFunction) -> None:
        """Bring back, after a reset of the PF, the VFs that it had. Their BARs must have been written."""
        at = pf.extended.get(SriovCapability.ID)
        if at is not None and pf.vfs:
            _switch_vfs_on(pf, at, len(pf.vfs))

    def disable_vfs(self, pf: PciFunction) -> None:
        """Take all VFs of a PF away."""
        for vf in pf.vfs:
            del self.functions[vf.address]
        pf.vfs.clear()
        at = pf.extended.get(SriovCapability.ID)
        if at is not None:
            pf.config.set(SriovCapability.CONTROL, at, vf_enable=0, vf_memory_space=0)


def _switch_vfs_on(pf: PciFunction, at: int, count: int) -> None:
    pf.config.set(SriovCapability.NUM_VFS, at, count=count)
    pf.config.set(SriovCapability.CONTROL, at, vf_enable=1, vf_memory_space=1, ari_hierarchy=1)


def capabilities(config: Config) -> dict[int, int]:
    """Give the offsets of the capabilities by id. Raises `TransportError` for a list that has no end."""
    found: dict[int, int] = {}
    at = config.get(CommonHeader.CAPABILITIES_POINTER, "first") & ~3
    for _ in range(MAX_CAPABILITIES):
        if at < FIRST_CAPABILITY:
            return found
        word = config.read(at, 2)
        found.setdefault(word & 0xFF, at)
        at = word >> 8 & ~3
    raise TransportError(f"the capability list of {config.function} has a loop")


def extended_capabilities(config: Config) -> dict[int, int]:
    """Give the offsets of the extended capabilities by id. Raises `TransportError` for a list that has no end."""
    found: dict[int, int] = {}
    at = FIRST_EXTENDED
    for _ in range(MAX_EXTENDED):
        header = config.read(at, 4)
        if header in (0, 0xFFFF_FFFF):
            return found
        found.setdefault(ExtendedCapability.HEADER.get(header, "id"), at)
        at = ExtendedCapability.HEADER.get(header, "next") & ~3
        if at < FIRST_EXTENDED:
            return found
    raise TransportError(f"the extended capability list of {config.function} has a loop")


def sized_bars(config: Config, base: int) -> dict[int, HostBar]:
    """Size the memory BARs at `base` by writing all ones; decoding must be off."""
    found: dict[int, HostBar] = {}
    number = 0
    while number < MAX_BARS:
        at = base + 4 * number
        wide = config.read(at, 4) & 6 == 4 and number + 1 < MAX_BARS
        mask = _written_ones(config, at) & ~0xF
        bits = 32
        if wide:
            mask, bits = mask | _written_ones(config, at + 4) << 32, 64
        size = (~mask & (1 << bits) - 1) + 1
        if mask and not size & size - 1:
            found[number] = HostBar(number, size, wide)
        number += 2 if wide else 1
    return found


def _written_ones(config: Config, at: int) -> int:
    config.write(at, 4, 0xFFFF_FFFF)
    value = config.read(at, 4)
    config.write(at, 4, 0)
    return value


def _total_vfs(function: PciFunction) -> int:
    at = function.extended.get(SriovCapability.ID)
    return 0 if at is None else function.config.get(SriovCapability.TOTAL_VFS, "count", at)


def _base_and_limit(window: AddressRange) -> dict[str, int]:
    """Give a window's register fields; an empty window has its base above its limit."""
    if not window.size:
        return {"base": 0xFFF, "limit": 0}
    return {"base": window.start >> 20 & 0xFFF, "limit": (window.end - 1) >> 20 & 0xFFF}


def is_dsm(function: PciFunction) -> bool:
    """Tell whether a function may hold a DSM: function 0, no VF, with DOE and with IDE or TEE-IO (Linux pci-tsm.h)."""
    candidate = function.address.function == 0 and function.kind is not FunctionKind.VF
    return (
        candidate
        and DoeCapability.ID in function.extended
        and (IdeCapability.ID in function.extended or function.tee_io)
    )
