"""What a certificate says, for people to read: names, validity, key, and what SPDM, CMA and DICE put in.

Everything is taken as it stands; whether it is right is for `validate` and `leaf` to say.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from teeio.crypto.algorithms import BaseAsym, BaseHash, PqcAsym
from teeio.crypto.certificates.chain import load_certificate, parse_chain, split_certificates
from teeio.crypto.certificates.extensions import (
    EKU_REQUESTER,
    EKU_RESPONDER,
    HARDWARE_IDENTITY,
    MUTABLE_CERTIFICATE,
    device_info,
    extension,
    pci_identity,
    spdm_identifiers,
    tcb_info,
)
from teeio.crypto.certificates.leaf import algorithms_of
from teeio.crypto.kdf import digest
from teeio.crypto.keys import Asym
from teeio.errors import DecodeError

_KNOWN = {
    EKU_RESPONDER: "SPDM responder",
    EKU_REQUESTER: "SPDM requester",
    HARDWARE_IDENTITY: "hardware identity",
    MUTABLE_CERTIFICATE: "mutable certificate",
    ExtendedKeyUsageOID.SERVER_AUTH: "TLS server",
    ExtendedKeyUsageOID.CLIENT_AUTH: "TLS client",
    ExtendedKeyUsageOID.OCSP_SIGNING: "OCSP signing",
}


@dataclass(frozen=True, slots=True)
class Description:
    """One certificate; fields that it lacks are empty. `fingerprint` is SHA-256 over its DER, `dates` are ISO 8601."""

    subject: str
    issuer: str
    serial: str
    not_before: str
    not_after: str
    key: str
    authority: bool
    fingerprint: str
    device: str
    pci: str
    roles: tuple[str, ...]
    identifiers: tuple[str, ...]
    tcb: tuple[str, ...]


def describe(der: bytes) -> Description:
    """Describe a DER certificate. Raises `DecodeError`, also where an extension does not parse."""
    found = load_certificate(der)
    constraints = extension(found, x509.BasicConstraints)
    usages = extension(found, x509.ExtendedKeyUsage)
    return Description(
        subject=found.subject.rfc4514_string(),
        issuer=found.issuer.rfc4514_string(),
        serial=f"{found.serial_number:x}",
        not_before=found.not_valid_before_utc.isoformat(),
        not_after=found.not_valid_after_utc.isoformat(),
        key=_key(found),
        authority=bool(constraints and constraints.ca),
        fingerprint=hashlib.sha256(der).hexdigest(),
        device=str(device_info(found) or ""),
        pci=str(pci_identity(found) or ""),
        roles=tuple(_named(usage) for usage in usages or ()),
        identifiers=tuple(_named(item) for item in spdm_identifiers(found) or ()),
        tcb=_tcb(found),
    )


def _named(identifier: x509.ObjectIdentifier) -> str:
    return _KNOWN.get(identifier, identifier.dotted_string)


def _key(found: x509.Certificate) -> str:
    try:
        key = found.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        return f"cannot be read: {error}"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ECDSA {key.curve.name}"
    return str(algorithms_of(key).name or type(key).__name__)


def _tcb(found: x509.Certificate) -> tuple[str, ...]:
    info = tcb_info(found)
    if info is None:
        return ()
    told = [
        f"{name}={value}" for name in ("vendor", "model", "svn", "layer") if (value := getattr(info, name)) is not None
    ]
    told += [f"flags={info.flags!r}"] if info.flags else []
    return (*told, *(f"fwid={fwid.hash_oid}:{fwid.digest.hex()}" for fwid in info.fwids))


def algorithm_of(der: bytes) -> Asym:
    """Give a signature algorithm that the certificate's key serves; an empty flag if none is known. Raises `DecodeError`."""
    try:
        served = algorithms_of(load_certificate(der).public_key())
    except (ValueError, UnsupportedAlgorithm):
        return BaseAsym(0)
    lowest = int(served) & -int(served)
    return PqcAsym(lowest) if isinstance(served, PqcAsym) else BaseAsym(lowest)


def certificates_of(data: bytes, where: str) -> tuple[list[bytes], BaseHash | None]:
    """Give the DER certificates of a file, root first, and the hash of its header if it is an SPDM chain structure.

    Takes PEM, DER certificates one after the other, and the chain structure of DSP0274. Raises `DecodeError` naming `where`.
    """
    try:
        if b"-----BEGIN CERTIFICATE" in data:
            return [_der(found) for found in x509.load_pem_x509_certificates(data)], None
        if data[:1] == b"\x30":
            certificates = split_certificates(data)
            for der in certificates:
                load_certificate(der)
            return certificates, None
        return _structure(data)
    except (ValueError, DecodeError) as error:
        remedy = "give PEM, DER certificates one after the other, or an SPDM certificate chain"
        raise DecodeError("CertificateChain", where, 0, str(error), remedy=remedy) from None


def _der(found: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return bytes(found.public_bytes(Encoding.DER))


def _structure(data: bytes) -> tuple[list[bytes], BaseHash]:
    """Find the hash by which the structure parses; of hashes of one size, that of the first certificate, if it is the root's."""
    fitting: list[tuple[list[bytes], BaseHash]] = []
    for base_hash in BaseHash:
        try:
            root_hash, certificates = parse_chain(data, base_hash)
        except DecodeError:
            continue
        if digest(base_hash, certificates[0]) == root_hash:
            return certificates, base_hash
        fitting.append((certificates, base_hash))
    if not fitting:
        raise DecodeError("CertificateChain", "root_hash", 4, "is no chain under any hash")
    return fitting[0]
