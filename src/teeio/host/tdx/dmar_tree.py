"""The trusted tables of one IOMMU as the TSM walks and writes them: a tree of entries, in pages of the TSM and nowhere else.

A table page that somebody wrote into cannot be read any more: a module would shut down on the machine check, here calls
that need the page are refused. Methods raise `Reject`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from teeio.abi.operands import PAGE_SIZE, DmarLevel, DmarState, InvalidationState
from teeio.abi.statuses import Status
from teeio.errors import Reject
from teeio.host.dmar_tables import TABLES, DmarEntry, address, below, set_state
from teeio.host.memory import TSM, MemoryPoisoned, PhysicalMemory
from teeio.host.trusted_remapping import TrustedRemapping

_EMPTY = bytes(PAGE_SIZE)
"""A table without entries: what is free is zero."""


class Found(NamedTuple):
    """An entry, and its physical address."""

    at: int
    entry: DmarEntry


class DmarTree:
    """The tables below the root table that the registers of `unit` name; without one there are none."""

    def __init__(self, unit: TrustedRemapping, memory: PhysicalMemory) -> None:
        self.unit = unit
        self.memory = memory
        self._view = memory.view(TSM)

    # -- entries

    def find(self, level: DmarLevel, requester_id: int) -> Found | None:
        """Find an entry; None if one above it is not present."""
        if self.unit.root_table is None:
            return None
        at, table = DmarLevel.ROOT, self.unit.root_table
        while True:
            kind = TABLES[at]
            found = self.at(at, table + kind.index_of(requester_id) * kind.size)
            if at is level:
                return found
            if not found.entry.present:
                return None
            at, table = below(at), address(found.entry)

    def need(self, level: DmarLevel, requester_id: int) -> Found:
        """Find an entry that must be in reach."""
        found = self.find(level, requester_id)
        if found is None:
            raise Reject(
                Status.DMAR_ENTRY_NOT_PRESENT, f"an entry above the {level.name} entry of requester {requester_id:#06x}"
            )
        return found

    def at(self, level: DmarLevel, hpa: int) -> Found:
        """Read the entry of this level that lies at a physical address."""
        kind = TABLES[level]
        return Found(hpa, kind.entry.decode(self.read(hpa, kind.size)))

    def put(self, found: Found, state: DmarState, invalidation: InvalidationState = InvalidationState.PENDING) -> None:
        """Write an entry with these states."""
        set_state(found.entry, state, invalidation)
        self.write(found.at, found.entry.encode())

    def has_children(self, level: DmarLevel, entry: DmarEntry) -> bool:
        """Tell whether the table that an entry leads to has entries in use."""
        return level is not DmarLevel.PASID and self.read(address(entry), PAGE_SIZE) != _EMPTY

    def is_empty(self) -> bool:
        """Tell whether the root table has no entry in use."""
        return self.unit.root_table is None or self.read(self.unit.root_table, PAGE_SIZE) == _EMPTY

    def entries(self) -> Iterator[tuple[DmarLevel, int, DmarEntry]]:
        """Yield every entry in use, from the root down, with the lowest requester id behind it."""
        if self.unit.root_table is not None:
            yield from self._below(DmarLevel.ROOT, self.unit.root_table, 0)

    def _below(self, level: DmarLevel, table: int, requester_id: int) -> Iterator[tuple[DmarLevel, int, DmarEntry]]:
        for index, entry in self._used(level, table):
            lowest = requester_id | TABLES[level].requester(index)
            yield level, lowest, entry
            if level is not DmarLevel.PASID:
                yield from self._below(below(level), address(entry), lowest)

    def _used(self, level: DmarLevel, table: int) -> Iterator[tuple[int, DmarEntry]]:
        """Yield the entries of a table that are not free, with their index."""
        kind = TABLES[level]
        page, empty = self.read(table, PAGE_SIZE), bytes(kind.size)
        for index in range(PAGE_SIZE // kind.size):
            raw = page[index * kind.size : (index + 1) * kind.size]
            if raw != empty:
                yield index, kind.entry.decode(raw)

    # -- bytes

    def read(self, hpa: int, size: int) -> bytes:
        """Read what is the TSM's."""
        try:
            return self._view.read(hpa, size)
        except MemoryPoisoned as error:
            raise Reject(Status.DMAR_TABLE_POISONED, str(error)) from None

    def write(self, hpa: int, data: bytes) -> None:
        """Write what is the TSM's, and was read before."""
        self._view.write(hpa, data)
