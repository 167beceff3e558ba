"""HKDF and HMAC over the negotiated base hash (RFC 5869, DSP0274 key schedule)."""

from __future__ import annotations

import hmac

from teeio.crypto.algorithms import BaseHash


def digest(algorithm: BaseHash, data: bytes) -> bytes:
    """Hash `data`."""
    return bytes(algorithm.new(data).digest())


def mac(algorithm: BaseHash, key: bytes, data: bytes) -> bytes:
    """Give HMAC(key, data)."""
    return hmac.digest(key, data, algorithm.hashlib_name)


def extract(algorithm: BaseHash, salt: bytes, secret: bytes) -> bytes:
    """HKDF-Extract (RFC 5869 section 2.2)."""
    return mac(algorithm, salt, secret)


def expand(algorithm: BaseHash, key: bytes, info: bytes, size: int) -> bytes:
    """HKDF-Expand (RFC 5869 section 2.3) to `size` bytes."""
    output = block = b""
    counter = 1
    while len(output) < size:
        block = mac(algorithm, key, block + info + bytes([counter]))
        output += block
        counter += 1
    return output[:size]


def equal(left: bytes, right: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(left, right)
