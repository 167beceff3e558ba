"""Our own SPDM code against the published vectors: transcripts, key schedule and records from the published inputs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from teeio.crypto.algorithms import Aead, BaseAsym, BaseHash
from teeio.crypto.kdf import digest
from teeio.mctp import MctpBinding
from teeio.pcie.doe import DoeBinding
from teeio.spdm import messages as m
from teeio.spdm.binding import Binding
from teeio.spdm.constants import Version
from teeio.spdm.key_schedule import KeySchedule
from teeio.spdm.record import RecordKey
from teeio.spdm.transcript import Transcript, signing_message

FILES = sorted(Path(__file__).parent.glob("spdm-*.json"))
BINDINGS: dict[str, Binding] = {"pci_doe": DoeBinding(), "mctp": MctpBinding()}


def cases() -> Iterator[Any]:
    for path in FILES:
        content = json.loads(path.read_text())
        for at, connection in enumerate(content["connections"]):
            yield pytest.param(content, connection, id=f"{path.stem}-{at}")


def schedule_of(content: dict[str, Any]) -> KeySchedule:
    version = Version[f"V{content['spdm_version'].replace('.', '_')}"]
    algorithms = content["algorithms"]
    return KeySchedule(version, BaseHash[algorithms["base_hash"]], Aead[algorithms["aead"]])


@pytest.mark.parametrize(("content", "connection"), list(cases()))
def test_transcripts(content: dict[str, Any], connection: dict[str, Any]) -> None:
    schedule = schedule_of(content)
    size = BaseAsym[content["algorithms"]["base_asym"]].signature_size
    codes = {cls.NAME: cls.CODE for cls in m.declared()}
    transcript = Transcript()
    messages = connection["messages"]
    signatures = {entry["signature"]: entry for entry in _signatures(connection)}
    checked = 0
    for at in range(0, len(messages), 2):
        request, response = (bytes.fromhex(messages[at + way]["bytes"]) for way in (0, 1))
        session = int(messages[at]["session"], 16) if messages[at]["session"] else None
        code = codes[messages[at]["name"]]
        transcript.begin(code, session)
        published = signatures.get(response[-size:].hex())
        if published is not None:
            name = messages[at]["name"]
            found = (
                transcript.m1(request, response[:-size])
                if name == "CHALLENGE"
                else transcript.l1(schedule.version, session, request, response[:-size])
            )
            signed = signing_message(schedule.version, published["context"], found, schedule.base_hash)
            assert signed.hex() == published["to_be_signed"]
            checked += 1
        if messages[at]["name"] == "KEY_EXCHANGE":
            (kex,) = [s for s in connection["sessions"] if s["kind"] == "key_exchange"]
            begun = transcript.handshake(bytes.fromhex(content["certificate_chain_hash"]), multi_key=False)
            th1 = begun + request + response
            assert digest(schedule.base_hash, th1[: len(th1) - kex["th1"]["cut"]]).hex() == kex["th1"]["hash"]
        transcript.end(code, request, response, session)
    assert checked == len(signatures)


def _signatures(connection: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for holder in (connection, *connection["sessions"]):
        yield from (holder[name] for name in ("challenge", "measurements") if name in holder)


@pytest.mark.parametrize(("content", "connection"), list(cases()))
def test_keys_and_records(content: dict[str, Any], connection: dict[str, Any]) -> None:
    schedule = schedule_of(content)
    for session in connection["sessions"]:
        shown, application = session["handshake"], session["application"]
        th1, th2 = (_transcript(content, connection, session[name]) for name in ("th1", "th2"))
        shared = bytes.fromhex(session["shared_secret"])
        handshake = schedule.handshake(shared, th1, psk=session["kind"] == "psk")
        data = schedule.data(handshake.handshake, th2)
        assert handshake.request_finished.hex() == shown["request_finished_key"]
        assert data.export_master.hex() == application["export_master_secret"]
        keys: dict[tuple[str, str, str, str], RecordKey] = {}
        starts = {
            ("handshake", "request"): handshake.request,
            ("handshake", "response"): handshake.response,
            ("application", "request"): data.request,
            ("application", "response"): data.response,
        }
        generations: dict[tuple[str, str, str, str], int] = {}
        for record in session["records"]:
            place = (record["phase"], record["direction"])
            way = (record["binding"], record["protection"], *place)
            key = keys.setdefault(way, RecordKey(schedule, starts[place]))
            if generations.setdefault(way, 0) != record["generation"]:
                key = keys[way] = key.updated()
                generations[way] += 1
            assert key.sequence == record["sequence_number"]
            opened = key.open(
                bytes.fromhex(record["record"]),
                BINDINGS[record["binding"]],
                encrypted=record["protection"] == "encrypted",
            )
            assert opened.hex() == connection["messages"][record["message"]]["bytes"]


def _transcript(content: dict[str, Any], connection: dict[str, Any], transcript: dict[str, Any]) -> bytes:
    found = b"".join(
        bytes.fromhex(content[part] if isinstance(part, str) else connection["messages"][part]["bytes"])
        for part in transcript["parts"]
    )
    return found[: len(found) - transcript["cut"]]
