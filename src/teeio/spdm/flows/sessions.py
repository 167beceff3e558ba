"""The requester's session procedures: set-up by certificate or by pre-shared key, upkeep, end (DSP0274).

What these flows return has been verified: signature, ResponderVerifyData and the version of secured messages.
"""

from __future__ import annotations

from teeio.crypto.kdf import digest, equal
from teeio.crypto.key_exchange import KeyExchange, exchange_for
from teeio.errors import AuthenticationFailed, Incompatible, PeerViolation
from teeio.flow import Flow
from teeio.observe import SecretDerived
from teeio.spdm import messages as m
from teeio.spdm import opaque
from teeio.spdm.constants import Capability, KeyUpdateOperation, SummaryType
from teeio.spdm.exchange import Answer, ask, exchange
from teeio.spdm.flows.identity import known_chain, verify_signature
from teeio.spdm.requester import Requester
from teeio.spdm.state import Session
from teeio.spdm.transcript import KEY_EXCHANGE_CONTEXT

FIRST_SESSION_HALF = 0xFFFF
PSK_CONTEXT_SIZE = 32


def key_exchange(
    requester: Requester, slot: int = 0, summary_type: SummaryType = SummaryType.NONE, session_policy: int = 0
) -> Flow[Session]:
    """Set up a session authenticated by the chain of `slot`: KEY_EXCHANGE and FINISH. Raises `AuthenticationFailed`."""
    connection = requester.connection
    ephemeral = exchange_for(connection.group, requester.entropy)
    request = m.KeyExchange(
        summary_type=summary_type,
        slot=slot,
        req_session_id=_free_session_half(requester),
        session_policy=session_policy,
        random=requester.entropy(32),
        exchange_data=ephemeral.exchange_data,
        opaque=opaque.encode_supported(connection.version),
    )
    chain_hash = digest(connection.base_hash, known_chain(requester, slot))
    answer: Answer[m.KeyExchangeRsp] = yield from exchange(request)
    session = _open_session(requester, request, answer, slot, chain_hash, ephemeral)
    try:
        yield from _finish(requester, session)
    except BaseException:
        requester.drop_session(session.session_id, "the handshake failed")
        raise
    return session


def _free_session_half(requester: Requester) -> int:
    used = {session_id & 0xFFFF for session_id in requester.sessions}
    return next(half for half in range(FIRST_SESSION_HALF, 0, -1) if half not in used)


def _open_session(
    requester: Requester,
    request: m.KeyExchange,
    answer: Answer[m.KeyExchangeRsp],
    slot: int,
    chain_hash: bytes,
    ephemeral: KeyExchange,
) -> Session:
    connection, response = requester.connection, answer.message
    if response.mut_auth_requested:
        raise Incompatible(f"{requester.peer} asks for mutual authentication, which we did not offer")
    session = _new_session(requester, request.req_session_id, response)
    tail = connection.asym.signature_size + len(response.verify_data)
    signed = requester.transcript.handshake(chain_hash, connection.multi_key) + answer.sent + answer.received[:-tail]
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


def _finish(requester: Requester, session: Session) -> Flow[None]:
    connection = requester.connection
    clear = connection.facts.handshake_in_the_clear
    hash_size = connection.base_hash.size
    unproven = m.Finish(verify_data=bytes(hash_size)).encode(connection.facts)[:-hash_size]
    proof = session.schedule.verify_data(session.handshake.request_finished, session.transcript + unproven)
    answer: Answer[m.FinishRsp] = yield from exchange(
        m.Finish(verify_data=proof), None if clear else session.session_id
    )
    session.transcript += answer.sent
    if clear:
        covered = session.transcript + answer.received[:-hash_size]
        expected = session.schedule.verify_data(session.handshake.response_finished, covered)
        if not equal(expected, answer.message.verify_data):
            raise AuthenticationFailed("ResponderVerifyData of FINISH_RSP does not verify")
    session.transcript += answer.received
    session.enter_data()


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
        opaque=opaque.encode_supported(connection.version),
    )
    answer: Answer[m.PskExchangeRsp] = yield from exchange(request)
    response, hash_size = answer.message, connection.base_hash.size
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
    if selected not in opaque.SECURED_VERSIONS:
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
    )


def heartbeat(session: Session) -> Flow[None]:
    """Keep `session` alive."""
    yield from ask(m.Heartbeat(), session.session_id)


def key_update(requester: Requester, session: Session, *, both: bool = True) -> Flow[None]:
    """Replace the data keys: both directions, or the request direction only; then prove the new request key."""
    operation = KeyUpdateOperation.UPDATE_ALL_KEYS if both else KeyUpdateOperation.UPDATE_KEY
    new_request = session.request_key.updated()
    if both:
        session.previous_key, session.response_key = session.response_key, session.response_key.updated()
    try:
        yield from _key_operation(requester, session, operation)
    except Exception:
        if session.previous_key is not None:
            session.response_key, session.previous_key = session.previous_key, None
        raise
    session.previous_key = None
    session.request_key = new_request
    for label, key in (("request_data_secret", session.request_key), ("response_data_secret", session.response_key)):
        if both or label.startswith("request"):
            requester.observer(SecretDerived(f"{label}_update", f"{session.session_id:08x}", key.secret))
    yield from _key_operation(requester, session, KeyUpdateOperation.VERIFY_NEW_KEY)


def _key_operation(requester: Requester, session: Session, operation: KeyUpdateOperation) -> Flow[None]:
    tag = requester.entropy(1)[0]
    response = yield from ask(m.KeyUpdate(operation=operation, tag=tag), session.session_id)
    if (response.operation, response.tag) != (operation, tag):
        raise PeerViolation("KEY_UPDATE_ACK does not echo operation and tag", "DSP0274 KEY_UPDATE_ACK")


def end_session(requester: Requester, session: Session, *, clear_negotiated_state: bool = False) -> Flow[None]:
    """End `session` on both sides; our keys are gone even if the peer does not acknowledge."""
    try:
        yield from ask(m.EndSession(clear_negotiated_state=int(clear_negotiated_state)), session.session_id)
    finally:
        requester.drop_session(session.session_id, "END_SESSION")
