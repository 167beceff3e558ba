"""TLPs put into Flit Mode: header base and OHC words of what the platform knows as a `Tlp` (PCIe Base 6.x 2.2).

Left out: Processing Hints, which are dropped (the TH bit and its prefix); BCM; ECRC. What has no place in Flit Mode at all,
`carries` tells. `flit_decoding` is the way back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from teeio.errors import Misuse
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
)
from teeio.pcie.flit_types import (
    ATOMICS,
    BY_ID,
    DW,
    E_PREFIX,
    FLIT_TYPE_OF,
    OHC_E_SHIFT,
    OHC_E_SIZES,
    VENDOR_PREFIXES,
    Ohc,
    OhcA,
    Trailer,
    family,
)
from teeio.pcie.tlp import Tlp, TlpType
from teeio.pcie.tlp_headers import (
    PASID_PREFIX,
    Common,
    MemoryHeader,
    MessageCode,
    PasidPrefix,
)
from teeio.pcie.translation import NO_WRITE, AddressType

_WITH_PASID = (OhcA.MEMORY, OhcA.MESSAGE)
_TPH_PREFIX = 0x90
_ALL = 0xF


class _Beside(NamedTuple):
    """What goes into a TLP beside what its header has: PASID, the link's segment, whether it is an IDE TLP, OHC but A, TS."""

    pasid: PasidPrefix | None
    segment: int
    ide: bool
    ohc: int
    trailer: Trailer


def carries(tlp: Tlp) -> bool:
    """Tell whether a TLP can be sent in Flit Mode: it has no prefix that has no place there."""
    try:
        _prefixes(tlp)
    except Misuse:
        return False
    return True


def encode_head(
    tlp: Tlp, segment: int, ohc_c: bytes = b"", trailer: Trailer = Trailer.NONE, *, ide: bool = False
) -> bytes:
    """Give header base and OHC words, with `ohc_c` in its place. Raises `Misuse` if Flit Mode has no place for the TLP."""
    pasid, words = _prefixes(tlp) if tlp.prefixes else (None, b"")
    size = next(number for number, size in enumerate(OHC_E_SIZES) if size >= len(words))
    beside = _Beside(pasid, segment, ide, size << OHC_E_SHIFT | (Ohc.C if ohc_c else 0), trailer)
    return _WRITERS[family(tlp.type)](tlp, beside) + ohc_c + words.ljust(OHC_E_SIZES[size], b"\0")


def _prefixes(tlp: Tlp) -> tuple[PasidPrefix | None, bytes]:
    """Give what the End-End prefixes become: the PASID, and the words of OHC-E."""
    pasid, words = None, b""
    for at in range(0, len(tlp.prefixes), DW):
        prefix = tlp.prefixes[at : at + DW]
        if prefix[0] == PASID_PREFIX and pasid is None and family(tlp.type) in _WITH_PASID:
            pasid = PasidPrefix.decode(prefix)
        elif prefix[0] in VENDOR_PREFIXES:
            words += bytes((E_PREFIX << 4 | prefix[0] & 0xF,)) + prefix[1:]
        elif prefix[0] != _TPH_PREFIX:
            raise Misuse(f"a {tlp.type.label} with the prefix {prefix.hex()} has no form in Flit Mode")
    return pasid, words


def _common(old: Common, beside: _Beside, ohc_a: bytes) -> FlitCommon:
    return FlitCommon(
        type=FLIT_TYPE_OF[old.first_byte],
        traffic_class=old.traffic_class,
        ohc=beside.ohc | (Ohc.A if ohc_a else 0),
        trailer=beside.trailer,
        ordering=old.ordering,
        attributes=old.attributes,
        length=old.length,
    )


def _tag(common: Common, tag: int) -> int:
    return common.tag_9 << 9 | common.tag_8 << 8 | tag


def _memory(tlp: Tlp, beside: _Beside) -> bytes:
    old = tlp.memory()
    ohc_a = _memory_a(tlp, old, beside.pasid)
    return _memory_base(old, beside, ohc_a) + ohc_a


def _memory_base(old: MemoryHeader, beside: _Beside, ohc_a: bytes) -> bytes:
    return FlitMemory(
        common=_common(old.common, beside, ohc_a),
        requester_id=old.requester_id,
        poisoned=old.common.poisoned,
        tag=_tag(old.common, old.tag),
        address_high=old.address_high,
        address_low=old.address_low >> 2,
        address_type=old.common.address_type,
    ).encode()


