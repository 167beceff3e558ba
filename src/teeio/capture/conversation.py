"""One captured connection: what was negotiated, and what each exchange changes and proves.

The dissector tells of every request and of every response that fits it; what comes back are the findings: signatures,
verify data and digests that were checked. The rules of the transcripts are those of `spdm.transcript`; mutual
authentication adds the requester's chain (DSP0274, "Transcript and transcript hash").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from teeio.capture.chains import Chains
from teeio.capture.findings import Finding, Verdict, not_checkable
from teeio.capture.keylog import KeyLog
from teeio.capture.negotiated import Negotiated
from teeio.capture.sessions import Direction, DissectedSession
from teeio.crypto.kdf import equal
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, KeyUpdateOperation
from teeio.spdm.state import SessionPhase
from teeio.spdm.transcript import (
    CHALLENGE_CONTEXT,
    FINISH_CONTEXT,
    KEY_EXCHANGE_CONTEXT,
    MEASUREMENTS_CONTEXT,
    Transcript,
)

ENDPOINT_INFO_CONTEXT = "responder-endpoint_info signing"
"""Context of the signature over IL1 (DSP0274 1.3, ENDPOINT_INFO)."""

_UNFIT = "the key log does not fit this session, or the handshake was changed"


@dataclass(slots=True)
class Exchange:
    """A request and its response, with their bytes without transport padding; the response may not be known yet."""

    request: Any
    sent: bytes
    session: DissectedSession | None
    frame: int
    response: Any = None
    received: bytes = b""

    @property
    def code(self) -> int:
        """The request's code."""
        return self.sent[1]

    @property
    def session_id(self) -> int | None:
        """The session that the exchange travelled in."""
        return self.session.session_id if self.session else None


@dataclass(slots=True)
class Conversation:
    """All connections of a capture, one after another.

    `history` has every session in the order of appearance, `mutual` what basic mutual authentication has exchanged.
    """

    key_log: KeyLog = field(default_factory=KeyLog)
    negotiated: Negotiated = field(default_factory=Negotiated)
    transcript: Transcript = field(default_factory=Transcript)
    responder_chains: Chains = field(default_factory=Chains)
    requester_chains: Chains = field(default_factory=Chains)
    sessions: dict[int, DissectedSession] = field(default_factory=dict)
    history: list[DissectedSession] = field(default_factory=list)
    mutual: bytes = b""
    _used: set[int] = field(default_factory=set)

    def requested(self, x: Exchange) -> list[Finding]:
        """Learn of a request."""
        if isinstance(x.request, m.GetVersion) and x.session is None:
            self.negotiated = Negotiated()
            self.responder_chains.reset()
            self.requester_chains.reset()
            self.sessions.clear()
            self.mutual = b""
        self.transcript.begin(x.code, x.session_id)
        effect = ON_REQUEST.get(x.code)
        return effect(self, x) if effect and x.request is not None else []

    def answered(self, x: Exchange) -> list[Finding]:
        """Learn of the response to a request."""
        effect = ON_RESPONSE.get(x.code)
        findings = effect(self, x) if effect and x.request is not None else []
        self.transcript.end(x.code, x.sent, x.received, x.session_id)
        if isinstance(x.response, m.Measurements) and x.response.signature:
            self.transcript.forget_measurements(x.session_id)
        return findings

    def refused(self, x: Exchange) -> None:
        """Learn that a request was answered with ERROR."""
        self.transcript.end(x.code, x.sent, None, x.session_id)

    def handshaking(self) -> DissectedSession | None:
        """Give the session to which a FINISH outside sessions belongs: the latest in its handshake."""
        waiting = [s for s in self.sessions.values() if s.phase is SessionPhase.HANDSHAKE and not s.psk]
        return waiting[-1] if waiting else None

    def begin_session(self, session_id: int, frame: int, *, psk: bool) -> DissectedSession:
        """Begin a session; one of the same id is over."""
        c = self.negotiated.connection
        encrypted = bool(c.common_capabilities & Capability.ENCRYPT)
        session = DissectedSession(session_id, frame, c.key_schedule, psk=psk, encrypted=encrypted)
        if self.negotiated.hash_implemented:
            session.offer(self.key_log, self._used)
        else:
            session.reason = f"no implementation of {c.base_hash!r}"
        self.sessions.pop(session_id, None)
        self.sessions[session_id] = session
        self.history.append(session)
        return session

    def spend(self, session: DissectedSession) -> None:
        """Mark the key-log entry that a session has proven to be its own."""
        self._used |= {at for at, entry in enumerate(self.key_log.sessions) if entry is session.current}


