"""The TVM itself: its memory, its calls across the trust boundaries, its interrupts.

Private pages are usable once accepted (TDG.MEM.PAGE.ACCEPT), shared pages once converted (TDVMCALL.MAP.GPA). The TVM
accepts each page once and remembers it: accepting a page again would accept what the VMM put in the place of its data.
Sources: TDX guest-host communication interface; TDX module base (page acceptance). Left out: virtual processors, page
tables, a 2 MiB page allocator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from teeio.abi.declaration import CALLS, HypercallResult, Result
from teeio.abi.hypercalls import TdvmcallMapGpa
from teeio.abi.interfaces import Processor, TvmToTsm, TvmToVmm
from teeio.abi.operands import GPA_SHARED_BIT, PAGE_SIZE, PageLevel
from teeio.abi.statuses import TRANSIENT, TRIES, Status, TdcmStatus
from teeio.abi.tdcalls import TdgMemPageAccept
from teeio.crypto.entropy import Entropy
from teeio.errors import AuthenticationFailed, Misuse, TransportError
from teeio.guest.interface_record import InterfaceRecord
from teeio.observe import Observer, ignore
from teeio.pcie.address import AddressRange, Bdf

C = TypeVar("C")
V = TypeVar("V")

POLL_INTERVAL = 0.010
"""Seconds between two looks at a hypercall that is under way (as Linux does)."""
POLLS = 1000
"""Looks until a hypercall counts as hanging: 10 s."""

VECTORS = 256
"""Interrupt vectors of a processor."""

_FREE, _USED, _SHARED, _UNACCEPTED = range(4)
_NAMES = {call.arguments: call.name for call in CALLS.values()}


def name_of_call(call: object) -> str:
    """Give the name under which a call is declared."""
    return _NAMES[type(call)]


class InterruptController:
    """The TVM's interrupts. The VMM delivers them, so one may come uncalled, twice or never: drivers must check."""

    def __init__(self) -> None:
        self._pending: set[int] = set()

    def deliver(self, vector: int) -> None:
        """Mark a vector as pending; the platform calls this. What is no vector is ignored."""
        if 0 <= vector < VECTORS:
            self._pending.add(vector)

    def take(self, vector: int) -> bool:
        """Tell whether `vector` was pending, and acknowledge it."""
        was = vector in self._pending
        self._pending.discard(vector)
        return was


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    """Whole pages of the TVM, private or shared. `gpa` is without `GPA_SHARED_BIT` and also what a device is given."""

    processor: Processor
    gpa: int
    size: int
    shared: bool

    def read(self, offset: int, size: int) -> bytes:
        """Read. Raises `Misuse` outside, `EptViolation`, `AuthenticationFailed` where the VMM tampered."""
        return self.processor.load(self._address(offset, size), size)

    def write(self, offset: int, data: bytes) -> None:
        """Write; raises as `read` does."""
        self.processor.store(self._address(offset, len(data)), data)

    def _address(self, offset: int, size: int) -> int:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise Misuse(f"{size} bytes at offset {offset:#x} of a region of {self.size:#x} bytes")
        return self.gpa + offset | (GPA_SHARED_BIT if self.shared else 0)


