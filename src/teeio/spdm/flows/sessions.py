"""The requester's session procedures: set-up by certificate or by pre-shared key, upkeep, end (DSP0274).

What these flows return has been verified: signature, ResponderVerifyData and the version of secured messages.
"""

from __future__ import annotations

from teeio.crypto.kdf import equal
from teeio.crypto.key_exchange import KeyExchange, exchange_for
from teeio.errors import AuthenticationFailed, Incompatible, PeerViolation
from teeio.flow import Flow
from teeio.spdm import messages as m
from teeio.spdm import opaque
from teeio.spdm.constants import (
    PSK_CONTEXT_SIZE,
    PUBLIC_KEY_SLOT,
    Capability,
    MutualAuth,
    SummaryType,
)
from teeio.spdm.exchange import Answer, ask, exchange
from teeio.spdm.flows.encapsulated import serve_encapsulated
from teeio.spdm.flows.identity import chain_hash, verify_signature
from teeio.spdm.public_keys import from_four_bits
from teeio.spdm.requester import Requester
from teeio.spdm.signing import sign_transcript
from teeio.spdm.state import Session, free_session_half
from teeio.spdm.transcript import FINISH_CONTEXT, KEY_EXCHANGE_CONTEXT


def key_exchange(
    requester: Requester, slot: int = 0, summary_type: SummaryType = SummaryType.NONE, session_policy: int = 0
) -> Flow[Session]:
    """Set up a session authenticated by the chain of `slot`, or by the provisioned public key (0xFF): KEY_EXCHANGE and FINISH.

    Raises `AuthenticationFailed`.
    """
    connection = requester.connection
    ephemeral = exchange_for(connection.group, requester.entropy)
    request = m.KeyExchange(
        summary_type=summary_type,
        slot=slot,
        req_session_id=_free_session_half(requester),
        session_policy=session_policy,
        random=requester.entropy(32),
        exchange_data=ephemeral.exchange_data,
        opaque=opaque.encode_supported(connection.version, requester.settings.secured_versions),
    )
    responder_hash = chain_hash(requester, slot)
    answer: Answer[m.KeyExchangeRsp] = yield from exchange(request)
    session = _open_session(requester, request, answer, slot, responder_hash, ephemeral)
    try:
        yield from _prove_identity(requester, session, answer.message)
        yield from _finish(requester, session)
    except BaseException:
        requester.drop_session(session.session_id, "the handshake failed")
        raise
    return session


def _free_session_half(requester: Requester) -> int:
    used = {session_id & 0xFFFF for session_id in requester.sessions}
    return free_session_half(used)


def _open_session(
    requester: Requester,
    request: m.KeyExchange,
    answer: Answer[m.KeyExchangeRsp],
    slot: int,
    responder_hash: bytes,
    ephemeral: KeyExchange,
) -> Session:
    connection, response = requester.connection, answer.message
    _check_mutual(requester, response)
    session = _new_session(requester, request.req_session_id, response)
    tail = connection.asym.signature_size + len(response.verify_data)
    signed = (
        requester.transcript.handshake(responder_hash, connection.multi_key) + answer.sent + answer.received[:-tail]
    )
    verify_signature(requester, slot, KEY_EXCHANGE_CONTEXT, signed, response.signature)
    session.transcript = signed + response.signature
    session.enter_handshake(ephemeral.agree(response.exchange_data))
    if response.verify_data:
        expected = session.schedule.verify_data(session.handshake.response_finished, session.transcript)
        if not equal(expected, response.verify_data):
            raise AuthenticationFailed("ResponderVerifyData does not verify: somebody changed the handshake")
        session.transcript += response.verify_data
    requester.sessions[session.session_id] = session
    return session


