"""What a responder's policy of mutual authentication lets through: FINISH in each mode, and sessions on a pre-shared key."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from spdm.mutual_pair import P256, Trust, mutual_pair
from spdm.public_key_pair import VERSIONS, key, known_requester
from spdm_pair import Pair, identity
from teeio.crypto.kdf import digest
from teeio.errors import ErrorResponse, Misuse
from teeio.observe import Refused
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import PUBLIC_KEY_SLOT, Capability, ErrorCode, MutualAuth, Version
from teeio.spdm.flows import sessions
from teeio.spdm.mutual import MutualAuthentication
from teeio.spdm.requester import Requester
from teeio.spdm.state import MUTUAL_CAPABILITIES, REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, Session

# -- FINISH -------------------------------------------------------------------------------------------------------------

ASKED = [MutualAuth.PLAIN, MutualAuth.ENCAPSULATED, MutualAuth.IMPLICIT_DIGESTS]
Forge = Callable[[Requester, Session], m.Finish]
sign = sessions._signed_finish


def _unsigned(requester: Requester, session: Session) -> m.Finish:
    return m.Finish(verify_data=bytes(requester.connection.base_hash.size))


def _other_slot(requester: Requester, session: Session) -> m.Finish:
    """Name another slot of the same key, and sign that."""
    honest = session.requester_slot
    session.requester_slot = 3 if honest != PUBLIC_KEY_SLOT else 0
    requester.identities = (identity(P256),) if honest != PUBLIC_KEY_SLOT else requester.identities
    if honest == PUBLIC_KEY_SLOT:
        mine = requester.identities[0]
        requester.identities = (replace(mine, slots={**mine.slots, 0: mine.slots[PUBLIC_KEY_SLOT]}),)
    return sign(requester, session)


def _other_key(requester: Requester, session: Session) -> m.Finish:
    slots = {at: replace(one, key=key(P256, b"thief")) for at, one in requester.identities[0].slots.items()}
    requester.identities = (replace(requester.identities[0], slots=slots),)
    return sign(requester, session)


def _other_transcript(requester: Requester, session: Session) -> m.Finish:
    """Sign what a session without mutual authentication signs: the transcript without the requester's chain."""
    whole, size = session.transcript, requester.connection.base_hash.size
    session.transcript = whole[:-size]
    finish = sign(requester, session)
    session.transcript = whole
    return finish


def _zeros(requester: Requester, session: Session) -> m.Finish:
    finish = sign(requester, session)
    finish.signature = bytes(len(finish.signature))
    return finish


def _mute(requester: Requester, session: Session) -> m.Finish:
    """Claim a signature and send none: the verify data stands in its place."""
    finish = sign(requester, session)
    finish.signature_included, finish.signature = 0, b""
    return finish


FORGED: list[Forge] = [_unsigned, _other_slot, _other_key, _other_transcript, _zeros, _mute]


