"""`teeio identity`: files that our own parts and the reference emulator read, and the findings of a chain."""

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from teeio.cli.app import app
from teeio.crypto.algorithms import BaseAsym, BaseHash, PqcAsym
from teeio.crypto.certificates import chain_structure, split_certificates
from teeio.crypto.keys import BASE_SCHEMES, PQC_SCHEMES, Asym, verify
from teeio.errors import Misuse
from teeio.identity_files import FOLDERS, folder_of, read

runner = CliRunner()
QUICK: tuple[Asym, ...] = (BaseAsym.ECDSA_P256, BaseAsym.ED25519, BaseAsym.ED448, PqcAsym.ML_DSA_44)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("identities")
    names = ",".join(str(one.name) for one in QUICK)
    result = runner.invoke(app, ["identity", "make", str(made), "--asym", names, "--seed", "1", "--json"])
    assert result.exit_code == 0, result.stderr
    assert [one["folder"] for one in json.loads(result.stdout)] == [
        str(made / name) for name in ("ecp256", "ed25519", "ed448", "mldsa44")
    ]
    return made


def test_every_algorithm_has_a_folder() -> None:
    for algorithm in (*BASE_SCHEMES, *PQC_SCHEMES):
        assert any(folder_of(algorithm) == name for name, _ in FOLDERS)
    assert folder_of(PqcAsym.ML_DSA_44) != folder_of(BaseAsym.RSASSA_2048)


@pytest.mark.parametrize("algorithm", QUICK, ids=lambda one: str(one.name))
def test_what_is_written_is_read_and_fits(folder: Path, algorithm: Asym) -> None:
    for place in (folder, folder / folder_of(algorithm)):
        (identity,) = read(place, [algorithm], (0, 1, 4))
        assert sorted(identity.slots) == [0, 1, 4]
        for slot in identity.slots.values():
            signature = slot.key.sign(b"message", BaseHash.SHA_256)
            verify(slot.key.public, algorithm, b"message", signature, BaseHash.SHA_256)
    first, second, other = (identity.slots[slot] for slot in (0, 1, 4))
    assert first.certificates[0] != second.certificates[0], "slot 1 hangs on another root"
    assert first.certificates[0] == other.certificates[0]


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("bundle_responder.certchain.der", []),
        ("bundle_responder.certchain4.der", []),
        ("bundle_requester.certchain.der", ["--requester"]),
        ("bundle_responder.certchain_alias.der", ["--model", "alias"]),
    ],
)
@pytest.mark.parametrize("kind", ["ecp256", "ed25519", "ed448", "mldsa44"])
def test_every_chain_passes_without_a_finding(folder: Path, kind: str, file: str, options: list[str]) -> None:
    place = folder / kind
    command = ["identity", "show", str(place / file), "--anchor", str(place / "ca.cert.der"), "--json", *options]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.stdout
    found = json.loads(result.stdout)
    assert found["findings"] == []
    assert found["trust"] == "validated to a given anchor"
    leaf = found["certificates"][-1]
    assert leaf["device"] == "teeio:accelerator:000001"
    assert leaf["pci"].startswith("Vendor=7ee0:Device=10a0")


def test_findings_are_shown_and_fail(folder: Path) -> None:
    place = folder / "ecp256"
    chain = str(place / "bundle_responder.certchain.der")
    wrong_root = runner.invoke(app, ["identity", "show", chain, "--anchor", str(place / "ca1.cert.der")])
    assert wrong_root.exit_code == 1
    assert "trust anchors" in wrong_root.stdout
    too_late = runner.invoke(app, ["identity", "show", chain, "--at", "2999-01-01"])
    assert too_late.exit_code == 1
    assert "expired" in too_late.stdout
    wrong_role = runner.invoke(app, ["identity", "show", chain, "--requester"])
    assert wrong_role.exit_code == 1
    assert "opposite role" in wrong_role.stdout


def test_the_chain_structure_is_read_too(folder: Path, tmp_path: Path) -> None:
    data = (folder / "ecp256" / "bundle_responder.certchain.der").read_bytes()
    root, *below = split_certificates(data)
    for base_hash in (BaseHash.SHA_256, BaseHash.SHA_384, BaseHash.SHA3_512):
        path = tmp_path / "chain.bin"
        path.write_bytes(chain_structure(root, below, base_hash))
        result = runner.invoke(app, ["identity", "show", str(path)])
        assert result.exit_code == 0, result.output
        assert "SPDM responder" in result.stdout


def test_keys_are_for_their_owner_alone(folder: Path) -> None:
    keys = list(folder.rglob("*.key"))
    assert keys
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_a_seed_repeats(folder: Path, tmp_path: Path) -> None:
    command = ["identity", "make", str(tmp_path), "--asym", "ED25519", "--since", "2026-01-01"]
    assert runner.invoke(app, [*command, "--seed", "5"]).exit_code == 0
    name = tmp_path / "ed25519" / "end_responder.cert.der"
    first = name.read_bytes()
    assert runner.invoke(app, [*command, "--seed", "5"]).exit_code == 0
    assert name.read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["make", "x", "--asym", "ROT13"], 2, "known are"),
        (["make", "x", "--asym", "ED25519", "--name", "Acme"], 2, "manufacturer:product:serial"),
        (["make", "x", "--asym", "ED25519", "--pci", "8086"], 2, "Vendor=.."),
        (["make", "x", "--asym", "ED25519", "--since", "today"], 2, "not a day"),
        (["show", "missing.der"], 3, "missing.der"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, ["identity", *arguments])
    assert result.exit_code == code
    assert message in result.stderr


@pytest.mark.parametrize("content", [b"", b"hello", b"\x30\x82\xff\xff", b"-----BEGIN CERTIFICATE-----\n"])
def test_a_file_that_is_no_chain(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "chain.der"
    path.write_bytes(content)
    result = runner.invoke(app, ["identity", "show", str(path)])
    assert result.exit_code == 3
    assert "chain.der" in result.stderr


def test_a_folder_without_identities(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="has none of the folders ecp384"):
        read(tmp_path, [BaseAsym.ECDSA_P384])
    with pytest.raises(Misuse, match="is not a folder"):
        read(tmp_path / "missing", [BaseAsym.ECDSA_P384])


def test_a_key_that_does_not_fit(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "ecp384"
    place.mkdir()
    for name in ("bundle_responder.certchain.der", "end_responder.key"):
        (place / name).write_bytes((folder / "ecp256" / name).read_bytes())
    with pytest.raises(Misuse, match=r"end_responder.key: the private key is not of ECDSA_P384"):
        read(tmp_path, [BaseAsym.ECDSA_P384])


def test_help_has_examples() -> None:
    for command in ("make", "show"):
        result = runner.invoke(app, ["identity", command, "--help"])
        assert result.exit_code == 0
        assert f"Example: teeio identity {command}" in result.stdout