def _check_mutual(requester: Requester, response: m.KeyExchangeRsp) -> None:
    """Check that we can do the mutual authentication that a KEY_EXCHANGE_RSP asks for, if any."""
    mode, common = response.mut_auth_requested, requester.connection.common_capabilities
    if not mode:
        return
    if not common & Capability.MUT_AUTH or not requester.connection.req_asym:
        raise Incompatible(f"{requester.peer} asks for mutual authentication, which we did not offer")
    if mode not in tuple(MutualAuth):
        raise PeerViolation(f"MutAuthRequested {mode:#x} is not one mode", "DSP0274 KEY_EXCHANGE_RSP")
    if mode != MutualAuth.PLAIN and not common & Capability.ENCAP:
        raise PeerViolation("mutual authentication by encapsulation without ENCAP", "DSP0274 KEY_EXCHANGE_RSP")
    by_key = bool(requester.connection.requester_capabilities & Capability.PUB_KEY_ID)
    if by_key and mode != MutualAuth.PLAIN:
        raise PeerViolation("our public key is provisioned: there is no chain to read", "DSP0274 KEY_EXCHANGE_RSP")
    if mode == MutualAuth.PLAIN and by_key is not (from_four_bits(response.req_slot) == PUBLIC_KEY_SLOT):
        ours = "our public key (0xF)" if by_key else "a certificate slot"
        raise PeerViolation(f"SlotIDParam {response.req_slot:#x} does not name {ours}", "DSP0274 KEY_EXCHANGE_RSP")


def _prove_identity(requester: Requester, session: Session, response: m.KeyExchangeRsp) -> Flow[None]:
    """Learn which slot FINISH must prove, and enter its chain into the transcript."""
    connection, slot, digests = requester.connection, from_four_bits(response.req_slot), b""
    if not response.mut_auth_requested:
        return
    if response.mut_auth_requested != MutualAuth.PLAIN:
        served = yield from serve_encapsulated(
            requester,
            session,
            outside=connection.facts.handshake_in_the_clear,
            implicit_digests=response.mut_auth_requested == MutualAuth.IMPLICIT_DIGESTS,
        )
        slot = served.slot or 0
        digests = served.digests if connection.requester_multi_key else b""
    session.requester_slot = slot
    session.transcript += digests + requester.signing_slot(slot).chain_hash(connection.base_hash)


def _finish(requester: Requester, session: Session) -> Flow[None]:
    connection = requester.connection
    clear = connection.facts.handshake_in_the_clear
    hash_size = connection.base_hash.size
    request = _signed_finish(requester, session)
    unproven = request.encode(connection.facts)[:-hash_size]
    request.verify_data = session.schedule.verify_data(
        session.handshake.request_finished, session.transcript + unproven
    )
    answer: Answer[m.FinishRsp] = yield from exchange(request, None if clear else session.session_id)
    session.transcript += answer.sent
    if clear:
        covered = session.transcript + answer.received[:-hash_size]
        expected = session.schedule.verify_data(session.handshake.response_finished, covered)
        if not equal(expected, answer.message.verify_data):
            raise AuthenticationFailed("ResponderVerifyData of FINISH_RSP does not verify")
    session.transcript += answer.received
    session.enter_data()


def _signed_finish(requester: Requester, session: Session) -> m.Finish:
    """Make a FINISH with the requester's signature if mutual authentication was asked for, still without verify data."""
    connection = requester.connection
    no_proof = bytes(connection.base_hash.size)
    if session.requester_slot is None:
        return m.Finish(verify_data=no_proof)
    size = connection.req_asym.signature_size
    request = m.Finish(
        signature_included=1, req_slot=session.requester_slot, signature=bytes(size), verify_data=no_proof
    )
    covered = session.transcript + request.encode(connection.facts)[: -size - len(no_proof)]
    key = requester.signing_slot(session.requester_slot).key
    order = requester.settings.signature_order
    request.signature = sign_transcript(key, connection, FINISH_CONTEXT, covered, order)
    return request


