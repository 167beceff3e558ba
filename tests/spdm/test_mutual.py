"""Mutual authentication and other encapsulated requests, both ends ours."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdm_pair import Pair, identity
from teeio.crypto.algorithms import P384_SUITE, BaseAsym, PqcAsym
from teeio.errors import (
    AuthenticationFailed,
    DecodeError,
    ErrorResponse,
    Incompatible,
    Misuse,
    PeerViolation,
    TeeioError,
)
from teeio.observe import Refused, SecretDerived
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, MutualAuth, Version
from teeio.spdm.encapsulation import ENCAPSULABLE, MAX_REQUESTS, Counterpart, ask_requester
from teeio.spdm.events import DmtfEvent, Events
from teeio.spdm.exchange import ask
from teeio.spdm.mutual import MutualAuthentication
from teeio.spdm.response_key_update import renew_response_key
from teeio.spdm.state import MUTUAL_CAPABILITIES, REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, Session

VERSIONS = [Version.V1_1, Version.V1_2, Version.V1_3, Version.V1_4]
CLEAR = Capability.HANDSHAKE_IN_THE_CLEAR
P256 = BaseAsym.ECDSA_P256


@dataclass
class Trust:
    """Remembers what it was asked to trust."""

    refuse: bool = False
    asked: int = 0

    def __call__(self, chain: bytes, now: float) -> None:
        self.asked += 1
        if self.refuse or chain != identity(P256).slots[0].chain(P384_SUITE.base_hash):
            raise AuthenticationFailed("not a requester we know")


def mutual_pair(
    version: Version = Version.V1_2,
    mode: MutualAuth = MutualAuth.ENCAPSULATED,
    *,
    basic: bool = False,
    clear: bool = False,
    requester: Capability = REQUESTER_CAPABILITIES | MUTUAL_CAPABILITIES,
    **changes: Any,
) -> Pair:
    """Make a pair whose responder (P-384) authenticates its requester (P-256)."""
    extra = CLEAR if clear else Capability(0)
    policy = MutualAuthentication(Trust(), mode, basic, provisioned={0: identity(P256).slots[0].certificates})
    return Pair(
        version,
        P384_SUITE,
        {"versions": (version,), "capabilities": RESPONDER_CAPABILITIES | MUTUAL_CAPABILITIES | extra},
        {"capabilities": requester | extra, "req_base_asym": (P256,)},
        requester_identities=(P256,),
        mutual=replace(policy, **changes),
    )


def codes(pair: Pair) -> list[int]:
    """Give the codes of the plain requests that travelled."""
    return [frame[2] for way, frame in pair.frames if way == "req" and frame[0] == 0]


def inner(pair: Pair, way: str, code: int, offset: int) -> list[bytes]:
    """Give what the plain messages `code` carried."""
    return [frame[1 + offset :] for sent, frame in pair.frames if sent == way and frame[0] == 0 and frame[2] == code]


def edit(code: int, change: Callable[[bytes], bytes], way: str = "req") -> Callable[[str, bytes], bytes]:
    """Make a `tamper` that changes the plain messages with a code."""
    return lambda going, frame: change(frame) if going == way and frame[:1] == b"\0" and frame[2] == code else frame


@pytest.mark.parametrize("clear", [False, True], ids=["encrypted", "clear"])
@pytest.mark.parametrize("basic", [False, True], ids=["no basic", "basic"])
@pytest.mark.parametrize("mode", list(MutualAuth), ids=lambda mode: mode.name)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_both_sides_authenticate(version: Version, mode: MutualAuth, basic: bool, clear: bool) -> None:
    pair = mutual_pair(version, mode, basic=basic, clear=clear)
    pair.authenticate()
    assert pair.requester.connection.req_base_asym is P256
    response = pair.run(flows.challenge(pair.requester))
    assert response.basic_mutual_auth == basic
    assert bool(pair.responder.connection.requester_chain) is basic
    session = pair.run(flows.key_exchange(pair.requester))
    theirs = pair.responder.sessions[session.session_id]
    proven = mode is not MutualAuth.NONE
    assert (theirs.requester_slot, bool(theirs.requester_chain)) == ((0, True) if proven else (None, False))
    assert pair.responder.pending is None
    read = mode in (MutualAuth.ENCAPSULATED, MutualAuth.IMPLICIT_DIGESTS)
    assert pair.mutual is not None
    assert isinstance(pair.mutual.authenticate, Trust)
    assert pair.mutual.authenticate.asked == basic + read
    pair.run(flows.key_update(pair.requester, session))
    pair.run(flows.heartbeat(session))
    pair.run(flows.end_session(pair.requester, session))


def test_another_slot_is_named_by_the_last_acknowledgement() -> None:
    for mode in (MutualAuth.ENCAPSULATED, MutualAuth.PLAIN):
        pair = mutual_pair(mode=mode, slot=3, provisioned={3: identity(P256).slots[3].certificates})
        session = pair.open_session()
        assert session.requester_slot == pair.responder.sessions[session.session_id].requester_slot == 3


@pytest.mark.parametrize("mode", list(MutualAuth), ids=lambda mode: mode.name)
@pytest.mark.parametrize("version", [Version.V1_3, Version.V1_4], ids=lambda v: v.text)
def test_requesters_with_several_keys(version: Version, mode: MutualAuth) -> None:
    """The DIGESTS that a requester with several keys has sent are part of the session's transcript."""
    several = REQUESTER_CAPABILITIES | MUTUAL_CAPABILITIES | Capability.MULTI_KEY_ONLY
    pair = mutual_pair(version, mode, basic=True, requester=several)
    pair.authenticate()
    assert pair.requester.connection.requester_multi_key
    pair.run(flows.challenge(pair.requester))
    session = pair.run(flows.key_exchange(pair.requester))
    pair.run(flows.heartbeat(session))


