"""ATS on the whole platform: what a device reaches by translated addresses, and that trust never comes that way."""

from __future__ import annotations

from typing import Any

import pytest

from teeio.abi.declaration import CallRefused
from teeio.abi.operands import PAGE_SIZE
from teeio.device.models.model import DmaError
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.iommu import Domain
from teeio.host.iommu_faults import FaultReason
from teeio.host.vmm.vfio import UnitKind
from teeio.observe import Refused
from teeio.pcie.capabilities.ats import AtsCapability
from teeio.pcie.capabilities.header import CommonHeader
from teeio.pcie.capabilities.page_request import PageRequestCapability
from teeio.pcie.translation import PageRequest, ResponseCode, Translation
from teeio.platform import ROOT_PORT, Platform
from teeio.tdisp.messages import InterfaceState

IOVA = 0x40_0000


class Bench:
    """A platform with a PF in a legacy domain of the VMM: two pages from `IOVA` on, the second read-only."""

    def __init__(self, *, ats: bool = True, enabled: bool = True) -> None:
        self.events: list[Any] = []
        self.platform = Platform.assemble(seed=7, observer=self.events.append)
        self.pf = self.platform.vmm.bus.enumerate()[0]
        self.bus = self.platform.device.bus_of(self.pf.address)
        self.function = self.platform.device.tdi(self.pf.address).function
        self.memory = self.platform.memory.vmm
        self.pages = self.memory.allocate(2 * PAGE_SIZE)
        self.domain = Domain()
        self.domain.map(IOVA, self.pages)
        self.domain.map(IOVA + PAGE_SIZE, self.pages + PAGE_SIZE, writable=False)
        self.rid = self.pf.address.requester_id
        self.root = self.platform.root_complex.vmm
        self.tables = self.root.legacy_tables(0)
        self.tables.attach(self.rid, self.domain, ats=ats)
        self.agent = self.root.translation_agent(ROOT_PORT)
        self.write(self.function.header, CommonHeader.COMMAND, memory_space=1, bus_master=1)
        if enabled:
            self.write(self.function.space.need(AtsCapability), AtsCapability.CONTROL, enable=1)

    def write(self, block: Any, register: Any, **fields: int) -> None:
        at = getattr(block, "base", 0) + register.offset
        self.root.config_write(self.pf.address, at, register.size, register.put(block.value(register), **fields))

    @property
    def faults(self) -> list[FaultReason]:
        return [fault.reason for fault in self.platform.root_complex.iommus[0].faults]


def test_a_device_that_may_use_ats_reaches_memory_by_translated_addresses() -> None:
    bench = Bench()
    first, second = bench.bus.translating.request(IOVA, 2)
    assert [(one.page * PAGE_SIZE - bench.pages, one.read, one.write) for one in (first, second)] == [
        (0, 1, 1),
        (PAGE_SIZE, 1, 0),
    ]
    bench.domain.unmap(IOVA)
    # Past the domain: the translation, not the table, leads there now.
    bench.bus.write(IOVA + 4, b"by translation")
    assert bench.memory.read(bench.pages + 4, 14) == b"by translation"
    assert bench.agent.invalidate(bench.rid, IOVA)
    with pytest.raises(DmaError, match="UR"):
        bench.bus.read(IOVA, 4)
    assert bench.faults == [FaultReason.NOT_MAPPED]


