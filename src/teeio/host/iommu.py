"""The IOMMU: where a device's memory requests may go (Intel VT-d with TDX mode, as TDX Connect uses it).

Two sets of tables stand side by side, and the T bit of a request chooses between them:

* `legacy` serves T=0. It is the VMM's: requester id to a domain's page table. Whatever that says, a request that ends
  on a page that is not the VMM's (private, or the TSM's) is blocked;
* `trusted` serves T=1. It is the TSM's: requester id to the secure EPT of one TVM, with entries that are pending
  until the TVM accepts them. T=1 reaches private memory and, through the shared EPT, shared memory of that TVM,
  nothing else.

A request without a translation is blocked and recorded in a bounded log. T=1 translations are cached (the IOTLB), so
that blocking alone does not stop a device: entries and pages are taken away only after an invalidation, which goes
through a queue.

ATS is for T=0 only (`translation_agent`): the VMM allows it requester by requester.

Left out: PASID and nested VMs (no trusted PASID in TDX Connect), trusted ATS, interrupt remapping,
peer-to-peer (a request that leads to MMIO is blocked), access rights per page.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from teeio.abi.operands import GPA_SHARED_BIT, PAGE_SIZE, Invalidation
from teeio.abi.statuses import Status
from teeio.errors import Misuse, Reject
from teeio.host.memory import SHARED, OwnerId, PhysicalMemory
from teeio.host.secure_ept import SecureEpt, SharedEpt
from teeio.observe import Observer, Refused, ignore

FAULT_LOG_SIZE = 64
"""Faults kept; older ones are dropped and counted."""

QUEUE_SIZE = 256
"""Invalidations that may wait."""

IOTLB_SIZE = 4096
"""Cached T=1 translations; the oldest makes room."""


class DmarState(Enum):
    """States of a trusted entry."""

    ABSENT = "no entry"
    PENDING = "added, not accepted by the TVM"
    PRESENT = "accepted: T=1 requests are translated"
    BLOCKED = "on its way out, may still be cached"
    INVALIDATED = "on its way out, cached nowhere"


class DmarMove(Enum):
    """What changes the state of a trusted entry, by the name of the call that does it."""

    ADD = "TDH.DMAR.ADD"
    ACCEPT = "TDG.DMAR.ACCEPT"
    BLOCK = "TDH.DMAR.BLOCK"
    INVALIDATE = "TDH.IQINV.PROC"
    REMOVE = "TDH.DMAR.REMOVE"


DMAR_TRANSITIONS: Mapping[tuple[DmarState, DmarMove], DmarState] = MappingProxyType(
    {
        (DmarState.ABSENT, DmarMove.ADD): DmarState.PENDING,
        (DmarState.PENDING, DmarMove.ACCEPT): DmarState.PRESENT,
        (DmarState.PENDING, DmarMove.BLOCK): DmarState.BLOCKED,
        (DmarState.PRESENT, DmarMove.BLOCK): DmarState.BLOCKED,
        (DmarState.BLOCKED, DmarMove.INVALIDATE): DmarState.INVALIDATED,
        (DmarState.INVALIDATED, DmarMove.REMOVE): DmarState.ABSENT,
    }
)
"""Every legal move; all others are refused and change nothing."""


class FaultReason(Enum):
    """Why a request was blocked."""

    NO_DOMAIN = "the requester has no legacy domain"
    NO_TRUSTED_ENTRY = "the requester has no accepted trusted entry"
    NOT_MAPPED = "no translation for the address"
    NOT_MEMORY = "the translation leads outside memory"
    PRIVATE_MEMORY = "a request without trust ends on memory that is not the VMM's"
    READ_ONLY = "a write to a page mapped for reading"
    NO_ATS = "a request by translated address of a requester that may not use ATS, or with trust"


RULES: Mapping[FaultReason, str] = MappingProxyType(
    {
        FaultReason.NO_DOMAIN: "an IOMMU translates only for requesters it knows",
        FaultReason.NO_TRUSTED_ENTRY: "T=1 needs a trusted entry that the TVM has accepted (TDG.DMAR.ACCEPT)",
        FaultReason.NOT_MAPPED: "DMA reaches only what is mapped, accepted and unblocked",
        FaultReason.NOT_MEMORY: "peer-to-peer requests are not supported",
        FaultReason.PRIVATE_MEMORY: "T=0 DMA reaches only shared memory (TDX Connect Device Guide, appendix A)",
        FaultReason.READ_ONLY: "access rights of the legacy domain",
        FaultReason.NO_ATS: "translated addresses are honoured with T=0 and where the VMM allows ATS",
    }
)
"""The rule behind each reason, for observers."""


class Fault(NamedTuple):
    """A blocked request."""

    requester_id: int
    address: int
    write: bool
    t_bit: bool
    reason: FaultReason


class Segment(NamedTuple):
    """A contiguous piece of a translated request: access it through the memory view of `owner`."""

    hpa: int
    size: int
    owner: OwnerId


class Domain:
    """A legacy page table of the VMM: device address to physical address."""

    def __init__(self) -> None:
        self._pages: dict[int, tuple[int, bool]] = {}

    def map(self, iova: int, hpa: int, size: int = PAGE_SIZE, *, writable: bool = True) -> None:
        """Map whole pages; a page that was mapped is mapped anew."""
        _check_pages(iova, hpa, size)
        for offset in range(0, size, PAGE_SIZE):
            self._pages[iova + offset] = (hpa + offset, writable)

    def unmap(self, iova: int, size: int = PAGE_SIZE) -> None:
        """Unmap whole pages, mapped or not."""
        _check_pages(iova, 0, size)
        for offset in range(0, size, PAGE_SIZE):
            self._pages.pop(iova + offset, None)

    def translate(self, page: int, write: bool) -> int | FaultReason:
        """Translate one page."""
        entry = self._pages.get(page)
        if entry is None:
            return FaultReason.NOT_MAPPED
        return entry[0] if entry[1] or not write else FaultReason.READ_ONLY


class LegacyTables:
    """The VMM's tables: which requester uses which domain."""

    def __init__(self) -> None:
        self._domains: dict[int, Domain] = {}
        self._ats: set[int] = set()

    def attach(self, requester_id: int, domain: Domain, *, ats: bool = False) -> None:
        """Let a requester use a domain, instead of the one it used; with `ats` it may ask for translations of it."""
        self._domains[requester_id] = domain
        (self._ats.add if ats else self._ats.discard)(requester_id)

    def detach(self, requester_id: int) -> None:
        """Let a requester use none."""
        self._domains.pop(requester_id, None)
        self._ats.discard(requester_id)

    def allows_ats(self, requester_id: int) -> bool:
        """Tell whether a requester may use ATS."""
        return requester_id in self._ats

    @property
    def requesters(self) -> tuple[int, ...]:
        """The requesters that use a domain."""
        return tuple(self._domains)

    def domain(self, requester_id: int) -> Domain | None:
        """Give the requester's domain."""
        return self._domains.get(requester_id)