def test_post_quantum_requesters() -> None:
    algorithm = PqcAsym.ML_DSA_44
    chain = identity(algorithm).slots[0].chain(P384_SUITE.base_hash)
    trusted: list[bytes] = []
    both = {"req_base_asym": (), "req_pqc_asym": (algorithm,)}
    pair = Pair(
        Version.V1_4,
        P384_SUITE,
        {"versions": (Version.V1_4,), "capabilities": RESPONDER_CAPABILITIES | MUTUAL_CAPABILITIES, **both},
        {"capabilities": REQUESTER_CAPABILITIES | MUTUAL_CAPABILITIES, **both},
        requester_identities=(algorithm,),
        mutual=MutualAuthentication(lambda read, now: trusted.append(read), basic=True),
    )
    pair.authenticate()
    pair.run(flows.challenge(pair.requester))
    pair.run(flows.key_exchange(pair.requester))
    assert trusted == [chain, chain]


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


# -- who is not who they say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clear", [False, True], ids=["encrypted", "clear"])
@pytest.mark.parametrize("mode", [MutualAuth.ENCAPSULATED, MutualAuth.IMPLICIT_DIGESTS], ids=lambda mode: mode.name)
def test_a_requester_that_is_not_trusted_gets_no_session(mode: MutualAuth, clear: bool) -> None:
    pair = mutual_pair(mode=mode, clear=clear, authenticate=Trust(refuse=True))
    pair.authenticate()
    with pytest.raises(ErrorResponse, match="INVALID_RESPONSE_CODE"):
        pair.run(flows.key_exchange(pair.requester))
    assert not pair.responder.sessions
    assert not pair.requester.sessions
    assert pair.responder.pending is None


def test_a_requester_that_is_not_trusted_is_not_authenticated_by_challenge() -> None:
    pair = mutual_pair(basic=True, authenticate=Trust(refuse=True))
    pair.authenticate()
    with pytest.raises(ErrorResponse, match="INVALID_RESPONSE_CODE"):
        pair.run(flows.challenge(pair.requester))
    assert not pair.responder.connection.requester_chain


