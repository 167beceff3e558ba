"""Key logs: the secrets with which a capture can be decrypted.

Our own text form has one secret a line, `LABEL CONTEXT HEX`; `#` begins a comment. Labels of sessions are those that
`spdm` tells to observers, their context is the session id in hex; `ide_key` has a context of `name=value` words.
Sessions of the same id follow one another in the order of their lines. The second form is JSON with a list `sessions`,
as it lies beside reference captures.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from teeio.errors import DecodeError
from teeio.observe import Event, SecretDerived

SHARED_LABELS = ("dhe_secret", "kem_secret", "psk")
"""Labels of the secret that a session begins with; one of them is enough to derive all others."""

DERIVED_LABELS = (
    "handshake_secret",
    "request_handshake_secret",
    "response_handshake_secret",
    "master_secret",
    "request_data_secret",
    "response_data_secret",
    "export_master_secret",
)
"""Labels of the secrets that a session derives once, in that order."""

UPDATE_LABELS = ("request_data_secret_update", "response_data_secret_update")
"""Labels of the data secrets that key updates derive, any number of times."""

IDE_LABEL = "ide_key"

LABELS = (*SHARED_LABELS, *DERIVED_LABELS, *UPDATE_LABELS, IDE_LABEL)

HEADING = "# teeio key log: LABEL CONTEXT HEX. Whoever has it can read the captured sessions.\n"

_REMEDY = "give a key log of teeio, or JSON with a list `sessions`"
_MAX_SHOWN = 40


@dataclass(slots=True)
class SessionSecrets:
    """The secrets of one session by label; `updates` holds those of key updates, in order."""

    session_id: int
    values: dict[str, bytes] = field(default_factory=dict, repr=False)
    updates: dict[str, list[bytes]] = field(default_factory=dict, repr=False)

    @property
    def shared(self) -> tuple[str, bytes] | None:
        """The secret that the session begins with, as (label, value), or None."""
        return next(((label, self.values[label]) for label in SHARED_LABELS if label in self.values), None)

    def add(self, label: str, value: bytes) -> None:
        """Enter a secret."""
        if label in UPDATE_LABELS:
            self.updates.setdefault(label, []).append(value)
        else:
            self.values[label] = value

    def lines(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield (label, context, value) of all secrets."""
        context = f"{self.session_id:08x}"
        for label, value in self.values.items():
            yield label, context, value
        for label, values in self.updates.items():
            for value in values:
                yield label, context, value


@dataclass(frozen=True, slots=True)
class IdeKey:
    """A key of an IDE stream; `context` says which: "stream=5 port=0 set=K0 dir=RX sub=PR"."""

    context: str
    value: bytes = field(repr=False)

    @property
    def words(self) -> dict[str, str]:
        """The words of the context by name."""
        return dict(word.split("=", 1) for word in self.context.split() if "=" in word)


