"""Every signature, key exchange and hash algorithm that is said to be implemented, and how the others are refused."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448

from teeio.crypto.aead import AeadKey
from teeio.crypto.algorithms import Aead, BaseAsym, BaseHash, Dhe, Kem, MeasurementHash
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.kdf import digest
from teeio.crypto.key_exchange import DHE_IMPLEMENTED, KEM_IMPLEMENTED, encapsulate, exchange_for, ffdhe_prime
from teeio.crypto.keys import BASE_SCHEMES, PQC_SCHEMES, Asym, SigningKey, verify
from teeio.errors import AuthenticationFailed, Incompatible

SIGNING = [*BASE_SCHEMES, *PQC_SCHEMES]
KEYS = {(type(a), int(a)): SigningKey.generate(a, SeededEntropy(b"keys")) for a in SIGNING}


@pytest.mark.parametrize("algorithm", SIGNING, ids=lambda a: a.name)
def test_signatures(algorithm: Asym) -> None:
    key = KEYS[type(algorithm), int(algorithm)]
    signature = key.sign(b"message", BaseHash.SHA_384, "context")
    assert len(signature) == algorithm.signature_size
    verify(key.public, algorithm, b"message", signature, BaseHash.SHA_384, "context")
    for message, changed in (
        (b"massage", signature),
        (b"message", signature[:-1] + bytes([signature[-1] ^ 1])),
        (b"message", signature[:-1]),
    ):
        with pytest.raises(AuthenticationFailed):
            verify(key.public, algorithm, message, changed, BaseHash.SHA_384, "context")


@pytest.mark.parametrize("algorithm", [BaseAsym.ED448, *PQC_SCHEMES], ids=lambda a: a.name)
def test_the_context_string_binds_ed448_and_ml_dsa(algorithm: Asym) -> None:
    key = KEYS[type(algorithm), int(algorithm)]
    signature = key.sign(b"message", BaseHash.SHA_384, "responder-challenge_auth signing")
    with pytest.raises(AuthenticationFailed):
        verify(key.public, algorithm, b"message", signature, BaseHash.SHA_384, "responder-measurements signing")


def test_ed448_with_a_context_signs_as_rfc_8032_does() -> None:
    """RFC 8032 section 7.4, "1 octet (with context)"."""
    secret = "c4eab05d357007c632f3dbb48489924d552b08fe0c353a0d4a1f00acda2c463afbea67c5e8d2877c5e3bc397a659949ef8021e954e0a12274e"
    public = "43ba28f430cdff456ae531545f7ecd0ac834a55d9358c0372bfa0c6c6798c0866aea01eb00742802b8438ea4cb82169c235160627b4c3a9480"
    signature = (
        "d4f8f6131770dd46f40867d6fd5d5055de43541f8c5e35abbcd001b32a89f7d2151f7647f11d8ca2ae279fb842d607217fce6e042f6815ea"
        "000c85741de5c8da1144a6a1aba7f96de42505d7a7298524fda538fccbbb754f578c1cad10d54d0d5428407e85dcbc98a49155c13764e66c3c00"
    )
    key = SigningKey.generate(BaseAsym.ED448, lambda size: bytes.fromhex(secret))
    assert key.public.public_bytes_raw().hex() == public
    assert key.sign(b"\x03", BaseHash.SHA_384, "foo").hex() == signature


def test_a_key_of_another_algorithm_is_refused() -> None:
    p384, p256 = KEYS[BaseAsym, int(BaseAsym.ECDSA_P384)], KEYS[BaseAsym, int(BaseAsym.ECDSA_P256)]
    with pytest.raises(AuthenticationFailed, match="not of the negotiated algorithm"):
        verify(p256.public, BaseAsym.ECDSA_P384, b"m", p384.sign(b"m", BaseHash.SHA_384), BaseHash.SHA_384)


def test_ecdsa_and_eddsa_repeat_byte_for_byte() -> None:
    for algorithm in (BaseAsym.ECDSA_P256, BaseAsym.ECDSA_P384, BaseAsym.ECDSA_P521, BaseAsym.ED25519, BaseAsym.ED448):
        once, again = (
            SigningKey.generate(algorithm, SeededEntropy(b"s")).sign(b"m", BaseHash.SHA_256) for _ in range(2)
        )
        assert once == again


@pytest.mark.parametrize("group", DHE_IMPLEMENTED, ids=lambda g: g.name)
def test_diffie_hellman(group: Dhe) -> None:
    ours, theirs = exchange_for(group, SeededEntropy(b"a")), exchange_for(group, SeededEntropy(b"b"))
    assert len(ours.exchange_data) == group.exchange_size
    assert ours.agree(theirs.exchange_data) == theirs.agree(ours.exchange_data)
    for bad in (bytes(group.exchange_size), b"\xff" * group.exchange_size):
        with pytest.raises(AuthenticationFailed, match="ExchangeData is no"):
            ours.agree(bad)


@pytest.mark.parametrize("kem", KEM_IMPLEMENTED, ids=lambda k: k.name)
def test_key_encapsulation(kem: Kem) -> None:
    ours = exchange_for(kem, SeededEntropy(b"kem"))
    assert len(ours.exchange_data) == kem.request_size
    secret, ciphertext = encapsulate(kem, ours.exchange_data)
    assert len(ciphertext) == kem.response_size
    assert ours.agree(ciphertext) == secret
    for call in (lambda: ours.agree(b"short"), lambda: encapsulate(kem, b"short")):
        with pytest.raises(AuthenticationFailed, match=kem.name):
            call()


def test_the_finite_field_groups_are_safe_primes_of_rfc_7919() -> None:
    tails = {Dhe.FFDHE_2048: 0x886B423861285C97, Dhe.FFDHE_3072: 0x25E41D2B66C62E37, Dhe.FFDHE_4096: 0xC68A007E5E655F6A}
    for group, tail in tails.items():
        prime = ffdhe_prime(group)
        assert prime >> 64 & (1 << 64) - 1 == tail
        assert pow(2, (prime - 1) // 2, prime) == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda: SigningKey.generate(BaseAsym.SM2, SeededEntropy(b"")),
        lambda: exchange_for(Dhe.SM2_P256, SeededEntropy(b"")),
        lambda: exchange_for(Kem.ML_KEM_512, SeededEntropy(b"")),
        lambda: AeadKey(Aead.SM4_GCM, bytes(16)),
    ],
)
def test_what_no_library_gives_is_refused_with_what_to_do(ask: object) -> None:
    with pytest.raises(Incompatible, match="no implementation") as caught:
        ask()  # type: ignore[operator]
    assert "negotiate" in caught.value.remedy


@pytest.mark.parametrize("algorithm", [h for h in BaseHash if h is not BaseHash.SM3_256], ids=lambda h: h.name)
def test_hashes(algorithm: BaseHash) -> None:
    assert len(digest(algorithm, b"x")) == algorithm.size
    assert MeasurementHash[str(algorithm.name)].base_hash is algorithm


def test_an_ed448_key_that_is_no_point_of_the_curve_verifies_nothing() -> None:
    """The library that reads certificates takes any 57 bytes."""
    public = ed448.Ed448PublicKey.from_public_bytes(bytes([0, *[7] * 55, 0]))
    with pytest.raises(AuthenticationFailed):
        verify(public, BaseAsym.ED448, b"message", bytes(114), BaseHash.SHA_384, "context")
