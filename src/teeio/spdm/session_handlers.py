"""What the responder does for the requests that make, keep and end sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from teeio.crypto.kdf import equal
from teeio.crypto.key_exchange import encapsulate, exchange_for
from teeio.errors import AuthenticationFailed, Reject, TeeioError
from teeio.spdm import messages as m
from teeio.spdm import opaque
from teeio.spdm.call import Call, encoded, sign, summary
from teeio.spdm.constants import PSK_CONTEXT_SIZE, Capability, ErrorCode, KeyUpdateOperation, MutualAuth, Version
from teeio.spdm.public_keys import in_four_bits
from teeio.spdm.signing import verify_transcript
from teeio.spdm.state import Session, SessionPhase, free_session_half
from teeio.spdm.transcript import FINISH_CONTEXT, KEY_EXCHANGE_CONTEXT

if TYPE_CHECKING:
    from teeio.spdm.responder import Responder

EVENT_ALL_POLICY = 1 << 1
"""SessionPolicy (1.3): subscribe the session to all events."""


def key_exchange(r: Responder, request: m.KeyExchange, call: Call) -> m.Response:
    """Begin a session: sign, derive the handshake keys, prove them unless the handshake is in the clear."""
    c = r.connection
    secured_version = _selected_version(r, request.opaque)
    session = _new_session(r, request, secured_version, call)
    exchange_data, shared = _exchanged(r, request.exchange_data)
    size = c.asym.signature_size
    verify_size = 0 if c.facts.handshake_in_the_clear else c.base_hash.size
    mode = r.mutual.requested(r) if r.mutual is not None else MutualAuth.NONE
    response = m.KeyExchangeRsp(
        heartbeat_period=session.heartbeat_period,
        rsp_session_id=session.session_id >> 16,
        mut_auth_requested=mode,
        req_slot=in_four_bits(r.mutual.slot_param(r, mode)) if r.mutual is not None else 0,
        random=r.entropy(32),
        exchange_data=exchange_data,
        summary=summary(r, request.summary_type),
        opaque=opaque.encode_selected(c.version, secured_version),
        signature=bytes(size),
        verify_data=bytes(verify_size),
    )
    chain_hash = r.slot(request.slot).chain_hash(c.base_hash)
    before = r.transcript.handshake(chain_hash, c.multi_key) + call.request
    signed = before + encoded(r, request, response, size + verify_size)
    response.signature = sign(r, request.slot, KEY_EXCHANGE_CONTEXT, signed)
    session.transcript = signed + response.signature
    session.enter_handshake(shared)
    if verify_size:
        response.verify_data = session.schedule.verify_data(session.handshake.response_finished, session.transcript)
        session.transcript += response.verify_data
    call.after = lambda: _register(r, session, mode, call.now, request.session_policy)
    return response


def _register(
    r: Responder, session: Session, mode: MutualAuth = MutualAuth.NONE, now: float = 0.0, policy: int = 0
) -> None:
    # Only once the response is on its way: a refused one must not leave a session behind.
    r.sessions[session.session_id] = session
    c = r.connection
    wants_events = c.version >= Version.V1_3 and policy & EVENT_ALL_POLICY
    if wants_events and r.events is not None and c.responder_capabilities & Capability.EVENT:
        r.events.subscribe_to_all(r.event_key(session.session_id))
    if r.mutual is not None:
        r.mutual.begin_session(r, session, mode, now)


def _exchanged(r: Responder, peer: bytes) -> tuple[bytes, bytes]:
    """Give our ExchangeData and the shared secret."""
    if r.connection.kem:
        shared, ciphertext = encapsulate(r.connection.kem, peer)
        return ciphertext, shared
    ephemeral = exchange_for(r.connection.group, r.entropy)
    return ephemeral.exchange_data, ephemeral.agree(peer)


def _new_session(r: Responder, request: m.KeyExchange | m.PskExchange, secured_version: int, call: Call) -> Session:
    if len(r.sessions) >= r.settings.max_sessions:
        raise Reject(
            ErrorCode.SESSION_LIMIT_EXCEEDED, f"at most {r.settings.max_sessions} sessions (DSP0274 KEY_EXCHANGE)"
        )
    used = {session_id >> 16 for session_id in r.sessions}
    half = free_session_half(used)
    c = r.connection
    return Session(
        half << 16 | request.req_session_id,
        c.key_schedule,
        r.observer,
        encrypted=bool(c.common_capabilities & Capability.ENCRYPT),
        heartbeat_period=r.settings.heartbeat_period if c.common_capabilities & Capability.HBEAT else 0,
        last_seen=call.now,
        terms=r.settings.record_terms(secured_version),
    )


def _selected_version(r: Responder, offer: bytes) -> int:
    """Give the highest common version of secured messages, or refuse."""
    common = set(opaque.decode_supported(r.connection.version, offer)) & set(r.settings.secured_versions)
    if not common:
        raise Reject(ErrorCode.INVALID_REQUEST, "no common secured-message version (DSP0277)")
    return max(common)


def psk_exchange(r: Responder, request: m.PskExchange, call: Call) -> m.Response:
    """Begin a session on a pre-shared key; without a context of ours it is established at once."""
    psk = r.psks.get(request.hint)
    if psk is None:
        raise Reject(ErrorCode.INVALID_REQUEST, f"no pre-shared key for hint {request.hint!r} (DSP0274 PSK_EXCHANGE)")
    c = r.connection
    if r.mutual is not None:
        r.mutual.check_pre_shared_key(r)
    secured_version = _selected_version(r, request.opaque)
    session = _new_session(r, request, secured_version, call)
    with_context = bool(c.responder_capabilities & Capability.PSK_WITH_CONTEXT)
    response = m.PskExchangeRsp(
        heartbeat_period=session.heartbeat_period,
        rsp_session_id=session.session_id >> 16,
        summary=summary(r, request.summary_type),
        context=r.entropy(PSK_CONTEXT_SIZE) if with_context else b"",
        opaque=opaque.encode_selected(c.version, secured_version),
        verify_data=bytes(c.base_hash.size),
    )
    session.transcript = r.transcript.handshake(b"", multi_key=False) + call.request
    session.transcript += encoded(r, request, response, c.base_hash.size)
    session.enter_handshake(psk, psk=True)
    response.verify_data = session.schedule.verify_data(session.handshake.response_finished, session.transcript)
    session.transcript += response.verify_data
    if not with_context:
        session.enter_data()
    call.after = lambda: _register(r, session, policy=request.session_policy)
    return response


def psk_finish(r: Responder, request: m.PskFinish, call: Call) -> m.Response:
    """Verify the requester's proof and enter the application phase."""
    session = _live(call)
    _check_kind(r, session, psk=True)
    _check_proof(r, session, call.request, request.verify_data)
    response = m.PskFinishRsp()
    session.transcript += call.request + response.encode(r.connection.facts)
    call.after = session.enter_data
    return response