# -- negotiation and identity --------------------------------------------------------------------------------------


def _capabilities(c: Conversation, x: Exchange) -> list[Finding]:
    c.negotiated = c.negotiated.with_capabilities(x.received[0], x.request, x.response)
    return []


def _algorithms(c: Conversation, x: Exchange) -> list[Finding]:
    c.negotiated = c.negotiated.with_algorithms(x.request, x.response)
    return []


def _digests(c: Conversation, x: Exchange) -> list[Finding]:
    return c.responder_chains.enter_digests(x.response)


def _certificate(c: Conversation, x: Exchange) -> list[Finding]:
    return c.responder_chains.enter_certificate(x.request, x.response, c.negotiated)


def _signed(c: Conversation, what: str, slot: int, context: str, transcript: bytes, signature: bytes) -> Finding:
    n = c.negotiated
    check = f"{what} signature"
    return c.responder_chains.check_signature(check, slot, context, transcript, signature, n, n.responder)


def requester_signed(
    c: Conversation,
    what: str,
    slot: int,
    context: str,
    transcript: bytes,
    signed: m.Finish | m.ChallengeAuth | m.EndpointInfo,
) -> Finding:
    """Check a signature of the requester."""
    n, check = c.negotiated, f"{what} signature"
    return c.requester_chains.check_signature(check, slot, context, transcript, signed.signature, n, n.requester)


def without_tail(data: bytes, *tail: bytes) -> bytes:
    """Give an encoded message without its last fields."""
    return data[: len(data) - sum(map(len, tail))]


def _challenge(c: Conversation, x: Exchange) -> list[Finding]:
    m1 = c.transcript.m1(x.sent, without_tail(x.received, x.response.signature))
    return [
        c.responder_chains.check_hash("CertChainHash", x.request.slot, x.response.chain_hash, c.negotiated),
        _signed(c, "CHALLENGE_AUTH", x.request.slot, CHALLENGE_CONTEXT, m1, x.response.signature),
    ]


def _measurements(c: Conversation, x: Exchange) -> list[Finding]:
    if not x.request.signature_requested:
        return []
    version = c.negotiated.connection.version
    l1 = c.transcript.l1(version, x.session_id, x.sent, without_tail(x.received, x.response.signature))
    return [_signed(c, "MEASUREMENTS", x.request.slot & 0xF, MEASUREMENTS_CONTEXT, l1, x.response.signature)]


def _endpoint_info(c: Conversation, x: Exchange) -> list[Finding]:
    if not x.request.signature_requested:
        return []
    il1 = c.transcript.vca + x.sent + without_tail(x.received, x.response.signature)
    return [_signed(c, "ENDPOINT_INFO", x.request.slot & 0xF, ENDPOINT_INFO_CONTEXT, il1, x.response.signature)]


# -- sessions ------------------------------------------------------------------------------------------------------


def _key_exchange(c: Conversation, x: Exchange) -> list[Finding]:
    request: m.KeyExchange = x.request
    response: m.KeyExchangeRsp = x.response
    session = c.begin_session(response.rsp_session_id << 16 | request.req_session_id, x.frame, psk=False)
    session.mut_auth_requested = response.mut_auth_requested
    chain_hash = c.responder_chains.hash_of(request.slot, c.negotiated)
    if chain_hash is None:
        reason = f"neither chain nor digest of slot {request.slot} is in the capture"
        session.cannot_derive(reason)
        return [not_checkable(check, reason) for check in ("KEY_EXCHANGE_RSP signature", "ResponderVerifyData")]
    before = c.transcript.handshake(chain_hash, c.negotiated.connection.multi_key)
    signed = before + x.sent + without_tail(x.received, response.signature, response.verify_data)
    findings = [_signed(c, "KEY_EXCHANGE_RSP", request.slot, KEY_EXCHANGE_CONTEXT, signed, response.signature)]
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
    return Finding(check, Verdict.WRONG, _UNFIT)


