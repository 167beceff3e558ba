"""The PCI bus as the VMM finds it: bus numbers, BARs, capabilities, VFs, all through configuration space (PCIe Base 7).

64-bit BARs go above 4 GiB, where private MMIO must lie, each device's in one window of whole 2 MiB; so one address
association of an IDE stream covers them. The windows of the bridges above hold those below. Left out: I/O space,
expansion ROMs, rebalancing, hot-plug.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from teeio.errors import Incompatible, Misuse
from teeio.host.root_complex import DEVICE_MEMORY, LOW_DEVICE_MEMORY, HostBus
from teeio.host.vmm.config_access import Config, HostBar, capabilities, extended_capabilities, sized_bars
from teeio.host.vmm.pci_function import FunctionKind, PciFunction, is_dsm
from teeio.pcie.address import FUNCTIONS, AddressRange, Bdf
from teeio.pcie.capabilities.express import ExpressCapability, PortType
from teeio.pcie.capabilities.header import ABSENT_ID, BARS_AT, CommonHeader, Type1Header
from teeio.pcie.capabilities.ide import IdeCapability, SwitchIdeCapability
from teeio.pcie.capabilities.sriov import VF_BARS_AT, SriovCapability

__all__ = [
    "Config",
    "FunctionKind",
    "HostBar",
    "PciBus",
    "PciFunction",
    "Space",
    "capabilities",
    "extended_capabilities",
    "is_dsm",
    "sized_bars",
]

LAST_BUS = 0xFF
BRIDGE = 1
"""Header layout of a bridge."""
WINDOW = 2 << 20
"""Granularity of a root port's windows here: that of private MMIO metadata."""
MEGABYTE = 1 << 20
NOTHING = AddressRange(0, 0)
DEVICES = 32
"""Devices on a bus; below a link there is only device 0."""


