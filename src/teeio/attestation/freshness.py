"""Nonces of the verifier: each is drawn once, used once, and good for a limited time.

A fixed nonce copied from an example makes old evidence look new; here no nonce counts that this registry did not draw
itself.
"""

from __future__ import annotations

from teeio.crypto.entropy import Entropy
from teeio.errors import Misuse

NONCE_SIZE = 32
"""Nonce of GET_MEASUREMENTS, in bytes (DSP0274)."""


class NonceRegistry:
    """Draws nonces and knows which are still good. `max_age` is in seconds; it remembers every nonce that it drew."""

    def __init__(self, entropy: Entropy, max_age: float = 300.0) -> None:
        self._entropy = entropy
        self._max_age = max_age
        self._drawn: dict[bytes, float] = {}
        self._used: set[bytes] = set()

    def issue(self, now: float) -> bytes:
        """Draw a nonce. Raises `Misuse` if the entropy source repeats itself."""
        nonce = self._entropy(NONCE_SIZE)
        if len(nonce) != NONCE_SIZE or nonce in self._drawn or len(set(nonce)) == 1:
            raise Misuse(
                f"the entropy source gave {nonce.hex()} for a nonce, which is constant, repeated or too short",
                remedy="give the registry a real source of randomness",
            )
        self._drawn[nonce] = now
        return nonce

    def redeem(self, nonce: bytes, now: float) -> str | None:
        """Use a nonce up; give None if it was good, else why it is not."""
        drawn = self._drawn.get(nonce)
        if drawn is None:
            return "was not drawn by this verifier"
        if nonce in self._used:
            return "was used before"
        self._used.add(nonce)
        if not 0 <= now - drawn <= self._max_age:
            return f"is {now - drawn:.0f} s old, at most {self._max_age:.0f} s are allowed"
        return None
