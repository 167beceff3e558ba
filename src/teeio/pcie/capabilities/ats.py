"""The Address Translation Services extended capability (PCIe Base 10.5.1). The cache is the function's."""

from __future__ import annotations

from teeio.pcie.config_space import ExtendedCapability
from teeio.pcie.registers import Access, Register, bit, bits


class AtsCapability(ExtendedCapability):
    """Whether the function may ask for translations. No field matters to a locked TDI (PCIe Base table 11-2)."""

    NAME = "ATS Capability"
    ID = 0x000F
    CAPABILITY = Register(
        0x04,
        2,
        "ATS Capability",
        (
            bits("invalidate_queue_depth", 4, 0, Access.HWINIT, "Invalidations that are taken at a time, 0: 32"),
            bit("page_aligned_request", 5, Access.HWINIT, "Requests are page aligned", reset=1),
        ),
    )
    CONTROL = Register(
        0x06,
        2,
        "ATS Control",
        (
            bits("smallest_unit", 4, 0, Access.RW, "Smallest Translation Unit: 4096 << n bytes"),
            bit("enable", 15, Access.RW, "The function may cache translations"),
        ),
    )

    def __init__(self) -> None:
        super().__init__(8)

    @property
    def enabled(self) -> bool:
        """Whether ATS is on."""
        return bool(self.get(self.CONTROL, "enable"))
