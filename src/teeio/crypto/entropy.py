"""Sources of randomness: always an argument, so that a run can be repeated byte for byte."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import TypeAlias

Entropy: TypeAlias = Callable[[int], bytes]
"""Gives so many random bytes."""


def system_entropy(size: int) -> bytes:
    """Give `size` bytes of the operating system's randomness."""
    return os.urandom(size)


class SeededEntropy:
    """A reproducible byte stream: SHAKE-256 over the seed and a counter. For simulation and tests, never for real secrets."""

    def __init__(self, seed: bytes) -> None:
        self._seed = hashlib.sha256(seed).digest()
        self._drawn = 0

    def __call__(self, size: int) -> bytes:
        """Give the next `size` bytes."""
        self._drawn += 1
        return hashlib.shake_256(self._seed + self._drawn.to_bytes(8, "little")).digest(size)

    def fork(self, name: str) -> SeededEntropy:
        """Give an independent stream for one actor, so that one actor's draws do not shift another's."""
        return SeededEntropy(self._seed + name.encode())
