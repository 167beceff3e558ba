"""The requester engine: drives one flow at a time, one input giving one action.

Below a flow sit, in this order: the legality rules (our own misuse), the transcript, the record layer, and the errors a responder
may answer with: Busy and ResponseNotReady are waited for, everything else is raised into the flow (DSP0274, "ERROR").
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from teeio.crypto.entropy import Entropy
from teeio.crypto.keys import Asym, PublicKey
from teeio.errors import AuthenticationFailed, DecodeError, ErrorResponse, Misuse, PeerViolation, TeeioError
from teeio.flow import Action, Done, Flow, Send, Wait
from teeio.observe import Observer, ignore
from teeio.spdm import messages as m
from teeio.spdm.algorithm_rules import check_provided
from teeio.spdm.asking import check_legal, decode_answer, error_answer
from teeio.spdm.binding import Binding
from teeio.spdm.chunking import Incoming, Outgoing, sequence_fields
from teeio.spdm.constants import Capability, ErrorCode
from teeio.spdm.device_state import Identity, Slot, identity_for
from teeio.spdm.events import Events, subscriber
from teeio.spdm.exchange import Answer, Ask
from teeio.spdm.key_update import NEVER_DELAYED, renew_if_due
from teeio.spdm.negotiation import known_flags
from teeio.spdm.record import record_header
from teeio.spdm.rules import Phase
from teeio.spdm.state import Connection, Session, SessionPhase, Settings, tell_of
from teeio.spdm.transcript import Transcript

T = TypeVar("T")
Driver = Generator[Send | Wait, bytes | None, T]

MAX_RETRIES = 8
"""How often one request is repeated on Busy or ResponseNotReady before the requester gives up."""

BUSY_PAUSE = 0.1
"""Seconds to wait after Busy."""

MAX_WAIT = 60.0
"""Seconds that Busy and ResponseNotReady may delay one request altogether; a peer could ask for 36 minutes each time."""


@dataclass(slots=True)
class Requester:
    """One connection to one responder. `start` a flow, then feed `receive` and `wake` until `Done`; errors raise out of them.

    `peer_keys` are public keys of a responder with PUB_KEY_ID, one for each algorithm: to be given is to be trusted.
    """

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
    models: dict[int, int] = field(default_factory=dict, kw_only=True)
    identities: Sequence[Identity] = field(default=(), kw_only=True)
    peer_keys: Sequence[PublicKey] = field(default=(), kw_only=True)
    events: Events | None = field(default=None, repr=False, kw_only=True)
    device_classes: tuple[m.DeviceClass, ...] = field(default=(), repr=False, kw_only=True)
    preserved: Connection | None = field(default=None, repr=False, kw_only=True)
    """With CACHE, what the last END_SESSION preserved on both sides: what `flows.resume` begins with."""
    events_connection: int = field(default=0, init=False, repr=False)
    now: float = 0.0
    _driver: Driver[Any] | None = None
    _handle_number: int = 0
    _default_session: int | None = None

    def __post_init__(self) -> None:
        settings = self.settings
        check_provided(settings)
        if self.events is not None:
            self.events_connection = self.events.connection()
        for flag in settings.capabilities & (Capability.CERT | Capability.PUB_KEY_ID):
            if not any(identity.suits(settings.capabilities) for identity in self.identities):
                raise Misuse(f"{flag.name} is offered without an identity", remedy="give the requester identities")
        self.settings = replace(
            settings,
            req_base_asym=tuple(a for a in settings.req_base_asym if self._identity_for(a)),
            req_pqc_asym=tuple(a for a in settings.req_pqc_asym if self._identity_for(a)),
        )

    def _identity_for(self, algorithm: Asym) -> Identity | None:
        return identity_for(self.identities, algorithm, self.settings.capabilities)

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
        self._default_session = session
        return (yield from self._run(flow))

    def _run(self, flow: Flow[T]) -> Driver[T]:
        try:
            asked = next(flow)
            while True:
                try:
                    answer = yield from self._exchange(asked)
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
        if self.events is not None:
            self.events.session_ended(subscriber(self.events_connection, session_id))
        if gone is not None:
            gone.move(SessionPhase.ENDED, cause)

    def forget(self, cause: str) -> None:
        """Forget the connection with its sessions and chains: negotiation must begin anew."""
        self.connection = Connection()
        for session_id in list(self.sessions):
            self.drop_session(session_id, cause)
        self.chains.clear()
        self.models.clear()

    def travels_in(self, session_id: int | None) -> int | None:
        """Give the session in which a flow's request travels that asks for `session_id`: the engine's default if that is None."""
        return session_id if session_id is not None else self._default_session

    def _exchange(self, asked: Ask) -> Driver[Answer[Any]]:
        session_id = self.travels_in(asked.session)
        request = asked.request
        session = self.session(session_id) if session_id is not None else None
        check_legal(self.connection, request.CODE, session.place if session else self.connection.outside)
        if session is not None and request.CODE not in NEVER_DELAYED:
            yield from self._run(renew_if_due(self, session))
        facts = self.connection.facts
        sent = request.encode(facts)
        self._check_size(request.NAME, sent)
        self.transcript.begin(request.CODE, session_id)
        received = yield from self._patiently(request.CODE, sent, session)
        error = error_answer(self.peer, request, received)
        if error is not None:
            self.transcript.end(request.CODE, sent, None, session_id)
            if error.code == ErrorCode.REQUEST_RESYNCH:
                self.forget("the responder asks for GET_VERSION")
            raise error
        padding = 0 if session is not None else self.binding.max_transport_padding
        response, used = decode_answer(self.connection, request, received, padding)
        self.transcript.end(request.CODE, sent, received[:used], session_id)
        return Answer(response, sent, received[:used])

    def _patiently(self, code: int, sent: bytes, session: Session | None) -> Driver[bytes]:
        """Send and receive, waiting out Busy and ResponseNotReady."""
        outgoing, waited = sent, 0.0
        for _ in range(MAX_RETRIES):
            received = yield from self._transfer(outgoing, session)
            if m.header(received).code != m.Error.CODE:
                return received
            error = m.Error.decode(received, _error_facts(received))
            if error.error_code == ErrorCode.BUSY:
                waited = yield from self._wait(BUSY_PAUSE, waited, code)
                outgoing = sent
            elif error.error_code == ErrorCode.RESPONSE_NOT_READY:
                details, _ = m.ResponseNotReady.decode_prefix(error.extended)
                if details.request_code != code:
                    raise PeerViolation("ResponseNotReady names another request", "DSP0274 ResponseNotReady")
                waited = yield from self._wait(2 ** min(details.rdt_exponent, 31) * 1e-6, waited, code)
                again = m.RespondIfReady(original_request_code=code, token=details.token)
                outgoing = again.encode(self.connection.facts)
            else:
                return received
        raise self._not_ready(code, f"after {MAX_RETRIES} tries")

    def _wait(self, pause: float, waited: float, code: int) -> Driver[float]:
        if waited + pause > MAX_WAIT:
            raise self._not_ready(code, f"within {MAX_WAIT:g} s")
        yield Wait(self.now + pause)
        return waited + pause

    def _not_ready(self, code: int, when: str) -> ErrorResponse:
        return ErrorResponse(
            f"{self.peer} was not ready {when} for {m.name_of(code)}", ErrorCode.BUSY, remedy="try later"
        )

    def _check_size(self, name: str, message: bytes) -> None:
        limit = self.connection.peer_message_limit
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
        if not handle or not self._takes_chunks:
            raise PeerViolation("LargeResponse without a handle or without CHUNK", "DSP0274 LargeResponse")
        return (yield from self._get_chunks(handle[0], session))

    @property
    def _takes_chunks(self) -> bool:
        """Tell whether an answer may come in chunks. Before CAPABILITIES, which may itself be too large, the peer goes by what we told."""
        c = self.connection
        known = c.phase >= Phase.CAPABILITIES_DONE
        flags = c.common_capabilities if known else known_flags(self.settings.capabilities, c.version)
        return bool(flags & Capability.CHUNK)

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
        tell_of(message, self.observer, self.name, self.peer, session)
        if session is None:
            frame = self.binding.wrap(message, secured=False)
        else:
            record = session.request_key.seal(
                session.session_id, message, self.binding, self.entropy, encrypted=session.encrypted
            )
            frame = self.binding.wrap(record, secured=True)
        if session is None:
            received = yield from self._answer_to(frame, None)
        else:
            received = yield from self._protected_answer_to(frame, session)
        tell_of(received, self.observer, self.peer, self.name, session)
        return received

    def _answer_to(self, frame: bytes, session: Session | None) -> Driver[bytes]:
        answer = yield Send(frame)
        if answer is None:
            raise Misuse("wake() came while a response was awaited", remedy="call receive()")
        received, secured = self.binding.unwrap(answer)
        if secured:
            return self._open(received, session)
        if session is not None:
            header = m.header(received)
            error = f", data {header.param1:#04x} {header.param2:#04x}" if header.code == m.Error.CODE else ""
            raise PeerViolation(
                f"{m.name_of(header.code)} came unprotected in session {session.session_id:#x}{error}",
                "DSP0277",
                remedy="start a new session: this one has ended here, whoever sent that",
            )
        return received

    def _protected_answer_to(self, frame: bytes, session: Session) -> Driver[bytes]:
        """Get the answer within a session, or end the session.

        The keys' sequence numbers are in step only while every request has had its answer. Were the session to live on without one,
        whoever carries the bytes could hand us each answer one request late (DSP0277 leaves the session no way to notice).
        """
        answered = False
        try:
            received = yield from self._answer_to(frame, session)
            answered = True
        finally:
            if not answered:
                self.drop_session(session.session_id, "a request had no protected answer")
        return received

    def _open(self, record: bytes, session: Session | None) -> bytes:
        header = record_header(record, self.binding)
        if session is None or header.session_id != session.session_id:
            raise PeerViolation(f"a record of session {header.session_id:#x} came unasked", "DSP0277")
        try:
            return self._opened(record, session)
        except (AuthenticationFailed, DecodeError):
            self.drop_session(session.session_id, "a record did not verify")
            raise

    def _opened(self, record: bytes, session: Session) -> bytes:
        try:
            message = session.response_key.open(record, self.binding, encrypted=session.encrypted)
        except AuthenticationFailed:
            # A responder that refuses the update says so under the response key before it, and says nothing else.
            if session.previous_key is None:
                raise
            message = session.previous_key.open(record, self.binding, encrypted=session.encrypted)
            if message[1:2] != bytes([m.Error.CODE]):
                raise AuthenticationFailed(
                    "a record came under the key before the update (DSP0274 KEY_UPDATE)"
                ) from None
            return message
        session.previous_key = None
        return message

    def signing_slot(self, slot: int) -> Slot:
        """Give our own slot of the algorithm negotiated for the requester. Raises `Misuse`."""
        identity = self._identity_for(self.connection.req_asym)
        if identity is None or slot not in identity.slots:
            raise Misuse(f"we have no identity in slot {slot} to sign with", remedy="give the requester identities")
        return identity.slots[slot]

    def agreed(self, **changes: object) -> None:
        """Record what a negotiation flow has agreed on."""
        self.connection = replace(self.connection, **changes)  # type: ignore[arg-type]


def _error_facts(received: bytes) -> m.Facts:
    return m.Facts(version=m.header(received).version)
