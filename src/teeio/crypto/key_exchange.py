"""Key exchange: ephemeral Diffie-Hellman over curves and finite fields, and key encapsulation (DSP0274, AlgType 2 and 7).

All groups present the same face: one side offers its ExchangeData, the other answers with its own and both have the secret. The
finite-field groups are those of RFC 7919, computed here from their definition.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, mlkem

from teeio.crypto.algorithms import Dhe, Kem
from teeio.crypto.entropy import Entropy
from teeio.crypto.scalars import CURVES, private_key
from teeio.errors import AuthenticationFailed, Incompatible

_CURVE_OF = {Dhe.SECP256R1: 32, Dhe.SECP384R1: 48, Dhe.SECP521R1: 66}
_FIELD_OF = {Dhe.FFDHE_2048: (2048, 560316), Dhe.FFDHE_3072: (3072, 2625351), Dhe.FFDHE_4096: (4096, 5736041)}
_FFDHE_EXPONENT_SIZE = 56
"""Bytes of a private exponent: twice the strength of the largest group, with room (RFC 7919 section 5.2)."""

_KEM_KEYS: dict[Kem, Any] = {Kem.ML_KEM_768: mlkem.MLKEM768PrivateKey, Kem.ML_KEM_1024: mlkem.MLKEM1024PrivateKey}
_KEM_PUBLIC: dict[Kem, Any] = {Kem.ML_KEM_768: mlkem.MLKEM768PublicKey, Kem.ML_KEM_1024: mlkem.MLKEM1024PublicKey}

DHE_IMPLEMENTED = Dhe(sum(_CURVE_OF) + sum(_FIELD_OF))
"""Groups that `exchange_for` makes."""

KEM_IMPLEMENTED = Kem(sum(_KEM_KEYS))
"""KEMs that `exchange_for` and `encapsulate` know; no well-kept library at hand has ML-KEM-512."""


class KeyExchange(ABC):
    """One side's ephemeral key for one session."""

    @property
    @abstractmethod
    def exchange_data(self) -> bytes:
        """What this side sends: X||Y, a padded integer, or an encapsulation key; big-endian, fixed width."""

    @abstractmethod
    def agree(self, peer_exchange_data: bytes) -> bytes:
        """Give the shared secret. Raises `AuthenticationFailed` if the peer's data is no element of the group."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"


class CurveExchange(KeyExchange):
    """ECDH; the secret is the X coordinate, padded to the field size."""

    def __init__(self, group: Dhe, entropy: Entropy) -> None:
        self._group = group
        self._key = private_key(_CURVE_OF[group], entropy)

    @property
    def exchange_data(self) -> bytes:
        """X||Y."""
        point = self._key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        return point[1:]

    def agree(self, peer_exchange_data: bytes) -> bytes:
        """Give X of the shared point."""
        try:
            curve = CURVES[_CURVE_OF[self._group]]()
            peer = ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + peer_exchange_data)
            return self._key.exchange(ec.ECDH(), peer)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise AuthenticationFailed(f"the peer's ExchangeData is no point of {self._group.name}: {error}") from None


@cache
def ffdhe_prime(group: Dhe) -> int:
    """Give the safe prime of a group: 2^b - 2^(b-64) + (floor(2^(b-130) e) + X) 2^64 - 1 (RFC 7919, appendix A)."""
    size, offset = _FIELD_OF[group]
    scale = size + 64
    term = euler = 1 << scale
    count = 1
    while term:
        term //= count
        euler += term
        count += 1
    floor = euler >> scale - (size - 130)
    return (1 << size) - (1 << size - 64) + (floor + offset << 64) - 1


class FieldExchange(KeyExchange):
    """Finite-field Diffie-Hellman with generator 2; the secret is padded to the group size."""

    def __init__(self, group: Dhe, entropy: Entropy) -> None:
        self._group = group
        self._exponent = int.from_bytes(entropy(_FFDHE_EXPONENT_SIZE), "big") | 1 << 8 * _FFDHE_EXPONENT_SIZE - 1
        self._public = pow(2, self._exponent, ffdhe_prime(group))

    @property
    def exchange_data(self) -> bytes:
        """The public value."""
        return self._public.to_bytes(self._group.exchange_size, "big")

    def agree(self, peer_exchange_data: bytes) -> bytes:
        """Give the shared value; 0, 1 and p-1 are refused (RFC 7919 section 5.1)."""
        prime = ffdhe_prime(self._group)
        peer = int.from_bytes(peer_exchange_data, "big")
        if not 1 < peer < prime - 1:
            raise AuthenticationFailed(f"the peer's ExchangeData is no element of {self._group.name}")
        return pow(peer, self._exponent, prime).to_bytes(self._group.exchange_size, "big")


class KemExchange(KeyExchange):
    """The requester's side of ML-KEM: offers an encapsulation key and opens the responder's ciphertext (FIPS 203)."""

    def __init__(self, kem: Kem, entropy: Entropy) -> None:
        self._kem = kem
        self._key = _KEM_KEYS[kem].from_seed_bytes(entropy(64))

    @property
    def exchange_data(self) -> bytes:
        """The encapsulation key."""
        return bytes(self._key.public_key().public_bytes_raw())

    def agree(self, peer_exchange_data: bytes) -> bytes:
        """Open the ciphertext; a wrong one gives a secret that nobody else has."""
        try:
            return bytes(self._key.decapsulate(peer_exchange_data))
        except ValueError as error:
            raise AuthenticationFailed(f"the peer's ciphertext is not of {self._kem.name}: {error}") from None


def exchange_for(group: Dhe | Kem, entropy: Entropy) -> KeyExchange:
    """Make an ephemeral key. Raises `Incompatible` for a group without an implementation."""
    if isinstance(group, Kem) and group in _KEM_KEYS:
        return KemExchange(group, entropy)
    if isinstance(group, Dhe) and group in _CURVE_OF:
        return CurveExchange(group, entropy)
    if isinstance(group, Dhe) and group in _FIELD_OF:
        return FieldExchange(group, entropy)
    raise Incompatible(f"no implementation of {group!r}", remedy="negotiate another group")


def encapsulate(kem: Kem, encapsulation_key: bytes) -> tuple[bytes, bytes]:
    """Give the shared secret and the ciphertext: the responder's side. Raises `AuthenticationFailed` on a bad key.

    The randomness is the library's own: encapsulation cannot be made to repeat.
    """
    try:
        secret, ciphertext = _KEM_PUBLIC[kem].from_public_bytes(encapsulation_key).encapsulate()
    except ValueError as error:
        raise AuthenticationFailed(f"the peer's encapsulation key is not of {kem.name}: {error}") from None
    return bytes(secret), bytes(ciphertext)