def psk_exchange(
    requester: Requester,
    hint: bytes,
    psk: bytes,
    summary_type: SummaryType = SummaryType.NONE,
    session_policy: int = 0,
) -> Flow[Session]:
    """Set up a session on a pre-shared key. Without a responder context it is established at once.

    Raises `AuthenticationFailed` if the responder does not prove that it has the key.
    """
    connection = requester.connection
    request = m.PskExchange(
        summary_type=summary_type,
        session_policy=session_policy,
        req_session_id=_free_session_half(requester),
        hint=hint,
        context=requester.entropy(PSK_CONTEXT_SIZE),
        opaque=opaque.encode_supported(connection.version, requester.settings.secured_versions),
    )
    answer: Answer[m.PskExchangeRsp] = yield from exchange(request)
    response, hash_size = answer.message, connection.base_hash.size
    if bool(response.context) is not bool(connection.responder_capabilities & Capability.PSK_WITH_CONTEXT):
        raise PeerViolation("ResponderContext is there or not against PSK_CAP", "DSP0274 PSK_EXCHANGE_RSP")
    session = _new_session(requester, request.req_session_id, response)
    session.transcript = (
        requester.transcript.handshake(b"", multi_key=False) + answer.sent + answer.received[:-hash_size]
    )
    session.enter_handshake(psk, psk=True)
    expected = session.schedule.verify_data(session.handshake.response_finished, session.transcript)
    if not equal(expected, response.verify_data):
        raise AuthenticationFailed(
            "ResponderVerifyData does not verify: the pre-shared keys differ, or somebody interfered"
        )
    session.transcript += response.verify_data
    requester.sessions[session.session_id] = session
    if not response.context:
        session.enter_data()
        return session
    try:
        unproven = m.PskFinish(verify_data=bytes(hash_size)).encode(connection.facts)[:-hash_size]
        proof = session.schedule.verify_data(session.handshake.request_finished, session.transcript + unproven)
        finished: Answer[m.PskFinishRsp] = yield from exchange(m.PskFinish(verify_data=proof), session.session_id)
    except BaseException:
        requester.drop_session(session.session_id, "the handshake failed")
        raise
    session.transcript += finished.sent + finished.received
    session.enter_data()
    return session


def _new_session(requester: Requester, req_session_id: int, response: m.KeyExchangeRsp | m.PskExchangeRsp) -> Session:
    """Make the session that a response announces. Raises `PeerViolation`."""
    connection = requester.connection
    selected = opaque.decode_selected(connection.version, response.opaque)
    if selected is None or selected not in requester.settings.secured_versions:
        raise PeerViolation(f"secured-message version {selected} was not offered", "DSP0277 version selection")
    session_id = response.rsp_session_id << 16 | req_session_id
    if session_id in requester.sessions:
        raise PeerViolation(f"session id {session_id:#x} is in use", "DSP0274 session id")
    return Session(
        session_id,
        connection.key_schedule,
        requester.observer,
        encrypted=bool(connection.common_capabilities & Capability.ENCRYPT),
        heartbeat_period=response.heartbeat_period,
        last_seen=requester.now,
        terms=requester.settings.record_terms(selected),
    )


def heartbeat(session: Session) -> Flow[None]:
    """Keep `session` alive."""
    yield from ask(m.Heartbeat(), session.session_id)


def end_session(requester: Requester, session: Session, *, clear_negotiated_state: bool = False) -> Flow[None]:
    """End `session` on both sides; our keys are gone even if the peer does not acknowledge.

    With CACHE the negotiated state is then in `requester.preserved` for `resume`, unless it was cleared, now or before; without CACHE
    there is nothing to clear and the bit stays 0.
    """
    clear = clear_negotiated_state and bool(requester.connection.responder_capabilities & Capability.CACHE)
    requester.preserved = None
    if clear:
        requester.agreed(state_cleared=True)
    try:
        yield from ask(m.EndSession(clear_negotiated_state=int(clear)), session.session_id)
        requester.preserved = requester.connection.preservable
    finally:
        requester.drop_session(session.session_id, "END_SESSION")
