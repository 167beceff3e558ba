"""Issuing certificates: the authorities of a simulated manufacturer and the identities of its devices.

Leaf contents follow DSP0274 (certificate requirements) and PCIe CMA. Keys, serial numbers and signatures come from the
given entropy and the validity is an argument, so the same arguments give the same bytes. Leaves out certificate
requests; the Alias certificate model, in which the device itself is the last authority, is in `hierarchy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from teeio.crypto.algorithms import BaseAsym, BaseHash
from teeio.crypto.certificates.chain import chain_structure, load_certificate
from teeio.crypto.certificates.extensions import (
    CMA_NAME,
    DEVICE_INFO,
    EKU_REQUESTER,
    EKU_RESPONDER,
    HARDWARE_IDENTITY,
    MUTABLE_CERTIFICATE,
    DeviceInfo,
    PciIdentity,
    TcbInfo,
    other_name,
    spdm_extension,
)
from teeio.crypto.entropy import Entropy
from teeio.crypto.keys import Asym, PublicKey, SigningKey, hash_algorithm

Reason = x509.ReasonFlags
"""Why a certificate is revoked (RFC 5280 section 5.3.1)."""

Extension: TypeAlias = tuple[x509.ExtensionType, bool]
"""An extension and whether it is critical."""


@dataclass(frozen=True, slots=True)
class Validity:
    """When a certificate is valid, in seconds since 1970 UTC, whole seconds."""

    not_before: float
    not_after: float


def moment(seconds: float) -> datetime:
    """Turn seconds since 1970 into the aware datetime that X.509 code wants."""
    return datetime.fromtimestamp(seconds, UTC)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def _serial_number(entropy: Entropy) -> int:
    # Positive and at most 20 octets (RFC 5280 section 4.1.2.2); the added top bit keeps it from being zero or short.
    return int.from_bytes(entropy(15), "big") | 1 << 120


@dataclass(frozen=True, slots=True)
class Authority:
    """A certification authority: its key, its certificate, and the DER certificates from the root down to its own."""

    name: str
    key: SigningKey
    base_hash: BaseHash
    path: tuple[bytes, ...]

    @classmethod
    def root(cls, name: str, base_asym: Asym, base_hash: BaseHash, entropy: Entropy, validity: Validity) -> Authority:
        """Make a self-signed root."""
        key = SigningKey.generate(base_asym, entropy)
        unsigned = cls(name, key, base_hash, ())
        return cls(
            name, key, base_hash, (unsigned.certify(name, key.public, _authority_extensions(), entropy, validity),)
        )

    def subordinate(self, name: str, entropy: Entropy, validity: Validity) -> Authority:
        """Make an authority that this one has signed."""
        key = SigningKey.generate(self.key.algorithm, entropy)
        certificate = self.certify(name, key.public, _authority_extensions(), entropy, validity)
        return Authority(name, key, self.base_hash, (*self.path, certificate))

    def certify(
        self, subject: str, public: PublicKey, extensions: Sequence[Extension], entropy: Entropy, validity: Validity
    ) -> bytes:
        """Sign a certificate with exactly these extensions besides the key identifiers; DER."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name(self.name))
            .public_key(public)
            .serial_number(_serial_number(entropy))
            .not_valid_before(moment(validity.not_before))
            .not_valid_after(moment(validity.not_after))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public), critical=False)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        certificate = self._signed(builder)
        return bytes(certificate.public_bytes(Encoding.DER))

    def renew(self, certificate: bytes, entropy: Entropy) -> bytes:
        """Sign a DER certificate anew: its subject, key, validity and extensions, below the last certificate of our path; DER."""
        old, above = load_certificate(certificate), load_certificate(self.path[-1])
        builder = (
            x509.CertificateBuilder()
            .subject_name(old.subject)
            .issuer_name(above.subject)
            .public_key(old.public_key())
            .serial_number(_serial_number(entropy))
            .not_valid_before(old.not_valid_before_utc)
            .not_valid_after(old.not_valid_after_utc)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public), critical=False)
        )
        for extension in old.extensions:
            if not isinstance(extension.value, x509.AuthorityKeyIdentifier):
                builder = builder.add_extension(extension.value, critical=extension.critical)
        return bytes(self._signed(builder).public_bytes(Encoding.DER))

    def revoke(
        self,
        certificates: Sequence[bytes],
        number: int,
        validity: Validity,
        reason: Reason = Reason.key_compromise,
        *,
        earlier: bytes | None = None,
    ) -> bytes:
        """Sign a revocation list over these DER certificates and those on an `earlier` list of ours; DER.

        `validity` is thisUpdate and nextUpdate.
        """
        kept = list(x509.load_der_x509_crl(earlier)) if earlier else []
        known = {entry.serial_number for entry in kept}
        added = {load_certificate(der).serial_number for der in certificates} - known
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(load_certificate(self.path[-1]).subject if self.path else _name(self.name))
            .last_update(moment(validity.not_before))
            .next_update(moment(validity.not_after))
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public), critical=False)
        )
        for old in kept:
            builder = builder.add_revoked_certificate(old)
        for serial in sorted(added):
            entry = x509.RevokedCertificateBuilder().serial_number(serial)
            entry = entry.revocation_date(moment(validity.not_before))
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
            builder = builder.add_revoked_certificate(entry.build())
        signed = self._signed(builder)
        return bytes(signed.public_bytes(Encoding.DER))

    def _signed(self, builder: Any) -> Any:
        """Sign; ECDSA deterministically, EdDSA and ML-DSA without a hash of their own."""
        key = self.key.key
        if isinstance(self.key.public, ec.EllipticCurvePublicKey):
            return builder.sign(key, hash_algorithm(self.base_hash), ecdsa_deterministic=True)
        hashed = isinstance(self.key.public, rsa.RSAPublicKey)
        return builder.sign(key, hash_algorithm(self.base_hash) if hashed else None)


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """What a device authenticates with: its key and the DER certificates root, intermediates, leaf.

    In the Alias model `device_key` is that of the device certificate, by which the device signs its leaf.
    """

    key: SigningKey
    base_hash: BaseHash
    path: tuple[bytes, ...]
    device_key: SigningKey | None = None

    @classmethod
    def generate(
        cls,
        device: DeviceInfo,
        entropy: Entropy,
        validity: Validity,
        *,
        base_asym: Asym = BaseAsym.ECDSA_P384,
        base_hash: BaseHash = BaseHash.SHA_384,
        pci: PciIdentity | None = None,
        tcb: TcbInfo | None = None,
    ) -> DeviceIdentity:
        """Make a root, an intermediate authority and a device identity of the device's manufacturer."""
        maker = device.manufacturer
        root = Authority.root(f"{maker} root CA", base_asym, base_hash, entropy, validity)
        issuer = root.subordinate(f"{maker} {device.product} CA", entropy, validity)
        return cls.issue(issuer, device, entropy, validity, pci=pci, tcb=tcb)

    @classmethod
    def issue(
        cls,
        issuer: Authority,
        device: DeviceInfo,
        entropy: Entropy,
        validity: Validity,
        *,
        pci: PciIdentity | None = None,
        tcb: TcbInfo | None = None,
    ) -> DeviceIdentity:
        """Make a device identity under an authority that other devices may share."""
        key = SigningKey.generate(issuer.key.algorithm, entropy)
        # commonName holds at most 64 characters (RFC 5280 appendix A.1); the whole name stands in subjectAltName.
        leaf = issuer.certify(str(device)[:64], key.public, leaf_extensions(device, pci, tcb), entropy, validity)
        return cls(key, issuer.base_hash, (*issuer.path, leaf))

    @property
    def root(self) -> bytes:
        """The root certificate, DER: what a verifier takes as its anchor."""
        return self.path[0]

    @property
    def leaf(self) -> bytes:
        """The leaf certificate, DER."""
        return self.path[-1]

    @property
    def chain(self) -> bytes:
        """The SPDM certificate chain structure, for a slot."""
        return chain_structure(self.path[0], self.path[1:], self.base_hash)


def leaf_extensions(
    device: DeviceInfo,
    pci: PciIdentity | None = None,
    tcb: TcbInfo | None = None,
    *,
    requester: bool = False,
    alias: bool = False,
) -> list[Extension]:
    """List the extensions of a leaf: a responder's, or a requester's; in the Device or the Alias certificate model.

    An alias leaf names the device too, but says that it may change, and claims no hardware identity (DSP0274, CMA, DICE).
    """
    names = [other_name(DEVICE_INFO, str(device))]
    if pci is not None:
        names.append(other_name(CMA_NAME, str(pci)))
    extensions: list[Extension] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (key_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([EKU_REQUESTER if requester else EKU_RESPONDER]), False),
        (x509.SubjectAlternativeName(names), False),
        (spdm_extension([MUTABLE_CERTIFICATE if alias else HARDWARE_IDENTITY]), False),
    ]
    if tcb is not None:
        extensions.append((tcb.extension(), False))
    return extensions


def _authority_extensions() -> list[Extension]:
    return [
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (key_usage(key_cert_sign=True, crl_sign=True), True),
    ]


def key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    """Make a keyUsage extension with just these bits."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
