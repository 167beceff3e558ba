"""The host's PCI devices and its TSM as Linux's sysfs shows them, and the verbs of PCI/TSM behind the files.

Sources: Linux Documentation/ABI/testing sysfs-bus-pci, sysfs-class-tsm and sysfs-devices-pci-host-bridge, drivers/pci/tsm.c;
the behaviour that its samples/devsec script checks. `tsm0/device/tsm_bind` and `tsm_unbind` are that sample's, for tests: on a
real host bind and guest_req come through VFIO and iommufd, whose calls are not settled. Left out: uevents, everything of
a PCI device that is not about security or assignment.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import partial

from teeio.abi.device_seamcalls import DevifCompleted
from teeio.abi.operands import DevifOperation, LockParameters
from teeio.errors import TeeioError
from teeio.host.vmm.bus import Config, FunctionKind, PciFunction, extended_capabilities, is_dsm
from teeio.host.vmm.pci_tsm import Connection
from teeio.host.vmm.stream_registers import selective_blocks
from teeio.host.vmm.vmm import Vmm
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.ide import SELECTIVE_CONTROL
from teeio.pcie.capabilities.sriov import SriovCapability
from teeio.sysfs import Attribute, Entry, Link, Sysfs, SysfsError

TSM = "tsm0"
CLASS = f"/sys/class/tsm/{TSM}"
DEVICES = "/sys/bus/pci/devices"

MAX_DIGITS = 5
"""Digits of the largest NumVFs."""


class Scope(IntEnum):
    """How far a guest's request may reach (Linux pci-tsm.h); the core passes on the first two."""

    INFO = 0
    STATE_CHANGE = 1
    DEBUG_READ = 2
    DEBUG_WRITE = 3


SCOPES = {
    DevifOperation.REPORT: Scope.INFO,
    DevifOperation.STATE: Scope.INFO,
    DevifOperation.MEASUREMENTS: Scope.INFO,
    DevifOperation.LOCK: Scope.STATE_CHANGE,
    DevifOperation.START: Scope.STATE_CHANGE,
    DevifOperation.STOP: Scope.STATE_CHANGE,
}
"""The least scope that an operation needs."""


