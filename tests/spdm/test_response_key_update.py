"""Key updates that the responder asks for."""

from typing import Any

import pytest

from spdm.mutual_pair import VERSIONS, error_head, mutual_pair
from spdm_pair import Pair
from teeio.errors import AuthenticationFailed, ErrorResponse, Misuse
from teeio.observe import Refused, SecretDerived
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, Version
from teeio.spdm.encapsulation import Counterpart, ask_requester
from teeio.spdm.exchange import ask
from teeio.spdm.response_key_update import renew_response_key
from teeio.spdm.state import MUTUAL_CAPABILITIES, REQUESTER_CAPABILITIES


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_the_responder_renews_its_key(version: Version) -> None:
    pair = mutual_pair(version)
    told: list[SecretDerived] = []
    pair.responder.observer = lambda event: told.append(event) if isinstance(event, SecretDerived) else None
    session = pair.open_session()
    theirs = pair.responder.sessions[session.session_id]
    before = session.request_key.secret, session.response_key.secret
    renew_response_key(pair.responder, session.session_id)
    pair.run(flows.heartbeat(session))
    assert pair.run(flows.serve_pending(pair.requester, session)) is True
    after = session.request_key.secret, session.response_key.secret
    assert after == (theirs.request_key.secret, theirs.response_key.secret)
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)
    assert (session.previous_key, session.update_unverified) == (None, False)
    ours = [event for event in pair.events if isinstance(event, SecretDerived)]
    assert ours[-1] == told[-1]
    assert ours[-1].label == "response_data_secret_update"
    assert pair.run(flows.serve_pending(pair.requester, session)) is False
    for both in (True, False):
        pair.run(flows.key_update(pair.requester, session, both=both))
        renew_response_key(pair.responder, session.session_id)
        pair.run(flows.serve_pending(pair.requester, session))
    pair.run(flows.heartbeat(session))


def test_a_key_update_that_has_begun_holds_up_other_requests() -> None:
    pair = mutual_pair()
    session = pair.open_session()
    facts = pair.requester.connection.facts
    renew_response_key(pair.responder, session.session_id)
    assert (pair.say(m.GetEncapsulatedRequest().encode(facts)) or b"")[1:3] == error_head(ErrorCode.UNEXPECTED_REQUEST)
    fetched = pair.say(m.GetEncapsulatedRequest().encode(facts), session)
    assert (fetched or b"")[5] == m.KeyUpdate.CODE
    held = pair.say(m.Heartbeat().encode(facts), session)
    assert (held or b"")[1:3] == error_head(ErrorCode.REQUEST_IN_FLIGHT)
    refused = bytes([0x12, m.Error.CODE, ErrorCode.INVALID_REQUEST, 0])
    answer = pair.say(m.DeliverEncapsulatedResponse(request_id=1, inner=refused).encode(facts), session)
    assert (answer or b"")[1:3] == error_head(ErrorCode.INVALID_RESPONSE_CODE)
    assert pair.responder.pending is None
    pair.run(flows.heartbeat(session))


def test_a_key_update_whose_acknowledgement_is_wrong_ends_the_session() -> None:
    pair = mutual_pair()
    session = pair.open_session()
    facts = pair.requester.connection.facts
    renew_response_key(pair.responder, session.session_id)
    fetched = pair.say(m.GetEncapsulatedRequest().encode(facts), session)
    wrong = m.KeyUpdateAck(operation=1, tag=(fetched or b"")[7] ^ 1).encode(facts)
    answer = pair.say(m.DeliverEncapsulatedResponse(request_id=1, inner=wrong).encode(facts), session)
    assert (answer or b"")[1:3] == error_head(ErrorCode.INVALID_RESPONSE_CODE)
    assert (pair.responder.pending, pair.responder.sessions) == (None, {})


def test_a_responder_may_update_its_own_key_only() -> None:
    pair = mutual_pair()
    session = pair.open_session()
    facts = pair.requester.connection.facts
    before = session.response_key

    def ask_for_all(side: Counterpart) -> Any:
        yield from ask(m.KeyUpdate(operation=2, tag=0))

    ask_requester(pair.responder, ask_for_all, session.session_id)
    with pytest.raises(ErrorResponse, match="INVALID_RESPONSE_CODE"):
        pair.run(flows.serve_encapsulated(pair.requester, session))
    refused = [event for event in pair.events if isinstance(event, Refused)]
    assert "its own key only" in refused[-1].rule
    assert session.response_key is before
    assert facts.version == Version.V1_2


def test_when_a_key_update_cannot_be_asked_for() -> None:
    pair = mutual_pair()
    session = pair.open_session()
    with pytest.raises(Misuse, match="no established session"):
        renew_response_key(pair.responder, 5)
    renew_response_key(pair.responder, session.session_id)
    with pytest.raises(Misuse, match="another encapsulated flow"):
        renew_response_key(pair.responder, session.session_id)
    pair.run(flows.end_session(pair.requester, session))
    assert pair.responder.pending is None
    without = mutual_pair(requester=(REQUESTER_CAPABILITIES | MUTUAL_CAPABILITIES) & ~Capability.KEY_UPD)
    with pytest.raises(Misuse, match="KEY_UPD is not negotiated"):
        renew_response_key(without.responder, without.open_session().session_id)
    plain = Pair()
    with pytest.raises(Misuse, match="ENCAP is not negotiated"):
        renew_response_key(plain.responder, plain.open_session().session_id)


@pytest.mark.parametrize("code", [m.EncapsulatedResponseAck.CODE, m.HeartbeatAck.CODE])
def test_only_a_refusal_may_come_under_the_response_key_before_the_update(code: int) -> None:
    pair = mutual_pair()
    session = pair.open_session()
    theirs = pair.responder.sessions[session.session_id]
    old = theirs.response_key
    renew_response_key(pair.responder, session.session_id)
    honest = pair.carry

    def carry(frame: bytes) -> bytes:
        answer = honest(frame)
        if theirs.response_key is old:
            return answer
        binding, message = pair.requester.binding, bytes([0x12, code, 0, 0, 0, 0, 0, 0])
        return binding.wrap(old.seal(session.session_id, message, binding, pair.requester.entropy), secured=True)

    pair.carry = carry  # type: ignore[method-assign]
    with pytest.raises(AuthenticationFailed, match="under the key before the update"):
        pair.run(flows.serve_pending(pair.requester, session))
    assert not pair.requester.sessions
