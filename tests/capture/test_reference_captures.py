"""Captures of the DMTF reference peers: every message, every secret, every signature."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from capture_files import Reference
from teeio.capture import render
from teeio.capture.dissect import Dissection, decode_capture
from teeio.capture.findings import Verdict
from teeio.capture.keylog import KeyLog, SessionSecrets, write_key_log
from teeio.capture.message import Protection
from teeio.capture.sessions import NO_FIT

Load = Callable[[str], Reference]

WHOLE = ["doe-1.2-p384-tdisp", "doe-1.3-p256-aes128", "doe-1.2-signed-measurements"]
"""Every byte of these is accounted for."""

MESSAGES = [
    *WHOLE,
    "doe-1.2-chacha20",
    "doe-1.3-mutual-encap",
    "doe-1.4-default",
    "mctp-1.0-attest",
    "mctp-1.1-rsapss3072",
    "mctp-1.2-psk",
    "mctp-1.3-provision",
]
"""Captures with a list of messages."""

PQC = "doe-1.4-mldsa65-mlkem768"
"""Post-quantum algorithms and chunks; the reference dissector cannot read it."""

UNCHECKED = {
    "mctp-1.3-provision": {
        "ENDPOINT_INFO signature: not checkable: the certificate chain of slot 0 is not in the capture"
    }
}
"""The requester signs here, but its chain is never read."""

NOT_SECRETS = {"session_id", "kind", "finished_keys", "RequestDataSecretUpdates", "ResponseDataSecretUpdates"}


def listed(dissection: Dissection) -> list[list[Any]]:
    """Give the messages in the form of the reference dissector, from our own JSON."""
    found = [json.loads(line) for line in render.json_lines(dissection)]
    return [[one[key] for key in ("frame", "direction", "session", "version", "code", "name")] for one in found]


def decoded(capture: Reference) -> Dissection:
    return decode_capture(capture.pcap, capture.keys)


@pytest.mark.parametrize("name", MESSAGES)
def test_the_messages_are_those_of_the_reference_dissector(name: str, reference: Load) -> None:
    capture = reference(name)
    dissection = decoded(capture)
    assert listed(dissection) == capture.expected["messages"]
    assert dissection.problems == []
    assert dissection.wrong() == []


@pytest.mark.parametrize("name", [*MESSAGES, PQC])
def test_the_key_schedule_gives_every_secret(name: str, reference: Load) -> None:
    capture = reference(name)
    dissection = decoded(capture)
    expected = capture.expected["sessions"]
    assert [f"{session.session_id:08x}" for session in dissection.sessions] == [one["session_id"] for one in expected]
    for session, wanted in zip(dissection.sessions, expected, strict=True):
        assert session.proven
        assert not session.unopened
        derived = {label: value.hex() for label, value in session.secrets.items()}
        named = {label: value for label, value in wanted.items() if label not in NOT_SECRETS}
        assert named.items() <= derived.items()
        assert [key.hex() for key in session.finished_keys or ()] == wanted["finished_keys"]


@pytest.mark.parametrize("name", [*MESSAGES, PQC])
@pytest.mark.parametrize("side", ["request", "response"])
def test_the_key_updates_give_their_secrets(name: str, side: str, reference: Load) -> None:
    # The requester prints them as they come, which with two sessions at once is not the session they belong to.
    capture = reference(name)
    sessions = decoded(capture).sessions
    found = [value.hex() for session in sessions for value in session.updates.get(f"{side}_data_secret_update", [])]
    printed = [one.get(f"{side.title()}DataSecretUpdates", []) for one in capture.expected["sessions"]]
    assert found == [value for values in printed for value in values]


@pytest.mark.parametrize("name", [*MESSAGES, PQC])
def test_every_signature_and_every_verify_data_checks_out(name: str, reference: Load) -> None:
    dissection = decoded(reference(name))
    findings = [finding for _, finding in dissection.findings()]
    assert {str(finding) for finding in findings if finding.verdict is not Verdict.OK} == UNCHECKED.get(name, set())
    parts = [part for message in dissection.messages for part in message.nested()]
    signed = [part for part in parts if getattr(part.message, "signature", None)]
    proofs = [part for part in parts if getattr(part.message, "verify_data", None)]
    assert sum("signature" in finding.check for finding in findings) == len(signed)
    assert sum("VerifyData" in finding.check for finding in findings) == len(proofs)
    assert signed or proofs


@pytest.mark.parametrize("name", WHOLE)
def test_every_byte_is_accounted_for(name: str, reference: Load) -> None:
    for message in decoded(reference(name)).messages:
        for part in message.nested():
            assert part.message is not None, part
            assert not part.error
            assert not part.trailing
            if part.is_spdm:
                assert part.message.encode(part.facts) == part.raw
                assert part.spans()[-1].end == len(part.raw)


@pytest.mark.parametrize("name", ["doe-1.2-p384-tdisp", "doe-1.3-p256-aes128", "doe-1.2-chacha20"])
def test_vendor_messages_are_decoded(name: str, reference: Load) -> None:
    vendor = [message.vendor for message in decoded(reference(name)).messages if message.vendor is not None]
    assert len(vendor) == 188
    assert {one.protocol for one in vendor} == {"IDE_KM", "TDISP", "CXL_IDE_KM", "CXL_TSP"}
    assert all(one.message is not None and not one.error for one in vendor)
    assert {"KEY_PROG", "K_GOSTOP_ACK", "LOCK_INTERFACE_RESPONSE", "DEVICE_INTERFACE_REPORT"} <= {
        one.name for one in vendor
    }
    reports = [one.structure for one in vendor if one.structure is not None]
    assert reports
    assert all(len(report.ranges) == 4 for report in reports)  # type: ignore[attr-defined]


def test_encapsulated_messages_are_decoded(reference: Load) -> None:
    dissection = decoded(reference("doe-1.3-mutual-encap"))
    inner = [message.inner.name for message in dissection.messages if message.inner is not None]
    assert inner[:6] == ["GET_DIGESTS", "DIGESTS", "GET_CERTIFICATE", "CERTIFICATE", "CHALLENGE", "CHALLENGE_AUTH"]
    assert not any(message.inner.error for message in dissection.messages if message.inner is not None)


def test_chunks_are_put_together(reference: Load) -> None:
    dissection = decoded(reference(PQC))
    whole = [message.inner.name for message in dissection.messages if message.inner is not None]
    assert {"CERTIFICATE", "KEY_EXCHANGE_RSP"} <= set(whole)


# -- keys --------------------------------------------------------------------------------------------------------------


def encrypted(dissection: Dissection) -> int:
    return sum(message.protection is Protection.UNOPENED for message in dissection.messages)


def test_without_keys_the_handshakes_are_shown(reference: Load) -> None:
    capture = reference("doe-1.2-p384-tdisp")
    dissection = decode_capture(capture.pcap)
    secured = sum(entry[2] is not None for entry in capture.expected["messages"])
    assert encrypted(dissection) == secured
    assert dissection.problems == [f"{secured} records are encrypted: give the key log of this run"]
    clear = [entry for entry in listed(dissection) if entry[5] is not None]
    assert clear == [entry for entry in capture.expected["messages"] if entry[2] is None]
    hidden = [entry[:3] for entry in listed(dissection) if entry[5] is None]
    assert hidden == [entry[:3] for entry in capture.expected["messages"] if entry[2] is not None]


def test_wrong_keys_give_one_clear_message(reference: Load) -> None:
    capture = reference("doe-1.2-signed-measurements")
    dissection = decode_capture(capture.pcap, reference("doe-1.2-p384-tdisp").keys)
    assert dissection.problems == ["the key log opens no record of this capture: are they of the same run?"]
    assert dissection.wrong() == []
    unknown = [finding.check for _, finding in dissection.findings() if finding.reason == NO_FIT]
    assert unknown == ["RequesterVerifyData", "ResponderVerifyData"] * 2
    assert "sessions of the key log match none of the capture" in dissection.notes[-1]


def test_the_keys_of_one_session_open_that_session(reference: Load) -> None:
    capture = reference("doe-1.2-signed-measurements")
    dissection = decode_capture(capture.pcap, json.dumps(capture.expected["sessions"][1:]))
    first, second = dissection.sessions
    assert first.unopened
    assert not first.opened
    assert second.opened
    assert not second.unopened
    assert dissection.problems == []
    (note,) = dissection.notes
    assert "session 1 (0xffffffff of connection 1, from frame 28)" in note
    assert NO_FIT in note


@pytest.mark.parametrize("name", ["doe-1.2-p384-tdisp", "mctp-1.2-psk", PQC])
@pytest.mark.parametrize("derived_only", [False, True])
def test_our_own_key_log_opens_the_same(name: str, derived_only: bool, reference: Load) -> None:
    capture = reference(name)
    first = decoded(capture)
    entries = [session.log_entry() for session in first.sessions]
    if derived_only:
        shared = ("psk", "dhe_secret", "kem_secret")
        entries = [
            SessionSecrets(entry.session_id, {k: v for k, v in entry.values.items() if k not in shared})
            for entry in entries
        ]
    second = decode_capture(capture.pcap, write_key_log(KeyLog(entries)))
    assert listed(second) == listed(first)
    assert second.problems == []


# -- damage ------------------------------------------------------------------------------------------------------------


def test_a_changed_signature_is_wrong(reference: Load) -> None:
    capture = reference("doe-1.2-signed-measurements")
    first = decoded(capture)
    for message in first.messages:
        signature = getattr(message.message, "signature", b"")
        if not signature or message.protection is not Protection.CLEAR:
            continue
        at = capture.pcap.index(signature)
        damaged = capture.pcap[:at] + bytes([signature[0] ^ 1]) + capture.pcap[at + 1 :]
        wrong = decode_capture(damaged, capture.keys).wrong()
        assert wrong[0][0] == message.frame
        assert wrong[0][1].check == f"{message.name} signature"


def test_a_changed_message_spoils_what_covers_it(reference: Load) -> None:
    capture = reference("doe-1.2-signed-measurements")
    at = capture.pcap.index(bytes.fromhex("12e1000000"))  # GET_CAPABILITIES is in every transcript
    damaged = capture.pcap[: at + 5] + b"\x07" + capture.pcap[at + 6 :]
    dissection = decode_capture(damaged, capture.keys)
    assert {finding.check for _, finding in dissection.wrong()} == {
        "KEY_EXCHANGE_RSP signature",
        "MEASUREMENTS signature",
    }
    unknown = {finding.check for _, finding in dissection.findings() if finding.reason == NO_FIT}
    assert unknown == {"RequesterVerifyData", "ResponderVerifyData"}


def test_a_changed_chain_has_another_digest(reference: Load) -> None:
    capture = reference("doe-1.2-signed-measurements")
    at = capture.pcap.index(b"DMTF libspdm ECP384 intermediate")
    damaged = capture.pcap[:at] + b"X" + capture.pcap[at + 1 :]
    wrong = decode_capture(damaged, capture.keys).wrong()
    assert (16, "digest of slot 0") in [(frame, finding.check) for frame, finding in wrong]


def test_a_capture_that_begins_late_is_still_shown(reference: Load) -> None:
    capture = reference("mctp-1.2-psk")
    header, rest = capture.pcap[:24], capture.pcap[24:]
    at = 0
    for _ in range(8):
        at += 16 + int.from_bytes(rest[at + 8 : at + 12], "little")
    dissection = decode_capture(header + rest[at:], capture.keys)
    assert {message.error for message in dissection.messages} == {"the beginning of the session is not in the capture"}