class Below(NamedTuple):
    """What lies below a bridge: the last bus, the functions, and their windows above and below 4 GiB."""

    last_bus: int
    functions: list[PciFunction]
    high: AddressRange
    low: AddressRange


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
    """The functions below all root ports; `windows` gives what lies below each root port and switch port, above 4 GiB."""

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
            below = self._below(Config(self.host, root_port), (root_port,), bus)
            self.functions.update({function.address: function for function in below.functions})
            bus = below.last_bus + 1
        return list(self.functions.values())

    def function(self, address: Bdf) -> PciFunction:
        """Look a function up. Raises `Misuse`."""
        found = self.functions.get(address)
        if found is None:
            raise Misuse(f"there is no function {address}", remedy=f"there is {', '.join(map(str, self.functions))}")
        return found

    # -- finding

    def _below(self, bridge: Config, path: tuple[Bdf, ...], bus: int) -> Below:
        """Number the buses below a bridge from `bus` on, find the functions there, place them, and open the bridge."""
        bridge.set(Type1Header.BUSES, primary=bridge.function.bus, secondary=bus, subordinate=LAST_BUS)
        self._forward_ari(bridge)
        here: list[PciFunction] = []
        parts: list[Below] = []
        last = bus
        for config in self._scan(bridge, bus):
            if config.get(CommonHeader.HEADER_TYPE, "layout") == BRIDGE:
                parts.append(self._below(config, (*path, config.function), last + 1))
                last = parts[-1].last_bus
            else:
                here.append(self._read(config, path))
        last = max([last, *(function.last_requester >> 8 for function in here)])
        bridge.set(Type1Header.BUSES, subordinate=last)
        parts.append(self._place(here, last))
        below = Below(
            last,
            [function for part in parts for function in part.functions],
            _union([part.high for part in parts]),
            _union([part.low for part in parts]),
        )
        _open(bridge, below)
        self.windows[bridge.function] = below.high
        return below

    def _scan(self, bridge: Config, bus: int) -> Iterator[Config]:
        """Find the functions on a bus: a link has device 0 only, the bus inside a switch one for each port."""
        for device in range(DEVICES if _port_type(bridge) == PortType.UPSTREAM_PORT else 1):
            for number in range(FUNCTIONS):
                config = Config(self.host, Bdf(bridge.function.segment, bus, device, number))
                if config.get(CommonHeader.VENDOR_ID, "id") != ABSENT_ID:
                    yield config
                if number == 0 and not self._multi_function(config):
                    break

    @staticmethod
    def _multi_function(config: Config) -> bool:
        value = config.read(CommonHeader.HEADER_TYPE.offset, 1)
        return value != 0xFF and bool(CommonHeader.HEADER_TYPE.get(value, "multi_function"))

    def _read(self, config: Config, path: tuple[Bdf, ...]) -> PciFunction:
        config.set(CommonHeader.COMMAND, memory_space=0, bus_master=0)
        extended = extended_capabilities(config)
        sriov = extended.get(SriovCapability.ID)
        return PciFunction(
            config,
            path[0],
            FunctionKind.PLAIN if sriov is None else FunctionKind.PF,
            config.get(CommonHeader.VENDOR_ID, "id"),
            config.get(CommonHeader.DEVICE_ID, "id"),
            config.get(CommonHeader.CLASS_CODE, "class_code"),
            sized_bars(config, BARS_AT),
            capabilities(config),
            extended,
            vf_bars={} if sriov is None else sized_bars(config, sriov + VF_BARS_AT),
            above=path[1:],
        )

    # -- placing

    @staticmethod
    def _forward_ari(config: Config) -> None:
        express = capabilities(config).get(ExpressCapability.ID)
        if express is not None:
            config.set(ExpressCapability.DEVICE_CONTROL_2, express, ari_forwarding=1)

    def _place(self, found: list[PciFunction], last_bus: int) -> Below:
        """Place the BARs of one device, largest first, in one window above and one below 4 GiB."""
        wanted = [(bar, 1) for function in found for bar in function.bars.values()]
        wanted += [(bar, _total_vfs(function)) for function in found for bar in function.vf_bars.values()]
        wanted.sort(key=lambda item: -item[0].size * item[1])
        high = self._window(self._high, [item for item in wanted if item[0].wide])
        low = self._window(self._low, [item for item in wanted if not item[0].wide])
        for function in found:
            function.write_bars()
            function.command(memory_space=1)
        return Below(last_bus, found, high, low)

    @staticmethod
    def _window(space: Space, wanted: list[tuple[HostBar, int]]) -> AddressRange:
        """Place BARs in a window of their own; an empty one if there are none."""
        if not wanted:
            return NOTHING
        start = space.take(0, max(WINDOW, *(bar.size for bar, _ in wanted)))
        for bar, count in wanted:
            bar.address = space.take(bar.size * count, max(bar.size, 4096))
        return AddressRange(start, space.take(0, WINDOW) - start)

    def set_max_payload(self, function: PciFunction, size: int) -> None:
        """Set Max_Payload_Size, in bytes, of a device's function 0 and of the ports above. Raises `Misuse`."""
        value = size.bit_length() - 8
        if value < 0 or size != 128 << value:
            raise Misuse(f"a Max_Payload_Size of {size} bytes", remedy="use 128, 256, 512 and so on")
        above = [Config(self.host, port) for port in (function.root_port, *function.above)]
        for config in (*above, function.config):
            at = capabilities(config)[ExpressCapability.ID]
            if value > config.get(ExpressCapability.DEVICE_CAPABILITIES, "max_payload", at):
                raise Misuse(
                    f"a Max_Payload_Size of {size} bytes at {config.function}", remedy="use what both ends can"
                )
            config.set(ExpressCapability.DEVICE_CONTROL, at, max_payload=value)

    def let_streams_through(self, function: PciFunction) -> None:
        """Enable Flow-Through IDE in the switch ports above a function. Raises `Incompatible` if one has none."""
        for port in function.above:
            config = Config(self.host, port)
            at = extended_capabilities(config).get(IdeCapability.ID)
            if at is None or not config.get(IdeCapability.CAPABILITY, "flow_through", at):
                raise Incompatible(f"{port}, above {function.address}, lets no IDE stream through")
            config.set(SwitchIdeCapability.CONTROL, at, flow_through=1)

    # -- VFs

    def enable_vfs(self, pf: PciFunction, count: int) -> list[PciFunction]:
        """Enable `count` VFs of a PF, and read them. Raises `Misuse`, `TransportError` if the device does not answer."""
        at = pf.extended.get(SriovCapability.ID)
        if at is None or pf.vfs or not 0 < count <= _total_vfs(pf):
            raise Misuse(f"{count} VFs of {pf.address}", remedy="name a PF without VFs, and no more than it can have")
        config = pf.config
        config.check_present()
        _switch_vfs_on(pf, at, count)
        first = pf.function_id + config.get(SriovCapability.FIRST_VF_OFFSET, "offset", at)
        stride = config.get(SriovCapability.VF_STRIDE, "stride", at)
        device_id = config.get(SriovCapability.VF_DEVICE_ID, "id", at)
        found = []
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
                above=pf.above,
            )
            found.append(vf)
        pf.vfs = found
        self.functions.update({vf.address: vf for vf in found})
        return list(found)

    def restore_vfs(self, pf: PciFunction) -> None:
        """Bring back, after a reset of the PF, the VFs that it had. Their BARs must have been written."""
        at = pf.extended.get(SriovCapability.ID)
        if at is not None and pf.vfs:
            _switch_vfs_on(pf, at, len(pf.vfs))
            for vf in pf.vfs:
                vf.command(bus_master=vf.bus_master)

    def restore(self, function: PciFunction) -> None:
        """Give a function back what the VMM had written, after any reset: BARs, memory space, Bus Master Enable, VFs."""
        function.write_bars()
        function.command(memory_space=1, bus_master=function.bus_master)
        self.restore_vfs(function)

    def disable_vfs(self, pf: PciFunction) -> None:
        """Take all VFs of a PF away. Raises `Misuse` if one is claimed (Linux: EBUSY)."""
        claimed = [str(vf.address) for vf in pf.vfs if vf.claimed_as is not None]
        if claimed:
            raise Misuse(
                f"the VFs of {pf.address} are in use: {', '.join(claimed)}", remedy="take them from their TVMs"
            )
        for vf in pf.vfs:
            del self.functions[vf.address]
        pf.vfs.clear()
        at = pf.extended.get(SriovCapability.ID)
        if at is not None:
            pf.config.set(SriovCapability.CONTROL, at, vf_enable=0, vf_memory_space=0)


