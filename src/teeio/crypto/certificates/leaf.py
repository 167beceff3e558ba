"""The leaf profile: what SPDM, CMA and DICE ask of the certificate that a device signs with, one row per rule.

All checks run and each failing one is a `Finding` that names the extension and the clause, so that a reader sees
everything that is wrong at once. Leaves out the path to an anchor, which is in `validate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from teeio.crypto.algorithms import BaseAsym
from teeio.crypto.certificates.extensions import (
    CMA_NAME,
    DEVICE_INFO,
    EKU_REQUESTER,
    EKU_RESPONDER,
    HARDWARE_IDENTITY,
    SPDM_EXTENSION,
    TCB_INFO,
    device_info,
    extension,
    pci_identity,
    spdm_identifiers,
    tcb_info,
)
from teeio.crypto.keys import PQC_SCHEMES, Asym
from teeio.errors import DecodeError


class CertificateModel(Enum):
    """Where the leaf key comes from (DSP0274, certificate chain models; values as in CertificateInfo of 1.3)."""

    DEVICE = 1
    ALIAS = 2
    GENERIC = 3


class Severity(Enum):
    """An error makes the chain unusable; a warning is a recommendation not followed."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a chain: which check, what is wrong and where, by which clause."""

    check: str
    severity: Severity
    message: str
    clause: str

    def __str__(self) -> str:
        return f"{self.severity.value}: {self.message} ({self.clause})"