@dataclass(slots=True)
class TrustedEntry:
    """Where a requester's T=1 requests lead."""

    sept: SecureEpt
    shared: SharedEpt
    state: DmarState


@dataclass(frozen=True, slots=True)
class _Descriptor:
    scope: Invalidation
    target: int


@dataclass(slots=True)
class TrustedTables:
    """The TSM's tables, requester id to secure EPT, with IOTLB and invalidation queue; methods raise `Reject`."""

    name: str
    entries: dict[int, TrustedEntry] = field(default_factory=dict)
    iotlb: dict[tuple[int, int], tuple[int, OwnerId]] = field(default_factory=dict)
    queue: deque[_Descriptor] = field(default_factory=deque)

    def add(self, requester_id: int, sept: SecureEpt, shared: SharedEpt) -> None:
        """Add an entry, pending."""
        state = self._next(requester_id, DmarMove.ADD)
        self.entries[requester_id] = TrustedEntry(sept, shared, state)
        sept.join_cache(self.name)

    def accept(self, requester_id: int) -> None:
        """Accept an entry on its TVM's behalf. That the TVM is the entry's is the caller's check."""
        self._move(requester_id, DmarMove.ACCEPT)

    def block(self, requester_id: int) -> None:
        """Let the entry make no new translation."""
        self._move(requester_id, DmarMove.BLOCK)

    def remove(self, requester_id: int) -> None:
        """Remove a blocked and invalidated entry."""
        if self.state(requester_id) is DmarState.BLOCKED:
            raise Reject(Status.TLB_TRACKING_NOT_DONE, "after DMAR.BLOCK come TDH.IQINV.REQ and PROC")
        self._move(requester_id, DmarMove.REMOVE)
        sept = self.entries.pop(requester_id).sept
        if all(entry.sept is not sept for entry in self.entries.values()):
            sept.leave_cache(self.name)

    def state(self, requester_id: int) -> DmarState:
        """Give the state of a requester's entry."""
        entry = self.entries.get(requester_id)
        return DmarState.ABSENT if entry is None else entry.state

    def request(self, scope: Invalidation, target: int) -> None:
        """Queue an invalidation: of a requester id, or of the TVM named by its `tdr`."""
        if len(self.queue) >= QUEUE_SIZE:
            raise Reject(Status.IOMMU_QUEUE_FULL, f"{QUEUE_SIZE} invalidations wait: call TDH.IQINV.PROC")
        self.queue.append(_Descriptor(scope, target))

    def process(self, limit: int = QUEUE_SIZE) -> int:
        """Carry out queued invalidations, in order; gives how many."""
        done = min(limit, len(self.queue))
        for _ in range(done):
            self._invalidate(self.queue.popleft())
        return done

    def translate(self, requester_id: int, page: int) -> tuple[int, OwnerId] | FaultReason:
        """Translate one page for T=1; what the IOTLB holds stays reachable until it is invalidated."""
        cached = self.iotlb.get((requester_id, page))
        if cached is not None:
            return cached
        entry = self.entries.get(requester_id)
        if entry is None or entry.state is not DmarState.PRESENT:
            return FaultReason.NO_TRUSTED_ENTRY
        found = self._walk(entry, page)
        if not isinstance(found, FaultReason):
            while len(self.iotlb) >= IOTLB_SIZE:
                del self.iotlb[next(iter(self.iotlb))]
            self.iotlb[requester_id, page] = found
        return found

    def _walk(self, entry: TrustedEntry, page: int) -> tuple[int, OwnerId] | FaultReason:
        if page & GPA_SHARED_BIT:
            hpa = entry.shared.translate(page & ~GPA_SHARED_BIT) if entry.shared.trusted_dma else None
            return FaultReason.NOT_MAPPED if hpa is None else (hpa, SHARED)
        leaf = entry.sept.translate(page)
        if leaf is None:
            return FaultReason.NOT_MAPPED
        return FaultReason.NOT_MEMORY if leaf.mmio else (leaf.hpa, leaf.owner)

    def _invalidate(self, descriptor: _Descriptor) -> None:
        for requester_id, entry in self.entries.items():
            domain = descriptor.scope is Invalidation.DOMAIN
            if descriptor.target != (entry.sept.tdr if domain else requester_id):
                continue
            for key in [key for key in self.iotlb if key[0] == requester_id]:
                del self.iotlb[key]
            if entry.state is DmarState.BLOCKED:
                entry.state = DMAR_TRANSITIONS[entry.state, DmarMove.INVALIDATE]
            if domain:
                entry.sept.invalidated(self.name)

    def _next(self, requester_id: int, move: DmarMove) -> DmarState:
        state = DMAR_TRANSITIONS.get((self.state(requester_id), move))
        if state is None:
            raise Reject(
                Status.DMAR_ENTRY_STATE_INCORRECT,
                f"{move.value}: the entry of requester {requester_id:#06x} is {self.state(requester_id).name}",
            )
        return state

    def _move(self, requester_id: int, move: DmarMove) -> None:
        state = self._next(requester_id, move)
        self.entries[requester_id].state = state


