"""Revocation on the command line: lists are made with the identities, `identity revoke` renews them, `connect` and `show` heed them."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.served import connect, device, run
from teeio.cli.app import app
from teeio.cli.choices import Choices
from teeio.cli.device_options import PresentedOptions
from teeio.transport.kinds import Transport

runner = CliRunner()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("identities")
    result = runner.invoke(app, ["identity", "make", str(folder), "--asym", "ECDSA_P256,ED448"])
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "identities"))


def revoke(*arguments: str) -> dict[str, object]:
    result = runner.invoke(app, ["identity", "revoke", *arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    found: dict[str, object] = json.loads(result.stdout)
    return found


def lists(place: Path, *names: str) -> list[str]:
    return [part for name in names for part in ("--crl", str(place / f"{name}.crl.der"))]


ALL = ("ca", "inter")


def test_every_authority_has_an_empty_list(folder: Path) -> None:
    for place in (folder / "ecp256", folder / "ed448"):
        authorities = {
            path.name.removesuffix(".key") for kind in ("ca", "inter") for path in place.glob(f"{kind}*.key")
        }
        assert authorities == {path.name.removesuffix(".crl.der") for path in place.glob("*.crl.der")}
        chain, anchor = place / "bundle_responder.certchain.der", place / "ca.cert.der"
        shown = runner.invoke(app, ["identity", "show", str(chain), "--anchor", str(anchor), *lists(place, *ALL)])
        assert shown.exit_code == 0, shown.stdout
        assert "no findings" in shown.stdout


@pytest.mark.parametrize(
    ("certificate", "names", "subject"),
    [
        ("end_responder", "inter", "CN=teeio:accelerator:000001"),
        ("inter", "ca", "CN=teeio ecp256 intermediate CA 1"),
    ],
)
def test_a_revoked_certificate_is_found_by_show(folder: Path, certificate: str, names: str, subject: str) -> None:
    place = folder / "ecp256"
    done = revoke(str(place / f"{certificate}.cert.der"), "--reason", "superseded")
    assert (done["subject"], done["list"], done["number"]) == (subject, str(place / f"{names}.crl.der"), 2)
    chain, anchor = place / "bundle_responder.certchain.der", place / "ca.cert.der"
    command = ["identity", "show", str(chain), "--anchor", str(anchor)]
    shown = runner.invoke(app, [*command, *lists(place, *ALL)])
    assert shown.exit_code == 1
    assert f"revoked superseded: {subject} since" in shown.stdout
    assert runner.invoke(app, command).exit_code == 0, "without lists nothing is known of it"


def test_connect_heeds_revocation_lists(folder: Path) -> None:
    place = folder / "ed448"
    anchor = ("--anchor", str(place / "ca.cert.der"))
    presented = PresentedOptions(identity=folder)

    def visited(*options: str) -> tuple[int, str]:
        with device(Transport.MCTP, Choices(asym="ED448"), presented=presented) as peer:
            result = run(peer, "--operations", "digests,certificate", "--asym", "ED448", *anchor, *options)
        return result.exit_code, result.stderr

    with device(Transport.MCTP, Choices(asym="ED448"), presented=presented) as peer:
        found = connect(peer, "--asym", "ED448", *anchor, *lists(place, *ALL))
    assert (found["revocation"], found["algorithms"]["base_asym"]) == ("good", "ED448")
    code, told = visited(*lists(place, "ca"))
    assert (code, "revocation could not be checked: no current revocation list covers" in told) == (1, True)
    revoke(str(place / "end_responder.cert.der"))
    code, told = visited(*lists(place, *ALL))
    assert (code, "revoked keyCompromise: CN=teeio:accelerator:000001" in told) == (1, True)
    assert visited()[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["identity", "revoke", "missing.der"], 3, "missing.der"),
        (["identity", "revoke", "ecp256/end_responder_alias.cert.der"], 2, "has no authority CN=teeio:accelerator"),
        (["identity", "revoke", "ecp256/end_responder.key"], 3, "end_responder.key"),
        (["identity", "show", "ecp256/ca.cert.der", "--crl", "ecp256/ca.cert.der"], 3, "ca.cert.der"),
        (["connect", "127.0.0.1:1", "--crl", "ecp256/ca.crl.der"], 2, "--crl without --anchor"),
    ],
)
def test_what_cannot_be_done_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(folder)
    result = runner.invoke(app, arguments)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr


def test_help_has_an_example() -> None:
    assert "Example: teeio identity revoke" in runner.invoke(app, ["identity", "revoke", "--help"]).stdout
