"""MMIOMT: which physical MMIO pages may be private, and to which interface (TDX Connect; the calls are TDH.MMIOMT...)."""

from __future__ import annotations

from dataclasses import dataclass

from teeio.abi.operands import PAGE_SIZE, PRIVATE_MMIO_BASE, FunctionId, PageLevel
from teeio.abi.statuses import Status
from teeio.errors import Reject
from teeio.pcie.address import AddressRange


@dataclass(slots=True)
class MmioEntry:
    """Metadata of one MMIO page: its interface, and whether it is mapped in a secure EPT."""

    function_id: FunctionId
    mapped: bool = False


class MmioMetadata:
    """MMIOMT: which physical MMIO pages may be private, and to which interface; one mapping at most.

    `forbidden` are ranges that are never private MMIO: memory, configuration space, the registers of the IOMMUs and
    of the root complex.
    """

    def __init__(self, forbidden: tuple[AddressRange, ...]) -> None:
        self._forbidden = forbidden
        self._regions: dict[int, int] = {}
        self._pages: dict[int, MmioEntry] = {}

    def add(self, mmio: int, page: int) -> None:
        """Add the metadata page `page` for the 2 MiB at `mmio`."""
        size = PageLevel.PAGE_2M.size
        if mmio % size or mmio < PRIVATE_MMIO_BASE:
            raise Reject(Status.OPERAND_INVALID, f"{mmio:#x} is not 2 MiB aligned above 4 GiB, where private MMIO lies")
        if any(area.overlaps(AddressRange(mmio, size)) for area in self._forbidden):
            raise Reject(
                Status.OPERAND_ADDR_RANGE_ERROR, f"{mmio:#x} overlaps memory, configuration space or registers"
            )
        if mmio in self._regions:
            raise Reject(Status.MMIO_INVALID_PAGE_METADATA, f"metadata for {mmio:#x} exists")
        self._regions[mmio] = page

    def remove(self, mmio: int) -> int:
        """Remove the metadata for 2 MiB that belong to no interface; gives the metadata page."""
        size = PageLevel.PAGE_2M.size
        if mmio % size:
            raise Reject(Status.OPERAND_INVALID, f"{mmio:#x} is not aligned to 2 MiB")
        if mmio not in self._regions:
            raise Reject(Status.MMIO_INVALID_PAGE_METADATA, f"no metadata for {mmio:#x}")
        if not self._pages.keys().isdisjoint(range(mmio, mmio + size, PAGE_SIZE)):
            raise Reject(Status.MMIO_INVALID_PAGE_METADATA, f"pages from {mmio:#x} on still belong to an interface")
        return self._regions.pop(mmio)

    def set(self, mmio: int, count: int, function_id: FunctionId) -> None:
        """Give `count` pages to an interface, or with 0 back to none. All or nothing."""
        pages = self._covered(mmio, count * PAGE_SIZE)
        for page in pages:
            entry = self._pages.get(page)
            if (entry is None) == (function_id == 0) or (entry is not None and entry.mapped):
                raise Reject(
                    Status.MMIO_INVALID_PAGE_METADATA, f"{page:#x} belongs to an interface, or to none already"
                )
        for page in pages:
            if function_id:
                self._pages[page] = MmioEntry(function_id)
            else:
                del self._pages[page]

    @property
    def regions(self) -> tuple[int, ...]:
        """The parts of MMIO, 2 MiB each, that have metadata."""
        return tuple(self._regions)

    @property
    def entries(self) -> tuple[MmioEntry, ...]:
        """The pages that belong to an interface."""
        return tuple(self._pages.values())

    def entry(self, mmio: int) -> MmioEntry | None:
        """Look up one page."""
        return self._pages.get(mmio & -PAGE_SIZE)

    def described(self, mmio: int) -> MmioEntry | None:
        """Look up one page that has metadata; None if it belongs to no interface. Raises `Reject` if it has none."""
        return self._pages.get(self._covered(mmio, PAGE_SIZE).start)

    def owner(self, mmio: int, size: int) -> FunctionId:
        """Give the one interface that all these pages belong to. Raises `Reject` if there is none."""
        owners = {entry.function_id if entry else 0 for entry in map(self.entry, self._covered(mmio, size))}
        if len(owners) != 1 or 0 in owners:
            raise Reject(Status.MMIO_INVALID_PAGE_METADATA, f"{mmio:#x}, {size} bytes: not all of one interface")
        return owners.pop()

    def map(self, mmio: int, size: int) -> None:
        """Take note of a private mapping. All or nothing; a second mapping of a page is refused."""
        self.owner(mmio, size)
        entries = [self._pages[page] for page in self._covered(mmio, size)]
        if any(entry.mapped for entry in entries):
            raise Reject(Status.MMIO_INVALID_PAGE_METADATA, f"{mmio:#x} is mapped privately already")
        for entry in entries:
            entry.mapped = True

    def unmap(self, mmio: int, size: int) -> None:
        """Take note of the end of a private mapping."""
        for page in self._covered(mmio, size):
            self._pages[page].mapped = False

    def _covered(self, mmio: int, size: int) -> range:
        if mmio % PAGE_SIZE or size <= 0:
            raise Reject(Status.OPERAND_INVALID, f"{mmio:#x}, {size} bytes: not whole pages")
        pages = range(mmio, mmio + size, PAGE_SIZE)
        too_much = size > len(self._regions) * PageLevel.PAGE_2M.size
        if too_much or any(page & -PageLevel.PAGE_2M.size not in self._regions for page in pages):
            raise Reject(Status.MMIO_INVALID_PAGE_METADATA, f"no metadata for all of {mmio:#x}, {size} bytes")
        return pages