class Iommu:
    """One IOMMU. The VMM holds `legacy`, the TSM holds `trusted`, the root complex calls `translate`."""

    def __init__(self, name: str, memory: PhysicalMemory, observer: Observer = ignore) -> None:
        self.name = name
        self.legacy = LegacyTables()
        self.trusted = TrustedTables(name)
        self.faults: deque[Fault] = deque(maxlen=FAULT_LOG_SIZE)
        self.faults_dropped = 0
        self._memory = memory
        self._observer = observer

    def translate(
        self, requester_id: int, address: int, size: int, *, write: bool, t_bit: bool
    ) -> list[Segment] | Fault:
        """Translate a device's memory request; one bad page blocks all of it. Faults are logged and observed."""
        segments: list[Segment] = []
        end = address + max(size, 1)  # a zero-length read is checked like its first byte
        if not 0 <= address < end <= 1 << 64:
            return self._fault(requester_id, address, write, t_bit, FaultReason.NOT_MAPPED)
        while address < end:
            page = address & -PAGE_SIZE
            stop = min(end, page + PAGE_SIZE)
            found = self._translate_page(requester_id, page, write, t_bit)
            if isinstance(found, FaultReason):
                return self._fault(requester_id, address, write, t_bit, found)
            _append(segments, found[0] + address - page, stop - address, found[1])
            address = stop
        return segments

    def grant(self, requester_id: int, page: int, *, write: bool) -> int | None:
        """Answer a T=0 Translation Request for one page; None if the access would be blocked, which is no fault."""
        found = self._translate_page(requester_id, page, write, False)
        return None if isinstance(found, FaultReason) else found[0]

    def pass_translated(
        self, requester_id: int, hpa: int, size: int, write: bool, t_bit: bool
    ) -> list[Segment] | Fault:
        """Let through a request by translated address; checked on every access, so never to a private page."""
        reason = None
        if t_bit or not self.legacy.allows_ats(requester_id):
            reason = FaultReason.NO_ATS
        elif not self._memory.contains(hpa, max(size, 1)):
            reason = FaultReason.NOT_MEMORY
        elif not self._memory.is_unencrypted(hpa, max(size, 1)):
            reason = FaultReason.PRIVATE_MEMORY
        if reason is not None:
            return self._fault(requester_id, hpa, write, t_bit, reason)
        return [Segment(hpa, size, SHARED)]

    def _translate_page(
        self, requester_id: int, page: int, write: bool, t_bit: bool
    ) -> tuple[int, OwnerId] | FaultReason:
        if t_bit:
            found = self.trusted.translate(requester_id, page)
            if isinstance(found, FaultReason):
                return found
            hpa, owner = found
        else:
            domain = self.legacy.domain(requester_id)
            place = FaultReason.NO_DOMAIN if domain is None else domain.translate(page, write)
            if isinstance(place, FaultReason):
                return place
            hpa, owner = place, SHARED
        if not self._memory.contains(hpa, PAGE_SIZE):
            return FaultReason.NOT_MEMORY
        # Checked on every access, not when the translation was made: a page may have become private since.
        if owner == SHARED and not self._memory.is_unencrypted(hpa, PAGE_SIZE):
            return FaultReason.PRIVATE_MEMORY
        return hpa, owner

    def _fault(self, requester_id: int, address: int, write: bool, t_bit: bool, reason: FaultReason) -> Fault:
        fault = Fault(requester_id, address, write, t_bit, reason)
        self.faults_dropped += len(self.faults) == FAULT_LOG_SIZE
        self.faults.append(fault)
        what = f"{'write' if write else 'read'} T={int(t_bit)} by requester {requester_id:#06x} at {address:#x}"
        self._observer(Refused(self.name, f"{what}: {reason.value}", RULES[reason]))
        return fault


def _append(segments: list[Segment], hpa: int, size: int, owner: OwnerId) -> None:
    """Append a piece, or let it extend the last one."""
    if segments:
        last = segments[-1]
        if last.hpa + last.size == hpa and last.owner == owner:
            segments[-1] = Segment(last.hpa, last.size + size, owner)
            return
    segments.append(Segment(hpa, size, owner))


def _check_pages(iova: int, hpa: int, size: int) -> None:
    if iova % PAGE_SIZE or hpa % PAGE_SIZE or size % PAGE_SIZE or size <= 0 or iova < 0 or hpa < 0:
        raise Misuse(f"mapping of {size} bytes from {iova:#x} to {hpa:#x}", remedy="use whole, aligned pages")
