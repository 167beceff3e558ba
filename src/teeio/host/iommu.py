"""The IOMMU: where a device's memory requests may go (Intel VT-d with TDX mode, as TDX Connect uses it).

Two sets of tables stand side by side, and the T bit of a request chooses between them:

* `legacy` serves T=0. It is the VMM's: requester id to a domain's page table. Whatever that says, a request that ends
  on a page that is not the VMM's (private, or the TSM's) is blocked;
* `trusted` serves T=1. It is the TSM's: tables in its own pages lead from the requester id to the secure EPT of one TVM
  (`trusted_remapping`). T=1 reaches private memory and, through the shared EPT, shared memory of that TVM, nothing else.

A request without a translation is blocked and recorded in a bounded log.

ATS here is for T=0 (`translation_agent`; with T=1 `trusted_translation`): the VMM allows it requester by requester. A
request with PASID is blocked whatever its T bit: TDX Connect has no PASID, and the legacy domains here know none.

Left out: nested VMs, trusted ATS, interrupt remapping, peer-to-peer (a request that leads to MMIO is blocked), access
rights per page.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from teeio.abi.operands import PAGE_SIZE
from teeio.errors import Misuse
from teeio.host.iommu_faults import RULES, FaultReason
from teeio.host.memory import SHARED, OwnerId, PhysicalMemory
from teeio.host.trusted_remapping import TrustedRemapping
from teeio.observe import Observer, Refused, ignore

FAULT_LOG_SIZE = 64
"""Faults kept; older ones are dropped and counted."""


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

    def translate(
        self, requester_id: int, page: int, write: bool, pasid: int | None = None
    ) -> tuple[int, OwnerId] | FaultReason:
        """Translate one page for T=0."""
        domain = self._domains.get(requester_id)
        if domain is None:
            return FaultReason.NO_DOMAIN
        place = FaultReason.PASID_NOT_ENABLED if pasid is not None else domain.translate(page, write)
        return place if isinstance(place, FaultReason) else (place, SHARED)


class Iommu:
    """One IOMMU. The VMM holds `legacy`, the TSM reaches `trusted`, the root complex calls `translate`."""

    def __init__(self, name: str, memory: PhysicalMemory, observer: Observer = ignore) -> None:
        self.name = name
        self.legacy = LegacyTables()
        self.trusted = TrustedRemapping(name, memory)
        self.faults: deque[Fault] = deque(maxlen=FAULT_LOG_SIZE)
        self.faults_dropped = 0
        self._memory = memory
        self._observer = observer

    def translate(
        self, requester_id: int, address: int, size: int, *, write: bool, t_bit: bool, pasid: int | None = None
    ) -> list[Segment] | Fault:
        """Translate a device's memory request; one bad page blocks all of it. Faults are logged and observed."""
        segments: list[Segment] = []
        end = address + max(size, 1)  # a zero-length read is checked like its first byte
        if not 0 <= address < end <= 1 << 64:
            return self._fault(requester_id, address, write, t_bit, FaultReason.NOT_MAPPED)
        while address < end:
            page = address & -PAGE_SIZE
            stop = min(end, page + PAGE_SIZE)
            found = self._translate_page(requester_id, page, write, t_bit, pasid)
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
        self, requester_id: int, page: int, write: bool, t_bit: bool, pasid: int | None = None
    ) -> tuple[int, OwnerId] | FaultReason:
        found = (
            self.trusted.translate(requester_id, page, pasid)
            if t_bit
            else self.legacy.translate(requester_id, page, write, pasid)
        )
        if isinstance(found, FaultReason):
            return found
        hpa, owner = found
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
