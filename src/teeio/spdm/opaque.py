"""Opaque data of KEY_EXCHANGE and PSK_EXCHANGE: the version of secured messages (DSP0277, "Secured message opaque data").

1.2 and later use OpaqueDataFmt1; 1.1 uses the general format with its own header.
"""

from __future__ import annotations

from teeio.errors import DecodeError
from teeio.spdm.constants import Version
from teeio.wire import NO_FACTS, REST, Record, blob, const, count_of, length_of, record, repeat, reserved, u8

MAX_OPAQUE = 1024
GENERAL_SPEC_ID = 0x444D5446
SUPPORTED_VERSIONS = 1
SELECTED_VERSION = 0

SECURED_VERSIONS = (0x1000, 0x1100, 0x1200)
"""Secured-message versions offered, as they stand in the element."""


@record
class Element(Record):
    """An opaque element; it is padded to four bytes outside its declaration."""

    element_id: int = u8("Registry: 0 is DMTF", default=0)
    vendor_length: None = length_of("vendor", 1)
    vendor: bytes = blob("vendor_length", "Vendor id", default=b"")
    data_length: None = length_of("data", 2)
    data: bytes = blob("data_length", "Element data")


@record
class SupportedVersions(Record):
    """Element data of a request."""

    sm_version: None = const(1, 1, "SMDataVersion")
    sm_id: None = const(1, SUPPORTED_VERSIONS, "SMDataID")
    count: None = count_of("versions", 1)
    versions: tuple[int, ...] = repeat(2, "VersionNumberEntry", count="count")


@record
class SelectedVersion(Record):
    """Element data of a response."""

    sm_version: None = const(1, 1, "SMDataVersion")
    sm_id: None = const(1, SELECTED_VERSION, "SMDataID")
    version: tuple[int, ...] = repeat(2, "Selected version", count="1")


@record
class Format1(Record):
    """OpaqueDataFmt1 (1.2 and later)."""

    total_elements: int = u8("TotalElements")
    _reserved: None = reserved(3)
    elements: bytes = blob(REST, "Elements")


@record
class GeneralFormat(Record):
    """The general opaque data format (1.1)."""

    spec_id: None = const(4, GENERAL_SPEC_ID, "SpecID")
    opaque_version: None = const(1, 1, "OpaqueVersion")
    total_elements: int = u8("TotalElements")
    _reserved: None = reserved(2)
    elements: bytes = blob(REST, "Elements")


def _format(version: int) -> type[Format1] | type[GeneralFormat]:
    return Format1 if version >= Version.V1_2 else GeneralFormat


def _encode(version: int, data: bytes) -> bytes:
    element = Element(data=data).encode()
    padded = element + bytes(-len(element) % 4)
    return _format(version)(total_elements=1, elements=padded).encode()


def encode_supported(version: int, versions: tuple[int, ...] = SECURED_VERSIONS) -> bytes:
    """Give the opaque data of a request that offers secured-message `versions`."""
    return _encode(version, SupportedVersions(versions=versions).encode())


def encode_selected(version: int, selected: int) -> bytes:
    """Give the opaque data of a response that selects one."""
    return _encode(version, SelectedVersion(version=(selected,)).encode())


def _dmtf_elements(version: int, opaque: bytes) -> list[bytes]:
    if len(opaque) > MAX_OPAQUE:
        raise DecodeError("OpaqueData", "length", 0, f"{len(opaque)} bytes, at most {MAX_OPAQUE} are allowed")
    outer = _format(version).decode(opaque)
    rest, found = outer.elements, []
    for _ in range(outer.total_elements):
        element, used = Element.decode_prefix(rest, NO_FACTS)
        rest = rest[used + -used % 4 :]
        if element.element_id == 0 and not element.vendor:
            found.append(element.data)
    return found


def decode_supported(version: int, opaque: bytes) -> tuple[int, ...]:
    """Give the secured-message versions that a request offers; empty if it names none. Raises `DecodeError`."""
    for data in _dmtf_elements(version, opaque):
        if data[1:2] == bytes([SUPPORTED_VERSIONS]):
            return SupportedVersions.decode(data).versions
    return ()


def decode_selected(version: int, opaque: bytes) -> int | None:
    """Give the secured-message version that a response selects, or None. Raises `DecodeError`."""
    for data in _dmtf_elements(version, opaque):
        if data[1:2] == bytes([SELECTED_VERSION]):
            return SelectedVersion.decode(data).version[0]
    return None
