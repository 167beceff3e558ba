"""Private keys of the NIST curves from given randomness, so that a run can be repeated byte for byte."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec

from teeio.crypto.entropy import Entropy

CURVES: dict[int, Callable[[], ec.EllipticCurve]] = {32: ec.SECP256R1, 48: ec.SECP384R1, 66: ec.SECP521R1}
"""Curves by the size of a scalar in bytes."""

_ORDERS = {
    32: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    48: 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    66: ((1 << 265) - 6 << 256) + 0x51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409,
}


def private_key(scalar_size: int, entropy: Entropy) -> ec.EllipticCurvePrivateKey:
    """Draw a private key of the curve whose scalars have `scalar_size` bytes."""
    # 16 bytes more than the order, reduced: the bias is below 2^-128 (FIPS 186-5 A.2.1).
    order = _ORDERS[scalar_size]
    scalar = int.from_bytes(entropy(scalar_size + 16), "big") % (order - 1) + 1
    return ec.derive_private_key(scalar, CURVES[scalar_size]())
