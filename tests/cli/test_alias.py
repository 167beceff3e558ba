"""A device of the Alias certificate model: from a folder of identities, made on the spot, and from the emulator's samples."""

from pathlib import Path

import pytest

from cli.served import connect, device, runner
from teeio.cli.app import app
from teeio.cli.choices import Choices
from teeio.cli.device_options import PresentedOptions, Provisioned, ProvisioningOptions
from teeio.crypto.algorithms import BaseAsym
from teeio.crypto.certificates import CertificateModel
from teeio.crypto.keys import public_key_der
from teeio.identity_files import read
from teeio.transport.kinds import Transport

ALIAS = Choices(capabilities="+ALIAS_CERT")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    done = runner.invoke(app, ["identity", "make", str(folder), "--asym", "ECDSA_P384,ECDSA_P256"])
    assert done.exit_code == 0, done.output
    return folder


def test_the_files_hold_what_the_device_signs_with(keys: Path) -> None:
    (identity,) = read(keys, [BaseAsym.ECDSA_P384], alias=True)
    slot = identity.slots[0]
    assert (list(identity.slots), slot.model) == ([0], CertificateModel.ALIAS)
    assert slot.device_key is not None
    assert public_key_der(slot.device_key.public) != public_key_der(slot.key.public)
    assert len(slot.certificates) == 4


def test_a_device_with_the_chain_of_a_folder(keys: Path) -> None:
    anchors = ["--anchor", str(keys / "ecp384" / "ca.cert.der"), "--asym", "ECDSA_P384"]
    with device(Transport.MCTP, ALIAS, presented=PresentedOptions(identity=keys)) as peer:
        found = connect(peer, "--model", "alias", *anchors, transport=Transport.MCTP)
    assert found["session_ended"] is True
    certificates = found["certificates"]
    assert isinstance(certificates, dict)
    assert certificates["trust"] == "validated to a given anchor"
    assert len(certificates["subjects"]) == 4


def test_a_device_without_a_folder_makes_its_chain() -> None:
    with device(Transport.MCTP, ALIAS) as peer:
        found = connect(peer, "--model", "alias", transport=Transport.MCTP)
    certificates = found["certificates"]
    assert isinstance(certificates, dict)
    assert certificates["subjects"][-1].endswith(" firmware")


def test_a_new_owner_certifies_the_device_key(keys: Path, tmp_path: Path) -> None:
    request, chain = tmp_path / "new.csr", tmp_path / "new.chain.der"
    owner = tmp_path / "owner"
    assert runner.invoke(app, ["identity", "make", str(owner), "--asym", "ECDSA_P384"]).exit_code == 0
    factory = ProvisioningOptions(provisioning=Provisioned.NOW, trusted_environment=True)
    presented = PresentedOptions(identity=keys)
    with device(Transport.MCTP, ALIAS, once=False, presented=presented, provisioning=factory) as peer:
        connect(peer, "--operations", f"get-csr:{request}", "--asym", "ECDSA_P384", transport=Transport.MCTP)
        certify = ["identity", "certify", str(request), "--authority", str(owner / "ecp384"), "--out", str(chain)]
        done = runner.invoke(app, [*certify, "--alias"])
        assert done.exit_code == 0, done.output
        found = connect(
            peer,
            *("--operations", f"set-certificate:2:{chain},digests,certificate,challenge"),
            *("--slot", "2", "--model", "alias", "--anchor", str(owner / "ecp384" / "ca.cert.der")),
            *("--asym", "ECDSA_P384"),
            transport=Transport.MCTP,
        )
    certificates = found["certificates"]
    assert isinstance(certificates, dict)
    assert certificates["trust"] == "validated to a given anchor"
    assert len(certificates["subjects"]) == 4
