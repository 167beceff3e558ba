"""TVMs and their memory, IOMMU mode, MMIO metadata: each call in the right and the wrong state, refusals change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from teeio.abi import CALLS, Result
from teeio.abi import memory_seamcalls as m
from teeio.abi import tdcalls as g
from teeio.abi.operands import GPA_SHARED_BIT, PAGE_SIZE, Invalidation, PageLevel
from teeio.abi.statuses import Status
from teeio.crypto.entropy import SeededEntropy
from teeio.host.iommu import Iommu
from teeio.host.memory import TSM, PhysicalMemory
from teeio.host.root_complex import DEVICE_MEMORY, RootComplex
from teeio.host.tdx.module import TdxModule
from teeio.host.tdx.records import MAX_PAGES
from teeio.observe import BoundaryCalled, Event, Refused
from teeio.pcie.address import Bdf


class Bench:
    """A module without devices, IOMMU 0 with a TDX mode and IOMMU 1 without."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.memory = PhysicalMemory(2048 * PAGE_SIZE, SeededEntropy(b"memory"))
        iommus = {number: Iommu(f"iommu{number}", self.memory) for number in range(2)}
        self.root_complex = RootComplex(self.memory, iommus)
        self.root_complex.add_root_port(Bdf(0, 0, 1, 0), 0)
        self.module = TdxModule(
            self.memory,
            self.root_complex,
            SeededEntropy(b"tsm"),
            without_tdx_mode={1},
            observer=self.events.append,
        )
        self.vmm = self.memory.vmm
        self.empty = self.memory.accounting()

    def tvm(self, *, running: bool = True) -> int:
        tdr = self.vmm.allocate()
        self.module.tdh_mng_create(m.TdhMngCreate(tdr=tdr)).require("create")
        self.module.tdh_mng_init(m.TdhMngInit(tdr=tdr)).require("init")
        if running:
            self.module.tdh_mr_finalize(m.TdhMrFinalize(tdr=tdr)).require("finalize")
        return tdr

    def augmented(self, tdr: int, gpa: int = 0) -> int:
        page = self.vmm.allocate()
        self.module.tdh_mem_page_aug(m.TdhMemPageAug(tdr=tdr, gpa=gpa, hpa=page)).require("aug")
        return page

    def remove(self, tdr: int, gpa: int = 0) -> Result[Any]:
        self.module.tdh_mem_range_block(m.TdhMemRangeBlock(tdr=tdr, gpa=gpa)).require("block")
        self.module.tdh_mem_track(m.TdhMemTrack(tdr=tdr)).require("track")
        return self.module.tdh_mem_page_remove(m.TdhMemPageRemove(tdr=tdr, gpa=gpa))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def check(bench: Bench, result: Result[Any], status: Status) -> None:
    assert result.status is status, result.reason
    called = next(event for event in reversed(bench.events) if isinstance(event, BoundaryCalled))
    assert called.status == status.name
    assert status in CALLS[called.name].refusals | {Status.SUCCESS}, "a refusal that is not declared"
    if status.is_error:
        assert result.reason
        refused = bench.events[-1]
        assert isinstance(refused, Refused)
        assert refused.what == called.name


def test_the_life_of_a_tvm_returns_every_page(bench: Bench) -> None:
    tdr = bench.tvm(running=False)
    source, page = bench.vmm.allocate(), bench.vmm.allocate()
    bench.vmm.write(source, b"kernel")
    module = bench.module
    check(bench, module.tdh_mem_page_add(m.TdhMemPageAdd(tdr=tdr, gpa=0, hpa=page, source=source)), Status.SUCCESS)
    check(bench, module.tdh_mr_finalize(m.TdhMrFinalize(tdr=tdr)), Status.SUCCESS)
    pending = bench.augmented(tdr, PAGE_SIZE)
    guest, processor = module.guest(tdr), module.processor(tdr)
    check(bench, guest.tdg_mem_page_accept(g.TdgMemPageAccept(gpa=PAGE_SIZE)), Status.SUCCESS)
    check(bench, guest.tdg_mem_page_accept(g.TdgMemPageAccept(gpa=PAGE_SIZE)), Status.PAGE_ALREADY_ACCEPTED)
    assert processor.load(0, 6) == b"kernel"
    assert processor.load(PAGE_SIZE, 8) == bytes(8)
    assert bench.memory.accounting()[3] == 2
    for gpa, hpa in ((0, page), (PAGE_SIZE, pending)):
        assert bench.remove(tdr, gpa).require("remove").pages == (hpa,)
        assert bench.vmm.read(hpa, PAGE_SIZE) == bytes(PAGE_SIZE), "scrubbed"
    check(bench, module.tdh_mng_key_freeid(m.TdhMngKeyFreeid(tdr=tdr)), Status.SUCCESS)
    check(bench, module.tdh_phymem_page_reclaim(m.TdhPhymemPageReclaim(hpa=tdr)), Status.SUCCESS)
    for one in (tdr, source, page, pending):
        bench.vmm.free(one)
    assert bench.memory.accounting() == bench.empty