def _check_kind(r: Responder, session: Session, *, psk: bool) -> None:
    if session.psk is not psk:
        r.end_session(session.session_id, "FINISH of the other kind of session")
        raise Reject(ErrorCode.UNEXPECTED_REQUEST, "FINISH ends KEY_EXCHANGE, PSK_FINISH ends PSK_EXCHANGE (DSP0274)")


def _check_proof(r: Responder, session: Session, request: bytes, verify_data: bytes) -> None:
    covered = session.transcript + request[: -len(verify_data)]
    expected = session.schedule.verify_data(session.handshake.request_finished, covered)
    if not equal(expected, verify_data):
        # A session whose handshake was tampered with must not live on.
        r.end_session(session.session_id, "RequesterVerifyData does not verify")
        raise Reject(ErrorCode.DECRYPT_ERROR, "RequesterVerifyData does not verify (DSP0274 FINISH)")


def finish(r: Responder, request: m.Finish, call: Call) -> m.Response:
    """Verify the requester's proof and enter the application phase."""
    session = call.session or _latest_handshake(r)
    hash_size = r.connection.base_hash.size
    _check_kind(r, session, psk=False)
    _check_identity(r, session, request, call.request)
    _check_proof(r, session, call.request, request.verify_data)
    clear = r.connection.facts.handshake_in_the_clear
    response = m.FinishRsp(verify_data=bytes(hash_size) if clear else b"")
    session.transcript += call.request
    if clear:
        covered = session.transcript + encoded(r, request, response, hash_size)
        response.verify_data = session.schedule.verify_data(session.handshake.response_finished, covered)
    session.transcript += response.encode(r.connection.facts)
    call.after = session.enter_data
    return response


