"""The small world that is explored: one device with two VFs, two TVMs that have one each, and what must be remembered of them.

The parts under exploration are the real ones. Data objects go from the VMM to the device without the register traffic of the
DOE mailbox, which no property depends on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from teeio.abi import memory_seamcalls as m
from teeio.abi.operands import PAGE_SIZE, DmarLevel, Invalidation
from teeio.accelerator_interface import MEMORY_OFFSET, REGISTER_BAR
from teeio.device.configuration import Configuration
from teeio.device.tdi import Tdi
from teeio.errors import Misuse, Reject
from teeio.explorer.courier import Courier
from teeio.explorer.ledger import Ledger
from teeio.explorer.tap import Tap
from teeio.explorer.witness import Witness
from teeio.guest.accept import AssignedInterface, TeeRange
from teeio.guest.tvm import MemoryRegion
from teeio.host.dmar_tables import DmarEntry
from teeio.host.iommu import Iommu
from teeio.host.secure_ept import SecureEpt
from teeio.host.tdx.records import TvmPhase
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.mailbox import Mailbox
from teeio.host.vmm.pci_tsm import Connection
from teeio.host.vmm.vfio import UnitKind
from teeio.observe import Observer, ignore
from teeio.platform import Guest, Platform
from teeio.spdm.state import RESPONDER_CAPABILITIES, Settings

TVM_PAGES = 4
MEMORY_SIZE = 1 << 20
NAMES = ("A", "B")
HEARTBEAT = 10
"""Heartbeat period of the session, seconds."""


@dataclass(slots=True)
class Tenant:
    """A TVM with its VF, the TDI that it is at the device, and what the TVM knows.

    `attested` is the lock whose evidence it has seen, `allowed` the one for which it has allowed the start; `mmio` says where
    the private MMIO that it has accepted leads, by guest address; `shared` is what it shares; `secret` is where its secret lies.
    """

    name: str
    guest: Guest
    vf: PciFunction
    tdi: Tdi
    interface: AssignedInterface
    secret: int
    attested: int = 0
    allowed: int = 0
    ranges: tuple[TeeRange, ...] = ()
    reporting_offset: int = 0
    mmio: dict[int, int] = field(default_factory=dict)
    shared: MemoryRegion | None = None

    @property
    def mark(self) -> bytes:
        """What the TVM, and its device on its behalf, write; nobody else may ever read it."""
        return f"secret of TVM {self.name}; ".encode() * 4

    @property
    def public(self) -> bytes:
        """What everybody may know."""
        return f"known of TVM {self.name}; ".encode() * 4

    @property
    def shared_page(self) -> int:
        """The guest address, without the shared bit, of the page that it shares, or would."""
        return self.secret + PAGE_SIZE

    @property
    def registers(self) -> int:
        """The guest address of BAR 0."""
        return next(bar.gpa for bar in self.interface.function.bars if bar.number == REGISTER_BAR)

    @property
    def device_page(self) -> int:
        """The guest address of the page of the device's memory on which the TVM writes its secret."""
        return self.registers + MEMORY_OFFSET + PAGE_SIZE

    @property
    def spare(self) -> int:
        """A guest address at which the TVM has no memory yet."""
        return TVM_PAGES * PAGE_SIZE

    @property
    def tdr(self) -> int:
        """The TVM's name in calls."""
        return self.guest.machine.tdr

    @property
    def function_id(self) -> int:
        """FUNCTION_ID of the VF."""
        return self.vf.function_id


