"""Provisioning a device from the command line: requests, slots and key pairs, at once and at a reset."""

from pathlib import Path

import pytest

from cli.served import connect, device, done, run, runner
from teeio.cli.app import app
from teeio.cli.choices import Choices
from teeio.cli.device_options import MultiKey, PresentedOptions, Provisioned, ProvisioningOptions, TellingOptions
from teeio.transport.kinds import Transport

NOW = ProvisioningOptions(provisioning=Provisioned.NOW)
FACTORY = ProvisioningOptions(provisioning=Provisioned.NOW, trusted_environment=True, spare_keys=1)
AT_RESET = ProvisioningOptions(provisioning=Provisioned.RESET, trusted_environment=True, reset_on_disconnect=True)


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new owner's authorities."""
    folder = tmp_path_factory.mktemp("owner")
    made = runner.invoke(app, ["identity", "make", str(folder), "--asym", "ECDSA_P384", "--name", "Owner:x:1"])
    assert made.exit_code == 0
    return folder / "ecp384"


def certified(request: Path, owner: Path) -> Path:
    chain = request.with_suffix(".chain.der")
    result = runner.invoke(
        app, ["identity", "certify", str(request), "--authority", str(owner), "--out", str(chain), "--name", "a:b:2"]
    )
    assert result.exit_code == 0, result.stderr
    return chain


@pytest.mark.parametrize("transport", [Transport.MCTP, Transport.PCI_DOE])
def test_a_slot_gets_a_chain_of_another_owner(owner: Path, tmp_path: Path, transport: Transport) -> None:
    request = tmp_path / "new.csr"
    with device(transport, provisioning=NOW, once=False) as peer:
        connect(peer, "--operations", f"certificate,session,get-csr:{request}", transport=transport)
        chain = certified(request, owner)
        operations = f"certificate,session,set-certificate:2:{chain},end,digests,certificate:2,challenge:2"
        found = connect(peer, "--operations", operations, transport=transport)
        assert found["certificate_set"] == {"slot": 2, "reset_required": False}
        assert found["slots"] == [0, 2]
        assert found["certificates"]["subjects"][-1] == "CN=a:b:2"
        trusted = connect(
            peer, "--operations", "certificate,challenge,session", "--slot", "2",
            "--anchor", str(owner / "ca.cert.der"), transport=transport,
        )  # fmt: skip
        assert trusted["certificates"]["trust"] == "validated to a given anchor"
        erased = connect(
            peer, "--operations", "certificate,session,erase-certificate:2,end,digests", transport=transport
        )
        assert erased["slots"] == [0]


@pytest.mark.parametrize(("info", "taken"), [(b"\x30\x00", True), (b"no DER", False)], ids=["DER", "no DER"])
def test_requester_info_comes_from_a_file(tmp_path: Path, info: bytes, taken: bool) -> None:
    wanted = tmp_path / "info.der"
    wanted.write_bytes(info)
    with device(provisioning=FACTORY) as peer:
        result = run(peer, "--json", "--operations", f"certificate,get-csr:+info={wanted}")
    assert (result.exit_code == 0) is taken
    assert ("INVALID_REQUEST" in result.stderr) is not taken


def test_changes_wait_for_a_reset(owner: Path, tmp_path: Path) -> None:
    request, said = tmp_path / "new.csr", list[str]()
    with device(provisioning=AT_RESET, once=False, said=said) as peer:
        first = done(peer, f"certificate,get-csr:{request}")[-1]
        assert first["csr"] == {"reset_required": True, "tracking_tag": 1}
        assert not request.exists()
        assert done(peer, "certificate,get-csr,get-csr::new,get-csr")[-1]["csr"]["tracking_tag"] == 2
        again = done(peer, f"certificate,get-csr:{request}:1")[-1]
        assert again["csr"]["bytes"] == request.stat().st_size
        chain = certified(request, owner)
        written = done(peer, f"certificate,set-certificate:0:{chain},digests")
        assert written[1]["certificate_set"] == {"slot": 0, "reset_required": True}
        known = done(peer, "certificate,challenge", "--anchor", str(owner / "ca.cert.der"))
        assert known[0]["certificates"]["subjects"][-1] == "CN=a:b:2"
    assert said.count("the device was reset") == 5


def test_after_a_reset_the_device_lives_as_before(tmp_path: Path) -> None:
    with device(Transport.PCI_DOE, provisioning=AT_RESET, once=False) as peer:
        for _ in range(2):
            assert connect(peer, transport=Transport.PCI_DOE)["tdisp"]["states"][-1] == "CONFIG_UNLOCKED"


def test_slot_0_is_for_the_factory(owner: Path) -> None:
    chain = owner / "bundle_responder.certchain.der"
    with device(provisioning=NOW) as peer:
        result = run(peer, "--operations", f"certificate,session,set-certificate:0:{chain}")
    assert (result.exit_code, "UNEXPECTED_REQUEST" in result.stderr) == (1, True)


