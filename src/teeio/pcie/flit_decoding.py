"""TLPs of Flit Mode taken apart, and read in the form that the rest of the platform knows (PCIe Base 6.x 2.2).

A `Tlp` has the header and prefixes of Non-Flit Mode. What a TLP means does not depend on the mode: header base and OHC words
say together what header and prefixes say there. Raises nothing but `DecodeError`; `flit_encoding` is the way back.

Left out: Processing Hints, which are dropped (OHC-B); tags beyond 10 bits; more than one segment on a link; ECRC.
"""

from __future__ import annotations

from typing import NamedTuple

from teeio.errors import DecodeError
from teeio.pcie.flit_headers import (
    FlitCommon,
    FlitCompletion,
    FlitConfiguration,
    FlitMemory,
    FlitMessage,
    OhcA1,
    OhcA2,
    OhcA3,
    OhcA4,
    OhcA5,
    OhcC,
)
from teeio.pcie.flit_types import (
    ATOMICS,
    BY_ID,
    DW,
    E_PREFIX,
    FLIT_TYPES,
    NON_IDE,
    OHC_E_SHIFT,
    OHC_E_SIZES,
    VENDOR_PREFIXES,
    FlitType,
    Ohc,
    OhcA,
    Trailer,
    family,
)
from teeio.pcie.tlp import Tlp, TlpType
from teeio.pcie.tlp_headers import (
    Common,
    CompletionHeader,
    ConfigurationHeader,
    MemoryHeader,
    MessageCode,
    MessageHeader,
    PasidPrefix,
)
from teeio.pcie.translation import NO_WRITE, AddressType

_TAG_BITS = 10
_ALL = 0xF


class Taken(NamedTuple):
    """A TLP of Flit Mode taken apart: its header base, its OHC words (empty where there are none), and what follows them.

    `head` is the bytes of header base and OHC, `payload` those of the payload that the header announces.
    """

    row: FlitType
    base: bytes
    a: bytes
    b: bytes
    c: bytes
    e: bytes
    trailer: Trailer
    head: int
    payload: int


def take(frame: bytes) -> Taken:
    """Take a TLP apart by its first DW; it may be longer than that says, or lack its payload. Raises `DecodeError`."""
    row = FLIT_TYPES.get(frame[0]) if len(frame) >= DW else None
    if row is None:
        why = f"{frame[0]:#04x} is no Type known here" if len(frame) >= DW else f"needs 4 bytes, {len(frame)} are there"
        raise DecodeError("FlitCommon", "type", 0, why)
    try:
        trailer = Trailer(frame[2] >> 5)
    except ValueError:
        raise DecodeError("FlitCommon", "trailer", 2, f"{frame[2] >> 5:03b}b is no trailer known here") from None
    ohc, at = frame[1] & 0x1F, row.size
    words = []
    for size in (*(DW if ohc & bit else 0 for bit in Ohc), OHC_E_SIZES[ohc >> OHC_E_SHIFT]):
        words.append(frame[at : at + size])
        at += size
    if len(frame) < at:
        raise DecodeError("FlitTlp", "ohc", row.size, f"header base and OHC need {at} bytes, {len(frame)} are there")
    payload = 4 * (((frame[2] & 3) << 8 | frame[3]) or 1024) if row.with_data else 0
    return Taken(row, frame[: row.size], words[0], words[1], words[2], words[3], trailer, at, payload)


def ide_place(frame: bytes) -> int:
    """Give where the OHC-C of an IDE TLP lies in a frame; -1 if it is none."""
    row = FLIT_TYPES.get(frame[0]) if len(frame) >= DW else None
    if row is None or not frame[1] & Ohc.C:
        return -1
    at = row.size + DW * ((frame[1] & Ohc.A) + (frame[1] >> 1 & 1))
    return at if len(frame) >= at + DW and frame[at + 3] >> 4 & 7 != NON_IDE else -1


def decode_head(taken: Taken, segment: int) -> Tlp:
    """Give the TLP without its payload. Raises `DecodeError`."""
    header, pasid = _READERS[family(taken.row.kind)](taken, segment)
    if taken.c:
        ohc_c = OhcC.decode(taken.c)
        _same_segment(ohc_c.segment_valid and not taken.row.kind.is_completion, ohc_c.segment, segment, "OhcC")
    prefixes = b"" if pasid is None else pasid.encode()
    for at in range(0, len(taken.e), DW):
        prefixes += _prefix(taken.e[at : at + DW])
    return Tlp(header, b"", prefixes)


def _prefix(word: bytes) -> bytes:
    if not any(word):
        return b""
    first = 0x90 | word[0] & 0xF
    if word[0] >> 4 != E_PREFIX or first not in VENDOR_PREFIXES:
        raise DecodeError("FlitTlp", "ohc_e", 0, f"{word.hex()} is no End-End prefix known here")
    return bytes((first,)) + word[1:]


def _same_segment(valid: int, found: int, own: int, layout: str) -> None:
    if valid and found != own:
        raise DecodeError(layout, "segment", 0, f"is {found:#x}; this link is of segment {own:#x}")


