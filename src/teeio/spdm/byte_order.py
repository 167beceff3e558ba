"""Byte orders that early versions leave open, as switches of a side that knows its peer.

SPDM 1.0 and 1.1 do not say how RSA and ECDSA signatures lie in their field; DSP2058 advises to try big-endian, then little-endian.
Secured messages 1.0 and 1.1 (DSP0277) do not say how the sequence number enters the nonce. From 1.2 on both are fixed and
the switches count no more.
"""

from __future__ import annotations

from enum import Enum

from teeio.crypto.algorithms import BaseAsym
from teeio.crypto.keys import Asym
from teeio.spdm.constants import Version

SECURED_1_2 = 0x1200
"""The version of secured messages that fixes the nonce: little-endian."""


class ByteOrder(Enum):
    """How a number lies in its field; EITHER takes both of the peer and sends what is usual until the peer has shown its own."""

    BIG = "big"
    LITTLE = "little"
    EITHER = "either"


_RSA = (
    BaseAsym.RSASSA_2048
    | BaseAsym.RSAPSS_2048
    | BaseAsym.RSASSA_3072
    | BaseAsym.RSAPSS_3072
    | BaseAsym.RSASSA_4096
    | BaseAsym.RSAPSS_4096
)
_ECDSA = BaseAsym.ECDSA_P256 | BaseAsym.ECDSA_P384 | BaseAsym.ECDSA_P521


def signature_order(version: int, order: ByteOrder) -> ByteOrder:
    """Give the order that counts in an SPDM version: big-endian from 1.2 on."""
    return order if version < Version.V1_2 else ByteOrder.BIG


def nonce_order(secured_version: int, order: ByteOrder) -> ByteOrder:
    """Give the order that counts in a version of secured messages, as it travels: little-endian from 1.2 on."""
    return order if secured_version < SECURED_1_2 else ByteOrder.LITTLE


def swapped(signature: bytes, algorithm: Asym) -> bytes:
    """Give a signature in the other byte order: an RSA signature is one number, an ECDSA signature two, others have one order only."""
    if not isinstance(algorithm, BaseAsym) or not algorithm & (_RSA | _ECDSA):
        return signature
    if algorithm & _RSA:
        return signature[::-1]
    half = len(signature) // 2
    return signature[:half][::-1] + signature[half:][::-1]