def _check_identity(r: Responder, session: Session, request: m.Finish, encoded_request: bytes) -> None:
    """Check the requester's signature if mutual authentication was asked for.

    A session that lacks it, or shows one unasked, must not live on.
    """
    if session.requester_slot is None:
        if request.signature_included:
            r.end_session(session.session_id, "FINISH proves what was not asked for")
            raise Reject(ErrorCode.INVALID_REQUEST, "no mutual authentication was asked for (DSP0274 FINISH)")
        return
    key = session.requester_key
    try:
        if not request.signature_included or request.req_slot != session.requester_slot or key is None:
            raise AuthenticationFailed("FINISH does not prove the slot that was asked for")
        c = r.connection
        covered = session.transcript + encoded_request[: -len(request.signature + request.verify_data)]
        order = r.settings.signature_order
        verify_transcript(key, c.req_asym, c, FINISH_CONTEXT, covered, request.signature, order)
    except TeeioError as error:
        r.end_session(session.session_id, "the requester is not authenticated")
        raise Reject(ErrorCode.DECRYPT_ERROR, f"{error} (DSP0274 FINISH)") from error


def _latest_handshake(r: Responder) -> Session:
    for session in reversed(r.sessions.values()):
        if session.phase is SessionPhase.HANDSHAKE and not session.psk:
            return session
    raise Reject(ErrorCode.UNEXPECTED_REQUEST, "no handshake is under way (DSP0274 FINISH)")


def _live(call: Call) -> Session:
    if call.session is None:
        raise Reject(ErrorCode.SESSION_REQUIRED, "only inside a session")
    return call.session


def heartbeat(r: Responder, request: m.Heartbeat, call: Call) -> m.Response:
    """Acknowledge: that the message arrived is what counts."""
    return m.HeartbeatAck()


def key_update(r: Responder, request: m.KeyUpdate, call: Call) -> m.Response:
    """Update keys. The request key before the update stays usable until VerifyNewKey."""
    session = _live(call)
    if request.operation == KeyUpdateOperation.VERIFY_NEW_KEY:
        if not session.update_unverified:
            raise Reject(ErrorCode.INVALID_REQUEST, "no key update is under way (DSP0274 KEY_UPDATE)")
        session.update_unverified = False
        return m.KeyUpdateAck(operation=request.operation, tag=request.tag)
    if request.operation not in (KeyUpdateOperation.UPDATE_KEY, KeyUpdateOperation.UPDATE_ALL_KEYS):
        raise Reject(ErrorCode.INVALID_REQUEST, f"key operation {int(request.operation)} (DSP0274 KEY_UPDATE)")
    if r.connection.encapsulated and request.operation == KeyUpdateOperation.UPDATE_ALL_KEYS:
        raise Reject(ErrorCode.INVALID_REQUEST, "a responder updates its own key only (DSP0274 KEY_UPDATE)")
    if session.update_unverified:
        raise Reject(ErrorCode.INVALID_REQUEST, "the last key update is not verified yet (DSP0274 KEY_UPDATE)")
    session.update_unverified = True
    session.previous_key, session.request_key = session.request_key, session.request_key.updated()
    if request.operation == KeyUpdateOperation.UPDATE_ALL_KEYS:
        session.response_key = session.response_key.updated()
    return m.KeyUpdateAck(operation=request.operation, tag=request.tag)


def end_session(r: Responder, request: m.EndSession, call: Call) -> m.Response:
    """End the session once the acknowledgement is protected."""
    session = _live(call)
    if request.clear_negotiated_state:
        r.agreed(state_cleared=True)
    r.preserved = r.connection.preservable
    call.after = lambda: r.end_session(session.session_id, "END_SESSION")
    return m.EndSessionAck()


SESSION_HANDLERS: Mapping[int, Callable[[Responder, Any, Call], m.Response]] = {
    m.KeyExchange.CODE: key_exchange,
    m.Finish.CODE: finish,
    m.PskExchange.CODE: psk_exchange,
    m.PskFinish.CODE: psk_finish,
    m.Heartbeat.CODE: heartbeat,
    m.KeyUpdate.CODE: key_update,
    m.EndSession.CODE: end_session,
}
"""Handlers by request code."""
