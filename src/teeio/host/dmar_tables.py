"""The trusted DMA remapping tables as they lie in memory: root, context, PASID directory, PASID table (VT-d scalable mode).

One entry of each table leads to the next, and the last to the second stage, which is the TVM's secure EPT::

    requester id  15:7          6:0          PASID 19:6          PASID 5:0
    root table -> RootEntry -> ContextEntry -> PasidDirectoryEntry -> PasidEntry -> second stage

Sources: Intel VT-d architecture specification, chapter 9 (9.2 root, 9.4 context, 9.5 PASID directory, 9.6 PASID table
entry), as Linux's `pasid.h` reads it too. What is marked "TSM's" are bits that VT-d reserves or does not look at while
an entry is not present, and in which the published TDX module keeps an entry's state (`dmar_defs.h`). As there, a root
entry is half of VT-d's: the lower half serves devices 0 to 15 of a bus, the upper half devices 16 to 31, so bit 7 of
the requester id chooses the half and each half is an entry of its own with a context table of its own.

UNCONFIRMED: whether shipped modules keep their state in the same bits as the published one; that blocking a PASID
directory entry clears P (the published state value leaves it set); that the second stage is filled in by TDH.DMAR.ADD
(one published version does it, another at TDG.DMAR.ACCEPT).

Left out: key ids in pointers (memory knows whose a page is); bit locks; directories of more than one page; first-stage
translation. The second stage of this model has no pages of its own, so the pointer to it is the address of the TVM's
root page (TDR).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from teeio.abi.operands import PAGE_SIZE, DmarLevel, DmarState, InvalidationState
from teeio.wire import REST, Record, bits, record, repeat, reserved, reserved_bits, u64

RID_PASID = 0
"""The PASID of requests without PASID, in every context entry (the published module refuses others)."""

SECOND_STAGE_ONLY = 2
"""PGTT of a PASID entry that translates by the second stage alone."""

WRITE_BACK = 6
"""EMT: the memory type of what the entry leads to."""

LEVELS_5 = 3
"""AW: second stage of five levels, as 52-bit guest addresses need."""

TRUSTED_DOMAIN = 1 << 15
"""Bit of the domain id of every trusted entry; the rest is the TVM's key id."""


@record
class RootEntry(Record):
    """Half of a scalable-mode root entry (VT-d 9.2)."""

    present: int = bits(1, "P", of=8, default=0)
    _reserved: None = reserved_bits(7)
    invalidation: int = bits(2, "TSM's: invalidation state", enum=InvalidationState, default=0)
    blocked: int = bits(1, "TSM's: blocked", default=0)
    _lock: None = reserved_bits(1)
    pointer: int = bits(52, "Context table, in pages", default=0)


@record
class ContextEntry(Record):
    """A scalable-mode context entry (VT-d 9.4)."""

    present: int = bits(1, "P", of=8, default=0)
    fault_processing_disable: int = bits(1, "FPD", default=0)
    device_tlb_enable: int = bits(1, "DTE: Translation Requests are served", default=0)
    pasid_enable: int = bits(1, "PASIDE: requests with PASID are served", default=0)
    page_request_enable: int = bits(1, "PRE: page requests are served", default=0)
    _reserved: None = reserved_bits(2)
    blocked: int = bits(1, "TSM's: blocked", default=0)
    _lock: None = reserved_bits(1)
    directory_size: int = bits(3, "PDTS: the directory has 2^(this + 7) entries", default=0)
    pointer: int = bits(52, "PASID directory, in pages", default=0)
    rid_pasid: int = bits(20, "RID_PASID: the PASID of requests without one", of=8, default=RID_PASID)
    rid_priv: int = bits(1, "RID_PRIV", default=0)
    invalidation: int = bits(2, "TSM's: invalidation state", enum=InvalidationState, default=0)
    _rest: None = reserved_bits(41)
    _upper: None = reserved(16)


@record
class PasidDirectoryEntry(Record):
    """A scalable-mode PASID directory entry (VT-d 9.5)."""

    present: int = bits(1, "P", of=8, default=0)
    fault_processing_disable: int = bits(1, "FPD", default=0)
    _reserved: None = reserved_bits(6)
    invalidation: int = bits(2, "TSM's: invalidation state", enum=InvalidationState, default=0)
    blocked: int = bits(1, "TSM's: blocked", default=0)
    _lock: None = reserved_bits(1)
    pointer: int = bits(52, "PASID table, in pages", default=0)


