"""`teeio device` and `teeio connect` with each other: transports, algorithms, operations, identities."""

from pathlib import Path

import pytest

from cli.served import connect, device, runner
from teeio.cli.app import app
from teeio.cli.choices import Choices
from teeio.cli.device_options import PresentedOptions, SessionOptions
from teeio.transport.kinds import Transport


@pytest.mark.parametrize(
    ("transport", "plain"),
    [(Transport.TCP, False), (Transport.TCP, True), (Transport.MCTP, False), (Transport.PCI_DOE, False)],
    ids=["tcp", "tcp-plain", "mctp", "pci_doe"],
)
def test_the_whole_life(transport: Transport, plain: bool) -> None:
    with device(transport, plain=plain) as peer:
        found = connect(peer, *(["--plain"] if plain else []), transport=transport)
    assert found["session_ended"] is True
    assert ("tdisp" in found) is (transport is not Transport.TCP)


def test_the_raw_transport() -> None:
    with device(Transport.NONE) as peer:
        found = connect(peer, transport=Transport.NONE)
    assert found["session"] is None
    assert found["measurements"]


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        (["--asym", "ED25519", "--hash", "SHA3_256", "--dhe", "FFDHE_2048", "--ver", "1.3"], "ED25519"),
        (["--pqc-asym", "ML_DSA_65", "--kem", "ML_KEM_768"], "ML_DSA_65"),
        (["--asym", "ECDSA_P521", "--hash", "SHA_512", "--aead", "CHACHA20_POLY1305", "--ver", "1.1"], "ECDSA_P521"),
    ],
    ids=["ed25519", "pqc", "p521-1.1"],
)
def test_algorithms_by_name(choices: list[str], expected: str) -> None:
    names = {"--asym": "asym", "--pqc-asym": "pqc_asym", "--hash": "base_hash", "--dhe": "dhe", "--kem": "kem",
             "--aead": "aead", "--ver": "versions"}  # fmt: skip
    same = Choices(**{names[choices[at]]: choices[at + 1] for at in range(0, len(choices), 2)})  # type: ignore[arg-type]
    with device(Transport.MCTP, same) as peer:
        found = connect(peer, *choices, transport=Transport.MCTP)
    assert found["algorithms"]["base_asym"] == expected  # type: ignore[index]


def test_what_a_responder_does_not_offer_is_not_asked_for() -> None:
    choices = Choices(capabilities="-CHAL,-MEAS_SIG,-MEAS_FRESH")
    with device(Transport.PCI_DOE, choices) as peer:
        found = connect(peer, transport=Transport.PCI_DOE)
    assert "challenge" not in found
    assert "measurements" not in found
    assert found["session_ended"] is True


def test_operations_in_the_order_given() -> None:
    wanted = "certificate,psk,heartbeat,session,measurements,end,key-update,heartbeat,end"
    with device(Transport.TCP, sessions=SessionOptions(psk=["me=0102"], heartbeat=9)) as peer:
        found = connect(
            peer, "--operations", wanted, "--psk", "me=0102", "--measurements", "1,0x10", "--raw", "--no-signature",
            transport=Transport.TCP,
        )  # fmt: skip
    done = found["operations"]
    assert isinstance(done, list)
    assert [one["operation"] for one in done] == ["negotiate", *wanted.split(",")]
    assert done[2]["psk_session"]["heartbeat_period"] == 9
    assert [(block["index"], block["raw"]) for block in done[5]["measurements_in_session"]] == [(1, True), (0x10, True)]


@pytest.mark.parametrize(
    ("operations", "code", "message"),
    [
        ("heartbeat", 2, "there is no session"),
        ("quick-start", 2, "no negotiated state is preserved"),
        ("session", 2, "run get_certificate first"),
        ("psk", 2, "there is no pre-shared key"),
        ("discovery", 2, "discovery is of DOE"),
    ],
)
def test_operations_that_cannot_be(operations: str, code: int, message: str) -> None:
    with device(Transport.MCTP) as peer:
        result = runner.invoke(app, ["connect", peer, "--transport", "mctp", "--operations", operations])
    assert result.exit_code == code
    assert message in result.stderr


def test_a_measurement_hash_that_is_not_accepted() -> None:
    with device(Transport.MCTP) as peer:
        result = runner.invoke(app, ["connect", peer, "--transport", "mctp", "--meas-hash", "SHA3_512"])
    assert result.exit_code == 1
    assert "measures with SHA_384" in result.stderr


def test_nothing_in_common() -> None:
    with device(Transport.MCTP, Choices(base_hash="SHA_512")) as peer:
        result = runner.invoke(app, ["connect", peer, "--transport", "mctp", "--hash", "SHA_256"])
    assert result.exit_code == 1
    assert "the peer refused" in result.stderr


def test_an_identity_from_files(tmp_path: Path) -> None:
    made = runner.invoke(app, ["identity", "make", str(tmp_path), "--asym", "ECDSA_P384", "--name", "Acme:NIC:7"])
    assert made.exit_code == 0
    anchor = str(tmp_path / "ecp384" / "ca.cert.der")
    with device(Transport.TCP, Choices(asym="ECDSA_P384"), presented=PresentedOptions(identity=tmp_path)) as peer:
        found = connect(peer, "--anchor", anchor, transport=Transport.TCP)
    assert found["slots"] == [0, 1]
    certificates = found["certificates"]
    assert isinstance(certificates, dict)
    assert certificates["subjects"][-1] == "CN=Acme:NIC:7"
    assert certificates["findings"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["device", "--transport", "mctp", "--plain"], "--plain does not go with"),
        (["device", "--asym", "SM2"], "not implemented"),
        (["device", "--asym", "none"], "no signature algorithm is left"),
        (["device", "--identity", "missing"], "is not a folder"),
        (["connect", "127.0.0.1:1", "--transport", "tcp", "--pcap", "x.pcap"], "no link type"),
        (["connect", "127.0.0.1:1", "--operations", "dance"], "known are discovery"),
        (["connect", "127.0.0.1:1", "--operations", "key-updat"], "did you mean key-update?"),
        (["device", "--mutual", "encapsulated"], "give one with --requester-anchor"),
        (["device", "--mutual", "plain"], "give --requester-chain"),
        (["device", "--device-class", "x"], "REGISTRY:VENDOR"),
        (["device", "--secured-versions", "2.0"], "known are 1.0, 1.1, 1.2"),
        (["connect", "127.0.0.1:1", "--capabilities", "-KEY_EX"], "contradict"),
        (["connect", "127.0.0.1:1", "--psk", "a=00", "--psk", "b=00"], "2 keys"),
    ],
)
def test_a_wrong_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []
