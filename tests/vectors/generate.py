"""Write the published SPDM vectors: seeded conversations of our own engines, laid open (docs/vectors.md has the form).

    PYTHONPATH=src python tests/vectors/generate.py [--check] [FOLDER]

`--check` compares instead of writing. What is written here is recomputed by test_vectors.py without any SPDM code of ours.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conversations import CLEAR, PSK, PSK_HINT, Conversation, Noted, clear_conversation, main_conversation

from teeio.capture.dissect import DissectedMessage, Dissection
from teeio.capture.sessions import Direction
from teeio.crypto.algorithms import P256_SUITE, P384_SUITE, Suite
from teeio.crypto.kdf import digest
from teeio.crypto.keys import SigningKey, verify
from teeio.mctp import MctpBinding
from teeio.pcie.doe import DoeBinding
from teeio.spdm.binding import Binding
from teeio.spdm.constants import KeyUpdateOperation, Version
from teeio.spdm.record import RecordKey
from teeio.spdm.state import Session
from teeio.spdm.transcript import CHALLENGE_CONTEXT, KEY_EXCHANGE_CONTEXT, MEASUREMENTS_CONTEXT, signing_message

FORMAT = "teeio-spdm-vectors-1"
FOLDER = Path(__file__).parent
SUITES: dict[str, Suite] = {"p256-sha256": P256_SUITE, "p384-sha384": P384_SUITE}
Parts = list[int | str]
"""A transcript: indices of messages, and "certificate_chain_hash" where that hash stands."""

CHAIN_HASH = "certificate_chain_hash"


def file_name(version: Version, suite: str) -> str:
    """Give the name of a vector file."""
    return f"spdm-{version.text}-{suite}.json"


# -- laid open -----------------------------------------------------------------------------------------------------------


@dataclass
class Laid:
    """A conversation as messages, from which transcripts are put together."""

    conversation: Conversation
    dissection: Dissection
    chain_hash: bytes

    @property
    def messages(self) -> Sequence[DissectedMessage]:
        return self.dissection.messages

    def index(self, name: str, session: int | None = None, after: int = 0) -> int:
        """Find the first message of a name and place from `after` on."""
        for at in range(after, len(self.messages)):
            if self.messages[at].name == name and self.messages[at].session == session:
                return at
        raise LookupError(name)

    @property
    def vca(self) -> Parts:
        return list(range(6))

    def transcript(self, parts: Parts, cut: int) -> tuple[bytes, dict[str, Any]]:
        """Give the bytes of a transcript and how it is published; `cut` bytes of the last part are left out."""
        found = b"".join(self.chain_hash if isinstance(at, str) else self.messages[at].raw for at in parts)
        found = found[: len(found) - cut]
        hashed = digest(self.conversation.suite.base_hash, found)
        return found, {"parts": parts, "cut": cut, "hash": hashed.hex()}

    def signature(self, parts: Parts, cut: int, context: str, signature: bytes) -> dict[str, Any]:
        """Publish a signature over a transcript."""
        c = self.conversation
        found, shown = self.transcript(parts, cut)
        message = signing_message(c.version, context, found, c.suite.base_hash)
        key = c.identity.key
        verify(key.public, key.algorithm, message, signature, c.suite.base_hash, context)
        return {"transcript": shown, "context": context, "to_be_signed": message.hex(), "signature": signature.hex()}


def connection(c: Conversation, name: str) -> dict[str, Any]:
    """Publish a conversation."""
    laid = Laid(c, c.dissection(), digest(c.suite.base_hash, c.responder.slot(0).chain(c.suite.base_hash)))
    shown: dict[str, Any] = {
        "name": name,
        "messages": [
            {
                "name": found.name,
                "session": None if found.session is None else f"{found.session:08x}",
                "bytes": found.raw.hex(),
            }
            for found in laid.messages
        ],
    }
    size = c.suite.base_asym.signature_size
    if not c.extra:
        at = laid.index("CHALLENGE")
        raw = laid.messages[at + 1].raw
        m1: Parts = [*laid.vca, *range(6, at + 2)]
        shown["challenge"] = laid.signature(m1, size, CHALLENGE_CONTEXT, raw[-size:])
        shown["measurements"] = _measurements(laid, None, 2)
    shown["sessions"] = [_session(laid, session) for session in c.sessions]
    return shown


def _measurements(laid: Laid, session: int | None, exchanges: int) -> dict[str, Any]:
    first = laid.index("GET_MEASUREMENTS", session)
    vca = laid.vca if laid.conversation.version >= Version.V1_2 else []
    size = laid.conversation.suite.base_asym.signature_size
    last = first + 2 * exchanges
    return laid.signature([*vca, *range(first, last)], size, MEASUREMENTS_CONTEXT, laid.messages[last - 1].raw[-size:])


def _session(laid: Laid, session: Session) -> dict[str, Any]:
    psk = any(found.name == "PSK_FINISH" and found.session == session.session_id for found in laid.messages)
    shown = _psk_handshake(laid, session) if psk else _handshake(laid, session)
    if not psk:
        own = any(f.name == "GET_MEASUREMENTS" and f.session == session.session_id for f in laid.messages)
        if own:
            shown["measurements"] = _measurements(laid, session.session_id, 1)
    shown["records"] = list(_records(laid, session, shown, psk=psk))
    return {"session_id": f"{session.session_id:08x}", "kind": "psk" if psk else "key_exchange", **shown}


def _keys(session: Session, prefix: str, secret: bytes) -> dict[str, str]:
    traffic = session.schedule.traffic(secret)
    return {f"{prefix}_key": traffic.key.hex(), f"{prefix}_iv": traffic.iv.hex()}


def _secrets(laid: Laid, session: Session, shared: bytes, th1: bytes, th2: bytes, *, psk: bool) -> dict[str, Any]:
    assert th2 == session.transcript
    schedule = session.schedule
    handshake = schedule.handshake(shared, th1, psk=psk)
    assert handshake == session.handshake
    data = schedule.data(handshake.handshake, th2)
    return {
        "handshake": {
            "handshake_secret": handshake.handshake.hex(),
            "request_secret": handshake.request.hex(),
            "response_secret": handshake.response.hex(),
            "request_finished_key": handshake.request_finished.hex(),
            "response_finished_key": handshake.response_finished.hex(),
            **_keys(session, "request", handshake.request),
            **_keys(session, "response", handshake.response),
        },
        "application": {
            "master_secret": data.master.hex(),
            "export_master_secret": data.export_master.hex(),
            "request": [_generation(session, secret) for secret in _generations(laid, session, data.request, "req")],
            "response": [_generation(session, secret) for secret in _generations(laid, session, data.response, "rsp")],
        },
    }


def _generation(session: Session, secret: bytes) -> dict[str, str]:
    traffic = session.schedule.traffic(secret)
    return {"secret": secret.hex(), "key": traffic.key.hex(), "iv": traffic.iv.hex()}


def _generations(laid: Laid, session: Session, secret: bytes, side: str) -> Iterator[bytes]:
    """Yield the secret of a direction and what each KEY_UPDATE makes of it."""
    yield secret
    for found in laid.messages:
        if found.name == "KEY_UPDATE" and found.session == session.session_id:
            operation = found.raw[2]
            if operation == KeyUpdateOperation.UPDATE_ALL_KEYS or (
                operation == KeyUpdateOperation.UPDATE_KEY and side == "req"
            ):
                secret = session.schedule.updated(secret)
                yield secret


def _handshake(laid: Laid, session: Session) -> dict[str, Any]:
    c = laid.conversation
    hash_size, size = c.suite.base_hash.size, c.suite.base_asym.signature_size
    clear = bool(c.extra & CLEAR)
    at = laid.index("KEY_EXCHANGE")
    rsp = laid.messages[at + 1].raw
    tail = 0 if clear else hash_size
    finish, finish_rsp = at + 2, at + 3
    parts: Parts = [*laid.vca, CHAIN_HASH, at, at + 1]
    th1, th1_shown = laid.transcript(parts, tail)
    th2, th2_shown = laid.transcript([*parts, finish, finish_rsp], 0)
    _, requester = laid.transcript([*parts, finish], hash_size)
    shared = next(e.value for e in c.events if getattr(e, "label", "") == "dhe_secret")
    proofs: dict[str, Any] = {
        "requester_verify_data": {"transcript": requester, "value": laid.messages[finish].raw[-hash_size:].hex()}
    }
    if clear:
        _, responder = laid.transcript([*parts, finish, finish_rsp], hash_size)
        value = laid.messages[finish_rsp].raw[-hash_size:]
    else:
        responder, value = th1_shown, rsp[-hash_size:]
    proofs["responder_verify_data"] = {"transcript": responder, "value": value.hex()}
    signature = rsp[len(rsp) - tail - size : len(rsp) - tail]
    return {
        "handshake_in_the_clear": clear,
        "requester_private_key": _scalar(c, "requester").hex(),
        "responder_private_key": _scalar(c, "responder").hex(),
        "shared_secret": shared.hex(),
        "signature": laid.signature(parts, tail + size, KEY_EXCHANGE_CONTEXT, signature),
        "th1": th1_shown,
        **proofs,
        "th2": th2_shown,
        **_secrets(laid, session, shared, th1, th2, psk=False),
    }


def _scalar(c: Conversation, side: str) -> bytes:
    """Give the private scalar of a side's ephemeral key, as `teeio.crypto.scalars` draws it."""
    from teeio.crypto.scalars import private_key

    size = c.suite.dhe.exchange_size // 2
    (drawn,) = [value for value in c.entropy[side].given if len(value) == size + 16]
    return private_key(size, lambda _: drawn).private_numbers().private_value.to_bytes(size, "big")


