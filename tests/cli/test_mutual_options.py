"""Mutual authentication from the command line: both commands, every mode, and requesters that are not let in."""

from pathlib import Path

import pytest

from cli.served import connect, device, run, runner
from teeio.cli.app import app
from teeio.cli.choices import Choices
from teeio.cli.device_options import Mutual, MutualOptions, PresentedOptions, SessionOptions
from teeio.crypto.certificates.chain import certificate_pem
from teeio.transport.kinds import Transport


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    assert runner.invoke(app, ["identity", "make", str(folder), "--asym", "ECDSA_P384,ML_DSA_44"]).exit_code == 0
    return folder


def letting_in(keys: Path, mode: Mutual, kind: str = "ecp384", **options: bool) -> MutualOptions:
    folder = keys / kind
    return MutualOptions(
        mutual=mode,
        requester_anchor=[folder / "ca.cert.der"],
        requester_chain=folder / "bundle_requester.certchain.der",
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("clear", [False, True], ids=["encrypted", "clear"])
@pytest.mark.parametrize("basic", [False, True], ids=["", "basic"])
@pytest.mark.parametrize("mode", list(Mutual), ids=lambda mode: mode.value)
def test_every_mode(keys: Path, mode: Mutual, basic: bool, clear: bool) -> None:
    choices = Choices(clear_handshake=clear)
    with device(Transport.PCI_DOE, choices, mutual=letting_in(keys, mode, basic_mutual=basic)) as peer:
        options = ["--clear-handshake"] if clear else []
        found = connect(peer, "--identity", str(keys), *options, transport=Transport.PCI_DOE)
    assert found["session"]["mutual"] is (mode is not Mutual.NONE)
    assert ("basic_mutual_authentication" in found) is basic
    assert found["tdisp"]["states"][2] == "RUN"


def test_post_quantum_requesters(keys: Path) -> None:
    both = Choices(pqc_asym="ML_DSA_44", req_pqc_asym="ML_DSA_44")
    options = ["--pqc-asym", "ML_DSA_44", "--req-pqc-asym", "ML_DSA_44"]
    with device(choices=both, mutual=letting_in(keys, Mutual.ENCAPSULATED, "mldsa44")) as peer:
        found = connect(peer, "--identity", str(keys), *options)
    assert found["algorithms"]["req_asym"] == "ML_DSA_44"
    assert found["session"]["mutual"]


def test_a_requester_without_an_identity(keys: Path) -> None:
    operations = ("--operations", "certificate,session")
    with device(mutual=letting_in(keys, Mutual.ENCAPSULATED)) as peer:
        assert "INVALID_POLICY" in run(peer, *operations).stderr
    with device(mutual=letting_in(keys, Mutual.ENCAPSULATED, optional=True)) as peer:
        assert connect(peer, *operations)["session"]["mutual"] is False


@pytest.mark.parametrize("refused", [False, True], ids=["accepted", "refused"])
def test_a_pre_shared_key_proves_no_identity(keys: Path, refused: bool) -> None:
    mutual = letting_in(keys, Mutual.ENCAPSULATED, refuse_psk=refused)
    with device(mutual=mutual, sessions=SessionOptions(psk=["me=01"])) as peer:
        result = run(peer, "--operations", "psk,heartbeat,end", "--psk", "me=01")
    assert ("INVALID_POLICY" in result.stderr) is refused


def test_refusing_pre_shared_keys_needs_another_proof_to_ask_for() -> None:
    result = runner.invoke(app, ["device", "--port", "0", "--refuse-psk"])
    assert result.exit_code == 2
    assert "--refuse-psk asks for another proof of identity" in result.stderr


@pytest.mark.parametrize("mode", [Mutual.ENCAPSULATED, Mutual.DIGESTS], ids=lambda mode: mode.value)
def test_a_requester_of_another_authority(keys: Path, tmp_path: Path, mode: Mutual) -> None:
    assert runner.invoke(app, ["identity", "make", str(tmp_path), "--asym", "ECDSA_P384"]).exit_code == 0
    with device(mutual=letting_in(keys, mode)) as peer:
        result = run(peer, "--operations", "certificate,session", "--identity", str(tmp_path))
    assert result.exit_code == 1
    assert "INVALID_RESPONSE_CODE" in result.stderr


def test_a_responders_chain_is_not_a_requesters(keys: Path, tmp_path: Path) -> None:
    """The leaf must name the role: a device's own identity does not let it in as a requester."""
    folder = tmp_path / "ecp384"
    folder.mkdir()
    for name in ("bundle_{}.certchain.der", "end_{}.key"):
        (folder / name.format("requester")).write_bytes((keys / "ecp384" / name.format("responder")).read_bytes())
    with device(mutual=letting_in(keys, Mutual.ENCAPSULATED)) as peer:
        result = run(peer, "--operations", "certificate,session", "--identity", str(tmp_path))
    assert result.exit_code == 1


def test_an_identity_that_is_not_there(tmp_path: Path) -> None:
    result = run("127.0.0.1:1", "--identity", str(tmp_path))
    assert result.exit_code == 2
    assert "bundle_requester.certchain.der" in result.stderr
    assert "--req-asym" in result.stderr


# -- public keys in place of certificates -------------------------------------------------------------------------------


def test_a_device_that_is_known_by_its_keys(tmp_path: Path) -> None:
    file = tmp_path / "device.pem"
    with device(Transport.PCI_DOE, presented=PresentedOptions(public_key=file)) as peer:
        found = connect(peer, "--responder-key", str(file), transport=Transport.PCI_DOE)
    assert file.read_text().count("BEGIN PUBLIC KEY") == 2
    assert "PUB_KEY_ID" in found["capabilities"]
    assert "certificates" not in found
    assert found["challenge"] == "signature verified"
    assert found["tdisp"]["states"][2] == "RUN"


def test_a_device_with_another_key(keys: Path, tmp_path: Path) -> None:
    with device(presented=PresentedOptions(public_key=tmp_path / "device.pem")) as peer:
        other = keys / "ecp384" / "inter.cert.der"
        pem = tmp_path / "other.pem"
        pem.write_text(certificate_pem(other.read_bytes()))
        result = run(peer, "--responder-key", str(pem))
    assert result.exit_code == 1
    assert "not authentic" in result.stderr


@pytest.mark.parametrize("basic", [False, True], ids=["", "basic"])
def test_both_are_known_by_their_keys(keys: Path, tmp_path: Path, basic: bool) -> None:
    ours, theirs = tmp_path / "ours.pem", tmp_path / "device.pem"
    ours.write_text(certificate_pem((keys / "ecp384" / "end_requester.cert.der").read_bytes()))
    mutual = MutualOptions(mutual=Mutual.PLAIN, basic_mutual=basic, requester_key=[ours])
    with device(mutual=mutual, presented=PresentedOptions(public_key=theirs)) as peer:
        found = connect(peer, "--responder-key", str(theirs), "--identity", str(keys), "--public-key")
    assert found["session"]["mutual"] is True
    assert ("basic_mutual_authentication" in found) is basic


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [(["--public-key"], 2, "give --identity"), (["--responder-key", "key.pem"], 3, "holds no public key")],
)
def test_keys_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("key.pem").write_text("hello")
    result = run("127.0.0.1:1", *arguments)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
