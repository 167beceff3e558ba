"""SEAMCALLs on IOMMUs, trusted DMA and trusted MMIO (TDX Connect; declared in `abi.memory_seamcalls`)."""

from __future__ import annotations

from teeio.abi import memory_seamcalls as m
from teeio.abi.operands import PAGE_SIZE, PagesReturned
from teeio.abi.statuses import Status
from teeio.errors import Reject
from teeio.host.iommu import DmarState
from teeio.host.tdx.answering import Answering, answers
from teeio.host.tdx.interface import Devif
from teeio.host.tdx.records import Records, StreamPhase, Tvm, requester_id_of
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
        records.give(call.pages)
        records.iommu_pages[call.iommu_id] = call.pages

    @answers
    def tdh_iommu_clear(self, call: m.TdhIommuClear, /) -> PagesReturned:
        """Take an IOMMU that nobody uses out of TDX mode."""
        records = self.records
        trusted = records.iommu(call.iommu_id)
        in_use = any(context.iommu_id == call.iommu_id for context in records.contexts.values())
        if trusted.entries or in_use:
            raise Reject(Status.OPERAND_BUSY, "trusted entries, sessions or streams are left")
        trusted.process()
        return PagesReturned(records.give_back(records.iommu_pages.pop(call.iommu_id)))

    @answers
    def tdh_iqinv_req(self, call: m.TdhIqinvReq, /) -> None:
        """Queue an invalidation."""
        self.records.iommu(call.iommu_id).request(call.scope, call.target)

    @answers
    def tdh_iqinv_proc(self, call: m.TdhIqinvProc, /) -> m.InvalidationsDone:
        """Process the queue."""
        trusted = self.records.iommu(call.iommu_id)
        return m.InvalidationsDone(trusted.process(), len(trusted.queue))

    # -- trusted DMA

    @answers
    def tdh_dmar_add(self, call: m.TdhDmarAdd, /) -> None:
        """Add a trusted entry for an interface of this TVM, on the IOMMU that its requests go through."""
        records = self.records
        trusted = records.iommu(call.iommu_id)
        devif = records.devif(call.function_id)
        if devif.tvm is not records.tvm(call.tdr):
            raise Reject(Status.TDI_NOT_PRESENT, f"interface {call.function_id:#x} is not this TVM's")
        if devif.stream.spdm.iommu_id != call.iommu_id:
            raise Reject(Status.OPERAND_INVALID, f"requests of the interface do not go through IOMMU {call.iommu_id}")
        records.give(call.pages)
        try:
            trusted.add(devif.function_id, devif.tvm.sept, devif.tvm.shared)
        except Reject:
            records.give_back(call.pages)
            raise
        records.dmar_pages[call.iommu_id, devif.function_id] = call.pages

    @answers
    def tdh_dmar_block(self, call: m.TdhDmarBlock, /) -> None:
        """Block a trusted entry."""
        self.records.iommu(call.iommu_id).block(requester_id_of(call.function_id))

    @answers
    def tdh_dmar_read(self, call: m.TdhDmarRead, /) -> m.DmarEntry:
        """Read a trusted entry."""
        trusted, requester_id = self.records.iommu(call.iommu_id), requester_id_of(call.function_id)
        entry = trusted.entries.get(requester_id)
        return m.DmarEntry(trusted.state(requester_id).name, entry.sept.tdr if entry else 0)

    @answers
    def tdh_dmar_remove(self, call: m.TdhDmarRemove, /) -> PagesReturned:
        """Remove a trusted entry."""
        records, requester_id = self.records, requester_id_of(call.function_id)
        records.iommu(call.iommu_id).remove(requester_id)
        return PagesReturned(records.give_back(records.dmar_pages.pop((call.iommu_id, requester_id))))

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
        """Block a private MMIO mapping."""
        self.records.tvm(call.tdr).sept.block_mmio(call.gpa, call.level)

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
    if records.dmar_state(devif) is not DmarState.ABSENT:
        raise Reject(Status.DEVIF_HAS_MAPPED_DMA, "the trusted DMA entry is left: TDH.DMAR.BLOCK and REMOVE")
    if any(records.mmio_mappings(devif)):
        raise Reject(Status.DEVIF_HAS_MAPPED_MMIO, "private MMIO is left: TDH.MMIO.BLOCK and UNMAP")
