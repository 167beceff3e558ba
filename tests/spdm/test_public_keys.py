"""Raw public keys in place of certificate chains (PUB_KEY_ID, slot 0xFF): responders, and requesters in mutual authentication."""

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from spdm.mutual_pair import codes, edit
from spdm.public_key_pair import (
    CERT,
    DEVICE,
    MUTUAL,
    P256,
    P384,
    PUB_KEY_ID,
    VERSIONS,
    key,
    known_device,
    known_requester,
)
from spdm_pair import Pair, identity
from teeio.crypto.algorithms import P384_SUITE, BaseAsym, PqcAsym
from teeio.crypto.keys import verify
from teeio.errors import AuthenticationFailed, ErrorResponse, Misuse, PeerViolation, TeeioError
from teeio.observe import Refused
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import PUBLIC_KEY_SLOT, Capability, ErrorCode, MutualAuth, SummaryType, Version
from teeio.spdm.device_state import Identity
from teeio.spdm.provisioning import Provisioning
from teeio.spdm.public_keys import from_four_bits, in_four_bits
from teeio.spdm.rules import Phase
from teeio.spdm.state import REQUESTER_CAPABILITIES, SessionPhase, Settings

LATER = [Version.V1_3, Version.V1_4]


def _hash(algorithm: BaseAsym) -> bytes:
    """Give the hash of a SubjectPublicKeyInfo, computed apart from the code under test."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha384(key(algorithm).public.public_bytes(serialization.Encoding.DER, form)).digest()


# -- responders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clear", [False, True], ids=["encrypted", "clear"])
@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_a_known_responder_shows_no_chain(version: Version, clear: bool) -> None:
    extra = Capability.HANDSHAKE_IN_THE_CLEAR if clear else Capability(0)
    changes = {"capabilities": REQUESTER_CAPABILITIES | extra}
    pair = known_device(version, DEVICE | extra, requester_changes=changes)
    run, requester = pair.run, pair.requester
    run(flows.connect(requester))
    answer = run(flows.challenge(requester, PUBLIC_KEY_SLOT, SummaryType.ALL))
    assert (answer.slot, answer.slot_mask, answer.chain_hash) == (0xF, 0, _hash(P384))
    assert run(flows.get_measurements(requester, slot=PUBLIC_KEY_SLOT)).response.slot == 0xF
    session = run(flows.key_exchange(requester, PUBLIC_KEY_SLOT, SummaryType.TCB))
    evidence = run(flows.get_measurements(requester, slot=PUBLIC_KEY_SLOT, session=session.session_id))
    assert evidence.response.slot == 0xF
    assert _hash(P384) in session.transcript
    assert session.transcript == pair.responder.sessions[session.session_id].transcript
    assert not {m.GetDigests.CODE, m.GetCertificate.CODE} & set(codes(pair))


@pytest.mark.parametrize("version", LATER, ids=lambda v: v.text)
def test_a_known_responder_signs_endpoint_information(version: Version) -> None:
    pair = known_device(version, DEVICE | Capability.EP_INFO_SIG)
    pair.run(flows.connect(pair.requester))
    pair.run(flows.get_endpoint_info(pair.requester, slot=PUBLIC_KEY_SLOT))
    request, response = (frame for _, frame in pair.frames[-2:])
    assert request[4] == response[4] == 0xF


def test_the_signature_is_that_of_the_provisioned_key() -> None:
    pair = known_device()
    pair.run(flows.connect(pair.requester))
    evidence = pair.run(flows.get_measurements(pair.requester, slot=PUBLIC_KEY_SLOT))
    digest = hashlib.sha384(evidence.transcript).digest()
    context = b"responder-measurements signing"
    signed = b"dmtf-spdm-v1.2.*" * 4 + bytes(36 - len(context)) + context + digest
    verify(key(P384).public, P384, signed, evidence.signature, P384_SUITE.base_hash)


@pytest.mark.parametrize("algorithm", [BaseAsym.RSAPSS_2048, BaseAsym.ED25519, PqcAsym.ML_DSA_65], ids=lambda a: a.name)
def test_keys_of_every_kind(algorithm: BaseAsym | PqcAsym) -> None:
    pqc = isinstance(algorithm, PqcAsym)
    offer = {"base_asym": () if pqc else (algorithm,), "pqc_asym": (algorithm,) if pqc else ()}
    pair = Pair(
        Version.V1_4,
        P384_SUITE,
        {"versions": (Version.V1_4,), "capabilities": DEVICE, **offer},
        offer,
        identities=(Identity.of_public_key(key(algorithm)),),
        peer_keys=(key(algorithm).public,),
    )
    pair.run(flows.connect(pair.requester))
    pair.run(flows.challenge(pair.requester, PUBLIC_KEY_SLOT))
    assert pair.run(flows.key_exchange(pair.requester, PUBLIC_KEY_SLOT)).phase is SessionPhase.ESTABLISHED


def test_only_algorithms_of_the_known_keys_are_offered() -> None:
    pair = known_device(identities=tuple(Identity.of_public_key(key(one)) for one in (P384, P256)))
    pair.requester.settings = replace(pair.requester.settings, base_asym=(P384, P256))
    pair.requester.peer_keys = (key(P256).public,)
    assert pair.run(flows.connect(pair.requester)).base_asym == P256
    pair.run(flows.challenge(pair.requester, PUBLIC_KEY_SLOT))


def test_an_impostor_is_not_believed() -> None:
    for flow in (
        lambda pair: flows.challenge(pair.requester, PUBLIC_KEY_SLOT),
        lambda pair: flows.get_measurements(pair.requester, slot=PUBLIC_KEY_SLOT),
        lambda pair: flows.key_exchange(pair.requester, PUBLIC_KEY_SLOT),
    ):
        pair = known_device(identities=(Identity.of_public_key(key(P384, b"impostor")),))
        pair.run(flows.connect(pair.requester))
        with pytest.raises(AuthenticationFailed):
            pair.run(flow(pair))
        assert not pair.requester.sessions


@pytest.mark.parametrize("slot", [0, 1, 0xF])
def test_other_slots_are_not_there(slot: int) -> None:
    pair = known_device()
    facts = pair.run(flows.connect(pair.requester)).facts
    refused = bytes([m.Error.CODE, ErrorCode.INVALID_REQUEST])
    challenge = m.Challenge(slot=slot, summary_type=0, nonce=bytes(32)).encode(facts)
    assert (pair.say(challenge) or b"")[1:3] == refused
    offered = m.KeyExchange(
        summary_type=0,
        slot=slot,
        req_session_id=1,
        session_policy=0,
        random=bytes(32),
        exchange_data=bytes(96),
        opaque=b"",
    )
    assert (pair.say(offered.encode(facts)) or b"")[1:3] == refused
    with pytest.raises(Misuse, match="GET_DIGESTS"):
        pair.run(flows.get_digests())


def test_the_slot_of_the_public_key_is_not_there_with_certificates() -> None:
    pair = Pair(peer_keys=(key(P384).public,))
    pair.authenticate()
    with pytest.raises(Misuse, match="PUB_KEY_ID"):
        pair.run(flows.challenge(pair.requester, PUBLIC_KEY_SLOT))
    request = m.Challenge(slot=PUBLIC_KEY_SLOT, summary_type=0, nonce=bytes(32))
    answer = pair.say(request.encode(pair.requester.connection.facts)) or b""
    assert answer[1:3] == bytes([m.Error.CODE, ErrorCode.INVALID_REQUEST])


def test_a_requester_that_does_not_know_the_key_is_told() -> None:
    pair = known_device(peer_keys=())
    pair.run(flows.connect(pair.requester))
    for flow in (flows.challenge, flows.key_exchange):
        with pytest.raises(Misuse, match="no public key of responder is known"):
            pair.run(flow(pair.requester, PUBLIC_KEY_SLOT))


def test_what_is_offered_must_be_there() -> None:
    with pytest.raises(Misuse, match="no identity for any"):
        known_device(identities=(P384,))
    with pytest.raises(Misuse, match="no identity for any"):
        Pair(identities=(Identity.of_public_key(key(P384)),))
    with pytest.raises(Misuse, match="PUB_KEY_ID is offered without an identity"):
        Pair(requester_changes={"capabilities": REQUESTER_CAPABILITIES | MUTUAL}, requester_identities=(P256,))
    with pytest.raises(Misuse, match=r"contradict each other in SPDM 1\.0: signed MEAS needs CERT"):
        known_device(Version.V1_0)
    with pytest.raises(Misuse, match="no certificate slots"):
        Provisioning.of([Identity.of_public_key(key(P384))])


def test_a_requester_that_offers_1_0_too_is_authenticated_by_its_key_from_1_1_on() -> None:
    pair = known_requester(basic=True)
    pair.requester.settings = replace(pair.requester.settings, versions=(Version.V1_2, Version.V1_0))
    pair.run(flows.connect(pair.requester))
    pair.run(flows.challenge(pair.requester, PUBLIC_KEY_SLOT))
    assert pair.responder.connection.requester_key is not None


def test_signed_endpoint_information_alone_needs_a_hash() -> None:
    flags = PUB_KEY_ID | Capability.EP_INFO_SIG
    pair = known_device(Version.V1_3, flags)
    with pytest.raises(ErrorResponse, match="INVALID_REQUEST"):
        pair.requester.settings = replace(pair.requester.settings, base_hash=())
        pair.run(flows.connect(pair.requester))
    assert pair.responder.connection.phase is Phase.CAPABILITIES_DONE


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (DEVICE | CERT, "exclude each other"),
        (Capability.CHAL, "CHAL and MUT_AUTH need"),
        (DEVICE & ~PUB_KEY_ID & ~Capability.CHAL, "KEY_EX needs"),
        (PUB_KEY_ID, "PUB_KEY_ID needs CHAL"),
        (DEVICE | Capability.GET_KEY_PAIR_INFO, "goes without KEY_PAIR_INFO"),
        (DEVICE | Capability.ALIAS_CERT, "ALIAS_CERT needs CERT"),
        (Capability.MEAS_SIG, "signed MEAS needs"),
    ],
)
def test_flags_of_a_responder_that_contradict_each_other(flags: Capability, why: str) -> None:
    pair = known_device(Version.V1_3)
    pair.responder.settings = replace(pair.responder.settings, capabilities=flags)
    with pytest.raises(PeerViolation, match=why):
        pair.run(flows.connect(pair.requester))


@pytest.mark.parametrize(
    "flags",
    [MUTUAL | CERT, MUTUAL & ~PUB_KEY_ID, PUB_KEY_ID, MUTUAL | Capability.MULTI_KEY_ONLY],
    ids=["both", "neither", "nothing to sign", "several keys"],
)
def test_flags_of_a_requester_that_contradict_each_other(flags: Capability) -> None:
    pair = known_requester(Version.V1_3)
    pair.requester.settings = replace(pair.requester.settings, capabilities=flags)
    with pytest.raises(ErrorResponse, match="INVALID_REQUEST"):
        pair.run(flows.connect(pair.requester))


# -- requesters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basic", [False, True], ids=["no basic", "basic"])
@pytest.mark.parametrize("clear", [False, True], ids=["encrypted", "clear"])
@pytest.mark.parametrize("mode", list(MutualAuth), ids=lambda mode: mode.name)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_both_sides_are_known(version: Version, mode: MutualAuth, clear: bool, basic: bool) -> None:
    pair = known_requester(version, mode, basic=basic, clear=clear)
    requester = pair.requester
    pair.run(flows.connect(requester))
    pair.run(flows.challenge(requester, PUBLIC_KEY_SLOT))
    assert pair.responder.connection.requester_key == (key(P256).public if basic else None)
    session = pair.run(flows.key_exchange(requester, PUBLIC_KEY_SLOT))
    theirs = pair.responder.sessions[session.session_id]
    proven = mode is not MutualAuth.NONE
    assert theirs.requester_slot == session.requester_slot == (PUBLIC_KEY_SLOT if proven else None)
    assert (_hash(P256) in theirs.transcript) is proven
    assert theirs.transcript == session.transcript
    (offer,) = [f for way, f in pair.frames if way == "rsp" and f[:1] == b"\0" and f[2] == m.KeyExchangeRsp.CODE]
    assert (offer[7], offer[8]) == ((MutualAuth.PLAIN, 0xF) if proven else (MutualAuth.NONE, 0))
    wrappers = codes(pair).count(m.DeliverEncapsulatedResponse.CODE)
    assert wrappers == int(basic)  # the challenge alone: there is no chain to read


@pytest.mark.parametrize("of_device", [False, True], ids=["chain and key", "key and chain"])
def test_one_side_has_a_chain_the_other_a_key(of_device: bool) -> None:
    if of_device:
        pair = known_requester()
        pair.requester.settings = replace(
            pair.requester.settings, capabilities=pair.requester.settings.capabilities & ~PUB_KEY_ID | CERT
        )
        pair.requester.identities = (identity(P256),)
        assert pair.responder.mutual is not None
        pair.responder.mutual = replace(pair.responder.mutual, authenticate=lambda chain, now: None)
        pair.run(flows.connect(pair.requester))
        session = pair.run(flows.key_exchange(pair.requester, PUBLIC_KEY_SLOT))
        assert session.requester_slot == 0
    else:
        chains = known_requester(device=DEVICE)
        pair = Pair(
            Version.V1_2,
            P384_SUITE,
            {"capabilities": DEVICE & ~PUB_KEY_ID | CERT | MUTUAL & ~PUB_KEY_ID},
            {"capabilities": REQUESTER_CAPABILITIES | MUTUAL, "req_base_asym": (P256,)},
            requester_identities=(Identity.of_public_key(key(P256)),),
            mutual=chains.mutual,
        )
        assert pair.open_session().requester_slot == PUBLIC_KEY_SLOT


@pytest.mark.parametrize("clear", [False, True], ids=["encrypted", "clear"])
def test_another_key_than_the_known_one_gets_no_session(clear: bool) -> None:
    pair = known_requester(basic=True, clear=clear, signer=key(P256, b"impostor"))
    pair.run(flows.connect(pair.requester))
    with pytest.raises(ErrorResponse, match="INVALID_RESPONSE_CODE"):
        pair.run(flows.challenge(pair.requester, PUBLIC_KEY_SLOT))
    assert pair.responder.connection.requester_key is None
    with pytest.raises(ErrorResponse, match="DECRYPT_ERROR"):
        pair.run(flows.key_exchange(pair.requester, PUBLIC_KEY_SLOT))
    assert not pair.responder.sessions


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_a_key_that_the_responder_does_not_know_is_refused(version: Version) -> None:
    told: list[str] = []
    pair = known_requester(version, basic=True, public_keys=(key(P384).public,))
    pair.responder.observer = lambda event: told.append(str(event)) if isinstance(event, Refused) else None
    pair.run(flows.connect(pair.requester))
    assert not pair.run(flows.challenge(pair.requester, PUBLIC_KEY_SLOT)).basic_mutual_auth
    with pytest.raises(ErrorResponse, match="INVALID_POLICY" if version >= Version.V1_3 else "UNSPECIFIED"):
        pair.run(flows.key_exchange(pair.requester, PUBLIC_KEY_SLOT))
    assert "mutual authentication is required" in told[-1]


def test_a_responder_may_not_ask_a_known_requester_for_its_chain() -> None:
    for changed, why in ((b"\2", "no chain to read"), (b"\4", "no chain to read")):
        pair = known_requester()
        pair.tamper = edit(m.KeyExchangeRsp.CODE, lambda f, to=changed: f[:7] + to + f[8:], "rsp")  # type: ignore
        pair.run(flows.connect(pair.requester))
        with pytest.raises(PeerViolation, match=why):
            pair.run(flows.key_exchange(pair.requester, PUBLIC_KEY_SLOT))
    pair = known_requester()
    pair.tamper = edit(m.KeyExchangeRsp.CODE, lambda f: f[:8] + b"\0" + f[9:], "rsp")  # type: ignore[method-assign]
    pair.run(flows.connect(pair.requester))
    with pytest.raises(PeerViolation, match="does not name our public key"):
        pair.run(flows.key_exchange(pair.requester, PUBLIC_KEY_SLOT))


@settings(max_examples=60, deadline=None)
@given(number=st.integers(0, 3), place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_any_change_of_the_handshake_is_noticed(number: int, place: float, change: int) -> None:
    """KEY_EXCHANGE, its response, FINISH and its response travel in the clear; both sides are known by public keys."""
    pair = known_requester(clear=True)
    pair.run(flows.connect(pair.requester))
    seen = 0

    def tamper(way: str, frame: bytes) -> bytes:
        nonlocal seen
        seen += 1
        if seen - 1 != number:
            return frame
        at = 1 + int(place * (len(frame) - 1))
        return frame[:at] + bytes([frame[at] ^ change]) + frame[at + 1 :]

    pair.tamper = tamper  # type: ignore[method-assign]
    with pytest.raises(TeeioError):
        pair.run(flows.key_exchange(pair.requester, PUBLIC_KEY_SLOT))
    assert not pair.requester.sessions


def test_slots_in_four_bits() -> None:
    assert [in_four_bits(slot) for slot in (0, 7, PUBLIC_KEY_SLOT)] == [0, 7, 0xF]
    assert [from_four_bits(value) for value in (0, 7, 0xF, 0x1F)] == [0, 7, PUBLIC_KEY_SLOT, PUBLIC_KEY_SLOT]
    assert Identity.of_public_key(key(P384)).slot_mask == 0
    assert Settings().capabilities & PUB_KEY_ID == 0
