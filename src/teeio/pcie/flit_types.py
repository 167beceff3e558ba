"""What kinds of TLPs there are in Flit Mode: Type, Orthogonal Header Content, trailers (PCIe Base 6.x 2.2.1, 2.2.11).

The Type of Flit Mode says what Fmt and Type say in Non-Flit Mode, and but for one TLP in the same numbers: 0 is a NOP, so a
memory read with a 32-bit address is 3. What Non-Flit Mode has in prefixes, byte enables and status fields, Flit Mode has in
the OHC words, which follow the header base in the order A, B, C, E where the header says that they are there.

The sources are public verification models and parsers, two or more of which agree on what is not listed here.

UNCONFIRMED, with this model's reading:

* the form of an OHC-E word: the upper half of byte 0 is 1 for an End-End prefix, the lower half the prefix's own Type (one model);
* the byte enables in the OHC-A1 of a Translation Request: as in Non-Flit Mode;
* the Destination Segment of a completion that has OHC-A5 for its status: valid if the request was an IDE TLP, since IDE requests have
  a Requester Segment; so also for configuration requests over IDE, though those have none;
* which port of a switch reports an IDE TLP that would cross from one mode to the other: the one at which it came in.

Left out: UIO (Types 0x22, 0x61, 0x0C, 0x0D, 0x48), NOP TLPs and Local prefixes: no TLPs of the transaction layer, or not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from teeio.pcie.tlp_types import TYPES, TlpType

MRD_32 = 0x03
"""Type of a memory read with a 32-bit address, the only one that is not byte 0 of the Non-Flit Mode header."""
DW = 4


@dataclass(frozen=True, slots=True)
class FlitType:
    """What a Type of Flit Mode is: the TLP, byte 0 of its Non-Flit Mode header, the bytes of its header base."""

    type: int
    kind: TlpType
    first_byte: int

    @property
    def size(self) -> int:
        """Bytes of the header base."""
        return 16 if self.first_byte & 0x20 else 12

    @property
    def with_data(self) -> bool:
        """Whether a payload follows."""
        return bool(self.first_byte & 0x40)


FLIT_TYPES: dict[int, FlitType] = {
    row.type: row for row in (FlitType(first or MRD_32, kind, first) for first, kind in TYPES.items())
}
"""Types of Flit Mode."""
FLIT_TYPE_OF: dict[int, int] = {row.first_byte: row.type for row in FLIT_TYPES.values()}
"""Type of Flit Mode by byte 0 of the Non-Flit Mode header."""


class Ohc(IntEnum):
    """The OHC field's bits for words that are there or not; its bits 4:3 are the size of OHC-E."""

    A = 0b00001
    B = 0b00010
    C = 0b00100


OHC_E_SHIFT = 3
OHC_E_SIZES = (0, DW, 2 * DW, 4 * DW)
"""Bytes of OHC-E by the top two bits of the OHC field."""


ATOMICS = frozenset({TlpType.FETCH_ADD, TlpType.SWAP, TlpType.CAS})
"""Requests whose bytes are all enabled, so that their byte enables say nothing."""

BY_ID = frozenset({TlpType.MSG_ID, TlpType.MSGD_ID})
"""Messages routed by ID."""


class OhcA(Enum):
    """The forms of OHC-A, and which TLPs have them."""

    MEMORY = "A1: memory requests whose byte enables are not all set, that have a PASID, or ask for a translation"
    IO = "A2: I/O requests, always"
    CONFIGURATION = "A3: configuration requests, always"
    MESSAGE = "A4: messages routed by ID; a Page Request with a PASID has A1"
    COMPLETION = "A5: completions with another status than Success, or whose first byte is not DW-aligned"


def family(kind: TlpType) -> OhcA:
    """Give the form of OHC-A that a TLP may have, which is also what tells the header bases apart."""
    if kind.is_memory:
        return OhcA.MEMORY
    if kind.is_configuration:
        return OhcA.CONFIGURATION
    if kind.is_completion:
        return OhcA.COMPLETION
    return OhcA.MESSAGE if kind.is_message else OhcA.IO


class Trailer(IntEnum):
    """The TS field: what follows the payload."""

    NONE = 0b000
    ECRC = 0b001
    MAC = 0b101
    PCRC_AND_MAC = 0b110


TRAILER_SIZES = {Trailer.NONE: 0, Trailer.ECRC: DW, Trailer.MAC: 3 * DW, Trailer.PCRC_AND_MAC: 4 * DW}
"""Bytes of the trailer; the other values of TS are reserved or not known."""

NON_IDE = 0b111
"""The Sub-stream of an OHC-C that does not make its TLP an IDE TLP."""
E_PREFIX = 0x1
"""Upper half of byte 0 of an OHC-E word that is an End-End prefix."""
VENDOR_PREFIXES = range(0x9E, 0xA0)
"""The vendor-defined End-End prefixes, for which OHC-E is."""
