"""The nonce registry: drawn once, used once, for a limited time."""

from __future__ import annotations

import pytest

from teeio.attestation import NonceRegistry
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import Misuse


def test_a_nonce_is_good_once() -> None:
    registry = NonceRegistry(SeededEntropy(b"x"))
    nonce = registry.issue(100.0)
    assert len(nonce) == 32
    assert registry.redeem(nonce, 101.0) is None
    assert registry.redeem(nonce, 101.0) == "was used before"


@pytest.mark.parametrize(("now", "good"), [(100.0, True), (160.0, True), (160.5, False), (99.0, False)])
def test_a_nonce_is_good_for_a_limited_time(now: float, good: bool) -> None:
    registry = NonceRegistry(SeededEntropy(b"x"), max_age=60.0)
    problem = registry.redeem(registry.issue(100.0), now)
    assert (problem is None) is good


def test_a_late_nonce_is_used_up_all_the_same() -> None:
    registry = NonceRegistry(SeededEntropy(b"x"), max_age=60.0)
    nonce = registry.issue(0.0)
    assert registry.redeem(nonce, 1000.0)
    assert registry.redeem(nonce, 1.0) == "was used before"


def test_a_nonce_of_somebody_else_is_refused() -> None:
    assert NonceRegistry(SeededEntropy(b"x")).redeem(bytes(range(32)), 0.0) == "was not drawn by this verifier"


@pytest.mark.parametrize("drawn", [bytes(32), b"\xff" * 32, b"short"])
def test_a_source_without_randomness_is_refused(drawn: bytes) -> None:
    with pytest.raises(Misuse, match="constant, repeated or too short"):
        NonceRegistry(lambda size: drawn).issue(0.0)


def test_a_source_that_repeats_itself_is_refused() -> None:
    registry = NonceRegistry(lambda size: bytes(range(size)))
    registry.issue(0.0)
    with pytest.raises(Misuse):
        registry.issue(1.0)
