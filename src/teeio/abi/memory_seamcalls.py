"""SEAMCALLs on what reaches what: TVMs and their memory, IOMMUs, trusted DMA, trusted MMIO.

Names and leaf numbers: the TDX module's base API (Linux `tdx.h`) and the TDX Connect generation with a TPA; an alias is
the name in the other generation. A TVM is named by the physical address of its root page (`tdr`); all `pages`, `page`
and `hpa` operands are pages that the VMM owns and gives up, and gets back from the call that undoes this one.

Simplified against the real interface: a call takes the pages for the module's own structures as one list; the trees
(secure EPT, DMAR, MMIO metadata) are entered in one step instead of level by level; TDH.MNG.INIT and TDH.MR.FINALIZE
stand for the whole building of a TVM, which has no virtual processors of its own here.
"""

from __future__ import annotations

from dataclasses import dataclass

from teeio.abi.declaration import Boundary, call
from teeio.abi.operands import FunctionId, Invalidation, PageLevel, PagesReturned
from teeio.abi.statuses import Status

SEAMCALL = Boundary.SEAMCALL

_EPT_FAILURES = (Status.EPT_WALK_FAILED, Status.EPT_ENTRY_STATE_INCORRECT, Status.PAGE_SIZE_MISMATCH)


# -- TVMs and their private memory -----------------------------------------------------------------------------------


@call(SEAMCALL, "TDH.MNG.CREATE", 9, refusals=[Status.PAGE_METADATA_INCORRECT, Status.HKID_NOT_FREE])
class TdhMngCreate:
    """Create a TVM: its root page and its memory key."""

    tdr: int


@call(SEAMCALL, "TDH.MNG.INIT", 21, refusals=[Status.OP_STATE_INCORRECT])
class TdhMngInit:
    """Set the TVM's parameters; `tdx_connect` is bit 5 of its configuration flags and allows trusted devices."""

    tdr: int
    attributes: int = 0
    tdx_connect: bool = True


@call(
    SEAMCALL,
    "TDH.MEM.PAGE.ADD",
    2,
    refusals=[Status.OP_STATE_INCORRECT, Status.PAGE_METADATA_INCORRECT, Status.EPT_ENTRY_NOT_FREE],
)
class TdhMemPageAdd:
    """Add a 4 KiB private page with the contents of the shared page `source`, before the TVM is finalised."""

    tdr: int
    gpa: int
    hpa: int
    source: int


@call(SEAMCALL, "TDH.MR.FINALIZE", 17, refusals=[Status.OP_STATE_INCORRECT])
class TdhMrFinalize:
    """End the building of the TVM: from here on it runs and no contents can be added."""

    tdr: int


@call(
    SEAMCALL,
    "TDH.MEM.PAGE.AUG",
    6,
    refusals=[Status.OP_STATE_INCORRECT, Status.PAGE_METADATA_INCORRECT, Status.EPT_ENTRY_NOT_FREE],
)
class TdhMemPageAug:
    """Add a zeroed private page to a running TVM, pending until the TVM accepts it."""

    tdr: int
    gpa: int
    hpa: int
    level: PageLevel = PageLevel.PAGE_4K


@call(SEAMCALL, "TDH.MEM.RANGE.BLOCK", 7, refusals=_EPT_FAILURES)
class TdhMemRangeBlock:
    """Block a private page: no new translation to it is made."""

    tdr: int
    gpa: int
    level: PageLevel = PageLevel.PAGE_4K


@call(SEAMCALL, "TDH.MEM.TRACK", 38)
class TdhMemTrack:
    """Advance the TVM's TLB epoch, so that blocked pages may be removed once all caches have followed."""

    tdr: int


@call(
    SEAMCALL, "TDH.MEM.PAGE.REMOVE", 29, returns=PagesReturned, refusals=[*_EPT_FAILURES, Status.TLB_TRACKING_NOT_DONE]
)
class TdhMemPageRemove:
    """Take a blocked and tracked private page from the TVM."""

    tdr: int
    gpa: int
    level: PageLevel = PageLevel.PAGE_4K


