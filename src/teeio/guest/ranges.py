"""The TEE ranges of an interface's report, and where a TVM finds them (PCIe Base 11.3.11; TDX Connect Device Guide)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from teeio.abi.operands import PAGE_SIZE
from teeio.attestation import PlacedRange
from teeio.tdisp.messages import DeviceInterfaceReport, RangeAttributes

if TYPE_CHECKING:
    from teeio.guest.pci import GuestBar


@dataclass(frozen=True, slots=True)
class TeeRange:
    """A TEE range of the report and where the TVM has it: `offset` in its BAR, `gpa`, `pages` of 4 KiB."""

    index: int
    bar: int
    offset: int
    gpa: int
    pages: int
    first_page: int

    @property
    def end(self) -> int:
        """The first offset after it."""
        return self.offset + self.pages * PAGE_SIZE

    @property
    def mapped(self) -> PlacedRange:
        """The range as the policy compares it."""
        return PlacedRange(self.bar, self.gpa // PAGE_SIZE, self.first_page, self.pages)


def tee_ranges(
    report: DeviceInterfaceReport, reporting_offset: int, bars: tuple[GuestBar, ...]
) -> tuple[TeeRange, ...]:
    """Find where the TEE ranges of a report lie for the TVM; a range that fits no BAR is left out.

    A reported address less the MMIO_REPORTING_OFFSET is the device's, and BARs are aligned to their size (PCIe Base
    7.5.1.2.1), so that its low bits are the offset in the BAR, whatever the host's address is.
    """
    by_number = {bar.number: bar for bar in bars}
    found = []
    for index, part in enumerate(report.ranges):
        bar = by_number.get(part.range_id)
        if bar is None or not part.pages or part.attributes & RangeAttributes.IS_NON_TEE_MEM:
            continue
        offset = (part.first_address() - reporting_offset) % bar.size
        if offset % PAGE_SIZE == 0 and offset + part.pages * PAGE_SIZE <= bar.size:
            found.append(TeeRange(index, bar.number, offset, bar.gpa + offset, part.pages, part.first_page))
    return tuple(found)
