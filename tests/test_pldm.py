"""PLDM in a session over MCTP: the terminus id, and what is not answered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdm_pair import Pair
from teeio.crypto.entropy import SeededEntropy
from teeio.mctp import MctpBinding
from teeio.pldm import CompletionCode, Terminus
from teeio.spdm import flows
from teeio.spdm.binding import OtherApplication
from teeio.spdm.state import Session, SessionPhase

GET_TID = bytes.fromhex("01 80 00 02")
TERMINUS = Terminus(7)


def test_the_terminus_id() -> None:
    assert TERMINUS.respond(GET_TID) == bytes.fromhex("01 00 00 02 00 07")
    assert TERMINUS.respond(bytes.fromhex("01 9f 00 02")) == bytes.fromhex("01 1f 00 02 00 07")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("01 80 00 03", CompletionCode.ERROR_UNSUPPORTED_PLDM_CMD),
        ("01 80 05 02", CompletionCode.ERROR_INVALID_PLDM_TYPE),
        ("01 80 00 02 00", CompletionCode.ERROR_INVALID_LENGTH),
    ],
)
def test_what_it_does_not_do(message: str, code: CompletionCode) -> None:
    answer = TERMINUS.respond(bytes.fromhex(message))
    assert answer is not None
    assert answer[4:] == bytes([code])


@pytest.mark.parametrize("message", ["", "01 80", "05 80 00 02", "01 00 00 02", "01 c0 00 02", "01 80 40 02"])
def test_what_gets_no_answer(message: str) -> None:
    assert TERMINUS.respond(bytes.fromhex(message)) is None


@given(st.binary(max_size=12))
def test_any_bytes(data: bytes) -> None:
    answer = TERMINUS.respond(data)
    assert answer is None or answer[:1] == b"\x01"


def _ask(pair: Pair, session: Session, data: bytes) -> bytes | None:
    binding = MctpBinding()
    record = session.request_key.seal(session.session_id, data, binding, SeededEntropy(b"x"), application=True)
    answer = pair.responder.respond(binding.wrap(record, secured=True), pair.now)
    if answer is None:
        return None
    with pytest.raises(OtherApplication) as other:
        session.response_key.open(binding.unwrap(answer)[0], binding)
    return other.value.data


def _pair() -> Pair:
    pair = Pair()
    pair.requester.binding = pair.responder.binding = MctpBinding()
    return pair


def test_in_a_session_and_the_session_goes_on() -> None:
    pair = _pair()
    pair.responder.application = TERMINUS.respond
    session = pair.open_session()
    assert _ask(pair, session, GET_TID) == bytes.fromhex("01 00 00 02 00 07")
    pair.run(flows.heartbeat(session))


def test_nobody_speaks_it_and_the_session_goes_on() -> None:
    pair = _pair()
    session = pair.open_session()
    assert _ask(pair, session, GET_TID) is None
    pair.run(flows.heartbeat(session))


def test_not_before_the_handshake_is_over() -> None:
    pair = _pair()
    asked: list[bytes] = []
    pair.responder.application = lambda data: asked.append(data) or data  # type: ignore[func-returns-value]
    session = pair.open_session()
    responding = pair.responder.sessions[session.session_id]
    responding.phase = SessionPhase.HANDSHAKE
    assert _ask(pair, session, GET_TID) is None
    assert asked == []
