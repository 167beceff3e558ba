"""Who may do what to the trusted tables of one IOMMU: the VMM gives pages and says where, the TSM writes (TDH.DMAR, TDH.IQINV).

Everything about an entry lies in its bits: there is no list beside the tables. An entry is added where it is free and the
one above it is present; it is blocked when those below it are gone; it is removed, and its page given back, when the
queue has been worked off beyond the invalidation that was asked for after the block. Only the PASID entry, which leads
to a TVM, waits for that TVM's acceptance. (Published TDX module: dmar.c, tdh_dmar_*.c.) Methods raise `Reject`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from types import MappingProxyType

from teeio.abi.operands import PAGE_SIZE, DmarLevel, DmarState, Invalidation, InvalidationState
from teeio.abi.statuses import Status
from teeio.errors import Misuse, Reject
from teeio.host.dmar_tables import TABLES, DmarEntry, PasidEntry, address, from_qwords, offered, qwords, state_of
from teeio.host.invalidation_queue import QUEUE_SLOTS
from teeio.host.memory import TSM, OwnerId, PhysicalMemory
from teeio.host.tdx.dmar_tree import DmarTree
from teeio.host.tdx.invalidations import Invalidations, domain_id
from teeio.host.trusted_remapping import SecondStage, TrustedRemapping


class DmarMove(Enum):
    """What changes the mapping state of an entry, by the name of the call that does it."""

    ADD = "TDH.DMAR.ADD"
    ACCEPT = "TDG.DMAR.ACCEPT"
    BLOCK = "TDH.DMAR.BLOCK"
    REMOVE = "TDH.DMAR.REMOVE"


_S, _M = DmarState, DmarMove

TRANSITIONS: Mapping[tuple[DmarState, DmarMove], DmarState] = MappingProxyType(
    {
        (_S.FREE, _M.ADD): _S.PRESENT,
        (_S.PRESENT, _M.BLOCK): _S.BLOCKED,
        (_S.BLOCKED, _M.REMOVE): _S.FREE,
    }
)
"""Every legal move of an entry that leads to a table; all others are refused and change nothing."""

PASID_TRANSITIONS: Mapping[tuple[DmarState, DmarMove], DmarState] = MappingProxyType(
    {
        **TRANSITIONS,
        (_S.FREE, _M.ADD): _S.PENDING,
        (_S.PENDING, _M.ACCEPT): _S.PRESENT,
        (_S.PENDING, _M.BLOCK): _S.BLOCKED,
    }
)
"""The same for a PASID entry."""


class TrustedTables:
    """The trusted tables of one IOMMU, and its invalidations."""

    def __init__(self, unit: TrustedRemapping, memory: PhysicalMemory) -> None:
        self._unit = unit
        self._memory = memory
        self._tree = DmarTree(unit, memory)
        self._invalidations: Invalidations | None = None
        self._entries_of: dict[int, int] = {}

    # -- TDX mode

    def set_up(self, root: int, queue: int, notes: int) -> None:
        """Begin with empty pages: the root table, the queue, and what is noted for its slots."""
        self._unit.root_table = root
        self._unit.forget()
        self._invalidations = Invalidations(self._tree, queue, notes)

    def take_down(self) -> None:
        """End, once no entry is left; what waits in the queue has no meaning any more."""
        if not self._tree.is_empty():
            raise Reject(Status.OPERAND_BUSY, "trusted entries are left: TDH.DMAR.BLOCK and REMOVE, from the leaves up")
        self._unit.root_table = None
        self._unit.forget()
        self._invalidations = None

    # -- entries

    def add(
        self, level: DmarLevel, requester_id: int, values: tuple[int, ...], second: SecondStage | None = None
    ) -> None:
        """Add an entry of the qwords `values`, which name the page of the table below it; a PASID entry leads to `second`."""
        found = self._tree.need(level, requester_id)
        state = _next(level, found.entry, DmarMove.ADD)
        entry = _offered(level, values)
        if not isinstance(entry, PasidEntry):
            self._memory.assign(address(entry), TSM)  # scrubbed, before any walk can find it
        elif second is None:
            raise Misuse("a PASID entry without a second stage")
        else:
            entry.pointer = second.sept.tdr // PAGE_SIZE
            entry.domain_id = domain_id(second.sept.owner)
            self._join(second)
        self._tree.put(found._replace(entry=entry), state)

    def accept(self, requester_id: int, tdr: int) -> None:
        """Accept a PASID entry on behalf of the TVM that it must lead to."""
        found = self._tree.need(DmarLevel.PASID, requester_id)
        state = _next(DmarLevel.PASID, found.entry, DmarMove.ACCEPT)
        if address(found.entry) != tdr:
            raise Reject(Status.DMAR_INVALID_MAPPING_STATE, "the trusted entry leads to another TVM")
        self._tree.put(found, state)

    def block(self, level: DmarLevel, requester_id: int) -> None:
        """Let an entry be used for no new walk."""
        found = self._tree.need(level, requester_id)
        state = _next(level, found.entry, DmarMove.BLOCK)
        if self._tree.has_children(level, found.entry):
            raise Reject(Status.DMAR_INVALID_MAPPING_STATE, f"there are entries below the {level.name} entry")
        self._tree.put(found, state)

    def remove(self, level: DmarLevel, requester_id: int) -> tuple[int, ...]:
        """Remove a blocked and invalidated entry; gives the page of the table below it, the VMM's again."""
        found = self._tree.need(level, requester_id)
        _next(level, found.entry, DmarMove.REMOVE)
        if found.entry.invalidation != InvalidationState.DONE:
            raise Reject(
                Status.DMAR_INVALID_INV_STATE,
                f"the {level.name} entry may still be cached: TDH.IQINV.REQ, then PROC, after TDH.DMAR.BLOCK",
            )
        self._tree.write(found.at, TABLES[level].entry().encode())
        led_to = address(found.entry)
        if level is DmarLevel.PASID:
            self._leave(led_to)
            return ()
        self._memory.reclaim(led_to, TSM)
        return (led_to,)

    def read(self, level: DmarLevel, requester_id: int) -> DmarEntry:
        """Give an entry."""
        return self._tree.need(level, requester_id).entry

    def state(self, requester_id: int) -> DmarState:
        """Give the state of a requester's PASID entry, FREE if there is none; what cannot be told counts as BLOCKED."""
        try:
            found = self._tree.find(DmarLevel.PASID, requester_id)
        except Reject:
            return DmarState.BLOCKED
        return DmarState.FREE if found is None else state_of(found.entry)

    def entries(self) -> Iterator[tuple[DmarLevel, int, DmarEntry]]:
        """Yield every entry in use, from the root down, with the lowest requester id behind it."""
        return self._tree.entries()

    # -- second stages: who has entries here has this IOMMU among its translation caches

    def _join(self, second: SecondStage) -> None:
        tdr = second.sept.tdr
        self._entries_of[tdr] = self._entries_of.get(tdr, 0) + 1
        self._unit.second_stages[tdr] = second
        second.sept.join_cache(self._unit.name)

    def _leave(self, tdr: int) -> None:
        self._entries_of[tdr] -= 1
        if not self._entries_of[tdr]:
            del self._entries_of[tdr]
            self._unit.second_stages.pop(tdr).sept.leave_cache(self._unit.name)

    # -- invalidations

    @property
    def waiting(self) -> int:
        """Descriptors that wait in the invalidation queue."""
        return 0 if self._invalidations is None else self._invalidations.waiting

    def request(self, kind: Invalidation, target: int, owner: OwnerId = 0) -> None:
        """Queue an invalidation: of the blocked entry of requester `target`, or of the TVM `target` with key `owner`."""
        self._running().request(kind, target, owner)

    def process(self, limit: int = QUEUE_SLOTS) -> tuple[int, int]:
        """Process the queue; gives how many requests that completed, and how many descriptors wait."""
        return self._running().process(limit)

    def _running(self) -> Invalidations:
        if self._invalidations is None:
            raise Misuse("the IOMMU is not in TDX mode", remedy="set_up first")
        return self._invalidations


def _next(level: DmarLevel, entry: DmarEntry, move: DmarMove) -> DmarState:
    table = PASID_TRANSITIONS if level is DmarLevel.PASID else TRANSITIONS
    state = table.get((state_of(entry), move))
    if state is None:
        raise Reject(
            Status.DMAR_INVALID_MAPPING_STATE, f"{move.value}: the {level.name} entry is {state_of(entry).name}"
        )
    return state


def _offered(level: DmarLevel, values: tuple[int, ...]) -> DmarEntry:
    """Read the entry that the VMM offers, which may say no more than where the next table is."""
    kind = TABLES[level]
    if len(values) * 8 != kind.size or not all(0 <= value < 1 << 64 for value in values):
        raise Reject(Status.OPERAND_INVALID, f"a {level.name} entry is {kind.size // 8} qwords")
    entry = from_qwords(level, values)
    if values != qwords(offered(level, 0 if level is DmarLevel.PASID else address(entry))):
        raise Reject(
            Status.OPERAND_INVALID,
            f"the {level.name} entry sets reserved bits, or fields that are the TSM's or that TDX Connect does not use",
        )
    return entry
