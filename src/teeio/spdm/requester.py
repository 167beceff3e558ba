"""The requester engine: drives one flow at a time, one input giving one action.

Below a flow sit, in this order: the legality rules (our own misuse), the transcript, the record layer, and the errors a responder
may answer with: Busy and ResponseNotReady are waited for, everything else is raised into the flow (DSP0274, "ERROR").
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from teeio.crypto.entropy import Entropy
from teeio.errors import AuthenticationFailed, DecodeError, ErrorResponse, Misuse, PeerViolation, TeeioError
from teeio.flow import Action, Done, Flow, Send, Wait
from teeio.observe import MessageMoved, Observer, ignore
from teeio.spdm import messages as m
from teeio.spdm.binding import Binding
from teeio.spdm.chunking import Incoming, Outgoing, sequence_fields
from teeio.spdm.constants import Capability, ErrorCode, Version
from teeio.spdm.exchange import Answer, Ask
from teeio.spdm.record import record_header
from teeio.spdm.rules import BY_REQUEST, Place, refusal
from teeio.spdm.state import Connection, Session, SessionPhase, Settings
from teeio.spdm.transcript import Transcript

T = TypeVar("T")
Driver = Generator[Send | Wait, bytes | None, T]

MAX_RETRIES = 8
"""How often one request is repeated on Busy or ResponseNotReady before the requester gives up."""

BUSY_PAUSE = 0.1
"""Seconds to wait after Busy."""

MAX_TRANSPORT_PADDING = 3
"""Bytes of transport padding that may follow a plain message (a DOE data object is padded to 4 bytes)."""


@dataclass(slots=True)
class Requester:
    """One connection to one responder. `start` a flow, then feed `receive` and `wake` until `Done`; errors raise out of them."""

    binding: Binding
    settings: Settings
    entropy: Entropy
    observer: Observer = ignore
    name: str = "requester"
    peer: str = "responder"
    connection: Connection = field(default_factory=Connection)
    transcript: Transcript = field(default_factory=Transcript)
    sessions: dict[int, Session] = field(default_factory=dict)
    chains: dict[int, bytes] = field(default_factory=dict)
    now: float = 0.0
    _driver: Driver[Any] | None = None
    _handle_number: int = 0

    # -- engine ---------------------------------------------------------------------------------------------------------

    def start(self, flow: Flow[T], now: float = 0.0, session: int | None = None) -> Action:
        """Begin `flow`; `session` is where its requests travel unless it says otherwise."""
        if self._driver is not None:
            raise Misuse("a flow is under way", remedy="finish it, or abandon it with cancel()")
        self.now = now
        self._driver = self.drive(flow, session)
        return self._step(None)

    def receive(self, frame: bytes, now: float = 0.0) -> Action:
        """Take the peer's frame that answers the last `Send`."""
        self.now = now
        return self._step(frame)

    def wake(self, now: float) -> Action:
        """Go on after a `Wait`."""
        self.now = now
        return self._step(None)

    def cancel(self) -> None:
        """Abandon the flow under way."""
        if self._driver is not None:
            self._driver.close()
            self._driver = None

    def _step(self, value: bytes | None) -> Action:
        if self._driver is None:
            raise Misuse("no flow is under way", remedy="call start() first")
        try:
            return self._driver.send(value)
        except StopIteration as stop:
            self._driver = None
            return Done(stop.value)
        except BaseException:
            self._driver = None
            raise

    def drive(self, flow: Flow[T], session: int | None = None) -> Driver[T]:
        """Run `flow` as a generator of actions: it yields `Send` or `Wait` and is sent the peer's frames."""
        try:
            asked = next(flow)
            while True:
                try:
                    answer = yield from self._exchange(asked, session)
                except TeeioError as error:
                    asked = flow.throw(error)
                else:
                    asked = flow.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    # -- one exchange ---------------------------------------------------------------------------------------------------

    def session(self, session_id: int) -> Session:
        """Give a live session. Raises `Misuse`."""
        found = self.sessions.get(session_id)
        if found is None:
            raise Misuse(f"there is no session {session_id:#x}", remedy="start one with key_exchange")
        return found

    def drop_session(self, session_id: int, cause: str) -> None:
        """Forget a session and its keys."""
        gone = self.sessions.pop(session_id, None)
        self.transcript.forget_measurements(session_id)
        if gone is not None:
            gone.move(SessionPhase.ENDED, cause)

    def _exchange(self, asked: Ask, default_session: int | None) -> Driver[Answer[Any]]:
        session_id = asked.session if asked.session is not None else default_session
        request = asked.request
        session = self.session(session_id) if session_id is not None else None
        self._check_legal(request.CODE, session)
        facts = self.connection.facts
        sent = request.encode(facts)
        self._check_size(request.NAME, sent)
        self.transcript.begin(request.CODE, session_id)
        received = yield from self._patiently(request.CODE, sent, session)
        error = self._error(received, request)
        if error is not None:
            self.transcript.end(request.CODE, sent, None, session_id)
            raise error
        response, used = self._decode(request, received, secured=session is not None)
        self.transcript.end(request.CODE, sent, received[:used], session_id)
        return Answer(response, sent, received[:used])

    def _check_legal(self, code: int, session: Session | None) -> None:
        place = session.place if session else Place.OUTSIDE
        c = self.connection
        why = refusal(code, c.version, c.phase, place, c.responder_capabilities, c.requester_capabilities)
        if why is not None:
            clause = BY_REQUEST[code].clause if code in BY_REQUEST else "DSP0274 request codes"
            raise Misuse(f"{m.name_of(code)} cannot be sent now: {why.value} ({clause})")

    def _patiently(self, code: int, sent: bytes, session: Session | None) -> Driver[bytes]:
        """Send and receive, waiting out Busy and ResponseNotReady."""
        outgoing = sent
        for _ in range(MAX_RETRIES):
            received = yield from self._transfer(outgoing, session)
            if m.header(received).code != m.Error.CODE:
                return received
            error = m.Error.decode(received, _error_facts(received))
            if error.error_code == ErrorCode.BUSY:
                yield Wait(self.now + BUSY_PAUSE)
                outgoing = sent
            elif error.error_code == ErrorCode.RESPONSE_NOT_READY:
                details, _ = m.ResponseNotReady.decode_prefix(error.extended)
                if details.request_code != code:
                    raise PeerViolation("ResponseNotReady names another request", "DSP0274 ResponseNotReady")
                yield Wait(self.now + 2 ** min(details.rdt_exponent, 31) * 1e-6)
                again = m.RespondIfReady(original_request_code=code, token=details.token)
                outgoing = again.encode(self.connection.facts)
            else:
                return received
        raise ErrorResponse(
            f"{self.peer} was not ready after {MAX_RETRIES} tries of {m.name_of(code)}",
            ErrorCode.BUSY,
            remedy="try later",
        )

    def _check_size(self, name: str, message: bytes) -> None:
        connection = self.connection
        chunks = connection.common_capabilities & Capability.CHUNK
        limit = connection.peer_max_message_size if chunks else connection.peer_data_transfer_size
        if limit and len(message) > limit:
            raise Misuse(f"{name} has {len(message)} bytes, {self.peer} takes {limit}", remedy="send less")

    def _transfer(self, message: bytes, session: Session | None) -> Driver[bytes]:
        """Send and receive, in chunks where a message is larger than a side takes at once."""
        limit = self.connection.peer_data_transfer_size
        if limit and len(message) > limit:
            received = yield from self._send_chunks(message, limit, session)
        else:
            received = yield from self._round_trip(message, session)
        header = m.header(received)
        if (header.code, header.param1) != (m.Error.CODE, ErrorCode.LARGE_RESPONSE):
            return received
        handle = m.Error.decode(received, _error_facts(received)).extended[:1]
        if not handle or not self.connection.common_capabilities & Capability.CHUNK:
            raise PeerViolation("LargeResponse without a handle or without CHUNK", "DSP0274 LargeResponse")
        return (yield from self._get_chunks(handle[0], session))

    def _send_chunks(self, message: bytes, limit: int, session: Session | None) -> Driver[bytes]:
        version = self.connection.version
        self._handle_number = (self._handle_number + 1) & 0xFF
        outgoing = Outgoing(message, self._handle_number, limit)
        while True:
            piece = outgoing.next()
            number = sequence_fields(version, piece.number)
            request = m.ChunkSend(
                last=int(piece.last),
                handle=outgoing.handle,
                large_message_size=piece.size,
                chunk=piece.chunk,
                **number,
            )
            received = yield from self._round_trip(request.encode(self.connection.facts), session)
            if m.header(received).code == m.Error.CODE:
                return received
            ack, _ = m.ChunkSendAck.decode_prefix(received, self.connection.facts)
            if (ack.handle, sequence_fields(version, ack.sequence or ack.large_sequence)) != (outgoing.handle, number):
                raise PeerViolation("CHUNK_SEND_ACK does not echo handle and sequence number", "DSP0274 CHUNK_SEND_ACK")
            if piece.last or ack.early_error:
                return ack.response

    def _get_chunks(self, handle: int, session: Session | None) -> Driver[bytes]:
        version = self.connection.version
        incoming = Incoming(handle, version, self.settings.max_message_size)
        while True:
            request = m.ChunkGet(handle=handle, **sequence_fields(version, incoming.number))
            received = yield from self._round_trip(request.encode(self.connection.facts), session)
            if m.header(received).code == m.Error.CODE:
                return received
            piece, _ = m.ChunkResponse.decode_prefix(received, self.connection.facts)
            number = piece.sequence or piece.large_sequence
            incoming.add(piece.handle, number, piece.chunk, piece.large_message_size, last=bool(piece.last))
            if piece.last:
                return bytes(incoming.data)

    def _round_trip(self, message: bytes, session: Session | None) -> Driver[bytes]:
        self.observer(_moved(self.name, self.peer, message, session))
        if session is None:
            frame = self.binding.wrap(message, secured=False)
        else:
            record = session.request_key.seal(
                session.session_id, message, self.binding, self.entropy, encrypted=session.encrypted
            )
            frame = self.binding.wrap(record, secured=True)
        answer = yield Send(frame)
        if answer is None:
            raise Misuse("wake() came while a response was awaited", remedy="call receive()")
        received, secured = self.binding.unwrap(answer)
        if secured:
            received = self._open(received, session)
        elif session is not None and m.header(received).code != m.Error.CODE:
            raise PeerViolation(
                f"{m.name_of(m.header(received).code)} came unprotected in session {session.session_id:#x}", "DSP0277"
            )
        self.observer(_moved(self.peer, self.name, received, session if secured else None))
        return received

    def _open(self, record: bytes, session: Session | None) -> bytes:
        header = record_header(record, self.binding)
        if session is None or header.session_id != session.session_id:
            raise PeerViolation(f"a record of session {header.session_id:#x} came unasked", "DSP0277")
        try:
            try:
                return session.response_key.open(record, self.binding, encrypted=session.encrypted)
            except AuthenticationFailed:
                # An ERROR to UpdateAllKeys still comes under the response key before the update.
                if session.previous_key is None:
                    raise
                return session.previous_key.open(record, self.binding, encrypted=session.encrypted)
        except (AuthenticationFailed, DecodeError):
            self.drop_session(session.session_id, "a record did not verify")
            raise

    def _error(self, received: bytes, request: m.Request[Any]) -> ErrorResponse | None:
        header = m.header(received)
        if header.code != m.Error.CODE:
            return None
        name = (
            ErrorCode(header.param1).name if header.param1 in ErrorCode._value2member_map_ else f"{header.param1:#04x}"
        )
        return ErrorResponse(
            f"{self.peer} answered {request.NAME} with ERROR {name}, data {header.param2:#04x}",
            header.param1,
            header.param2,
        )

    def _decode(self, request: m.Request[Any], received: bytes, *, secured: bool) -> tuple[m.Response, int]:
        expected = request.response_class()
        header = m.header(received)
        if header.code != expected.CODE:
            raise PeerViolation(f"{m.name_of(header.code)} came in answer to {request.NAME}", "DSP0274 response codes")
        version = Version.V1_0 if request.CODE == m.GetVersion.CODE else self.connection.version
        if header.version != version:
            raise PeerViolation(
                f"{expected.NAME} carries SPDMVersion {header.version:#04x}, {version:#04x} is in use",
                "DSP0274 SPDMVersion",
            )
        response, used = expected.decode_prefix(received, self.connection.facts.answering(request))
        if len(received) - used > (0 if secured else MAX_TRANSPORT_PADDING):
            raise DecodeError(expected.NAME, "(end)", used, f"{len(received) - used} trailing bytes")
        return response, used

    def agreed(self, **changes: object) -> None:
        """Record what a negotiation flow has agreed on."""
        self.connection = replace(self.connection, **changes)  # type: ignore[arg-type]


def _error_facts(received: bytes) -> m.Facts:
    return m.Facts(version=m.header(received).version)


def _moved(source: str, target: str, message: bytes, session: Session | None) -> MessageMoved:
    code = message[1] if len(message) > 1 else 0
    return MessageMoved(source, target, "SPDM", m.name_of(code), len(message), session.session_id if session else None)
