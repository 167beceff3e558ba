"""ML-DSA keys that hold seed and expanded key, as OpenSSL and the reference emulator's samples write them."""

import base64

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from hypothesis import given
from hypothesis import strategies as st

from teeio.crypto.algorithms import BaseHash, PqcAsym
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import PQC_SCHEMES, SigningKey, signing_key_from_pem, signing_key_pem, verify
from teeio.crypto.mldsa_pkcs8 import load_with_expanded_key
from teeio.errors import Misuse

IDENTIFIERS = {
    PqcAsym.ML_DSA_44: "2.16.840.1.101.3.4.3.17",
    PqcAsym.ML_DSA_65: "2.16.840.1.101.3.4.3.18",
    PqcAsym.ML_DSA_87: "2.16.840.1.101.3.4.3.19",
}
SEED = bytes(range(32))


@asn1.sequence
class Algorithm:
    identifier: x509.ObjectIdentifier


@asn1.sequence
class Both:
    seed: bytes
    expanded: bytes


@asn1.sequence
class Info:
    version: int
    algorithm: Algorithm
    key: bytes


def pem(algorithm: PqcAsym, seed: bytes = SEED) -> bytes:
    both = asn1.encode_der(Both(seed=seed, expanded=b"expanded key"))
    identifier = x509.ObjectIdentifier(IDENTIFIERS[algorithm])
    der = asn1.encode_der(Info(version=0, algorithm=Algorithm(identifier=identifier), key=both))
    return b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(der) + b"-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize("algorithm", PQC_SCHEMES, ids=lambda algorithm: algorithm.name)
def test_the_seed_makes_the_key(algorithm: PqcAsym) -> None:
    key = signing_key_from_pem(pem(algorithm), algorithm)
    same = SigningKey.generate(algorithm, lambda size: SEED)
    signature = key.sign(b"message", BaseHash.SHA_384, "context")
    verify(same.public, algorithm, b"message", signature, BaseHash.SHA_384, "context")


@pytest.mark.parametrize("algorithm", PQC_SCHEMES, ids=lambda algorithm: algorithm.name)
def test_a_seed_alone_is_read_as_before(algorithm: PqcAsym) -> None:
    key = SigningKey.generate(algorithm, SeededEntropy(b"key"))
    text = signing_key_pem(key)
    assert load_with_expanded_key(text) is None
    assert signing_key_from_pem(text, algorithm).public == key.public


def test_a_key_of_another_parameter_set_is_refused() -> None:
    with pytest.raises(Misuse, match="not of ML_DSA_65"):
        signing_key_from_pem(pem(PqcAsym.ML_DSA_44), PqcAsym.ML_DSA_65)


def test_a_seed_of_another_size_is_refused() -> None:
    with pytest.raises(Misuse, match="not a usable PEM private key"):
        signing_key_from_pem(pem(PqcAsym.ML_DSA_44, SEED[1:]), PqcAsym.ML_DSA_44)


@given(st.binary(max_size=200))
def test_anything_else_is_left_to_the_library(data: bytes) -> None:
    armoured = b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(data) + b"-----END PRIVATE KEY-----\n"
    assert load_with_expanded_key(armoured) is None
    assert load_with_expanded_key(data) is None
