"""The responder's own flows, carried by GET_ENCAPSULATED_REQUEST and DELIVER_ENCAPSULATED_RESPONSE (DSP0274, 1.1 and later).

The flows are those that a requester runs; here the requester fetches each request and delivers its response. One flow at a time is
pending. It has at most 255 requests, so that a request id never comes twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from teeio.crypto.entropy import Entropy
from teeio.crypto.keys import PublicKey
from teeio.errors import ErrorResponse, Misuse, PeerViolation, Reject, TeeioError
from teeio.flow import Flow
from teeio.observe import Observer, Refused
from teeio.spdm import messages as m
from teeio.spdm.asking import check_legal, decode_answer, error_answer
from teeio.spdm.call import Call
from teeio.spdm.constants import Capability, ErrorCode
from teeio.spdm.exchange import Answer, Ask
from teeio.spdm.rules import Place
from teeio.spdm.state import ENCAPSULATION_OVERHEAD, Connection, SessionPhase, Settings
from teeio.spdm.transcript import Transcript

if TYPE_CHECKING:
    from teeio.spdm.responder import Responder

Wish = Callable[["Responder", "int | None"], None]
"""Looks whether the responder wants to ask something where a GET_ENCAPSULATED_REQUEST came (a session or outside), and makes it pending."""

MAX_REQUESTS = 255
ENCAPSULABLE = frozenset(
    request.CODE
    for request in (
        m.GetDigests,
        m.GetCertificate,
        m.Challenge,
        m.KeyUpdate,
        m.GetEndpointInfo,
        m.GetSupportedEventTypes,
        m.SubscribeEventTypes,
        m.SendEvent,
    )
)
"""Requests that a responder may send (DSP0274, "Encapsulated requests")."""


class PayloadType(IntEnum):
    """What ENCAPSULATED_RESPONSE_ACK carries."""

    NONE = 0
    NEXT_REQUEST = 1
    SLOT = 2


@dataclass(slots=True)
class Counterpart:
    """The responder as the side that asks (an `Asker`): the connection is mirrored, the transcript that of this direction."""

    connection: Connection
    settings: Settings
    entropy: Entropy = field(repr=False)
    observer: Observer
    transcript: Transcript
    peer: str
    drop_session: Callable[[int, str], None] = field(repr=False)
    max_transport_padding: int
    chains: dict[int, bytes] = field(default_factory=dict)
    models: dict[int, int] = field(default_factory=dict)
    peer_keys: Sequence[PublicKey] = ()

    @classmethod
    def of(cls, r: Responder) -> Counterpart:
        """Give the asking side of a responder, with nothing asked yet."""
        settings = replace(r.settings, data_transfer_size=r.settings.data_transfer_size - ENCAPSULATION_OVERHEAD)
        transcript = r.transcript.mirrored(r.connection.version)
        return cls(
            r.connection.mirrored(),
            settings,
            r.entropy,
            r.observer,
            transcript,
            r.peer,
            r.end_session,
            r.binding.max_transport_padding,
        )


@dataclass(slots=True)
class Encapsulation:
    """A flow of the responder's on its way. Its result is the slot that FINISH must prove, or None.

    `session_id` names the session whose records carry it, None for messages outside; `belongs_to` the session that it is about.
    A `mandatory` flow holds up all other requests from the start, another one only when its first request is out.
    """

    side: Counterpart
    flow: Flow[int | None] = field(repr=False)
    session_id: int | None = None
    belongs_to: int | None = None
    mandatory: bool = True
    request_id: int = 0
    asked: Ask | None = None
    sent: bytes = b""

    @property
    def blocks(self) -> bool:
        """Tell whether other requests must wait."""
        return self.mandatory or self.asked is not None

    def begin(self) -> bool:
        """Run the flow up to its first request; False if it has none. Raises what the flow raises."""
        try:
            self._ask(next(self.flow))
        except StopIteration:
            return False
        return True

    def _ask(self, asked: Ask) -> None:
        code = asked.request.CODE
        if code not in ENCAPSULABLE:
            raise Misuse(f"{asked.request.NAME} cannot be encapsulated (DSP0274 encapsulated requests)")
        check_legal(self.side.connection, code, self._place)
        self.asked = asked
        self.sent = asked.request.encode(self.side.connection.facts)
        self.side.transcript.begin(code, self._session)

    @property
    def _place(self) -> Place:
        return Place.OUTSIDE if self._session is None else Place.ESTABLISHED

    @property
    def _session(self) -> int | None:
        # What is asked during a handshake counts as asked outside a session: it authenticates the session to be.
        return None if self.mandatory else self.session_id

    def deliver(self, received: bytes) -> tuple[bool, int | None]:
        """Take the response to the request that is out: give whether the flow has ended, and its result."""
        try:
            try:
                answer = self._answer(received)
            except TeeioError as error:
                asked = self.flow.throw(error)
            else:
                asked = self.flow.send(answer)
        except StopIteration as stop:
            return True, stop.value
        self._ask(asked)
        return False, None

    def _answer(self, received: bytes) -> Answer[Any]:
        if self.asked is None:
            raise Misuse("nothing has been asked yet")
        request = self.asked.request
        error = error_answer(self.side.peer, request, received)
        if error is not None:
            self.side.transcript.end(request.CODE, self.sent, None, self._session)
            raise error
        padding = self.side.max_transport_padding if self.session_id is None else 0
        response, used = decode_answer(self.side.connection, request, received, padding)
        self.side.transcript.end(request.CODE, self.sent, received[:used], self._session)
        return Answer(response, self.sent, received[:used])


def _pending(r: Responder, call: Call) -> Encapsulation | None:
    """Give the flow that is pending where the request came."""
    pending = r.pending
    return pending if pending is not None and pending.session_id == call.session_id else None


def get_encapsulated_request(r: Responder, request: m.GetEncapsulatedRequest, call: Call) -> m.Response:
    """Give the request of ours that is pending; a repeated GET_ENCAPSULATED_REQUEST gets the same one again."""
    for wish in r.wishes:
        if r.pending is None and r.connection.common_capabilities & Capability.ENCAP:
            wish(r, call.session_id)
    pending = _pending(r, call)
    if pending is None or (pending.asked is None and not _begun(r, pending)):
        why = "no encapsulated request is pending (DSP0274 GET_ENCAPSULATED_REQUEST)"
        raise Reject(ErrorCode.NO_PENDING_REQUESTS, why)
    return m.EncapsulatedRequest(request_id=pending.request_id, inner=pending.sent)


def _begun(r: Responder, pending: Encapsulation) -> bool:
    """Begin a flow; one that has nothing to ask, or fails by our own fault, is over."""
    try:
        begun = pending.begin()
    except TeeioError as error:
        r.pending = None
        raise Reject(ErrorCode.UNSPECIFIED, str(error)) from error
    if begun:
        pending.request_id = 1
    else:
        r.pending = None
    return begun


def _advance(r: Responder, step: Callable[[], tuple[bool, int | None]]) -> tuple[bool, int | None]:
    """Run a step of the pending flow; a flow that fails is over."""
    try:
        return step()
    except TeeioError as error:
        r.pending = None
        if isinstance(error, ErrorResponse) and error.code == ErrorCode.RESPONSE_NOT_READY:
            # The requester may not make us wait: the flow just ends (DSP0274 DELIVER_ENCAPSULATED_RESPONSE).
            r.observer(Refused(r.name, "an encapsulated response", str(error)))
            return True, None
        raise Reject(ErrorCode.INVALID_RESPONSE_CODE, f"{error} (DSP0274 encapsulated requests)") from error


def deliver_encapsulated_response(r: Responder, request: m.DeliverEncapsulatedResponse, call: Call) -> m.Response:
    """Take the response to our request and give the next request, or say that there is none."""
    pending = _pending(r, call)
    if pending is None or pending.asked is None:
        raise Reject(ErrorCode.UNEXPECTED_REQUEST, "no encapsulated request is out (DSP0274 encapsulated requests)")
    if request.request_id != pending.request_id:
        raise Reject(ErrorCode.INVALID_REQUEST, f"request id {request.request_id}, {pending.request_id} is out")
    m.header(request.inner)
    ended, slot = _advance(r, lambda: pending.deliver(request.inner))
    if not ended and pending.request_id == MAX_REQUESTS:
        violation = PeerViolation(f"more than {MAX_REQUESTS} encapsulated requests", "DSP0274 encapsulated requests")
        ended, slot = _advance(r, lambda: _give_up(pending, violation))
    acknowledged = request.request_id
    if not ended:
        pending.request_id += 1
        return m.EncapsulatedResponseAck(
            request_id=pending.request_id,
            payload_type=PayloadType.NEXT_REQUEST,
            ack_request_id=acknowledged,
            inner=pending.sent,
        )
    r.pending = None
    kind, payload = (PayloadType.NONE, b"") if slot is None else (PayloadType.SLOT, bytes([slot]))
    return m.EncapsulatedResponseAck(request_id=0, payload_type=kind, ack_request_id=acknowledged, inner=payload)


def _give_up(pending: Encapsulation, violation: PeerViolation) -> tuple[bool, int | None]:
    try:
        pending.flow.throw(violation)
    except StopIteration as stop:
        return True, stop.value
    raise violation


def ask_requester(r: Responder, make: Callable[[Counterpart], Flow[Any]], session_id: int | None = None) -> None:
    """Make a flow pending that `make` gives for the asking side; it runs when the requester next fetches a request there.

    With `session_id` it travels in that established session. A mutual authentication that begins first takes its place.
    Raises `Misuse` if there is no such session, another flow is pending, or ENCAP is not negotiated.
    """
    session = r.sessions.get(session_id) if session_id is not None else None
    if session_id is not None and (session is None or session.phase is not SessionPhase.ESTABLISHED):
        raise Misuse(f"there is no established session {session_id:#x}", remedy="wait until one is set up")
    if r.pending is not None:
        raise Misuse("another encapsulated flow is pending", remedy="wait until the requester has answered it")
    if not r.connection.common_capabilities & Capability.ENCAP:
        raise Misuse("ENCAP is not negotiated", remedy="offer it on both sides")
    side = Counterpart.of(r)
    r.pending = Encapsulation(side, _without_slot(make(side)), session_id, session_id, mandatory=False)


def _without_slot(flow: Flow[Any]) -> Flow[int | None]:
    yield from flow
    return None


def hold_up(r: Responder, code: int) -> None:
    """Refuse a request that must wait for the pending flow. GET_VERSION, which ends everything, and chunks need not wait."""
    free = (
        m.GetVersion.CODE,
        m.ChunkSend.CODE,
        m.ChunkGet.CODE,
        m.GetEncapsulatedRequest.CODE,
        m.DeliverEncapsulatedResponse.CODE,
    )
    if r.pending is not None and r.pending.blocks and code not in free:
        raise Reject(
            ErrorCode.REQUEST_IN_FLIGHT, f"{m.name_of(code)} must wait for the encapsulated request (DSP0274 ERROR)"
        )


ENCAPSULATION_HANDLERS: Mapping[int, Callable[[Responder, Any, Call], m.Response]] = {
    m.GetEncapsulatedRequest.CODE: get_encapsulated_request,
    m.DeliverEncapsulatedResponse.CODE: deliver_encapsulated_response,
}
"""Handlers by request code."""