def _finish_request(c: Conversation, x: Exchange) -> list[Finding]:
    request: m.Finish = x.request
    session = x.session or c.handshaking()
    if session is None:
        return [not_checkable("RequesterVerifyData", "the beginning of the session is not in the capture")]
    begun = session.spdm.transcript
    findings = []
    if session.mut_auth_requested:
        chain_hash = c.requester_chains.hash_of(request.req_slot, c.negotiated)
        if chain_hash is None:
            return [not_checkable("RequesterVerifyData", "the requester's certificate chain is not in the capture")]
        begun += (session.encapsulated_digests if c.negotiated.requester_multi_key else b"") + chain_hash
    if request.signature_included:
        signed = begun + without_tail(x.sent, request.signature, request.verify_data)
        findings.append(requester_signed(c, "FINISH", request.req_slot, FINISH_CONTEXT, signed, request))
    covered = begun + without_tail(x.sent, request.verify_data)
    findings.append(_requester_verify_data(c, session, covered, request.verify_data))
    session.finishing = begun + x.sent
    return findings


def _finish(c: Conversation, x: Exchange) -> list[Finding]:
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


def _psk_exchange(c: Conversation, x: Exchange) -> list[Finding]:
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


def _psk_finish_request(c: Conversation, x: Exchange) -> list[Finding]:
    if x.session is None:
        return []
    begun = x.session.spdm.transcript
    x.session.finishing = begun + x.sent
    covered = begun + without_tail(x.sent, x.request.verify_data)
    return [_requester_verify_data(c, x.session, covered, x.request.verify_data)]


def _psk_finish(c: Conversation, x: Exchange) -> list[Finding]:
    if x.session is not None and x.session.finishing:
        _establish(x.session, x.received)
    return []


def _key_update_request(c: Conversation, x: Exchange) -> list[Finding]:
    if x.session is not None and x.request.operation in (
        KeyUpdateOperation.UPDATE_KEY,
        KeyUpdateOperation.UPDATE_ALL_KEYS,
    ):
        x.session.expect_update(Direction.REQUEST)
        if x.request.operation == KeyUpdateOperation.UPDATE_ALL_KEYS:
            x.session.expect_update(Direction.RESPONSE)
    return []


def _encapsulated_flow(c: Conversation, x: Exchange) -> list[Finding]:
    c.mutual = b""
    return []


def _end_session(c: Conversation, x: Exchange) -> list[Finding]:
    if x.session is not None:
        x.session.spdm.move(SessionPhase.ENDED, "END_SESSION")
        c.transcript.forget_measurements(x.session_id)
        c.sessions.pop(x.session.session_id, None)
    return []


Effect = Callable[[Conversation, Exchange], list[Finding]]

ON_REQUEST: Mapping[int, Effect] = {
    m.Finish.CODE: _finish_request,
    m.PskFinish.CODE: _psk_finish_request,
    m.KeyUpdate.CODE: _key_update_request,
    m.GetEncapsulatedRequest.CODE: _encapsulated_flow,
}
"""What a request changes before it is answered."""

ON_RESPONSE: Mapping[int, Effect] = {
    m.GetCapabilities.CODE: _capabilities,
    m.NegotiateAlgorithms.CODE: _algorithms,
    m.GetDigests.CODE: _digests,
    m.GetCertificate.CODE: _certificate,
    m.Challenge.CODE: _challenge,
    m.GetMeasurements.CODE: _measurements,
    m.GetEndpointInfo.CODE: _endpoint_info,
    m.KeyExchange.CODE: _key_exchange,
    m.Finish.CODE: _finish,
    m.PskExchange.CODE: _psk_exchange,
    m.PskFinish.CODE: _psk_finish,
    m.EndSession.CODE: _end_session,
}
"""What a response to the request of this code changes and proves."""
