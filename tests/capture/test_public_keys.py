"""Captures of sides that are known by public keys: all is checked when the keys are given, and nothing is called wrong without them."""

from functools import cache, partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from capture_files import Recorder
from spdm.public_key_pair import DEVICE, P256, P384, key, known_device, known_requester
from teeio.capture.chains import ProvisionedKeys
from teeio.capture.dissect import Dissection, decode_capture
from teeio.capture.findings import Verdict
from teeio.capture.pcap import LinkType
from teeio.cli.app import app
from teeio.crypto.public_key_files import public_keys_pem
from teeio.spdm import flows
from teeio.spdm.constants import PUBLIC_KEY_SLOT, Capability, MutualAuth, Version

RESPONDER, REQUESTER = key(P384).public, key(P256).public
OTHER = ProvisionedKeys((key(P384, b"another").public,), (key(P256, b"another").public,))
BOTH = ProvisionedKeys((REQUESTER, RESPONDER), (REQUESTER,))
recording = partial(Recorder, LinkType.PCI_DOE)


@cache
def by_key(version: Version) -> tuple[bytes, str]:
    """Record challenge, measurements, endpoint information and a session with a responder that is known by its key."""
    extra = Capability.EP_INFO_SIG if version >= Version.V1_3 else Capability(0)
    pair = known_device(version, DEVICE | extra, make=recording)
    run, requester = pair.run, pair.requester
    run(flows.connect(requester))
    run(flows.challenge(requester, PUBLIC_KEY_SLOT))
    run(flows.get_measurements(requester, slot=PUBLIC_KEY_SLOT))
    if extra:
        run(flows.get_endpoint_info(requester, slot=PUBLIC_KEY_SLOT))
    session = run(flows.key_exchange(requester, PUBLIC_KEY_SLOT))
    run(flows.get_measurements(requester, slot=PUBLIC_KEY_SLOT, session=session.session_id))
    run(flows.end_session(requester, session))
    return pair.files()


@cache
def both_by_key(mode: MutualAuth) -> tuple[bytes, str]:
    """Record basic and session-based mutual authentication between sides that are known by their keys."""
    pair = known_requester(Version.V1_3, mode, basic=True, make=recording)
    pair.run(flows.connect(pair.requester))
    pair.run(flows.challenge(pair.requester, PUBLIC_KEY_SLOT))
    pair.run(flows.heartbeat(pair.run(flows.key_exchange(pair.requester, PUBLIC_KEY_SLOT))))
    return pair.files()


def verdicts(found: Dissection, word: str) -> list[Verdict]:
    return [finding.verdict for _, finding in found.findings() if word in finding.check]


@pytest.mark.parametrize("version", [Version.V1_1, Version.V1_2, Version.V1_3, Version.V1_4], ids=lambda v: v.text)
def test_a_known_key_checks_every_signature(version: Version) -> None:
    found = decode_capture(*by_key(version), ProvisionedKeys(BOTH.responder))
    assert found.problems == found.notes == []
    assert {finding.verdict for _, finding in found.findings()} == {Verdict.OK}
    expected = ["CHALLENGE_AUTH", "MEASUREMENTS", "KEY_EXCHANGE_RSP", "MEASUREMENTS"]
    if version >= Version.V1_3:
        expected.insert(2, "ENDPOINT_INFO")
    signed = [finding.check for _, finding in found.findings() if finding.check.endswith(" signature")]
    assert signed == [f"{name} signature" for name in expected]
    assert verdicts(found, "CertChainHash") == [Verdict.OK]


def test_without_the_key_signatures_are_not_checkable_and_the_reason_says_what_to_give() -> None:
    found = decode_capture(*by_key(Version.V1_3))
    assert set(verdicts(found, "signature")) == {Verdict.NOT_CHECKABLE}
    reasons = {finding.reason for _, finding in found.findings() if finding.check.endswith(" signature")}
    assert reasons == {"the provisioned public key is not known: no capture has it"}
    assert found.wrong() == []


def test_another_key_makes_signatures_and_the_hash_wrong() -> None:
    found = decode_capture(*by_key(Version.V1_2), OTHER)
    assert set(verdicts(found, "CHALLENGE_AUTH signature")) == {Verdict.WRONG}
    assert verdicts(found, "CertChainHash") == [Verdict.WRONG]


@pytest.mark.parametrize("mode", [MutualAuth.PLAIN, MutualAuth.ENCAPSULATED], ids=lambda mode: mode.name)
def test_both_sides_known_by_keys(mode: MutualAuth) -> None:
    found = decode_capture(*both_by_key(mode), BOTH)
    assert {finding.verdict for _, finding in found.findings()} == {Verdict.OK}
    assert found.problems == found.notes == []
    assert verdicts(found, "FINISH signature") == [Verdict.OK]
    assert len(verdicts(found, "CHALLENGE_AUTH signature")) == 2, "the responder's and the requester's"


def test_the_requesters_key_is_not_the_responders() -> None:
    mixed = ProvisionedKeys(BOTH.responder, OTHER.requester)
    found = decode_capture(*both_by_key(MutualAuth.PLAIN), mixed)
    assert verdicts(found, "CHALLENGE_AUTH signature") == [Verdict.OK, Verdict.WRONG]
    assert verdicts(found, "FINISH signature") == [Verdict.WRONG]


def test_the_command_takes_keys_as_files(tmp_path: Path) -> None:
    pcap, log = both_by_key(MutualAuth.PLAIN)
    for name, data in (("run.pcap", pcap), ("run.keys", log.encode()), ("rsp.pem", public_keys_pem([RESPONDER]))):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "req.pem").write_bytes(public_keys_pem([REQUESTER]))
    options = ["decode", str(tmp_path / "run.pcap"), "--keys", str(tmp_path / "run.keys"), "--brief"]
    keys = ["--responder-key", str(tmp_path / "rsp.pem"), "--requester-key", str(tmp_path / "req.pem")]
    result = CliRunner().invoke(app, [*options, *keys])
    assert result.exit_code == 0, result.output
    assert "0 wrong, 0 not checkable" in result.stdout
    swapped = ["--responder-key", str(tmp_path / "rsp.pem"), "--requester-key", str(tmp_path / "run.keys")]
    result = CliRunner().invoke(app, [*options, *swapped])
    assert result.exit_code == 3
    assert "no public key" in result.stderr
