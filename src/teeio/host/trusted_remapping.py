"""An IOMMU in TDX mode as hardware: the walk through the trusted tables, the caches, and what an invalidation forgets (VT-d 3.4.3, 6.2).

A T=1 request finds its requester's context entry, with it a PASID entry, with that the second stage of one TVM. What was
found on the way is cached, each kind by itself, and used until it is invalidated, whatever the tables say by then:

* the context cache, by requester id;
* the PASID cache, by requester id and PASID;
* the IOTLB, by domain id and page: functions of one TVM share it.

The tables are read with the TSM's key, so that a page which is not the TSM's, or into which somebody wrote, ends the walk.
What is not present is not cached. Left out: paging-structure caches, nested translation, page requests.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, TypeVar

from teeio.abi.operands import GPA_SHARED_BIT, DmarLevel
from teeio.errors import Misuse
from teeio.host.dmar_tables import TABLES, ContextEntry, DmarEntry, PasidEntry, address, below
from teeio.host.iommu_faults import ENTRY_FAULTS, FaultReason
from teeio.host.memory import SHARED, TSM, MemoryPoisoned, OwnerId, PhysicalMemory
from teeio.host.secure_ept import SecureEpt, SharedEpt

K = TypeVar("K")
V = TypeVar("V")

Place: TypeAlias = tuple[int, OwnerId]
"""Where a page of a request leads: physical address, and whose key the access carries."""

IOTLB_SIZE = 4096
"""Cached translations; the oldest makes room."""

ENTRY_CACHE_SIZE = 256
"""Cached context entries, and cached PASID entries."""


class SecondStage(NamedTuple):
    """What a PASID entry leads to: the secure EPT of a TVM, and its shared EPT for shared addresses.

    It stands for the pages of both, which this model keeps as objects.
    """

    sept: SecureEpt
    shared: SharedEpt

    def translate(self, page: int) -> Place | FaultReason:
        """Translate one page for T=1."""
        if page & GPA_SHARED_BIT:
            hpa = self.shared.translate(page & ~GPA_SHARED_BIT) if self.shared.trusted_dma else None
            return FaultReason.NOT_MAPPED if hpa is None else (hpa, SHARED)
        leaf = self.sept.translate(page)
        if leaf is None:
            return FaultReason.NOT_MAPPED
        return FaultReason.NOT_MEMORY if leaf.mmio else (leaf.hpa, leaf.owner)


class TrustedRemapping:
    """The registers and caches of one IOMMU in TDX mode; only the TSM reaches the registers.

    `root_table` is the physical address of the root table, None outside TDX mode. `second_stages` says what lies at a
    physical address that a PASID entry names.
    """

    def __init__(self, name: str, memory: PhysicalMemory) -> None:
        self.name = name
        self.root_table: int | None = None
        self.contexts: dict[int, ContextEntry] = {}
        self.pasids: dict[tuple[int, int], PasidEntry] = {}
        self.iotlb: dict[tuple[int, int], Place] = {}
        self.second_stages: dict[int, SecondStage] = {}
        self._memory = memory.view(TSM)

    # -- requests

    def translate(self, requester_id: int, page: int, pasid: int | None = None) -> Place | FaultReason:
        """Translate one page for T=1; `pasid` is that of a request with PASID."""
        entry = self.entry(requester_id, pasid)
        if isinstance(entry, FaultReason):
            return entry
        key = (entry.domain_id, page)
        cached = self.iotlb.get(key)
        if cached is not None:
            return cached
        second = self.second_stages.get(address(entry))
        found = FaultReason.PASID_ENTRY_INVALID if second is None else second.translate(page)
        if not isinstance(found, FaultReason):
            _keep(self.iotlb, key, found, IOTLB_SIZE)
        return found

    def entry(self, requester_id: int, pasid: int | None = None) -> PasidEntry | FaultReason:
        """Find the PASID entry of a request: cached, or by a walk from the root."""
        context = self.context(requester_id)
        if isinstance(context, FaultReason):
            return context
        if pasid is None:
            pasid = context.rid_pasid
        elif not context.pasid_enable:
            return FaultReason.PASID_NOT_ENABLED
        cached = self.pasids.get((requester_id, pasid))
        if cached is not None:
            return cached
        found = self._walk(DmarLevel.PASID_DIRECTORY, DmarLevel.PASID, address(context), requester_id)
        if isinstance(found, PasidEntry):
            _keep(self.pasids, (requester_id, pasid), found, ENTRY_CACHE_SIZE)
        return found  # type: ignore[return-value]  # the walk ends at a PASID entry, or with a fault

    def context(self, requester_id: int) -> ContextEntry | FaultReason:
        """Find the context entry of a requester: cached, or by a walk from the root."""
        cached = self.contexts.get(requester_id)
        if cached is not None:
            return cached
        if self.root_table is None:
            return FaultReason.ROOT_TABLE_INVALID
        found = self._walk(DmarLevel.ROOT, DmarLevel.CONTEXT, self.root_table, requester_id)
        if isinstance(found, ContextEntry):
            _keep(self.contexts, requester_id, found, ENTRY_CACHE_SIZE)
        return found  # type: ignore[return-value]  # the walk ends at a context entry, or with a fault

    def _walk(self, level: DmarLevel, last: DmarLevel, table: int, requester_id: int) -> DmarEntry | FaultReason:
        """Go from the table at a physical address down to an entry of level `last`."""
        while True:
            entry = self._fetch(level, table, requester_id)
            if isinstance(entry, FaultReason) or level is last:
                return entry
            level, table = below(level), address(entry)

    def _fetch(self, level: DmarLevel, table: int, requester_id: int) -> DmarEntry | FaultReason:
        kind, faults = TABLES[level], ENTRY_FAULTS[level]
        try:
            raw = self._memory.read(table + kind.index_of(requester_id) * kind.size, kind.size)
        except (MemoryPoisoned, Misuse):
            return faults.unreadable
        entry = kind.entry.decode(raw)
        if not entry.present:
            return faults.not_present
        return entry if entry.encode() == raw else faults.reserved

    # -- invalidations; None stands for all

    def forget_contexts(self, requester_id: int | None = None) -> None:
        """Forget context entries."""
        if requester_id is None:
            self.contexts.clear()
        else:
            self.contexts.pop(requester_id, None)

    def forget_pasids(self, domain_id: int | None = None, pasid: int | None = None) -> None:
        """Forget PASID entries of a domain, or of one PASID in it."""
        for key, entry in list(self.pasids.items()):
            if domain_id in (None, entry.domain_id) and pasid in (None, key[1]):
                del self.pasids[key]

    def forget_translations(self, domain_id: int | None = None, pages: range | None = None) -> None:
        """Forget translations of a domain, or of some addresses in it."""
        for key in list(self.iotlb):
            if domain_id in (None, key[0]) and (pages is None or key[1] in pages):
                del self.iotlb[key]

    def forget(self) -> None:
        """Forget everything, as after a change of the root table (VT-d 6.5.1)."""
        self.forget_contexts()
        self.forget_pasids()
        self.forget_translations()


def _keep(cache: dict[K, V], key: K, value: V, size: int) -> None:
    while len(cache) >= size:
        del cache[next(iter(cache))]
    cache[key] = value