class HostSysfs(Sysfs):
    """The tree of a VMM whose bus has been enumerated."""

    def __init__(self, vmm: Vmm) -> None:
        self._vmm = vmm
        self._streams: dict[Bdf, int] = {}

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """Yield the TSM, the host bridges with their streams, and all functions."""
        yield f"{CLASS}/pci_mode", Attribute(lambda: "link")
        yield f"{CLASS}/device/tsm_bind", Attribute(store=self._bind)
        yield f"{CLASS}/device/tsm_unbind", Attribute(store=self._unbind)
        yield from self._bridges()
        for function in self._vmm.bus.functions.values():
            place = _place(function)
            yield f"{DEVICES}/{function.address}", Link(place)
            for name, entry in self._of_function(function):
                yield f"{place}/{name}", entry

    # -- host bridges and streams

    def _bridges(self) -> Iterator[tuple[str, Entry]]:
        self._number_streams()
        for bridge in sorted({_bridge(port) for port in self._vmm.bus.host.root_ports}):
            here = [one for one in self._connections() if _bridge(one.dsm.root_port) == bridge]
            blocks = [
                block
                for port in self._vmm.bus.host.root_ports
                if _bridge(port) == bridge
                for block in self._port_blocks(port)
            ]
            yield f"{bridge}/available_secure_streams", Attribute(partial(str, len(blocks) - len(here)))
            for connection in here:
                yield f"{bridge}/{self._stream_name(connection)}", Link(_place(connection.dsm))
            if here:
                yield f"{CLASS}/{bridge.rpartition('/')[2]}", Link(bridge)

    def _number_streams(self) -> None:
        """Give each stream the lowest number that is free at its host bridge."""
        alive = {connection.dsm.address: connection for connection in self._connections()}
        self._streams = {address: number for address, number in self._streams.items() if address in alive}
        for address, connection in alive.items():
            bridge = _bridge(connection.dsm.root_port)
            taken = {n for other, n in self._streams.items() if _bridge(alive[other].dsm.root_port) == bridge}
            self._streams.setdefault(address, next(n for n in range(256) if n not in taken))

    def _stream_name(self, connection: Connection) -> str:
        """Name a stream by its places at host bridge, root port and endpoint."""
        config = Config(self._vmm.bus.host, connection.dsm.root_port)
        at_port = next(
            (
                index
                for index, block in enumerate(self._port_blocks(connection.dsm.root_port))
                if config.get(SELECTIVE_CONTROL, "enable", block)
                and config.get(SELECTIVE_CONTROL, "stream_id", block) == connection.stream.stream_id
            ),
            0,
        )
        return f"stream{self._streams[connection.dsm.address]}.{at_port}.{connection.stream.index}"

    def _port_blocks(self, port: Bdf) -> list[int]:
        """Give where the Selective IDE blocks of a root port lie."""
        config = Config(self._vmm.bus.host, port)
        return list(selective_blocks(config, extended_capabilities(config)))

    # -- functions

    def _of_function(self, function: PciFunction) -> Iterator[tuple[str, Entry]]:
        yield "vendor", Attribute(lambda: f"0x{function.vendor_id:04x}")
        yield "device", Attribute(lambda: f"0x{function.device_id:04x}")
        yield "class", Attribute(lambda: f"0x{function.class_code:06x}")
        yield "reset", Attribute(store=partial(self._reset, function))
        if self._vmm.vfio.owner(function) is not None:
            yield "driver", Link("/sys/bus/pci/drivers/vfio-pci")
        if function.kind is FunctionKind.PF:
            at = function.extended[SriovCapability.ID]
            yield (
                "sriov_totalvfs",
                Attribute(lambda: str(function.config.get(SriovCapability.TOTAL_VFS, "count", at))),
            )
            yield "sriov_numvfs", Attribute(lambda: str(len(function.vfs)), partial(self._set_vfs, function))
        if is_dsm(function):
            connected = partial(self._connected_to, function)
            yield "tsm/connect", Attribute(connected, partial(self._connect, function))
            yield "tsm/disconnect", Attribute(store=partial(self._disconnect, function))
        dsm = self._vmm.pci_tsm.dsm_of(function)
        if is_dsm(function) or dsm is not None:
            yield "tsm/dsm", Attribute(lambda: str(dsm.address) if dsm else "")
            bound = self._vmm.pci_tsm.is_bound(function)
            yield "tsm/bound", Attribute(lambda: TSM if bound else "")
            yield "authenticated", Attribute(lambda: TSM if dsm else "")

    def _connections(self) -> list[Connection]:
        return list(self._vmm.pci_tsm.connections.values())

    def _connected_to(self, function: PciFunction) -> str:
        return TSM if function.address in self._vmm.pci_tsm.connections else ""

    def _connect(self, function: PciFunction, text: str, now: float) -> None:
        number = text.removeprefix("tsm")
        if number == text or not number.isdecimal():
            raise SysfsError(errno.EINVAL, f"{text!r} is not tsmN")
        if self._connected_to(function):
            raise SysfsError(errno.EBUSY, "the device is connected")
        if text != TSM:
            raise SysfsError(errno.ENXIO, f"there is no link TSM {text}")
        self._vmm.pci_tsm.connect(function, now)

    def _disconnect(self, function: PciFunction, text: str, now: float) -> None:
        if not self._connected_to(function):
            raise SysfsError(errno.ENXIO, "the device is not connected")
        if text != TSM:
            raise SysfsError(errno.EINVAL, f"the device is connected to {TSM}, not to {text!r}")
        self._vmm.pci_tsm.disconnect(function, now)

    def _set_vfs(self, function: PciFunction, text: str, now: float) -> None:
        if not text.isdecimal():
            raise SysfsError(errno.EINVAL, f"{text!r} is no number")
        if len(text) > MAX_DIGITS:
            raise SysfsError(errno.ERANGE, f"a number of {len(text)} digits, there are 16 bits")
        if function.vfs and int(text):
            raise SysfsError(errno.EBUSY, f"{len(function.vfs)} VFs are enabled: write 0 first")
        if any(self._vmm.vfio.owner(vf) is not None for vf in function.vfs):
            raise SysfsError(errno.EBUSY, "a VF is assigned to a TVM")
        if int(text):
            self._vmm.bus.enable_vfs(function, int(text))
        else:
            self._vmm.bus.disable_vfs(function)

    def _reset(self, function: PciFunction, text: str, now: float) -> None:
        if text != "1":
            raise SysfsError(errno.EINVAL, "only 1 resets")
        self._vmm.vfio.reset(function)

    # -- bind, unbind, guest_req

    def _bind(self, text: str, now: float) -> None:
        """Bind a function to the TVM that it is assigned to; binding it again changes nothing."""
        function = self._function(text)
        owners = (
            one.tdr for one in self._vmm.kvm.machines.values() if one.function_named(function.function_id) is not None
        )
        tdr = next(owners, None)
        if tdr is None:
            raise SysfsError(errno.EINVAL, f"{text} is assigned to no TVM")
        if self._vmm.pci_tsm.dsm_of(function) is None:
            raise SysfsError(errno.ENXIO, f"the device of {text} is not connected")
        self._vmm.pci_tsm.bind(function, tdr, now)

    def _unbind(self, text: str, now: float) -> None:
        """Unbind a function; one that is not bound is so already."""
        function = self._function(text)
        if self._vmm.pci_tsm.is_bound(function):
            self._vmm.pci_tsm.unbind(function, now)

    def guest_req(
        self,
        address: Bdf,
        scope: int,
        operation: DevifOperation,
        now: float,
        lock: LockParameters | None = None,
    ) -> DevifCompleted:
        """Pass a guest's request on, as pci_tsm_guest_req does. Raises `SysfsError`."""
        function = self._function(str(address))
        if scope > Scope.STATE_CHANGE:
            raise SysfsError(errno.EINVAL, f"scope {scope} is not passed on")
        if not self._vmm.pci_tsm.is_bound(function):
            raise SysfsError(errno.ENXIO, f"{address} is not bound")
        # UNCONFIRMED: which errno; Linux leaves it to the TSM driver to hold a request against its scope.
        if scope < SCOPES[operation]:
            raise SysfsError(
                errno.EPERM, f"{operation.name} changes the state, which scope {Scope(scope).name} may not"
            )
        return _or_errno(lambda: self._vmm.pci_tsm.guest_req(function, operation, now, lock))

    def _function(self, text: str) -> PciFunction:
        found = next((one for address, one in self._vmm.bus.functions.items() if str(address) == text), None)
        if found is None:
            raise SysfsError(errno.ENODEV, f"there is no function {text}")
        return found


def _or_errno(attempt: Callable[[], DevifCompleted]) -> DevifCompleted:
    try:
        return attempt()
    except TeeioError as error:
        raise SysfsError.of(error) from error


def _bridge(port: Bdf) -> str:
    return f"/sys/devices/pci{port.segment:04x}:{port.bus:02x}"


def _place(function: PciFunction) -> str:
    """Give where a function is: below its host bridge and root port."""
    return f"{_bridge(function.root_port)}/{function.root_port}/{function.address}"
