"""What the responder does for each request. A handler returns the response or raises `Reject`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from teeio.crypto.kdf import digest, equal
from teeio.crypto.key_exchange import exchange_for
from teeio.errors import Reject
from teeio.spdm import messages as m
from teeio.spdm import negotiation, opaque
from teeio.spdm.constants import ALL_MEASUREMENTS, Capability, ErrorCode, KeyUpdateOperation, SummaryType
from teeio.spdm.rules import Phase
from teeio.spdm.state import Session, SessionPhase
from teeio.spdm.transcript import CHALLENGE_CONTEXT, KEY_EXCHANGE_CONTEXT, MEASUREMENTS_CONTEXT, signing_message

if TYPE_CHECKING:
    from teeio.spdm.responder import Responder

FIRST_SESSION_HALF = 0xFFFF

_DEVICE_MODEL = 1
"""Certificate model "Device"; it is told on multi-key connections only, elsewhere the field is 0 (DSP0274 CERTIFICATE)."""


@dataclass(slots=True)
class Call:
    """One request being answered. `after` runs once the response has been protected: it changes keys or ends sessions."""

    request: bytes
    session: Session | None
    now: float
    after: Callable[[], None] | None = None

    @property
    def session_id(self) -> int | None:
        """The session the request came in."""
        return self.session.session_id if self.session else None


class Silence(Exception):
    """Raised by a handler to drop a request without an answer."""


def get_version(r: Responder, request: m.GetVersion, call: Call) -> m.Response:
    """Reset the connection and list the versions."""
    r.reset("GET_VERSION")
    r.agreed(phase=Phase.VERSION_DONE)
    return m.VersionResponse(entries=tuple(version << 8 for version in sorted(r.settings.versions)))


def get_capabilities(r: Responder, request: m.GetCapabilities, call: Call) -> m.Response:
    """Fix the version and exchange capabilities."""
    version = call.request[0]
    problem = negotiation.problem_of_request(request, version)
    if problem:
        raise Reject(ErrorCode.INVALID_REQUEST, f"{problem} (DSP0274 GET_CAPABILITIES)")
    flags = negotiation.known_flags(r.settings.capabilities, version)
    r.agreed(
        phase=Phase.CAPABILITIES_DONE,
        version=version,
        requester_capabilities=negotiation.known_flags(request.flags, version),
        responder_capabilities=flags,
        peer_data_transfer_size=request.data_transfer_size,
    )
    return m.Capabilities(
        ct_exponent=r.settings.ct_exponent,
        flags=flags,
        data_transfer_size=r.settings.data_transfer_size,
        max_message_size=r.settings.max_message_size,
    )


def negotiate_algorithms(r: Responder, request: m.NegotiateAlgorithms, call: Call) -> m.Response:
    """Select algorithms."""
    problem = negotiation.problem_of_offer(request, r.connection.version)
    if problem:
        raise Reject(ErrorCode.INVALID_REQUEST, f"{problem} (DSP0274 NEGOTIATE_ALGORITHMS)")
    answer = negotiation.select(r.settings, r.connection, request)
    lacking = negotiation.missing(r.connection, answer)
    if lacking:
        raise Reject(ErrorCode.INVALID_REQUEST, f"no common {lacking} (DSP0274 ALGORITHMS)")
    r.agreed(phase=Phase.NEGOTIATED, **negotiation.chosen(answer))
    return answer


def get_digests(r: Responder, request: m.GetDigests, call: Call) -> m.Response:
    """Give the digest of every provisioned chain."""
    identity = r.identities[r.connection.base_asym]
    base_hash = r.connection.base_hash
    return m.Digests(
        supported_slots=identity.slot_mask,
        provisioned_slots=identity.slot_mask,
        digests=b"".join(digest(base_hash, identity.slots[slot].chain(base_hash)) for slot in sorted(identity.slots)),
    )


def get_certificate(r: Responder, request: m.GetCertificate, call: Call) -> m.Response:
    """Give a portion of a chain."""
    chain = r.slot(request.slot).chain(r.connection.base_hash)
    model = _DEVICE_MODEL if r.connection.multi_key else 0
    if request.slot_size_requested:
        return m.Certificate(slot=request.slot, certificate_model=model, remainder_length=len(chain))
    if request.offset >= len(chain) or not request.length:
        raise Reject(ErrorCode.INVALID_REQUEST, f"offset {request.offset} of {len(chain)} bytes (DSP0274 GET_CERTIFICATE)")
    room = (r.connection.peer_data_transfer_size or 0x10000) - 8
    portion = chain[request.offset :][: min(request.length, room)]
    return m.Certificate(
        slot=request.slot,
        certificate_model=model,
        portion=portion,
        remainder_length=len(chain) - request.offset - len(portion),
    )


def _summary(r: Responder, kind: int) -> bytes:
    if kind == SummaryType.NONE:
        return b""
    measures = r.connection.responder_capabilities & (Capability.MEAS_SIG | Capability.MEAS_NO_SIG)
    if not measures or kind not in (SummaryType.TCB, SummaryType.ALL):
        raise Reject(ErrorCode.INVALID_REQUEST, f"summary type {kind:#x} (DSP0274 MeasurementSummaryHashType)")
    return r.measurements.summary(kind, r.connection.measurement_hash, r.connection.base_hash)


def _encoded(r: Responder, request: m.Request[m.Response], response: m.Response, cut: int) -> bytes:
    """Encode a response whose last `cut` bytes are not known yet, without them."""
    return response.encode(r.connection.facts.answering(request))[:-cut]


def _sign(r: Responder, slot: int, context: str, transcript: bytes) -> bytes:
    message = signing_message(r.connection.version, context, transcript, r.connection.base_hash)
    return r.slot(slot).key.sign(message, r.connection.base_hash)


def challenge(r: Responder, request: m.Challenge, call: Call) -> m.Response:
    """Sign M1."""
    size = r.connection.base_asym.signature_size
    response = m.ChallengeAuth(
        slot=request.slot & 0xF,
        slot_mask=r.identities[r.connection.base_asym].slot_mask,
        chain_hash=digest(r.connection.base_hash, r.slot(request.slot).chain(r.connection.base_hash)),
        nonce=r.entropy(32),
        summary=_summary(r, request.summary_type),
        context=request.context,
        signature=bytes(size),
    )
    m1 = r.transcript.m1(call.request, _encoded(r, request, response, size))
    response.signature = _sign(r, request.slot, CHALLENGE_CONTEXT, m1)
    return response


def get_measurements(r: Responder, request: m.GetMeasurements, call: Call) -> m.Response:
    """Give measurements, signed if asked for."""
    signed = bool(request.signature_requested)
    slot = request.slot & 0xF
    if signed and not r.connection.responder_capabilities & Capability.MEAS_SIG:
        raise Reject(ErrorCode.UNSUPPORTED_REQUEST, "measurements are not signed here (DSP0274 MEAS_CAP)", m.GetMeasurements.CODE)
    if signed:
        r.slot(slot)
    blocks = r.measurements.blocks(r.connection.measurement_hash, raw=bool(request.raw_requested))
    wanted = [] if request.operation == 0 else blocks
    if request.operation not in (0, ALL_MEASUREMENTS):
        wanted = [block for block in blocks if block.index == request.operation]
        if not wanted:
            raise Reject(ErrorCode.INVALID_REQUEST, f"no measurement {request.operation} (DSP0274 GET_MEASUREMENTS)")
    size = r.connection.base_asym.signature_size
    response = m.Measurements(
        total=len(blocks) if request.operation == 0 else 0,
        slot=slot,
        block_count=len(wanted),
        record=b"".join(block.encode() for block in wanted),
        nonce=r.entropy(32),
        context=request.context,
        signature=bytes(size) if signed else b"",
    )
    if signed:
        unsigned = _encoded(r, request, response, size)
        l1 = r.transcript.l1(r.connection.version, call.session_id, call.request, unsigned)
        response.signature = _sign(r, slot, MEASUREMENTS_CONTEXT, l1)
    return response


def key_exchange(r: Responder, request: m.KeyExchange, call: Call) -> m.Response:
    """Begin a session: sign, derive the handshake keys, prove them unless the handshake is in the clear."""
    if len(r.sessions) >= r.settings.max_sessions:
        raise Reject(ErrorCode.SESSION_LIMIT_EXCEEDED, f"at most {r.settings.max_sessions} sessions (DSP0274 KEY_EXCHANGE)")
    c = r.connection
    session = _new_session(r, request, call)
    ephemeral = exchange_for(c.dhe, r.entropy)
    shared = ephemeral.agree(request.exchange_data)
    size = c.base_asym.signature_size
    verify_size = 0 if c.facts.handshake_in_the_clear else c.base_hash.size
    response = m.KeyExchangeRsp(
        heartbeat_period=session.heartbeat_period,
        rsp_session_id=session.session_id >> 16,
        random=r.entropy(32),
        exchange_data=ephemeral.exchange_data,
        summary=_summary(r, request.summary_type),
        opaque=opaque.encode_selected(c.version, _secured_version(r, request)),
        signature=bytes(size),
        verify_data=bytes(verify_size),
    )
    chain_hash = digest(c.base_hash, r.slot(request.slot).chain(c.base_hash))
    before = r.transcript.handshake(chain_hash, c.multi_key) + call.request
    signed = before + _encoded(r, request, response, size + verify_size)
    response.signature = _sign(r, request.slot, KEY_EXCHANGE_CONTEXT, signed)
    session.transcript = signed + response.signature
    session.enter_handshake(shared)
    if verify_size:
        response.verify_data = session.schedule.verify_data(session.handshake.response_finished, session.transcript)
        session.transcript += response.verify_data
    r.sessions[session.session_id] = session
    return response


def _new_session(r: Responder, request: m.KeyExchange, call: Call) -> Session:
    used = {session_id >> 16 for session_id in r.sessions}
    half = next(half for half in range(FIRST_SESSION_HALF, 0, -1) if half not in used)
    c = r.connection
    return Session(
        half << 16 | request.req_session_id,
        c.key_schedule,
        r.observer,
        encrypted=bool(c.common_capabilities & Capability.ENCRYPT),
        heartbeat_period=r.settings.heartbeat_period if c.common_capabilities & Capability.HBEAT else 0,
        last_seen=call.now,
    )


def _secured_version(r: Responder, request: m.KeyExchange) -> int:
    offered = opaque.decode_supported(r.connection.version, request.opaque)
    common = set(offered) & set(opaque.SECURED_VERSIONS)
    if not common:
        raise Reject(ErrorCode.INVALID_REQUEST, "no common secured-message version (DSP0277)")
    return max(common)


def finish(r: Responder, request: m.Finish, call: Call) -> m.Response:
    """Verify the requester's proof and enter the application phase."""
    session = call.session or _latest_handshake(r)
    hash_size = r.connection.base_hash.size
    if request.signature_included:
        raise Reject(ErrorCode.INVALID_REQUEST, "no mutual authentication was asked for (DSP0274 FINISH)")
    expected = session.schedule.verify_data(session.handshake.request_finished, session.transcript + call.request[:-hash_size])
    if not equal(expected, request.verify_data):
        # A session whose handshake was tampered with must not live on.
        r.end_session(session.session_id, "RequesterVerifyData does not verify")
        raise Reject(ErrorCode.DECRYPT_ERROR, "RequesterVerifyData does not verify (DSP0274 FINISH)")
    clear = r.connection.facts.handshake_in_the_clear
    response = m.FinishRsp(verify_data=bytes(hash_size) if clear else b"")
    session.transcript += call.request
    if clear:
        covered = session.transcript + _encoded(r, request, response, hash_size)
        response.verify_data = session.schedule.verify_data(session.handshake.response_finished, covered)
    session.transcript += response.encode(r.connection.facts)
    if call.session is None:
        session.enter_data()
    else:
        call.after = session.enter_data
    return response


