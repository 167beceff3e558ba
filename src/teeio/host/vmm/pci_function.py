"""A function below a root port as the VMM has found it, with what it has written there and must write again after a reset."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from teeio.errors import TransportError
from teeio.host.vmm.config_access import BROKEN, Config, HostBar
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.doe import DoeCapability
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.pcie.capabilities.header import BARS_AT, CommonHeader
from teeio.pcie.capabilities.ide import IdeCapability
from teeio.pcie.capabilities.sriov import VF_BARS_AT, SriovCapability

if TYPE_CHECKING:
    from teeio.host.vmm.vfio import Unit

REQUESTERS = 1 << 16
"""Requester ids of a segment."""


class FunctionKind(Enum):
    """What a function is to SR-IOV."""

    PLAIN = "function without SR-IOV"
    PF = "physical function"
    VF = "virtual function"


@dataclass(slots=True, eq=False)
class PciFunction:
    """A function below a root port. `capabilities` and `extended` give offsets by capability id.

    `above` are the switch ports between the two, from the root port down.
    """

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
    above: tuple[Bdf, ...] = ()
    claimed_as: Unit | None = field(default=None, repr=False)
    """The unit of assignment that it was given away with (`vfio`)."""
    bus_master: int = 0
    """What the VMM has last written of Bus Master Enable: a reset clears the device's."""

    @property
    def address(self) -> Bdf:
        """Where it is."""
        return self.config.function

    @property
    def function_id(self) -> int:
        """FUNCTION_ID of TDISP."""
        return self.address.requester_id

    @property
    def bridge(self) -> Bdf:
        """The port at the other end of the device's link: no other device has it."""
        return self.above[-1] if self.above else self.root_port

    @property
    def tee_io(self) -> bool:
        """Whether the function says that it supports TDISP."""
        express = self.capabilities.get(ExpressCapability.ID)
        return express is not None and bool(self.config.get(ExpressCapability.DEVICE_CAPABILITIES, "tee_io", express))

    @property
    def last_requester(self) -> int:
        """The last requester id of the function and all VFs that it could have. Raises `TransportError` if there is none."""
        at = self.extended.get(SriovCapability.ID)
        if at is None:
            return self.address.requester_id
        total = self.config.get(SriovCapability.TOTAL_VFS, "count", at)
        first = self.config.get(SriovCapability.FIRST_VF_OFFSET, "offset", at)
        stride = self.config.get(SriovCapability.VF_STRIDE, "stride", at)
        last = self.address.requester_id + (first + (total - 1) * stride if total else 0)
        if last >= REQUESTERS:
            raise TransportError(f"{self.address} has VFs beyond the last bus (PCIe Base 9.2.1.2)", remedy=BROKEN)
        return last

    def command(self, **fields: int) -> None:
        """Write fields of the Command register."""
        self.bus_master = fields.get("bus_master", self.bus_master)
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


def is_dsm(function: PciFunction) -> bool:
    """Tell whether a function may hold a DSM: function 0, no VF, with DOE and with IDE or TEE-IO (Linux pci-tsm.h)."""
    candidate = function.address.function == 0 and function.kind is not FunctionKind.VF
    return (
        candidate
        and DoeCapability.ID in function.extended
        and (IdeCapability.ID in function.extended or function.tee_io)
    )
