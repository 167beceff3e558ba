"""What session exchanges change and prove: handshakes with their verify data, key updates, the end (DSP0274)."""

from __future__ import annotations

from teeio.capture.chains import missing
from teeio.capture.conversation import Conversation, Exchange
from teeio.capture.findings import Finding, Verdict, not_checkable
from teeio.capture.sessions import NO_FIT, Direction, DissectedSession
from teeio.capture.signatures import requester_signed, responder_signed, without_tail
from teeio.crypto.kdf import equal
from teeio.spdm import messages as m
from teeio.spdm.constants import PUBLIC_KEY_SLOT, KeyUpdateOperation
from teeio.spdm.state import SessionPhase
from teeio.spdm.transcript import FINISH_CONTEXT, KEY_EXCHANGE_CONTEXT

CHANGED = "the session's keys are right, so the handshake was changed"


def key_exchange(c: Conversation, x: Exchange) -> list[Finding]:
    """KEY_EXCHANGE_RSP: a session begins; its signature and ResponderVerifyData."""
    request: m.KeyExchange = x.request
    response: m.KeyExchangeRsp = x.response
    session = c.begin_session(response.rsp_session_id << 16 | request.req_session_id, x.frame, psk=False)
    session.mut_auth_requested = response.mut_auth_requested
    chain_hash = c.responder_chains.hash_of(request.slot, c.negotiated)
    if chain_hash is None:
        known_by_key = request.slot == PUBLIC_KEY_SLOT
        lacking = f"neither chain nor digest of slot {request.slot} is in the capture"
        reason = missing(request.slot) if known_by_key else lacking
        session.cannot_derive(reason)
        return [not_checkable(check, reason) for check in ("KEY_EXCHANGE_RSP signature", "ResponderVerifyData")]
    before = c.transcript.handshake(chain_hash, c.negotiated.connection.multi_key)
    signed = before + x.sent + without_tail(x.received, response.signature, response.verify_data)
    findings = [responder_signed(c, "KEY_EXCHANGE_RSP", request.slot, KEY_EXCHANGE_CONTEXT, signed, response.signature)]
    session.enter_handshake(signed + response.signature)
    if response.verify_data:
        findings.append(_responder_verify_data(c, session, session.spdm.transcript, response.verify_data))
        session.spdm.transcript += response.verify_data
    return findings


def _responder_verify_data(c: Conversation, session: DissectedSession, covered: bytes, value: bytes) -> Finding:
    return _verify_data(c, session, "ResponderVerifyData", covered, value, "response_finished")


def _requester_verify_data(c: Conversation, session: DissectedSession, covered: bytes, value: bytes) -> Finding:
    return _verify_data(c, session, "RequesterVerifyData", covered, value, "request_finished")


def _verify_data(
    c: Conversation, session: DissectedSession, check: str, covered: bytes, value: bytes, key: str
) -> Finding:
    if not session.has_handshake_secrets:
        return not_checkable(check, session.reason or "the key log lacks the secret that the session began with")
    schedule = session.spdm.schedule
    if session.prove(lambda secrets: equal(schedule.verify_data(getattr(secrets, key), covered), value)):
        c.spend(session)
        return Finding(check, Verdict.OK)
    if session.proven or session.opened:
        return Finding(check, Verdict.WRONG, CHANGED)
    session.doubted.append(check)
    return not_checkable(check, NO_FIT)


def confirm(session: DissectedSession) -> list[Finding]:
    """Learn that the session's keys are right, since a record was opened: what did not fit them has been changed.

    Traffic secrets that the key log gives directly say nothing of the verify data.
    """
    doubted, session.doubted = session.doubted, []
    if not session.has_handshake_secrets:
        return []
    return [Finding(check, Verdict.WRONG, CHANGED) for check in doubted]


