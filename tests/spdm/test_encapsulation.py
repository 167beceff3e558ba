"""Encapsulated requests: the rules of the flow, what a responder may ask for, and whatever either side sends."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdm.mutual_pair import P256, VERSIONS, challenged_pair, codes, edit, error_head, inner, mutual_pair
from spdm_pair import identity
from teeio.crypto.algorithms import P384_SUITE
from teeio.errors import (
    ErrorResponse,
    PeerViolation,
    TeeioError,
)
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, MutualAuth, Version
from teeio.spdm.encapsulation import ENCAPSULABLE, MAX_REQUESTS, Counterpart, ask_requester
from teeio.spdm.events import DmtfEvent, Events
from teeio.spdm.exchange import ask
from teeio.spdm.response_key_update import renew_response_key
from teeio.spdm.state import MUTUAL_CAPABILITIES, REQUESTER_CAPABILITIES, Session


def test_the_figure_of_basic_mutual_authentication() -> None:
    pair = mutual_pair(Version.V1_1, basic=True)
    pair.authenticate()
    pair.frames.clear()
    pair.run(flows.challenge(pair.requester))
    deliver = m.DeliverEncapsulatedResponse.CODE
    first, *others = codes(pair)[1:]
    assert first == m.GetEncapsulatedRequest.CODE
    assert set(others) == {deliver}
    delivered = inner(pair, "req", deliver, 4)
    assert [delivered[0][1], delivered[1][1], delivered[-1][1]] == [
        m.Digests.CODE,
        m.Certificate.CODE,
        m.ChallengeAuth.CODE,
    ]
    ids = [frame[3] for way, frame in pair.frames if way == "req" and frame[2] == deliver]
    assert ids == list(range(1, len(ids) + 1))
    last = pair.frames[-1][1][1:]
    assert last == bytes([0x11, m.EncapsulatedResponseAck.CODE, 0, 0])


def test_implicit_get_digests_has_id_0() -> None:
    pair = mutual_pair(mode=MutualAuth.IMPLICIT_DIGESTS, clear=True)
    pair.open_session()
    assert m.GetEncapsulatedRequest.CODE not in codes(pair)
    deliver = [frame for way, frame in pair.frames if way == "req" and frame[2] == m.DeliverEncapsulatedResponse.CODE]
    assert [frame[3] for frame in deliver] == list(range(len(deliver)))
    assert deliver[0][6] == m.Digests.CODE


# -- rules of the encapsulated flow ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_nothing_pending(version: Version) -> None:
    pair = mutual_pair(version, MutualAuth.NONE)
    session = pair.open_session()
    assert pair.run(flows.serve_pending(pair.requester)) is False
    assert pair.run(flows.serve_pending(pair.requester, session)) is False
    with pytest.raises(ErrorResponse, match="UNEXPECTED_REQUEST"):
        pair.run(ask(m.DeliverEncapsulatedResponse(request_id=1, inner=bytes(4))))


def test_other_requests_wait_until_the_flow_has_ended() -> None:
    pair, facts = challenged_pair()
    for request in (m.GetDigests(), m.GetMeasurements(signature_requested=0, operation=0), m.GetCertificate(slot=0)):
        assert (pair.say(request.encode(facts)) or b"")[1:3] == error_head(ErrorCode.REQUEST_IN_FLIGHT)
    pair.run(flows.serve_encapsulated(pair.requester))
    assert (pair.say(m.GetDigests().encode(facts)) or b"")[1] == m.Digests.CODE
    pair, facts = challenged_pair()
    pair.run(flows.connect(pair.requester))
    assert pair.responder.pending is None


def test_ids_and_repetitions() -> None:
    pair, facts = challenged_pair()
    first = pair.say(m.GetEncapsulatedRequest().encode(facts))
    assert first is not None
    assert first[1:6] == bytes([m.EncapsulatedRequest.CODE, 1, 0, 0x12, m.GetDigests.CODE])
    assert pair.say(m.GetEncapsulatedRequest().encode(facts)) == first
    for number in (0, 2, 255):
        wrong = m.DeliverEncapsulatedResponse(request_id=number, inner=b"\x12\x01\0\0").encode(facts)
        assert (pair.say(wrong) or b"")[1:3] == error_head(ErrorCode.INVALID_REQUEST)
    assert pair.responder.pending is not None
    pair.run(flows.serve_encapsulated(pair.requester))
    assert pair.responder.connection.requester_chain


@pytest.mark.parametrize(
    "delivered",
    [
        b"\x12\x7f\x01\0",
        b"\x11\x01\0\0",
        b"\x12\x02\0\0",
        b"\x12\x01\0\1" + bytes(47),
        b"\x12\x01\0\1" + bytes(52),
    ],
    ids=["error", "version", "code", "short", "long"],
)
def test_a_bad_response_ends_the_flow(delivered: bytes) -> None:
    pair, facts = challenged_pair()
    pair.say(m.GetEncapsulatedRequest().encode(facts))
    answer = pair.say(m.DeliverEncapsulatedResponse(request_id=1, inner=delivered).encode(facts))
    assert (answer or b"")[1:3] == error_head(ErrorCode.INVALID_RESPONSE_CODE)
    assert pair.responder.pending is None
    assert not pair.responder.connection.requester_chain
    pair.run(flows.get_digests())


def test_too_short_a_response_leaves_the_flow_pending() -> None:
    pair, facts = challenged_pair()
    pair.say(m.GetEncapsulatedRequest().encode(facts))
    answer = pair.say(m.DeliverEncapsulatedResponse(request_id=1, inner=b"\x12").encode(facts))
    assert (answer or b"")[1:3] == error_head(ErrorCode.INVALID_REQUEST)
    pair.run(flows.serve_encapsulated(pair.requester))


def test_response_not_ready_ends_the_flow_quietly() -> None:
    pair, facts = challenged_pair()
    pair.say(m.GetEncapsulatedRequest().encode(facts))
    not_ready = bytes([0x12, 0x7F, ErrorCode.RESPONSE_NOT_READY, 0, 1, m.GetDigests.CODE, 1, 2])
    answer = pair.say(m.DeliverEncapsulatedResponse(request_id=1, inner=not_ready).encode(facts))
    assert answer == bytes([0x12, m.EncapsulatedResponseAck.CODE, 0, 0, 1, 0, 0, 0])
    assert pair.responder.pending is None
    assert not pair.responder.connection.requester_chain


def test_portions_without_end_are_bounded() -> None:
    """A requester that answers one byte at a time runs into the bound on the number of requests."""
    pair, facts = challenged_pair()
    pair.say(m.GetEncapsulatedRequest().encode(facts))
    whole = identity(P256).slots[0].chain(P384_SUITE.base_hash)
    digests = m.Digests(provisioned_slots=1, digests=bytes(48)).encode(facts)
    answer = pair.say(m.DeliverEncapsulatedResponse(request_id=1, inner=digests).encode(facts))
    requests = 1
    while answer is not None and answer[1] == m.EncapsulatedResponseAck.CODE:
        requests += 1
        portion = m.Certificate(slot=0, portion=whole[requests : requests + 1], remainder_length=1000).encode(facts)
        answer = pair.say(m.DeliverEncapsulatedResponse(request_id=requests, inner=portion).encode(facts))
    assert requests == MAX_REQUESTS
    assert (answer or b"")[1:3] == error_head(ErrorCode.INVALID_RESPONSE_CODE)


@pytest.mark.parametrize(
    ("code", "at", "value", "why"),
    [
        (m.EncapsulatedResponseAck.CODE, 5, 9, "AckRequestID"),
        (m.EncapsulatedResponseAck.CODE, 4, 7, "payload type"),
    ],
)
def test_wrong_acknowledgements_are_refused(code: int, at: int, value: int, why: str) -> None:
    pair = mutual_pair(basic=True)
    pair.authenticate()
    pair.tamper = edit(code, lambda frame: frame[:at] + bytes([value]) + frame[at + 1 :], "rsp")  # type: ignore[method-assign]
    with pytest.raises(PeerViolation, match=why):
        pair.run(flows.challenge(pair.requester))


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"\x12\xe4\0\0", ErrorCode.UNSUPPORTED_REQUEST),
        (b"\x12\xff\0\0", ErrorCode.UNSUPPORTED_REQUEST),
        (b"\x12\xe9\1\0", ErrorCode.SESSION_REQUIRED),
        (b"\x11\x81\0\0", ErrorCode.VERSION_MISMATCH),
        (b"\x12\x82\5\0\0\0\0\1", ErrorCode.INVALID_REQUEST),
        (b"\x12\x83\0\1" + bytes(32), ErrorCode.INVALID_REQUEST),
        (b"\x12", ErrorCode.INVALID_REQUEST),
    ],
    ids=["key exchange", "respond if ready", "key update", "version", "slot", "summary", "short"],
)
def test_what_a_requester_refuses(request_: bytes, expected: ErrorCode) -> None:
    pair = mutual_pair(basic=True)
    pair.authenticate()
    change = lambda frame: frame[:5] + request_  # noqa: E731
    pair.tamper = edit(m.EncapsulatedRequest.CODE, change, "rsp")  # type: ignore[method-assign]
    with pytest.raises(ErrorResponse):
        pair.run(flows.challenge(pair.requester))
    assert inner(pair, "req", m.DeliverEncapsulatedResponse.CODE, 4)[0][1:3] == error_head(expected)


def test_a_responder_that_never_stops_asking_is_left() -> None:
    pair = mutual_pair(basic=True)
    pair.authenticate()

    def carry(frame: bytes) -> bytes:
        pair.frames.append(("req", frame))
        return bytes([0, 0x12, m.EncapsulatedResponseAck.CODE, 9, 1, frame[3], 0, 0, 0, 0x12, m.GetDigests.CODE, 0, 0])

    pair.carry = carry  # type: ignore[method-assign]
    pair.frames.clear()
    with pytest.raises(PeerViolation, match="more than 255"):
        pair.run(flows.serve_encapsulated(pair.requester, implicit_digests=True))
    assert len(pair.frames) == MAX_REQUESTS + 1


def test_a_large_response_travels_in_chunks() -> None:
    pair = mutual_pair(mode=MutualAuth.ENCAPSULATED, basic=True)
    pair.responder.settings = replace(pair.responder.settings, data_transfer_size=0x80)
    pair.authenticate()
    pair.run(flows.challenge(pair.requester))
    pair.run(flows.key_exchange(pair.requester))
    assert m.ChunkSend.CODE in codes(pair)


# -- other flows of the responder's --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [Version.V1_3, Version.V1_4], ids=lambda v: v.text)
@pytest.mark.parametrize("inside", [False, True], ids=["outside", "in session"])
def test_endpoint_information_of_the_requester(version: Version, inside: bool) -> None:
    endpoint = REQUESTER_CAPABILITIES | MUTUAL_CAPABILITIES | Capability.EP_INFO_SIG
    pair = mutual_pair(version, requester=endpoint)
    pair.requester.device_classes = (m.DeviceClass(registry=3, vendor=b"\x01\x00"),)
    session = pair.open_session() if inside else None
    if session is None:
        pair.authenticate()
    got: list[tuple[m.DeviceClass, ...]] = []
    for signed in (False, True):

        def learn(side: Counterpart, signed: bool = signed) -> Any:
            yield from flows.get_certificate(side)
            got.append((yield from flows.get_endpoint_info(side, signed=signed)))

        ask_requester(pair.responder, learn, session.session_id if session else None)
        assert pair.run(flows.serve_pending(pair.requester, session)) is True
    assert got == [pair.requester.device_classes] * 2


def test_events_reach_the_requester() -> None:
    pair = mutual_pair(Version.V1_3)
    pair.responder.settings = replace(
        pair.responder.settings, capabilities=pair.responder.settings.capabilities | Capability.EVENT
    )
    pair.requester.events = Events()
    session = pair.open_session()
    event = m.Event(instance_id=0, type_id=DmtfEvent.CERTIFICATE_CHANGED, detail=b"\1")
    ask_requester(pair.responder, lambda side: flows.send_event(session, [event]), session.session_id)
    assert pair.run(flows.serve_pending(pair.requester, session)) is True
    assert [(number, got.detail) for number, got in pair.requester.events.received] == [(session.session_id, b"\1")]


def test_flows_with_nothing_to_ask_or_that_may_not() -> None:
    pair = mutual_pair()
    session = pair.open_session()

    def nothing(side: Counterpart) -> Any:
        yield from ()

    ask_requester(pair.responder, nothing, session.session_id)
    assert pair.run(flows.serve_pending(pair.requester, session)) is False
    for request in (m.Heartbeat(), m.GetEndpointInfo(sub_code=1, slot=0, signature_requested=0)):
        ask_requester(pair.responder, lambda side, request=request: ask(request), session.session_id)  # type: ignore[misc]
        with pytest.raises(ErrorResponse, match="UNSPECIFIED"):
            pair.run(flows.serve_encapsulated(pair.requester, session))
        assert pair.responder.pending is None


def test_a_session_that_ends_takes_its_flow_along() -> None:
    pair = mutual_pair()
    session: Session = pair.open_session()
    renew_response_key(pair.responder, session.session_id)
    pair.now = 1000.0
    pair.responder.expire(pair.now)
    assert pair.responder.pending is None


# -- whatever the peer sends -------------------------------------------------------------------------------------------


@given(st.integers(0, 2), st.one_of(st.binary(max_size=80), st.tuples(st.integers(0, 255), st.binary(max_size=60))))
def test_a_responder_never_raises_on_what_is_delivered(answered: int, delivered: bytes | tuple[int, bytes]) -> None:
    pair, facts = challenged_pair()
    pair.say(m.GetEncapsulatedRequest().encode(facts))
    good = m.Digests(provisioned_slots=1, digests=bytes(48)).encode(facts)
    for number in range(1, answered):
        pair.say(m.DeliverEncapsulatedResponse(request_id=number, inner=good).encode(facts))
    bad = delivered if isinstance(delivered, bytes) else bytes([0x12, delivered[0]]) + delivered[1]
    answer = pair.say(m.DeliverEncapsulatedResponse(request_id=max(answered, 1), inner=bad).encode(facts))
    assert answer is not None
    assert not pair.responder.connection.requester_chain


@given(st.one_of(st.binary(max_size=60), st.tuples(st.sampled_from(sorted(ENCAPSULABLE)), st.binary(max_size=60))))
def test_a_requester_answers_whatever_is_asked(asked: bytes | tuple[int, bytes]) -> None:
    pair, _ = challenged_pair()
    inside = asked if isinstance(asked, bytes) else bytes([0x12, asked[0]]) + asked[1]
    pair.tamper = edit(m.EncapsulatedRequest.CODE, lambda frame: frame[:5] + inside, "rsp")  # type: ignore[method-assign]
    with suppress(TeeioError):
        pair.run(flows.serve_encapsulated(pair.requester))
    assert inner(pair, "req", m.DeliverEncapsulatedResponse.CODE, 4)