@call(SEAMCALL, "TDH.MEM.PAGE.DEMOTE", 15, refusals=[*_EPT_FAILURES, Status.TLB_TRACKING_NOT_DONE])
class TdhMemPageDemote:
    """Split a blocked and tracked 2 MiB private page into 4 KiB pages, accepted or pending as it was."""

    tdr: int
    gpa: int


@call(SEAMCALL, "TDH.MEM.SHARED.SEPT.WR", 163)
class TdhMemSharedSeptWr:
    """Let the trusted IOMMU tables of the TVM reach shared memory through the VMM's shared EPT, or no longer."""

    tdr: int
    present: bool


@call(SEAMCALL, "TDH.MNG.KEY.FREEID", 20, refusals=[Status.LIFECYCLE_STATE_INCORRECT, Status.TD_ASSOCIATED_PAGES_EXIST])
class TdhMngKeyFreeid:
    """End a TVM that has no pages and no devices left, and destroy its memory key."""

    tdr: int


@call(
    SEAMCALL, "TDH.PHYMEM.PAGE.RECLAIM", 28, refusals=[Status.PAGE_METADATA_INCORRECT, Status.LIFECYCLE_STATE_INCORRECT]
)
class TdhPhymemPageReclaim:
    """Take back the root page of a TVM that has ended."""

    hpa: int


# -- IOMMU in TDX mode -----------------------------------------------------------------------------------------------


@call(SEAMCALL, "TDH.IOMMU.SETUP", 128, refusals=[Status.PAGE_METADATA_INCORRECT], alias="TDH.IOMMU.SETREG (128)")
class TdhIommuSetup:
    """Put an IOMMU into TDX mode; OPERAND_INVALID means that the unit has none."""

    iommu_id: int
    pages: tuple[int, ...]


@call(
    SEAMCALL,
    "TDH.IOMMU.CLEAR",
    129,
    returns=PagesReturned,
    refusals=[Status.OPERAND_BUSY, Status.IOMMU_NOT_CONFIGURED],
)
class TdhIommuClear:
    """Take an IOMMU without trusted entries, sessions and streams out of TDX mode."""

    iommu_id: int


@call(
    SEAMCALL,
    "TDH.IQINV.REQ",
    161,
    refusals=[Status.IOMMU_NOT_CONFIGURED, Status.IOMMU_QUEUE_FULL],
)
class TdhIqinvReq:
    """Queue an invalidation: `target` is the requester id (REQUESTER) or the `tdr` of a TVM (DOMAIN)."""

    iommu_id: int
    scope: Invalidation
    target: int


@dataclass(frozen=True, slots=True)
class InvalidationsDone:
    """How many queued invalidations were completed by this call, and how many still wait."""

    completed: int
    waiting: int


@call(SEAMCALL, "TDH.IQINV.PROC", 162, returns=InvalidationsDone, refusals=[Status.IOMMU_NOT_CONFIGURED])
class TdhIqinvProc:
    """Process the queued invalidations."""

    iommu_id: int


# -- trusted DMA -----------------------------------------------------------------------------------------------------


@call(
    SEAMCALL,
    "TDH.DMAR.ADD",
    150,
    refusals=[
        Status.TDI_NOT_PRESENT,
        Status.PAGE_METADATA_INCORRECT,
        Status.DMAR_ENTRY_STATE_INCORRECT,
        Status.IOMMU_NOT_CONFIGURED,
    ],
)
class TdhDmarAdd:
    """Lead the interface's T=1 requests to its TVM's secure EPT, pending until the TVM accepts."""

    iommu_id: int
    function_id: FunctionId
    tdr: int
    pages: tuple[int, ...]


@call(SEAMCALL, "TDH.DMAR.BLOCK", 151, refusals=[Status.DMAR_ENTRY_STATE_INCORRECT, Status.IOMMU_NOT_CONFIGURED])
class TdhDmarBlock:
    """Block a trusted entry: no new translation is made by it."""

    iommu_id: int
    function_id: FunctionId


