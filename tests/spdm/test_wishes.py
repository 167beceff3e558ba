"""What a responder asks of its own accord, once the requester lets it ask."""

from dataclasses import replace
from typing import Any

import pytest

from spdm.mutual_pair import mutual_pair
from spdm_pair import Pair
from teeio.errors import ErrorResponse
from teeio.flow import Send
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, Version
from teeio.spdm.encapsulation import ask_requester
from teeio.spdm.events import MAX_WAITING, Events, subscriber
from teeio.spdm.state import MUTUAL_CAPABILITIES, REQUESTER_CAPABILITIES, Session
from teeio.spdm.wishes import MAX_EVENTS, Acquaintance, KeyRenewal, report_events

CHANGED = m.DmtfEvent.CERTIFICATE_CHANGED


def wishing(*wishes: Any, requester: Capability = REQUESTER_CAPABILITIES | MUTUAL_CAPABILITIES) -> Pair:
    pair = mutual_pair(Version.V1_3, requester=requester)
    r = pair.responder
    r.settings = replace(r.settings, capabilities=r.settings.capabilities | Capability.EVENT)
    r.events, r.wishes, pair.requester.events = Events(), wishes, Events()
    return pair


def events_of(pair: Pair) -> Events:
    assert pair.responder.events is not None
    return pair.responder.events


def subscribed(pair: Pair) -> Session:
    session = pair.open_session()
    wanted = m.EventGroup(types=(m.EventType(type_id=CHANGED),))
    pair.run(flows.subscribe_event_types(session, [wanted]))
    return session


def received(pair: Pair) -> list[bytes]:
    assert pair.requester.events is not None
    return [event.detail for _, event in pair.requester.events.received]


def test_events_are_reported_once_and_in_order() -> None:
    pair = wishing(report_events)
    session = subscribed(pair)
    assert pair.run(flows.serve_pending(pair.requester, session)) is False
    for slots in range(MAX_EVENTS + 1):
        events_of(pair).happened(CHANGED, bytes([slots]))
    rounds = 0
    while pair.run(flows.serve_pending(pair.requester, session)):
        rounds += 1
        assert rounds <= 2
    assert rounds == 2
    assert received(pair) == [bytes([slots]) for slots in range(MAX_EVENTS + 1)]
    assert events_of(pair).waiting(pair.responder.event_key(session.session_id)) == ()


def test_events_that_were_lost_say_so() -> None:
    pair = wishing(report_events)
    session = subscribed(pair)
    for _ in range(MAX_WAITING + 1):
        events_of(pair).happened(CHANGED, b"\1")
    assert pair.run(flows.serve_pending(pair.requester, session)) is True
    assert pair.requester.events is not None
    assert [event.type_id for _, event in pair.requester.events.received] == [m.DmtfEvent.EVENT_LOST]


def test_events_wait_for_a_requester_that_refuses_them() -> None:
    pair = wishing(report_events)
    session, pair.requester.events = subscribed(pair), None
    events_of(pair).happened(CHANGED, b"\1")
    before = pair.responder.event_key(session.session_id)
    with pytest.raises(ErrorResponse, match="INVALID_RESPONSE_CODE"):
        pair.run(flows.serve_pending(pair.requester, session))
    assert len(events_of(pair).waiting(before)) == 1
    assert pair.responder.pending is None


def test_other_sessions_and_the_outside_hear_nothing() -> None:
    pair = wishing(report_events, KeyRenewal())
    subscribed(pair)
    other = pair.run(flows.key_exchange(pair.requester))
    events_of(pair).happened(CHANGED, b"\1")
    assert pair.run(flows.serve_pending(pair.requester)) is False
    assert pair.run(flows.serve_pending(pair.requester, other)) is True  # its keys
    assert pair.run(flows.serve_pending(pair.requester, other)) is False
    assert received(pair) == []