@record
class PasidEntry(Record):
    """A scalable-mode PASID table entry (VT-d 9.6); the first-stage fields are one word here, and zero."""

    present: int = bits(1, "P", of=8, default=0)
    fault_processing_disable: int = bits(1, "FPD", default=0)
    address_width: int = bits(3, "AW: levels of the second stage", default=0)
    execute_enable: int = bits(1, "SLEE: the second stage has execute permissions", default=0)
    translation_type: int = bits(3, "PGTT: which stages translate", default=0)
    access_dirty_enable: int = bits(1, "SLADE: the second stage has accessed and dirty bits", default=0)
    blocked: int = bits(1, "TSM's: blocked", default=0)
    _lock: None = reserved_bits(1)
    pointer: int = bits(51, "SLPTPTR: second stage, in pages", default=0)
    pending: int = bits(1, "TSM's: added, not accepted", default=0)
    domain_id: int = bits(16, "DID", of=8, default=0)
    invalidation: int = bits(2, "TSM's: invalidation state", enum=InvalidationState, default=0)
    _reserved: None = reserved_bits(5)
    page_walk_snoop: int = bits(1, "PWSNP", default=0)
    page_snoop: int = bits(1, "PGSNP", default=0)
    cache_disable: int = bits(1, "CD", default=0)
    memory_type_enable: int = bits(1, "EMTE", default=0)
    memory_type: int = bits(3, "EMT", default=0)
    write_through: int = bits(1, "PWT", default=0)
    page_cache_disable: int = bits(1, "PCD", default=0)
    attribute_table: int = bits(32, "PAT", default=0)
    first_stage: int = u64("First-stage fields: SRE, ERE, FLPM, WPE, NXE, SMEP, EAFE, FLPTPTR", default=0)
    _upper: None = reserved(40)


DmarEntry: TypeAlias = RootEntry | ContextEntry | PasidDirectoryEntry | PasidEntry


class Table(NamedTuple):
    """One kind of table: its entries, their size in bytes, which of them serves a requester id, and whose it is."""

    entry: type[DmarEntry]
    size: int
    index_of: Callable[[int], int]
    requester: Callable[[int], int]
    """The lowest requester id behind the entry of this index, as far as this table tells."""


TABLES: Mapping[DmarLevel, Table] = MappingProxyType(
    {
        DmarLevel.ROOT: Table(RootEntry, 8, lambda requester_id: requester_id >> 7, lambda index: index << 7),
        DmarLevel.CONTEXT: Table(ContextEntry, 32, lambda requester_id: requester_id & 0x7F, lambda index: index),
        DmarLevel.PASID_DIRECTORY: Table(PasidDirectoryEntry, 8, lambda _: RID_PASID >> 6, lambda _: 0),
        DmarLevel.PASID: Table(PasidEntry, 64, lambda _: RID_PASID & 0x3F, lambda _: 0),
    }
)
"""The tables, from the root down."""


def below(level: DmarLevel) -> DmarLevel:
    """Give the level that entries of this one lead to."""
    return DmarLevel(level - 1)


def address(entry: DmarEntry) -> int:
    """Give the physical address that an entry leads to."""
    return entry.pointer * PAGE_SIZE


def state_of(entry: DmarEntry) -> DmarState:
    """Read an entry's mapping state from its bits."""
    if entry.present:
        return DmarState.PRESENT
    if entry.blocked:
        return DmarState.BLOCKED
    pending = isinstance(entry, PasidEntry) and entry.pending
    return DmarState.PENDING if pending else DmarState.FREE


def set_state(entry: DmarEntry, state: DmarState, invalidation: InvalidationState) -> None:
    """Write both states into an entry's bits."""
    entry.present, entry.blocked = int(state is DmarState.PRESENT), int(state is DmarState.BLOCKED)
    entry.invalidation = invalidation
    if isinstance(entry, PasidEntry):
        entry.pending = int(state is DmarState.PENDING)


# -- entries as the qwords of calls


@record
class Qwords(Record):
    """An entry as calls pass it."""

    words: tuple[int, ...] = repeat(8, "The entry's 64-bit words", size=REST)


def qwords(entry: DmarEntry) -> tuple[int, ...]:
    """Give an entry as calls pass it."""
    return Qwords.decode(entry.encode()).words


def from_qwords(level: DmarLevel, words: tuple[int, ...]) -> DmarEntry:
    """Read an entry as calls pass it: as many words as it has, each of 64 bits, is the caller's check."""
    return TABLES[level].entry.decode(Qwords(words=words).encode())


def offered(level: DmarLevel, target: int) -> DmarEntry:
    """Give the entry that the VMM asks the TSM to add: present and leading to the page `target`, nothing else set.

    A PASID entry is not present, and where it leads is the TSM's to say: `target` is 0.
    """
    if level is DmarLevel.PASID:
        return PasidEntry(
            pointer=target // PAGE_SIZE,
            address_width=LEVELS_5,
            execute_enable=1,
            translation_type=SECOND_STAGE_ONLY,
            page_walk_snoop=1,
            page_snoop=1,
            memory_type_enable=1,
            memory_type=WRITE_BACK,
        )
    return TABLES[level].entry(present=1, pointer=target // PAGE_SIZE)