def test_contents_are_added_while_building_and_pages_while_running(bench: Bench) -> None:
    building, running = bench.tvm(running=False), bench.tvm()
    source, page = bench.vmm.allocate(), bench.vmm.allocate()
    module = bench.module
    check(
        bench,
        module.tdh_mem_page_add(m.TdhMemPageAdd(tdr=running, gpa=0, hpa=page, source=source)),
        Status.OP_STATE_INCORRECT,
    )
    check(bench, module.tdh_mem_page_aug(m.TdhMemPageAug(tdr=building, gpa=0, hpa=page)), Status.OP_STATE_INCORRECT)
    check(bench, module.tdh_mng_init(m.TdhMngInit(tdr=building)), Status.OP_STATE_INCORRECT)
    check(bench, module.tdh_mr_finalize(m.TdhMrFinalize(tdr=running)), Status.OP_STATE_INCORRECT)


def test_first_contents_never_come_from_somebodys_private_page(bench: Bench) -> None:
    other = bench.tvm()
    secret = bench.augmented(other)
    tdr, page = bench.tvm(running=False), bench.vmm.allocate()
    for source, status in (
        (secret, Status.PAGE_METADATA_INCORRECT),
        (tdr, Status.PAGE_METADATA_INCORRECT),
        (page + 1, Status.OPERAND_INVALID),
        (bench.memory.size, Status.OPERAND_INVALID),
    ):
        call = m.TdhMemPageAdd(tdr=tdr, gpa=0, hpa=page, source=source)
        check(bench, bench.module.tdh_mem_page_add(call), status)


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda b, tdr, page: m.TdhMemPageAug(tdr=tdr, gpa=4 << 20, hpa=tdr), Status.PAGE_METADATA_INCORRECT),
        (lambda b, tdr, page: m.TdhMemPageAug(tdr=tdr, gpa=0, hpa=page), Status.EPT_ENTRY_NOT_FREE),
        (lambda b, tdr, page: m.TdhMemPageAug(tdr=tdr, gpa=4 << 20, hpa=page + 8), Status.OPERAND_INVALID),
        (lambda b, tdr, page: m.TdhMemPageAug(tdr=tdr, gpa=4 << 20, hpa=1 << 45), Status.OPERAND_INVALID),
        (lambda b, tdr, page: m.TdhMemPageAug(tdr=tdr, gpa=GPA_SHARED_BIT, hpa=page), Status.OPERAND_INVALID),
        (lambda b, tdr, page: m.TdhMemPageAug(tdr=page, gpa=4 << 20, hpa=page), Status.OPERAND_INVALID),
    ],
)
def test_bad_pages_are_refused(bench: Bench, make: Callable[..., m.TdhMemPageAug], status: Status) -> None:
    tdr = bench.tvm()
    bench.augmented(tdr)
    before = bench.memory.accounting()
    page = bench.vmm.allocate()
    check(bench, bench.module.tdh_mem_page_aug(make(bench, tdr, page)), status)
    bench.vmm.free(page)
    assert bench.memory.accounting() == before


def test_a_page_leaves_only_blocked_and_tracked(bench: Bench) -> None:
    tdr = bench.tvm()
    bench.augmented(tdr)
    module = bench.module
    remove = m.TdhMemPageRemove(tdr=tdr, gpa=0)
    check(bench, module.tdh_mem_page_remove(remove), Status.EPT_ENTRY_STATE_INCORRECT)
    check(bench, module.tdh_mem_range_block(m.TdhMemRangeBlock(tdr=tdr, gpa=0)), Status.SUCCESS)
    check(bench, module.tdh_mem_page_remove(remove), Status.TLB_TRACKING_NOT_DONE)
    check(bench, module.tdh_mem_track(m.TdhMemTrack(tdr=tdr)), Status.SUCCESS)
    check(
        bench,
        module.tdh_mem_page_remove(m.TdhMemPageRemove(tdr=tdr, gpa=0, level=PageLevel.PAGE_2M)),
        Status.PAGE_SIZE_MISMATCH,
    )
    check(bench, module.tdh_mem_page_remove(remove), Status.SUCCESS)
    check(bench, module.tdh_mem_page_remove(remove), Status.EPT_WALK_FAILED)


