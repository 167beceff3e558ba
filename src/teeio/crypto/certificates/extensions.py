"""What SPDM, PCIe CMA and DICE put into a certificate: names and extensions, each declared once.

Follows DSP0274 (certificate requirements, the OIDs under 1.3.6.1.4.1.412.274), PCIe 6.1 section 6.31.3 (CMA names) and
the TCG DICE Attestation Architecture 1.2 section 6.1.1 (TcbInfo). Leaves out the other DICE extensions (multi-TCB,
UEID, conceptual message wrappers).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Annotated, Any, TypeVar

from cryptography import x509
from cryptography.hazmat import asn1

from teeio.crypto.algorithms import BaseHash
from teeio.errors import DecodeError, Misuse

T = TypeVar("T")

DEVICE_INFO = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.1")
"""otherName in subjectAltName: `manufacturer:product:serial` (id-DMTF-device-info)."""

HARDWARE_IDENTITY = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.2")
"""In the SPDM extension: this certificate names the hardware (id-DMTF-hardware-identity)."""

EKU_RESPONDER = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.3")
"""Extended key usage of a responder (id-DMTF-eku-responder-auth)."""

EKU_REQUESTER = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.4")
"""Extended key usage of a requester (id-DMTF-eku-requester-auth)."""

MUTABLE_CERTIFICATE = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.5")
"""In the SPDM extension: this certificate may change during the life of the device (id-DMTF-mutable-certificate)."""

SPDM_EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.6")
"""The extension that lists the above (id-DMTF-SPDM-extension)."""

CMA_NAME = x509.ObjectIdentifier("2.23.147")
"""otherName in subjectAltName: the PCI identifiers. UNCONFIRMED: the text format is that of PCIe 6.1; PCIe 6.2 asks for
the same information but no longer says how it is encoded, and the OID itself is in no base specification."""

TCB_INFO = x509.ObjectIdentifier("2.23.133.5.4.1")
"""The DICE TcbInfo extension (tcg-dice-TcbInfo)."""

HASH_OIDS = {
    BaseHash.SHA_256: "2.16.840.1.101.3.4.2.1",
    BaseHash.SHA_384: "2.16.840.1.101.3.4.2.2",
    BaseHash.SHA_512: "2.16.840.1.101.3.4.2.3",
    BaseHash.SHA3_256: "2.16.840.1.101.3.4.2.8",
    BaseHash.SHA3_384: "2.16.840.1.101.3.4.2.9",
    BaseHash.SHA3_512: "2.16.840.1.101.3.4.2.10",
}
"""Object identifiers of the hashes that a FWID may use (NIST)."""


# -- names in subjectAltName -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """The name that the manufacturer gives a device: `manufacturer:product:serial` (DSP0274, otherName .1)."""

    manufacturer: str
    product: str
    serial: str

    def __str__(self) -> str:
        return f"{self.manufacturer}:{self.product}:{self.serial}"

    @classmethod
    def parse(cls, text: str) -> DeviceInfo:
        """Read the colon-separated form. Raises `DecodeError`."""
        parts = text.split(":")
        if len(parts) != 3 or not all(parts):
            raise DecodeError("DeviceInfo", "(text)", 0, f"{text!r} is not manufacturer:product:serial")
        return cls(*parts)


@dataclass(frozen=True, slots=True)
class PciIdentity:
    """The identifiers by which system software binds a driver, as CMA puts them into the leaf.

    The subsystem identifiers belong to type 0 headers only; `serial` is the Device Serial Number, 0 where the function
    has none.
    """

    vendor: int
    device: int
    class_code: int = 0
    revision: int = 0
    subsystem_vendor: int | None = None
    subsystem_device: int | None = None
    serial: int = 0

    def __str__(self) -> str:
        text = f"Vendor={self.vendor:04x}:Device={self.device:04x}:CC={self.class_code:06x}:REV={self.revision:02x}"
        if self.subsystem_vendor is not None and self.subsystem_device is not None:
            text += f":SSVID={self.subsystem_vendor:04x}:SSID={self.subsystem_device:04x}"
        return text + (f":{self.serial:016x}" if self.serial else "")

    @classmethod
    def parse(cls, text: str) -> PciIdentity:
        """Read the form that `str` gives, in either case. Raises `DecodeError`."""
        found = _CMA_TEXT.fullmatch(text)
        if found is None:
            raise DecodeError("PciIdentity", "(text)", 0, f"{text!r} is not Vendor=..:Device=..:CC=..:REV=..")
        return cls(**{name: int(value, 16) for name, value in found.groupdict().items() if value is not None})


_CMA_TEXT = re.compile(
    r"Vendor=(?P<vendor>[0-9a-f]{4}):Device=(?P<device>[0-9a-f]{4})"
    r":CC=(?P<class_code>[0-9a-f]{6}):REV=(?P<revision>[0-9a-f]{2})"
    r"(?::SSVID=(?P<subsystem_vendor>[0-9a-f]{4}):SSID=(?P<subsystem_device>[0-9a-f]{4}))?(?::(?P<serial>[0-9a-f]{16}))?",
    re.IGNORECASE | re.ASCII,
)


def other_name(identifier: x509.ObjectIdentifier, text: str) -> x509.OtherName:
    """Make an otherName holding a UTF8String."""
    return x509.OtherName(identifier, asn1.encode_der(text))


def other_names(certificate: x509.Certificate, identifier: x509.ObjectIdentifier) -> list[str]:
    """Give the UTF8Strings that the leaf names under `identifier`. Raises `DecodeError`."""
    names = extension(certificate, x509.SubjectAlternativeName)
    if names is None:
        return []
    return [
        _decode(str, name.value, "subjectAltName", identifier.dotted_string)
        for name in names.get_values_for_type(x509.OtherName)
        if name.type_id == identifier
    ]


def device_info(certificate: x509.Certificate) -> DeviceInfo | None:
    """Give the DMTF device name, or None without one. Raises `DecodeError`, also on two different names."""
    return _only({DeviceInfo.parse(text) for text in other_names(certificate, DEVICE_INFO)}, DEVICE_INFO)


def pci_identity(certificate: x509.Certificate) -> PciIdentity | None:
    """Give the CMA name, or None without one. Raises `DecodeError`, also on two different names."""
    return _only({PciIdentity.parse(text) for text in other_names(certificate, CMA_NAME)}, CMA_NAME)


def _only(found: set[T], identifier: x509.ObjectIdentifier) -> T | None:
    if len(found) > 1:
        raise DecodeError("subjectAltName", identifier.dotted_string, 0, f"holds {len(found)} names that differ")
    return next(iter(found), None)


# -- extensions --------------------------------------------------------------------------------------------------------


@asn1.sequence
class SpdmIdentifier:
    """id-spdm-cert-oid: an identifier with, perhaps, a definition."""

    identifier: x509.ObjectIdentifier
    definition: bytes | None = None


@asn1.sequence
class _SpdmIdentifiers:
    """The ASN.1 coder takes no bare SEQUENCE OF, so the list is coded inside a SEQUENCE whose header comes and goes."""

    items: list[SpdmIdentifier]


def spdm_extension(identifiers: Sequence[x509.ObjectIdentifier]) -> x509.UnrecognizedExtension:
    """Make the SPDM extension: SEQUENCE OF id-spdm-cert-oid."""
    wrapped = asn1.encode_der(_SpdmIdentifiers(items=[SpdmIdentifier(identifier=item) for item in identifiers]))
    return x509.UnrecognizedExtension(SPDM_EXTENSION, wrapped[der_header(wrapped, 0).size :])


def spdm_identifiers(certificate: x509.Certificate) -> list[x509.ObjectIdentifier] | None:
    """Give what the SPDM extension lists, or None without it. Raises `DecodeError`."""
    value = _raw_extension(certificate, SPDM_EXTENSION)
    if value is None:
        return None
    return [item.identifier for item in _decode(_SpdmIdentifiers, _sequence(value), "SPDM extension", "(value)").items]


def _sequence(content: bytes) -> bytes:
    if len(content) < 0x80:
        return bytes([SEQUENCE, len(content)]) + content
    octets = -(-len(content).bit_length() // 8)
    return bytes([SEQUENCE, 0x80 | octets]) + len(content).to_bytes(octets, "big") + content


class OperationalFlags(IntFlag):
    """DICE OperationalFlags, by bit number of the BIT STRING."""

    NOT_CONFIGURED = 1 << 0
    NOT_SECURE = 1 << 1
    RECOVERY = 1 << 2
    DEBUG = 1 << 3
    NOT_REPLAY_PROTECTED = 1 << 4
    NOT_INTEGRITY_PROTECTED = 1 << 5
    NOT_RUNTIME_MEASURED = 1 << 6
    NOT_IMMUTABLE = 1 << 7
    NOT_TCB = 1 << 8


@asn1.sequence
class _Fwid:
    hash_algorithm: x509.ObjectIdentifier
    digest: bytes


@asn1.sequence
class _IntegrityRegister:
    name: Annotated[asn1.IA5String | None, asn1.Implicit(0)] = None
    number: Annotated[int | None, asn1.Implicit(1)] = None
    digests: Annotated[list[_Fwid], asn1.Implicit(2)]


@asn1.sequence
class _TcbInfo:
    """DiceTcbInfo after Appendix A of the TCG document, whose body text lacks flagsMask."""

    vendor: Annotated[str | None, asn1.Implicit(0)] = None
    model: Annotated[str | None, asn1.Implicit(1)] = None
    version: Annotated[str | None, asn1.Implicit(2)] = None
    svn: Annotated[int | None, asn1.Implicit(3)] = None
    layer: Annotated[int | None, asn1.Implicit(4)] = None
    index: Annotated[int | None, asn1.Implicit(5)] = None
    fwids: Annotated[list[_Fwid] | None, asn1.Implicit(6)] = None
    flags: Annotated[asn1.BitString | None, asn1.Implicit(7)] = None
    vendor_info: Annotated[bytes | None, asn1.Implicit(8)] = None
    type: Annotated[bytes | None, asn1.Implicit(9)] = None
    flags_mask: Annotated[asn1.BitString | None, asn1.Implicit(10)] = None
    integrity_registers: Annotated[list[_IntegrityRegister] | None, asn1.Implicit(11)] = None


@dataclass(frozen=True, slots=True)
class Fwid:
    """A firmware identifier: the digest of one component under `hash_oid`."""

    hash_oid: str
    digest: bytes

    @classmethod
    def of(cls, algorithm: BaseHash, digest: bytes) -> Fwid:
        """Make one. Raises `Misuse` for a hash without an object identifier."""
        if algorithm not in HASH_OIDS:
            raise Misuse(f"{algorithm!r} has no object identifier here", remedy="use a SHA-2 or SHA-3 hash")
        return cls(HASH_OIDS[algorithm], digest)


_NO_FLAGS = OperationalFlags(0)


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """What the DICE TcbInfo extension says of one layer; an absent field is None, absent flags are no flags."""

    fwids: tuple[Fwid, ...] = ()
    svn: int | None = None
    layer: int | None = None
    flags: OperationalFlags = _NO_FLAGS
    vendor: str | None = None
    model: str | None = None

    def extension(self) -> x509.UnrecognizedExtension:
        """Make the X.509 extension."""
        fwids = [_Fwid(hash_algorithm=x509.ObjectIdentifier(f.hash_oid), digest=f.digest) for f in self.fwids]
        value = _TcbInfo(
            vendor=self.vendor,
            model=self.model,
            svn=self.svn,
            layer=self.layer,
            fwids=fwids or None,
            flags=_bit_string(self.flags) if self.flags else None,
        )
        return x509.UnrecognizedExtension(TCB_INFO, asn1.encode_der(value))


def tcb_info(certificate: x509.Certificate) -> TcbInfo | None:
    """Give the DICE TcbInfo, or None without it. Raises `DecodeError`."""
    value = _raw_extension(certificate, TCB_INFO)
    if value is None:
        return None
    found = _decode(_TcbInfo, value, "DiceTcbInfo", "(value)")
    return TcbInfo(
        fwids=tuple(Fwid(item.hash_algorithm.dotted_string, item.digest) for item in found.fwids or ()),
        svn=found.svn,
        layer=found.layer,
        flags=_flags(found.flags),
        vendor=found.vendor,
        model=found.model,
    )


def _bit_string(flags: OperationalFlags) -> asn1.BitString:
    # A named bit list ends at its last set bit (X.680 section 22.7); bit 0 is the top bit of the first byte.
    width = int(flags).bit_length()
    size = -(-width // 8)
    reversed_bits = int(f"{int(flags):0{8 * size}b}"[::-1], 2)
    return asn1.BitString(data=reversed_bits.to_bytes(size, "big"), padding_bits=8 * size - width)


def _flags(value: asn1.BitString | None) -> OperationalFlags:
    if value is None:
        return _NO_FLAGS
    # The first 32 bits hold all flags; a longer string would only be a way to make a big integer.
    return OperationalFlags(int("".join(f"{byte:08b}" for byte in value.as_bytes()[:4])[::-1] or "0", 2))


# -- reading -----------------------------------------------------------------------------------------------------------


SEQUENCE = 0x30
"""The DER tag of SEQUENCE and SEQUENCE OF."""


@dataclass(frozen=True, slots=True)
class DerHeader:
    """Tag and length of one DER value: `size` bytes of header, then `length` bytes of content."""

    tag: int
    size: int
    length: int


def der_header(data: bytes, offset: int) -> DerHeader:
    """Read the header of the DER value at `offset`; its content may lie beyond the end. Raises `DecodeError`."""
    head = data[offset : offset + 6]
    if len(head) < 2:
        raise DecodeError("DER", "header", offset, f"needs 2 bytes, {len(head)} are left")
    if head[1] < 0x80:
        return DerHeader(head[0], 2, head[1])
    octets = head[1] & 0x7F
    if not 1 <= octets <= 4 or len(head) < 2 + octets:
        raise DecodeError("DER", "length", offset + 1, f"{octets} length octets: indefinite, too long or cut short")
    return DerHeader(head[0], 2 + octets, int.from_bytes(head[2 : 2 + octets], "big"))


def extension(certificate: x509.Certificate, kind: type[ExtensionType]) -> ExtensionType | None:
    """Give the extension of this type, or None. Raises `DecodeError` where the extensions do not parse."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise DecodeError("Certificate", "extensions", 0, str(error)) from None


ExtensionType = TypeVar("ExtensionType", bound=x509.ExtensionType)


def _raw_extension(certificate: x509.Certificate, identifier: x509.ObjectIdentifier) -> bytes | None:
    extension(certificate, x509.BasicConstraints)  # raises where the extensions as a whole do not parse
    try:
        value = certificate.extensions.get_extension_for_oid(identifier).value
    except x509.ExtensionNotFound:
        return None
    return value.value if isinstance(value, x509.UnrecognizedExtension) else None


def _decode(kind: type[T], value: bytes, record: str, field: str) -> T:
    try:
        decoded: Any = asn1.decode_der(kind, value)
    except (ValueError, TypeError, OverflowError) as error:
        raise DecodeError(record, field, 0, f"is not the declared ASN.1: {error}") from None
    result: T = decoded
    return result
