"""Address Translation Services and page requests as TLPs (PCIe Base chapter 10).

A Translation Request is a memory read with address type 1, its answer a completion with one `Translation` a page; a
request by a translated address has address type 2. Everything else is a message.

Left out: PASID, Execute and Privileged Mode permissions, translations of more than one page.
"""

from __future__ import annotations

from enum import IntEnum

from teeio.errors import Misuse
from teeio.pcie.tlp import PAGE, Routing, Tlp, TlpType, message
from teeio.pcie.tlp_headers import Common, MemoryHeader, MessageCode
from teeio.wire import Record, bits, record, u16

ENTRY_SIZE = 8
MAX_TRANSLATIONS = PAGE // ENTRY_SIZE
"""Translations that one request may ask for."""
GROUPS = 1 << 9
"""Page Request Groups that a function can tell apart."""
ITAGS = 32
"""Invalidations that may wait for one function."""
NO_WRITE = 1
"""Bit of a Translation Request's address: the function will only read."""


class AddressType(IntEnum):
    """AT field of a memory request (PCIe Base 10.2.1)."""

    UNTRANSLATED = 0
    TRANSLATION_REQUEST = 1
    TRANSLATED = 2


class ResponseCode(IntEnum):
    """Response Code of a PRG Response (PCIe Base 10.4.2.1)."""

    SUCCESS = 0
    INVALID_REQUEST = 1
    FAILURE = 15


@record
class Translation(Record):
    """One page of a Translation Completion (PCIe Base 10.2.3.2); neither read nor write: there is no translation."""

    read: int = bits(1, "R: the function may read", of=8, big=True, default=0)
    write: int = bits(1, "W: the function may write", default=0)
    untranslated_only: int = bits(1, "U: use untranslated requests", default=0)
    execute: int = bits(1, "Exe", default=0)
    privileged: int = bits(1, "Priv", default=0)
    is_global: int = bits(1, "Global", default=0)
    _reserved: int = bits(4, "Reserved", default=0)
    no_snoop: int = bits(1, "N: access without snooping", default=0)
    large: int = bits(1, "S: the address says how much more than a page is covered", default=0)
    page: int = bits(52, "Translated address, in pages of 4 KiB", default=0)


@record
class PageRequest(Record):
    """Bytes 8 to 15 of a Page Request message (PCIe Base 10.4.1)."""

    read: int = bits(1, "R: read access wanted", of=8, big=True, default=0)
    write: int = bits(1, "W: write access wanted", default=0)
    last: int = bits(1, "L: last request of its group", default=1)
    group: int = bits(9, "Page Request Group Index", default=0)
    page: int = bits(52, "Untranslated address, in pages of 4 KiB", default=0)


@record
class PageResponse(Record):
    """Bytes 8 to 15 of a PRG Response message (PCIe Base 10.4.2)."""

    destination: int = u16("Requester ID of the function that asked", big=True)
    group: int = bits(9, "Page Request Group Index", of=2, big=True, default=0)
    _reserved: int = bits(3, "Reserved", default=0)
    code: int = bits(4, "Response Code", enum=ResponseCode, default=ResponseCode.SUCCESS)
    _rest: int = bits(32, "Reserved", of=4, big=True, default=0)


@record
class Invalidation(Record):
    """Payload of an Invalidate Request message (PCIe Base 10.3.1); with S the low page bits say how much is meant."""

    is_global: int = bits(1, "Global Invalidate", of=8, big=True, default=0)
    _reserved: int = bits(10, "Reserved", default=0)
    large: int = bits(1, "S: more than a page, up to the lowest clear page bit", default=0)
    page: int = bits(52, "Untranslated address, in pages of 4 KiB", default=0)

    @property
    def pages(self) -> range:
        """The pages that are meant."""
        size = 2 * (~self.page & self.page + 1) if self.large else 1
        start = self.page & -size
        return range(start, start + size)


@record
class InvalidationDone(Record):
    """Bytes 8 to 15 of an Invalidate Completion message (PCIe Base 10.3.2)."""

    destination: int = u16("Requester ID of who invalidates", big=True)
    completions: int = bits(3, "CC: completions that belong to one request, 0 means 8", of=2, big=True, default=1)
    _reserved: int = bits(13, "Reserved", default=0)
    itags: int = bits(32, "ITag Vector: bit n completes the request with ITag n", of=4, big=True, default=0)


def address_type(tlp: Tlp) -> int:
    """Give the AT field of a memory request."""
    return tlp.header[2] >> 2 & 3


def is_translation_request(tlp: Tlp) -> bool:
    """Tell whether a TLP is a Translation Request."""
    return tlp.type is TlpType.MRD and address_type(tlp) == AddressType.TRANSLATION_REQUEST


def translated(tlp: Tlp) -> Tlp:
    """Give the same memory request with a translated address."""
    header = bytearray(tlp.header)
    header[2] |= AddressType.TRANSLATED << 2
    return tlp._replace(header=bytes(header))


def translation_request(requester_id: int, address: int, pages: int, *, no_write: bool) -> Tlp:
    """Build a Translation Request for `pages` pages from the page-aligned `address` on. Raises `Misuse`."""
    if address % PAGE or not 1 <= pages <= MAX_TRANSLATIONS or not 0 <= address <= (1 << 64) - pages * PAGE:
        raise Misuse(f"a translation of {pages} pages from {address:#x}", remedy=f"1 to {MAX_TRANSLATIONS} whole pages")
    length = pages * ENTRY_SIZE // 4
    kind = TlpType.MRD.first_byte(address >> 32 != 0)
    common = Common(first_byte=kind, length=length & 0x3FF, address_type=AddressType.TRANSLATION_REQUEST)
    return Tlp(
        MemoryHeader(
            common=common,
            requester_id=requester_id,
            tag=0,
            first_be=0xF,
            last_be=0xF,
            address_high=address >> 32,
            address_low=address & 0xFFFFFFFF | no_write * NO_WRITE,
        ).encode()
    )


def page_request(requester_id: int, request: PageRequest) -> Tlp:
    """Build a Page Request."""
    return message(requester_id, MessageCode.PAGE_REQUEST, Routing.TO_ROOT_COMPLEX, request.encode())


def page_response(requester_id: int, response: PageResponse) -> Tlp:
    """Build a PRG Response."""
    return message(requester_id, MessageCode.PRG_RESPONSE, Routing.BY_ID, response.encode())


def invalidate_request(requester_id: int, function_id: int, itag: int, invalidation: Invalidation) -> Tlp:
    """Build an Invalidate Request to the function with that Requester ID."""
    body = function_id.to_bytes(2, "big") + bytes(6)
    data = invalidation.encode()
    return message(requester_id, MessageCode.INVALIDATE_REQUEST, Routing.BY_ID, body, data, tag=itag)


def invalidate_completion(requester_id: int, done: InvalidationDone) -> Tlp:
    """Build an Invalidate Completion."""
    return message(requester_id, MessageCode.INVALIDATE_COMPLETION, Routing.BY_ID, done.encode())
