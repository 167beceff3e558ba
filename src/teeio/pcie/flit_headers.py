"""The header bases and the OHC words of TLPs in Flit Mode, declared (PCIe Base 6.x 2.2.4 to 2.2.11).

Numbers travel most significant byte first. The layouts are those on which two or more public verification models agree.
"""

from __future__ import annotations

from teeio.pcie.flit_types import Trailer
from teeio.pcie.tlp_headers import CompletionStatus, MessageCode
from teeio.wire import Record, bits, blob, part, record, reserved_bits, u8, u32


@record
class FlitCommon(Record):
    """The first DW of every header base."""

    length: int = bits(10, "Payload or request length in DWs, 0 means 1024", of=4, big=True, default=1)
    attributes: int = bits(2, "Relaxed Ordering, No Snoop", default=0)
    ordering: int = bits(1, "ID-based Ordering", default=0)
    trailer: int = bits(3, "TS: what follows the payload", enum=Trailer, default=Trailer.NONE)
    ohc: int = bits(5, "OHC words that follow the header base: E 4:3, C 2, B 1, A 0", default=0)
    traffic_class: int = bits(3, "TC", default=0)
    type: int = bits(8, "Type")


@record
class FlitMemory(Record):
    """A memory or I/O request's header base."""

    common: FlitCommon = part(FlitCommon)
    tag: int = bits(14, "Tag", of=4, big=True)
    _reserved: None = reserved_bits(1)
    poisoned: int = bits(1, "EP", default=0)
    requester_id: int = bits(16, "Requester ID")
    address_high: int = u32("Address bits 63:32", big=True, when="common.type & 0x20")
    address_type: int = bits(2, "AT: 0 untranslated, 1 translation request, 2 translated", of=4, big=True, default=0)
    address_low: int = bits(30, "Address bits 31:2")


@record
class FlitConfiguration(Record):
    """A configuration request's header base."""

    common: FlitCommon = part(FlitCommon)
    tag: int = bits(14, "Tag", of=4, big=True)
    _reserved: None = reserved_bits(1)
    poisoned: int = bits(1, "EP", default=0)
    requester_id: int = bits(16, "Requester ID")
    _low: None = reserved_bits(2, of=4, big=True)
    register: int = bits(10, "DW number in configuration space")
    _high: None = reserved_bits(4)
    target_id: int = bits(16, "Bus, device and function asked")


@record
class FlitCompletion(Record):
    """A completion's header base; status and the low bits of the address are in OHC-A5."""

    common: FlitCommon = part(FlitCommon)
    tag: int = bits(14, "Tag", of=4, big=True)
    lower_address_6: int = bits(1, "Lower Address bit 6", default=0)
    poisoned: int = bits(1, "EP", default=0)
    completer_id: int = bits(16, "Completer ID")
    byte_count: int = bits(12, "Bytes left to complete the request, 0 means 4096", of=4, big=True)
    lower_address_5_2: int = bits(4, "Lower Address bits 5:2", default=0)
    requester_id: int = bits(16, "Requester ID")


@record
class FlitMessage(Record):
    """A message's header base."""

    common: FlitCommon = part(FlitCommon)
    code: int = bits(8, "Message code", of=4, big=True, enum=MessageCode)
    tag: int = bits(7, "By message: the ITag of an Invalidate Request, else mostly reserved", default=0)
    poisoned: int = bits(1, "EP", default=0)
    requester_id: int = bits(16, "Requester ID")
    body: bytes = blob(8, "Bytes 8 to 15, as in Non-Flit Mode")


@record
class OhcA1(Record):
    """OHC-A1, of memory requests; without it all bytes are enabled and there is no PASID."""

    first_be: int = bits(4, "Byte enables of the first DW", of=4, big=True, default=0)
    last_be: int = bits(4, "Byte enables of the last DW", default=0)
    pasid: int = bits(20, "PASID", default=0)
    execute: int = bits(1, "Execute Requested", default=0)
    privileged: int = bits(1, "Privileged Mode Requested", default=0)
    pasid_valid: int = bits(1, "There is a PASID", default=0)
    no_write: int = bits(1, "NW of a Translation Request", default=0)


@record
class OhcA2(Record):
    """OHC-A2, of I/O requests."""

    first_be: int = bits(4, "Byte enables", of=4, big=True)
    last_be: int = bits(4, "0", default=0)
    _reserved: None = reserved_bits(24)


@record
class OhcA3(Record):
    """OHC-A3, of configuration requests."""

    first_be: int = bits(4, "Byte enables", of=4, big=True)
    last_be: int = bits(4, "0", default=0)
    _reserved: None = reserved_bits(7)
    segment_valid: int = bits(1, "DSV: the Destination Segment means something", default=1)
    _high: None = reserved_bits(8)
    segment: int = bits(8, "Destination Segment, which the device takes as its own")


@record
class OhcA4(Record):
    """OHC-A4, of messages."""

    pasid_7_0: int = bits(8, "PASID bits 7:0", of=4, big=True, default=0)
    pasid_19_16: int = bits(4, "PASID bits 19:16", default=0)
    _reserved: None = reserved_bits(2)
    pasid_valid: int = bits(1, "There is a PASID", default=0)
    segment_valid: int = bits(1, "DSV: the Destination Segment means something", default=1)
    pasid_15_8: int = bits(8, "PASID bits 15:8", default=0)
    segment: int = bits(8, "Destination Segment")


@record
class OhcA5(Record):
    """OHC-A5, of completions; without it the status is Success and the first byte's address ends in 00b."""

    status: int = bits(3, "Completion Status", of=4, big=True, enum=CompletionStatus)
    lower_address_1_0: int = bits(2, "Lower Address bits 1:0", default=0)
    _reserved: None = reserved_bits(10)
    segment_valid: int = bits(1, "DSV: the Destination Segment means something", default=0)
    completer_segment: int = bits(8, "Completer Segment")
    segment: int = bits(8, "Destination Segment: the Requester Segment of the request", default=0)


@record
class OhcC(Record):
    """OHC-C: what IDE adds to a TLP, and the Requester Segment; a Sub-stream of 111b says that the TLP is no IDE TLP."""

    segment: int = u8("Requester Segment", default=0)
    pr_sent_counter: int = u8("Posted TLPs since the last TLP of this sub-stream; 0 on Posted", default=0)
    stream_id: int = u8("Stream ID", default=0)
    t: int = bits(1, "Trusted: the TLP originates in, or is meant for, a TEE", of=1, default=0)
    k: int = bits(1, "Key set", default=0)
    _reserved: None = reserved_bits(1)
    segment_valid: int = bits(1, "RSV: the Requester Segment means something; 0 on completions", default=0)
    sub_stream: int = bits(3, "0 PR, 1 NPR, 2 CPL, 7 no IDE TLP")
    escorted: int = bits(1, "An IDE Escort went right before (UNCONFIRMED place); reserved on Posted", default=0)