def _latest_handshake(r: Responder) -> Session:
    for session in reversed(r.sessions.values()):
        if session.phase is SessionPhase.HANDSHAKE:
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
        if session.previous_key is None:
            raise Reject(ErrorCode.INVALID_REQUEST, "no key update is under way (DSP0274 KEY_UPDATE)")
        session.previous_key = None
        return m.KeyUpdateAck(operation=request.operation, tag=request.tag)
    if request.operation not in (KeyUpdateOperation.UPDATE_KEY, KeyUpdateOperation.UPDATE_ALL_KEYS):
        raise Reject(ErrorCode.INVALID_REQUEST, f"key operation {int(request.operation)} (DSP0274 KEY_UPDATE)")
    if session.previous_key is not None:
        raise Reject(ErrorCode.INVALID_REQUEST, "the last key update is not verified yet (DSP0274 KEY_UPDATE)")
    session.previous_key, session.request_key = session.request_key, session.request_key.updated()
    if request.operation == KeyUpdateOperation.UPDATE_ALL_KEYS:
        session.response_key = session.response_key.updated()
    return m.KeyUpdateAck(operation=request.operation, tag=request.tag)


def end_session(r: Responder, request: m.EndSession, call: Call) -> m.Response:
    """End the session once the acknowledgement is protected."""
    session = _live(call)
    call.after = lambda: r.end_session(session.session_id, "END_SESSION")
    return m.EndSessionAck()


