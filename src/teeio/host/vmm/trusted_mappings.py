"""What of an interface the VMM maps for a TVM by the TSM: the trusted DMA entry and private MMIO (TDX Connect).

The TVM accepts what it wants of it. Taking mappings away goes in the order that the TSM demands: block, invalidate
every cache, remove. Left out: 2 MiB mappings of MMIO.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from teeio.abi import VmmToTsm
from teeio.abi import memory_seamcalls as m
from teeio.abi.operands import PAGE_SIZE, Invalidation, PageLevel
from teeio.abi.statuses import Status
from teeio.errors import Incompatible
from teeio.host.vmm.page_lender import PageLender

MAX_INVALIDATION_STEPS = 4096
"""How often the VMM asks the IOMMU's queue to go on before it gives up."""

MMIO_REGION = PageLevel.PAGE_2M.size
"""MMIO that one page of metadata stands for."""


@dataclass(slots=True)
class MappedInterface:
    """What is mapped of one interface: `pages` guest to physical, 4 KiB each, in the metadata `regions`."""

    function_id: int
    tdr: int
    iommu_id: int
    pages: dict[int, int] = field(default_factory=dict)
    regions: set[int] = field(default_factory=set)


class TrustedMappings:
    """The mappings of all interfaces of one host."""

    def __init__(self, tsm: VmmToTsm, lender: PageLender) -> None:
        self._tsm = tsm
        self._lender = lender
        self._users: dict[int, int] = {}
        self._described: set[int] = set()
        self._iommus: dict[int, int] = {}

    # -- trusted DMA

    def add_dma(self, mapped: MappedInterface) -> None:
        """Add the trusted entry, for the TVM to accept. Raises `CallRefused`."""
        self._lender.give(
            lambda pages: self._tsm.tdh_dmar_add(
                m.TdhDmarAdd(iommu_id=mapped.iommu_id, function_id=mapped.function_id, tdr=mapped.tdr, pages=pages)
            )
        ).require("TDH.DMAR.ADD")
        self._iommus[mapped.iommu_id] = self._iommus.get(mapped.iommu_id, 0) + 1

    def remove_dma(self, mapped: MappedInterface) -> list[Callable[[], None]]:
        """Give the steps that block, invalidate and remove the trusted entry. They raise `CallRefused`."""
        iommu_id, function_id = mapped.iommu_id, mapped.function_id

        def block() -> None:
            call = m.TdhDmarBlock(iommu_id=iommu_id, function_id=function_id)
            self._tsm.tdh_dmar_block(call).require("TDH.DMAR.BLOCK")

        def invalidate() -> None:
            self._invalidate(iommu_id, Invalidation.REQUESTER, function_id)

        def remove() -> None:
            removed = self._tsm.tdh_dmar_remove(m.TdhDmarRemove(iommu_id=iommu_id, function_id=function_id))
            removed.require("TDH.DMAR.REMOVE")
            self._lender.take_back(removed)
            self._iommus[iommu_id] -= 1

        return [block, invalidate, remove]

    def _invalidate(self, iommu_id: int, scope: Invalidation, target: int) -> None:
        """Throw away cached translations, and wait until that is done. Raises `CallRefused`."""
        request = m.TdhIqinvReq(iommu_id=iommu_id, scope=scope, target=target)
        process = m.TdhIqinvProc(iommu_id=iommu_id)
        for _ in range(MAX_INVALIDATION_STEPS):
            asked = self._tsm.tdh_iqinv_req(request)
            if asked.status is not Status.IOMMU_QUEUE_FULL:
                break
            self._tsm.tdh_iqinv_proc(process)
        asked.require("TDH.IQINV.REQ")
        for _ in range(MAX_INVALIDATION_STEPS):
            if not self._tsm.tdh_iqinv_proc(process).require("TDH.IQINV.PROC").waiting:
                return
        raise Incompatible(f"IOMMU {iommu_id} has not invalidated after {MAX_INVALIDATION_STEPS} steps")

    def flush_tvm(self, tdr: int) -> None:
        """Let all translation caches forget what was blocked of a TVM."""
        self._tsm.tdh_mem_track(m.TdhMemTrack(tdr=tdr)).require("TDH.MEM.TRACK")
        for iommu_id, entries in self._iommus.items():
            if entries:
                self._invalidate(iommu_id, Invalidation.DOMAIN, tdr)

    # -- private MMIO

    def map_mmio(self, mapped: MappedInterface, gpa: int, mmio: int, size: int) -> None:
        """Map MMIO of the interface privately, page by page, for the TVM to accept; mapped pages stay as they are.

        Raises `CallRefused`; pages mapped before that stay until `unmap_mmio` is run.
        """
        for offset in range(0, size, PAGE_SIZE):
            if gpa + offset not in mapped.pages:
                self._map_page(mapped, gpa + offset, mmio + offset)

    def _map_page(self, mapped: MappedInterface, gpa: int, mmio: int) -> None:
        self._hold_region(mapped, mmio & -MMIO_REGION)
        with ExitStack() as undo:
            belongs = m.TdhMmiomtSet(mmio=mmio, count=1, function_id=mapped.function_id)
            self._tsm.tdh_mmiomt_set(belongs).require("TDH.MMIOMT.SET")
            undo.callback(self._tsm.tdh_mmiomt_set, m.TdhMmiomtSet(mmio=mmio, count=1, function_id=0))
            self._tsm.tdh_mmio_map(m.TdhMmioMap(tdr=mapped.tdr, gpa=gpa, mmio=mmio)).require("TDH.MMIO.MAP")
            undo.pop_all()
        mapped.pages[gpa] = mmio

    def _hold_region(self, mapped: MappedInterface, region: int) -> None:
        """Add the metadata page of 2 MiB of MMIO, which interfaces may have in common."""
        if region in mapped.regions:
            return
        if region not in self._described:
            self._lender.give(
                lambda pages: self._tsm.tdh_mmiomt_add(m.TdhMmiomtAdd(mmio=region, page=pages[0]))
            ).require("TDH.MMIOMT.ADD")
            self._described.add(region)
        self._users[region] = self._users.get(region, 0) + 1
        mapped.regions.add(region)

    def unmap_mmio(self, mapped: MappedInterface) -> list[Callable[[], None]]:
        """Give the steps that remove all private MMIO mappings of an interface that is stopped. They raise `CallRefused`."""
        tdr, pages = mapped.tdr, list(mapped.pages.items())

        def block(gpa: int) -> None:
            blocked = self._tsm.tdh_mmio_block(m.TdhMmioBlock(tdr=tdr, gpa=gpa))
            if blocked.status is not Status.EPT_ENTRY_STATE_INCORRECT:  # a page that is blocked already is as wanted
                blocked.require("TDH.MMIO.BLOCK")

        def unmap(gpa: int) -> None:
            self._tsm.tdh_mmio_unmap(m.TdhMmioUnmap(tdr=tdr, gpa=gpa)).require("TDH.MMIO.UNMAP")
            del mapped.pages[gpa]

        def disown(mmio: int) -> None:
            self._tsm.tdh_mmiomt_set(m.TdhMmiomtSet(mmio=mmio, count=1, function_id=0)).require("TDH.MMIOMT.SET")

        steps: list[Callable[[], None]] = [partial(block, gpa) for gpa, _ in pages]
        steps += [partial(self.flush_tvm, tdr)] if pages else []
        for gpa, mmio in pages:
            steps += [partial(unmap, gpa), partial(disown, mmio)]
        return steps + [partial(self._leave_region, mapped, region) for region in mapped.regions]

    def _leave_region(self, mapped: MappedInterface, region: int) -> None:
        """Take the metadata page back once nobody needs it."""
        if self._users[region] == 1:
            removed = self._tsm.tdh_mmiomt_remove(m.TdhMmiomtRemove(mmio=region))
            removed.require("TDH.MMIOMT.REMOVE")
            self._lender.take_back(removed)
            self._described.discard(region)
        self._users[region] -= 1
        mapped.regions.discard(region)