def finish_request(c: Conversation, x: Exchange) -> list[Finding]:
    """FINISH: the requester's signature and verify data."""
    request: m.Finish = x.request
    session = x.session or c.handshaking()
    if session is None:
        return [not_checkable("RequesterVerifyData", "the beginning of the session is not in the capture")]
    begun = session.spdm.transcript
    findings = []
    if session.mut_auth_requested:
        chain_hash = c.requester_chains.hash_of(request.req_slot, c.negotiated)
        if chain_hash is None:
            return [not_checkable("RequesterVerifyData", f"of the requester {missing(request.req_slot)}")]
        begun += (session.encapsulated_digests if c.negotiated.requester_multi_key else b"") + chain_hash
    if request.signature_included:
        signed = begun + without_tail(x.sent, request.signature, request.verify_data)
        findings.append(requester_signed(c, "FINISH", request.req_slot, FINISH_CONTEXT, signed, request))
    covered = begun + without_tail(x.sent, request.verify_data)
    findings.append(_requester_verify_data(c, session, covered, request.verify_data))
    session.finishing = begun + x.sent
    return findings


def finish(c: Conversation, x: Exchange) -> list[Finding]:
    """FINISH_RSP: ResponderVerifyData, if it was not in KEY_EXCHANGE_RSP; the session is established."""
    session = x.session or c.handshaking()
    if session is None or not session.finishing:
        return []
    findings = []
    response: m.FinishRsp = x.response
    if response.verify_data:
        covered = session.finishing + without_tail(x.received, response.verify_data)
        findings.append(_responder_verify_data(c, session, covered, response.verify_data))
    _establish(session, x.received)
    return findings


def _establish(session: DissectedSession, received: bytes) -> None:
    session.spdm.transcript = session.finishing + received
    session.finishing = b""
    session.enter_data()


def psk_exchange(c: Conversation, x: Exchange) -> list[Finding]:
    """PSK_EXCHANGE_RSP: a session begins; ResponderVerifyData."""
    response: m.PskExchangeRsp = x.response
    session = c.begin_session(response.rsp_session_id << 16 | x.request.req_session_id, x.frame, psk=True)
    th1 = c.transcript.handshake(b"", multi_key=False) + x.sent + without_tail(x.received, response.verify_data)
    session.enter_handshake(th1)
    findings = [_responder_verify_data(c, session, th1, response.verify_data)]
    session.spdm.transcript = th1 + response.verify_data
    if not response.context:
        # Without a responder context there is no PSK_FINISH: the session is established at once.
        session.enter_data()
    return findings


def psk_finish_request(c: Conversation, x: Exchange) -> list[Finding]:
    """PSK_FINISH: RequesterVerifyData."""
    if x.session is None:
        return []
    begun = x.session.spdm.transcript
    x.session.finishing = begun + x.sent
    covered = begun + without_tail(x.sent, x.request.verify_data)
    return [_requester_verify_data(c, x.session, covered, x.request.verify_data)]


def psk_finish(c: Conversation, x: Exchange) -> list[Finding]:
    """PSK_FINISH_RSP: the session is established."""
    if x.session is not None and x.session.finishing:
        _establish(x.session, x.received)
    return []


def key_update_request(c: Conversation, x: Exchange) -> list[Finding]:
    """KEY_UPDATE: which keys will be renewed."""
    if x.session is not None and x.request.operation in (
        KeyUpdateOperation.UPDATE_KEY,
        KeyUpdateOperation.UPDATE_ALL_KEYS,
    ):
        x.session.expect_update(Direction.REQUEST)
        if x.request.operation == KeyUpdateOperation.UPDATE_ALL_KEYS:
            x.session.expect_update(Direction.RESPONSE)
    return []


def encapsulated_flow(c: Conversation, x: Exchange) -> list[Finding]:
    """GET_ENCAPSULATED_REQUEST: basic mutual authentication begins anew."""
    c.mutual = b""
    return []


def end_session(c: Conversation, x: Exchange) -> list[Finding]:
    """END_SESSION_ACK: the session is over."""
    if x.session is not None:
        x.session.spdm.move(SessionPhase.ENDED, "END_SESSION")
        c.transcript.forget_measurements(x.session_id)
        c.sessions.pop(x.session.session_id, None)
    return []