def _switch_vfs_on(pf: PciFunction, at: int, count: int) -> None:
    pf.config.set(SriovCapability.NUM_VFS, at, count=count)
    pf.config.set(SriovCapability.CONTROL, at, vf_enable=1, vf_memory_space=1, ari_hierarchy=1)


def _total_vfs(function: PciFunction) -> int:
    at = function.extended.get(SriovCapability.ID)
    return 0 if at is None else function.config.get(SriovCapability.TOTAL_VFS, "count", at)


def _port_type(config: Config) -> int:
    at = capabilities(config).get(ExpressCapability.ID)
    return PortType.ENDPOINT if at is None else config.get(ExpressCapability.CAPABILITIES, "port_type", at)


def _union(windows: list[AddressRange]) -> AddressRange:
    """Give the range from the first window to the last: those below one bridge were taken one after the other."""
    taken = [window for window in windows if window.size]
    if not taken:
        return NOTHING
    start = min(window.start for window in taken)
    return AddressRange(start, max(window.end for window in taken) - start)


def _open(bridge: Config, below: Below) -> None:
    """Let a bridge forward the memory below it, and requests from there."""
    high, low = below.high, below.low
    bridge.set(Type1Header.PREFETCHABLE_BASE, high=high.start >> 32)
    bridge.set(Type1Header.PREFETCHABLE_LIMIT, high=max(high.end - 1, 0) >> 32)
    # No bridge prefetches on PCI Express, so 64-bit BARs lie in this window whether prefetchable or not.
    bridge.set(Type1Header.PREFETCHABLE, **_base_and_limit(high))
    bridge.set(Type1Header.MEMORY, **_base_and_limit(low))
    bridge.set(CommonHeader.COMMAND, memory_space=1, bus_master=1)


def _base_and_limit(window: AddressRange) -> dict[str, int]:
    """Give a window's register fields; an empty window has its base above its limit."""
    if not window.size:
        return {"base": 0xFFF, "limit": 0}
    return {"base": window.start >> 20 & 0xFFF, "limit": (window.end - 1) >> 20 & 0xFFF}
