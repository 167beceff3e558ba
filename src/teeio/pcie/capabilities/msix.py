"""The MSI-X capability and the vector table and pending bits in a BAR (PCIe Base 7.7.2).

The table and the pending bits are register blocks too: the device maps them into its BAR at the offsets that it gave.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from teeio.errors import Misuse
from teeio.pcie.config_space import Capability
from teeio.pcie.registers import Access, Block, Locked, Register, bit, bits

ENTRY_SIZE = 16
MAX_VECTORS = 2048
_LOCKED = Locked.IF_MSIX_LOCKED


@dataclass(frozen=True, slots=True)
class MsixMessage:
    """What a vector writes: 4 bytes `data` at `address`."""

    address: int
    data: int


class MsixTable(Block):
    """The vector table: 16 bytes a vector.

    A locked table needs no tracking: nobody but the TVM reaches it, and the TVM may change it (PCIe Base 11.2.1).
    """

    NAME = "MSI-X Table"
    ENTRY = (
        Register(0x0, 4, "Message Address", (bits("address", 31, 2, Access.RW, "Bits 31:2"),)),
        Register(0x4, 4, "Message Upper Address", (bits("address", 31, 0, Access.RW, "Bits 63:32"),)),
        Register(0x8, 4, "Message Data", (bits("data", 31, 0, Access.RW, "Data written"),)),
        Register(0xC, 4, "Vector Control", (bit("mask", 0, Access.RW, "Send nothing", reset=1),)),
    )

    def __init__(self, vectors: int) -> None:
        super().__init__(ENTRY_SIZE * vectors, _entries(vectors))
        self.vectors = vectors

    def message(self, vector: int) -> MsixMessage:
        """Read a vector's message."""
        at = ENTRY_SIZE * vector
        return MsixMessage(self.read(at, 8), self.read(at + 8, 4))

    def masked(self, vector: int) -> bool:
        """Tell whether a vector is masked."""
        return bool(self.read(ENTRY_SIZE * vector + 12, 4) & 1)


@lru_cache(maxsize=16)
def _entries(vectors: int) -> tuple[Register, ...]:
    return tuple(
        register.at(ENTRY_SIZE * vector + register.offset, vector)
        for vector in range(vectors)
        for register in MsixTable.ENTRY
    )


class MsixPending(Block):
    """The pending bit array: one bit a vector, padded to 8 bytes, read only."""

    NAME = "MSI-X Pending Bit Array"

    def __init__(self, vectors: int) -> None:
        size = (vectors + 63) // 64 * 8
        pending = Register(0, 4, "Pending Bits", (bits("pending", 31, 0, Access.RO, "One bit a vector"),))
        super().__init__(size, [pending.at(4 * number, number) for number in range(size // 4)])

    def mark(self, vector: int, pending: bool) -> None:
        """Set or clear a vector's pending bit."""
        register = self.registers[vector // 32]
        self.set(register, pending=self.value(register) & ~(1 << vector % 32) | int(pending) << vector % 32)

    def marked(self, vector: int) -> bool:
        """Read a vector's pending bit."""
        return bool(self.value(self.registers[vector // 32]) >> vector % 32 & 1)


class MsixCapability(Capability):
    """Where table and pending bits lie, and whether MSI-X is on."""

    NAME = "MSI-X Capability"
    ID = 0x11
    CONTROL = Register(
        0x02,
        2,
        "Message Control",
        (
            bits("table_size", 10, 0, Access.HWINIT, "Vectors minus 1"),
            bit("function_mask", 14, Access.RW, "Mask all vectors", locked=_LOCKED),
            bit("enable", 15, Access.RW, "MSI-X Enable", locked=_LOCKED),
        ),
    )
    TABLE = Register(
        0x04,
        4,
        "Table Offset and BIR",
        (bits("bir", 2, 0, Access.HWINIT, "BAR number"), bits("offset", 31, 3, Access.HWINIT, "Offset in the BAR / 8")),
    )
    PENDING = Register(
        0x08,
        4,
        "PBA Offset and BIR",
        (bits("bir", 2, 0, Access.HWINIT, "BAR number"), bits("offset", 31, 3, Access.HWINIT, "Offset in the BAR / 8")),
    )

    def __init__(self, vectors: int, bar: int, table_offset: int = 0, pending_offset: int | None = None) -> None:
        """Place the table of `vectors` at `table_offset` of `bar`; the pending bits follow unless placed elsewhere."""
        if not 1 <= vectors <= MAX_VECTORS:
            raise Misuse(f"{vectors} MSI-X vectors; there can be 1 to {MAX_VECTORS}")
        super().__init__(12)
        self.bar = bar
        self.table_offset = table_offset
        self.pending_offset = table_offset + ENTRY_SIZE * vectors if pending_offset is None else pending_offset
        if self.table_offset % 8 or self.pending_offset % 8:
            raise Misuse("MSI-X table and pending bits lie on 8-byte boundaries of their BAR")
        self.table = MsixTable(vectors)
        self.pending = MsixPending(vectors)
        self.set(self.CONTROL, table_size=vectors - 1)
        self.set(self.TABLE, bir=bar, offset=self.table_offset // 8)
        self.set(self.PENDING, bir=bar, offset=self.pending_offset // 8)

    @property
    def enabled(self) -> bool:
        """Whether MSI-X is on."""
        return bool(self.get(self.CONTROL, "enable"))

    def raise_vector(self, vector: int) -> MsixMessage | None:
        """Give the message to send for `vector` now; None if MSI-X is off, or if it is masked and so left pending."""
        if not 0 <= vector < self.table.vectors:
            raise Misuse(f"vector {vector}: the table has {self.table.vectors}")
        if not self.get(self.CONTROL, "enable"):
            return None
        if self.get(self.CONTROL, "function_mask") or self.table.masked(vector):
            self.pending.mark(vector, True)
            return None
        self.pending.mark(vector, False)
        return self.table.message(vector)

    def due(self) -> list[int]:
        """List the pending vectors that are no longer masked: raise them again."""
        if not self.get(self.CONTROL, "enable") or self.get(self.CONTROL, "function_mask"):
            return []
        return [v for v in range(self.table.vectors) if self.pending.marked(v) and not self.table.masked(v)]
