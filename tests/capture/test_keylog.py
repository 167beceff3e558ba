"""Key logs in both forms: round trips, sessions that follow one another, and what is refused."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeio.capture.keylog import (
    DERIVED_LABELS,
    SHARED_LABELS,
    UPDATE_LABELS,
    IdeKey,
    KeyLog,
    KeyLogWriter,
    SessionSecrets,
    parse_key_log,
    write_key_log,
)
from teeio.errors import DecodeError
from teeio.observe import SecretDerived, StateChanged

secret = st.binary(min_size=1, max_size=8)


@st.composite
def sessions(draw: st.DrawFn) -> SessionSecrets:
    values = {draw(st.sampled_from(SHARED_LABELS)): draw(secret)}
    values |= {label: draw(secret) for label in DERIVED_LABELS}
    updates = draw(st.dictionaries(st.sampled_from(UPDATE_LABELS), st.lists(secret, min_size=1, max_size=3)))
    return SessionSecrets(draw(st.sampled_from([0xFFFFFFFF, 0xFFFEFFFE, 1])), values, updates)


@given(st.lists(sessions(), max_size=4), st.lists(secret, max_size=2))
def test_what_is_written_is_read(entries: list[SessionSecrets], keys: list[bytes]) -> None:
    log = KeyLog(entries, [IdeKey("stream=5 port=0 set=K0 dir=RX sub=PR", key) for key in keys])
    assert parse_key_log(write_key_log(log)) == log


def test_the_writer_collects_what_is_derived_once() -> None:
    writer = KeyLogWriter()
    for _ in range(2):  # both ends tell
        writer(SecretDerived("dhe_secret", "ffffffff", b"\1\2"))
        writer(SecretDerived("request_data_secret", "ffffffff", b"\3"))
    writer(StateChanged("s", "a", "b", "c"))
    writer(SecretDerived("dhe_secret", "ffffffff", b"\4"))
    writer(SecretDerived("ide_key", "stream=5 port=0 set=K0 dir=RX sub=PR", b"\5"))
    assert writer.text().splitlines()[1:] == [
        "dhe_secret ffffffff 0102",
        "request_data_secret ffffffff 03",
        "dhe_secret ffffffff 04",
        "ide_key stream=5 port=0 set=K0 dir=RX sub=PR 05",
    ]
    log = parse_key_log(writer.text())
    assert [entry.shared for entry in log.sessions] == [("dhe_secret", b"\1\2"), ("dhe_secret", b"\4")]
    assert log.ide_keys[0].words == {"stream": "5", "port": "0", "set": "K0", "dir": "RX", "sub": "PR"}
    assert not log.empty


def test_secrets_do_not_show_in_a_repr() -> None:
    log = parse_key_log("dhe_secret 1 c0ffee\nide_key stream=1 c0ffee\n")
    assert "c0ffee" not in repr(log)
    assert repr(b"\xc0\xff\xee") not in repr(log)


def test_the_json_form() -> None:
    entry = {
        "session_id": "fffefffe",
        "psk": "0102",
        "kind": "psk",
        "finished_keys": ["03", "04"],
        "RequestDataSecretUpdates": ["05", "06"],
    }
    for document in ({"sessions": [entry]}, [entry]):
        (session,) = parse_key_log(json.dumps(document)).sessions
        assert session.session_id == 0xFFFEFFFE
        assert session.shared == ("psk", b"\1\2")
        assert session.updates == {"request_data_secret_update": [b"\5", b"\6"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dhe_secret ffffffff", "line 1 at byte 0"),
        ("# fine\n\ndhe ffffffff 00", "line 3 at byte 8"),
        ("dhe_secret xyz 00", "not a session id"),
        ("dhe_secret 123456789 00", "not a session id"),
        ("dhe_secret 1 2 00", "one word"),
        ("dhe_secret 1 0g", "not hex"),
        ("{", "does not parse"),
        ("{}", "no list `sessions`"),
        ("[1]", "is not an object"),
        ('[{"session_id": 1}]', "not a string"),
        ('[{"session_id": "1", "psk": ""}]', "is empty"),
        ('[{"session_id": "1", "RequestDataSecretUpdates": "00"}]', "is not a list"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(DecodeError, match=said) as caught:
        parse_key_log(text)
    assert caught.value.remedy


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["sessions", "session_id", "psk", "RequestDataSecretUpdates"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@given(st.text(max_size=80) | json_values.map(json.dumps))
def test_any_text_gives_a_key_log_or_a_decode_error(text: str) -> None:
    with suppress(DecodeError):
        assert isinstance(parse_key_log(text), KeyLog)
