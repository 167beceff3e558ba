"""Cheap damage to bytes: a mutated input costs a few microseconds and follows from the generator's state alone."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

INTERESTING = (0x00, 0x01, 0x02, 0x03, 0x04, 0x08, 0x10, 0x20, 0x40, 0x7F, 0x80, 0x81, 0xFE, 0xFF)
WIDE = (0, 1, 2, 3, 4, 7, 8, 0x2A, 0xFF, 0x100, 0x400, 0x1200, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x10000, 0x28000)
WIDE += (0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
MAX_SIZE = 1 << 14
MAX_CHANGES = 4


class Mutator:
    """Draws damaged forms of `seeds`; the early bytes, where headers are, are hit more often than the rest.

    The first `kept` bytes of a seed stay as they are: they say what the input is for.
    """

    def __init__(self, random: Random, seeds: Sequence[bytes], kept: int = 0) -> None:
        self.random = random
        self.seeds = list(seeds) or [b""]
        self.kept = kept
        self._changes = (
            self._byte,
            self._byte,
            self._bit,
            self._number,
            self._cut,
            self._insert,
            self._repeat,
            self._join,
        )

    def draw(self) -> bytes:
        """Give the next input."""
        seed = self.seeds[int(self.random.random() * len(self.seeds))]
        return seed[: self.kept] + self.damage(seed[self.kept :])

    def damage(self, seed: bytes) -> bytes:
        """Give a damaged form of `seed`; now and then it stays whole, or is noise."""
        fate = self.random.random()
        if fate < 0.08:
            return seed
        if fate < 0.1:
            return self.random.randbytes(int(self.random.random() * 64))
        data = bytearray(seed)
        for _ in range(1 + int(self.random.random() ** 2 * MAX_CHANGES)):
            self._changes[int(self.random.random() * len(self._changes))](data)
        return bytes(data[:MAX_SIZE])

    def _at(self, size: int) -> int:
        draw = self.random.random()
        return int(self.random.random() * min(size, 16)) if draw < 0.5 else int(draw * 2 % 1 * size)

    def _byte(self, data: bytearray) -> None:
        if data:
            draw = self.random.random()
            value = int(draw * 512)
            data[self._at(len(data))] = value if value < 256 else INTERESTING[value % len(INTERESTING)]

    def _bit(self, data: bytearray) -> None:
        if data:
            data[self._at(len(data))] ^= 1 << int(self.random.random() * 8)

    def _number(self, data: bytearray) -> None:
        size = 2 if self.random.random() < 0.7 else 4
        if len(data) >= size:
            at = self._at(len(data) - size + 1)
            value = WIDE[int(self.random.random() * len(WIDE))]
            if self.random.random() < 0.3:
                value = int.from_bytes(data[at : at + size], "little") + int(self.random.random() * 9) - 4
            order = "little" if self.random.random() < 0.8 else "big"
            data[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, order)  # type: ignore[arg-type]

    def _cut(self, data: bytearray) -> None:
        if self.random.random() < 0.5:
            del data[self._at(len(data) + 1) :]
        else:
            at = self._at(len(data) + 1)
            del data[at : at + 1 + int(self.random.random() * 8)]

    def _insert(self, data: bytearray) -> None:
        at = self._at(len(data) + 1)
        data[at:at] = self.random.randbytes(1 + int(self.random.random() * 8))

    def _repeat(self, data: bytearray) -> None:
        at = self._at(len(data) + 1)
        data[at:at] = data[at : at + 1 + int(self.random.random() * 64)]

    def _join(self, data: bytearray) -> None:
        other = self.seeds[int(self.random.random() * len(self.seeds))]
        data[self._at(len(data) + 1) :] = other[self.kept :][self._at(len(other) + 1) :]
