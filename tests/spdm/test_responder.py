"""The responder against every request in every state, and against garbage."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdm_pair import Pair
from strategies import mutated
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, Version
from teeio.spdm.handlers import HANDLERS
from teeio.spdm.rules import RULES, Phase, Place, Refusal, Rule, refusal
from teeio.spdm.state import Session


def _at_start(pair: Pair) -> None:
    return None


def _after_version(pair: Pair) -> None:
    pair.say(m.GetVersion().encode(m.Facts()))


def _after_capabilities(pair: Pair) -> None:
    _after_version(pair)
    request = m.GetCapabilities(
        flags=Capability.MAC | Capability.KEY_EX, data_transfer_size=4608, max_message_size=4608
    )
    answer = pair.say(request.encode(m.Facts(version=Version.V1_2)))
    assert answer is not None
    assert answer[1] == m.Capabilities.CODE


def _negotiated(pair: Pair) -> None:
    pair.authenticate()


def _in_handshake(pair: Pair) -> Session:
    pair.authenticate()
    flow = flows.key_exchange(pair.requester)
    action = pair.requester.start(flow)
    pair.requester.receive(pair.carry(action.frame))  # type: ignore[union-attr]
    session = next(iter(pair.requester.sessions.values()))
    session.request_key.sequence = 0  # FINISH was sealed but not delivered
    return session


def _established(pair: Pair) -> Session:
    return pair.open_session()


STATES: dict[str, tuple[Callable[[Pair], Session | None], Phase, Place]] = {
    "start": (_at_start, Phase.START, Place.OUTSIDE),
    "after VERSION": (_after_version, Phase.VERSION_DONE, Place.OUTSIDE),
    "after CAPABILITIES": (_after_capabilities, Phase.CAPABILITIES_DONE, Place.OUTSIDE),
    "negotiated": (_negotiated, Phase.NEGOTIATED, Place.OUTSIDE),
    "handshake": (_in_handshake, Phase.NEGOTIATED, Place.HANDSHAKE),
    "established": (_established, Phase.NEGOTIATED, Place.ESTABLISHED),
}

ERRORS = {
    Refusal.UNKNOWN: ErrorCode.UNSUPPORTED_REQUEST,
    Refusal.NO_CAPABILITY: ErrorCode.UNSUPPORTED_REQUEST,
    Refusal.SESSION_REQUIRED: ErrorCode.SESSION_REQUIRED,
    Refusal.PLACE: ErrorCode.UNEXPECTED_REQUEST,
    Refusal.PHASE: ErrorCode.UNEXPECTED_REQUEST,
}


def _version_byte(rule: Rule, phase: Phase) -> int:
    if rule.request is m.GetVersion:
        return Version.V1_0
    return Version.V1_2 if phase >= Phase.CAPABILITIES_DONE or rule.request is m.GetCapabilities else Version.V1_0


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.request.NAME)
def test_every_request_in_every_state(rule: Rule, state: str) -> None:
    """A header alone is enough: legality is looked at before the layout."""
    enter, phase, place = STATES[state]
    pair = Pair()
    session = enter(pair)
    connection, sessions = pair.responder.connection, dict(pair.responder.sessions)
    answer = pair.say(bytes([_version_byte(rule, phase), rule.request.CODE, 0, 0]), session)
    c = connection
    why = refusal(rule.request.CODE, c.version, phase, place, c.responder_capabilities, c.requester_capabilities)
    if why is None and rule.request.CODE not in HANDLERS and rule.request is not m.RespondIfReady:
        why = Refusal.UNKNOWN
    if why is None:
        if answer is not None and answer[1] == m.Error.CODE:
            assert answer[2] == ErrorCode.INVALID_REQUEST
        return
    assert answer is not None
    expected = ERRORS[why]
    if expected is ErrorCode.SESSION_REQUIRED and connection.version < Version.V1_2:
        expected = ErrorCode.UNSPECIFIED
    assert answer[1:3] == bytes([m.Error.CODE, expected])
    assert answer[3] == (rule.request.CODE if expected is ErrorCode.UNSUPPORTED_REQUEST else 0)
    assert pair.responder.connection == connection
    assert pair.responder.sessions == sessions


@pytest.mark.parametrize("version", [0x00, 0x10, 0x11, 0x13, 0xFF])
def test_another_version_byte_is_a_mismatch(version: int) -> None:
    pair = Pair()
    pair.authenticate()
    answer = pair.say(bytes([version, m.GetDigests.CODE, 0, 0]))
    assert answer == bytes([0x12, m.Error.CODE, ErrorCode.VERSION_MISMATCH, 0])


def test_a_malformed_get_version_resets_nothing() -> None:
    """Attack 5."""
    pair = Pair()
    session = pair.open_session()
    for message in (bytes([0x12, 0x84, 0, 0]), bytes([0x10, 0x84, 0]), bytes([0x10, 0x84, 0, 0]) + bytes(8)):
        answer = pair.say(message)
        assert answer is not None
        assert answer[1] == m.Error.CODE
    pair.run(flows.heartbeat(session))


@pytest.mark.parametrize(
    ("flags", "sizes", "problem"),
    [
        (Capability.PSK | Capability.PSK_WITH_CONTEXT | Capability.MAC, (4608, 4608), "PSK"),
        (Capability.KEY_EX, (4608, 4608), "KEY_EX or PSK needs"),
        (Capability.MAC, (4608, 4608), "session flags"),
        (Capability.CERT | Capability.PUB_KEY_ID, (4608, 4608), "CERT and PUB_KEY_ID"),
        (Capability.MUT_AUTH, (4608, 4608), "MUT_AUTH"),
        (Capability(0), (41, 41), "DataTransferSize"),
        (Capability(0), (100, 99), "MaxSPDMmsgSize"),
        (Capability(0), (100, 101), "without CHUNK"),
    ],
)
def test_inconsistent_capabilities_are_refused(flags: Capability, sizes: tuple[int, int], problem: str) -> None:
    pair = Pair()
    told: list[object] = []
    pair.responder.observer = told.append
    _after_version(pair)
    request = m.GetCapabilities(flags=flags, data_transfer_size=sizes[0], max_message_size=sizes[1])
    answer = pair.say(request.encode(m.Facts(version=Version.V1_2)))
    assert answer == bytes([0x10, m.Error.CODE, ErrorCode.INVALID_REQUEST, 0])
    assert any(problem in str(event) for event in told)


def test_responses_are_bounded_by_what_the_requester_takes() -> None:
    pair = Pair(requester_changes={"data_transfer_size": 64, "max_message_size": 64})
    pair.run(flows.connect(pair.requester))
    answer = pair.say(bytes([0x12, m.GetDigests.CODE, 0, 0]))
    assert answer is not None
    assert answer[:4] == bytes([0x12, m.Error.CODE, ErrorCode.RESPONSE_TOO_LARGE, 0])
    assert int.from_bytes(answer[4:8], "little") == 4 + 2 * 48


def test_key_update_needs_its_verification_before_the_next() -> None:
    pair = Pair()
    session = pair.open_session()
    verify = m.KeyUpdate(operation=3, tag=1).encode(pair.requester.connection.facts)
    answer = pair.say(verify, session)
    assert answer is not None
    assert answer[1:3] == bytes([m.Error.CODE, ErrorCode.INVALID_REQUEST])


REFERENCE = Pair()
REFERENCE_SESSION = REFERENCE.open_session()
PLAIN = [frame for way, frame in REFERENCE.frames if way == "req" and frame[0] == 0]


@given(st.data())
@settings(max_examples=150)
def test_damaged_requests_never_raise_and_always_get_an_error_or_nothing(data: st.DataObject) -> None:
    pair = Pair()
    count = data.draw(st.integers(0, len(PLAIN) - 1))
    for frame in PLAIN[:count]:
        pair.responder.respond(frame)
    answer = pair.responder.respond(data.draw(mutated(PLAIN[count])))
    assert answer is None or len(answer) >= 5


@given(st.binary(max_size=200), st.booleans())
def test_garbage_never_raises(garbage: bytes, secured: bool) -> None:
    pair = Pair()
    pair.responder.respond(bytes([secured]) + garbage)
    pair.responder.respond(garbage)


@given(st.data())
@settings(max_examples=60)
def test_any_plaintext_inside_a_session_is_survived(data: st.DataObject) -> None:
    pair = Pair()
    session = pair.open_session()
    for _ in range(3):
        message = data.draw(st.one_of(st.binary(max_size=64), st.sampled_from(PLAIN).map(lambda frame: frame[1:])))
        if session.session_id not in pair.responder.sessions:
            break
        pair.say(message, session)
