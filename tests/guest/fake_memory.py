"""Where everything lies in the guest's address space, and its memory: pages with secure EPT states, loads and stores by them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from teeio.abi import EptViolation
from teeio.abi.operands import GPA_SHARED_BIT, PAGE_SIZE
from teeio.accelerator_interface import (
    BAR_SIZE,
)
from teeio.pcie.address import AddressRange

if TYPE_CHECKING:
    from guest.fake_world import World


RAM = AddressRange(0x10_0000, 0x80_0000)
INITIAL = AddressRange(0x10_0000, 0x1_0000)
REQUESTER_ID = 3 << 3
FUNCTION_ID = 0x0108
BAR0, BAR2, BAR4 = 0x10_0000_0000, 0x10_0010_0000, 0x10_0020_0000
BAR0_HPA = 0x38_0004_0000
REPORTING_OFFSET = -0x10_0000_0000 + 0x7000
SHARED = GPA_SHARED_BIT


@dataclass
class Page:
    """A page of guest memory or MMIO: `mmio` is its page of BAR 0."""

    state: str
    data: bytearray = field(default_factory=lambda: bytearray(PAGE_SIZE))
    mmio: int = 0


class FakeProcessor:
    """Loads and stores by the state of each page."""

    def __init__(self, world: World) -> None:
        self.world = world

    def load(self, gpa: int, size: int) -> bytes:
        found = b""
        while len(found) < size:
            at = gpa + len(found)
            found += self._page(at, min(size - len(found), PAGE_SIZE - at % PAGE_SIZE), None)
        return found

    def store(self, gpa: int, data: bytes) -> None:
        written = 0
        while written < len(data):
            at = gpa + written
            part = data[written : written + PAGE_SIZE - at % PAGE_SIZE]
            self._page(at, len(part), part)
            written += len(part)

    def _page(self, gpa: int, size: int, data: bytes | None) -> bytes:
        world, page, offset = self.world, gpa & -PAGE_SIZE, gpa % PAGE_SIZE
        if gpa & SHARED:
            if world.direct_mmio and BAR0 <= page - SHARED < BAR0 + BAR_SIZE:
                return self._mmio(page - SHARED - BAR0 + offset, size, data, t_bit=False)
            cell = world.shared.get(page - SHARED)
            if cell is None:
                raise EptViolation(gpa, "nothing is mapped")
        else:
            found = world.pages.get(page)
            if found is None or "pending" in found.state:
                raise EptViolation(gpa, found.state if found else "nothing is mapped")
            if found.state == "mmio mapped":
                return self._mmio(found.mmio * PAGE_SIZE + offset, size, data, t_bit=True)
            cell = found.data
        if data is None:
            return bytes(cell[offset : offset + size])
        cell[offset : offset + size] = data
        return b""

    def _mmio(self, offset: int, size: int, data: bytes | None, t_bit: bool) -> bytes:
        answers = self.world.mmio_access(t_bit)
        if data is None:
            return self.world.model.read(0, offset, size) if answers else b"\xff" * size
        if answers:
            self.world.model.write(0, offset, data)
        return b""
