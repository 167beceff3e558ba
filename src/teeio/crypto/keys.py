"""Signing and verification keys: one scheme for each signature algorithm of DSP0274 that a well-kept library has.

ECDSA signatures are the fixed-width big-endian r||s that SPDM carries, RSA ones big-endian; both as DSP0274 writes them. ECDSA and
EdDSA signing is deterministic and keys come from the given randomness, so that a run can be repeated byte for byte; RSA keys
and PSS salts, and ML-DSA signatures, draw on the library's own randomness.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from teeio.crypto.algorithms import BaseAsym, BaseHash, PqcAsym
from teeio.crypto.ed448 import sign as sign_ed448
from teeio.crypto.ed448 import verify as verify_ed448
from teeio.crypto.entropy import Entropy
from teeio.crypto.mldsa_pkcs8 import load_with_expanded_key
from teeio.crypto.scalars import CURVES, private_key
from teeio.errors import AuthenticationFailed, Incompatible, Misuse

PublicKey: TypeAlias = (
    ec.EllipticCurvePublicKey
    | rsa.RSAPublicKey
    | ed25519.Ed25519PublicKey
    | ed448.Ed448PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)
Asym: TypeAlias = BaseAsym | PqcAsym
"""A signature algorithm."""

HashAlgorithm: TypeAlias = (
    hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | hashes.SHA3_256 | hashes.SHA3_384 | hashes.SHA3_512
)

_HASHES: dict[BaseHash, HashAlgorithm] = {
    BaseHash.SHA_256: hashes.SHA256(),
    BaseHash.SHA_384: hashes.SHA384(),
    BaseHash.SHA_512: hashes.SHA512(),
    BaseHash.SHA3_256: hashes.SHA3_256(),
    BaseHash.SHA3_384: hashes.SHA3_384(),
    BaseHash.SHA3_512: hashes.SHA3_512(),
}


HASHES_IMPLEMENTED = tuple(_HASHES)
"""Hashes that signatures can be made over."""


def hash_algorithm(algorithm: BaseHash) -> HashAlgorithm:
    """Give the library's hash object. Raises `Incompatible` for SM3, which signatures here cannot use."""
    found = _HASHES.get(algorithm)
    if found is None:
        raise Incompatible(f"no signatures over {algorithm!r}", remedy="negotiate a SHA-2 or SHA-3 hash")
    return found


class Scheme(ABC):
    """How one signature algorithm makes keys, signs and verifies. `context` is the context string of ML-DSA and Ed448."""

    @abstractmethod
    def generate(self, entropy: Entropy) -> Any:
        """Make a private key."""

    @abstractmethod
    def fits(self, public: object) -> bool:
        """Tell whether a public key is of this algorithm."""

    @abstractmethod
    def sign(self, key: Any, message: bytes, base_hash: BaseHash, context: bytes) -> bytes:
        """Sign."""

    @abstractmethod
    def verify(self, public: Any, message: bytes, signature: bytes, base_hash: BaseHash, context: bytes) -> None:
        """Verify. Raises `InvalidSignature`."""


@dataclass(frozen=True, slots=True)
class _Ecdsa(Scheme):
    size: int

    def generate(self, entropy: Entropy) -> ec.EllipticCurvePrivateKey:
        return private_key(self.size, entropy)

    def fits(self, public: object) -> bool:
        return isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name == CURVES[self.size]().name

    def sign(self, key: Any, message: bytes, base_hash: BaseHash, context: bytes) -> bytes:
        signature = key.sign(message, ec.ECDSA(hash_algorithm(base_hash), deterministic_signing=True))
        return b"".join(part.to_bytes(self.size, "big") for part in decode_dss_signature(signature))

    def verify(self, public: Any, message: bytes, signature: bytes, base_hash: BaseHash, context: bytes) -> None:
        r, s = (int.from_bytes(signature[at : at + self.size], "big") for at in (0, self.size))
        public.verify(encode_dss_signature(r, s), message, ec.ECDSA(hash_algorithm(base_hash)))


@dataclass(frozen=True, slots=True)
class _Rsa(Scheme):
    bits: int
    pss: bool

    def generate(self, entropy: Entropy) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(65537, self.bits)

    def fits(self, public: object) -> bool:
        return isinstance(public, rsa.RSAPublicKey) and public.key_size == self.bits

    def _padding(self, algorithm: HashAlgorithm) -> padding.AsymmetricPadding:
        if not self.pss:
            return padding.PKCS1v15()
        return padding.PSS(mgf=padding.MGF1(algorithm), salt_length=algorithm.digest_size)

    def sign(self, key: Any, message: bytes, base_hash: BaseHash, context: bytes) -> bytes:
        algorithm = hash_algorithm(base_hash)
        return bytes(key.sign(message, self._padding(algorithm), algorithm))

    def verify(self, public: Any, message: bytes, signature: bytes, base_hash: BaseHash, context: bytes) -> None:
        algorithm = hash_algorithm(base_hash)
        public.verify(signature, message, self._padding(algorithm), algorithm)


class _Ed25519(Scheme):
    def generate(self, entropy: Entropy) -> ed25519.Ed25519PrivateKey:
        return ed25519.Ed25519PrivateKey.from_private_bytes(entropy(32))

    def fits(self, public: object) -> bool:
        return isinstance(public, ed25519.Ed25519PublicKey)

    def sign(self, key: Any, message: bytes, base_hash: BaseHash, context: bytes) -> bytes:
        return bytes(key.sign(message))

    def verify(self, public: Any, message: bytes, signature: bytes, base_hash: BaseHash, context: bytes) -> None:
        public.verify(signature, message)


