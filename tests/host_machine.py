"""A whole host with one accelerator below a root port, for tests of the host: no guest code, its calls are made by hand."""

from __future__ import annotations

import hashlib
from typing import Any

from teeio.abi import CALLS
from teeio.abi import hypercalls as v
from teeio.abi import tdcalls as g
from teeio.abi.operands import DevifOperation
from teeio.crypto.entropy import SeededEntropy
from teeio.device.configuration import Configuration
from teeio.device.device import Device
from teeio.host.iommu import Iommu
from teeio.host.memory import PhysicalMemory
from teeio.host.root_complex import RootComplex
from teeio.host.tdx.module import TdxModule
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.guest_function import GuestFunction, guest_address
from teeio.host.vmm.kvm import GuestMachine
from teeio.host.vmm.vfio import UnitKind
from teeio.host.vmm.vmm import Vmm
from teeio.observe import BoundaryCalled, Event, Observer, Refused, fan_out
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.header import CommonHeader
from teeio.tdisp.messages import PAGE_SIZE, DeviceInterfaceReport, RangeAttributes

ROOT_PORT = Bdf(0, 0, 1, 0)
NOW = 1.8e9
RAM = 32 * PAGE_SIZE
MEMORY = 512 * PAGE_SIZE


class Guest:
    """One TVM with one VF of the accelerator, and what it would call."""

    def __init__(self, host: Host, name: str = "guest", vf: int = 0) -> None:
        self.host = host
        self.machine: GuestMachine = host.vmm.kvm.create(name, RAM, {0: b"kernel"})
        self.tsm = host.module.guest(self.machine.tdr)
        self.vmm = host.vmm.hypercalls(self.machine)
        self.processor = host.module.processor(self.machine.tdr)
        self.vectors: list[int] = []
        self.machine.on_interrupt = self.vectors.append
        for gpa in range(PAGE_SIZE, RAM, PAGE_SIZE):
            self.tsm.tdg_mem_page_accept(g.TdgMemPageAccept(gpa=gpa)).require("accept")
        self.function: PciFunction = host.vfs[vf]
        unit = host.vmm.vfio.unit(UnitKind.VF, self.function.address)
        self.assigned: GuestFunction = host.vmm.kvm.assign(self.machine, unit)
        self.command(memory_space=1, bus_master=1)
        self.function_id = self.function.function_id

    @property
    def tdi(self) -> Any:
        """The device's own view of the interface."""
        return self.host.device.tdi(self.function.address)

    def command(self, **fields: int) -> None:
        """Write the guest's Command register."""
        self.assigned.config_write(CommonHeader.COMMAND.offset, 2, CommonHeader.COMMAND.put(0, **fields))

    def info(self) -> g.DevifInfo:
        return self.tsm.tdg_devif_read(g.TdgDevifRead(function_id=self.function_id)).require("TDG.DEVIF.READ")

    def bind(self) -> int:
        """Bind and lock; give the bind session id."""
        self.vmm.tdcm_bind(v.TdcmBind(function_id=self.function_id), NOW).require("TDCM.BIND")
        return self.info().bind_session_id

    def ask(self, operation: DevifOperation, bind_session_id: int, nonce: bytes = b"") -> Any:
        call = g.TdgDevifRequest(
            function_id=self.function_id, bind_session_id=bind_session_id, operation=operation, nonce=nonce
        )
        return self.tsm.tdg_devif_request(call)

    def report(self, bind_session_id: int) -> DeviceInterfaceReport:
        self.ask(DevifOperation.REPORT, bind_session_id).require("TDG.DEVIF.REQUEST")
        call = v.TdcmGetTdiReport(function_id=self.function_id)
        data = self.vmm.tdcm_get_tdi_report(call, NOW).require("TDCM.GET.TDI.REPORT").report
        answer = self.tsm.tdg_devif_response(g.TdgDevifResponse(function_id=self.function_id)).require("RESPONSE")
        assert answer.digest == hashlib.sha384(data).digest() == self.info().report_digest
        return DeviceInterfaceReport.decode(data)

    def validate(self, bind_session_id: int) -> Any:
        call = g.TdgDevifValidate(
            function_id=self.function_id,
            bind_session_id=bind_session_id,
            public_key_hash=self.info().public_key_hash,
        )
        return self.tsm.tdg_devif_validate(call)

    def accept_mmio(self, bind_session_id: int, report: DeviceInterfaceReport) -> None:
        for index, part in enumerate(report.ranges):
            if not part.attributes & RangeAttributes.IS_NON_TEE_MEM:
                self.tsm.tdg_mmio_accept(
                    g.TdgMmioAccept(
                        function_id=self.function_id,
                        bind_session_id=bind_session_id,
                        gpa=part.first_address(),
                        range_index=index,
                        page_offset=0,
                        count=part.pages,
                    )
                ).require("TDG.MMIO.ACCEPT")

    def accept_dma(self, bind_session_id: int) -> Any:
        return self.tsm.tdg_dmar_accept(g.TdgDmarAccept(function_id=self.function_id, bind_session_id=bind_session_id))

    def start(self, bind_session_id: int) -> Any:
        """Allow the start and let the VMM drive it."""
        call = g.TdgTdiStart(function_id=self.function_id, bind_session_id=bind_session_id)
        self.tsm.tdg_tdi_start(call).require("TDG.TDI.START")
        return self.vmm.tdcm_start_tdi(v.TdcmStartTdi(function_id=self.function_id), NOW)

    def bring_up(self) -> int:
        """Take the interface from assigned to RUN; give the bind session id."""
        lock = self.bind()
        report = self.report(lock)
        self.validate(lock).require("TDG.DEVIF.VALIDATE")
        self.accept_mmio(lock, report)
        self.accept_dma(lock).require("TDG.DMAR.ACCEPT")
        self.start(lock).require("TDCM.START.TDI")
        return lock

    def unbind(self) -> Any:
        return self.vmm.tdcm_unbind(v.TdcmUnbind(function_id=self.function_id), NOW)

    def bar(self, number: int) -> int:
        """Give the guest address of a BAR."""
        return guest_address(self.function.bars[number])


