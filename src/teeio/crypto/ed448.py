"""Ed448 with a context string (RFC 8032 section 5.2): SPDM signs with one (DSP0274 1.2, "Signature generation").

Keys and certificates are those of the library that all else uses; it signs with the empty context only, so signing and
verifying are another library's.
"""

from __future__ import annotations

from Crypto.Signature import eddsa
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed448

_MODE = "rfc8032"


def sign(key: ed448.Ed448PrivateKey, message: bytes, context: bytes) -> bytes:
    """Sign; `context` has at most 255 bytes."""
    own = eddsa.import_private_key(key.private_bytes_raw())
    return bytes(eddsa.new(own, _MODE, context=context).sign(message))


def verify(public: ed448.Ed448PublicKey, message: bytes, signature: bytes, context: bytes) -> None:
    """Verify. Raises `InvalidSignature`, also for a key that is no point of the curve: a certificate may hold any bytes."""
    try:
        peers = eddsa.import_public_key(public.public_bytes_raw())
        eddsa.new(peers, _MODE, context=context).verify(message, signature)
    except ValueError:
        raise InvalidSignature from None