class _Ed448(Scheme):
    def generate(self, entropy: Entropy) -> ed448.Ed448PrivateKey:
        return ed448.Ed448PrivateKey.from_private_bytes(entropy(57))

    def fits(self, public: object) -> bool:
        return isinstance(public, ed448.Ed448PublicKey)

    def sign(self, key: Any, message: bytes, base_hash: BaseHash, context: bytes) -> bytes:
        return sign_ed448(key, message, context)

    def verify(self, public: Any, message: bytes, signature: bytes, base_hash: BaseHash, context: bytes) -> None:
        verify_ed448(public, message, signature, context)


@dataclass(frozen=True, slots=True)
class _MlDsa(Scheme):
    private: Any
    public: Any

    def generate(self, entropy: Entropy) -> Any:
        return self.private.from_seed_bytes(entropy(32))

    def fits(self, public: object) -> bool:
        return isinstance(public, self.public)

    def sign(self, key: Any, message: bytes, base_hash: BaseHash, context: bytes) -> bytes:
        return bytes(key.sign(message, context))

    def verify(self, public: Any, message: bytes, signature: bytes, base_hash: BaseHash, context: bytes) -> None:
        public.verify(signature, message, context)


BASE_SCHEMES: Mapping[BaseAsym, Scheme] = {
    BaseAsym.RSASSA_2048: _Rsa(2048, pss=False),
    BaseAsym.RSAPSS_2048: _Rsa(2048, pss=True),
    BaseAsym.RSASSA_3072: _Rsa(3072, pss=False),
    BaseAsym.RSAPSS_3072: _Rsa(3072, pss=True),
    BaseAsym.RSASSA_4096: _Rsa(4096, pss=False),
    BaseAsym.RSAPSS_4096: _Rsa(4096, pss=True),
    BaseAsym.ECDSA_P256: _Ecdsa(32),
    BaseAsym.ECDSA_P384: _Ecdsa(48),
    BaseAsym.ECDSA_P521: _Ecdsa(66),
    BaseAsym.ED25519: _Ed25519(),
    BaseAsym.ED448: _Ed448(),
}
"""Traditional signature algorithms that are implemented."""

PQC_SCHEMES: Mapping[PqcAsym, Scheme] = {
    PqcAsym.ML_DSA_44: _MlDsa(mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey),
    PqcAsym.ML_DSA_65: _MlDsa(mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey),
    PqcAsym.ML_DSA_87: _MlDsa(mldsa.MLDSA87PrivateKey, mldsa.MLDSA87PublicKey),
}
"""Post-quantum signature algorithms that are implemented."""


def scheme(algorithm: Asym) -> Scheme:
    """Give the scheme of an algorithm. Raises `Incompatible`."""
    # Two tables, since flags of different kinds with the same bit are equal as integers.
    found = PQC_SCHEMES.get(algorithm) if isinstance(algorithm, PqcAsym) else BASE_SCHEMES.get(algorithm)
    if found is None:
        raise Incompatible(f"no implementation of {algorithm!r}", remedy="negotiate another signature algorithm")
    return found


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private signing key with the algorithm it signs by."""

    algorithm: Asym
    key: Any

    @classmethod
    def generate(cls, algorithm: Asym, entropy: Entropy) -> SigningKey:
        """Make a key. Raises `Incompatible` for an algorithm without an implementation."""
        return cls(algorithm, scheme(algorithm).generate(entropy))

    @property
    def public(self) -> Any:
        """The verification key."""
        return self.key.public_key()

    def sign(self, message: bytes, base_hash: BaseHash, context: str = "") -> bytes:
        """Sign `message`; most algorithms hash it with `base_hash` first."""
        return scheme(self.algorithm).sign(self.key, message, base_hash, context.encode())

    def __repr__(self) -> str:
        return f"SigningKey({self.algorithm.name}, ***)"


def verify(
    public: object, algorithm: Asym, message: bytes, signature: bytes, base_hash: BaseHash, context: str = ""
) -> None:
    """Verify a signature. Raises `AuthenticationFailed`, or `Incompatible` without an implementation."""
    found = scheme(algorithm)
    if not found.fits(public):
        raise AuthenticationFailed(f"the certificate's key is not of the negotiated algorithm {algorithm.name}")
    if len(signature) != algorithm.signature_size:
        raise AuthenticationFailed(
            f"signature has {len(signature)} bytes, {algorithm.name} needs {algorithm.signature_size}"
        )
    try:
        found.verify(public, message, signature, base_hash, context.encode())
    except InvalidSignature:
        raise AuthenticationFailed(f"{algorithm.name} signature does not verify") from None


def public_key_der(public: Any) -> bytes:
    """Give SubjectPublicKeyInfo in DER (RFC 7250)."""
    return bytes(public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def signing_key_pem(key: SigningKey) -> bytes:
    """Give a private key as unencrypted PKCS#8 in PEM, which the DMTF reference emulator reads too."""
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return bytes(key.key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))


def signing_key_from_pem(pem: bytes, algorithm: Asym) -> SigningKey:
    """Read an unencrypted PEM private key. Raises `Misuse` if it is not of `algorithm`."""
    try:
        key = load_with_expanded_key(pem) or serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Misuse(f"not a usable PEM private key: {error}") from error
    if not scheme(algorithm).fits(key.public_key()):
        raise Misuse(f"the private key is not of {algorithm.name}")
    return SigningKey(algorithm, key)