@pytest.mark.parametrize("forge", FORGED, ids=lambda forge: forge.__name__.strip("_"))
@pytest.mark.parametrize("clear", [False, True], ids=["encrypted", "clear"])
@pytest.mark.parametrize("kind", [*ASKED, "public key"], ids=lambda kind: getattr(kind, "name", kind))
@pytest.mark.parametrize("version", [Version.V1_1, Version.V1_4], ids=lambda v: v.text)
def test_a_finish_that_does_not_prove_the_requester_leaves_no_session(
    version: Version, kind: Any, clear: bool, forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RequesterVerifyData is right in every case: only the signature is missing or wrong."""
    known = kind == "public key"
    pair = known_requester(version, clear=clear) if known else mutual_pair(version, kind, clear=clear)
    pair.run(flows.connect(pair.requester))
    if not known:
        pair.run(flows.get_certificate(pair.requester))
    monkeypatch.setattr(sessions, "_signed_finish", forge)
    told: list[Any] = []
    pair.responder.observer = told.append
    with pytest.raises(ErrorResponse, match="DECRYPT_ERROR"):
        pair.run(flows.key_exchange(pair.requester, PUBLIC_KEY_SLOT if known else 0))
    assert not pair.responder.sessions
    (refused,) = [event for event in told if isinstance(event, Refused)]
    assert "FINISH" in refused.rule


@pytest.mark.parametrize("clear", [False, True], ids=["encrypted", "clear"])
def test_a_signature_that_nobody_asked_for_is_refused(clear: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def signed(requester: Requester, session: Session) -> m.Finish:
        session.requester_slot = 0
        return sign(requester, session)

    pair = mutual_pair(mode=MutualAuth.NONE, clear=clear)
    pair.authenticate()
    monkeypatch.setattr(sessions, "_signed_finish", signed)
    with pytest.raises(ErrorResponse, match="INVALID_REQUEST"):
        pair.run(flows.key_exchange(pair.requester))
    assert not pair.responder.sessions


@pytest.mark.parametrize("clear", [False, True], ids=["encrypted", "clear"])
@pytest.mark.parametrize("mode", [MutualAuth.ENCAPSULATED, MutualAuth.IMPLICIT_DIGESTS], ids=lambda mode: mode.name)
def test_finish_must_wait_until_the_chain_has_been_read(
    mode: MutualAuth, clear: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A requester that skips the encapsulated requests, and signs with the right key all the same, gets no session."""

    def skip(requester: Requester, session: Session, response: m.KeyExchangeRsp) -> Any:
        session.requester_slot = 0
        chain = requester.signing_slot(0).chain(requester.connection.base_hash)
        session.transcript += digest(requester.connection.base_hash, chain)
        yield from ()

    pair = mutual_pair(mode=mode, clear=clear)
    pair.authenticate()
    monkeypatch.setattr(sessions, "_prove_identity", skip)
    with pytest.raises(ErrorResponse, match="REQUEST_IN_FLIGHT"):
        pair.run(flows.key_exchange(pair.requester))
    assert all(session.place.name == "HANDSHAKE" for session in pair.responder.sessions.values())
    assert isinstance(pair.responder.mutual, MutualAuthentication)
    assert pair.responder.mutual.authenticate.asked == 0  # type: ignore[attr-defined]


# -- pre-shared keys ----------------------------------------------------------------------------------------------------


def _psk_pair(version: Version, *, context: bool = True, **policy: Any) -> Pair:
    offered = Capability.PSK_WITH_CONTEXT if context else Capability.PSK
    trust = MutualAuthentication(Trust(), **policy)
    return Pair(
        version,
        responder_changes={
            "versions": (version,),
            "capabilities": RESPONDER_CAPABILITIES | MUTUAL_CAPABILITIES | offered,
        },
        requester_changes={"capabilities": REQUESTER_CAPABILITIES | Capability.PSK},
        mutual=trust,
    )


def _refused(pair: Pair) -> str:
    told: list[Any] = []
    pair.responder.observer = told.append
    later = pair.version >= Version.V1_3
    with pytest.raises(ErrorResponse) as caught:
        pair.run(flows.psk_exchange(pair.requester, b"hint", b"pre-shared key"))
    assert caught.value.code == (ErrorCode.INVALID_POLICY if later else ErrorCode.UNSPECIFIED)
    assert not pair.responder.sessions
    return "".join(str(event) for event in told)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_a_pre_shared_key_authenticates_the_requester_as_well(version: Version) -> None:
    pair = _psk_pair(version)
    pair.run(flows.connect(pair.requester))
    session = pair.run(flows.psk_exchange(pair.requester, b"hint", b"pre-shared key"))
    pair.run(flows.heartbeat(session))


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_a_policy_may_want_more_than_a_pre_shared_key(version: Version) -> None:
    pair = _psk_pair(version, accept_pre_shared_keys=False)
    pair.run(flows.connect(pair.requester))
    assert "a certificate or public key of the requester is required" in _refused(pair)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_without_a_context_a_pre_shared_key_proves_nothing_afresh(version: Version) -> None:
    pair = _psk_pair(version, context=False)
    pair.run(flows.connect(pair.requester))
    assert "no PSK_FINISH would prove it" in _refused(pair)


@pytest.mark.parametrize("policy", [{"required": False}, {"mode": MutualAuth.NONE}], ids=["optional", "none"])
def test_where_nothing_is_required_any_pre_shared_key_will_do(policy: dict[str, Any]) -> None:
    pair = _psk_pair(Version.V1_3, context=False, accept_pre_shared_keys=False, **policy)
    pair.run(flows.connect(pair.requester))
    pair.run(flows.heartbeat(pair.run(flows.psk_exchange(pair.requester, b"hint", b"pre-shared key"))))


def test_a_quick_start_is_under_the_policy_too() -> None:
    pair = _psk_pair(Version.V1_3)
    flags = pair.responder.settings.capabilities | Capability.CACHE
    pair.responder.settings = replace(pair.responder.settings, capabilities=flags)
    connection = pair.run(flows.connect(pair.requester))
    session = pair.run(flows.psk_exchange(pair.requester, b"hint", b"pre-shared key"))
    pair.run(flows.end_session(pair.requester, session))
    pair.responder.mutual = MutualAuthentication(Trust(), accept_pre_shared_keys=False)
    pair.run(flows.resume(pair.requester, connection))
    assert "is required" in _refused(pair)


def test_a_policy_says_at_once_what_it_lacks() -> None:
    with pytest.raises(Misuse, match="no chain is provisioned"):
        MutualAuthentication(Trust(), MutualAuth.PLAIN)
    for chain in ((), (b"no certificate",)):
        with pytest.raises(Misuse, match="has no usable leaf"):
            MutualAuthentication(Trust(), MutualAuth.PLAIN, provisioned={0: chain})
    assert MutualAuthentication(Trust(), MutualAuth.PLAIN, public_keys=(key(P256).public,)).slot == 0
