"""The secure EPT of one TVM, and the VMM's shared EPT (TDX Connect).

The secure EPT is the TSM's table from private guest addresses to physical pages. A leaf goes through the states of
`SeptState` by the moves of `TRANSITIONS`, and the ownership of its physical page moves with it, in the same step.
What the guest has not accepted it cannot reach, and a page leaves the table only when no translation cache can hold
it any more: the processors' TLBs follow with `track`, each IOMMU that translates for the TVM with `invalidated`.

Guest addresses with `GPA_SHARED_BIT` go through the shared EPT, which is the VMM's: whatever it says, it reaches only
what the VMM itself can read.

Left out: unblocking and merging of leaves, splitting of MMIO; intermediate tables and their pages; access rights (all is
readable and writable); running processors (TLB tracking is complete at once).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from teeio.abi.operands import GPA_SHARED_BIT, PAGE_SIZE, PageLevel
from teeio.abi.statuses import Status
from teeio.errors import Misuse, Reject
from teeio.host.memory import OwnerId, PhysicalMemory
from teeio.host.mmio_metadata import MmioMetadata


class SeptState(Enum):
    """States of a secure EPT leaf."""

    FREE = "free"
    PENDING = "added, not accepted by the guest"
    MAPPED = "accepted, or part of the first contents"
    BLOCKED = "on its way out"
    PENDING_BLOCKED = "on its way out, and was never accepted"
    MMIO_PENDING = "MMIO, not accepted by the guest"
    MMIO_MAPPED = "MMIO, accepted"
    MMIO_BLOCKED = "MMIO on its way out"

    __hash__ = object.__hash__  # a name's hash costs more than all else that a look into a table does


class SeptMove(Enum):
    """What changes the state of a leaf, by the name of the call that does it."""

    ADD = "TDH.MEM.PAGE.ADD"
    AUG = "TDH.MEM.PAGE.AUG"
    ACCEPT = "TDG.MEM.PAGE.ACCEPT"
    BLOCK = "TDH.MEM.RANGE.BLOCK"
    REMOVE = "TDH.MEM.PAGE.REMOVE"
    DEMOTE = "TDH.MEM.PAGE.DEMOTE"
    MMIO_MAP = "TDH.MMIO.MAP"
    MMIO_ACCEPT = "TDG.MMIO.ACCEPT"
    MMIO_BLOCK = "TDH.MMIO.BLOCK"
    MMIO_UNMAP = "TDH.MMIO.UNMAP"

    __hash__ = object.__hash__


_S, _M = SeptState, SeptMove

TRANSITIONS: Mapping[tuple[SeptState, SeptMove], SeptState] = MappingProxyType(
    {
        (_S.FREE, _M.ADD): _S.MAPPED,
        (_S.FREE, _M.AUG): _S.PENDING,
        (_S.PENDING, _M.ACCEPT): _S.MAPPED,
        (_S.PENDING, _M.BLOCK): _S.PENDING_BLOCKED,
        (_S.MAPPED, _M.BLOCK): _S.BLOCKED,
        (_S.BLOCKED, _M.REMOVE): _S.FREE,
        (_S.PENDING_BLOCKED, _M.REMOVE): _S.FREE,
        (_S.BLOCKED, _M.DEMOTE): _S.MAPPED,
        (_S.PENDING_BLOCKED, _M.DEMOTE): _S.PENDING,
        (_S.FREE, _M.MMIO_MAP): _S.MMIO_PENDING,
        (_S.MMIO_PENDING, _M.MMIO_ACCEPT): _S.MMIO_MAPPED,
        (_S.MMIO_PENDING, _M.MMIO_BLOCK): _S.MMIO_BLOCKED,
        (_S.MMIO_MAPPED, _M.MMIO_BLOCK): _S.MMIO_BLOCKED,
        (_S.MMIO_BLOCKED, _M.MMIO_UNMAP): _S.FREE,
    }
)
"""Every legal move; all others are refused and change nothing."""

NEEDS_TRACKING = frozenset({SeptMove.REMOVE, SeptMove.DEMOTE, SeptMove.MMIO_UNMAP})
"""Moves that wait until every translation cache has been invalidated since the leaf was blocked."""

_ALIGNMENTS = tuple(-level.size for level in PageLevel)

TRANSLATES = frozenset({SeptState.MAPPED, SeptState.MMIO_MAPPED})
"""States in which a leaf translates."""


@dataclass(slots=True)
class Leaf:
    """One leaf: physical address, size, state, and the TLB epoch in which it was blocked."""

    hpa: int
    level: PageLevel
    state: SeptState
    blocked_in: int = -1


class Translation(NamedTuple):
    """One page of a translated access: its physical address, whose key the access carries, and whether it is MMIO.

    `owner` of MMIO is the TVM, which makes it T=1 traffic.
    """

    hpa: int
    owner: OwnerId
    mmio: bool


class SecureEpt:
    """The secure EPT of the TVM with memory key `owner`, called `tdr` in calls; methods raise `Reject`."""

    def __init__(self, memory: PhysicalMemory, owner: OwnerId, tdr: int, mmio: MmioMetadata) -> None:
        self.owner = owner
        self.tdr = tdr
        self.epoch = 0
        self._memory = memory
        self._mmio = mmio
        self._leaves: tuple[dict[int, Leaf], ...] = tuple({} for _ in PageLevel)
        self._caches: dict[str, int] = {}

    # -- memory -----------------------------------------------------------------------------------------------------

    def add(self, gpa: int, hpa: int, contents: bytes) -> None:
        """Give the TVM a 4 KiB page with its first `contents`."""
        if len(contents) != PAGE_SIZE:
            raise Misuse(f"first contents of {len(contents)} bytes", remedy=f"give {PAGE_SIZE}")
        self._enter(SeptMove.ADD, gpa, hpa, PageLevel.PAGE_4K)
        self._memory.view(self.owner).write(hpa, contents)

    def augment(self, gpa: int, hpa: int, level: PageLevel) -> None:
        """Give the TVM a zeroed page, pending."""
        self._enter(SeptMove.AUG, gpa, hpa, level)

    def accept(self, gpa: int, level: PageLevel) -> None:
        """Accept a pending page on the guest's behalf."""
        leaf = self.leaf(gpa)
        if leaf is not None and leaf.state is SeptState.MAPPED:
            raise Reject(Status.PAGE_ALREADY_ACCEPTED, f"the page at {gpa:#x} was accepted before")
        self._move(SeptMove.ACCEPT, gpa, level)

    def block(self, gpa: int, level: PageLevel) -> None:
        """Let no new translation to the page be made."""
        self._move(SeptMove.BLOCK, gpa, level).blocked_in = self.epoch

    def remove(self, gpa: int, level: PageLevel) -> int:
        """Take a blocked page from the TVM; gives its physical address. The page is scrubbed and the VMM's again."""
        leaf = self._leave(SeptMove.REMOVE, gpa, level)
        self._memory.reclaim(leaf.hpa, self.owner, level.size)
        return leaf.hpa

    def demote(self, gpa: int) -> None:
        """Make 4 KiB leaves of a blocked one of 2 MiB; what the guest had accepted of it stays accepted."""
        large, small = PageLevel.PAGE_2M, PageLevel.PAGE_4K
        leaf = self._leave(SeptMove.DEMOTE, gpa, large)
        for offset in range(0, large.size, small.size):
            self._leaves[small][gpa + offset] = Leaf(leaf.hpa + offset, small, leaf.state)

    # -- private MMIO -----------------------------------------------------------------------------------------------

    def map_mmio(self, gpa: int, mmio: int, level: PageLevel) -> None:
        """Map private MMIO, pending. That it belongs to an interface of this TVM is the caller's check."""
        self._enter(SeptMove.MMIO_MAP, gpa, mmio, level)

    def accept_mmio(self, gpa: int, level: PageLevel) -> None:
        """Accept pending MMIO on the guest's behalf. That the mapping is the reported one is the caller's check."""
        self._move(SeptMove.MMIO_ACCEPT, gpa, level)

    def block_mmio(self, gpa: int, level: PageLevel) -> None:
        """Let no new translation to the MMIO be made."""
        self._move(SeptMove.MMIO_BLOCK, gpa, level).blocked_in = self.epoch

    def unmap_mmio(self, gpa: int, level: PageLevel) -> int:
        """Remove a blocked MMIO mapping; gives its physical address."""
        leaf = self._leave(SeptMove.MMIO_UNMAP, gpa, level)
        self._mmio.unmap(leaf.hpa, level.size)
        return leaf.hpa

    # -- translation caches -----------------------------------------------------------------------------------------

    def track(self) -> None:
        """Advance the TLB epoch: the processors' TLBs have followed when this returns."""
        self.epoch += 1

    def join_cache(self, name: str) -> None:
        """Take note that the device TLB `name` now caches translations of this table."""
        self._caches.setdefault(name, self.epoch)

    def has_cache(self, name: str) -> bool:
        """Tell whether the device TLB `name` may hold translations of this table."""
        return name in self._caches

    def leave_cache(self, name: str) -> None:
        """Take note that the device TLB `name` holds and makes no translation of this table any more."""
        self._caches.pop(name, None)

    def invalidated(self, name: str, epoch: int) -> None:
        """Take note that the device TLB `name` holds no translation from before `epoch`, when its invalidation was asked for."""
        if name in self._caches:
            self._caches[name] = max(self._caches[name], epoch)

    # -- looking ----------------------------------------------------------------------------------------------------

    def leaf(self, gpa: int) -> Leaf | None:
        """Find the leaf that covers `gpa`, in whatever state."""
        for leaves, alignment in zip(self._leaves, _ALIGNMENTS, strict=True):
            leaf = leaves.get(gpa & alignment)
            if leaf is not None:
                return leaf
        return None

    def translate(self, gpa: int) -> Translation | None:
        """Translate a private address; None where nothing is mapped, accepted and unblocked."""
        leaf = self.leaf(gpa)
        if leaf is None or leaf.state not in TRANSLATES:
            return None
        return Translation(leaf.hpa | gpa & leaf.level.size - 1, self.owner, leaf.state is SeptState.MMIO_MAPPED)

    def leaves(self) -> Iterator[tuple[int, Leaf]]:
        """Yield every leaf with its guest address."""
        for level in PageLevel:
            yield from self._leaves[level].items()

    # -- the moves --------------------------------------------------------------------------------------------------

    def _enter(self, move: SeptMove, gpa: int, hpa: int, level: PageLevel) -> None:
        self._check_gpa(gpa, level)
        if hpa % level.size:
            raise Reject(Status.OPERAND_INVALID, f"{hpa:#x} is not aligned to {level.size} bytes")
        if self._overlaps(gpa, level):
            raise Reject(Status.EPT_ENTRY_NOT_FREE, f"{move.value}: guest address {gpa:#x} is in use")
        if move is SeptMove.MMIO_MAP:
            self._mmio.map(hpa, level.size)
        else:
            self._memory.assign(hpa, self.owner, level.size)
        self._leaves[level][gpa] = Leaf(hpa, level, TRANSITIONS[SeptState.FREE, move])

    def _move(self, move: SeptMove, gpa: int, level: PageLevel) -> Leaf:
        self._check_gpa(gpa, level)
        leaf = self.leaf(gpa)
        if leaf is None:
            raise Reject(Status.EPT_WALK_FAILED, f"{move.value}: nothing at guest address {gpa:#x}")
        if leaf.level is not level:
            raise Reject(Status.PAGE_SIZE_MISMATCH, f"{move.value}: {gpa:#x} is mapped as {leaf.level.name}")
        state = TRANSITIONS.get((leaf.state, move))
        if state is None:
            raise Reject(Status.EPT_ENTRY_STATE_INCORRECT, f"{move.value}: {gpa:#x} is {leaf.state.name}")
        if move in NEEDS_TRACKING and not self._is_tracked(leaf):
            raise Reject(
                Status.TLB_TRACKING_NOT_DONE,
                f"{move.value}: after a block come TDH.MEM.TRACK and TDH.IQINV.REQ and PROC on each IOMMU of the TVM",
            )
        leaf.state = state
        return leaf

    def _leave(self, move: SeptMove, gpa: int, level: PageLevel) -> Leaf:
        leaf = self._move(move, gpa, level)
        del self._leaves[level][gpa]
        return leaf

    def _is_tracked(self, leaf: Leaf) -> bool:
        return min([self.epoch, *self._caches.values()]) > leaf.blocked_in

    def _check_gpa(self, gpa: int, level: PageLevel) -> None:
        if not 0 <= gpa < GPA_SHARED_BIT or gpa % level.size:
            raise Reject(Status.OPERAND_INVALID, f"{gpa:#x} is no private guest address aligned to {level.size} bytes")

    def _overlaps(self, gpa: int, level: PageLevel) -> bool:
        if self.leaf(gpa) is not None:
            return True
        smaller = self._leaves[PageLevel.PAGE_4K].keys()
        return level is PageLevel.PAGE_2M and not smaller.isdisjoint(range(gpa, gpa + level.size, PAGE_SIZE))


