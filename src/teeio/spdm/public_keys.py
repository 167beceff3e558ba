"""Provisioned public keys in place of certificate chains (DSP0274, PUB_KEY_ID_CAP; 1.1 and later).

A side that has PUB_KEY_ID has no chain to read: its peer was given its public key beforehand. Slot 0xFF names the key, in fields of
four bits 0xF; where a hash of a chain would stand is the hash of the key's SubjectPublicKeyInfo in DER (RFC 7250).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from teeio.crypto.algorithms import BaseHash
from teeio.crypto.certificates.leaf import algorithms_of
from teeio.crypto.kdf import digest
from teeio.crypto.keys import Asym, PublicKey, public_key_der
from teeio.spdm.constants import PUBLIC_KEY_SLOT

if TYPE_CHECKING:
    from teeio.spdm.state import Settings

_FOUR_BITS = 0xF


def in_four_bits(slot: int) -> int:
    """Give a slot as fields of four bits carry it: the public key's is 0xF."""
    return slot & _FOUR_BITS


def from_four_bits(value: int) -> int:
    """Give the slot that a field of four bits names."""
    return PUBLIC_KEY_SLOT if value & _FOUR_BITS == _FOUR_BITS else value & _FOUR_BITS


def key_hash(base_hash: BaseHash, public: PublicKey) -> bytes:
    """Give what stands for a public key in transcripts and in CertChainHash."""
    return digest(base_hash, public_key_der(public))


def key_of(keys: Iterable[PublicKey], algorithm: Asym) -> PublicKey | None:
    """Give the provisioned key that serves a signature algorithm, or None."""
    return next((key for key in keys if _serves(key, algorithm)), None)


def _serves(key: PublicKey, algorithm: Asym) -> bool:
    # Flags of different kinds are equal as integers, so the kind is compared too.
    served = algorithms_of(key)
    return type(served) is type(algorithm) and bool(served & algorithm)


def offering(settings: Settings, keys: Sequence[PublicKey]) -> Settings:
    """Offer only signature algorithms that the peer's provisioned keys serve."""
    return replace(
        settings,
        base_asym=tuple(one for one in settings.base_asym if key_of(keys, one)),
        pqc_asym=tuple(one for one in settings.pqc_asym if key_of(keys, one)),
    )
