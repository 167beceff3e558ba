"""The headers of TLPs in Non-Flit Mode, declared (PCIe Base 2.2.4 to 2.2.9).

Numbers travel most significant byte first.
"""

from __future__ import annotations

from enum import IntEnum

from teeio.wire import Record, bits, blob, part, record, reserved_bits, u8, u16, u32


class CompletionStatus(IntEnum):
    """Completion Status field (PCIe Base 2.2.9).

    Two never travel: TIMEOUT, no completion came, and UNPROTECTED, a Translation Completion with T clear came to a
    request with T set.
    """

    SC = 0
    UR = 1
    CRS = 2
    CA = 4
    TIMEOUT = 8
    UNPROTECTED = 9


class MessageCode(IntEnum):
    """Message codes that this model sends or knows (PCIe Base 2.2.8)."""

    INVALIDATE_REQUEST = 0x01
    INVALIDATE_COMPLETION = 0x02
    PAGE_REQUEST = 0x04
    PRG_RESPONSE = 0x05
    IDE_SYNC = 0x54
    IDE_FAIL = 0x55
    IDE_ESCORT = 0x56
    VENDOR_DEFINED_0 = 0x7E
    VENDOR_DEFINED_1 = 0x7F


@record
class Common(Record):
    """The first DW of every header."""

    length: int = bits(10, "Payload or request length in DWs, 0 means 1024", of=4, big=True, default=1)
    address_type: int = bits(2, "AT: 0 untranslated, 1 translation request, 2 translated", default=0)
    attributes: int = bits(2, "Relaxed Ordering, No Snoop", default=0)
    poisoned: int = bits(1, "EP", default=0)
    digest: int = bits(1, "TD: an ECRC follows", default=0)
    hints: int = bits(1, "TH", default=0)
    _reserved: int = bits(1, "Reserved", default=0)
    ordering: int = bits(1, "ID-based Ordering", default=0)
    tag_8: int = bits(1, "Tag bit 8", default=0)
    traffic_class: int = bits(3, "TC", default=0)
    tag_9: int = bits(1, "Tag bit 9", default=0)
    first_byte: int = bits(8, "Fmt and Type")


@record
class MemoryHeader(Record):
    """A memory request's header (PCIe Base 2.2.7)."""

    common: Common = part(Common)
    requester_id: int = u16("Requester ID", big=True)
    tag: int = u8("Tag")
    first_be: int = bits(4, "Byte enables of the first DW", of=1)
    last_be: int = bits(4, "Byte enables of the last DW")
    address_high: int = u32("Address bits 63:32", big=True, when="common.first_byte & 0x20")
    address_low: int = u32("Address bits 31:2", big=True)

    @property
    def address(self) -> int:
        """The address of the first DW."""
        return self.address_high << 32 | self.address_low & ~3

    @property
    def dwords(self) -> int:
        """The length in DWs, 1 to 1024."""
        return self.common.length or 1024

    @property
    def span(self) -> tuple[int, int]:
        """Address of the first enabled byte and number of bytes up to the last; (address, 0) if none is enabled."""
        last = self.last_be if self.dwords > 1 else self.first_be
        if not self.first_be or not last:
            return self.address, 0
        start = (self.first_be & -self.first_be).bit_length() - 1
        return self.address + start, 4 * (self.dwords - 1) + last.bit_length() - start

    def enabled(self, payload: bytes) -> list[tuple[int, bytes]]:
        """List the runs of bytes that a write's byte enables let through, with their addresses."""
        if self.first_be == 0xF and (self.last_be == 0xF or self.dwords == 1):
            return [(self.address, payload)]
        mask = bytearray(b"\1" * len(payload))
        ends = [(0, self.first_be)] + ([(4 * (self.dwords - 1), self.last_be)] if self.dwords > 1 else [])
        for at, enables in ends:
            mask[at : at + 4] = bytes(enables >> n & 1 for n in range(4))
        return [(self.address + at, payload[at:end]) for at, end in _runs(bytes(mask))]


def _runs(mask: bytes) -> list[tuple[int, int]]:
    found, at = [], mask.find(1)
    while at >= 0:
        end = mask.find(0, at)
        end = len(mask) if end < 0 else end
        found.append((at, end))
        at = mask.find(1, end)
    return found


@record
class CompletionHeader(Record):
    """A completion's header (PCIe Base 2.2.9)."""

    common: Common = part(Common)
    byte_count: int = bits(
        12, "Bytes left to complete the request, this completion's included; 0 means 4096", of=4, big=True
    )
    byte_count_modified: int = bits(1, "BCM: PCI-X only", default=0)
    status: int = bits(3, "Completion Status", enum=CompletionStatus)
    completer_id: int = bits(16, "Completer ID")
    requester_id: int = u16("Requester ID", big=True)
    tag: int = u8("Tag")
    lower_address: int = bits(7, "Low bits of the first byte's address", of=1)
    _reserved: int = bits(1, "Reserved", default=0)


@record
class ConfigurationHeader(Record):
    """A configuration request's header (PCIe Base 2.2.7.2)."""

    common: Common = part(Common)
    requester_id: int = u16("Requester ID", big=True)
    tag: int = u8("Tag")
    first_be: int = bits(4, "Byte enables", of=1)
    last_be: int = bits(4, "0", default=0)
    _low: int = bits(2, "Reserved", of=4, big=True, default=0)
    register: int = bits(10, "DW number in configuration space")
    _reserved: int = bits(4, "Reserved", default=0)
    target_id: int = bits(16, "Bus, device and function asked")


@record
class MessageHeader(Record):
    """A message's header (PCIe Base 2.2.8)."""

    common: Common = part(Common)
    requester_id: int = u16("Requester ID", big=True)
    tag: int = u8("Tag, reserved in most messages", default=0)
    code: int = u8("Message code", enum=MessageCode)
    body: bytes = blob(8, "Bytes 8 to 15, by message; routing by ID puts the destination in the first two")


PASID_PREFIX = 0x91
"""Byte 0 of a PASID prefix."""


@record
class PasidPrefix(Record):
    """The PASID prefix (PCIe Base 6.20.2)."""

    pasid: int = bits(20, "PASID", of=4, big=True)
    _reserved: None = reserved_bits(2)
    execute: int = bits(1, "Execute Requested", default=0)
    privileged: int = bits(1, "Privileged Mode Requested", default=0)
    type: int = bits(8, "End-End prefix, PASID", default=PASID_PREFIX)
