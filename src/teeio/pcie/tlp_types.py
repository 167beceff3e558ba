"""What kinds of TLPs there are: Fmt and Type, headers, flow-control class, where IDE lets them travel (PCIe Base 2.2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from teeio.errors import Misuse


class SubStream(IntEnum):
    """Flow-control class of a TLP; IDE gives each class a sub-stream of the same number (PCIe Base 6.33.4)."""

    PR = 0
    NPR = 1
    CPL = 2


class Routing(IntEnum):
    """Routing of a message: the low three bits of its Type."""

    TO_ROOT_COMPLEX = 0
    BY_ADDRESS = 1
    BY_ID = 2
    BROADCAST = 3
    LOCAL = 4
    GATHERED = 5


@dataclass(frozen=True, slots=True)
class Row:
    """What a TLP type is: its Type field, whether its header may have 3 or 4 DW, and where IDE lets it travel."""

    label: str
    type: int
    with_data: bool
    sizes: tuple[int, ...]
    sub_stream: SubStream
    selective: bool


class TlpType(Enum):
    """The Fmt/Type table (PCIe Base table 2-3); `selective` after 6.33.4."""

    MRD = Row("MRd", 0b00000, False, (3, 4), SubStream.NPR, True)
    MRDLK = Row("MRdLk", 0b00001, False, (3, 4), SubStream.NPR, True)
    MWR = Row("MWr", 0b00000, True, (3, 4), SubStream.PR, True)
    IORD = Row("IORd", 0b00010, False, (3,), SubStream.NPR, False)
    IOWR = Row("IOWr", 0b00010, True, (3,), SubStream.NPR, False)
    CFGRD0 = Row("CfgRd0", 0b00100, False, (3,), SubStream.NPR, False)
    CFGWR0 = Row("CfgWr0", 0b00100, True, (3,), SubStream.NPR, False)
    CFGRD1 = Row("CfgRd1", 0b00101, False, (3,), SubStream.NPR, True)
    CFGWR1 = Row("CfgWr1", 0b00101, True, (3,), SubStream.NPR, True)
    DMWR = Row("DMWr", 0b11011, True, (3, 4), SubStream.NPR, True)
    FETCH_ADD = Row("FetchAdd", 0b01100, True, (3, 4), SubStream.NPR, True)
    SWAP = Row("Swap", 0b01101, True, (3, 4), SubStream.NPR, True)
    CAS = Row("CAS", 0b01110, True, (3, 4), SubStream.NPR, True)
    MSG_ROOT = Row("Msg", 0b10000, False, (4,), SubStream.PR, True)
    MSG_ADDRESS = Row("Msg", 0b10001, False, (4,), SubStream.PR, True)
    MSG_ID = Row("Msg", 0b10010, False, (4,), SubStream.PR, True)
    MSG_BROADCAST = Row("Msg", 0b10011, False, (4,), SubStream.PR, False)
    MSG_LOCAL = Row("Msg", 0b10100, False, (4,), SubStream.PR, False)
    MSG_GATHERED = Row("Msg", 0b10101, False, (4,), SubStream.PR, False)
    MSGD_ROOT = Row("MsgD", 0b10000, True, (4,), SubStream.PR, True)
    MSGD_ADDRESS = Row("MsgD", 0b10001, True, (4,), SubStream.PR, True)
    MSGD_ID = Row("MsgD", 0b10010, True, (4,), SubStream.PR, True)
    MSGD_BROADCAST = Row("MsgD", 0b10011, True, (4,), SubStream.PR, False)
    MSGD_LOCAL = Row("MsgD", 0b10100, True, (4,), SubStream.PR, False)
    CPL = Row("Cpl", 0b01010, False, (3,), SubStream.CPL, True)
    CPLD = Row("CplD", 0b01010, True, (3,), SubStream.CPL, True)
    CPLLK = Row("CplLk", 0b01011, False, (3,), SubStream.CPL, True)
    CPLDLK = Row("CplDLk", 0b01011, True, (3,), SubStream.CPL, True)

    def __init__(self, row: Row) -> None:
        # Asked of every TLP, where `value` and the hash of an enumeration would be slow ways.
        self.label = row.label
        self.sizes = row.sizes
        self._first_byte = int(row.with_data) << 6 | row.type
        self.sub_stream = row.sub_stream
        self.selective = row.selective
        self.with_data = row.with_data
        self.is_configuration = row.type in (0b00100, 0b00101)
        """Whether this is a configuration request."""
        self.is_type_0 = row.type == 0b00100
        """Whether this is a configuration request on the bus of its target."""
        self.is_memory = row.sub_stream is not SubStream.CPL and row.sizes == (3, 4)
        """Whether this is a request to memory, with an address."""
        self.is_message = row.type & 0b11000 == 0b10000
        """Whether this is a Msg or MsgD."""
        self.is_completion = row.sub_stream is SubStream.CPL
        """Whether this completes a non-posted request."""

    def first_byte(self, four_dw: bool) -> int:
        """Give byte 0 of the header: Fmt 7:5, Type 4:0."""
        size = 4 if (four_dw or self.sizes == (4,)) else 3
        if size not in self.sizes:
            raise Misuse(f"{self.label} has no {size} DW header")
        return self._first_byte | int(size == 4) << 5


TYPES: dict[int, TlpType] = {kind.first_byte(size == 4): kind for kind in TlpType for size in kind.value.sizes}
"""TLP type by byte 0 of the header."""

CONFIGURATION = frozenset(kind for kind in TlpType if kind.is_configuration)
"""Configuration requests."""
TYPE_0 = frozenset(kind for kind in TlpType if kind.is_type_0)
"""Configuration requests on the bus of their target."""
