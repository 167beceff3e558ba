"""SEAMCALLs on what reaches what: TVMs and their memory, IOMMUs, trusted DMA, trusted MMIO.

Names and leaf numbers: the TDX module's base API (Linux `tdx.h`) and the TDX Connect generation with a TPA; an alias is
the name in the other generation. A TVM is named by the physical address of its root page (`tdr`); all `pages`, `page`
and `hpa` operands are pages that the VMM owns and gives up, and gets back from the call that undoes this one.

Simplified against the real interface: a call takes the pages for the module's own structures as one list; the secure
EPT and the MMIO metadata are entered in one step instead of level by level; TDH.MNG.INIT and TDH.MR.FINALIZE stand for the
whole building of a TVM, which has no virtual processors of its own here. TDH.DMAR calls name an entry by level and
interface, in place of the packed DMAR_IDX with its PASID, which is always 0; TDH.IQINV.REQ takes no wait descriptor, as
the TSM writes one itself and the VMM learns of its completion by TDH.IQINV.PROC.
"""

from __future__ import annotations

from dataclasses import dataclass

from teeio.abi.declaration import Boundary, call
from teeio.abi.operands import (
    DmarLevel,
    DmarState,
    FunctionId,
    Invalidation,
    InvalidationState,
    PageLevel,
    PagesReturned,
)
from teeio.abi.statuses import Status

SEAMCALL = Boundary.SEAMCALL

IOMMU_PAGES = 3
"""Pages that TDX mode of an IOMMU takes: root table, invalidation queue, notes on the queue."""

_DMAR_FAILURES = (
    Status.IOMMU_NOT_CONFIGURED,
    Status.DMAR_ENTRY_NOT_PRESENT,
    Status.DMAR_INVALID_MAPPING_STATE,
    Status.DMAR_TABLE_POISONED,
)

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
    """Put an IOMMU into TDX mode; OPERAND_INVALID means that the unit has none.

    `pages` are `IOMMU_PAGES`: for the root table, for the invalidation queue, for what the TSM notes beside the queue.
    """

    iommu_id: int
    pages: tuple[int, ...]


@call(
    SEAMCALL,
    "TDH.IOMMU.CLEAR",
    129,
    returns=PagesReturned,
    refusals=[Status.OPERAND_BUSY, Status.IOMMU_NOT_CONFIGURED, Status.DMAR_TABLE_POISONED],
)
class TdhIommuClear:
    """Take an IOMMU without trusted entries, sessions and streams out of TDX mode."""

    iommu_id: int


@call(
    SEAMCALL,
    "TDH.IQINV.REQ",
    161,
    refusals=[*_DMAR_FAILURES, Status.DMAR_INVALID_INV_STATE, Status.IOMMU_QUEUE_FULL],
)
class TdhIqinvReq:
    """Queue an invalidation: `target` is the `tdr` of a TVM (IOTLB), or the interface whose blocked entry is meant."""

    iommu_id: int
    scope: Invalidation
    target: int


@dataclass(frozen=True, slots=True)
class InvalidationsDone:
    """How many invalidations were completed by this call, and how many descriptors still wait in the queue."""

    completed: int
    waiting: int


@call(
    SEAMCALL,
    "TDH.IQINV.PROC",
    162,
    returns=InvalidationsDone,
    refusals=[Status.IOMMU_NOT_CONFIGURED, Status.DMAR_TABLE_POISONED],
)
class TdhIqinvProc:
    """Process the queued invalidations."""

    iommu_id: int


# -- trusted DMA -----------------------------------------------------------------------------------------------------


@call(
    SEAMCALL,
    "TDH.DMAR.ADD",
    150,
    refusals=[*_DMAR_FAILURES, Status.TDI_NOT_PRESENT, Status.PAGE_METADATA_INCORRECT],
)
class TdhDmarAdd:
    """Add an entry to the trusted DMA tables: to the next table, or of an interface to its TVM.

    `entry` is the entry's qwords: root (half) 1, context 4, PASID directory 1, PASID 8; all but a PASID entry give a page.
    A PASID entry takes the `tdr` of the interface's TVM, and is pending until the TVM accepts it; for others `tdr` is 0.
    """

    iommu_id: int
    function_id: FunctionId
    level: DmarLevel
    entry: tuple[int, ...]
    tdr: int = 0


@call(SEAMCALL, "TDH.DMAR.BLOCK", 151, refusals=_DMAR_FAILURES)
class TdhDmarBlock:
    """Block an entry that has no entries below it: no new walk uses it."""

    iommu_id: int
    function_id: FunctionId
    level: DmarLevel = DmarLevel.PASID


@dataclass(frozen=True, slots=True)
class DmarRead:
    """States of an entry, and its qwords as they lie in the table."""

    state: DmarState
    invalidation: InvalidationState
    entry: tuple[int, ...]


@call(
    SEAMCALL,
    "TDH.DMAR.READ",
    152,
    returns=DmarRead,
    refusals=[Status.IOMMU_NOT_CONFIGURED, Status.DMAR_ENTRY_NOT_PRESENT, Status.DMAR_TABLE_POISONED],
)
class TdhDmarRead:
    """Read an entry: its states, and its bytes as qwords."""

    iommu_id: int
    function_id: FunctionId
    level: DmarLevel = DmarLevel.PASID


@call(
    SEAMCALL,
    "TDH.DMAR.REMOVE",
    153,
    returns=PagesReturned,
    refusals=[*_DMAR_FAILURES, Status.DMAR_INVALID_INV_STATE],
)
class TdhDmarRemove:
    """Remove a blocked and invalidated entry, and give back the page of the table below it."""

    iommu_id: int
    function_id: FunctionId
    level: DmarLevel = DmarLevel.PASID


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
        Status.IDE_STREAM_NEEDS_NEW_KEYS,
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
