"""Configuration space as the VMM reads it: registers, capability lists, BAR sizes (PCIe Base 7)."""

from __future__ import annotations

from dataclasses import dataclass

from teeio.errors import TransportError
from teeio.host.root_complex import HostBus
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.bar import MAX_BARS
from teeio.pcie.capabilities.header import CommonHeader
from teeio.pcie.config_space import (
    FIRST_CAPABILITY,
    FIRST_EXTENDED,
    MAX_CAPABILITIES,
    MAX_EXTENDED,
    ExtendedCapability,
    all_ones,
)
from teeio.pcie.registers import Register, RegisterAccess

BROKEN = "the device is broken: do not use it"


@dataclass(frozen=True, slots=True)
class Config:
    """Configuration space of one function."""

    bus: HostBus
    function: Bdf

    def read(self, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes."""
        return self.bus.config_read(self.function, offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write 1, 2 or 4 bytes."""
        self.bus.config_write(self.function, offset, size, value)

    def register(self, offset: int) -> RegisterAccess:
        """Give access to one DW that is read and written again and again, with nothing else in between."""
        return self.bus.config_register(self.function, offset)

    def get(self, register: Register, name: str, base: int = 0) -> int:
        """Read one field of a register of the block at `base`."""
        return register.get(self.read(base + register.offset, register.size), name)

    def set(self, register: Register, base: int = 0, /, **fields: int) -> None:
        """Change fields of a register of the block at `base`, leaving the others."""
        at = base + register.offset
        self.write(at, register.size, register.put(self.read(at, register.size), **fields))

    def check_present(self) -> None:
        """Check that the function answers at all. Raises `TransportError`.

        What nobody answers reads as all ones (PCIe Base 2.3.2). The Vendor ID does not tell, as a VF's own is FFFFh;
        Command and Status do, as some of their bits are always 0.
        """
        if self.read(CommonHeader.COMMAND.offset, 4) == all_ones(4):
            raise TransportError(
                f"{self.function} does not answer: its configuration space reads as all ones (PCIe Base 2.3.2)",
                remedy="its device was removed, is in reset or its link is down: bring it back, then reset it",
            )


@dataclass(slots=True)
class HostBar:
    """A memory BAR: its register, its size, and where it lies (0: nowhere yet)."""

    number: int
    size: int
    wide: bool
    address: int = 0


def capabilities(config: Config) -> dict[int, int]:
    """Give the offsets of the capabilities by id. Raises `TransportError` for no answer, or a list that has no end."""
    found: dict[int, int] = {}
    at = config.get(CommonHeader.CAPABILITIES_POINTER, "first") & ~3
    for _ in range(MAX_CAPABILITIES):
        if at < FIRST_CAPABILITY:
            return found
        word = config.read(at, 2)
        if word == all_ones(2):
            config.check_present()
        found.setdefault(word & 0xFF, at)
        at = word >> 8 & ~3
    raise TransportError(f"the capability list of {config.function} has a loop (PCIe Base 7.5.3)", remedy=BROKEN)


def extended_capabilities(config: Config) -> dict[int, int]:
    """Give the offsets of the extended capabilities by id. Raises `TransportError` for no answer, or a list that has no end."""
    found: dict[int, int] = {}
    at = FIRST_EXTENDED
    for _ in range(MAX_EXTENDED):
        header = config.read(at, 4)
        if header == all_ones(4):
            config.check_present()
        if header in (0, all_ones(4)):
            return found
        found.setdefault(ExtendedCapability.HEADER.get(header, "id"), at)
        at = ExtendedCapability.HEADER.get(header, "next") & ~3
        if at < FIRST_EXTENDED:
            return found
    raise TransportError(
        f"the extended capability list of {config.function} has a loop (PCIe Base 7.6.3)", remedy=BROKEN
    )


def sized_bars(config: Config, base: int) -> dict[int, HostBar]:
    """Size the memory BARs at `base` by writing all ones; decoding must be off."""
    found: dict[int, HostBar] = {}
    number = 0
    while number < MAX_BARS:
        at = base + 4 * number
        wide = config.read(at, 4) & 6 == 4 and number + 1 < MAX_BARS
        mask = _written_ones(config, at) & ~0xF
        bits = 32
        if wide:
            mask, bits = mask | _written_ones(config, at + 4) << 32, 64
        size = (~mask & (1 << bits) - 1) + 1
        if mask and not size & size - 1:
            found[number] = HostBar(number, size, wide)
        number += 2 if wide else 1
    return found


def _written_ones(config: Config, at: int) -> int:
    config.write(at, 4, 0xFFFF_FFFF)
    value = config.read(at, 4)
    config.write(at, 4, 0)
    return value
