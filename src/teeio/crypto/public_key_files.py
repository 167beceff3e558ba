"""Public keys as files, for sides that know each other by their keys (PUB_KEY_ID): PEM, one or several, or DER.

What is read is a SubjectPublicKeyInfo (RFC 7250), or a certificate of which only the key counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from teeio.crypto.certificates.chain import leaf_public_key, load_anchor
from teeio.crypto.keys import PublicKey
from teeio.errors import DecodeError

_PEM_KEY = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


def public_keys_pem(keys: Iterable[PublicKey]) -> bytes:
    """Give public keys one after the other in PEM."""
    return b"".join(bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)) for key in keys)


def load_public_keys(data: bytes, where: str) -> tuple[PublicKey, ...]:
    """Read the public keys of a file. Raises `DecodeError` naming `where`."""
    try:
        found = [load_pem_public_key(part) for part in _PEM_KEY.findall(data)]
        if found:
            return tuple(found)  # type: ignore[arg-type]
        if b"-----BEGIN CERTIFICATE" in data:
            return (leaf_public_key(load_anchor(data, where)),)
        return (load_der_public_key(data),)  # type: ignore[return-value]
    except (ValueError, UnsupportedAlgorithm, DecodeError):
        remedy = "give a public key in PEM or DER, as teeio device --public-key writes it, or a certificate in PEM"
        raise DecodeError(
            "PublicKey", where, 0, "the file holds no public key of a kind known here", remedy=remedy
        ) from None