def _psk_handshake(laid: Laid, session: Session) -> dict[str, Any]:
    hash_size = laid.conversation.suite.base_hash.size
    at = laid.index("PSK_EXCHANGE")
    finish = laid.index("PSK_FINISH", session.session_id)
    parts: Parts = [*laid.vca, at, at + 1]
    th1, th1_shown = laid.transcript(parts, hash_size)
    th2, th2_shown = laid.transcript([*parts, finish, finish + 1], 0)
    _, requester = laid.transcript([*parts, finish], hash_size)
    return {
        "handshake_in_the_clear": False,
        "psk_hint": PSK_HINT.hex(),
        "shared_secret": PSK.hex(),
        "th1": th1_shown,
        "responder_verify_data": {"transcript": th1_shown, "value": laid.messages[at + 1].raw[-hash_size:].hex()},
        "requester_verify_data": {"transcript": requester, "value": laid.messages[finish].raw[-hash_size:].hex()},
        "th2": th2_shown,
        **_secrets(laid, session, PSK, th1, th2, psk=True),
    }


# -- records -------------------------------------------------------------------------------------------------------------


def _records(laid: Laid, session: Session, shown: dict[str, Any], *, psk: bool) -> Iterator[dict[str, Any]]:
    bindings: list[tuple[Binding, bool]] = [(DoeBinding(), True), (MctpBinding(), True)]
    if not psk and not laid.conversation.extra:
        bindings += [(DoeBinding(), False), (MctpBinding(), False)]
    for binding, encrypted in bindings:
        yield from _sealed(laid, session, shown, binding, encrypted)