def vendor_defined(r: Responder, request: m.VendorDefinedRequest, call: Call) -> m.Response:
    """Hand the payload to the vendor protocol it names. Outside a session those are dropped silently (PCIe Base 11.2.2)."""
    payload = request.large_payload or request.payload
    for protocol in r.vendor_protocols:
        if (protocol.standard_id, protocol.vendor_id) != (request.standard_id, request.vendor_id):
            continue
        if payload[:1] != bytes([protocol.protocol_id]):
            continue
        answer = None
        if call.session is not None:
            answer = protocol.respond(call.session.session_id, payload[1:], call.now)
        if answer is None:
            raise Silence
        return m.VendorDefinedResponse(
            standard_id=request.standard_id, vendor_id=request.vendor_id, payload=payload[:1] + answer
        )
    raise Reject(ErrorCode.UNSUPPORTED_REQUEST, "no such vendor protocol", m.VendorDefinedRequest.CODE)


HANDLERS: Mapping[int, Callable[[Responder, Any, Call], m.Response]] = {
    m.GetVersion.CODE: get_version,
    m.GetCapabilities.CODE: get_capabilities,
    m.NegotiateAlgorithms.CODE: negotiate_algorithms,
    m.GetDigests.CODE: get_digests,
    m.GetCertificate.CODE: get_certificate,
    m.Challenge.CODE: challenge,
    m.GetMeasurements.CODE: get_measurements,
    m.KeyExchange.CODE: key_exchange,
    m.Finish.CODE: finish,
    m.Heartbeat.CODE: heartbeat,
    m.KeyUpdate.CODE: key_update,
    m.EndSession.CODE: end_session,
    m.VendorDefinedRequest.CODE: vendor_defined,
}
"""What is implemented; any other request is answered with UnsupportedRequest."""

