"""The small world that is explored: one device with two VFs, two TVMs that have one each, and what must be remembered of them.

The parts under exploration are the real ones. Data objects go from the VMM to the device without the register traffic of the
DOE mailbox, which no property depends on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from teeio.abi.operands import PAGE_SIZE
from teeio.device.configuration import Configuration
from teeio.explorer.ledger import Ledger
from teeio.guest.accept import AssignedInterface, TeeRange
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.vfio import UnitKind
from teeio.observe import Observer, ignore
from teeio.platform import Guest, Platform

TVM_PAGES = 4
MEMORY_SIZE = 1 << 20
NAMES = ("A", "B")


@dataclass(slots=True)
class Tenant:
    """A TVM with its VF. `attested` is the lock whose evidence it has seen; `secret` the guest address of its secret."""

    name: str
    guest: Guest
    vf: PciFunction
    interface: AssignedInterface
    secret: int
    attested: int = 0
    ranges: tuple[TeeRange, ...] = ()

    @property
    def mark(self) -> bytes:
        """What the TVM, and its device on its behalf, write; nobody else may ever read it."""
        return f"secret of TVM {self.name}; ".encode() * 4

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
    ledger: Ledger | None = field(default_factory=lambda: Ledger.current)
    held: list[int] = field(default_factory=list)

    @classmethod
    def begin(cls, observer: Observer = ignore) -> World:
        """Build it; every world is the same byte for byte."""
        platform = Platform.assemble(
            seed=1, configuration=Configuration(vfs=len(NAMES)), memory_size=MEMORY_SIZE, observer=observer
        )
        (pf,) = platform.vmm.bus.enumerate()
        platform.vmm.bus.enable_vfs(pf, len(NAMES))
        connection = platform.vmm.pci_tsm.connect(pf, platform.now())
        respond = platform.device.responder.respond
        connection.mailbox.courier = lambda data_object, now: respond(data_object, now) or b""
        tenants = tuple(_tenant(platform, name, vf) for name, vf in zip(NAMES, pf.vfs, strict=True))
        return cls(platform, pf, tenants)

    @property
    def pci_tsm(self) -> Any:
        """The VMM's side of TDISP."""
        return self.platform.vmm.pci_tsm

    @property
    def tsm(self) -> Any:
        """The TSM, as the VMM calls it."""
        return self.platform.module

    def now(self) -> float:
        """Read the clock."""
        return self.platform.now()


def _tenant(platform: Platform, name: str, vf: PciFunction) -> Tenant:
    unit = platform.vmm.vfio.unit(UnitKind.VF, vf.address)
    guest = platform.launch(name, unit, memory_size=TVM_PAGES * PAGE_SIZE)
    tenant = Tenant(name, guest, vf, guest.interface(), guest.tvm.allocate(PAGE_SIZE).gpa)
    tenant.interface.function.enable(platform.now())
    guest.tvm.processor.store(tenant.secret, tenant.mark)
    return tenant
