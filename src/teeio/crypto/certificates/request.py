"""Certificate signing requests (PKCS#10, RFC 2986), and whether a chain that is to be installed holds together.

A request takes subject and extensions from the certificate that the key has now, so that an authority can confirm them. Nothing
here decides about trust: that is `validate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from teeio.crypto.algorithms import BaseHash
from teeio.crypto.certificates.chain import leaf_public_key, load_certificate
from teeio.crypto.certificates.extensions import SEQUENCE, der_header, extension
from teeio.crypto.keys import PublicKey, SigningKey, hash_algorithm, public_key_der
from teeio.errors import AuthenticationFailed, DecodeError

_OF_THE_ISSUER = (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier)
"""Extensions that the issuer puts in, so that a request does not ask for them."""


def certificate_request(key: SigningKey, certificate: bytes, base_hash: BaseHash) -> bytes:
    """Ask for a certificate for `key` with the subject and the extensions of the DER `certificate`; DER."""
    current = load_certificate(certificate)
    builder = x509.CertificateSigningRequestBuilder().subject_name(current.subject)
    for present in current.extensions:
        if not isinstance(present.value, _OF_THE_ISSUER):
            builder = builder.add_extension(present.value, critical=present.critical)
    return _signed(builder, key, base_hash)


def _signed(builder: Any, key: SigningKey, base_hash: BaseHash) -> bytes:
    hashed = isinstance(key.public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
    options = {"ecdsa_deterministic": True} if isinstance(key.public, ec.EllipticCurvePublicKey) else {}
    request = builder.sign(key.key, hash_algorithm(base_hash) if hashed else None, **options)
    return bytes(request.public_bytes(Encoding.DER))


def check_request(der: bytes) -> PublicKey:
    """Check that a request is signed by the key it names; give that key.

    Raises `DecodeError`, or `AuthenticationFailed` if the signature does not verify.
    """
    try:
        request = x509.load_der_x509_csr(der)
        valid = request.is_signature_valid
        public: Any = request.public_key()
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise DecodeError("CertificateSigningRequest", "(DER)", 0, str(error)) from None
    except UnsupportedAlgorithm as error:
        raise AuthenticationFailed(f"the signature of the certificate request cannot be checked: {error}") from None
    if not valid:
        raise AuthenticationFailed("the certificate request is not signed by the key it names")
    checked: PublicKey = public
    return checked


def check_integrity(certificates: Sequence[bytes]) -> None:
    """Check that each DER certificate is signed by the one before. Raises `AuthenticationFailed` or `DecodeError`.

    Says nothing about time, revocation or trust: a device that stores a chain has neither clock nor anchors.
    """
    loaded = [load_certificate(der) for der in certificates]
    for number, (issuer, subject) in enumerate(pairwise(loaded), 1):
        try:
            subject.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm) as error:
            reason = str(error) or "the signature does not verify"
            raise AuthenticationFailed(f"certificate {number} is not issued by the one before: {reason}") from None


def check_issuer(certificate: bytes, key: SigningKey, *, basic_constraints: bool) -> None:
    """Check that a DER certificate lets a device's key sign leaves below it; `basic_constraints` says that they are mandatory.

    Raises `AuthenticationFailed` or `DecodeError`.
    """
    loaded = load_certificate(certificate)
    if public_key_der(leaf_public_key(certificate)) != public_key_der(key.public):
        raise AuthenticationFailed("the device certificate certifies another key than the device's")
    constraints = extension(loaded, x509.BasicConstraints)
    if constraints is None and basic_constraints:
        raise AuthenticationFailed("the device certificate lacks basicConstraints, SPDM 1.3 requires it")
    if constraints is not None and not constraints.ca:
        raise AuthenticationFailed(
            "basicConstraints says cA FALSE: below it the device could sign no alias certificate"
        )
    usage = extension(loaded, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise AuthenticationFailed("keyUsage lacks keyCertSign: below it the device could sign no alias certificate")


def algorithm_identifier(public: PublicKey) -> bytes:
    """Give the AlgorithmIdentifier of a public key in DER, as its SubjectPublicKeyInfo has it (RFC 5280 section 4.1.2.7)."""
    whole = public_key_der(public)
    at = der_header(whole, 0).size
    inner = der_header(whole, at)
    return whole[at : at + inner.size + inner.length]


def is_sequence(data: bytes) -> bool:
    """Tell whether `data` is one DER SEQUENCE and nothing else."""
    try:
        header = der_header(data, 0)
    except DecodeError:
        return False
    return header.tag == SEQUENCE and header.size + header.length == len(data)
