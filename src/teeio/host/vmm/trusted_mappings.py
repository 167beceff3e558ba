"""What of an interface the VMM maps for a TVM by the TSM: trusted DMA (`trusted_dma`) and private MMIO (TDX Connect).

The TVM accepts what it wants of it. Taking mappings away goes in the order that the TSM demands: block, invalidate
every cache, remove. MMIO is mapped by 2 MiB where guest address, physical address and size allow, else by 4 KiB.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from teeio.abi import VmmToTsm
from teeio.abi import memory_seamcalls as m
from teeio.abi.operands import PAGE_SIZE, Invalidation, PageLevel
from teeio.abi.statuses import Status
from teeio.host.vmm.page_lender import PageLender
from teeio.host.vmm.trusted_dma import TrustedDma

MMIO_REGION = PageLevel.PAGE_2M.size
"""MMIO that one page of metadata stands for."""


class MappedMmio(NamedTuple):
    """One mapping: where it leads, and its size."""

    mmio: int
    level: PageLevel


@dataclass(slots=True)
class MappedInterface:
    """What is mapped of one interface: `pages` by guest address, in the metadata `regions`."""

    function_id: int
    tdr: int
    iommu_id: int
    pages: dict[int, MappedMmio] = field(default_factory=dict)
    regions: set[int] = field(default_factory=set)


class TrustedMappings:
    """The mappings of all interfaces of one host."""

    def __init__(self, tsm: VmmToTsm, lender: PageLender) -> None:
        self._tsm = tsm
        self._lender = lender
        self._users: dict[int, int] = {}
        self._described: set[int] = set()
        self._dma = TrustedDma(tsm, lender)
        self.empty_device_tlbs: Callable[[int], None] = _no_device_tlbs
        """Lets the devices of a TVM forget the translations that they have, where they may have any (`peers`)."""

    @property
    def in_use(self) -> int:
        """How many trusted entries and regions of private MMIO there are."""
        return self._dma.in_use + sum(self._users.values()) + len(self._described)

    # -- trusted DMA

    def add_dma(self, mapped: MappedInterface) -> None:
        """Add the trusted entry, for the TVM to accept. Raises `CallRefused`."""
        self._dma.add(mapped.iommu_id, mapped.function_id, mapped.tdr)

    def remove_dma(self, mapped: MappedInterface) -> list[Callable[[], None]]:
        """Give the steps that block, invalidate and remove the trusted entry, and what of the tables led to it alone."""
        return self._dma.remove(mapped.iommu_id, mapped.function_id)

    def flush_tvm(self, tdr: int) -> None:
        """Let all translation caches forget what was blocked of a TVM. Raises `CallRefused`."""
        self._tsm.tdh_mem_track(m.TdhMemTrack(tdr=tdr)).require("TDH.MEM.TRACK")
        for iommu_id in self._dma.iommus:
            self._dma.invalidate(iommu_id, Invalidation.IOTLB, tdr)
        self.empty_device_tlbs(tdr)

    # -- private MMIO

    def map_mmio(self, mapped: MappedInterface, gpa: int, mmio: int, size: int) -> None:
        """Map MMIO of the interface privately, for the TVM to accept; what is mapped stays as it is.

        Raises `CallRefused`; pages mapped before that stay until `unmap_mmio` is run.
        """
        offset = 0
        while offset < size:
            if gpa + offset not in mapped.pages:
                level = _largest(mapped, gpa + offset, mmio + offset, size - offset)
                self._map_page(mapped, gpa + offset, mmio + offset, level)
            offset += mapped.pages[gpa + offset].level.size

    def _map_page(self, mapped: MappedInterface, gpa: int, mmio: int, level: PageLevel) -> None:
        self._hold_region(mapped, mmio & -MMIO_REGION)
        count = level.size // PAGE_SIZE
        with ExitStack() as undo:
            belongs = m.TdhMmiomtSet(mmio=mmio, count=count, function_id=mapped.function_id)
            self._tsm.tdh_mmiomt_set(belongs).require("TDH.MMIOMT.SET")
            undo.callback(self._tsm.tdh_mmiomt_set, m.TdhMmiomtSet(mmio=mmio, count=count, function_id=0))
            call = m.TdhMmioMap(tdr=mapped.tdr, gpa=gpa, mmio=mmio, level=level)
            self._tsm.tdh_mmio_map(call).require("TDH.MMIO.MAP")
            undo.pop_all()
        mapped.pages[gpa] = MappedMmio(mmio, level)

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

        def block(gpa: int, level: PageLevel) -> None:
            blocked = self._tsm.tdh_mmio_block(m.TdhMmioBlock(tdr=tdr, gpa=gpa, level=level))
            if blocked.status is not Status.EPT_ENTRY_STATE_INCORRECT:  # a page that is blocked already is as wanted
                blocked.require("TDH.MMIO.BLOCK")

        def unmap(gpa: int, level: PageLevel) -> None:
            self._tsm.tdh_mmio_unmap(m.TdhMmioUnmap(tdr=tdr, gpa=gpa, level=level)).require("TDH.MMIO.UNMAP")
            del mapped.pages[gpa]

        def disown(mmio: int, level: PageLevel) -> None:
            call = m.TdhMmiomtSet(mmio=mmio, count=level.size // PAGE_SIZE, function_id=0)
            self._tsm.tdh_mmiomt_set(call).require("TDH.MMIOMT.SET")

        steps: list[Callable[[], None]] = [partial(block, gpa, page.level) for gpa, page in pages]
        steps += [partial(self.flush_tvm, tdr)] if pages else []
        for gpa, page in pages:
            steps += [partial(unmap, gpa, page.level), partial(disown, page.mmio, page.level)]
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


def _no_device_tlbs(tdr: int) -> None:
    """Have none to empty."""


def _largest(mapped: MappedInterface, gpa: int, mmio: int, size: int) -> PageLevel:
    """Choose the largest page that fits here and covers nothing that is mapped."""
    large = PageLevel.PAGE_2M
    fits = not gpa % large.size and not mmio % large.size and size >= large.size
    if fits and not any(page in mapped.pages for page in range(gpa, gpa + large.size, PAGE_SIZE)):
        return large
    return PageLevel.PAGE_4K
