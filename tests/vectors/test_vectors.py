"""The published vectors, recomputed from their inputs with hashlib, hmac and the cryptography library alone.

Nothing here imports SPDM code of ours: transcripts are put together by the rules as docs/vectors.md states them, from the bytes of the
messages; the key schedule, the signatures and the records follow from there.
"""

import hashlib
import hmac
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FILES = sorted(Path(__file__).parent.glob("spdm-*.json"))
HASHES: dict[str, tuple[str, int, hashes.HashAlgorithm]] = {
    "SHA_256": ("sha256", 32, hashes.SHA256()),
    "SHA_384": ("sha384", 48, hashes.SHA384()),
}
KEY_SIZES = {"AES_128_GCM": 16, "AES_256_GCM": 32}
CURVES: dict[str, tuple[ec.EllipticCurve, int]] = {"SECP256R1": (ec.SECP256R1(), 32), "SECP384R1": (ec.SECP384R1(), 48)}


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


class Vectors:
    """One file, and the plain functions of its algorithms."""

    def __init__(self, path: Path) -> None:
        self.content: dict[str, Any] = json.loads(path.read_text())
        self.version: str = self.content["spdm_version"]
        self.minor = int(self.version[-1])
        algorithms = self.content["algorithms"]
        self.hash_name, self.hash_size, self.hash = HASHES[algorithms["base_hash"]]
        self.key_size = KEY_SIZES[algorithms["aead"]]
        self.curve, self.scalar_size = CURVES[algorithms["dhe"]]
        self.chain = unhex(self.content["certificate_chain"])

    def digest(self, data: bytes) -> bytes:
        return hashlib.new(self.hash_name, data).digest()

    def mac(self, key: bytes, data: bytes) -> bytes:
        return hmac.new(key, data, self.hash_name).digest()

    def expand(self, secret: bytes, label: str, context: bytes = b"", size: int = 0) -> bytes:
        """HKDF-Expand over BinConcat; every output here fits in one block of the hash."""
        size = size or self.hash_size
        info = size.to_bytes(2, "little") + f"spdm{self.version} {label}".encode() + context
        return self.mac(secret, info + b"\1")[:size]

    def leaf(self) -> x509.Certificate:
        return self.certificates()[-1]

    def certificates(self) -> list[x509.Certificate]:
        rest, found = self.chain[4 + self.hash_size :], []
        while rest:
            assert rest[:2] == b"\x30\x82"
            size = 4 + int.from_bytes(rest[2:4], "big")
            found.append(x509.load_der_x509_certificate(rest[:size]))
            rest = rest[size:]
        return found

    def signed(self, context: str, transcript: bytes) -> bytes:
        if self.minor < 2:
            return transcript
        head = f"dmtf-spdm-v{self.version}.*".encode() * 4
        return (head + context.encode().rjust(36, b"\0")) + self.digest(transcript)


@cache
def load(path: Path) -> Vectors:
    return Vectors(path)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def vectors(request: pytest.FixtureRequest) -> Vectors:
    return load(request.param)


def sessions() -> Iterator[Any]:
    for path in FILES:
        for at, connection in enumerate(load(path).content["connections"]):
            for session in connection["sessions"]:
                yield pytest.param(load(path), connection, session, id=f"{path.stem}-{at}-{session['kind']}")


def raw(connection: dict[str, Any], name: str, session: str | None = None) -> list[bytes]:
    """All messages of a name in a session or outside, in order."""
    return [unhex(m["bytes"]) for m in connection["messages"] if m["name"] == name and m["session"] == session]


def vca(connection: dict[str, Any]) -> bytes:
    return b"".join(unhex(m["bytes"]) for m in connection["messages"][:6])


def as_published(vectors: Vectors, connection: dict[str, Any], transcript: dict[str, Any]) -> bytes:
    """What "parts" and "cut" of a published transcript say; its hash is checked."""
    parts = [
        unhex(vectors.content[part]) if isinstance(part, str) else unhex(connection["messages"][part]["bytes"])
        for part in transcript["parts"]
    ]
    found = b"".join(parts)
    found = found[: len(found) - transcript["cut"]]
    assert vectors.digest(found).hex() == transcript["hash"]
    return found


