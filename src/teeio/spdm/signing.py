"""Signatures over transcripts, made and verified (DSP0274, "Signature generation")."""

from __future__ import annotations

from typing import Protocol

from teeio.crypto.algorithms import BaseHash
from teeio.crypto.keys import Asym, PublicKey, SigningKey, verify
from teeio.errors import AuthenticationFailed
from teeio.spdm.byte_order import ByteOrder, signature_order, swapped
from teeio.spdm.transcript import signing_message


class Negotiated(Protocol):
    """What of a connection enters its signatures."""

    @property
    def version(self) -> int:
        """The SPDM version."""

    @property
    def base_hash(self) -> BaseHash:
        """The base hash."""


def sign_transcript(
    key: SigningKey, negotiated: Negotiated, context: str, transcript: bytes, order: ByteOrder = ByteOrder.BIG
) -> bytes:
    """Sign a transcript; `order` counts in 1.0 and 1.1."""
    message = signing_message(negotiated.version, context, transcript, negotiated.base_hash)
    signature = key.sign(message, negotiated.base_hash, context)
    little = signature_order(negotiated.version, order) is ByteOrder.LITTLE
    return swapped(signature, key.algorithm) if little else signature


def verify_transcript(
    public: PublicKey,
    algorithm: Asym,
    negotiated: Negotiated,
    context: str,
    transcript: bytes,
    signature: bytes,
    order: ByteOrder = ByteOrder.BIG,
) -> None:
    """Verify a signature over a transcript; `order` counts in 1.0 and 1.1, where EITHER tries big-endian first.

    Raises `AuthenticationFailed`, or `Incompatible` for an algorithm that is not provided.
    """
    message = signing_message(negotiated.version, context, transcript, negotiated.base_hash)
    counts = signature_order(negotiated.version, order)
    if counts is not ByteOrder.LITTLE:
        try:
            verify(public, algorithm, message, signature, negotiated.base_hash, context)
        except AuthenticationFailed:
            if counts is ByteOrder.BIG:
                raise
        else:
            return
    verify(public, algorithm, message, swapped(signature, algorithm), negotiated.base_hash, context)