def _common(common: FlitCommon, row: FlitType, tag: int, poisoned: int, address_type: int = 0) -> Common:
    if tag >> _TAG_BITS:
        raise DecodeError(type(common).__name__, "tag", 6, f"{tag:#x} has more than {_TAG_BITS} bits")
    return Common(
        first_byte=row.first_byte,
        traffic_class=common.traffic_class,
        ordering=common.ordering,
        attributes=common.attributes,
        length=common.length,
        poisoned=poisoned,
        address_type=address_type,
        tag_8=tag >> 8 & 1,
        tag_9=tag >> 9,
    )


def _memory_header(taken: Taken, segment: int) -> tuple[bytes, PasidPrefix | None]:
    new, kind = FlitMemory.decode(taken.base), taken.row.kind
    ohc_a = OhcA1.decode(taken.a) if taken.a else None
    translation = kind is TlpType.MRD and new.address_type == AddressType.TRANSLATION_REQUEST
    if kind in ATOMICS:
        first, last = 0, 0
    elif ohc_a is None:
        first, last = _ALL, _ALL if new.common.length != 1 else 0
    else:
        first, last = ohc_a.first_be, ohc_a.last_be
    no_write = ohc_a.no_write if ohc_a is not None and translation else 0
    header = MemoryHeader(
        common=_common(new.common, taken.row, new.tag, new.poisoned, new.address_type),
        requester_id=new.requester_id,
        tag=new.tag & 0xFF,
        first_be=first,
        last_be=last,
        address_high=new.address_high,
        address_low=new.address_low << 2 | no_write * NO_WRITE,
    )
    return header.encode(), _pasid_of(ohc_a)


def _pasid_of(ohc_a: OhcA1 | None) -> PasidPrefix | None:
    if ohc_a is None or not ohc_a.pasid_valid:
        return None
    return PasidPrefix(pasid=ohc_a.pasid, execute=ohc_a.execute, privileged=ohc_a.privileged)


def _io_header(taken: Taken, segment: int) -> tuple[bytes, PasidPrefix | None]:
    new, ohc_a = FlitMemory.decode(taken.base), OhcA2.decode(_needed(taken, "OhcA2"))
    header = MemoryHeader(
        common=_common(new.common, taken.row, new.tag, new.poisoned),
        requester_id=new.requester_id,
        tag=new.tag & 0xFF,
        first_be=ohc_a.first_be,
        last_be=ohc_a.last_be,
        address_high=0,
        address_low=new.address_low << 2,
    )
    return header.encode(), None


def _needed(taken: Taken, layout: str) -> bytes:
    if not taken.a:
        raise DecodeError(layout, "(start)", len(taken.base), f"a {taken.row.kind.label} has to have one")
    return taken.a


def _configuration_header(taken: Taken, segment: int) -> tuple[bytes, PasidPrefix | None]:
    new, ohc_a = FlitConfiguration.decode(taken.base), OhcA3.decode(_needed(taken, "OhcA3"))
    _same_segment(ohc_a.segment_valid, ohc_a.segment, segment, "OhcA3")
    header = ConfigurationHeader(
        common=_common(new.common, taken.row, new.tag, new.poisoned),
        requester_id=new.requester_id,
        tag=new.tag & 0xFF,
        first_be=ohc_a.first_be,
        last_be=ohc_a.last_be,
        register=new.register,
        target_id=new.target_id,
    )
    return header.encode(), None


def _completion_header(taken: Taken, segment: int) -> tuple[bytes, PasidPrefix | None]:
    new, ohc_a = FlitCompletion.decode(taken.base), OhcA5.decode(taken.a) if taken.a else None
    if ohc_a is not None:
        _same_segment(ohc_a.segment_valid, ohc_a.segment, segment, "OhcA5")
    low = ohc_a.lower_address_1_0 if ohc_a else 0
    header = CompletionHeader(
        common=_common(new.common, taken.row, new.tag, new.poisoned),
        completer_id=new.completer_id,
        status=ohc_a.status if ohc_a else 0,
        byte_count=new.byte_count,
        requester_id=new.requester_id,
        tag=new.tag & 0xFF,
        lower_address=new.lower_address_6 << 6 | new.lower_address_5_2 << 2 | low,
    )
    return header.encode(), None


def _message_header(taken: Taken, segment: int) -> tuple[bytes, PasidPrefix | None]:
    new = FlitMessage.decode(taken.base)
    header = MessageHeader(
        common=_common(new.common, taken.row, 0, new.poisoned),
        requester_id=new.requester_id,
        tag=new.tag,
        code=new.code,
        body=new.body,
    ).encode()
    if not taken.a:
        return header, None
    if new.code == MessageCode.PAGE_REQUEST and taken.row.kind not in BY_ID:
        return header, _pasid_of(OhcA1.decode(taken.a))
    ohc_a = OhcA4.decode(taken.a)
    _same_segment(ohc_a.segment_valid, ohc_a.segment, segment, "OhcA4")
    number = ohc_a.pasid_19_16 << 16 | ohc_a.pasid_15_8 << 8 | ohc_a.pasid_7_0
    return header, PasidPrefix(pasid=number) if ohc_a.pasid_valid else None


_READERS = {
    OhcA.MEMORY: _memory_header,
    OhcA.IO: _io_header,
    OhcA.CONFIGURATION: _configuration_header,
    OhcA.MESSAGE: _message_header,
    OhcA.COMPLETION: _completion_header,
}
