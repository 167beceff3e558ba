"""How a device is built: its parts by name and number, and its functions made from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from teeio.attestation.device_mode import DebugMode
from teeio.device.function import Function, physical_space, sriov, virtual_space
from teeio.device.identity import NO_DEBUG, Manufacture, device_class, measured, measurement_log
from teeio.device.models.accelerator import Accelerator
from teeio.device.models.model import FunctionModel
from teeio.device.services import Services
from teeio.errors import Misuse
from teeio.pcie.address import FUNCTIONS, Bdf
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.pcie.capabilities.ide import IdeCapability
from teeio.pcie.config_space import ExtendedCapability
from teeio.spdm.constants import Capability
from teeio.spdm.device_state import DeviceMeasurements, Identity
from teeio.spdm.state import RESPONDER_CAPABILITIES, Settings
from teeio.spdm.vendor import VendorProtocol
from teeio.tdisp.interface import InterfacePolicy
from teeio.tdisp.messages import LockFlags, MessageType
from teeio.tdisp.responder import DsmCapabilities

OPTIONAL_REQUESTS = frozenset(
    {
        MessageType.BIND_P2P_STREAM_REQUEST,
        MessageType.UNBIND_P2P_STREAM_REQUEST,
        MessageType.SET_MMIO_ATTRIBUTE_REQUEST,
        MessageType.VDM_REQUEST,
    }
)


@dataclass(frozen=True)
class Configuration:
    """How a device is built.

    With `identities` it presents these instead of what its manufacturer would certify. `address` is that of function 0;
    `functions` counts physical functions, of which function 0 has the VFs.

    `idle_ports` counts ports of the device, before the one in use, that no link hangs on: they take up IDE_KM port
    indices. `doe_connections` are the ids of further SPDM connections through the DOE mailbox. `services` says how the device
    does what the capabilities in `settings` offer besides identity and measurements. `flit_mode`, `pcrc` and
    `aggregation` say whether its port supports them.
    """

    manufacture: Manufacture = field(default_factory=Manufacture)
    address: Bdf = field(default_factory=lambda: Bdf(0, 1, 0, 0))
    functions: int = 1
    vfs: int = 4
    first_vf_offset: int = 8
    vf_stride: int = 1
    streams: int = 4
    address_blocks: int = 2
    idle_ports: int = 0
    model: Callable[[], FunctionModel] = Accelerator
    lock_flags: LockFlags = field(default_factory=LockFlags.defined)
    policy: InterfacePolicy = field(default_factory=InterfacePolicy)
    capabilities: DsmCapabilities = field(default_factory=lambda: DsmCapabilities(optional=OPTIONAL_REQUESTS))
    settings: Settings = field(default_factory=lambda: Settings(capabilities=RESPONDER_CAPABILITIES))
    protocols: tuple[VendorProtocol, ...] = ()
    identities: tuple[Identity, ...] = field(default=(), repr=False)
    psks: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    services: Services = field(default_factory=Services)
    doe_connections: tuple[int, ...] = ()
    flit_mode: bool = False
    pcrc: bool = True
    aggregation: bool = True
    name: str = "device"

    def another(self, number: int) -> Configuration:
        """Give a device of the same make: its own serial number, name and, until a host numbers its bus, address."""
        info = replace(self.manufacture.info, serial=f"{self.manufacture.info.serial}.{number}")
        return replace(
            self,
            manufacture=replace(self.manufacture, info=info),
            address=replace(self.address, bus=self.address.bus + number),
            name=f"{self.name} {number + 1}",
        )

    def distance(self, function: Function) -> int:
        """Give how far a function's routing ID is from function 0's."""
        return function.number if function.parent is None else self.first_vf_offset + function.number * self.vf_stride


def expect_distinct(configurations: Sequence[Configuration]) -> None:
    """Refuse two devices with one serial number, by which verifiers tell devices apart. Raises `Misuse`."""
    known: set[str] = set()
    for one in configurations:
        serial = one.manufacture.info.serial
        if serial in known:
            raise Misuse(
                f"two devices have the serial number {serial!r}, so that each would pass for the other",
                remedy="make further devices with `configuration.another(n)`",
            )
        known.add(serial)


def measurements_of(c: Configuration, debug: DebugMode = NO_DEBUG) -> DeviceMeasurements:
    """Give the measurements of a device, with a measurement extension log if it offers one."""
    log = measurement_log(c.manufacture) if c.settings.capabilities & Capability.MEL else []
    return DeviceMeasurements(measured(c.manufacture, debug, log), log)


def services_of(c: Configuration) -> Services:
    """Give the services of a device, whose class follows from its PCI identifiers unless another is given."""
    return (
        c.services if c.services.device_classes else replace(c.services, device_classes=(device_class(c.manufacture),))
    )


def stream_registers(c: Configuration) -> IdeCapability:
    """Make the IDE capability of a device's port."""
    return IdeCapability(c.streams, c.address_blocks, pcrc=c.pcrc, aggregation=c.aggregation)


def build_functions(c: Configuration, dsm: Sequence[ExtendedCapability]) -> tuple[list[Function], list[Function]]:
    """Make the physical functions and the VFs; `dsm` are the capabilities of the DSM, which function 0 gets."""
    if not 1 <= c.functions <= FUNCTIONS:
        raise Misuse(f"{c.functions} physical functions; there can be 1 to {FUNCTIONS}")
    pci = c.manufacture.pci
    pfs = []
    for number in range(c.functions):
        model = c.model()
        extended = [] if number else list(dsm)
        if number == 0 and c.vfs:
            extended.append(sriov(pci, model, c.vfs, c.first_vf_offset, c.vf_stride))
        space = physical_space(pci, model, multi_function=c.functions > 1, extended=extended)
        pfs.append(Function(number, space, model))
    vfs = []
    for number in range(c.vfs):
        model = c.model()
        vfs.append(Function(number, virtual_space(pci, model), model, parent=pfs[0]))
    for function in (*pfs, *vfs):
        function.express.set(ExpressCapability.CAPABILITIES, flit_mode=int(c.flit_mode))
    return pfs, vfs