def _sealed(
    laid: Laid, session: Session, shown: dict[str, Any], binding: Binding, encrypted: bool
) -> Iterator[dict[str, Any]]:
    """Seal all messages of a session again. On DOE, encrypted, that is what travelled."""
    padding = Noted(f"padding {session.session_id}")
    generation = {"request": 0, "response": 0}
    phase = "application" if shown["handshake_in_the_clear"] else "handshake"
    keys: dict[tuple[str, str, int], RecordKey] = {}
    for at, found in enumerate(laid.messages):
        if found.session != session.session_id:
            continue
        direction = "request" if found.direction is Direction.REQUEST else "response"
        way = (phase, direction, generation[direction] if phase == "application" else 0)
        if way not in keys:
            keys[way] = RecordKey(session.schedule, _secret_of(shown, *way))
        key = keys[way]
        sequence = key.sequence
        record = key.seal(session.session_id, found.raw, binding, padding, encrypted=encrypted)
        if binding.name == "pci_doe" and encrypted:
            travelled = laid.dissection.capture.frames[at].data
            assert travelled[8 : 8 + len(record)] == record, found.name
        shown_padding = padding.given[-1] if encrypted and binding.max_random_padding else b""
        yield {
            "binding": binding.name,
            "protection": "encrypted" if encrypted else "authenticated",
            "message": at,
            "phase": phase,
            "direction": direction,
            "generation": way[2],
            "sequence_number": sequence,
            "padding": shown_padding.hex(),
            "record": record.hex(),
        }
        if found.name in ("FINISH_RSP", "PSK_FINISH_RSP"):
            phase = "application"
        if found.name == "KEY_UPDATE" and found.raw[2] != KeyUpdateOperation.VERIFY_NEW_KEY:
            generation["request"] += 1
            if found.raw[2] == KeyUpdateOperation.UPDATE_ALL_KEYS:
                generation["response"] += 1