def test_a_page_that_is_not_mapped_has_no_translation() -> None:
    bench = Bench()
    found = bench.bus.translating.request(IOVA - PAGE_SIZE, 2)
    assert [(one.read, one.write, one.page) for one in found] == [(0, 0, 0), (1, 1, bench.pages // PAGE_SIZE)]
    assert len(bench.bus.translating.cache) == 1
    assert bench.faults == []


def test_a_device_that_will_only_read_is_given_no_more() -> None:
    (entry,) = Bench().bus.translating.request(IOVA, write=False)
    assert (entry.read, entry.write) == (1, 0)


@pytest.mark.parametrize("pages", [1, 2, 4])
def test_an_invalidation_of_many_pages(pages: int) -> None:
    bench = Bench()
    bench.domain.map(IOVA, bench.memory.allocate(8 * PAGE_SIZE), 8 * PAGE_SIZE)
    bench.bus.translating.request(IOVA, 8)
    assert bench.agent.invalidate(bench.rid, IOVA + 4 * PAGE_SIZE, pages)
    cache = bench.bus.translating.cache
    left = [n for n in range(8) if cache.find(IOVA + n * PAGE_SIZE, write=False) is not None]
    assert left == [n for n in range(8) if not 4 <= n < 4 + pages]


def test_an_invalidation_that_nobody_completes() -> None:
    bench = Bench(enabled=False)
    assert not bench.agent.invalidate(bench.rid, IOVA)
    assert not bench.agent.invalidate(0x0777, IOVA)


@pytest.mark.parametrize("ats", [False, True])
def test_translated_addresses_count_only_where_the_vmm_allows_them(ats: bool) -> None:
    """The device forges a translation for a page of the VMM that no domain maps."""
    bench = Bench(ats=True)
    bench.bus.translating.request(IOVA)
    bench.tables.attach(bench.rid, bench.domain, ats=ats)
    bench.bus.write(IOVA, b"forged")
    assert bench.memory.read(bench.pages, 6) == (b"forged" if ats else bytes(6))
    assert bench.faults == ([] if ats else [FaultReason.NO_ATS])
    if not ats:
        with pytest.raises(DmaError, match="UR"):
            bench.bus.translating.request(IOVA)


def test_no_translation_leads_to_private_memory_however_old_it_is() -> None:
    bench = Bench()
    bench.bus.translating.request(IOVA)
    owner = bench.platform.memory.create_owner()
    bench.platform.memory.assign(bench.pages, owner)
    bench.platform.memory.view(owner).write(bench.pages, b"secret")
    with pytest.raises(DmaError, match="UR"):
        bench.bus.read(IOVA, 6)
    bench.bus.write(IOVA, b"evil!!")
    assert bench.platform.memory.view(owner).read(bench.pages, 6) == b"secret"
    assert bench.faults == [FaultReason.PRIVATE_MEMORY] * 2
    (entry,) = bench.bus.translating.request(IOVA)
    assert (entry.read, entry.write, entry.page) == (0, 0, 0)


def test_the_vmm_answers_page_requests() -> None:
    bench = Bench()
    assert bench.function.page_requests is not None
    bench.write(bench.function.page_requests, PageRequestCapability.CONTROL, enable=1)
    bench.write(bench.function.page_requests, PageRequestCapability.ALLOCATION, requests=1)
    assert bench.bus.translating.request_page(IOVA) is ResponseCode.INVALID_REQUEST

    def present(requester_id: int, request: PageRequest) -> ResponseCode:
        bench.domain.map(request.page * PAGE_SIZE, bench.pages)
        return ResponseCode.SUCCESS

    bench.agent.on_page_request = present
    missing = IOVA + 8 * PAGE_SIZE
    assert bench.bus.translating.request_page(missing) is ResponseCode.SUCCESS
    (entry,) = bench.bus.translating.request(missing)
    assert entry.page == bench.pages // PAGE_SIZE


def assigned(events: list[Any]) -> tuple[Platform, Any, Any, Any]:
    """Give a platform with a VF assigned to a TVM, the VF, the PF, and the guest."""
    platform = Platform.assemble(seed=7, observer=events.append)
    pf = platform.vmm.bus.enumerate()[0]
    vf = platform.vmm.bus.enable_vfs(pf, 1)[0]
    platform.vmm.pci_tsm.connect(pf, platform.now())
    guest = platform.launch("TVM", platform.vmm.vfio.unit(UnitKind.VF, vf.address))
    return platform, pf, vf, guest


def configure(platform: Platform, function: Any, block: Any, register: Any, **fields: int) -> None:
    platform.root_complex.vmm.config_write(
        function.address, block.base + register.offset, register.size, register.put(0, **fields)
    )


@pytest.mark.parametrize("which", ["ATS", "PRS"])
def test_tdx_accepts_no_interface_with_ats_or_page_requests(which: str) -> None:
    """The VMM turns them on before the lock; the report says so, and the TDX module does not hand it out."""
    platform, pf, vf, guest = assigned([])
    if which == "ATS":
        ats = platform.device.tdi(vf.address).function.space.need(AtsCapability)
        configure(platform, vf, ats, AtsCapability.CONTROL, enable=1)
    else:
        pages = platform.device.pfs[0].space.need(PageRequestCapability)
        configure(platform, pf, pages, PageRequestCapability.CONTROL, enable=1)
    with pytest.raises(CallRefused, match=f"{which}_ENABLED"):
        guest.interface().bring_up(guest.verifier, TRUSTED_REGISTERS, platform.now())
    assert platform.device.tdi(vf.address).state is not InterfaceState.RUN


def test_tdx_refuses_trusted_ats() -> None:
    """ATS may be turned on while a TDI is locked; its first Translation Request with T=1 is then its last."""
    events: list[Any] = []
    platform, _, vf, guest = assigned(events)
    guest.interface().bring_up(guest.verifier, TRUSTED_REGISTERS, platform.now())
    tdi = platform.device.tdi(vf.address)
    configure(platform, vf, tdi.function.space.need(AtsCapability), AtsCapability.CONTROL, enable=1)
    # What the VMM allows the function with T=0 does not count.
    platform.root_complex.vmm.legacy_tables(0).attach(vf.address.requester_id, Domain(), ats=True)
    assert tdi.state is InterfaceState.RUN
    private = guest.tvm.allocate(PAGE_SIZE)
    with pytest.raises(DmaError, match=r"RUN|UR"):
        platform.device.bus_of(vf.address).translating.request(private.gpa)
    assert tdi.state is InterfaceState.ERROR
    assert any(isinstance(one, Refused) and "no trusted ATS" in one.rule for one in events)


def test_no_trusted_request_gets_past_the_secure_ept_by_a_translated_address() -> None:
    """A device in RUN that makes up a translation reaches neither private memory nor the VMM's."""
    platform, _, vf, guest = assigned([])
    guest.interface().bring_up(guest.verifier, TRUSTED_REGISTERS, platform.now())
    tdi = platform.device.tdi(vf.address)
    configure(platform, vf, tdi.function.space.need(AtsCapability), AtsCapability.CONTROL, enable=1)
    platform.root_complex.vmm.legacy_tables(0).attach(vf.address.requester_id, Domain(), ats=True)
    page = platform.memory.vmm.allocate()
    tdi.function.translations.keep(IOVA, Translation(read=1, write=1, page=page // PAGE_SIZE))
    bus = platform.device.bus_of(vf.address)
    bus.write(IOVA, b"forged")
    assert platform.memory.vmm.read(page, 6) == bytes(6)
    with pytest.raises(DmaError, match="UR"):
        bus.read(IOVA, 6)
    assert [fault.reason for fault in platform.root_complex.iommus[0].faults] == [FaultReason.NO_ATS] * 2
    assert tdi.state is InterfaceState.ERROR
