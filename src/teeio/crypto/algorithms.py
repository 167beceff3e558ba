"""The algorithms of DSP0274, each a row: its bit in NEGOTIATE_ALGORITHMS, its sizes, and how to compute it.

A member that is not provided is still named, so that captures and refusals can name it; which those are and why is in
`availability`. The sizes are those of DSP0274 (NEGOTIATE_ALGORITHMS, ALGORITHMS tables).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntFlag
from typing import Any


class BaseHash(IntFlag):
    """BaseHashAlgo and BaseHashSel."""

    SHA_256 = 1 << 0
    SHA_384 = 1 << 1
    SHA_512 = 1 << 2
    SHA3_256 = 1 << 3
    SHA3_384 = 1 << 4
    SHA3_512 = 1 << 5
    SM3_256 = 1 << 6

    @property
    def hashlib_name(self) -> str:
        """Name for `hashlib.new`."""
        return _HASHES[self]

    @property
    def size(self) -> int:
        """Digest size in bytes."""
        return (
            int(_HASHES[self].rpartition("_")[2].removeprefix("sha").removeprefix("sm") or 0) // 8
            if self != BaseHash.SM3_256
            else 32
        )

    def new(self, data: bytes = b"") -> Any:
        """Start a hash."""
        return hashlib.new(self.hashlib_name, data)


_HASHES = {
    BaseHash.SHA_256: "sha256",
    BaseHash.SHA_384: "sha384",
    BaseHash.SHA_512: "sha512",
    BaseHash.SHA3_256: "sha3_256",
    BaseHash.SHA3_384: "sha3_384",
    BaseHash.SHA3_512: "sha3_512",
    BaseHash.SM3_256: "sm3",
}


class MeasurementHash(IntFlag):
    """MeasurementHashAlgo; RAW_ONLY means that the device hashes nothing."""

    RAW_ONLY = 1 << 0
    SHA_256 = 1 << 1
    SHA_384 = 1 << 2
    SHA_512 = 1 << 3
    SHA3_256 = 1 << 4
    SHA3_384 = 1 << 5
    SHA3_512 = 1 << 6
    SM3_256 = 1 << 7

    @property
    def base_hash(self) -> BaseHash:
        """The base hash that computes it; RAW_ONLY has none (`KeyError`)."""
        return BaseHash[self.name or ""]


class BaseAsym(IntFlag):
    """BaseAsymAlgo, BaseAsymSel and ReqBaseAsymAlg."""

    RSASSA_2048 = 1 << 0
    RSAPSS_2048 = 1 << 1
    RSASSA_3072 = 1 << 2
    RSAPSS_3072 = 1 << 3
    ECDSA_P256 = 1 << 4
    RSASSA_4096 = 1 << 5
    RSAPSS_4096 = 1 << 6
    ECDSA_P384 = 1 << 7
    ECDSA_P521 = 1 << 8
    SM2 = 1 << 9
    ED25519 = 1 << 10
    ED448 = 1 << 11

    @property
    def signature_size(self) -> int:
        """Signature size in bytes."""
        return _SIGNATURE_SIZES[self]


_SIGNATURE_SIZES = {
    BaseAsym.RSASSA_2048: 256,
    BaseAsym.RSAPSS_2048: 256,
    BaseAsym.RSASSA_3072: 384,
    BaseAsym.RSAPSS_3072: 384,
    BaseAsym.ECDSA_P256: 64,
    BaseAsym.RSASSA_4096: 512,
    BaseAsym.RSAPSS_4096: 512,
    BaseAsym.ECDSA_P384: 96,
    BaseAsym.ECDSA_P521: 132,
    BaseAsym.SM2: 64,
    BaseAsym.ED25519: 64,
    BaseAsym.ED448: 114,
}


class PqcAsym(IntFlag):
    """PqcAsymAlgo (1.4)."""

    ML_DSA_44 = 1 << 0
    ML_DSA_65 = 1 << 1
    ML_DSA_87 = 1 << 2
    SLH_DSA_SHA2_128S = 1 << 3
    SLH_DSA_SHAKE_128S = 1 << 4
    SLH_DSA_SHA2_128F = 1 << 5
    SLH_DSA_SHAKE_128F = 1 << 6
    SLH_DSA_SHA2_192S = 1 << 7
    SLH_DSA_SHAKE_192S = 1 << 8
    SLH_DSA_SHA2_192F = 1 << 9
    SLH_DSA_SHAKE_192F = 1 << 10
    SLH_DSA_SHA2_256S = 1 << 11
    SLH_DSA_SHAKE_256S = 1 << 12
    SLH_DSA_SHA2_256F = 1 << 13
    SLH_DSA_SHAKE_256F = 1 << 14

    @property
    def signature_size(self) -> int:
        """Signature size in bytes (FIPS 204 and 205)."""
        return _PQC_SIGNATURE_SIZES[str(self.name).replace("SHAKE", "SHA2")]


_PQC_SIGNATURE_SIZES = {
    "ML_DSA_44": 2420,
    "ML_DSA_65": 3309,
    "ML_DSA_87": 4627,
    "SLH_DSA_SHA2_128S": 7856,
    "SLH_DSA_SHA2_128F": 17088,
    "SLH_DSA_SHA2_192S": 16224,
    "SLH_DSA_SHA2_192F": 35664,
    "SLH_DSA_SHA2_256S": 29792,
    "SLH_DSA_SHA2_256F": 49856,
}
"""By parameter set; those over SHAKE have the sizes of those over SHA2."""


class Dhe(IntFlag):
    """AlgType 2."""

    FFDHE_2048 = 1 << 0
    FFDHE_3072 = 1 << 1
    FFDHE_4096 = 1 << 2
    SECP256R1 = 1 << 3
    SECP384R1 = 1 << 4
    SECP521R1 = 1 << 5
    SM2_P256 = 1 << 6

    @property
    def exchange_size(self) -> int:
        """Size of ExchangeData in bytes, in both directions."""
        return {1: 256, 2: 384, 4: 512, 8: 64, 16: 96, 32: 132, 64: 64}[int(self)]


class Aead(IntFlag):
    """AlgType 3."""

    AES_128_GCM = 1 << 0
    AES_256_GCM = 1 << 1
    CHACHA20_POLY1305 = 1 << 2
    SM4_GCM = 1 << 3

    @property
    def key_size(self) -> int:
        """Key size in bytes."""
        return 16 if self in (Aead.AES_128_GCM, Aead.SM4_GCM) else 32


class Kem(IntFlag):
    """AlgType 7 (1.4)."""

    ML_KEM_512 = 1 << 0
    ML_KEM_768 = 1 << 1
    ML_KEM_1024 = 1 << 2

    @property
    def request_size(self) -> int:
        """Size of the encapsulation key in bytes (FIPS 203)."""
        return {1: 800, 2: 1184, 4: 1568}[int(self)]

    @property
    def response_size(self) -> int:
        """Size of the ciphertext in bytes."""
        return {1: 768, 2: 1088, 4: 1568}[int(self)]


class KeySchedule(IntFlag):
    """AlgType 5."""

    SPDM = 1 << 0


class MeasurementSpecification(IntFlag):
    """MeasurementSpecification and MeasurementSpecificationSel."""

    DMTF = 1 << 0


class OpaqueDataFormat(IntFlag):
    """OtherParamsSupport bits 0-3 (1.2)."""

    OPAQUE_DATA_FORMAT_0 = 1 << 0
    OPAQUE_DATA_FORMAT_1 = 1 << 1


@dataclass(frozen=True, slots=True)
class Suite:
    """A set of algorithms that a side offers or selects; an empty flag means none."""

    base_hash: BaseHash = BaseHash.SHA_384
    base_asym: BaseAsym = BaseAsym.ECDSA_P384
    dhe: Dhe = Dhe.SECP384R1
    aead: Aead = Aead.AES_256_GCM
    measurement_hash: MeasurementHash = MeasurementHash.SHA_384
    req_base_asym: BaseAsym = BaseAsym(0)
    key_schedule: KeySchedule = KeySchedule.SPDM


P384_SUITE = Suite()
"""P-384, SHA-384, AES-256-GCM: what TDISP devices are expected to use."""

P256_SUITE = Suite(BaseHash.SHA_256, BaseAsym.ECDSA_P256, Dhe.SECP256R1, Aead.AES_128_GCM, MeasurementHash.SHA_256)
"""P-256, SHA-256, AES-128-GCM."""
