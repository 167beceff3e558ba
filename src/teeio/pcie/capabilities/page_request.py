"""The Page Request extended capability (PCIe Base 10.5.2). A VF uses that of its PF."""

from __future__ import annotations

from teeio.pcie.config_space import ExtendedCapability
from teeio.pcie.registers import Access, Locked, Register, bit, bits

_LOCKED = Locked.ERROR


class PageRequestCapability(ExtendedCapability):
    """Whether the function may ask for pages that are not there, and how many at a time."""

    NAME = "Page Request Capability"
    ID = 0x0013
    CONTROL = Register(
        0x04,
        2,
        "Page Request Control",
        (
            bit("enable", 0, Access.RW, "The function may send Page Requests", locked=_LOCKED),
            bit("reset", 1, Access.ACT, "Forget what is outstanding", locked=_LOCKED),
        ),
    )
    STATUS = Register(
        0x06,
        2,
        "Page Request Status",
        (
            bit("response_failure", 0, Access.RW1C, "A response told of a failure"),
            bit("unexpected_group", 1, Access.RW1C, "A response named a group that was not asked for"),
            bit("stopped", 8, Access.RO, "Nothing is outstanding after Enable was cleared", reset=1),
        ),
    )
    CAPACITY = Register(
        0x08,
        4,
        "Outstanding Page Request Capacity",
        (bits("requests", 31, 0, Access.HWINIT, "Requests that the function can have outstanding"),),
    )
    ALLOCATION = Register(
        0x0C,
        4,
        "Outstanding Page Request Allocation",
        (bits("requests", 31, 0, Access.RW, "Requests that it may have outstanding", locked=_LOCKED),),
    )

    def __init__(self, capacity: int = 32) -> None:
        super().__init__(0x10)
        self.set(self.CAPACITY, requests=capacity)

    @property
    def enabled(self) -> bool:
        """Whether page requests are on."""
        return bool(self.get(self.CONTROL, "enable"))

    @property
    def allowed(self) -> int:
        """Requests that may be outstanding now."""
        return min(self.value(self.CAPACITY), self.value(self.ALLOCATION)) if self.enabled else 0