def test_a_chain_for_another_key_is_refused(owner: Path) -> None:
    chain = owner / "bundle_responder.certchain.der"
    with device(provisioning=FACTORY) as peer:
        result = run(peer, "--operations", f"certificate,set-certificate:1:{chain}")
    assert (result.exit_code, "OPERATION_FAILED" in result.stderr) == (1, True)


def test_key_pairs() -> None:
    operations = (
        "key-pair-info,set-key-pair-info:3:generate+algorithm=ECDSA_P384+usage=2,key-pair-info:3,"
        "set-key-pair-info:3:change+usage=4,key-pair-info:3,set-key-pair-info:3:erase,key-pair-info:3"
    )
    with device(provisioning=FACTORY) as peer:
        before, _, made, _, changed, _, erased = done(peer, operations)
    assert [(one["algorithm"], one["slots"]) for one in before["key_pairs"]] == [
        ("ECC_P384", [0]),
        ("ECC_P256", [0]),
        (None, []),
    ]
    assert "GENERATE" in before["key_pairs"][2]["capabilities"]
    assert (made["key_pairs"][0]["algorithm"], made["key_pairs"][0]["usage"]) == ("ECC_P384", ["CHALLENGE"])
    assert changed["key_pairs"][0]["usage"] == ["MEASUREMENT"]
    assert erased["key_pairs"][0]["algorithm"] is None


def test_a_slot_with_a_key_of_its_own(owner: Path, tmp_path: Path) -> None:
    request = tmp_path / "second.csr"
    several = ProvisioningOptions(Provisioned.NOW, trusted_environment=True, multi_key=MultiKey.OFFERED, spare_keys=1)
    options = ("--multi-key", "--key-pair", "3")
    with device(provisioning=several, once=False) as peer:
        done(peer, f"set-key-pair-info:3:generate+algorithm=ECDSA_P384,get-csr:{request}", *options)
        chain = certified(request, owner)
        found = done(peer, f"set-certificate:1:{chain},digests,certificate:1,challenge:1,key-pair-info:3", *options)
    assert found[1]["slots"] == [0, 1]
    assert found[4]["key_pairs"][0]["slots"] == [1]


def test_a_device_that_cannot_be_provisioned_says_so() -> None:
    with device() as peer:
        result = run(peer, "--operations", "get-csr")
    assert result.exit_code == 2
    assert "the capability for it is not negotiated" in result.stderr


def test_certificates_change_and_whoever_has_subscribed_hears_of_it(owner: Path, tmp_path: Path) -> None:
    request = tmp_path / "new.csr"
    with device(provisioning=NOW, telling=TellingOptions(events=True), once=False) as peer:
        done(peer, f"certificate,session,get-csr:{request}")
        chain = certified(request, owner)
        found = done(
            peer, f"certificate,session,subscribe:certificate-changed,serve,set-certificate:3:{chain},serve,serve"
        )
    assert [one["served"]["events"] for one in found if "served" in one] == [
        [],
        [{"instance_id": 0, "type": "CERTIFICATE_CHANGED", "detail": "08"}],
        [],
    ]


def test_choices_alone_make_a_device_provisionable() -> None:
    """The capability flags alone decide what is offered."""
    with device(choices=Choices(capabilities="+GET_KEY_PAIR_INFO")) as peer:
        assert len(done(peer, "key-pair-info")[0]["key_pairs"]) == 2


@pytest.mark.parametrize(
    ("content", "folder", "code", "message"),
    [
        (b"hello", "owner", 3, "cannot be decoded"),
        (None, "missing", 2, "has no bundle_responder"),
    ],
)
def test_certifying_what_is_no_request(
    owner: Path, tmp_path: Path, content: bytes | None, folder: str, code: int, message: str
) -> None:
    request = tmp_path / "x.csr"
    request.write_bytes(content or b"")
    authority = owner if folder == "owner" else tmp_path
    result = runner.invoke(
        app, ["identity", "certify", str(request), "--authority", str(authority), "--out", str(tmp_path / "out")]
    )
    assert (result.exit_code, message in result.stderr) == (code, True)


def test_the_alias_model_is_asked_for_by_itself(owner: Path) -> None:
    options = ("--anchor", str(owner / "ca.cert.der"))
    presented = PresentedOptions(identity=owner.parent)
    with device(
        choices=Choices(capabilities="+ALIAS_CERT", asym="ECDSA_P384"), presented=presented, once=False
    ) as peer:
        found = done(peer, "certificate,challenge", *options)
        assert found[0]["certificates"]["trust"] == "validated to a given anchor"
        other = done(peer, "certificate", "--model", "device", *options)
    assert found[0]["certificates"]["findings"] != other[0]["certificates"]["findings"]