def test_keys_are_renewed_once_in_each_session() -> None:
    pair = wishing(KeyRenewal())
    for _ in range(2):  # the second session has the identifier of the first
        session = pair.open_session() if not pair.requester.sessions else pair.run(flows.key_exchange(pair.requester))
        before = session.response_key.secret
        assert pair.run(flows.serve_pending(pair.requester, session)) is True
        assert session.response_key.secret != before
        assert pair.run(flows.serve_pending(pair.requester, session)) is False
        pair.run(flows.end_session(pair.requester, session))


def test_wishes_take_turns() -> None:
    pair = wishing(report_events, KeyRenewal())
    session = subscribed(pair)
    events_of(pair).happened(CHANGED, b"\1")
    before = session.response_key.secret
    assert pair.run(flows.serve_pending(pair.requester, session)) is True
    assert (received(pair), session.response_key.secret == before) == ([b"\1"], True)
    assert pair.run(flows.serve_pending(pair.requester, session)) is True
    assert session.response_key.secret != before


def test_what_the_requester_is_is_asked_once_and_only_of_one_that_tells() -> None:
    learned: list[Any] = []
    silent = wishing(Acquaintance(learned.append))
    silent.authenticate()
    assert silent.run(flows.serve_pending(silent.requester)) is False
    flags = REQUESTER_CAPABILITIES | MUTUAL_CAPABILITIES | Capability.EP_INFO_NO_SIG
    pair = wishing(Acquaintance(learned.append), requester=flags)
    pair.requester.device_classes = (m.DeviceClass(vendor=b"\1\2"),)
    pair.authenticate()
    assert pair.run(flows.serve_pending(pair.requester)) is True
    assert pair.run(flows.serve_pending(pair.requester)) is False
    assert learned == [pair.requester.device_classes]


def test_without_encapsulation_there_is_nothing_to_fetch() -> None:
    pair = wishing(KeyRenewal(), requester=REQUESTER_CAPABILITIES)
    pair.responder.mutual = None
    session = pair.open_session()
    facts = pair.requester.connection.facts
    answer = pair.say(m.GetEncapsulatedRequest().encode(facts), session)
    assert (answer or b"")[1:3] == bytes([m.Error.CODE, ErrorCode.UNSUPPORTED_REQUEST])
    assert pair.responder.pending is None


def test_a_handshake_is_no_place_to_get_acquainted() -> None:
    learned: list[Any] = []
    flags = REQUESTER_CAPABILITIES | MUTUAL_CAPABILITIES | Capability.EP_INFO_NO_SIG
    pair = wishing(Acquaintance(learned.append), requester=flags)
    pair.responder.mutual = None
    pair.authenticate()
    r = pair.requester
    action = r.start(flows.key_exchange(r))
    assert isinstance(action, Send)
    r.receive(pair.carry(action.frame))
    (session,) = r.sessions.values()
    r.cancel()
    session.request_key.sequence = 0  # FINISH never left
    answer = pair.say(m.GetEncapsulatedRequest().encode(r.connection.facts), session)
    assert (answer or b"")[1:3] == bytes([m.Error.CODE, ErrorCode.NO_PENDING_REQUESTS])
    assert pair.run(flows.serve_pending(r)) is True
    assert len(learned) == 1


def test_what_a_responder_subscribes_to_is_known_by_its_session_and_ends_with_it() -> None:
    flags = REQUESTER_CAPABILITIES | MUTUAL_CAPABILITIES | Capability.EVENT
    pair = wishing(requester=flags)
    mine = pair.requester.events
    assert mine is not None
    session = pair.open_session()
    theirs = pair.responder.sessions[session.session_id]
    wanted = [m.EventGroup(types=(m.EventType(type_id=CHANGED),))]
    for _ in range(3):
        ask_requester(pair.responder, lambda side: flows.subscribe_event_types(theirs, wanted), session.session_id)
        assert pair.run(flows.serve_pending(pair.requester, session)) is True
    key = subscriber(pair.requester.events_connection, session.session_id)
    assert mine.subscriptions == {key: frozenset({CHANGED})}
    pair.run(flows.end_session(pair.requester, session))
    assert mine.subscriptions == {}
