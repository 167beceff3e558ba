"""Several sessions at once on one connection, set up by certificate and by pre-shared key, with their traffic interleaved."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdm_pair import Pair
from teeio.crypto.algorithms import P384_SUITE
from teeio.errors import ErrorResponse, PeerViolation
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, Version
from teeio.spdm.device_state import Measured
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, Session, SessionPhase
from teeio.spdm.vendor import vendor_exchange

VENDOR = b"\x01\x00"
VERSIONS = [Version.V1_1, Version.V1_2, Version.V1_3, Version.V1_4]


class Notes:
    """A vendor protocol that keeps what each session says apart, and answers with all of it."""

    standard_id = 3
    vendor_id = VENDOR
    protocol_id = 7

    def __init__(self) -> None:
        self.said: dict[int, bytes] = {}

    def respond(self, session_id: int, message: bytes, now: float) -> bytes | None:
        self.said[session_id] = self.said.get(session_id, b"") + message
        return self.said[session_id]

    def session_ended(self, session_id: int) -> None:
        self.said.pop(session_id, None)


def begin(pair: Pair, *, psk: bool = False) -> Session:
    if psk:
        return pair.run(flows.psk_exchange(pair.requester, b"hint", b"pre-shared key"))
    return pair.run(flows.key_exchange(pair.requester))


def three(version: Version = Version.V1_2, **changes: Any) -> tuple[Pair, list[Session]]:
    """A pair with sessions by certificate, by pre-shared key, and by certificate."""
    pair = Pair(
        version,
        P384_SUITE,
        {"versions": (version,), "capabilities": RESPONDER_CAPABILITIES | Capability.PSK_WITH_CONTEXT, **changes},
        {"capabilities": REQUESTER_CAPABILITIES | Capability.PSK, **changes},
        vendor_protocols=(Notes(),),
    )
    pair.authenticate()
    return pair, [begin(pair, psk=psk) for psk in (False, True, False)]


def tell(pair: Pair, session: Session, text: bytes) -> bytes:
    return pair.run(vendor_exchange(3, VENDOR, b"\x07" + text), session.session_id)[1:]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_interleaved_traffic_with_an_update_and_an_end(version: Version) -> None:
    pair, (first, by_psk, third) = three(version)
    assert len({session.session_id for session in (first, by_psk, third)}) == 3
    assert [tell(pair, session, b"a") for session in (first, by_psk, third)] == [b"a"] * 3
    pair.run(flows.key_update(pair.requester, by_psk))
    assert [tell(pair, session, b"b") for session in (third, first, by_psk)] == [b"ab"] * 3
    assert (first.request_key.sequence, by_psk.request_key.sequence, third.request_key.sequence) == (2, 2, 2)
    pair.run(flows.end_session(pair.requester, first))
    assert [tell(pair, session, b"c") for session in (by_psk, third)] == [b"abc"] * 2
    pair.run(flows.key_update(pair.requester, third, both=False))
    assert [tell(pair, session, b"d") for session in (third, by_psk)] == [b"abcd"] * 2
    again = begin(pair)
    assert again.session_id == first.session_id, "the id of the ended session is free again"
    assert tell(pair, again, b"e") == b"e", "and nothing of the ended session is left"
    for session in (again, by_psk, third):
        pair.run(flows.end_session(pair.requester, session))
    assert not pair.responder.sessions


def test_each_session_has_its_own_measurement_transcript() -> None:
    pair, (first, by_psk, third) = three()
    for session in (first, by_psk, third, None):
        where = session.session_id if session else None
        pair.run(flows.get_measurements(pair.requester, 1, signed=False, session=where))
    for side in (pair.requester.transcript, pair.responder.transcript):
        begun = [side.l1(Version.V1_2, one, b"", b"") for one in (first.session_id, by_psk.session_id, None)]
        assert len({len(data) for data in begun}) == 1, "one exchange in each"
        assert len(set(begun)) == 3, "each its own: the responder's nonces differ"
    for session in (third, None, first, by_psk):
        # The signature covers what was asked for before in this session, and only there.
        where = session.session_id if session else None
        assert pair.run(flows.get_measurements(pair.requester, session=where)).blocks


def test_each_session_fetches_its_own_large_message() -> None:
    """Two large responses on their way at once, chunk by chunk in turn, and a third session in between."""
    pair, sessions = three(data_transfer_size=256, max_message_size=8192)
    kind = m.MeasurementType.MUTABLE_FIRMWARE
    pair.responder.measurements.measured = [Measured(1, kind, bytes(range(256)) * 4, always_raw=True)]
    facts = pair.requester.connection.facts
    request = m.GetMeasurements(operation=1).encode(facts)
    first, between, third = sessions
    handles, collected = {}, {first.session_id: b"", third.session_id: b""}
    for session in (first, third):
        answer = pair.say(request, session) or b""
        assert answer[1:3] == bytes([m.Error.CODE, ErrorCode.LARGE_RESPONSE])
        handles[session.session_id] = answer[4]
    assert handles[first.session_id] != handles[third.session_id]
    for number in range(10):
        for session in (third, first):
            got = m.ChunkGet(handle=handles[session.session_id], sequence=number).encode(facts)
            answer = pair.say(got, session) or b""
            if answer[1] == m.ChunkResponse.CODE:
                collected[session.session_id] += m.ChunkResponse.decode(answer, facts).chunk
            assert (pair.say(m.Heartbeat().encode(facts), between) or b"")[1] == m.HeartbeatAck.CODE
    for data in collected.values():
        assert bytes(range(256)) * 4 in data


def test_a_record_moved_to_another_session_ends_only_that_one() -> None:
    pair, (first, by_psk, third) = three()
    record = first.request_key.seal(
        by_psk.session_id,
        m.Heartbeat().encode(pair.requester.connection.facts),
        pair.requester.binding,
        lambda n: bytes(n),
    )
    pair.responder.respond(pair.requester.binding.wrap(record, secured=True))
    assert set(pair.responder.sessions) == {first.session_id, third.session_id}
    first.request_key.sequence -= 1
    assert tell(pair, first, b"x") == tell(pair, third, b"x") == b"x"
    with pytest.raises(PeerViolation, match="data 0x02"):
        tell(pair, by_psk, b"x")
    assert by_psk.phase is SessionPhase.ENDED


def test_a_handshake_under_way_does_not_disturb_the_others() -> None:
    """Half a session: KEY_EXCHANGE without FINISH, while the others talk."""
    pair, (first, by_psk, _) = three()
    requester = pair.requester
    action: Any = requester.start(flows.key_exchange(requester), pair.now)
    requester.receive(pair.responder.respond(action.frame) or b"", pair.now)
    requester.cancel()
    assert len(pair.responder.sessions) == 4
    assert tell(pair, first, b"x") == tell(pair, by_psk, b"x") == b"x"
    with pytest.raises(ErrorResponse, match="SESSION_LIMIT_EXCEEDED"):
        pair.run(flows.key_exchange(requester))
    assert tell(pair, first, b"y") == b"xy"


OPERATIONS = ("talk", "heartbeat", "update all", "update one", "measure", "end", "begin", "begin by psk")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 3)), max_size=30))
def test_any_order_of_operations_keeps_both_sides_in_step(steps: list[tuple[str, int]]) -> None:
    pair, live = three()
    texts: dict[int, bytes] = {}
    for operation, which in steps:
        if operation.startswith("begin"):
            if len(live) < pair.responder.settings.max_sessions:
                live.append(begin(pair, psk=operation.endswith("psk")))
            continue
        if not live:
            continue
        session = live[which % len(live)]
        if operation == "talk":
            texts[session.session_id] = texts.get(session.session_id, b"") + bytes([which])
            assert tell(pair, session, bytes([which])) == texts[session.session_id]
        elif operation == "heartbeat":
            pair.run(flows.heartbeat(session))
        elif operation == "measure":
            pair.run(flows.get_measurements(pair.requester, session=session.session_id))
        elif operation == "end":
            pair.run(flows.end_session(pair.requester, session))
            live.remove(session)
            texts.pop(session.session_id, None)
        else:
            pair.run(flows.key_update(pair.requester, session, both=operation == "update all"))
    theirs = pair.responder.sessions
    assert set(theirs) == set(pair.requester.sessions) == {session.session_id for session in live}
    for session in live:
        ours, other = session, theirs[session.session_id]
        assert ours.request_key.sequence == other.request_key.sequence
        assert ours.response_key.sequence == other.response_key.sequence
        assert ours.request_key.secret == other.request_key.secret
        assert ours.response_key.secret == other.response_key.secret
