"""The TCP binding: frames as the reference library writes them, what is refused, and whole conversations over it."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdm_pair import Pair
from teeio.errors import DecodeError
from teeio.spdm import flows
from teeio.spdm.binding import Binding
from teeio.tcp_binding import (
    HEADER_SIZE,
    MAX_MESSAGE,
    MEANINGS,
    MessageType,
    TcpBinding,
    decode_frame,
    encode_notice,
    frame_size,
)

BINDING: Binding = TcpBinding()
GET_VERSION = bytes.fromhex("10840000")


def test_what_the_engines_read() -> None:
    assert (BINDING.name, BINDING.sequence_number_size, BINDING.max_random_padding) == ("tcp", 0, 0)


def test_get_version_as_it_was_observed() -> None:
    assert BINDING.wrap(GET_VERSION, False) == bytes.fromhex("0600010510840000")


@given(st.binary(max_size=60), st.booleans())
def test_wrap_and_unwrap(message: bytes, secured: bool) -> None:
    frame = BINDING.wrap(message, secured)
    assert frame[3] == (0x06 if secured else 0x05)
    assert frame_size(frame[:HEADER_SIZE]) == len(frame)
    assert BINDING.unwrap(frame) == (message, secured)
    assert BINDING.unwrap_application(BINDING.wrap_application(message)) == message


def test_the_largest_message_fits_and_the_next_one_is_told() -> None:
    assert len(BINDING.wrap(bytes(MAX_MESSAGE), False)) == HEADER_SIZE + MAX_MESSAGE
    assert BINDING.wrap(bytes(MAX_MESSAGE + 1), True) == encode_notice(MessageType.TOO_LARGE) == b"\0\0\x01\xc0"


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        ("", "payload_length"),
        ("0600", "binding_version"),
        ("0600020510840000", "binding_version"),
        ("0100010510840000", "payload_length"),
        ("0700010510840000", "payload_length"),
        ("0500010510840000", "payload_length"),
        ("0000010510840000", "payload_length"),
        ("00000105", "message_type"),
        ("0600010710840000", "message_type"),
        ("000001bf", "message_type"),
    ],
)
def test_other_frames_are_refused(frame: str, field: str) -> None:
    with pytest.raises(DecodeError) as refused:
        BINDING.unwrap(bytes.fromhex(frame))
    assert refused.value.field == field


def test_application_data_is_a_plain_message() -> None:
    with pytest.raises(DecodeError, match="0x06 is not 0x05"):
        BINDING.unwrap_application(BINDING.wrap(GET_VERSION, True))


@pytest.mark.parametrize("kind", list(MEANINGS))
def test_what_a_peer_says_is_told(kind: MessageType) -> None:
    with pytest.raises(DecodeError, match=f"the peer says: {MEANINGS[kind]}"):
        BINDING.unwrap(encode_notice(kind))


@given(st.binary(max_size=24))
def test_any_bytes_give_nothing_but_decode_errors(data: bytes) -> None:
    for read in (BINDING.unwrap, BINDING.unwrap_application, decode_frame, frame_size):
        with suppress(DecodeError):
            read(data)


def test_a_conversation_with_a_session() -> None:
    pair = Pair()
    pair.requester.binding = pair.responder.binding = BINDING
    session = pair.open_session()
    pair.run(flows.heartbeat(session))
    side, frame = pair.frames[-1]
    # Header 4, session id 4, Length 2, then ApplicationDataLength, a frame of 8 bytes inside the ciphertext, and the tag.
    assert (side, len(frame)) == ("rsp", 4 + 4 + 2 + 0x1A)
    pair.run(flows.end_session(pair.requester, session))
