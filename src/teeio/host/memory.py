"""Physical memory with an owner for each page, as a multi-key memory controller sees it (Intel TDX).

A page belongs to nobody (FREE), to the VMM and whomever it shares with (SHARED), to the TSM, or to one TVM. Everybody
reads and writes through a `MemoryView`, which is bound to one owner like an access that carries that owner's key id:

* an owner sees its pages in the clear;
* the VMM, reading somebody else's page, gets what lies in the chips: the ciphertext under the owner's key
  (AES-128-XTS, the address as tweak). TDX is stricter and gives zeros; ciphertext lets a scenario show that there is
  data and that it is unreadable;
* the VMM, writing to somebody else's page, poisons it: nothing tells the VMM, and the owner's next access raises
  `MemoryPoisoned` (hardware: machine check). So data is never silently replaced;
* a TVM or the TSM never gets at a page with the wrong key: `MemoryPoisoned` as well, and nothing changes.

Every change of owner scrubs the page, unless nothing was written to it since the last time. Simplified: the store holds
plaintext and encryption happens when an outsider looks, with the same result for the outsider; poison covers a page, not
a cache line, and only reclaiming the page clears it; there are no caches to flush.

The store is one page-aligned anonymous mapping, so that copies do not depend on where the allocator happens to put a
buffer.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from typing import TypeAlias

from teeio.abi.operands import PAGE_SIZE
from teeio.abi.statuses import Status
from teeio.crypto.entropy import Entropy
from teeio.crypto.memory_encryption import MemoryKey
from teeio.errors import AuthenticationFailed, Misuse, Reject
from teeio.observe import Observer, Refused, ignore

OwnerId: TypeAlias = int
"""Who owns a page: one of the three below, or the key id of a TVM."""

FREE: OwnerId = 0
SHARED: OwnerId = 1
TSM: OwnerId = 2
FIRST_TVM: OwnerId = 3
LAST_TVM: OwnerId = 255

_UNENCRYPTED = bytes([FREE, SHARED])

_DROPPED = 16 * PAGE_SIZE
"""From this size on it is quicker to drop pages than to write zeroes over them."""


class MemoryPoisoned(AuthenticationFailed):
    """A trusted access met a page that somebody wrote without its key, or that is under another key."""

    def __init__(self, hpa: int, reason: str) -> None:
        super().__init__(
            f"memory integrity violation at physical address {hpa:#x}: {reason}",
            remedy="the contents are lost: end the TVM, or remove and add the page again",
        )
        self.hpa = hpa


class PhysicalMemory:
    """The memory and its page metadata. Holding it is the TSM's privilege: it alone moves pages between owners.

    The VMM holds `vmm`, others a `view`. `size` in bytes is a multiple of the page size.
    """

    def __init__(self, size: int, entropy: Entropy, observer: Observer = ignore) -> None:
        if size <= 0 or size % PAGE_SIZE:
            raise Misuse(f"memory of {size} bytes", remedy=f"give a positive multiple of {PAGE_SIZE}")
        self.size = size
        self._entropy = entropy
        self._observer = observer
        # Copy-on-write, so that a forked process has a memory of its own (see `explorer`).
        self._store = mmap.mmap(-1, size, access=mmap.ACCESS_COPY)
        self._owners = bytearray(size // PAGE_SIZE)
        self._written = bytearray(size // PAGE_SIZE)
        self._poisoned: set[int] = set()
        self._keys: dict[OwnerId, MemoryKey] = {TSM: MemoryKey(entropy)}
        self.vmm = VmmMemory(self)

    # -- owners and pages -------------------------------------------------------------------------------------------

    def create_owner(self) -> OwnerId:
        """Give a new TVM its key id and a fresh key. Raises `Reject` (HKID_NOT_FREE)."""
        for owner in range(FIRST_TVM, LAST_TVM + 1):
            if owner not in self._keys:
                self._keys[owner] = MemoryKey(self._entropy)
                return owner
        raise Reject(Status.HKID_NOT_FREE, "all memory keys are in use")

    @property
    def tvm_keys(self) -> tuple[OwnerId, ...]:
        """The TVMs that have a key."""
        return tuple(owner for owner in self._keys if owner >= FIRST_TVM)

    def destroy_owner(self, owner: OwnerId) -> None:
        """Destroy a TVM's key. Raises `Reject` (TD_ASSOCIATED_PAGES_EXIST) while it owns pages."""
        if not FIRST_TVM <= owner <= LAST_TVM or owner not in self._keys:
            raise Misuse(f"owner {owner} is no TVM with a key")
        if self._owners.count(owner):
            raise Reject(Status.TD_ASSOCIATED_PAGES_EXIST, "a key is destroyed after its pages are reclaimed")
        del self._keys[owner]

    def owner_of(self, hpa: int) -> OwnerId:
        """Give the owner of the page at `hpa`. Raises `Misuse` outside the memory."""
        self._check_range(hpa, 1)
        return self._owners[hpa // PAGE_SIZE]

    def contains(self, hpa: int, size: int = 1) -> bool:
        """Tell whether these bytes are memory at all."""
        return hpa >= 0 and 0 <= size <= self.size - hpa

    def is_unencrypted(self, hpa: int, size: int) -> bool:
        """Tell whether all these bytes are memory that the VMM can read: neither a TVM's nor the TSM's."""
        return self.contains(hpa, size) and not self._foreign(hpa, size, _UNENCRYPTED)

    def assign(self, hpa: int, owner: OwnerId, size: int = PAGE_SIZE) -> None:
        """Move pages of the VMM to `owner`, scrubbed. Raises `Reject` (PAGE_METADATA_INCORRECT, OPERAND_INVALID)."""
        if owner not in self._keys:
            raise Misuse(f"owner {owner} has no key", remedy="call create_owner first")
        self._check_operand(hpa, size)
        self._move(hpa, size, SHARED, owner)

    def reclaim(self, hpa: int, owner: OwnerId, size: int = PAGE_SIZE) -> None:
        """Move pages of `owner` back to the VMM, scrubbed and without poison. Raises `Reject` as `assign` does."""
        self._check_operand(hpa, size)
        self._move(hpa, size, owner, SHARED)

    def accounting(self) -> dict[OwnerId, int]:
        """Count pages by owner; the sum is always the size of the memory, owners without pages are left out."""
        return {owner: count for owner in range(LAST_TVM + 1) if (count := self._owners.count(owner))}

    def view(self, owner: OwnerId) -> MemoryView:
        """Give the memory as accesses with the key of `owner` see it."""
        return MemoryView(self, owner)

    def at_rest(self, hpa: int, size: int) -> bytes:
        """Give what a probe on the memory bus reads: private pages encrypted, the rest as it is."""
        self._check_range(hpa, size)
        first = hpa - hpa % PAGE_SIZE
        pages = b"".join(self._page_at_rest(page) for page in range(first, hpa + size, PAGE_SIZE))
        return pages[hpa - first : hpa - first + size]

    # -- what views and the TSM are made of -------------------------------------------------------------------------

    def _page_at_rest(self, hpa: int) -> bytes:
        plain = self._store[hpa : hpa + PAGE_SIZE]
        key = self._keys.get(self._owners[hpa // PAGE_SIZE])
        return plain if key is None else key.encrypt(hpa, plain)

    def _foreign(self, hpa: int, size: int, owners: bytes) -> bytearray:
        """Give the owners, other than `owners`, of the pages that these bytes touch."""
        return self._owners[hpa // PAGE_SIZE : (hpa + size + PAGE_SIZE - 1) // PAGE_SIZE].translate(None, owners)

    def _check_range(self, hpa: int, size: int) -> None:
        if not self.contains(hpa, size):
            raise Misuse(f"no memory at {hpa:#x}, {size} bytes", remedy=f"the memory ends at {self.size:#x}")

    def _check_operand(self, hpa: int, size: int) -> None:
        if hpa % PAGE_SIZE or size % PAGE_SIZE or size <= 0 or not self.contains(hpa, size):
            raise Reject(Status.OPERAND_INVALID, f"{hpa:#x}, {size} bytes: not whole pages of the memory")

    def _move(self, hpa: int, size: int, old: OwnerId, new: OwnerId) -> None:
        first, end = hpa // PAGE_SIZE, (hpa + size) // PAGE_SIZE
        if self._owners.count(old, first, end) != end - first:
            raise Reject(
                Status.PAGE_METADATA_INCORRECT, f"the page at {hpa:#x} has another owner than the operation needs"
            )
        if self._written.find(1, first, end) >= 0:
            self._scrub(hpa, size)
            self._written[first:end] = bytes(end - first)
        if self._poisoned:
            self._poisoned.difference_update(range(first, end))
        self._owners[first:end] = bytes([new]) * (end - first)

    def _scrub(self, hpa: int, size: int) -> None:
        if size >= _DROPPED and sys.platform == "linux":
            # Pages of an anonymous private mapping that are given back to the system come again as zeroes.
            self._store.madvise(mmap.MADV_DONTNEED, hpa, size)
        else:
            self._store[hpa : hpa + size] = bytes(size)

    def _write(self, hpa: int, data: bytes | bytearray | memoryview) -> None:
        """Write, and note which pages are not all zeroes any more; nothing else changes the store."""
        end = hpa + len(data)
        first, last = hpa // PAGE_SIZE, -(-end // PAGE_SIZE)
        self._written[first:last] = b"\1" * (last - first)
        self._store[hpa:end] = data

    def _poison(self, hpa: int) -> None:
        self._poisoned.add(hpa // PAGE_SIZE)
        self._observer(
            Refused(
                "memory controller",
                f"write without its key to the private page at {hpa:#x}",
                "memory integrity: the page is poisoned, its owner's next access fails",
            )
        )


class MemoryView:
    """The memory as accesses with one owner's key see it."""

    __slots__ = ("_allowed", "_memory", "owner")

    def __init__(self, memory: PhysicalMemory, owner: OwnerId) -> None:
        self._memory = memory
        self.owner = owner
        self._allowed = bytes([owner]) if owner >= TSM else _UNENCRYPTED

    def read(self, hpa: int, size: int) -> bytes:
        """Read; of others' pages the VMM gets ciphertext, trusted owners get `MemoryPoisoned`.

        Raises `Misuse` outside the memory, as all access does.
        """
        memory = self._memory
        if self._permitted(hpa, size):
            return memory._store[hpa : hpa + size]
        return memory.at_rest(hpa, size)

    def read_into(self, hpa: int, target: memoryview) -> None:
        """Read `len(target)` bytes into `target` with one copy. Raises as `read` does."""
        if self._permitted(hpa, len(target)):
            with memoryview(self._memory._store) as store, store[hpa : hpa + len(target)] as source:
                target[:] = source
        else:
            target[:] = self._memory.at_rest(hpa, len(target))

    def write(self, hpa: int, data: bytes | bytearray | memoryview) -> None:
        """Write; others' pages the VMM poisons, trusted owners get `MemoryPoisoned`."""
        memory = self._memory
        size = len(data)
        if self._permitted(hpa, size):
            memory._write(hpa, data)
            return
        for start, end in _page_pieces(hpa, size):
            if memory._foreign(start, end - start, self._allowed):
                memory._poison(start)
            else:
                memory._write(start, data[start - hpa : end - hpa])

    def _permitted(self, hpa: int, size: int) -> bool:
        """Tell whether all these pages are in the clear to this owner; a trusted owner gets no other answer."""
        memory = self._memory
        memory._check_range(hpa, size)
        foreign = memory._foreign(hpa, size, self._allowed)
        if self.owner < TSM:
            return not foreign
        if foreign:
            raise MemoryPoisoned(hpa, "the page is not under the accessing key")
        if memory._poisoned and not memory._poisoned.isdisjoint(range(hpa // PAGE_SIZE, -(-(hpa + size) // PAGE_SIZE))):
            raise MemoryPoisoned(hpa, "the page was written without its key")
        return True


class VmmMemory(MemoryView):
    """The VMM's view, and its page allocator."""

    __slots__ = ()

    def __init__(self, memory: PhysicalMemory) -> None:
        super().__init__(memory, SHARED)

    def allocate(self, size: int = PAGE_SIZE, align: int = PAGE_SIZE) -> int:
        """Take `size` bytes of contiguous, zeroed pages at a multiple of `align`; `Misuse` if none are left."""
        pages, step = -(-size // PAGE_SIZE), align // PAGE_SIZE
        owners = self._memory._owners
        wanted = bytes(pages)
        first = owners.find(wanted)
        while first >= 0 and first % step:
            first = owners.find(wanted, first + step - first % step)
        if first < 0 or pages == 0:
            raise Misuse(f"no {size} bytes of contiguous free memory", remedy="free pages or make the memory larger")
        self._memory._move(first * PAGE_SIZE, pages * PAGE_SIZE, FREE, SHARED)
        return first * PAGE_SIZE

    def free(self, hpa: int, size: int = PAGE_SIZE) -> None:
        """Give pages back. Raises `Misuse` unless they are the VMM's and in use."""
        try:
            size = -(-size // PAGE_SIZE) * PAGE_SIZE
            self._memory._check_operand(hpa, size)
            self._memory._move(hpa, size, SHARED, FREE)
        except Reject as reject:
            raise Misuse(
                f"cannot free {hpa:#x}: {reject.clause}", remedy="free what was allocated and reclaimed"
            ) from None


def _page_pieces(hpa: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut a byte range at page boundaries."""
    end = hpa + size
    while hpa < end:
        stop = min(end, hpa - hpa % PAGE_SIZE + PAGE_SIZE)
        yield hpa, stop
        hpa = stop
