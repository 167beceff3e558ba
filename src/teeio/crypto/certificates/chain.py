"""The SPDM certificate chain structure: what GET_CERTIFICATE carries and DIGESTS digests.

Follows DSP0274 (certificate chain format). Splits and joins; nothing here is trusted before `validate` has said so.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, cast, get_args

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from teeio.crypto.algorithms import BaseHash
from teeio.crypto.certificates.extensions import SEQUENCE, der_header
from teeio.crypto.kdf import digest
from teeio.crypto.keys import PublicKey
from teeio.errors import AuthenticationFailed, DecodeError
from teeio.wire import REST, Record, blob, record, total_length

MAX_CERTIFICATES = 64
"""More certificates than fit into 64 KiB in practice; bounds the work that a peer can ask for."""

KEPT = 256
"""Certificates, revocation lists and signatures that are remembered, of each."""


class ChainFacts(NamedTuple):
    """What the layout of the chain structure depends on: the size of the negotiated base hash."""

    hash_size: int
    version: int = 0


@record
class CertificateChain(Record):
    """Certificate chain structure.

    Length is a u32 in 1.4 and a u16 before a reserved u16 up to 1.3; one u32 reads both, since reserved bytes are zero.
    """

    length: None = total_length(4)
    root_hash: bytes = blob("hash_size", "Base hash of the root certificate")
    certificates: bytes = blob(REST, "DER certificates, each signed by the one before")


def chain_structure(root: bytes, below: Sequence[bytes], base_hash: BaseHash, *, include_root: bool = True) -> bytes:
    """Make the structure of the DER `root` and the certificates `below` it, in order down to the leaf."""
    certificates = b"".join([root, *below] if include_root else below)
    chain = CertificateChain(root_hash=digest(base_hash, root), certificates=certificates)
    return chain.encode(ChainFacts(base_hash.size))


def parse_chain(data: bytes, base_hash: BaseHash) -> tuple[bytes, list[bytes]]:
    """Give the root hash and the DER certificates, leaf last; checks no signature. Raises `DecodeError`."""
    chain = CertificateChain.decode(data, ChainFacts(base_hash.size))
    certificates = split_certificates(chain.certificates)
    if not certificates:
        raise _malformed(0, "there is no certificate")
    return chain.root_hash, certificates


def split_certificates(data: bytes) -> list[bytes]:
    """Split concatenated DER certificates, at most `MAX_CERTIFICATES`. Raises `DecodeError`."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        header = der_header(data, at)
        end = at + header.size + header.length
        if header.tag != SEQUENCE:
            raise _malformed(at, f"tag {header.tag:#04x} does not begin a certificate")
        if end > len(data):
            raise _malformed(at, f"certificate of {end - at} bytes, {len(data) - at} are left")
        if len(found) == MAX_CERTIFICATES:
            raise _malformed(at, f"more than {MAX_CERTIFICATES} certificates")
        found.append(data[at:end])
        at = end
    return found


def _malformed(offset: int, reason: str) -> DecodeError:
    return DecodeError("CertificateChain", "certificates", offset, reason)


@lru_cache(maxsize=KEPT)
def load_certificate(der: bytes) -> x509.Certificate:
    """Parse one certificate; those of late are remembered, since each is looked at many times. Raises `DecodeError`."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        for name in _FIELDS:
            getattr(certificate, name)
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise DecodeError("Certificate", "(DER)", 0, str(error)) from None
    return certificate


_FIELDS = ("version", "serial_number", "issuer", "subject", "not_valid_before_utc", "not_valid_after_utc")
"""Fields that the library parses when they are first read: read at once, so that the error comes from one place."""


def leaf_public_key(der: bytes) -> PublicKey:
    """Give the verification key of a DER certificate.

    Raises `DecodeError`, or `AuthenticationFailed` for a kind of key that is not implemented.
    """
    try:
        key = load_certificate(der).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise AuthenticationFailed(f"the certificate's public key cannot be used: {error}") from None
    if not isinstance(key, get_args(PublicKey)):
        raise AuthenticationFailed(
            f"the certificate's public key is a {type(key).__name__}, which no implemented algorithm uses",
            remedy="negotiate an algorithm that is implemented",
        )
    return cast(PublicKey, key)


def certificate_pem(der: bytes) -> str:
    """Give a DER certificate as PEM."""
    return load_certificate(der).public_bytes(Encoding.PEM).decode()


def load_anchor(data: bytes, where: str) -> bytes:
    """Give the one certificate of a file, DER or PEM, as DER. Raises `DecodeError` naming `where`."""
    try:
        if b"-----BEGIN" in data:
            return x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)
        load_certificate(data)
    except (ValueError, DecodeError) as error:
        raise DecodeError("Certificate", where, 0, str(error), remedy="give one certificate in DER or PEM") from None
    return data
