"""What ends a session, and what must not leave one behind."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from spdm_pair import Pair
from teeio.errors import DecodeError, PeerViolation, TeeioError
from teeio.flow import Send
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.binding import OtherApplication
from teeio.spdm.constants import Capability, ErrorCode, KeyUpdateOperation
from teeio.spdm.device_state import Measured
from teeio.spdm.rules import Phase
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, SessionPhase

PLAIN_BUSY = bytes([0, 0x12, m.Error.CODE, ErrorCode.BUSY, 0])


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (PLAIN_BUSY, PeerViolation),
        (bytes([0, 0x12, m.HeartbeatAck.CODE, 0, 0]), PeerViolation),
        (b"\1" + bytes(5), DecodeError),
        (b"\1" + bytes(6) + b"\x20\0" + bytes(32), PeerViolation),
        (b"\0\x12", DecodeError),
    ],
)
def test_a_request_without_a_protected_answer_ends_the_session(answer: bytes, error: type[TeeioError]) -> None:
    """Else the held-back answer could be handed over as that of the next request (DSP0277)."""
    pair = Pair()
    session = pair.open_session()
    requester = pair.requester
    assert isinstance(requester.start(flows.heartbeat(session)), Send)
    with pytest.raises(error):
        requester.receive(answer)
    assert not requester.sessions
    assert session.phase is SessionPhase.ENDED


def test_an_abandoned_request_ends_the_session() -> None:
    pair = Pair()
    session = pair.open_session()
    pair.requester.start(flows.heartbeat(session))
    pair.requester.cancel()
    assert not pair.requester.sessions


def test_a_malformed_get_version_changes_nothing() -> None:
    pair = Pair()
    pair.authenticate()
    vca = pair.responder.transcript.vca
    answer = pair.say(bytes([0x10, m.GetVersion.CODE, 0, 0]) + bytes(40))
    assert (answer or b"")[1] == m.Error.CODE
    assert pair.responder.transcript.vca == vca
    assert pair.responder.connection.phase is Phase.NEGOTIATED
    pair.run(flows.challenge(pair.requester))


def test_a_refused_key_exchange_leaves_no_session_behind() -> None:
    """KEY_EXCHANGE_RSP does not fit and cannot be sent in chunks."""
    changes: dict[str, Any] = {"data_transfer_size": 250, "capabilities": REQUESTER_CAPABILITIES & ~Capability.CHUNK}
    pair = Pair(requester_changes=changes)
    pair.authenticate()
    for _ in range(6):
        with pytest.raises(TeeioError, match="RESPONSE_TOO_LARGE"):
            pair.run(flows.key_exchange(pair.requester))
    assert not pair.responder.sessions


def test_finish_of_the_other_kind_ends_the_session() -> None:
    capabilities = RESPONDER_CAPABILITIES | Capability.PSK_WITH_CONTEXT
    psk = {"capabilities": REQUESTER_CAPABILITIES | Capability.PSK}
    pair = Pair(0x13, responder_changes={"capabilities": capabilities}, requester_changes=psk)
    pair.responder.psks = {b"hint": bytes(32)}
    pair.authenticate()
    requester = pair.requester
    action = requester.start(flows.psk_exchange(requester, b"hint", bytes(32)))
    assert isinstance(action, Send)
    requester.receive(pair.responder.respond(action.frame) or b"")
    (session,) = requester.sessions.values()
    requester.cancel()
    session.request_key.sequence = 0  # PSK_FINISH never left
    finish = m.Finish(verify_data=bytes(48)).encode(requester.connection.facts)
    answer = pair.say(finish, session)
    assert (answer or b"")[1:3] == bytes([m.Error.CODE, ErrorCode.UNEXPECTED_REQUEST])
    assert not pair.responder.sessions


def test_only_key_update_may_come_under_the_key_before_the_update() -> None:
    pair = Pair()
    session = pair.open_session()
    facts = pair.requester.connection.facts
    old = session.request_key
    update = m.KeyUpdate(operation=KeyUpdateOperation.UPDATE_KEY, tag=1).encode(facts)
    assert (pair.say(update, session) or b"")[1] == m.KeyUpdateAck.CODE
    record = old.seal(session.session_id, m.Heartbeat().encode(facts), pair.requester.binding, pair.requester.entropy)
    answer = pair.responder.respond(b"\1" + record)
    assert answer is not None
    assert not pair.responder.sessions, "a record under the old key did not verify"


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_answer_to_key_update_ends_the_session(lost: int) -> None:
    pair = Pair()
    session = pair.open_session()
    action = pair.requester.start(flows.key_update(pair.requester, session))
    for _ in range(lost):
        assert isinstance(action, Send)
        action = pair.requester.receive(pair.responder.respond(action.frame) or b"")
    with pytest.raises(TeeioError):
        pair.requester.receive(PLAIN_BUSY)
    assert not pair.requester.sessions


def _busy(pair: Pair) -> Callable[[bytes], bytes]:
    def answer(frame: bytes) -> bytes:
        return bytes([0]) + m.Error(
            error_code=ErrorCode.RESPONSE_NOT_READY, extended=bytes([31, m.GetDigests.CODE, 1, 1])
        ).encode(pair.requester.connection.facts)

    return answer


def test_a_peer_cannot_make_us_wait_for_half_an_hour() -> None:
    pair = Pair()
    pair.run(flows.connect(pair.requester))
    action = pair.requester.start(flows.get_digests())
    assert isinstance(action, Send)
    with pytest.raises(TeeioError, match="not ready within 60 s"):
        pair.requester.receive(_busy(pair)(action.frame))


def test_measurements_of_the_default_session_verify() -> None:
    pair = Pair()
    session = pair.open_session()
    r = pair.requester
    pair.run(flows.get_measurements(r, 1, signed=False), session.session_id)
    pair.run(flows.get_measurements(r), session.session_id)


def test_unsigned_measurements_need_no_signature_algorithm() -> None:
    capabilities = Capability.MEAS_NO_SIG | Capability.CHUNK
    pair = Pair(responder_changes={"capabilities": capabilities}, requester_changes={"base_asym": ()})
    pair.run(flows.connect(pair.requester))
    taken = pair.run(flows.get_measurements(pair.requester, signed=False))
    assert taken.blocks


def _without_signatures() -> Pair:
    session = Capability.PSK | Capability.ENCRYPT | Capability.MAC
    flags = session | Capability.CERT | Capability.EP_INFO_SIG
    pair = Pair(0x13, responder_changes={"versions": (0x13,), "capabilities": flags})
    pair.requester.settings = replace(pair.requester.settings, base_asym=(), capabilities=session)
    with suppress(TeeioError):
        pair.run(flows.connect(pair.requester))
    return pair


def test_signed_endpoint_information_without_a_signature_algorithm_is_refused() -> None:
    pair = _without_signatures()
    assert not pair.responder.connection.asym
    request = m.GetEndpointInfo(sub_code=1, slot=0, signature_requested=1, nonce=bytes(32))
    assert (pair.say(request.encode(pair.responder.connection.facts)) or b"")[1] == m.Error.CODE


def test_an_answer_larger_than_a_record_comes_in_chunks() -> None:
    large = {"data_transfer_size": 0x28000, "max_message_size": 0x40000}
    pair = Pair(0x13, responder_changes={"versions": (0x13,)}, requester_changes=large)
    kind = m.MeasurementType.MUTABLE_FIRMWARE
    pair.responder.measurements.measured = [Measured(i, kind, bytes(40000), always_raw=True) for i in (1, 2)]
    session = pair.open_session()
    taken = pair.run(flows.get_measurements(pair.requester, session=session.session_id))
    assert len(taken.response.record) > 80000


def test_other_protocols_are_not_heard_under_the_key_before_the_update() -> None:
    pair = Pair()
    session = pair.open_session()
    heard: list[bytes] = []
    pair.responder.application = heard.append  # type: ignore[assignment, return-value]
    old = session.request_key
    update = m.KeyUpdate(operation=KeyUpdateOperation.UPDATE_KEY, tag=1).encode(pair.requester.connection.facts)
    pair.say(update, session)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(pair.responder.binding), "unwrap_application", _other)
        record = old.seal(session.session_id, b"other", pair.requester.binding, pair.requester.entropy)
        pair.responder.respond(b"\1" + record)
    assert not heard
    assert not pair.responder.sessions


def _other(self: object, data: bytes) -> bytes:
    raise OtherApplication("test", "data", "not SPDM", data)


def test_a_refused_quick_start_restores_nothing() -> None:
    capabilities = RESPONDER_CAPABILITIES | Capability.CACHE | Capability.PSK
    pair = Pair(responder_changes={"capabilities": capabilities})
    pair.requester.settings = replace(pair.requester.settings, capabilities=REQUESTER_CAPABILITIES | Capability.PSK)
    session = pair.open_session()
    pair.say(m.EndSession().encode(pair.requester.connection.facts), session)
    assert pair.responder.preserved is not None
    pair.say(bytes([0x10, m.GetVersion.CODE, 0, 0]))
    assert (pair.say(bytes([0x12, m.PskExchange.CODE, 0, 0])) or b"")[1] == m.Error.CODE
    assert pair.responder.connection.phase is Phase.VERSION_DONE


def test_a_new_key_is_not_verified_under_the_key_before_the_update() -> None:
    pair = Pair()
    session = pair.open_session()
    facts = pair.requester.connection.facts
    pair.say(m.KeyUpdate(operation=KeyUpdateOperation.UPDATE_KEY, tag=1).encode(facts), session)
    verify = m.KeyUpdate(operation=KeyUpdateOperation.VERIFY_NEW_KEY, tag=1).encode(facts)
    assert (pair.say(verify, session) or b"")[1:3] == bytes([m.Error.CODE, ErrorCode.DECRYPT_ERROR])
    assert not pair.responder.sessions