class Tvm:
    """One TVM.

    `memory` is its RAM, `initial` the part that was there before it started; with `huge_pages` it looks
    for mappings of 2 MiB, too. `halt` gives the processor away until something may have happened, `wait` until a time, and
    tells the time then. `exits` counts the calls that leave the TVM.
    """

    def __init__(
        self,
        tsm: TvmToTsm,
        vmm: TvmToVmm,
        processor: Processor,
        entropy: Entropy,
        memory: AddressRange,
        *,
        initial: Sequence[AddressRange] = (),
        huge_pages: bool = False,
        halt: Callable[[], object] = lambda: None,
        wait: Callable[[float], float] = lambda until: until,
        observer: Observer = ignore,
    ) -> None:
        if memory.start % PAGE_SIZE or memory.size % PAGE_SIZE or not 0 <= memory.start < memory.end <= GPA_SHARED_BIT:
            raise Misuse(f"memory from {memory.start:#x} to {memory.end:#x}", remedy="give whole private pages")
        self.tsm = tsm
        self.vmm = vmm
        self.processor = processor
        self.entropy = entropy
        self.memory = memory
        self.huge_pages = huge_pages
        self.halt = halt
        self.wait = wait
        self.observer = observer
        self.interrupts = InterruptController()
        self.interfaces: dict[Bdf, InterfaceRecord] = {}
        """What is known of each function that was looked at as an interface, by its place in the TVM."""
        self.exits = 0
        self._initial = tuple(initial)
        self._pages = bytearray([_UNACCEPTED]) * (memory.size // PAGE_SIZE)

    # -- calls ------------------------------------------------------------------------------------------------------

    def tdcall(self, call: C, method: Callable[[C], Result[V]]) -> V:
        """Ask the TSM, again while it refuses only for now. Raises `CallRefused`."""
        return self._repeated(call, method).require(name_of_call(call))

    def ask(self, call: C, method: Callable[[C, float], HypercallResult[V]], now: float) -> V:
        """Ask the VMM, again and again while it says WAIT.

        Raises `CallRefused`, `TransportError` if it never ends, `AuthenticationFailed` for an answer that is none.
        """
        for _ in range(POLLS):
            self.exits += 1
            result = method(call, now)
            if result.status is not TdcmStatus.WAIT:
                return _complete(call, result.require(name_of_call(call)))
            self.halt()
            now = self.wait(now + POLL_INTERVAL)
        raise TransportError(
            f"{name_of_call(call)}: still under way after {POLLS * POLL_INTERVAL:.0f} s",
            remedy="the VMM does not serve this call; give the device up",
        )

    # -- memory -----------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Accept all of the TVM's memory. Raises `CallRefused`, `AuthenticationFailed`."""
        gpa = self.memory.start
        while gpa < self.memory.end:
            gpa += self._accept_largest(gpa)

    def allocate(self, size: int) -> MemoryRegion:
        """Take private pages for `size` bytes. Raises `Misuse` if there are none."""
        return self._region(self._take(size, _USED), size, shared=False)

    def allocate_shared(self, size: int, now: float) -> MemoryRegion:
        """Take pages for `size` bytes and share them with the VMM, wiped before. Raises `CallRefused`.

        Pages whose conversion fails are never used again: what they are now is not known.
        """
        region = self.allocate(size)
        region.write(0, bytes(region.size))
        self._map_gpa(region, shared=True, now=now)
        self._mark(region, _SHARED)
        return self._region(region.gpa, size, shared=True)

    def free(self, region: MemoryRegion, now: float) -> None:
        """Give pages back: private ones wiped, shared ones made private and accepted anew. Raises `CallRefused`."""
        if region.shared:
            self._map_gpa(region, shared=False, now=now)
            self._mark(region, _UNACCEPTED)
            for gpa in range(region.gpa, region.gpa + region.size, PAGE_SIZE):
                self.tdcall(TdgMemPageAccept(gpa=gpa), self.tsm.tdg_mem_page_accept)
        else:
            region.write(0, bytes(region.size))
        self._mark(region, _FREE)

    def is_private(self, gpa: int, size: int) -> bool:
        """Tell whether all these bytes are accepted private memory in use."""
        return self._all(gpa, size, _USED)

    def is_shared(self, gpa: int, size: int) -> bool:
        """Tell whether all these bytes are memory that the TVM shares with the VMM."""
        return self._all(gpa, size, _SHARED)

    def overlaps_memory(self, gpa: int, size: int) -> bool:
        """Tell whether these guest addresses touch the TVM's RAM."""
        return self.memory.overlaps(AddressRange(gpa, size))

    # -- how --------------------------------------------------------------------------------------------------------

    def _repeated(self, call: C, method: Callable[[C], Result[V]]) -> Result[V]:
        for _ in range(TRIES):
            self.exits += 1
            result = method(call)
            if result.status not in TRANSIENT:
                break
        return result

    def _all(self, gpa: int, size: int, mark: int) -> bool:
        if size <= 0 or not self.memory.holds(gpa, size):
            return False
        first, end = self._index(gpa), self._index(gpa + size - 1) + 1
        return not self._pages[first:end].translate(None, bytes([mark]))

    def _accept_largest(self, gpa: int) -> int:
        """Accept 2 MiB if they are one mapping, else 4 KiB; give the bytes that were accepted."""
        large = PageLevel.PAGE_2M
        if self.huge_pages and gpa % large.size == 0 and self.memory.holds(gpa, large.size):
            result = self._repeated(TdgMemPageAccept(gpa=gpa, level=large), self.tsm.tdg_mem_page_accept)
            if result.status is Status.SUCCESS:
                self._set(gpa, large.size, _FREE)
                return large.size
        self._accept_page(gpa)
        return PAGE_SIZE

    def _accept_page(self, gpa: int) -> None:
        call = TdgMemPageAccept(gpa=gpa)
        result = self._repeated(call, self.tsm.tdg_mem_page_accept)
        already = result.status is Status.PAGE_ALREADY_ACCEPTED
        if not already:
            result.require(name_of_call(call))
        elif not any(area.holds(gpa) for area in self._initial):
            raise AuthenticationFailed(
                f"the page at {gpa:#x} is in use before the TVM has accepted it",
                remedy="its contents are not the TVM's: do not boot",
            )
        self._set(gpa, PAGE_SIZE, _USED if already else _FREE)

    def _set(self, gpa: int, size: int, mark: int) -> None:
        first = self._index(gpa)
        self._pages[first : first + size // PAGE_SIZE] = bytes([mark]) * (size // PAGE_SIZE)

    def _take(self, size: int, mark: int) -> int:
        pages = -(-size // PAGE_SIZE)
        first = self._pages.find(bytes(pages)) if pages > 0 else -1
        if first < 0:
            raise Misuse(f"no {size} bytes of free memory", remedy="boot the TVM first, or give it more memory")
        self._pages[first : first + pages] = bytes([mark]) * pages
        return self.memory.start + first * PAGE_SIZE

    def _region(self, gpa: int, size: int, *, shared: bool) -> MemoryRegion:
        return MemoryRegion(self.processor, gpa, -(-size // PAGE_SIZE) * PAGE_SIZE, shared)

    def _map_gpa(self, region: MemoryRegion, *, shared: bool, now: float) -> None:
        call = TdvmcallMapGpa(gpa=region.gpa, size=region.size, shared=shared)
        self.ask(call, self.vmm.tdvmcall_map_gpa, now)

    def _mark(self, region: MemoryRegion, mark: int) -> None:
        first, pages = self._index(region.gpa), region.size // PAGE_SIZE
        if self._pages[first : first + pages].translate(None, bytes([_USED, _SHARED, _UNACCEPTED])):
            raise Misuse(f"the pages at {region.gpa:#x} are not in use", remedy="free a region once")
        self._set(region.gpa, region.size, mark)

    def _index(self, gpa: int) -> int:
        return (gpa - self.memory.start) // PAGE_SIZE


def _complete(call: object, values: V) -> V:
    """Refuse an answer of the VMM that lacks what the call returns."""
    declared = CALLS[name_of_call(call)].returns
    if declared is not None and not isinstance(values, declared):
        raise AuthenticationFailed(f"{name_of_call(call)}: the VMM's answer is no {declared.__name__}")
    return values


def checked(value: Any, kind: type[V], what: str, limit: int = 1 << 64) -> V:
    """Take a value that came from the VMM: of the right kind and bounded. Raises `AuthenticationFailed`."""
    size = len(value) if isinstance(value, bytes) else value if isinstance(value, int) else -1
    if not isinstance(value, kind) or not 0 <= size < limit:
        raise AuthenticationFailed(f"the VMM's answer for {what} is no {kind.__name__} below {limit:#x}")
    return value