class SharedEpt:
    """The VMM's table for shared guest addresses of one TVM.

    `trusted_dma` is the TSM's: TDH.MEM.SHARED.SEPT.WR switches it.

    Addresses here are without `GPA_SHARED_BIT`. A leaf leads to memory, or to MMIO of the host that the guest reaches
    without trust.
    """

    def __init__(self) -> None:
        self.trusted_dma = False
        self._pages: dict[int, int] = {}

    def map(self, gpa: int, hpa: int, size: int = PAGE_SIZE) -> None:
        """Map `size` bytes; a page that was mapped is mapped anew."""
        _check_pages(gpa, hpa, size)
        for offset in range(0, size, PAGE_SIZE):
            self._pages[gpa + offset] = hpa + offset

    def unmap(self, gpa: int, size: int = PAGE_SIZE) -> None:
        """Unmap `size` bytes, mapped or not."""
        _check_pages(gpa, 0, size)
        for offset in range(0, size, PAGE_SIZE):
            self._pages.pop(gpa + offset, None)

    @property
    def mapped(self) -> int:
        """How many pages are mapped."""
        return len(self._pages)

    def translate(self, gpa: int) -> int | None:
        """Give the physical address, or None."""
        page = self._pages.get(gpa & -PAGE_SIZE)
        return None if page is None else page | gpa & PAGE_SIZE - 1


def _check_pages(gpa: int, hpa: int, size: int) -> None:
    if gpa % PAGE_SIZE or hpa % PAGE_SIZE or size % PAGE_SIZE or size <= 0 or not 0 <= gpa < GPA_SHARED_BIT or hpa < 0:
        raise Misuse(f"mapping of {size} bytes from {gpa:#x} to {hpa:#x}", remedy="use whole, aligned pages")