def _memory_a(tlp: Tlp, old: MemoryHeader, pasid: PasidPrefix | None) -> bytes:
    translation = tlp.type is TlpType.MRD and old.common.address_type == AddressType.TRANSLATION_REQUEST
    last = _ALL if old.dwords > 1 else 0
    # With a hint the byte enables of Non-Flit Mode are a Steering Tag, and all bytes are enabled.
    implied = tlp.type in ATOMICS or bool(old.common.hints) or (old.first_be, old.last_be) == (_ALL, last)
    if implied and pasid is None and not translation:
        return b""
    return _a1(
        pasid,
        first_be=_ALL if implied else old.first_be,
        last_be=last if implied else old.last_be,
        no_write=old.address_low & NO_WRITE if translation else 0,
    )


def _a1(pasid: PasidPrefix | None, *, first_be: int = 0, last_be: int = 0, no_write: int = 0) -> bytes:
    return OhcA1(
        first_be=first_be,
        last_be=last_be,
        no_write=no_write,
        pasid_valid=int(pasid is not None),
        pasid=pasid.pasid if pasid else 0,
        execute=pasid.execute if pasid else 0,
        privileged=pasid.privileged if pasid else 0,
    ).encode()


def _io(tlp: Tlp, beside: _Beside) -> bytes:
    old = MemoryHeader.decode(tlp.header)
    ohc_a = OhcA2(first_be=old.first_be, last_be=old.last_be).encode()
    return _memory_base(old, beside, ohc_a) + ohc_a


def _configuration(tlp: Tlp, beside: _Beside) -> bytes:
    old = tlp.configuration()
    ohc_a = OhcA3(first_be=old.first_be, last_be=old.last_be, segment=beside.segment).encode()
    base = FlitConfiguration(
        common=_common(old.common, beside, ohc_a),
        requester_id=old.requester_id,
        poisoned=old.common.poisoned,
        tag=_tag(old.common, old.tag),
        register=old.register,
        target_id=old.target_id,
    )
    return base.encode() + ohc_a


def _completion(tlp: Tlp, beside: _Beside) -> bytes:
    old = tlp.completion()
    ohc_a = b""
    if old.status or old.lower_address & 3:
        ohc_a = OhcA5(
            status=old.status,
            lower_address_1_0=old.lower_address & 3,
            completer_segment=beside.segment,
            # IDE requests have a Requester Segment, the others of this model have none.
            segment_valid=int(beside.ide),
            segment=beside.segment if beside.ide else 0,
        ).encode()
    base = FlitCompletion(
        common=_common(old.common, beside, ohc_a),
        completer_id=old.completer_id,
        poisoned=old.common.poisoned,
        tag=_tag(old.common, old.tag),
        lower_address_6=old.lower_address >> 6,
        lower_address_5_2=old.lower_address >> 2 & 0xF,
        byte_count=old.byte_count,
        requester_id=old.requester_id,
    )
    return base.encode() + ohc_a


def _message(tlp: Tlp, beside: _Beside) -> bytes:
    old, ohc_a = tlp.message(), _message_a(tlp, beside)
    base = FlitMessage(
        common=_common(old.common, beside, ohc_a),
        requester_id=old.requester_id,
        poisoned=old.common.poisoned,
        tag=old.tag & 0x7F,
        code=old.code,
        body=old.body,
    )
    return base.encode() + ohc_a


def _message_a(tlp: Tlp, beside: _Beside) -> bytes:
    by_id, pasid = tlp.type in BY_ID, beside.pasid
    if pasid is None and not by_id:
        return b""
    if tlp.header[7] == MessageCode.PAGE_REQUEST and not by_id:
        return _a1(pasid)
    number = 0 if pasid is None else pasid.pasid
    return OhcA4(
        pasid_valid=int(pasid is not None),
        pasid_7_0=number & 0xFF,
        pasid_15_8=number >> 8 & 0xFF,
        pasid_19_16=number >> 16,
        segment_valid=int(by_id),
        segment=beside.segment if by_id else 0,
    ).encode()


_WRITERS: dict[OhcA, Callable[[Tlp, _Beside], bytes]] = {
    OhcA.MEMORY: _memory,
    OhcA.IO: _io,
    OhcA.CONFIGURATION: _configuration,
    OhcA.MESSAGE: _message,
    OhcA.COMPLETION: _completion,
}
