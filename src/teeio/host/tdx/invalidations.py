"""Invalidations as the TSM asks the IOMMU for them, and how it knows that one is complete (published TDX module: tdh_iq_inv_*.c).

A request becomes descriptors in the queue and a wait descriptor behind them. In a page beside the queue the TSM notes for
the slot of each wait descriptor what it completes; when the IOMMU's head has passed the slot, an entry counts as
invalidated, or a TVM's translations as forgotten. Methods raise `Reject`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from teeio.abi.operands import DmarLevel, DmarState, Invalidation, InvalidationState
from teeio.abi.statuses import Status
from teeio.errors import Reject
from teeio.host.dmar_tables import TRUSTED_DOMAIN, ContextEntry, DmarEntry, PasidEntry, state_of
from teeio.host.invalidation_queue import (
    DESCRIPTOR_SIZE,
    QUEUE_SLOTS,
    ContextInvalidate,
    Descriptor,
    InvalidationQueue,
    IotlbInvalidate,
    PasidInvalidate,
    Wait,
)
from teeio.host.memory import OwnerId
from teeio.host.tdx.dmar_tree import DmarTree
from teeio.wire import Record, bits, record, reserved, reserved_bits, u64

LEVELS: Mapping[Invalidation, DmarLevel] = MappingProxyType(
    {
        Invalidation.ROOT: DmarLevel.ROOT,
        Invalidation.CONTEXT: DmarLevel.CONTEXT,
        Invalidation.PASID_DIRECTORY: DmarLevel.PASID_DIRECTORY,
        Invalidation.PASID: DmarLevel.PASID,
    }
)
"""The level of the entry that an invalidation is about."""

DESCRIPTORS: Mapping[Invalidation, int] = MappingProxyType(
    {
        Invalidation.IOTLB: 2,
        Invalidation.ROOT: 1,
        Invalidation.CONTEXT: 2,
        Invalidation.PASID_DIRECTORY: 1,
        Invalidation.PASID: 3,
    }
)
"""How many descriptors an invalidation takes in the queue, the wait descriptor included."""


@record
class Note(Record):
    """What the TSM notes for a slot of the queue: what a wait descriptor completes."""

    tracked: int = bits(1, "The slot holds the wait descriptor of a request", of=8, default=0)
    kind: int = bits(4, "Kind of invalidation", enum=Invalidation, default=Invalidation.IOTLB)
    _reserved: None = reserved_bits(59)
    target: int = u64("Physical address of the entry, or of the TVM's root page", default=0)
    epoch: int = u64("TLB epoch of the TVM when this was asked for; 0 if it had no entries here", default=0)
    _upper: None = reserved(8)


class Invalidations:
    """The queue in the page `queue`, and the notes in the page `notes`."""

    def __init__(self, tree: DmarTree, queue: int, notes: int) -> None:
        self._tree = tree
        self._queue = InvalidationQueue(tree.unit, tree.memory, queue)
        self._notes = notes
        self._seen = 0

    @property
    def waiting(self) -> int:
        """Descriptors that wait in the queue."""
        return self._queue.waiting

    def request(self, kind: Invalidation, target: int, owner: OwnerId) -> None:
        """Queue an invalidation: of the blocked entry of requester `target`, or of the TVM `target` with key `owner`."""
        if self._queue.room < DESCRIPTORS[kind]:
            raise Reject(Status.IOMMU_QUEUE_FULL, f"{self.waiting} descriptors wait: call TDH.IQINV.PROC")
        if kind is Invalidation.IOTLB:
            # A TVM without entries may end, and its root page be another's, before this is complete: then it counts for none.
            second = self._tree.unit.second_stages.get(target)
            note = Note(tracked=1, kind=kind, target=target, epoch=0 if second is None else second.sept.epoch)
            self._post([IotlbInvalidate(domain_id=domain_id(owner))], note)
            return
        level = LEVELS[kind]
        found = self._tree.need(level, target)
        state = state_of(found.entry)
        if state is not DmarState.BLOCKED:
            raise Reject(Status.DMAR_INVALID_MAPPING_STATE, f"the {level.name} entry is {state.name}, not BLOCKED")
        if found.entry.invalidation != InvalidationState.PENDING:
            raise Reject(Status.DMAR_INVALID_INV_STATE, f"the {level.name} entry's invalidation was asked for before")
        self._post(_descriptors(found.entry, target), Note(tracked=1, kind=kind, target=found.at))
        self._tree.put(found, DmarState.BLOCKED, InvalidationState.QUEUED)

    def process(self, limit: int = QUEUE_SLOTS) -> tuple[int, int]:
        """Let the IOMMU work off up to `limit` descriptors, and take note of what is complete.

        Gives how many requests that completed, and how many descriptors wait.
        """
        self._tree.read(self._notes, DESCRIPTOR_SIZE)  # refused before anything is done
        self._queue.work(limit)
        completed = 0
        while self._seen != self._queue.head:
            note = Note.decode(self._tree.read(self._notes + self._seen * DESCRIPTOR_SIZE, DESCRIPTOR_SIZE))
            if note.tracked:
                self._complete(note)
                completed += 1
            self._seen = (self._seen + 1) % QUEUE_SLOTS
        return completed, self.waiting

    def _post(self, descriptors: list[Descriptor], note: Note) -> None:
        for page in (self._queue.base, self._notes):  # refused before anything is written
            self._tree.read(page, DESCRIPTOR_SIZE)
        for descriptor, beside in [*((one, Note()) for one in descriptors), (Wait(), note)]:
            slot = self._queue.post(descriptor)
            self._tree.write(self._notes + slot * DESCRIPTOR_SIZE, beside.encode())

    def _complete(self, note: Note) -> None:
        """Take note that everything up to a wait descriptor is done."""
        unit = self._tree.unit
        if note.kind == Invalidation.IOTLB:
            second = unit.second_stages.get(note.target)
            if second is not None:
                second.sept.invalidated(unit.name, note.epoch)
            return
        try:
            found = self._tree.at(LEVELS[Invalidation(note.kind)], note.target)
        except Reject:  # its page is lost, and the entry with it
            return
        self._tree.put(found, DmarState.BLOCKED, InvalidationState.DONE)


def domain_id(owner: OwnerId) -> int:
    """Give the domain id of a TVM's entries: trusted, with the TVM's key id."""
    return TRUSTED_DOMAIN | owner


def _descriptors(entry: DmarEntry, requester_id: int) -> list[Descriptor]:
    """Give what throws an entry out of the caches; what lies between context and PASID entry, or above, is not cached."""
    if isinstance(entry, PasidEntry):
        return [PasidInvalidate(domain_id=entry.domain_id), IotlbInvalidate(domain_id=entry.domain_id)]
    return [ContextInvalidate(source_id=requester_id)] if isinstance(entry, ContextEntry) else []
