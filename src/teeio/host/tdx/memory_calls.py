"""SEAMCALLs on TVMs and their private memory (TDX module base API; declared in `abi.memory_seamcalls`)."""

from __future__ import annotations

from teeio.abi import memory_seamcalls as m
from teeio.abi.operands import PAGE_SIZE, PagesReturned
from teeio.abi.statuses import Status
from teeio.errors import Reject
from teeio.host.memory import SHARED
from teeio.host.secure_ept import SecureEpt, SharedEpt
from teeio.host.tdx.answering import Answering, answers
from teeio.host.tdx.records import Records, Tvm, TvmPhase


class MemoryCalls(Answering):
    """The module's answers to these calls."""

    records: Records

    @answers
    def tdh_mng_create(self, call: m.TdhMngCreate, /) -> None:
        """Create a TVM: key first, since keys are scarcer than pages."""
        records = self.records
        owner = records.memory.create_owner()
        try:
            records.give((call.tdr,))
        except Reject:
            records.memory.destroy_owner(owner)
            raise
        sept = SecureEpt(records.memory, owner, call.tdr, records.mmio)
        records.tvms[call.tdr] = Tvm(call.tdr, sept, SharedEpt())

    @answers
    def tdh_mng_init(self, call: m.TdhMngInit, /) -> None:
        """Set the TVM's parameters; no attribute has a meaning here."""
        tvm = self.records.tvm(call.tdr)
        tvm.need(TvmPhase.CREATED)
        if call.attributes:
            raise Reject(Status.OPERAND_INVALID, f"attributes {call.attributes:#x} are not supported")
        tvm.tdx_connect = call.tdx_connect
        tvm.phase = TvmPhase.BUILDING

    @answers
    def tdh_mem_page_add(self, call: m.TdhMemPageAdd, /) -> None:
        """Add a page with first contents; only what the VMM itself can read may be copied."""
        memory = self.records.memory
        tvm = self.records.tvm(call.tdr)
        tvm.need(TvmPhase.BUILDING)
        if call.source % PAGE_SIZE or not memory.contains(call.source, PAGE_SIZE):
            raise Reject(Status.OPERAND_INVALID, f"{call.source:#x} is no page of the memory")
        if not memory.is_unencrypted(call.source, PAGE_SIZE):
            raise Reject(Status.PAGE_METADATA_INCORRECT, "first contents come from a page of the VMM")
        tvm.sept.add(call.gpa, call.hpa, memory.view(SHARED).read(call.source, PAGE_SIZE))

    @answers
    def tdh_mr_finalize(self, call: m.TdhMrFinalize, /) -> None:
        """End the building."""
        tvm = self.records.tvm(call.tdr)
        tvm.need(TvmPhase.BUILDING)
        tvm.phase = TvmPhase.RUNNING

    @answers
    def tdh_mem_page_aug(self, call: m.TdhMemPageAug, /) -> None:
        """Add a pending page to a running TVM."""
        tvm = self.records.tvm(call.tdr)
        tvm.need(TvmPhase.RUNNING)
        tvm.sept.augment(call.gpa, call.hpa, call.level)

    @answers
    def tdh_mem_range_block(self, call: m.TdhMemRangeBlock, /) -> None:
        """Block a page."""
        self.records.tvm(call.tdr).sept.block(call.gpa, call.level)

    @answers
    def tdh_mem_track(self, call: m.TdhMemTrack, /) -> None:
        """Advance the TLB epoch."""
        self.records.tvm(call.tdr).sept.track()

    @answers
    def tdh_mem_page_remove(self, call: m.TdhMemPageRemove, /) -> PagesReturned:
        """Take a page away; a 2 MiB page comes back as its 4 KiB pages."""
        hpa = self.records.tvm(call.tdr).sept.remove(call.gpa, call.level)
        return PagesReturned(tuple(range(hpa, hpa + call.level.size, PAGE_SIZE)))

    @answers
    def tdh_mem_page_demote(self, call: m.TdhMemPageDemote, /) -> None:
        """Split a 2 MiB page."""
        self.records.tvm(call.tdr).sept.demote(call.gpa)

    @answers
    def tdh_mem_shared_sept_wr(self, call: m.TdhMemSharedSeptWr, /) -> None:
        """Let trusted DMA reach shared memory, or no longer."""
        self.records.tvm(call.tdr).shared.trusted_dma = call.present

    @answers
    def tdh_mng_key_freeid(self, call: m.TdhMngKeyFreeid, /) -> None:
        """End a TVM and destroy its key."""
        records = self.records
        tvm = records.tvms.get(call.tdr)
        if tvm is not None and tvm.phase is TvmPhase.ENDED:
            raise Reject(Status.LIFECYCLE_STATE_INCORRECT, "the TVM has ended before")
        tvm = records.tvm(call.tdr)
        if any(devif.tvm is tvm for devif in records.devifs.values()):
            raise Reject(Status.TD_ASSOCIATED_PAGES_EXIST, "the TVM has device interfaces: TDH.DEVIF.REMOVE first")
        if next(tvm.sept.leaves(), None) is not None:
            raise Reject(Status.TD_ASSOCIATED_PAGES_EXIST, "pages are mapped: remove them first")
        records.memory.destroy_owner(tvm.sept.owner)
        tvm.phase = TvmPhase.ENDED

    @answers
    def tdh_phymem_page_reclaim(self, call: m.TdhPhymemPageReclaim, /) -> None:
        """Take back the root page of a TVM that has ended."""
        tvm = self.records.tvms.get(call.hpa)
        if call.hpa % PAGE_SIZE or not self.records.memory.contains(call.hpa, PAGE_SIZE):
            raise Reject(Status.OPERAND_INVALID, f"{call.hpa:#x} is no page of the memory")
        if tvm is None:
            raise Reject(Status.PAGE_METADATA_INCORRECT, f"{call.hpa:#x} is the root page of no TVM")
        if tvm.phase is not TvmPhase.ENDED:
            raise Reject(Status.LIFECYCLE_STATE_INCORRECT, "the TVM has not ended: TDH.MNG.KEY.FREEID first")
        del self.records.tvms[call.hpa]
        self.records.give_back((call.hpa,))
