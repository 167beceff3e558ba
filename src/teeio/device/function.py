"""The functions of a device: configuration space, MSI-X and model of a PF, a VF or a function without SR-IOV.

The MSI-X table and pending bits have a BAR of their own, a page each, so that locking them touches no register page.
"""

from __future__ import annotations

from collections.abc import Sequence

from teeio.crypto.certificates import PciIdentity
from teeio.device.models.model import FunctionModel, Region
from teeio.device.translations import TranslationCache
from teeio.pcie.address import AddressRange
from teeio.pcie.capabilities.aer import AerCapability
from teeio.pcie.capabilities.ats import AtsCapability
from teeio.pcie.capabilities.bar import Bar
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.pcie.capabilities.header import CommonHeader, Type0Header, VirtualFunctionHeader
from teeio.pcie.capabilities.msi import MsiCapability
from teeio.pcie.capabilities.msix import MsixCapability
from teeio.pcie.capabilities.page_request import PageRequestCapability
from teeio.pcie.capabilities.power import PowerManagementCapability
from teeio.pcie.capabilities.sriov import SriovCapability
from teeio.pcie.config_space import ConfigSpace, ExtendedCapability
from teeio.tdisp.messages import PAGE_SIZE, RangeAttributes

MSIX_BAR = 2
MSIX_TABLE = Region("MSI-X table", MSIX_BAR, 0, PAGE_SIZE, RangeAttributes.MSIX_TABLE)
MSIX_PENDING = Region("MSI-X pending bits", MSIX_BAR, PAGE_SIZE, PAGE_SIZE, RangeAttributes.MSIX_PBA)
"""Their attributes are the ones reported when the table is locked."""
D3HOT = 3


class Function:
    """A function: `number` is its distance from function 0; a VF's, its place among the VFs of `parent`."""

    def __init__(
        self,
        number: int,
        space: ConfigSpace,
        model: FunctionModel,
        parent: Function | None = None,
    ) -> None:
        self.number = number
        self.space = space
        self.model = model
        self.parent = parent
        self.header = space.need(CommonHeader)
        self.msi = space.need(MsiCapability)
        self.msix = space.need(MsixCapability)
        self.express = space.need(ExpressCapability)
        self.sriov = space.find(SriovCapability)
        self.page_requests = (parent.space if parent else space).find(PageRequestCapability)
        self.translations = TranslationCache(space.need(AtsCapability), self.page_requests)

    @property
    def regions(self) -> list[Region]:
        """All pages of all BARs, ascending by BAR and offset."""
        return sorted((*self.model.regions, MSIX_TABLE, MSIX_PENDING), key=lambda region: (region.bar, region.offset))

    @property
    def shared_control(self) -> ExpressCapability:
        """The PCI Express capability whose Device Control rules: a VF goes by that of its PF (PCIe Base 9.3.5.4)."""
        return self.express if self.parent is None else self.parent.express

    def placed(self) -> dict[int, AddressRange]:
        """Give where each BAR lies, decoded or not."""
        if self.parent is None:
            return self.header.placed()
        return self.parent.space.need(SriovCapability).vf_placed(self.number)

    def loses_state(self) -> bool:
        """Tell whether the function is in a power state that does not keep its context."""
        power = self.space.find(PowerManagementCapability)
        if power is None:
            return False
        asleep = power.get(power.CONTROL, "power_state") == D3HOT
        return asleep and not power.get(power.CONTROL, "no_soft_reset")

    def read(self, bar: int, offset: int, size: int) -> bytes:
        """Read a BAR."""
        if bar != MSIX_BAR:
            return self.model.read(bar, offset, size)
        table = self.msix.table.read(offset, size) if offset < PAGE_SIZE else 0
        pending = self.msix.pending.read(offset - PAGE_SIZE, size) if offset >= PAGE_SIZE else 0
        return (table | pending).to_bytes(size, "little")

    def write(self, bar: int, offset: int, data: bytes) -> None:
        """Write a BAR."""
        if bar != MSIX_BAR:
            self.model.write(bar, offset, data)
        elif offset < PAGE_SIZE:
            self.msix.table.write(offset, len(data), int.from_bytes(data, "little"))

    def drop_interrupts(self) -> None:
        """Forget the interrupts that wait for their mask to be cleared."""
        for vector in range(self.msix.table.vectors):
            self.msix.pending.mark(vector, False)

    def reset(self, *, sticky_too: bool = False) -> None:
        """Give everything its reset value: registers, MSI-X table, and the model with all its data."""
        self.model.scrub()
        self.translations.clear()
        self.space.reset(sticky_too=sticky_too)
        self.msix.table.reset()
        self.drop_interrupts()


def physical_space(
    pci: PciIdentity,
    model: FunctionModel,
    *,
    multi_function: bool = False,
    extended: Sequence[ExtendedCapability] = (),
    tee_io: bool = True,
) -> ConfigSpace:
    """Make the configuration space of a PF or of a function without SR-IOV; `extended` comes behind AER."""
    header = Type0Header(
        pci.vendor,
        pci.device,
        pci.class_code,
        _with_msix(model.bars),
        revision=pci.revision,
        subsystem_vendor_id=pci.subsystem_vendor or 0,
        subsystem_id=pci.subsystem_device or 0,
        multi_function=multi_function,
    )
    express = ExpressCapability(tee_io=tee_io)
    return ConfigSpace(
        header,
        [PowerManagementCapability(), express, _msix(model), MsiCapability()],
        [AerCapability(), *extended, AtsCapability(), PageRequestCapability()],
    )


def virtual_space(pci: PciIdentity, model: FunctionModel) -> ConfigSpace:
    """Make the configuration space of a VF."""
    header = VirtualFunctionHeader(
        pci.class_code,
        revision=pci.revision,
        subsystem_vendor_id=pci.subsystem_vendor or 0,
        subsystem_id=pci.subsystem_device or 0,
    )
    capabilities = [ExpressCapability(tee_io=True), _msix(model), MsiCapability()]
    return ConfigSpace(header, capabilities, [AerCapability(), AtsCapability()])


def sriov(pci: PciIdentity, model: FunctionModel, total: int, first_offset: int, stride: int) -> SriovCapability:
    """Make the SR-IOV capability for VFs that have the BARs of `model`."""
    return SriovCapability(total, pci.device + 1, _with_msix(model.bars), first_offset=first_offset, stride=stride)


def _with_msix(bars: Sequence[Bar]) -> list[Bar]:
    msix = Bar(MSIX_BAR, 2 * PAGE_SIZE, prefetchable=True)
    return sorted((*bars, msix), key=lambda bar: bar.number)


def _msix(model: FunctionModel) -> MsixCapability:
    return MsixCapability(model.vectors, MSIX_BAR, MSIX_TABLE.offset, MSIX_PENDING.offset)
