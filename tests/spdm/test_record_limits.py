"""Sequence numbers: what travels of them, that they never repeat, and what happens before a key has protected too many records."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdm_pair import Pair
from teeio.crypto.algorithms import P384_SUITE, Aead, BaseHash
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import AuthenticationFailed, ErrorResponse, Misuse, PeerViolation, TeeioError
from teeio.mctp import MctpBinding
from teeio.observe import SecretDerived
from teeio.pcie.doe import DoeBinding
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.binding import Binding
from teeio.spdm.constants import Capability, ErrorCode, Version
from teeio.spdm.device_state import Measured
from teeio.spdm.key_schedule import KeySchedule
from teeio.spdm.record import MAX_RECORDS, MIN_RECORDS, RecordKey, RecordTerms, record_header, room
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, SessionPhase, Settings
from teeio.tcp_binding import TcpBinding

BINDINGS: list[tuple[Binding, int]] = [(MctpBinding(), 2), (DoeBinding(), 0), (TcpBinding(), 0)]
NOTHING = Capability(0)
HEARTBEAT = bytes([0x12, m.Heartbeat.CODE, 0, 0])


def record_key(limit: int = MAX_RECORDS, sequence: int = 0) -> RecordKey:
    key = RecordKey(KeySchedule(0x12, BaseHash.SHA_256, Aead.AES_128_GCM), bytes(32), RecordTerms(limit=limit))
    key.sequence = sequence
    return key


def seal(key: RecordKey, binding: Binding, message: bytes = HEARTBEAT) -> bytes:
    return key.seal(7, message, binding, SeededEntropy(b"padding"))


# -- on the wire -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("binding", "size"), BINDINGS, ids=lambda one: getattr(one, "name", None))
@pytest.mark.parametrize("sequence", [0, 1, 0x1234, 0xFFFF, 0x10000, 0xABCD_0102_0304_0506])
def test_what_travels_of_a_sequence_number(binding: Binding, size: int, sequence: int) -> None:
    record = seal(record_key(sequence=sequence), binding)
    assert record[:4] == (7).to_bytes(4, "little")
    assert record[4 : 4 + size] == sequence.to_bytes(8, "little")[:size]
    assert int.from_bytes(record[4 + size : 6 + size], "little") == len(record) - 6 - size
    assert record_header(record, binding).size == 6 + size
    assert record_key(sequence=sequence).open(record, binding) == HEARTBEAT


@given(st.integers(0, MAX_RECORDS - 2), st.sampled_from(BINDINGS))
def test_a_record_opens_with_its_own_number_alone(sequence: int, binding: tuple[Binding, int]) -> None:
    record = seal(record_key(sequence=sequence), binding[0])
    assert record_key(sequence=sequence).open(record, binding[0]) == HEARTBEAT
    for other in {sequence + 1, max(0, sequence - 1), sequence ^ 1 << 16} - {sequence}:
        key = record_key(sequence=other)
        with pytest.raises(AuthenticationFailed):
            key.open(record, binding[0])
        assert key.sequence == other


# -- rollover ----------------------------------------------------------------------------------------------------------


def test_sequence_numbers_do_not_roll_over() -> None:
    assert MAX_RECORDS == (1 << 64) - 1
    binding = MctpBinding()
    sealing, opening = (record_key(sequence=MAX_RECORDS - 1) for _ in range(2))
    assert opening.open(seal(sealing, binding), binding) == HEARTBEAT
    with pytest.raises(Misuse, match="may protect no more"):
        seal(sealing, binding)
    with pytest.raises(AuthenticationFailed, match="may protect no more"):
        opening.open(seal(record_key(), binding), binding)
    assert sealing.sequence == opening.sequence == MAX_RECORDS


def test_an_updated_key_counts_anew_within_the_same_limit() -> None:
    key = record_key(limit=5, sequence=5)
    assert (key.remaining, key.updated().sequence, key.updated().remaining) == (0, 0, 5)


@pytest.mark.parametrize("records", [0, MIN_RECORDS - 1])
def test_a_limit_without_room_for_an_update_is_refused(records: int) -> None:
    with pytest.raises(Misuse, match="leave no room to update"):
        Settings(records_per_key=records)
    assert Settings().records_per_key == MAX_RECORDS
    assert Settings(records_per_key=MIN_RECORDS)


# -- limits ------------------------------------------------------------------------------------------------------------


def limited(requester: int = MAX_RECORDS, responder: int = MAX_RECORDS, without: Capability = NOTHING) -> Pair:
    return Pair(
        Version.V1_2,
        P384_SUITE,
        {"records_per_key": responder, "capabilities": RESPONDER_CAPABILITIES & ~without},
        {"records_per_key": requester, "capabilities": REQUESTER_CAPABILITIES & ~without},
    )


def updates(pair: Pair) -> int:
    labels = [event.label for event in pair.events if isinstance(event, SecretDerived)]
    return labels.count("request_data_secret_update")


@pytest.mark.parametrize("limit", [MIN_RECORDS, 5, 8, 64, 200])
def test_the_requester_updates_the_keys_by_itself_in_time(limit: int) -> None:
    pair = limited(limit, limit)
    session = pair.open_session()
    theirs = pair.responder.sessions[session.session_id]
    for _ in range(3 * limit):
        pair.run(flows.heartbeat(session))
        keys = (session.request_key, session.response_key, theirs.request_key, theirs.response_key)
        assert all(key.sequence <= limit for key in keys)
    assert 3 <= updates(pair) <= 3 * limit
    pair.run(flows.end_session(pair.requester, session))
    assert not pair.responder.sessions


def test_without_a_limit_there_is_no_update() -> None:
    pair = limited()
    session = pair.open_session()
    for _ in range(50):
        pair.run(flows.heartbeat(session))
    assert updates(pair) == 0


def test_the_answers_count_as_the_requests_do() -> None:
    pair = limited(8, MAX_RECORDS)
    session = pair.open_session()
    session.response_key.sequence = pair.responder.sessions[session.session_id].response_key.sequence = 7
    pair.run(flows.heartbeat(session))
    assert updates(pair) == 1
    assert session.response_key.sequence == 3, "KEY_UPDATE_ACK, its proof, HEARTBEAT_ACK"


def test_large_answers_in_chunks_do_not_use_a_key_up() -> None:
    changes: dict[str, Any] = {"data_transfer_size": 256, "max_message_size": 8192, "records_per_key": 200}
    pair = Pair(Version.V1_2, P384_SUITE, dict(changes), dict(changes))
    kind = m.MeasurementType.MUTABLE_FIRMWARE
    pair.responder.measurements.measured = [Measured(1, kind, bytes(6000), always_raw=True)]
    session = pair.open_session()
    for _ in range(40):
        assert len(pair.run(flows.get_measurements(pair.requester, session=session.session_id)).blocks) == 1
    assert updates(pair) >= 5


def test_without_key_update_the_requester_ends_the_session_and_says_why() -> None:
    pair = limited(8, 8, without=Capability.KEY_UPD)
    session = pair.open_session()
    with pytest.raises(Misuse, match=r"as many records as they may .* KEY_UPD is not negotiated.* has been ended"):
        for _ in range(8):
            pair.run(flows.heartbeat(session))
    assert session.phase is SessionPhase.ENDED
    assert not pair.requester.sessions
    assert not pair.responder.sessions, "END_SESSION has told the responder"


def test_the_responder_refuses_to_protect_more() -> None:
    """A requester that knows no limit and never updates."""
    pair = limited(responder=8)
    session = pair.open_session()
    for _ in range(8):
        pair.run(flows.heartbeat(session))
    pair.responder.sessions[session.session_id].request_key.sequence = 0
    session.request_key.sequence = 0
    record = session.request_key.seal(session.session_id, HEARTBEAT, pair.requester.binding, pair.requester.entropy)
    assert pair.responder.respond(pair.requester.binding.wrap(record, secured=True)) is None
    assert not pair.responder.sessions


def test_the_responder_ends_a_session_whose_requester_goes_on() -> None:
    pair = limited(responder=8)
    session = pair.open_session()
    with pytest.raises((ErrorResponse, PeerViolation, AuthenticationFailed, AssertionError)):
        for _ in range(9):
            pair.run(flows.heartbeat(session))
    assert not pair.responder.sessions
    assert session.request_key.sequence == 9


def test_the_requester_opens_no_more_than_it_allows() -> None:
    pair = limited(8)
    session = pair.open_session()
    theirs = pair.responder.sessions[session.session_id]
    session.response_key.sequence = theirs.response_key.sequence = 8
    with pytest.raises(AuthenticationFailed, match="may protect no more"):
        pair.run(flows.end_session(pair.requester, session))
    assert not pair.requester.sessions


def test_a_key_update_that_is_refused_leaves_the_limit_in_force() -> None:
    pair = limited(8)
    session = pair.open_session()
    session.request_key.sequence = pair.responder.sessions[session.session_id].request_key.sequence = 7
    # The last record of the key carries KEY_UPDATE; a responder that answers BUSY leaves none to repeat it with.
    busy = m.Error(error_code=ErrorCode.BUSY).encode(pair.requester.connection.facts)
    theirs = pair.responder.sessions[session.session_id]

    def carry(frame: bytes) -> bytes:
        record = theirs.response_key.seal(session.session_id, busy, pair.requester.binding, SeededEntropy(b""))
        return pair.requester.binding.wrap(record, secured=True)

    pair.carry = carry  # type: ignore[method-assign]
    with pytest.raises(TeeioError, match="may protect no more"):
        pair.run(flows.heartbeat(session))
    assert not pair.requester.sessions


def test_a_key_update_that_comes_due_does_not_part_measurements_from_their_signature() -> None:
    """KEY_UPDATE begins L anew on both sides: it must come before the requester looks at what L has."""
    updated = set()
    for before in range(12):
        pair = limited(16)
        session = pair.open_session()
        first = session.request_key.secret
        for _ in range(before):
            pair.run(flows.get_measurements(pair.requester, 1, signed=False), session.session_id)
        was = session.request_key.secret
        pair.run(flows.get_measurements(pair.requester), session.session_id)
        updated.add((was == first, session.request_key.secret == was))
    assert (True, False) in updated, "in none of the runs the update came right before the signature"


@pytest.mark.parametrize("binding", [one for one, _ in BINDINGS], ids=lambda one: one.name)
def test_the_largest_message_of_a_record_fits_into_a_frame(binding: Binding) -> None:
    message = HEARTBEAT + bytes(room(binding) - len(HEARTBEAT))
    frame = binding.wrap(seal(record_key(), binding, message), secured=True)
    record, secured = binding.unwrap(frame)
    assert (secured, record_key().open(record, binding)) == (True, message)
    with pytest.raises(Misuse, match="a record holds a message of"):
        seal(record_key(), binding, message + b"\0")


@pytest.mark.parametrize(
    ("version", "code"), [(Version.V1_1, ErrorCode.UNSPECIFIED), (Version.V1_2, ErrorCode.RESPONSE_TOO_LARGE)]
)
def test_an_answer_that_no_frame_holds_is_refused(version: Version, code: ErrorCode) -> None:
    kind = m.MeasurementType.MUTABLE_FIRMWARE
    pair = Pair(
        version, P384_SUITE, {"versions": (version,)}, {"data_transfer_size": 1 << 24, "max_message_size": 1 << 24}
    )
    pair.requester.settings = replace(pair.requester.settings, capabilities=NOTHING)
    pair.run(flows.connect(pair.requester))
    pair.responder.measurements.measured = [Measured(at, kind, bytes(0xFFF0), always_raw=True) for at in range(1, 20)]
    facts = pair.requester.connection.facts
    frame = DoeBinding().wrap(m.GetMeasurements(operation=0xFF).encode(facts), secured=False)
    pair.responder.binding = DoeBinding()
    answer, _ = DoeBinding().unwrap(pair.responder.respond(frame) or b"")
    assert answer[1:3] == bytes([m.Error.CODE, code])
