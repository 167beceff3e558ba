"""The AEAD suites of DSP0274 (ALGORITHMS, AlgType 3), keyed once and used many times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from teeio.crypto.algorithms import Aead
from teeio.errors import AuthenticationFailed, Incompatible

TAG_SIZE = 16
NONCE_SIZE = 12


Seal: TypeAlias = Callable[[bytes, bytes, bytes | None], bytes]
"""What encrypts: of nonce, plaintext and associated data (or None) it makes ciphertext and tag."""


class Cipher(Protocol):
    """A keyed AEAD: `encrypt` gives ciphertext and tag, `decrypt` takes both together."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Give ciphertext and tag."""

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Give the plaintext."""


_CIPHERS: dict[Aead, Callable[[bytes], Cipher]] = {
    Aead.AES_128_GCM: AESGCM,
    Aead.AES_256_GCM: AESGCM,
    Aead.CHACHA20_POLY1305: ChaCha20Poly1305,
}


AEAD_IMPLEMENTED = Aead(sum(_CIPHERS))


class AeadKey:
    """One AEAD key. Nonces are the caller's business; using one twice breaks everything.

    `seal(nonce, plaintext, associated)` encrypts and gives ciphertext and the 16-byte tag. It is the cipher's own function,
    as it serves every IDE TLP; `associated` may be None.
    """

    __slots__ = ("_cipher", "seal")

    def __init__(self, suite: Aead, key: bytes) -> None:
        make = _CIPHERS.get(suite)
        if make is None:
            raise Incompatible(f"no implementation of {suite.name}", remedy="negotiate AES-GCM or ChaCha20-Poly1305")
        self._cipher = make(key)
        self.seal: Final[Seal] = self._cipher.encrypt

    def open(self, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        """Decrypt ciphertext and tag. Raises `AuthenticationFailed`."""
        try:
            return self._cipher.decrypt(nonce, sealed, associated)
        except InvalidTag:
            raise AuthenticationFailed("AEAD tag does not verify") from None
        except ValueError as error:
            raise AuthenticationFailed(f"AEAD record is malformed: {error}") from None

    def __repr__(self) -> str:
        return "AeadKey(***)"
