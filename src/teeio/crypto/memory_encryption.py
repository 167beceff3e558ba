"""Memory encryption as a multi-key memory controller does it: AES-128-XTS, one key for each owner (IEEE 1619).

The tweak is the physical address of the data unit, so that equal pages at different addresses have different
ciphertexts. Left out: the integrity tag that real controllers keep beside the data; who models memory models that.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS

from teeio.crypto.entropy import Entropy

KEY_SIZE = 32
"""Bytes of an AES-128-XTS key: two AES-128 keys."""


class MemoryKey:
    """One owner's memory key, drawn from `entropy`."""

    __slots__ = ("_algorithm",)

    def __init__(self, entropy: Entropy) -> None:
        key = entropy(KEY_SIZE)
        while key[:16] == key[16:]:  # IEEE 1619 and the library forbid equal halves
            key = entropy(KEY_SIZE)
        self._algorithm = AES(key)

    def encrypt(self, address: int, plaintext: bytes) -> bytes:
        """Encrypt the data unit (16 bytes or more) that starts at the physical `address`."""
        return self._cipher(address).encryptor().update(plaintext)

    def decrypt(self, address: int, ciphertext: bytes) -> bytes:
        """Decrypt the data unit that starts at the physical `address`."""
        return self._cipher(address).decryptor().update(ciphertext)

    def _cipher(self, address: int) -> Cipher[XTS]:
        return Cipher(self._algorithm, XTS(address.to_bytes(16, "little")))

    def __repr__(self) -> str:
        return "MemoryKey(***)"