def test_large_pages_come_back_as_small_ones(bench: Bench) -> None:
    tdr, large = bench.tvm(), PageLevel.PAGE_2M
    page = bench.vmm.allocate(large.size, large.size)
    module = bench.module
    check(
        bench,
        module.tdh_mem_page_aug(m.TdhMemPageAug(tdr=tdr, gpa=large.size, hpa=page, level=large)),
        Status.SUCCESS,
    )
    module.tdh_mem_range_block(m.TdhMemRangeBlock(tdr=tdr, gpa=large.size, level=large))
    module.tdh_mem_track(m.TdhMemTrack(tdr=tdr))
    returned = module.tdh_mem_page_remove(m.TdhMemPageRemove(tdr=tdr, gpa=large.size, level=large)).require("remove")
    assert returned.pages == tuple(range(page, page + large.size, PAGE_SIZE))


def test_a_tvm_ends_once_and_empty(bench: Bench) -> None:
    tdr = bench.tvm()
    bench.augmented(tdr)
    module = bench.module
    free, reclaim = m.TdhMngKeyFreeid(tdr=tdr), m.TdhPhymemPageReclaim(hpa=tdr)
    check(bench, module.tdh_mng_key_freeid(free), Status.TD_ASSOCIATED_PAGES_EXIST)
    check(bench, module.tdh_phymem_page_reclaim(reclaim), Status.LIFECYCLE_STATE_INCORRECT)
    bench.remove(tdr).require("remove")
    check(bench, module.tdh_mng_key_freeid(free), Status.SUCCESS)
    check(bench, module.tdh_mng_key_freeid(free), Status.LIFECYCLE_STATE_INCORRECT)
    check(bench, module.tdh_mem_track(m.TdhMemTrack(tdr=tdr)), Status.OPERAND_INVALID)
    check(bench, module.tdh_phymem_page_reclaim(reclaim), Status.SUCCESS)
    check(bench, module.tdh_phymem_page_reclaim(reclaim), Status.PAGE_METADATA_INCORRECT)


def test_root_pages_must_be_the_vmms_and_keys_run_out(bench: Bench) -> None:
    check(bench, bench.module.tdh_mng_create(m.TdhMngCreate(tdr=bench.memory.size)), Status.OPERAND_INVALID)
    check(bench, bench.module.tdh_mng_create(m.TdhMngCreate(tdr=0)), Status.PAGE_METADATA_INCORRECT)
    tdr = bench.tvm()
    check(bench, bench.module.tdh_mng_create(m.TdhMngCreate(tdr=tdr)), Status.PAGE_METADATA_INCORRECT)
    for _ in range(252):
        bench.tvm()
    page = bench.vmm.allocate()
    check(bench, bench.module.tdh_mng_create(m.TdhMngCreate(tdr=page)), Status.HKID_NOT_FREE)


def test_attributes_without_a_meaning_are_refused(bench: Bench) -> None:
    tdr = bench.vmm.allocate()
    bench.module.tdh_mng_create(m.TdhMngCreate(tdr=tdr)).require("create")
    check(bench, bench.module.tdh_mng_init(m.TdhMngInit(tdr=tdr, attributes=1 << 62)), Status.OPERAND_INVALID)


def test_tvms_do_not_reach_each_others_pages(bench: Bench) -> None:
    mine, other = bench.tvm(), bench.tvm()
    bench.augmented(mine)
    page = bench.augmented(other)
    guest = bench.module.guest(other)
    guest.tdg_mem_page_accept(g.TdgMemPageAccept(gpa=0)).require("accept")
    bench.module.processor(other).store(0, b"secret")
    call = m.TdhMemPageAug(tdr=mine, gpa=PAGE_SIZE, hpa=page)
    check(bench, bench.module.tdh_mem_page_aug(call), Status.PAGE_METADATA_INCORRECT)
    assert b"secret" not in bench.vmm.read(0, bench.memory.size)
    assert bench.module.processor(other).load(0, 6) == b"secret"


# -- IOMMU in TDX mode ------------------------------------------------------------------------------------------------