def check_signature(vectors: Vectors, connection: dict[str, Any], published: dict[str, Any], transcript: bytes) -> None:
    """The transcript, what is signed over it, that the leaf's key made the signature, and that the private key makes it again."""
    assert as_published(vectors, connection, published["transcript"]) == transcript
    message = vectors.signed(published["context"], transcript)
    assert message.hex() == published["to_be_signed"]
    signature = unhex(published["signature"])
    r, s = (
        int.from_bytes(half, "big") for half in (signature[: len(signature) // 2], signature[len(signature) // 2 :])
    )
    public = vectors.leaf().public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(encode_dss_signature(r, s), message, ec.ECDSA(vectors.hash))
    scalar = int(vectors.content["responder_signing_key"], 16)
    again = ec.derive_private_key(scalar, vectors.curve).sign(
        message, ec.ECDSA(vectors.hash, deterministic_signing=True)
    )
    assert decode_dss_signature(again) == (r, s)


# -- identity and measurements -------------------------------------------------------------------------------------------


def test_there_is_a_file_for_every_version_and_suite() -> None:
    names = {(load(path).version, load(path).hash_name) for path in FILES}
    assert names == {(f"1.{minor}", name) for minor in range(5) for name in ("sha256", "sha384")}


def test_the_chain_is_a_chain(vectors: Vectors) -> None:
    assert int.from_bytes(vectors.chain[:2], "little") == len(vectors.chain)
    root, *rest = vectors.certificates()
    der = vectors.chain[4 + vectors.hash_size :]
    assert vectors.chain[4 : 4 + vectors.hash_size] == vectors.digest(der[: 4 + int.from_bytes(der[2:4], "big")])
    for issuer, certificate in zip([root, root, *rest], [root, *rest], strict=False):
        certificate.verify_directly_issued_by(issuer)
    assert vectors.digest(vectors.chain).hex() == vectors.content["certificate_chain_hash"]


def test_digest_and_certificate_are_those_of_the_chain(vectors: Vectors) -> None:
    connection = vectors.content["connections"][0]
    (digests,) = raw(connection, "DIGESTS")
    assert digests[4:] == vectors.digest(vectors.chain)
    portions = raw(connection, "CERTIFICATE")
    assert b"".join(portion[8:] for portion in portions) == vectors.chain


def test_challenge(vectors: Vectors) -> None:
    connection = vectors.content["connections"][0]
    names = ["GET_DIGESTS", "DIGESTS", "GET_CERTIFICATE", "CERTIFICATE", "CHALLENGE", "CHALLENGE_AUTH"]
    exchanged = [unhex(m["bytes"]) for m in connection["messages"] if m["name"] in names]
    size = len(unhex(connection["challenge"]["signature"]))
    transcript = vca(connection) + b"".join(exchanged)[:-size]
    assert exchanged[-1][-size:].hex() == connection["challenge"]["signature"]
    check_signature(vectors, connection, connection["challenge"], transcript)


def measured(vectors: Vectors, connection: dict[str, Any], session: str | None) -> bytes:
    messages = [m for m in connection["messages"] if m["session"] == session and m["name"].endswith("MEASUREMENTS")]
    size = 2 * vectors.scalar_size
    return (vca(connection) if vectors.minor >= 2 else b"") + b"".join(unhex(m["bytes"]) for m in messages)[:-size]


def test_measurements(vectors: Vectors) -> None:
    connection = vectors.content["connections"][0]
    check_signature(vectors, connection, connection["measurements"], measured(vectors, connection, None))


# -- sessions ------------------------------------------------------------------------------------------------------------


class Handshake:
    """The transcripts of a session, put together from its messages."""

    def __init__(self, vectors: Vectors, connection: dict[str, Any], session: dict[str, Any]) -> None:
        self.clear: bool = session["handshake_in_the_clear"]
        inside = None if self.clear else session["session_id"]
        size = vectors.hash_size
        if session["kind"] == "psk":
            (request,), (response,) = raw(connection, "PSK_EXCHANGE"), raw(connection, "PSK_EXCHANGE_RSP")
            (finish,), (finish_rsp,) = raw(connection, "PSK_FINISH", inside), raw(connection, "PSK_FINISH_RSP", inside)
            before = vca(connection) + request
        else:
            (request,), (response,) = raw(connection, "KEY_EXCHANGE"), raw(connection, "KEY_EXCHANGE_RSP")
            (finish,), (finish_rsp,) = raw(connection, "FINISH", inside), raw(connection, "FINISH_RSP", inside)
            before = vca(connection) + vectors.digest(vectors.chain) + request
        self.request, self.response, self.finish, self.finish_rsp = request, response, finish, finish_rsp
        self.th1 = before + (response if self.clear else response[:-size])
        self.signed = self.th1[: -2 * vectors.scalar_size]
        self.requester = before + response + finish[:-size]
        self.th2 = before + response + finish + finish_rsp
        self.responder = self.th2[:-size] if self.clear else self.th1
        self.proofs = (finish[-size:], finish_rsp[-size:] if self.clear else response[-size:])


@pytest.mark.parametrize(("vectors", "connection", "session"), list(sessions()))
def test_the_transcripts_of_a_session(vectors: Vectors, connection: dict[str, Any], session: dict[str, Any]) -> None:
    handshake = Handshake(vectors, connection, session)
    for name, expected in (
        (session["th1"], handshake.th1),
        (session["th2"], handshake.th2),
        (session["requester_verify_data"]["transcript"], handshake.requester),
        (session["responder_verify_data"]["transcript"], handshake.responder),
    ):
        assert as_published(vectors, connection, name) == expected
    halves = handshake.response[4:6] + handshake.request[4:6]
    assert session["session_id"] == f"{halves[1]:02x}{halves[0]:02x}{halves[3]:02x}{halves[2]:02x}"
    if session["kind"] == "key_exchange":
        check_signature(vectors, connection, session["signature"], handshake.signed)
    if "measurements" in session:
        transcript = measured(vectors, connection, session["session_id"])
        check_signature(vectors, connection, session["measurements"], transcript)


@pytest.mark.parametrize(("vectors", "connection", "session"), list(sessions()))
def test_the_shared_secret(vectors: Vectors, connection: dict[str, Any], session: dict[str, Any]) -> None:
    handshake = Handshake(vectors, connection, session)
    if session["kind"] == "psk":
        hint = unhex(session["psk_hint"])
        assert hint in handshake.request
        return
    keys = [
        ec.derive_private_key(int(session[f"{side}_private_key"], 16), vectors.curve)
        for side in ("requester", "responder")
    ]
    assert keys[0].exchange(ec.ECDH(), keys[1].public_key()).hex() == session["shared_secret"]
    for key, message in zip(keys, (handshake.request, handshake.response), strict=True):
        numbers = key.public_key().public_numbers()
        point = numbers.x.to_bytes(vectors.scalar_size, "big") + numbers.y.to_bytes(vectors.scalar_size, "big")
        assert message[40 : 40 + len(point)] == point


def traffic(vectors: Vectors, secret: bytes) -> tuple[bytes, bytes]:
    return vectors.expand(secret, "key", size=vectors.key_size), vectors.expand(secret, "iv", size=12)


@pytest.mark.parametrize(("vectors", "connection", "session"), list(sessions()))
def test_the_key_schedule(vectors: Vectors, connection: dict[str, Any], session: dict[str, Any]) -> None:
    handshake = Handshake(vectors, connection, session)
    ones = session["kind"] == "psk" and vectors.minor >= 3
    salt = (b"\xff" if ones else b"\0") * vectors.hash_size
    secret = vectors.mac(salt, unhex(session["shared_secret"]))
    th1 = vectors.digest(handshake.th1)
    request, response = vectors.expand(secret, "req hs data", th1), vectors.expand(secret, "rsp hs data", th1)
    finished = vectors.expand(request, "finished"), vectors.expand(response, "finished")
    published = {name: unhex(value) for name, value in session["handshake"].items()}
    assert published["handshake_secret"] == secret
    assert (published["request_secret"], published["response_secret"]) == (request, response)
    assert (published["request_finished_key"], published["response_finished_key"]) == finished
    assert (published["request_key"], published["request_iv"]) == traffic(vectors, request)
    assert (published["response_key"], published["response_iv"]) == traffic(vectors, response)
    proofs = [
        vectors.mac(finished[0], vectors.digest(handshake.requester)),
        vectors.mac(finished[1], vectors.digest(handshake.responder)),
    ]
    assert proofs == list(handshake.proofs)
    assert [session[f"{side}_verify_data"]["value"] for side in ("requester", "responder")] == [p.hex() for p in proofs]
    master = vectors.mac(vectors.expand(secret, "derived"), bytes(vectors.hash_size))
    th2 = vectors.digest(handshake.th2)
    application = session["application"]
    assert application["master_secret"] == master.hex()
    assert application["export_master_secret"] == vectors.expand(master, "exp master", th2).hex()
    for direction, label in (("request", "req app data"), ("response", "rsp app data")):
        current = vectors.expand(master, label, th2)
        for generation in application[direction]:
            key, iv = traffic(vectors, current)
            assert generation == {"secret": current.hex(), "key": key.hex(), "iv": iv.hex()}
            current = vectors.expand(current, "traffic upd")
    updates = [
        m["bytes"][4:6]
        for m in connection["messages"]
        if m["name"] == "KEY_UPDATE" and m["session"] == session["session_id"]
    ]
    assert len(application["request"]) == 1 + updates.count("01") + updates.count("02")
    assert len(application["response"]) == 1 + updates.count("02")


# -- records -------------------------------------------------------------------------------------------------------------


def seal(vectors: Vectors, session: dict[str, Any], connection: dict[str, Any], record: dict[str, Any]) -> bytes:
    """Seal a message as a record from its published inputs alone."""
    secrets = session["handshake"]
    if record["phase"] == "application":
        secrets = session["application"][record["direction"]][record["generation"]]
        key, iv = unhex(secrets["key"]), unhex(secrets["iv"])
    else:
        key, iv = (unhex(secrets[f"{record['direction']}_{part}"]) for part in ("key", "iv"))
    mctp = record["binding"] == "mctp"
    application = (b"\x05" if mctp else b"") + unhex(connection["messages"][record["message"]]["bytes"])
    number = record["sequence_number"].to_bytes(12, "little")
    nonce = bytes(a ^ b for a, b in zip(iv, number, strict=True))
    encrypted = record["protection"] == "encrypted"
    plain = application
    if encrypted:
        plain = len(application).to_bytes(2, "little") + application + unhex(record["padding"])
    head = int(session["session_id"], 16).to_bytes(4, "little") + (number[:2] if mctp else b"")
    head += (len(plain) + 16).to_bytes(2, "little")
    if encrypted:
        return head + AESGCM(key).encrypt(nonce, plain, head)
    return head + plain + AESGCM(key).encrypt(nonce, b"", head + plain)


@pytest.mark.parametrize(("vectors", "connection", "session"), list(sessions()))
def test_records(vectors: Vectors, connection: dict[str, Any], session: dict[str, Any]) -> None:
    counters: dict[tuple[str, ...], int] = {}
    for record in session["records"]:
        assert connection["messages"][record["message"]]["session"] == session["session_id"]
        assert seal(vectors, session, connection, record).hex() == record["record"]
        names = ("binding", "protection", "phase", "direction", "generation")
        way = tuple(str(record[name]) for name in names)
        assert record["sequence_number"] == counters.get(way, 0)
        counters[way] = record["sequence_number"] + 1
        if record["protection"] == "encrypted" and record["binding"] == "mctp":
            assert 1 <= len(unhex(record["padding"])) <= 32
        else:
            assert record["padding"] == ""
    kinds = {(record["binding"], record["protection"]) for record in session["records"]}
    assert {("pci_doe", "encrypted"), ("mctp", "encrypted")} <= kinds


def test_a_changed_record_does_not_open(vectors: Vectors) -> None:
    """So that the tests above can fail: one bit more, and nothing fits."""
    for connection in vectors.content["connections"]:
        for session in connection["sessions"]:
            record = next(r for r in session["records"] if r["phase"] == "application")
            secrets = session["application"][record["direction"]][0]
            sealed = unhex(record["record"])
            with pytest.raises(InvalidTag):
                AESGCM(unhex(secrets["key"])).decrypt(
                    unhex(secrets["iv"]), sealed[6:-1] + bytes([sealed[-1] ^ 1]), sealed[:6]
                )
