"""Mutual authentication, both ends ours."""

from dataclasses import replace

import pytest

from spdm.mutual_pair import P256, VERSIONS, Trust, edit, mutual_pair
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
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, MutualAuth, Version
from teeio.spdm.mutual import MutualAuthentication
from teeio.spdm.state import MUTUAL_CAPABILITIES, REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES


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
