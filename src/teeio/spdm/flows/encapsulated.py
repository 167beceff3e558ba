"""The requester's side of encapsulated requests: fetch what the responder asks, answer it, until it has no more (DSP0274, 1.1).

The answers come from the responder's own handlers, over the requester's identities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from teeio.errors import ErrorResponse, PeerViolation
from teeio.flow import Flow
from teeio.observe import SecretDerived
from teeio.spdm import messages as m
from teeio.spdm.constants import ErrorCode, Version
from teeio.spdm.device_state import DeviceMeasurements
from teeio.spdm.encapsulation import MAX_REQUESTS, PayloadType
from teeio.spdm.exchange import ask
from teeio.spdm.requester import Requester
from teeio.spdm.responder import Responder
from teeio.spdm.state import Session, SessionPhase

_CLAUSE = "DSP0274 ENCAPSULATED_RESPONSE_ACK"


@dataclass(frozen=True, slots=True)
class Served:
    """What an encapsulated flow has told us: the slot that FINISH must prove, if any, and the DIGESTS that we sent, if any."""

    slot: int | None
    digests: bytes


def serve_encapsulated(
    requester: Requester, session: Session | None = None, *, outside: bool = False, implicit_digests: bool = False
) -> Flow[Served]:
    """Answer what the responder asks in `session`, or `outside` its records while its handshake is in the clear.

    `implicit_digests`: the first request is GET_DIGESTS with id 0 and is not fetched (MutAuthRequested bit 2). Raises `ErrorResponse`
    if nothing is pending, `PeerViolation` if the responder's ids or payloads are wrong.
    """
    travels = None if session is None or outside else session.session_id
    side = _answering_side(requester)
    request_id, inner = 0, m.GetDigests().encode(requester.connection.facts)
    if not implicit_digests:
        fetched = yield from ask(m.GetEncapsulatedRequest(), travels)
        request_id, inner = fetched.request_id, fetched.inner
    for _ in range(MAX_REQUESTS + 1):
        response = _answer(requester, side, inner, session)
        acknowledged = yield from ask(m.DeliverEncapsulatedResponse(request_id=request_id, inner=response), travels)
        if requester.connection.version >= Version.V1_2 and acknowledged.ack_request_id != request_id:
            raise PeerViolation(f"AckRequestID {acknowledged.ack_request_id}, we answered {request_id}", _CLAUSE)
        if acknowledged.payload_type == PayloadType.NONE:
            return Served(None, side.transcript.first_digests)
        if acknowledged.payload_type == PayloadType.SLOT and acknowledged.inner:
            return Served(acknowledged.inner[0], side.transcript.first_digests)
        if acknowledged.payload_type != PayloadType.NEXT_REQUEST:
            raise PeerViolation(f"payload type {acknowledged.payload_type}, or no slot", _CLAUSE)
        request_id, inner = acknowledged.request_id, acknowledged.inner
    raise PeerViolation(f"more than {MAX_REQUESTS} encapsulated requests", _CLAUSE)


def serve_pending(requester: Requester, session: Session | None = None) -> Flow[bool]:
    """Ask whether the responder wants anything, and answer it. Tells whether it did."""
    try:
        yield from serve_encapsulated(requester, session)
    except ErrorResponse as error:
        later = requester.connection.version >= Version.V1_3
        if error.code != (ErrorCode.NO_PENDING_REQUESTS if later else ErrorCode.UNEXPECTED_REQUEST):
            raise
        return False
    return True


def _answering_side(requester: Requester) -> Responder:
    settings = requester.settings
    return Responder(
        requester.binding,
        requester.identities,
        DeviceMeasurements(),
        requester.entropy,
        replace(settings, base_asym=settings.req_base_asym, pqc_asym=settings.req_pqc_asym),
        events=requester.events,
        events_connection=requester.events_connection,
        device_classes=requester.device_classes,
        observer=requester.observer,
        name=requester.name,
        peer=requester.peer,
        connection=requester.connection.mirrored(),
        transcript=requester.transcript.mirrored(requester.connection.version),
    )


def _answer(requester: Requester, side: Responder, inner: bytes, session: Session | None) -> bytes:
    """Answer one request. A key update takes effect on `session` as soon as it is answered."""
    if session is None or session.phase is not SessionPhase.ESTABLISHED:
        return side.answer_encapsulated(inner, None, requester.now)
    mirrored = session.mirrored()
    mirrored.previous_key, mirrored.update_unverified = session.previous_key, session.update_unverified
    answer = side.answer_encapsulated(inner, mirrored, requester.now)
    if mirrored.request_key is not session.response_key:
        label = f"{mirrored.directions[0]}_data_secret_update"
        requester.observer(SecretDerived(label, f"{session.session_id:08x}", mirrored.request_key.secret))
    session.response_key, session.update_unverified = mirrored.request_key, mirrored.update_unverified
    session.previous_key = mirrored.previous_key if mirrored.update_unverified else None
    return answer
