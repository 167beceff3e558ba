"""Signing keys, verification keys and key exchange, by the algorithm rows of `algorithms`.

ECDSA signatures are the fixed-width big-endian r||s that SPDM carries; signing is deterministic (RFC 6979), so that a run can be
repeated byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from teeio.crypto.algorithms import BaseAsym, BaseHash, Dhe
from teeio.crypto.entropy import Entropy
from teeio.errors import AuthenticationFailed, Incompatible, Misuse

PublicKey: TypeAlias = ec.EllipticCurvePublicKey

_CURVES: dict[int, Callable[[], ec.EllipticCurve]] = {32: ec.SECP256R1, 48: ec.SECP384R1, 66: ec.SECP521R1}
_SIGNING_SCALAR = {BaseAsym.ECDSA_P256: 32, BaseAsym.ECDSA_P384: 48, BaseAsym.ECDSA_P521: 66}
_EXCHANGE_SCALAR = {Dhe.SECP256R1: 32, Dhe.SECP384R1: 48, Dhe.SECP521R1: 66}
_HASHES: dict[BaseHash, Callable[[], hashes.HashAlgorithm]] = {
    BaseHash.SHA_256: hashes.SHA256,
    BaseHash.SHA_384: hashes.SHA384,
    BaseHash.SHA_512: hashes.SHA512,
    BaseHash.SHA3_256: hashes.SHA3_256,
    BaseHash.SHA3_384: hashes.SHA3_384,
    BaseHash.SHA3_512: hashes.SHA3_512,
}
_ORDERS = {
    32: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    48: 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    66: 0x01FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFA51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409,
}

SIGNING_ALGORITHMS = BaseAsym(sum(_SIGNING_SCALAR))
"""What `sign` and `verify` implement."""

EXCHANGE_ALGORITHMS = Dhe(sum(_EXCHANGE_SCALAR))
"""What `KeyExchange` implements."""


def hash_algorithm(algorithm: BaseHash) -> hashes.HashAlgorithm:
    """Give the library's hash object."""
    return _HASHES[algorithm]()


def _private_key(scalar_size: int, entropy: Entropy) -> ec.EllipticCurvePrivateKey:
    # 16 bytes more than the order, reduced: the bias is below 2^-128 (FIPS 186-5 A.2.1).
    order = _ORDERS[scalar_size]
    scalar = int.from_bytes(entropy(scalar_size + 16), "big") % (order - 1) + 1
    return ec.derive_private_key(scalar, _CURVES[scalar_size]())


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private signing key with the algorithm it signs by."""

    algorithm: BaseAsym
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def generate(cls, algorithm: BaseAsym, entropy: Entropy) -> SigningKey:
        """Make a key from `entropy`. Raises `Incompatible` for an algorithm without an implementation."""
        if algorithm not in _SIGNING_SCALAR:
            raise Incompatible(f"no implementation of {algorithm!r}", remedy="use ECDSA_P256, ECDSA_P384 or ECDSA_P521")
        return cls(algorithm, _private_key(_SIGNING_SCALAR[algorithm], entropy))

    @property
    def public(self) -> PublicKey:
        """The verification key."""
        return self.key.public_key()

    def sign(self, message: bytes, base_hash: BaseHash) -> bytes:
        """Hash `message` and sign the hash; fixed-width r||s, big-endian."""
        signature = self.key.sign(message, ec.ECDSA(hash_algorithm(base_hash), deterministic_signing=True))
        width = self.algorithm.signature_size // 2
        return b"".join(part.to_bytes(width, "big") for part in decode_dss_signature(signature))

    def __repr__(self) -> str:
        return f"SigningKey({self.algorithm.name}, ***)"


def verify(public: PublicKey, algorithm: BaseAsym, message: bytes, signature: bytes, base_hash: BaseHash) -> None:
    """Verify a fixed-width r||s signature. Raises `AuthenticationFailed`."""
    width = algorithm.signature_size // 2
    if algorithm not in _SIGNING_SCALAR:
        raise Incompatible(f"no implementation of {algorithm!r}", remedy="negotiate an ECDSA algorithm")
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != _CURVES[_SIGNING_SCALAR[algorithm]]().name:
        raise AuthenticationFailed(f"the certificate's key is not of the negotiated algorithm {algorithm.name}")
    if len(signature) != 2 * width:
        raise AuthenticationFailed(f"signature has {len(signature)} bytes, {algorithm.name} needs {2 * width}")
    r, s = (int.from_bytes(signature[at : at + width], "big") for at in (0, width))
    try:
        public.verify(encode_dss_signature(r, s), message, ec.ECDSA(hash_algorithm(base_hash)))
    except InvalidSignature:
        raise AuthenticationFailed(f"{algorithm.name} signature does not verify") from None


def public_key_der(public: PublicKey) -> bytes:
    """Give SubjectPublicKeyInfo in DER (RFC 7250)."""
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


class KeyExchange:
    """One side's ephemeral Diffie-Hellman key for one session."""

    __slots__ = ("_group", "_key")

    def __init__(self, group: Dhe, entropy: Entropy) -> None:
        if group not in _EXCHANGE_SCALAR:
            raise Incompatible(f"no implementation of {group!r}", remedy="negotiate a secp group")
        self._group = group
        self._key = _private_key(_EXCHANGE_SCALAR[group], entropy)

    @property
    def exchange_data(self) -> bytes:
        """ExchangeData: X||Y, big-endian, fixed width."""
        point = self._key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        return point[1:]

    def agree(self, peer_exchange_data: bytes) -> bytes:
        """Give the shared secret: the X coordinate, padded to the field size. Raises `AuthenticationFailed` on a bad point."""
        try:
            peer = ec.EllipticCurvePublicKey.from_encoded_point(self._key.curve, b"\x04" + peer_exchange_data)
            return self._key.exchange(ec.ECDH(), peer)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise AuthenticationFailed(f"the peer's ExchangeData is not a point of {self._group.name}: {error}") from None

    def __repr__(self) -> str:
        return f"KeyExchange({self._group.name}, ***)"


def signing_key_from_pem(pem: bytes, algorithm: BaseAsym) -> SigningKey:
    """Read an unencrypted PEM private key. Raises `Misuse` if it is not of `algorithm`."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Misuse(f"not a usable PEM private key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or algorithm not in _SIGNING_SCALAR:
        raise Misuse(f"the private key is not of {algorithm!r}")
    return SigningKey(algorithm, key)