class Host:
    """The host. Keyword arguments are those of the device's `Configuration`; `root_port` those of its root port."""

    def __init__(
        self,
        *,
        vfs: int = 2,
        connect: bool = True,
        memory_size: int = MEMORY,
        observer: Observer | None = None,
        root_port: dict[str, bool] | None = None,
        **options: Any,
    ) -> None:
        self.events: list[Event] = []
        told = self.events.append if observer is None else fan_out([self.events.append, observer])
        self.memory = PhysicalMemory(memory_size, SeededEntropy(b"memory"), told)
        self.iommu = Iommu("iommu0", self.memory, told)
        self.root_complex = RootComplex(self.memory, {0: self.iommu}, told)
        self.port = self.root_complex.add_root_port(ROOT_PORT, 0, **(root_port or {}))
        self.device = Device(Configuration(vfs=4, **options), SeededEntropy(b"device"), NOW, observer=told)
        self.link = self.root_complex.fabric.attach(self.port, self.device.port, observer=told)
        self.module = TdxModule(self.memory, self.root_complex, SeededEntropy(b"tsm"), observer=told)
        self.vmm = Vmm(self.module, self.root_complex.vmm, self.memory.vmm, self.module.shared_ept, observer=told)
        (self.pf,) = self.vmm.bus.enumerate()
        self.vfs = self.vmm.bus.enable_vfs(self.pf, vfs) if vfs else []
        self.before = self.memory.accounting()
        if connect:
            self.vmm.pci_tsm.connect(self.pf, NOW)

    @property
    def connection(self) -> Any:
        return self.vmm.pci_tsm.connections[self.pf.address]

    def refusals(self) -> list[Refused]:
        return [event for event in self.events if isinstance(event, Refused)]

    def check_declared(self) -> None:
        """Every refusal that happened is one that its call declares."""
        for event in self.events:
            if isinstance(event, BoundaryCalled) and event.callee == "TSM":
                declared = {status.name for status in CALLS[event.name].refusals}
                fine = {"SUCCESS", "SPDM_REQUEST", "INTERRUPTED_RESUMABLE"}
                assert event.status in declared | fine, f"{event.name} answered {event.status}"