@dataclass(frozen=True, slots=True)
class Leaf:
    """The leaf under examination and what is expected of it."""

    certificate: x509.Certificate
    base_asym: Asym
    model: CertificateModel
    version: int
    requester: bool


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the leaf profile: `find` gives what is wrong, or None."""

    name: str
    clause: str
    severity: Severity
    find: Callable[[Leaf], str | None]


def leaf_findings(leaf: Leaf) -> list[Finding]:
    """Run every check of `LEAF_CHECKS`."""
    try:
        extension(leaf.certificate, x509.BasicConstraints)
    except DecodeError as error:
        return [Finding("extensions", Severity.ERROR, f"leaf: {error}", "RFC 5280 section 4.2")]
    found = []
    for check in LEAF_CHECKS:
        severity = check.severity
        try:
            message = check.find(leaf)
        except DecodeError as error:
            message, severity = str(error), Severity.ERROR
        if message is not None:
            found.append(Finding(check.name, severity, f"leaf: {message}", check.clause))
    return found


def errors(findings: Sequence[Finding]) -> list[Finding]:
    """Give those findings that make a chain unusable."""
    return [finding for finding in findings if finding.severity is Severity.ERROR]


def _version(leaf: Leaf) -> str | None:
    actual = leaf.certificate.version
    return None if actual is x509.Version.v3 else f"is an X.509 {actual.name} certificate, must be v3"


def _names(leaf: Leaf) -> str | None:
    empty = [name for name in ("subject", "issuer") if not getattr(leaf.certificate, name).rdns]
    return f"{' and '.join(empty)} is empty" if empty else None


def _key(leaf: Leaf) -> str | None:
    try:
        fits = algorithms_of(leaf.certificate.public_key())
    except (ValueError, UnsupportedAlgorithm) as error:
        return f"public key cannot be read: {error}"
    # Flags of different kinds are equal as integers, so the kind is compared too.
    serves = type(leaf.base_asym) is type(fits) and bool(leaf.base_asym & fits)
    return None if serves else f"public key is not of the negotiated algorithm {leaf.base_asym!r}"


def algorithms_of(key: object) -> Asym:
    """Give the signature algorithms that a public key serves; none is an empty flag."""
    for algorithm, scheme in PQC_SCHEMES.items():
        if scheme.fits(key):
            return algorithm
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _CURVES.get(key.curve.name, BaseAsym(0))
    if isinstance(key, rsa.RSAPublicKey):
        return _RSA_SIZES.get(key.key_size, BaseAsym(0))
    if isinstance(key, ed25519.Ed25519PublicKey):
        return BaseAsym.ED25519
    return BaseAsym.ED448 if isinstance(key, ed448.Ed448PublicKey) else BaseAsym(0)


_CURVES = {"secp256r1": BaseAsym.ECDSA_P256, "secp384r1": BaseAsym.ECDSA_P384, "secp521r1": BaseAsym.ECDSA_P521}
_RSA_SIZES = {
    2048: BaseAsym.RSASSA_2048 | BaseAsym.RSAPSS_2048,
    3072: BaseAsym.RSASSA_3072 | BaseAsym.RSAPSS_3072,
    4096: BaseAsym.RSASSA_4096 | BaseAsym.RSAPSS_4096,
}


def _key_usage(leaf: Leaf) -> str | None:
    usage = extension(leaf.certificate, x509.KeyUsage)
    if usage is None:
        return "keyUsage (2.5.29.15) is absent, must contain digitalSignature"
    return None if usage.digital_signature else "keyUsage (2.5.29.15) lacks digitalSignature"


def _key_usage_of_authority(leaf: Leaf) -> str | None:
    usage = extension(leaf.certificate, x509.KeyUsage)
    if usage is None or not usage.key_cert_sign:
        return None
    return "keyUsage (2.5.29.15) contains keyCertSign, which only an authority may have"


def _basic_constraints(leaf: Leaf) -> str | None:
    constraints = extension(leaf.certificate, x509.BasicConstraints)
    if constraints is None:
        return "basicConstraints (2.5.29.19) is absent, SPDM 1.3 requires it" if leaf.version >= 0x13 else None
    return "basicConstraints (2.5.29.19) says cA TRUE, a leaf must say FALSE" if constraints.ca else None


def _roles(leaf: Leaf) -> tuple[set[x509.ObjectIdentifier], x509.ObjectIdentifier, x509.ObjectIdentifier]:
    usage = extension(leaf.certificate, x509.ExtendedKeyUsage)
    own, opposite = (EKU_REQUESTER, EKU_RESPONDER) if leaf.requester else (EKU_RESPONDER, EKU_REQUESTER)
    return set(usage or ()), own, opposite


def _opposite_role(leaf: Leaf) -> str | None:
    usages, own, opposite = _roles(leaf)
    if opposite not in usages or own in usages:
        return None
    names = f"{opposite.dotted_string}, not {own.dotted_string}"
    return f"extendedKeyUsage (2.5.29.37) names only the opposite role {names}"


def _own_role(leaf: Leaf) -> str | None:
    usages, own, _ = _roles(leaf)
    return None if own in usages else f"extendedKeyUsage (2.5.29.37) does not name the role {own.dotted_string}"


def _identity_of_alias(leaf: Leaf) -> str | None:
    listed = spdm_identifiers(leaf.certificate) or []
    if leaf.model is CertificateModel.ALIAS and HARDWARE_IDENTITY in listed:
        return f"SPDM extension {SPDM_EXTENSION.dotted_string} claims hardware identity in an alias certificate"
    return None


def _identity_of_device(leaf: Leaf) -> str | None:
    listed = spdm_identifiers(leaf.certificate) or []
    if leaf.model is not CertificateModel.DEVICE or leaf.requester or HARDWARE_IDENTITY in listed:
        return None
    return f"SPDM extension {SPDM_EXTENSION.dotted_string} lacks hardware identity {HARDWARE_IDENTITY.dotted_string}"


def _device_info(leaf: Leaf) -> str | None:
    return None if device_info(leaf.certificate) else f"subjectAltName has no device name {DEVICE_INFO.dotted_string}"


def _cma_name(leaf: Leaf) -> str | None:
    return None if pci_identity(leaf.certificate) else f"subjectAltName has no CMA name {CMA_NAME.dotted_string}"


def _tcb_info(leaf: Leaf) -> str | None:
    found = tcb_info(leaf.certificate)
    return f"DICE TcbInfo {TCB_INFO.dotted_string} carries no FWID" if found and not found.fwids else None


_LEAF = "DSP0274, leaf certificate requirements"
_CMA = "PCIe 6.1 section 6.31.3"

LEAF_CHECKS = (
    Check("version", _LEAF, Severity.ERROR, _version),
    Check("names", _LEAF, Severity.ERROR, _names),
    Check("key", _LEAF, Severity.ERROR, _key),
    Check("key-usage", _LEAF, Severity.ERROR, _key_usage),
    Check("key-usage-authority", "RFC 5280 section 4.2.1.3", Severity.ERROR, _key_usage_of_authority),
    Check("basic-constraints", _LEAF, Severity.ERROR, _basic_constraints),
    Check("opposite-role", "DSP0274, extended key usage", Severity.ERROR, _opposite_role),
    Check("own-role", "DSP0274, extended key usage", Severity.WARNING, _own_role),
    Check("alias-identity", "DSP0274, SPDM extension", Severity.ERROR, _identity_of_alias),
    Check("hardware-identity", "DSP0274, SPDM extension", Severity.WARNING, _identity_of_device),
    Check("device-info", "DSP0274, subjectAltName otherName", Severity.WARNING, _device_info),
    Check("cma-name", _CMA, Severity.WARNING, _cma_name),
    Check("tcb-info", "DICE Attestation Architecture section 6.1.1", Severity.WARNING, _tcb_info),
)
"""The leaf profile. A value that does not parse is an error in every row that reads it."""