def test_an_iommu_goes_into_tdx_mode_and_out_of_it(bench: Bench) -> None:
    module, pages = bench.module, tuple(bench.vmm.allocate() for _ in range(m.IOMMU_PAGES))
    tdr = bench.tvm()
    before = bench.memory.accounting()[TSM]
    request = m.TdhIqinvReq(iommu_id=0, scope=Invalidation.ROOT, target=0x100)
    check(bench, module.tdh_iqinv_req(request), Status.IOMMU_NOT_CONFIGURED)
    check(bench, module.tdh_iommu_setup(m.TdhIommuSetup(iommu_id=1, pages=pages)), Status.OPERAND_INVALID)
    check(bench, module.tdh_iommu_setup(m.TdhIommuSetup(iommu_id=0, pages=pages)), Status.SUCCESS)
    assert bench.memory.accounting()[TSM] == before + m.IOMMU_PAGES
    check(bench, module.tdh_iommu_setup(m.TdhIommuSetup(iommu_id=0, pages=pages)), Status.OPERAND_INVALID)
    check(bench, module.tdh_iqinv_req(request), Status.DMAR_INVALID_MAPPING_STATE)
    flush = m.TdhIqinvReq(iommu_id=0, scope=Invalidation.IOTLB, target=tdr)
    for _ in range(63):
        check(bench, module.tdh_iqinv_req(flush), Status.SUCCESS)
    check(bench, module.tdh_iqinv_req(flush), Status.IOMMU_QUEUE_FULL)
    done = module.tdh_iqinv_proc(m.TdhIqinvProc(iommu_id=0)).require("proc")
    assert done == m.InvalidationsDone(63, 0)
    assert module.tdh_iommu_clear(m.TdhIommuClear(iommu_id=0)).require("clear").pages == pages
    check(bench, module.tdh_iommu_clear(m.TdhIommuClear(iommu_id=0)), Status.IOMMU_NOT_CONFIGURED)
    assert bench.memory.accounting()[TSM] == before


def test_the_modules_pages_are_given_all_or_none(bench: Bench) -> None:
    pages = (bench.vmm.allocate(), bench.vmm.allocate(), 0x1_0000)
    before = bench.memory.accounting()
    check(bench, bench.module.tdh_iommu_setup(m.TdhIommuSetup(iommu_id=0, pages=pages)), Status.PAGE_METADATA_INCORRECT)
    for wrong in ((), tuple(range(0, (MAX_PAGES + 1) * PAGE_SIZE, PAGE_SIZE)), (pages[0],), (pages[0],) * 3):
        status = bench.module.tdh_iommu_setup(m.TdhIommuSetup(iommu_id=0, pages=wrong)).status
        assert status in (Status.OPERAND_INVALID, Status.PAGE_METADATA_INCORRECT)
    assert bench.memory.accounting() == before


# -- MMIO metadata without interfaces ---------------------------------------------------------------------------------


def test_mmio_metadata_is_for_device_memory_above_4_gib(bench: Bench) -> None:
    module, page = bench.module, bench.vmm.allocate()
    for mmio, status in (
        (0, Status.OPERAND_INVALID),
        (DEVICE_MEMORY.start + PAGE_SIZE, Status.OPERAND_INVALID),
        (0xE000_0000, Status.OPERAND_INVALID),
    ):
        check(bench, module.tdh_mmiomt_add(m.TdhMmiomtAdd(mmio=mmio, page=page)), status)
    add = m.TdhMmiomtAdd(mmio=DEVICE_MEMORY.start, page=page)
    check(bench, module.tdh_mmiomt_add(add), Status.SUCCESS)
    again = m.TdhMmiomtAdd(mmio=DEVICE_MEMORY.start, page=bench.vmm.allocate())
    check(bench, module.tdh_mmiomt_add(again), Status.MMIO_INVALID_PAGE_METADATA)
    check(
        bench,
        module.tdh_mmiomt_set(m.TdhMmiomtSet(mmio=DEVICE_MEMORY.start, count=1, function_id=0x100)),
        Status.TDI_NOT_PRESENT,
    )
    assert module.tdh_mmiomt_rd(m.TdhMmiomtRd(mmio=DEVICE_MEMORY.start)).require("rd") == m.MmioPage(0, False)
    remove = m.TdhMmiomtRemove(mmio=DEVICE_MEMORY.start)
    assert module.tdh_mmiomt_remove(remove).require("remove").pages == (page,)
    check(bench, module.tdh_mmiomt_remove(remove), Status.MMIO_INVALID_PAGE_METADATA)
    check(bench, module.tdh_mmiomt_rd(m.TdhMmiomtRd(mmio=DEVICE_MEMORY.start)), Status.MMIO_INVALID_PAGE_METADATA)


def test_mmio_of_nobody_cannot_be_mapped(bench: Bench) -> None:
    call = m.TdhMmioMap(tdr=bench.tvm(), gpa=DEVICE_MEMORY.start, mmio=DEVICE_MEMORY.start)
    check(bench, bench.module.tdh_mmio_map(call), Status.MMIO_INVALID_PAGE_METADATA)