@dataclass(slots=True)
class World:
    """A connected platform with both TVMs booted and their secrets written. `held` are pages that the VMM took from a TVM."""

    platform: Platform
    pf: PciFunction
    tenants: tuple[Tenant, ...]
    tap: Tap
    witness: Witness
    courier: Courier
    ledger: Ledger | None = field(default_factory=lambda: Ledger.current)
    held: list[int] = field(default_factory=list)

    @classmethod
    def begin(cls, observer: Observer = ignore) -> World:
        """Build it; every world is the same byte for byte."""
        settings = Settings(capabilities=RESPONDER_CAPABILITIES, heartbeat_period=HEARTBEAT)
        platform = Platform.assemble(
            seed=1,
            configuration=Configuration(vfs=len(NAMES), settings=settings),
            memory_size=MEMORY_SIZE,
            observer=observer,
        )
        (pf,) = platform.vmm.bus.enumerate()
        platform.vmm.bus.enable_vfs(pf, len(NAMES))
        courier = Courier(platform)

        def mailbox(dsm: PciFunction, told: Observer) -> Mailbox:
            made = Mailbox(dsm, told)
            made.courier = courier
            return made

        platform.vmm.pci_tsm.mailboxes = mailbox
        platform.vmm.pci_tsm.connect(pf, platform.now())
        tenants = tuple(_tenant(platform, name, vf) for name, vf in zip(NAMES, pf.vfs, strict=True))
        return cls(platform, pf, tenants, Tap(platform), Witness(platform), courier)

    @property
    def pci_tsm(self) -> Any:
        """The VMM's side of TDISP."""
        return self.platform.vmm.pci_tsm

    @property
    def tsm(self) -> Any:
        """The TSM, as the VMM calls it."""
        return self.platform.module

    @property
    def connection(self) -> Connection:
        """The VMM's connection to the device. Raises `Misuse` if there is none."""
        found = self.platform.vmm.pci_tsm.connections.get(self.pf.address)
        if found is None:
            raise Misuse("the device is not connected", remedy="connect it first")
        return found

    @property
    def iommu_id(self) -> int:
        """The IOMMU of the device."""
        return self.platform.vmm.bus.host.iommu_of(self.pf.root_port)

    @property
    def living(self) -> tuple[Tenant, ...]:
        """The tenants whose TVM has not ended."""
        tvms = self.platform.module.records.tvms
        return tuple(one for one in self.tenants if one.tdr in tvms and tvms[one.tdr].phase is TvmPhase.RUNNING)

    @property
    def sent(self) -> int:
        """How much was sent so far: data objects to the device, IDE TLPs either way."""
        return self.courier.carried + self.tap.passed

    @property
    def iommu(self) -> Iommu:
        """The IOMMU itself."""
        return self.platform.root_complex.iommus[self.iommu_id]

    def other(self, tenant: Tenant) -> Tenant:
        """Give the other tenant."""
        return next(one for one in self.tenants if one is not tenant)

    def sept(self, tenant: Tenant) -> SecureEpt:
        """Give a TVM's secure EPT. Raises `Misuse` if the TVM has ended."""
        if tenant not in self.living:
            raise Misuse(f"TVM {tenant.name} has ended")
        return self.platform.module.records.tvms[tenant.tdr].sept

    def trusted_entries(self) -> tuple[tuple[DmarLevel, int, DmarEntry], ...]:
        """Give the trusted entries in use; none if somebody wrote into a table, as nothing can be read there then."""
        try:
            return tuple(self.platform.module.records.dmar[self.iommu_id].entries())
        except Reject:
            return ()

    def invalidate(self, scope: Invalidation, target: int) -> None:
        """Have an invalidation queued and carried out, as the VMM does. Raises `CallRefused`."""
        request = m.TdhIqinvReq(iommu_id=self.iommu_id, scope=scope, target=target)
        self.platform.module.tdh_iqinv_req(request).require("TDH.IQINV.REQ")
        self.platform.module.tdh_iqinv_proc(m.TdhIqinvProc(iommu_id=self.iommu_id)).require("TDH.IQINV.PROC")

    def now(self) -> float:
        """Read the clock."""
        return self.platform.now()


def _tenant(platform: Platform, name: str, vf: PciFunction) -> Tenant:
    unit = platform.vmm.vfio.unit(UnitKind.VF, vf.address)
    guest = platform.launch(name, unit, memory_size=TVM_PAGES * PAGE_SIZE)
    tenant = Tenant(
        name, guest, vf, platform.device.tdi(vf.address), guest.interface(), guest.tvm.allocate(PAGE_SIZE).gpa
    )
    tenant.interface.function.enable(platform.now())
    guest.tvm.processor.store(tenant.secret, tenant.mark)
    return tenant
