"""An accelerator with a BAR of 4 MiB, for what is only seen where 2 MiB fit."""

from __future__ import annotations

from teeio.abi.operands import PAGE_SIZE, PageLevel
from teeio.accelerator_interface import TELEMETRY_BAR
from teeio.device.models.accelerator import Accelerator
from teeio.device.models.model import Region
from teeio.pcie.capabilities.bar import Bar

LARGE_BAR = TELEMETRY_BAR
LARGE = PageLevel.PAGE_2M
SIZE = 2 * LARGE.size
TAIL = 3 * PAGE_SIZE
"""The end of the BAR is a range of its own, so that the one before is no multiple of 2 MiB."""

REGISTERS = [region for region in Accelerator.regions if region.bar != LARGE_BAR]


class LargeAccelerator(Accelerator):
    """An accelerator with 4 MiB more of device memory, in the place of its telemetry."""

    bars = (Accelerator.bars[0], Bar(LARGE_BAR, SIZE, prefetchable=True))
    regions = (
        *REGISTERS,
        Region("large memory", LARGE_BAR, 0, SIZE - TAIL),
        Region("tail", LARGE_BAR, SIZE - TAIL, TAIL),
    )

    def __init__(self) -> None:
        super().__init__()
        self.large = bytearray(SIZE)

    def read(self, bar: int, offset: int, size: int) -> bytes:
        return bytes(self.large[offset : offset + size]) if bar == LARGE_BAR else super().read(bar, offset, size)

    def write(self, bar: int, offset: int, data: bytes) -> None:
        if bar == LARGE_BAR:
            self.large[offset : offset + len(data)] = data
        else:
            super().write(bar, offset, data)

    def scrub(self) -> None:
        super().scrub()
        self.large[:] = bytes(SIZE)