@dataclass(frozen=True, slots=True)
class DmarEntry:
    """State of a trusted entry by name, and the TVM it leads to (0: none)."""

    state: str
    tdr: int


@call(SEAMCALL, "TDH.DMAR.READ", 152, returns=DmarEntry, refusals=[Status.IOMMU_NOT_CONFIGURED])
class TdhDmarRead:
    """Read a trusted entry."""

    iommu_id: int
    function_id: FunctionId


@call(
    SEAMCALL,
    "TDH.DMAR.REMOVE",
    153,
    returns=PagesReturned,
    refusals=[Status.DMAR_ENTRY_STATE_INCORRECT, Status.TLB_TRACKING_NOT_DONE, Status.IOMMU_NOT_CONFIGURED],
)
class TdhDmarRemove:
    """Remove a blocked and invalidated trusted entry."""

    iommu_id: int
    function_id: FunctionId


# -- trusted MMIO ----------------------------------------------------------------------------------------------------


@call(SEAMCALL, "TDH.MMIOMT.ADD", 154, refusals=[Status.PAGE_METADATA_INCORRECT, Status.MMIO_INVALID_PAGE_METADATA])
class TdhMmiomtAdd:
    """Add the metadata page for the 2 MiB of MMIO at `mmio`."""

    mmio: int
    page: int


@call(SEAMCALL, "TDH.MMIOMT.SET", 155, refusals=[Status.MMIO_INVALID_PAGE_METADATA, Status.TDI_NOT_PRESENT])
class TdhMmiomtSet:
    """Say that `count` 4 KiB pages of MMIO belong to the interface `function_id`, or with 0 to none."""

    mmio: int
    count: int
    function_id: FunctionId


@dataclass(frozen=True, slots=True)
class MmioPage:
    """Metadata of one MMIO page: the interface it belongs to (0: none), and whether it is mapped privately."""

    function_id: FunctionId
    mapped: bool


@call(SEAMCALL, "TDH.MMIOMT.RD", 156, returns=MmioPage, refusals=[Status.MMIO_INVALID_PAGE_METADATA])
class TdhMmiomtRd:
    """Read the metadata of one MMIO page."""

    mmio: int


@call(SEAMCALL, "TDH.MMIOMT.REMOVE", 157, returns=PagesReturned, refusals=[Status.MMIO_INVALID_PAGE_METADATA])
class TdhMmiomtRemove:
    """Remove the metadata page for 2 MiB of MMIO that belong to no interface."""

    mmio: int


@call(
    SEAMCALL,
    "TDH.MMIO.MAP",
    158,
    refusals=[
        Status.EPT_ENTRY_NOT_FREE,
        Status.MMIO_INVALID_PAGE_METADATA,
        Status.MMIO_DEVIF_OWNER_MISMATCH,
        Status.IDE_STREAM_BLOCKED,
    ],
)
class TdhMmioMap:
    """Map MMIO of the TVM's interface privately, pending until the TVM accepts it."""

    tdr: int
    gpa: int
    mmio: int
    level: PageLevel = PageLevel.PAGE_4K


@call(SEAMCALL, "TDH.MMIO.BLOCK", 159, refusals=_EPT_FAILURES)
class TdhMmioBlock:
    """Block a private MMIO mapping."""

    tdr: int
    gpa: int
    level: PageLevel = PageLevel.PAGE_4K


@call(
    SEAMCALL, "TDH.MMIO.UNMAP", 160, refusals=[*_EPT_FAILURES, Status.TLB_TRACKING_NOT_DONE, Status.DEVIF_INVALID_STATE]
)
class TdhMmioUnmap:
    """Remove a blocked, tracked MMIO mapping; the interface is CONFIG_UNLOCKED or its stream blocked."""

    tdr: int
    gpa: int
    level: PageLevel = PageLevel.PAGE_4K
