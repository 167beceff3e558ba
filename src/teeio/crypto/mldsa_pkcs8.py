"""ML-DSA private keys in PKCS#8 that hold both the seed and the expanded key (RFC 9881 section 6).

OpenSSL and the DMTF samples write keys so, and the library reads only those that are a seed alone. The seed determines the
key, so the expanded key beside it is not looked at. Left out: an expanded key alone, which has no seed.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import mldsa

MlDsaPrivateKey: TypeAlias = mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey

_FROM_SEED: Mapping[str, Callable[[bytes], MlDsaPrivateKey]] = {
    "2.16.840.1.101.3.4.3.17": mldsa.MLDSA44PrivateKey.from_seed_bytes,
    "2.16.840.1.101.3.4.3.18": mldsa.MLDSA65PrivateKey.from_seed_bytes,
    "2.16.840.1.101.3.4.3.19": mldsa.MLDSA87PrivateKey.from_seed_bytes,
}
"""By algorithm identifier (RFC 9881 section 2)."""

_PEM = re.compile(rb"-----BEGIN PRIVATE KEY-----([A-Za-z0-9+/=\s]*)-----END PRIVATE KEY-----")


@asn1.sequence
class _Algorithm:
    identifier: x509.ObjectIdentifier


@asn1.sequence
class _PrivateKeyInfo:
    version: int
    algorithm: _Algorithm
    private_key: bytes


@asn1.sequence
class _SeedAndExpandedKey:
    seed: bytes
    expanded_key: bytes


def load_with_expanded_key(pem: bytes) -> MlDsaPrivateKey | None:
    """Read a key of this form; None if `pem` is anything else."""
    found = _PEM.search(pem)
    if found is None:
        return None
    try:
        info = asn1.decode_der(_PrivateKeyInfo, base64.b64decode(found[1]))
        make = _FROM_SEED.get(info.algorithm.identifier.dotted_string)
        return None if make is None else make(asn1.decode_der(_SeedAndExpandedKey, info.private_key).seed)
    except ValueError:
        return None
