"""Mutants that more than one story needs: attacks play them, the exploration must notice them."""

from __future__ import annotations

from teeio.crypto.aead import TAG_SIZE, AeadKey
from teeio.device.tdi import Tdi
from teeio.errors import Misuse
from teeio.pcie.ide_key import FIRST_INVOCATION, KeySlot, initialization_vector
from teeio.scenarios.scenario import without


def _standing_counter(self: KeySlot) -> tuple[AeadKey, bytes]:
    """Give the key with the first IV, again and again."""
    if self._key is None:
        raise Misuse("the slot holds no key")
    return self._key, initialization_vector(FIRST_INVOCATION)


def _unchecked_open(self: KeySlot, ciphertext: bytes, mac: bytes, associated: bytes) -> bytes:
    """Decrypt without looking at the MAC: in counter mode sealing the ciphertext gives the plaintext back."""
    key, iv = self._next()
    return key.seal(iv, ciphertext, b"")[:-TAG_SIZE] if ciphertext else b""


NO_MAC = without("the comparison of the MAC", KeySlot, "open", _unchecked_open)
NO_COUNTER = without("the invocation counter in the IV", KeySlot, "_next", _standing_counter)
NO_STATE_RULES = without("the device's rules on T bit and state", Tdi, "handles", lambda *_: True)