@dataclass(slots=True)
class KeyLog:
    """What a key log holds: sessions in the order in which they were set up, and IDE keys."""

    sessions: list[SessionSecrets] = field(default_factory=list)
    ide_keys: list[IdeKey] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Tell whether there is nothing to decrypt with."""
        return not self.sessions


# -- writing -------------------------------------------------------------------------------------------------------


def line(label: str, context: str, value: bytes) -> str:
    """Give one line of a key log, with its newline."""
    return f"{label} {context} {value.hex()}\n"


def write_key_log(log: KeyLog) -> str:
    """Give the text of a key log."""
    parts = [line(*entry) for session in log.sessions for entry in session.lines()]
    parts += [line(IDE_LABEL, key.context, key.value) for key in log.ide_keys]
    return HEADING + "".join(parts)


class KeyLogWriter:
    """An observer that collects secrets and gives the key log of them.

    Both ends of a session derive the same secrets: the second telling of a secret is left out.
    """

    def __init__(self) -> None:
        self._told: dict[tuple[str, str, bytes], None] = {}

    def __call__(self, event: Event) -> None:
        """Observe: collect every `SecretDerived`."""
        if isinstance(event, SecretDerived):
            self._told.setdefault((event.label, event.context, event.value))

    def text(self) -> str:
        """Give the key log of all secrets so far."""
        return HEADING + "".join(line(*entry) for entry in self._told)


# -- reading -------------------------------------------------------------------------------------------------------


def parse_key_log(text: str) -> KeyLog:
    """Read a key log in either form. Raises `DecodeError`; its offset counts characters."""
    if text.lstrip()[:1] in ("{", "["):
        return _parse_json(text)
    log = KeyLog()
    latest: dict[int, SessionSecrets] = {}
    offset = 0
    for number, text_line in enumerate(text.splitlines(keepends=True), 1):
        words = text_line.split()
        if words and not words[0].startswith("#"):
            _enter(log, latest, words, number, offset)
        offset += len(text_line)
    return log


def _enter(log: KeyLog, latest: dict[int, SessionSecrets], words: list[str], number: int, offset: int) -> None:
    where = f"line {number}"
    if len(words) < 3:
        raise DecodeError(
            "KeyLog", where, offset, f"{_shown(' '.join(words))} is not LABEL CONTEXT HEX", remedy=_REMEDY
        )
    label, value = words[0], _hex(words[-1], where, offset)
    if label == IDE_LABEL:
        log.ide_keys.append(IdeKey(" ".join(words[1:-1]), value))
        return
    if label not in LABELS:
        raise DecodeError(
            "KeyLog", where, offset, f"{_shown(label)} is not a label", remedy=f"labels: {', '.join(LABELS)}"
        )
    if len(words) != 3:
        raise DecodeError("KeyLog", where, offset, "the context of a session is one word", remedy=_REMEDY)
    session_id = _session_id(words[1], where, offset)
    session = latest.get(session_id)
    if session is None or (label not in UPDATE_LABELS and _begins_another(session, label)):
        session = latest[session_id] = SessionSecrets(session_id)
        log.sessions.append(session)
    session.add(label, value)


def _begins_another(session: SessionSecrets, label: str) -> bool:
    return label in session.values or (label in SHARED_LABELS and session.shared is not None)


def _hex(text: str, where: str, offset: int) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        raise DecodeError("KeyLog", where, offset, f"{_shown(text)} is not hex", remedy=_REMEDY) from None
    if not value:
        raise DecodeError("KeyLog", where, offset, "the secret is empty", remedy=_REMEDY)
    return value


def _session_id(text: str, where: str, offset: int) -> int:
    digits = text.lower().removeprefix("0x")
    if not 1 <= len(digits) <= 8 or any(digit not in "0123456789abcdef" for digit in digits):
        raise DecodeError("KeyLog", where, offset, f"{_shown(text)} is not a session id in hex", remedy=_REMEDY)
    return int(digits, 16)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "...")


# -- the JSON form -------------------------------------------------------------------------------------------------

_JSON_UPDATES = {
    "RequestDataSecretUpdates": "request_data_secret_update",
    "ResponseDataSecretUpdates": "response_data_secret_update",
}


def _parse_json(text: str) -> KeyLog:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        offset = error.pos if isinstance(error, json.JSONDecodeError) else 0
        raise DecodeError("KeyLog", "(JSON)", offset, f"does not parse: {error}", remedy=_REMEDY) from None
    sessions = document.get("sessions") if isinstance(document, dict) else document
    if not isinstance(sessions, list):
        raise DecodeError("KeyLog", "sessions", 0, "there is no list `sessions`", remedy=_REMEDY)
    return KeyLog([_json_session(entry, f"sessions[{at}]") for at, entry in enumerate(sessions)])


def _json_session(entry: Any, where: str) -> SessionSecrets:
    if not isinstance(entry, dict):
        raise DecodeError("KeyLog", where, 0, "is not an object", remedy=_REMEDY)
    session = SessionSecrets(_session_id(_text(entry.get("session_id"), f"{where}.session_id"), where, 0))
    for label in (*SHARED_LABELS, *DERIVED_LABELS):
        if label in entry:
            session.add(label, _hex(_text(entry[label], f"{where}.{label}"), f"{where}.{label}", 0))
    for name, label in _JSON_UPDATES.items():
        for value in _texts(entry.get(name, []), f"{where}.{name}"):
            session.add(label, _hex(value, f"{where}.{name}", 0))
    return session


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DecodeError("KeyLog", where, 0, "is not a string of hex", remedy=_REMEDY)
    return value


def _texts(value: Any, where: str) -> Iterable[str]:
    if not isinstance(value, list):
        raise DecodeError("KeyLog", where, 0, "is not a list", remedy=_REMEDY)
    return [_text(item, where) for item in value]
