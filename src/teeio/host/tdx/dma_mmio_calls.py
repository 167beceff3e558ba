"""SEAMCALLs on IOMMUs, trusted DMA and trusted MMIO (TDX Connect; declared in `abi.memory_seamcalls`)."""

from __future__ import annotations

from teeio.abi import memory_seamcalls as m
from teeio.abi.operands import (
    PAGE_SIZE,
    DmarLevel,
    DmarState,
    Invalidation,
    InvalidationState,
    PagesReturned,
)
from teeio.abi.statuses import Status
from teeio.errors import Reject
from teeio.host.dmar_tables import qwords, state_of
from teeio.host.tdx.answering import Answering, answers
from teeio.host.tdx.interface import Devif
from teeio.host.tdx.peer_caches import cut_off
from teeio.host.tdx.records import Records, StreamPhase, Tvm, requester_id_of
from teeio.host.trusted_remapping import SecondStage
from teeio.tdisp.messages import InterfaceState


class DmaMmioCalls(Answering):
    """The module's answers to these calls."""

    records: Records

    # -- IOMMU in TDX mode

    @answers
    def tdh_iommu_setup(self, call: m.TdhIommuSetup, /) -> None:
        """Put an IOMMU into TDX mode."""
        records = self.records
        if call.iommu_id not in records.iommus or call.iommu_id in records.iommu_pages:
            raise Reject(Status.OPERAND_INVALID, f"IOMMU {call.iommu_id} has no TDX mode, or is in it already")
        if len(call.pages) != m.IOMMU_PAGES:
            raise Reject(Status.OPERAND_INVALID, f"{len(call.pages)} pages: root table, queue, notes on the queue")
        records.give(call.pages)
        records.dmar[call.iommu_id].set_up(*call.pages)
        records.iommu_pages[call.iommu_id] = call.pages

    @answers
    def tdh_iommu_clear(self, call: m.TdhIommuClear, /) -> PagesReturned:
        """Take an IOMMU that nobody uses out of TDX mode."""
        records = self.records
        tables = records.iommu(call.iommu_id)
        if any(context.iommu_id == call.iommu_id for context in records.contexts.values()):
            raise Reject(Status.OPERAND_BUSY, "sessions or streams are left")
        tables.take_down()
        return PagesReturned(records.give_back(records.iommu_pages.pop(call.iommu_id)))

    @answers
    def tdh_iqinv_req(self, call: m.TdhIqinvReq, /) -> None:
        """Queue an invalidation."""
        tables = self.records.iommu(call.iommu_id)
        if call.scope is Invalidation.IOTLB:
            tables.request(call.scope, call.target, self.records.tvm(call.target).sept.owner)
        else:
            tables.request(call.scope, requester_id_of(call.target))

    @answers
    def tdh_iqinv_proc(self, call: m.TdhIqinvProc, /) -> m.InvalidationsDone:
        """Process the queue."""
        return m.InvalidationsDone(*self.records.iommu(call.iommu_id).process())

    # -- trusted DMA

    @answers
    def tdh_dmar_add(self, call: m.TdhDmarAdd, /) -> None:
        """Add an entry; one of an interface leads to its TVM, on the IOMMU that its requests go through."""
        tables = self.records.iommu(call.iommu_id)
        if call.level is DmarLevel.PASID:
            devif = self._devif_behind(call)
            second = SecondStage(devif.tvm.sept, devif.tvm.shared)
            tables.add(call.level, devif.function_id, call.entry, second)
            return
        if call.tdr:
            raise Reject(Status.OPERAND_INVALID, f"a {call.level.name} entry leads to no TVM: tdr is 0")
        tables.add(call.level, requester_id_of(call.function_id), call.entry)

    def _devif_behind(self, call: m.TdhDmarAdd) -> Devif:
        """Find the interface that a PASID entry is for."""
        devif = self.records.devif(call.function_id)
        if devif.tvm is not self.records.tvm(call.tdr):
            raise Reject(Status.TDI_NOT_PRESENT, f"interface {call.function_id:#x} is not this TVM's")
        if devif.stream.spdm.iommu_id != call.iommu_id:
            raise Reject(Status.OPERAND_INVALID, f"requests of the interface do not go through IOMMU {call.iommu_id}")
        return devif

    @answers
    def tdh_dmar_block(self, call: m.TdhDmarBlock, /) -> None:
        """Block an entry."""
        self.records.iommu(call.iommu_id).block(call.level, requester_id_of(call.function_id))

    @answers
    def tdh_dmar_read(self, call: m.TdhDmarRead, /) -> m.DmarRead:
        """Read an entry."""
        entry = self.records.iommu(call.iommu_id).read(call.level, requester_id_of(call.function_id))
        return m.DmarRead(state_of(entry), InvalidationState(entry.invalidation), qwords(entry))

    @answers
    def tdh_dmar_remove(self, call: m.TdhDmarRemove, /) -> PagesReturned:
        """Remove an entry."""
        tables = self.records.iommu(call.iommu_id)
        return PagesReturned(tables.remove(call.level, requester_id_of(call.function_id)))

    # -- trusted MMIO

    @answers
    def tdh_mmiomt_add(self, call: m.TdhMmiomtAdd, /) -> None:
        """Add a metadata page."""
        self.records.give((call.page,))
        try:
            self.records.mmio.add(call.mmio, call.page)
        except Reject:
            self.records.give_back((call.page,))
            raise

    @answers
    def tdh_mmiomt_set(self, call: m.TdhMmiomtSet, /) -> None:
        """Give MMIO pages to an interface, or to none."""
        requester_id = self.records.devif(call.function_id).function_id if call.function_id else 0
        self.records.mmio.set(call.mmio, call.count, requester_id)

    @answers
    def tdh_mmiomt_rd(self, call: m.TdhMmiomtRd, /) -> m.MmioPage:
        """Read the metadata of a page."""
        entry = self.records.mmio.described(call.mmio)
        return m.MmioPage(entry.function_id, entry.mapped) if entry else m.MmioPage(0, False)

    @answers
    def tdh_mmiomt_remove(self, call: m.TdhMmiomtRemove, /) -> PagesReturned:
        """Remove a metadata page."""
        return PagesReturned(self.records.give_back((self.records.mmio.remove(call.mmio),)))

    @answers
    def tdh_mmio_map(self, call: m.TdhMmioMap, /) -> None:
        """Map MMIO of the TVM's own interface, where T=1 requests find the interface's stream."""
        records = self.records
        tvm = records.tvm(call.tdr)
        devif = records.devifs.get(records.mmio.owner(call.mmio, call.level.size))
        if devif is None or devif.tvm is not tvm:
            raise Reject(Status.MMIO_DEVIF_OWNER_MISMATCH, f"MMIO at {call.mmio:#x} is not of an interface of this TVM")
        devif.stream.check_not_blocked()
        if not devif.stream.memory.holds(call.mmio, call.level.size):
            raise Reject(
                Status.MMIO_INVALID_PAGE_METADATA,
                f"MMIO at {call.mmio:#x} is not associated with the interface's IDE stream",
            )
        devif.stream.check_pages_flushed(devif.function_id, call.mmio, call.level.size)
        tvm.sept.map_mmio(call.gpa, call.mmio, call.level)

    @answers
    def tdh_mmio_block(self, call: m.TdhMmioBlock, /) -> None:
        """Block a private MMIO mapping; a peer that has direct access to it forgets where it leads."""
        tvm = self.records.tvm(call.tdr)
        tvm.sept.block_mmio(call.gpa, call.level)
        devif = self._devif_at(tvm, call.gpa)
        if devif is not None:
            cut_off(self.records, devif)

    @answers
    def tdh_mmio_unmap(self, call: m.TdhMmioUnmap, /) -> None:
        """Remove a mapping of an interface that nothing trusted reaches any more."""
        tvm = self.records.tvm(call.tdr)
        devif = self._devif_at(tvm, call.gpa)
        if devif is not None:
            check_quiet(devif)
        mmio = tvm.sept.unmap_mmio(call.gpa, call.level)
        if devif is not None and devif.had_traffic and self.records.rules.rekeys_between_bindings:
            pages = range(mmio, mmio + call.level.size, PAGE_SIZE)
            devif.stream.had_mmio.update(dict.fromkeys(pages, devif.function_id))

    def _devif_at(self, tvm: Tvm, gpa: int) -> Devif | None:
        """Find the interface behind a private mapping; None if there is no mapping."""
        leaf = tvm.sept.leaf(gpa)
        entry = self.records.mmio.entry(leaf.hpa) if leaf else None
        return self.records.devifs.get(entry.function_id) if entry else None


def check_quiet(devif: Devif) -> None:
    """Refuse to take away what a locked interface may still use. Raises `Reject`."""
    unlocked = devif.state is InterfaceState.CONFIG_UNLOCKED
    if not unlocked and devif.stream.phase is not StreamPhase.BLOCKED:
        raise Reject(
            Status.DEVIF_INVALID_STATE,
            f"the interface is {devif.state.name}: STOP it, or block its stream (TDH.IDE.STREAM.BLOCK)",
        )


def check_unmapped(records: Records, devif: Devif) -> None:
    """Refuse to remove an interface that still has DMA or MMIO mapped. Raises `Reject`."""
    if records.dmar_state(devif) is not DmarState.FREE:
        raise Reject(Status.DEVIF_HAS_MAPPED_DMA, "the trusted DMA entry is left: TDH.DMAR.BLOCK and REMOVE")
    if any(records.mmio_mappings(devif)):
        raise Reject(Status.DEVIF_HAS_MAPPED_MMIO, "private MMIO is left: TDH.MMIO.BLOCK and UNMAP")
