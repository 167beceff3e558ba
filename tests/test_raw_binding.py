"""No binding: messages as they are, and no sessions."""

import pytest

from spdm_pair import Pair
from teeio.errors import Misuse, TeeioError
from teeio.raw_binding import WITHOUT_SESSIONS, RawBinding
from teeio.spdm import flows
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES

BINDING = RawBinding()


def test_a_frame_is_a_message() -> None:
    assert BINDING.unwrap(BINDING.wrap(b"\x10\x84\0\0", secured=False)) == (b"\x10\x84\0\0", False)
    assert BINDING.unwrap_application(BINDING.wrap_application(b"x")) == b"x"


def test_a_secured_message_is_refused() -> None:
    with pytest.raises(Misuse, match="no secured messages"):
        BINDING.wrap(b"", secured=True)


def test_a_conversation_without_sessions() -> None:
    pair = Pair(
        responder_changes={"capabilities": RESPONDER_CAPABILITIES & ~WITHOUT_SESSIONS},
        requester_changes={"capabilities": REQUESTER_CAPABILITIES & ~WITHOUT_SESSIONS},
    )
    pair.requester.binding = pair.responder.binding = BINDING
    pair.authenticate()
    pair.run(flows.challenge(pair.requester))
    assert not pair.requester.connection.common_capabilities & WITHOUT_SESSIONS
    with pytest.raises(TeeioError):
        pair.run(flows.key_exchange(pair.requester))


def test_a_responder_stays_whole_on_any_frame() -> None:
    pair = Pair()
    pair.responder.binding = BINDING
    for frame in (b"", b"\x10", bytes(40), b"\xff" * 40):
        pair.responder.respond(frame)