def _secret_of(shown: dict[str, Any], phase: str, direction: str, generation: int) -> bytes:
    if phase == "handshake":
        return bytes.fromhex(shown["handshake"][f"{direction}_secret"])
    return bytes.fromhex(shown["application"][direction][generation]["secret"])


# -- files ---------------------------------------------------------------------------------------------------------------


def vectors(version: Version, suite: Suite) -> dict[str, Any]:
    """Make the content of one vector file."""
    main = main_conversation(version, suite)
    connections = [connection(main, "handshake encrypted" if version >= Version.V1_1 else "without sessions")]
    if version >= Version.V1_1:
        connections.append(connection(clear_conversation(version, suite), "handshake in the clear"))
    chain = main.responder.slot(0).chain(suite.base_hash)
    return {
        "format": FORMAT,
        "spdm_version": version.text,
        "algorithms": {
            "base_hash": suite.base_hash.name,
            "base_asym": suite.base_asym.name,
            "dhe": suite.dhe.name,
            "aead": suite.aead.name,
        },
        "responder_signing_key": _private(main.identity.key, suite.base_asym.signature_size // 2),
        "certificate_chain": chain.hex(),
        "certificate_chain_hash": digest(suite.base_hash, chain).hex(),
        "connections": connections,
    }


def _private(key: SigningKey, size: int) -> str:
    return str(key.key.private_numbers().private_value.to_bytes(size, "big").hex())


def render(content: dict[str, Any]) -> str:
    """Give the text of a vector file: one line for each small object."""
    return _text(content, 0) + "\n"


def _text(value: Any, depth: int) -> str:
    short = json.dumps(value)
    nested = isinstance(value, (dict, list)) and any(isinstance(item, (dict, list)) for item in _items(value))
    if not nested and (not isinstance(value, dict) or depth > 2):
        return short
    inside = " " * (depth + 1)
    if isinstance(value, list):
        body = ",\n".join(inside + _text(item, depth + 1) for item in value)
        return f"[\n{body}\n{' ' * depth}]"
    body = ",\n".join(f"{inside}{json.dumps(key)}: {_text(item, depth + 1)}" for key, item in value.items())
    return f"{{\n{body}\n{' ' * depth}}}"


def _items(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or compare all files."""
    parser = argparse.ArgumentParser(description="Write the published SPDM vectors.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--check", action="store_true", help="compare with what is there instead of writing")
    options = parser.parse_args(arguments)
    stale = 0
    for version in Version:
        for name, suite in SUITES.items():
            path = options.folder / file_name(version, name)
            text = render(vectors(version, suite))
            if not options.check:
                path.write_text(text)
            elif not path.exists() or path.read_text() != text:
                stale += 1
                sys.stderr.write(f"{path} is not what the engines give\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