@pytest.mark.parametrize("mode", [MutualAuth.PLAIN, MutualAuth.ENCAPSULATED], ids=lambda mode: mode.name)
def test_another_key_behind_the_same_chain_is_noticed(mode: MutualAuth) -> None:
    pair = mutual_pair(mode=mode, basic=True)
    real, false = identity(P256).slots[0], identity(BaseAsym.ECDSA_P256, seed=b"an impostor").slots[0]
    thief = replace(real, key=false.key)
    pair.requester.identities = (replace(identity(P256), slots={0: thief}),)
    pair.authenticate()
    with pytest.raises(ErrorResponse, match="INVALID_RESPONSE_CODE"):
        pair.run(flows.challenge(pair.requester))
    assert not pair.responder.connection.requester_chain
    with pytest.raises(ErrorResponse, match="DECRYPT_ERROR"):
        pair.run(flows.key_exchange(pair.requester))
    assert not pair.responder.sessions


def test_finish_without_the_signature_ends_the_session() -> None:
    def without_signature(frame: bytes) -> bytes:
        return b"\0" + m.Finish(verify_data=bytes(48)).encode(m.Facts(version=Version.V1_2, hash_size=48))

    def of_another_slot(frame: bytes) -> bytes:
        return frame[:4] + b"\3" + frame[5:]

    for change in (without_signature, of_another_slot):
        pair = mutual_pair(mode=MutualAuth.PLAIN, clear=True)
        pair.authenticate()
        pair.tamper = edit(m.Finish.CODE, change)  # type: ignore[method-assign]
        with pytest.raises(ErrorResponse, match="DECRYPT_ERROR"):
            pair.run(flows.key_exchange(pair.requester))
        assert not pair.responder.sessions


