"""Base address registers, of functions (PCIe Base 7.5.1.2.1) and of VFs (9.3.3.14).

Memory BARs only: TEE-IO allows no I/O space. Sizing needs no code: the address bits below the size are read only, so
writing all ones reads back the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from teeio.errors import Misuse
from teeio.pcie.registers import Access, BitField, Block, Locked, Register, bit, bits

MAX_BARS = 6


@dataclass(frozen=True, slots=True)
class Bar:
    """A memory BAR: its number, its size (a power of two, at least 128 bytes), 64 bit wide or 32."""

    number: int
    size: int
    wide: bool = True
    prefetchable: bool = False


def bar_registers(bars: Sequence[Bar], offset: int, name: str) -> tuple[Register, ...]:
    """Declare the registers of `bars` from `offset` on; absent ones read as zero. Raises `Misuse`."""
    return _bar_registers(tuple(bars), offset, name)


@lru_cache(maxsize=256)
def _bar_registers(bars: tuple[Bar, ...], offset: int, name: str) -> tuple[Register, ...]:
    registers: dict[int, Register] = {}
    for bar in bars:
        used = (bar.number, bar.number + 1) if bar.wide else (bar.number,)
        if used[0] < 0 or used[-1] >= MAX_BARS or any(number in registers for number in used):
            raise Misuse(f"{name} {bar.number} does not fit in the {MAX_BARS} BAR registers or overlaps another")
        if bar.size < 128 or bar.size & (bar.size - 1) or (not bar.wide and bar.size > 1 << 31):
            raise Misuse(
                f"{name} {bar.number}: {bar.size:#x} is no size for it", remedy="use a power of two from 128 on"
            )
        shift = bar.size.bit_length() - 1
        fields = [
            bit("io_space", 0, Access.RO, "0: memory"),
            bits("type", 2, 1, Access.HWINIT, "0: 32 bit, 2: 64 bit", reset=2 if bar.wide else 0),
            bit("prefetchable", 3, Access.HWINIT, "Reads have no side effects", reset=int(bar.prefetchable)),
        ]
        if shift < 32:
            fields.append(bits("address", 31, shift, Access.RW, "Base address", locked=Locked.ERROR))
        registers[bar.number] = Register(offset + 4 * bar.number, 4, f"{name} {bar.number}", tuple(fields), bar.number)
        if bar.wide:
            upper: tuple[BitField, ...] = (
                bits("address", 31, max(shift - 32, 0), Access.RW, "Base address, bits 63:32", locked=Locked.ERROR),
            )
            registers[bar.number + 1] = Register(
                offset + 4 * bar.number + 4, 4, f"{name} {bar.number} upper", upper, bar.number + 1
            )
    return tuple(registers.values())


def bar_address(block: Block, offset: int, bar: Bar) -> int:
    """Read the base address out of the registers that `bar_registers` declared at `offset`."""
    low = block.read(offset + 4 * bar.number, 4) & ~0xF
    return low | block.read(offset + 4 * bar.number + 4, 4) << 32 if bar.wide else low


def place_bar(block: Block, offset: int, bars: Sequence[Bar], number: int, address: int) -> None:
    """Write the address of one of `bars`, whose registers lie at `offset`, as software does. Raises `Misuse`."""
    found = next((bar for bar in bars if bar.number == number), None)
    if found is None:
        raise Misuse(f"{block.NAME} has no BAR {number}", remedy=f"it has {', '.join(str(bar.number) for bar in bars)}")
    block.write(offset + 4 * number, 8 if found.wide else 4, address)
