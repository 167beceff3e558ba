"""Who and where on PCI Express: function addresses and address ranges (PCIe Base, 2.2.4 and 2.2.6).

Left out: ARI's 8-bit function numbers as a text form; a routing ID is 16 bits either way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from teeio.errors import Misuse

_TEXT = re.compile(r"(?:([0-9a-f]{4}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.IGNORECASE)
DEVICES = 32
"""Devices of a bus."""
FUNCTIONS = 8
"""Functions of a device."""
_LIMITS = (("segment", 0xFFFF), ("bus", 0xFF), ("device", DEVICES - 1), ("function", FUNCTIONS - 1))


@dataclass(frozen=True, slots=True, order=True)
class Bdf:
    """A function's address: segment, bus, device, function."""

    segment: int
    bus: int
    device: int
    function: int
    requester_id: int = field(init=False, repr=False, compare=False)
    """The 16-bit routing ID: bus 15:8, device 7:3, function 2:0."""

    def __post_init__(self) -> None:
        # Addresses are made with every TLP, nearly all of them good: one look first, the names only for the refusal.
        if (
            0 <= self.segment <= 0xFFFF
            and 0 <= self.bus <= 0xFF
            and 0 <= self.device < DEVICES
            and 0 <= self.function < FUNCTIONS
        ):
            object.__setattr__(self, "requester_id", self.bus << 8 | self.device << 3 | self.function)
            return
        for name, limit in _LIMITS:
            if not 0 <= getattr(self, name) <= limit:
                raise Misuse(f"Bdf.{name} is {getattr(self, name)}, must be 0 to {limit}")

    @classmethod
    def parse(cls, text: str) -> Bdf:
        """Read "0000:be:1d.7" or, for segment 0, "be:1d.7". Raises `Misuse`."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise Misuse(
                f"{text!r} is no PCI address", remedy="write it as segment:bus:device.function, like 0000:be:1d.7"
            )
        return cls(*(int(group or "0", 16) for group in found.groups()))

    @classmethod
    def of(cls, requester_id: int, segment: int = 0) -> Bdf:
        """Give the function that a 16-bit requester ID names in `segment`."""
        return _named(requester_id, segment)

    def __hash__(self) -> int:
        return self.segment << 16 | self.requester_id  # functions are looked up with every access

    def __str__(self) -> str:
        return f"{self.segment:04x}:{self.bus:02x}:{self.device:02x}.{self.function}"


@lru_cache(maxsize=1024)
def _named(requester_id: int, segment: int) -> Bdf:
    # Every TLP that is served names a function, few functions are named.
    return Bdf(segment, requester_id >> 8 & 0xFF, requester_id >> 3 & 0x1F, requester_id & 7)


@dataclass(frozen=True, slots=True, order=True)
class AddressRange:
    """Memory addresses [start, start + size)."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """First address after the range."""
        return self.start + self.size

    def holds(self, address: int, size: int = 1) -> bool:
        """Tell whether all of [address, address + size) lies inside."""
        return self.start <= address and address + size <= self.end

    def overlaps(self, other: AddressRange) -> bool:
        """Tell whether the two ranges share an address."""
        return self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        return f"{self.start:#x}..{self.end - 1:#x}"