@pytest.mark.parametrize("way", ["req", "rsp"])
@pytest.mark.parametrize("clear", [False, True], ids=["encrypted", "clear"])
@pytest.mark.parametrize("number", range(8))
def test_any_change_on_the_way_is_noticed(way: str, clear: bool, number: int) -> None:
    # Digests of slots that are not used are in no transcript: slot 0 alone here.
    only = replace(identity(P256), slots={0: identity(P256).slots[0]})
    reference = mutual_pair(clear=clear, basic=True)
    reference.requester.identities = (only,)
    reference.authenticate()
    start = len([1 for going, _ in reference.frames if going == way])
    reference.run(flows.challenge(reference.requester))
    reference.run(flows.key_exchange(reference.requester))
    messages = [frame for going, frame in reference.frames if going == way][start:]
    target = messages[number % len(messages)]
    for at in sorted({4, 5, 6, len(target) // 2, len(target) - 1} & set(range(len(target)))):
        # Reserved bytes of the wrappers are outside every transcript.
        if target[0] == 0 and target[2] & 0x7F in (0x6A, 0x6B) and at in (4, 6, 7, 8):
            continue
        # Asking for a longer or shorter portion changes nothing that a session's mutual authentication signs.
        if target[0] == 0 and target[2] == m.EncapsulatedResponseAck.CODE and target[10:11] == b"\x82" and at > 15:
            continue
        pair = mutual_pair(clear=clear, basic=True)
        pair.requester.identities = (only,)
        pair.authenticate()
        seen = 0

        def tamper(going: str, frame: bytes, at: int = at) -> bytes:
            nonlocal seen
            if going != way:
                return frame
            seen += 1
            if seen - 1 != number % len(messages):
                return frame
            return frame[:at] + bytes([frame[at] ^ 0x41]) + frame[at + 1 :]

        pair.tamper = tamper  # type: ignore[method-assign]
        with pytest.raises((AuthenticationFailed, PeerViolation, DecodeError, Incompatible, ErrorResponse, Misuse)):
            pair.run(flows.challenge(pair.requester))
            pair.run(flows.key_exchange(pair.requester))
            raise AssertionError(f"byte {at} of {m.name_of(target[2])} was changed and nobody noticed")


# -- what must be negotiated --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_a_requester_that_cannot_is_refused_where_it_is_required(version: Version) -> None:
    alone = (REQUESTER_CAPABILITIES | MUTUAL_CAPABILITIES) & ~Capability.ENCAP
    for requester in (REQUESTER_CAPABILITIES, alone):
        if requester is alone and version == Version.V1_1:
            with pytest.raises(ErrorResponse, match="INVALID_REQUEST"):
                mutual_pair(version, requester=requester).authenticate()
            continue
        pair = mutual_pair(version, requester=requester, basic=True)
        pair.authenticate()
        assert not pair.run(flows.challenge(pair.requester)).basic_mutual_auth
        with pytest.raises(ErrorResponse, match="INVALID_POLICY" if version >= Version.V1_3 else "UNSPECIFIED"):
            pair.run(flows.key_exchange(pair.requester))
        lenient = mutual_pair(version, requester=requester, required=False)
        assert lenient.open_session().requester_slot is None


def test_a_responder_that_asks_for_what_was_not_negotiated_is_refused() -> None:
    asking = edit(m.KeyExchangeRsp.CODE, lambda frame: frame[:7] + b"\2" + frame[8:], "rsp")
    pair = mutual_pair(requester=REQUESTER_CAPABILITIES, required=False)
    pair.tamper = asking  # type: ignore[method-assign]
    with pytest.raises(Incompatible, match="which we did not offer"):
        pair.open_session()
    pair = mutual_pair(requester=REQUESTER_CAPABILITIES | MUTUAL_CAPABILITIES & ~Capability.ENCAP, required=False)
    pair.tamper = asking  # type: ignore[method-assign]
    with pytest.raises(PeerViolation, match="without ENCAP"):
        pair.open_session()
    pair = mutual_pair(mode=MutualAuth.NONE)
    pair.tamper = edit(m.KeyExchangeRsp.CODE, lambda frame: frame[:7] + b"\3" + frame[8:], "rsp")  # type: ignore[method-assign]
    with pytest.raises(PeerViolation, match="not one mode"):
        pair.open_session()
    pair = mutual_pair(requester=REQUESTER_CAPABILITIES)
    pair.authenticate()
    pair.tamper = edit(m.ChallengeAuth.CODE, lambda frame: frame[:3] + b"\x80" + frame[4:], "rsp")  # type: ignore[method-assign]
    with pytest.raises(TeeioError):
        pair.run(flows.challenge(pair.requester))


def test_misuse_is_told_at_once() -> None:
    with pytest.raises(Misuse, match="no chain is provisioned"):
        MutualAuthentication(Trust(), MutualAuth.PLAIN)
    with pytest.raises(Misuse, match="CERT is offered without an identity"):
        Pair(requester_changes={"capabilities": REQUESTER_CAPABILITIES | MUTUAL_CAPABILITIES})


# -- rules of the encapsulated flow ------------------------------------------------------------------------------------


def _error(code: ErrorCode) -> bytes:
    return bytes([m.Error.CODE, code])


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_nothing_pending(version: Version) -> None:
    pair = mutual_pair(version, MutualAuth.NONE)
    session = pair.open_session()
    assert pair.run(flows.serve_pending(pair.requester)) is False
    assert pair.run(flows.serve_pending(pair.requester, session)) is False
    with pytest.raises(ErrorResponse, match="UNEXPECTED_REQUEST"):
        pair.run(ask(m.DeliverEncapsulatedResponse(request_id=1, inner=bytes(4))))


def _challenged() -> tuple[Pair, m.Facts]:
    """Give a pair whose responder awaits GET_ENCAPSULATED_REQUEST."""
    pair = mutual_pair(basic=True)
    pair.authenticate()
    pair.run(flows.prove_possession(pair.requester))
    return pair, pair.requester.connection.facts


def test_other_requests_wait_until_the_flow_has_ended() -> None:
    pair, facts = _challenged()
    for request in (m.GetDigests(), m.GetMeasurements(signature_requested=0, operation=0), m.GetCertificate(slot=0)):
        assert (pair.say(request.encode(facts)) or b"")[1:3] == _error(ErrorCode.REQUEST_IN_FLIGHT)
    pair.run(flows.serve_encapsulated(pair.requester))
    assert (pair.say(m.GetDigests().encode(facts)) or b"")[1] == m.Digests.CODE
    pair, facts = _challenged()
    pair.run(flows.connect(pair.requester))
    assert pair.responder.pending is None


def test_ids_and_repetitions() -> None:
    pair, facts = _challenged()
    first = pair.say(m.GetEncapsulatedRequest().encode(facts))
    assert first is not None
    assert first[1:6] == bytes([m.EncapsulatedRequest.CODE, 1, 0, 0x12, m.GetDigests.CODE])
    assert pair.say(m.GetEncapsulatedRequest().encode(facts)) == first
    for number in (0, 2, 255):
        wrong = m.DeliverEncapsulatedResponse(request_id=number, inner=b"\x12\x01\0\0").encode(facts)
        assert (pair.say(wrong) or b"")[1:3] == _error(ErrorCode.INVALID_REQUEST)
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
    pair, facts = _challenged()
    pair.say(m.GetEncapsulatedRequest().encode(facts))
    answer = pair.say(m.DeliverEncapsulatedResponse(request_id=1, inner=delivered).encode(facts))
    assert (answer or b"")[1:3] == _error(ErrorCode.INVALID_RESPONSE_CODE)
    assert pair.responder.pending is None
    assert not pair.responder.connection.requester_chain
    pair.run(flows.get_digests())


def test_too_short_a_response_leaves_the_flow_pending() -> None:
    pair, facts = _challenged()
    pair.say(m.GetEncapsulatedRequest().encode(facts))
    answer = pair.say(m.DeliverEncapsulatedResponse(request_id=1, inner=b"\x12").encode(facts))
    assert (answer or b"")[1:3] == _error(ErrorCode.INVALID_REQUEST)
    pair.run(flows.serve_encapsulated(pair.requester))


def test_response_not_ready_ends_the_flow_quietly() -> None:
    pair, facts = _challenged()
    pair.say(m.GetEncapsulatedRequest().encode(facts))
    not_ready = bytes([0x12, 0x7F, ErrorCode.RESPONSE_NOT_READY, 0, 1, m.GetDigests.CODE, 1, 2])
    answer = pair.say(m.DeliverEncapsulatedResponse(request_id=1, inner=not_ready).encode(facts))
    assert answer == bytes([0x12, m.EncapsulatedResponseAck.CODE, 0, 0, 1, 0, 0, 0])
    assert pair.responder.pending is None
    assert not pair.responder.connection.requester_chain


def test_portions_without_end_are_bounded() -> None:
    """A requester that answers one byte at a time runs into the bound on the number of requests."""
    pair, facts = _challenged()
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
    assert (answer or b"")[1:3] == _error(ErrorCode.INVALID_RESPONSE_CODE)


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
    assert inner(pair, "req", m.DeliverEncapsulatedResponse.CODE, 4)[0][1:3] == _error(expected)


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


# -- key updates that the responder asks for -----------------------------------------------------------------------------


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
    assert (pair.say(m.GetEncapsulatedRequest().encode(facts)) or b"")[1:3] == _error(ErrorCode.UNEXPECTED_REQUEST)
    fetched = pair.say(m.GetEncapsulatedRequest().encode(facts), session)
    assert (fetched or b"")[5] == m.KeyUpdate.CODE
    held = pair.say(m.Heartbeat().encode(facts), session)
    assert (held or b"")[1:3] == _error(ErrorCode.REQUEST_IN_FLIGHT)
    refused = bytes([0x12, m.Error.CODE, ErrorCode.INVALID_REQUEST, 0])
    answer = pair.say(m.DeliverEncapsulatedResponse(request_id=1, inner=refused).encode(facts), session)
    assert (answer or b"")[1:3] == _error(ErrorCode.INVALID_RESPONSE_CODE)
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
    assert (answer or b"")[1:3] == _error(ErrorCode.INVALID_RESPONSE_CODE)
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
    pair, facts = _challenged()
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
    pair, _ = _challenged()
    inside = asked if isinstance(asked, bytes) else bytes([0x12, asked[0]]) + asked[1]
    pair.tamper = edit(m.EncapsulatedRequest.CODE, lambda frame: frame[:5] + inside, "rsp")  # type: ignore[method-assign]
    with suppress(TeeioError):
        pair.run(flows.serve_encapsulated(pair.requester))
    assert inner(pair, "req", m.DeliverEncapsulatedResponse.CODE, 4)
