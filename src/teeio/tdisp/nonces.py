"""What a series of START_INTERFACE_NONCEs says of the device that drew them (PCIe Base 11.3.9).

One nonce cannot be judged; several can: a nonce that comes twice, or bytes that never change, come from no random number
generator.
"""

from __future__ import annotations

from collections.abc import Sequence

ENOUGH = 8
"""Nonces that a judgement needs: that one of 32 bytes is the same in 8 random nonces has a chance of 2^-51."""


def finding(nonces: Sequence[bytes]) -> str | None:
    """Say what is wrong with the nonces of as many locks, or None; fewer than `ENOUGH` are judged for repetition only."""
    if len(set(nonces)) < len(nonces):
        return "a nonce came twice"
    constant = constant_positions(nonces) if len(nonces) >= ENOUGH else []
    return f"{len(constant)} nonce bytes constant over {len(nonces)} locks" if constant else None


def constant_positions(nonces: Sequence[bytes]) -> list[int]:
    """Give the positions whose byte is the same in all nonces."""
    return [at for at, values in enumerate(zip(*nonces, strict=True)) if len(set(values)) == 1]
