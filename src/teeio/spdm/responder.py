"""The responder engine: one frame in, one frame or nothing out. It never raises on what a peer sends.

What admits a request is in `admission`; then comes its layout, then its handler, which refuses with `Reject`. Handlers are in
`handlers`; this file holds what is common to all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from teeio.crypto.entropy import Entropy
from teeio.crypto.keys import Asym
from teeio.errors import AuthenticationFailed, DecodeError, Misuse, Reject, TeeioError
from teeio.observe import Observer, Refused, ignore
from teeio.spdm import messages as m
from teeio.spdm.admission import admit
from teeio.spdm.algorithm_rules import check_provided
from teeio.spdm.binding import ApplicationHandler, Binding, OtherApplication
from teeio.spdm.call import Call, NotReady, Silence
from teeio.spdm.chunking import CHUNK_CODES, LargeMessages, Outgoing
from teeio.spdm.constants import Capability, ErrorCode, KeyUpdateOperation, Version
from teeio.spdm.device_state import DeviceMeasurements, Identity, KeyUsage, Slot, identity_for
from teeio.spdm.encapsulation import ENCAPSULABLE, Encapsulation, Wish
from teeio.spdm.error_rules import in_version
from teeio.spdm.events import Events, subscriber
from teeio.spdm.handlers import HANDLERS
from teeio.spdm.negotiation import check_responder_flags
from teeio.spdm.postponed import Postponed, resumed
from teeio.spdm.provisioning import EVERY_USE, Provisioning
from teeio.spdm.record import record_header, room
from teeio.spdm.rules import BY_REQUEST, Phase
from teeio.spdm.state import (
    RESPONDER_CAPABILITIES,
    Connection,
    Session,
    SessionPhase,
    Settings,
    tell_of,
)
from teeio.spdm.transcript import Transcript
from teeio.spdm.vendor import VendorProtocol

if TYPE_CHECKING:
    from teeio.spdm.mutual import MutualAuthentication

_ACK_SIZE = 8
"""Bytes of CHUNK_SEND_ACK before the response that it carries, in the larger form of 1.4."""


@dataclass(slots=True)
class Responder:
    """One responder on one transport connection."""

    binding: Binding
    identities: Sequence[Identity]
    measurements: DeviceMeasurements
    entropy: Entropy
    settings: Settings = field(default_factory=lambda: Settings(capabilities=RESPONDER_CAPABILITIES))
    vendor_protocols: Sequence[VendorProtocol] = ()
    psks: Mapping[bytes, bytes] = field(default_factory=dict, repr=False, kw_only=True)
    mutual: MutualAuthentication | None = field(default=None, repr=False, kw_only=True)
    application: ApplicationHandler | None = field(default=None, repr=False, kw_only=True)
    provisioning: Provisioning | None = field(default=None, repr=False, kw_only=True)
    events: Events | None = field(default=None, repr=False, kw_only=True)
    device_classes: tuple[m.DeviceClass, ...] = field(default=(), repr=False, kw_only=True)
    wishes: Sequence[Wish] = field(default=(), repr=False, kw_only=True)
    observer: Observer = ignore
    name: str = "responder"
    peer: str = "requester"
    connection: Connection = field(default_factory=Connection)
    transcript: Transcript = field(default_factory=Transcript)
    sessions: dict[int, Session] = field(default_factory=dict)
    large: LargeMessages = field(default_factory=LargeMessages, init=False, repr=False)
    pending: Encapsulation | None = field(default=None, init=False, repr=False)
    _handle_number: int = field(default=0, init=False)
    events_connection: int | None = field(default=None, repr=False, kw_only=True)
    """The number that `events` has given this connection; None asks for one."""
    preserved: Connection | None = field(default=None, init=False, repr=False)
    """With CACHE, what END_SESSION asked to preserve: the `connection` of the next responder, whose transcript begins empty.

    PSK_EXCHANGE right after VERSION takes it up as well, as the DMTF reference starts such sessions (UNCONFIRMED in DSP0274's text).
    """
    _postponed: Postponed | None = field(default=None, init=False, repr=False)
    _token: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_provided(self.settings)
        if self.events is not None and self.events_connection is None:
            self.events_connection = self.events.connection()
        if self.provisioning is not None:
            # What SET_CERTIFICATE writes is what every connection sees from then on.
            self.identities = self.provisioning.identities
        base_asym = tuple(algorithm for algorithm in self.settings.base_asym if self._identity_for(algorithm))
        pqc_asym = tuple(algorithm for algorithm in self.settings.pqc_asym if self._identity_for(algorithm))
        if not self.connection.encapsulated:
            check_responder_flags(self.settings)
            if not base_asym and not pqc_asym:
                raise Misuse(
                    "no identity for any offered signature algorithm",
                    remedy="give one for each algorithm offered: certificate chains with CERT, a public key with PUB_KEY_ID",
                )
        self.settings = replace(self.settings, base_asym=base_asym, pqc_asym=pqc_asym)

    def _identity_for(self, algorithm: Asym) -> Identity | None:
        return identity_for(self.identities, algorithm, self.settings.capabilities)

    # -- engine ---------------------------------------------------------------------------------------------------------

    def respond(self, frame: bytes, now: float = 0.0) -> bytes | None:
        """Answer a transport frame; None when there is nothing to say."""
        self.expire(now)
        try:
            message, secured = self.binding.unwrap(frame)
        except DecodeError as error:
            self.observer(Refused(self.name, "a frame", str(error)))
            return None
        if secured:
            return self._respond_secured(message, now)
        self._saw(message, None)
        call = Call(message, None, now)
        answer = self._answer(call)
        if call.after is not None:
            call.after()
        return None if answer is None else self.binding.wrap(self._said(answer, None), secured=False)

    def _respond_secured(self, record: bytes, now: float) -> bytes | None:
        try:
            session = self.sessions.get(record_header(record, self.binding).session_id)
        except DecodeError as error:
            self.observer(Refused(self.name, "a record", str(error)))
            return None
        if session is None:
            # Nothing can protect the answer: DSP0277 leaves an unprotected ERROR.
            return self.binding.wrap(self._error(ErrorCode.INVALID_SESSION, 0), secured=False)
        try:
            message = self._open(session, record)
        except OtherApplication as other:
            session.last_seen = now
            return self._answer_other(session, other)
        except (AuthenticationFailed, DecodeError) as error:
            self.observer(Refused(self.name, f"a record of session {session.session_id:#x}", str(error)))
            answer = self._protected(session, self._error(ErrorCode.DECRYPT_ERROR, 0))
            self.end_session(session.session_id, "a record did not verify")
            return answer
        session.last_seen = now
        self._saw(message, session)
        call = Call(message, session, now)
        answered = self._answer(call)
        sealed = None if answered is None else self._protected(session, self._said(answered, session))
        if call.after is not None:
            call.after()
        return sealed

    def _answer_other(self, session: Session, other: OtherApplication) -> bytes | None:
        """Answer a message of another protocol that came in a session, if there is anybody who speaks it."""
        taken = self.application is not None and session.phase is SessionPhase.ESTABLISHED
        answer = self.application(other.data) if taken and self.application is not None else None
        if answer is None:
            self.observer(Refused(self.name, "a message that is not SPDM", str(other)))
            return None
        return self._protected(session, answer, application=True)

    def _protected(self, session: Session, message: bytes, *, application: bool = False) -> bytes | None:
        """Seal an answer; a session that cannot carry it ends."""
        try:
            return self._seal(session, message, application=application)
        except Misuse as error:
            self.observer(Refused(self.name, f"session {session.session_id:#x}", str(error)))
            self.end_session(session.session_id, "an answer could not be protected")
            return None

    def _open(self, session: Session, record: bytes) -> bytes:
        try:
            message = session.request_key.open(record, self.binding, encrypted=session.encrypted)
        except AuthenticationFailed:
            # Until the requester uses the new key it may repeat the KEY_UPDATE under the key before, and say nothing else.
            if session.previous_key is None:
                raise
            try:
                message = session.previous_key.open(record, self.binding, encrypted=session.encrypted)
            except OtherApplication:
                message = b""
            if message[1:2] != bytes([m.KeyUpdate.CODE]) or message[2:3] == bytes([KeyUpdateOperation.VERIFY_NEW_KEY]):
                raise AuthenticationFailed(
                    "a record came under the key before the update (DSP0274 KEY_UPDATE)"
                ) from None
            return message
        session.previous_key = None
        return message

    def _seal(self, session: Session, message: bytes, *, application: bool = False) -> bytes:
        record = session.response_key.seal(
            session.session_id,
            message,
            self.binding,
            self.entropy,
            encrypted=session.encrypted,
            application=application,
        )
        return self.binding.wrap(record, secured=True)

    def _answer(self, call: Call) -> bytes | None:
        """Answer one message, protected or not. Every refusal becomes an ERROR here and nowhere else."""
        try:
            code = admit(self, call)
        except (Reject, TeeioError) as error:
            return self.refuse(call, _as_reject(error))
        try:
            request = self._decoded(code, call)
            if isinstance(request, m.RespondIfReady):
                return self._resume(request, call)
            # Only what is a request at all resets anything.
            self.transcript.begin(code, call.session_id)
            if code not in CHUNK_CODES:
                self._postponed = None
            response = HANDLERS[code](self, request, call)
            encoded = response.encode(self.connection.facts.answering(request))
            sendable = self._sendable(encoded, call)
        except Silence:
            return None
        except NotReady as wait:
            return self._postpone(call, wait.until)
        except (Reject, TeeioError) as error:
            self.transcript.end(code, call.request, None, call.session_id)
            return self.refuse(call, _as_reject(error))
        self.transcript.end(code, call.request, encoded, call.session_id)
        return sendable

    def _postpone(self, call: Call, until: float) -> bytes:
        """Keep a request until its response is ready; neither the ERROR nor RESPOND_IF_READY enters a transcript."""
        self._token = (self._token + 1) & 0xFF
        self._postponed = Postponed(call.request, call.session_id, self._token, until)
        return self.refuse(call, self._postponed.refusal(call.now))

    def _resume(self, request: m.RespondIfReady, call: Call) -> bytes | None:
        """Answer RESPOND_IF_READY with the response to the request that waits, or refuse."""
        original = resumed(self._postponed, request, call)
        self._postponed = None
        answer = self._answer(original)
        call.after = original.after
        return answer

    def answer_large(self, message: bytes, call: Call) -> bytes:
        """Answer a request that came in chunks, as far as the answer fits behind a CHUNK_SEND_ACK."""
        inner = Call(message, call.session, call.now, in_one_transfer=False)
        if len(message) > 1 and message[1] in CHUNK_CODES:
            return self.refuse(
                inner, Reject(ErrorCode.UNEXPECTED_REQUEST, "a chunk inside chunks (DSP0274 CHUNK_SEND)")
            )
        answer = self._answer(inner)
        call.after = inner.after
        if answer is None:
            raise Silence
        return answer if len(answer) + _ACK_SIZE <= self._limit(call) else self._large_response(answer, call)

    def large_at(self, call: Call) -> LargeMessages:
        """Give the large messages of the place where a request came in."""
        return call.session.large if call.session else self.large

    def answer_encapsulated(self, message: bytes, session: Session | None, now: float) -> bytes:
        """Answer a request that the peer has encapsulated; this side is then a requester (see `flows.encapsulated`)."""
        call = Call(message, session, now, in_one_transfer=False)
        if len(message) > 1 and message[1] not in ENCAPSULABLE:
            why = "it cannot be encapsulated (DSP0274 encapsulated requests)"
            return self.refuse(call, Reject(ErrorCode.UNSUPPORTED_REQUEST, why, message[1]))
        answer = self._answer(call)
        if call.after is not None:
            call.after()
        return answer if answer is not None else self._error(ErrorCode.UNSPECIFIED, 0)

    def _limit(self, call: Call) -> int:
        """Give the bytes that one answer may have: what the peer takes at once, and what a frame or a record holds."""
        carried = self.binding.max_message if call.session is None else room(self.binding)
        return min(self.connection.peer_data_transfer_size or carried, carried)

    def _sendable(self, encoded: bytes, call: Call) -> bytes:
        """Give the response, or LargeResponse if it must be fetched in chunks, or refuse it as too large."""
        if len(encoded) <= self._limit(call):
            return encoded
        chunks = self.connection.common_capabilities & Capability.CHUNK
        if chunks and len(encoded) <= self.connection.peer_max_message_size:
            return self._large_response(encoded, call)
        raise Reject(
            ErrorCode.RESPONSE_TOO_LARGE, "DSP0274 DataTransferSize", extended=len(encoded).to_bytes(4, "little")
        )

    def _large_response(self, encoded: bytes, call: Call) -> bytes:
        self._handle_number = (self._handle_number + 1) & 0xFF
        self.large_at(call).outgoing = Outgoing(encoded, self._handle_number, self._limit(call))
        return self._error(ErrorCode.LARGE_RESPONSE, 0, bytes([self._handle_number]))

    def refuse(self, call: Call, reject: Reject) -> bytes:
        """Make the ERROR of a refusal and tell why."""
        call.after = None
        reject = in_version(reject, self.connection.version)
        if call.before is not None:
            self.connection, call.before = call.before, None
        name = m.name_of(call.request[1]) if len(call.request) > 1 else "a message"
        self.observer(Refused(self.name, name, reject.clause))
        version = call.request[0] if call.request[:1] and self.connection.phase is Phase.START else None
        return self._error(reject.code, reject.data, reject.extended, version)

    def exceeds_transfer(self, call: Call, padding: int = 0) -> bool:
        """Tell whether a request is larger than the DataTransferSize (1.2) that this side has told."""
        limit = self.settings.data_transfer_size + padding
        return self.connection.version >= Version.V1_2 and call.in_one_transfer and len(call.request) > limit

    def _decoded(self, code: int, call: Call) -> m.Request[m.Response]:
        facts = self.connection.facts
        if code == m.GetCapabilities.CODE:
            facts = facts._replace(version=call.request[0])
        request, used = BY_REQUEST[code].request.decode_prefix(call.request, facts)
        if len(call.request) - used > (self.binding.max_transport_padding if call.session is None else 0):
            raise DecodeError(request.NAME, "(end)", used, f"{len(call.request) - used} trailing bytes")
        call.request = call.request[:used]
        return request

    def _error(self, code: int, data: int, extended: bytes = b"", version: int | None = None) -> bytes:
        known = self.connection.version if self.connection.phase is not Phase.START else version
        facts = m.Facts(version=known if known in tuple(Version) else Version.V1_0)
        return m.Error(error_code=code, error_data=data, extended=extended).encode(facts)

    # -- what handlers use ----------------------------------------------------------------------------------------------

    def agreed(self, **changes: object) -> None:
        """Record what negotiation has agreed on."""
        self.connection = replace(self.connection, **changes)  # type: ignore[arg-type]

    @property
    def identity(self) -> Identity:
        """The identity of the negotiated signature algorithm, or a refusal if none was negotiated."""
        found = self._identity_for(self.connection.asym)
        if found is None:
            raise Reject(ErrorCode.INVALID_REQUEST, "no signature algorithm was negotiated (DSP0274 ALGORITHMS)")
        return found

    def slot(self, number: int) -> Slot:
        """Give a provisioned slot of the negotiated algorithm, or refuse."""
        slots = self.identity.slots
        if number not in slots:
            raise Reject(ErrorCode.INVALID_REQUEST, f"slot {number} is not provisioned (DSP0274 SlotID)")
        return slots[number]

    def key_usage(self, slot: Slot) -> KeyUsage:
        """Give what the key of a slot may be used for: everything where keys have no numbers."""
        return self.provisioning.usage(slot) if self.provisioning and slot.key_pair_id else EVERY_USE

    def event_key(self, session_id: int) -> int:
        """Give the number by which `events` knows a session of this connection."""
        return subscriber(self.events_connection or 0, session_id)

    def reset(self, cause: str) -> None:
        """Forget the connection: GET_VERSION, or the transport has gone."""
        for session_id in list(self.sessions):
            self.end_session(session_id, cause)
        self.connection = Connection()
        self.large.abandon()
        self.pending = None

    def end_session(self, session_id: int, cause: str) -> None:
        """End a session and tell the vendor protocols, whose state hangs on it."""
        session = self.sessions.pop(session_id, None)
        if session is None:
            return
        self.transcript.forget_measurements(session_id)
        if self.pending is not None and self.pending.belongs_to == session_id:
            self.pending = None
        if self.events is not None:
            self.events.session_ended(self.event_key(session_id))
        session.move(SessionPhase.ENDED, cause)
        for protocol in self.vendor_protocols:
            protocol.session_ended(session_id)

    def expire(self, now: float) -> None:
        """End the sessions whose heartbeat has lapsed: two periods without a message (DSP0274 HEARTBEAT)."""
        for session in list(self.sessions.values()):
            if session.heartbeat_period and now - session.last_seen > 2 * session.heartbeat_period:
                self.end_session(session.session_id, "heartbeat lapsed")

    def _saw(self, message: bytes, session: Session | None) -> None:
        tell_of(message, self.observer, self.peer, self.name, session)

    def _said(self, message: bytes, session: Session | None) -> bytes:
        tell_of(message, self.observer, self.name, self.peer, session)
        return message


def _as_reject(error: Reject | TeeioError) -> Reject:
    """Give the refusal of a request that ended with `error`."""
    if isinstance(error, Reject):
        return error
    # What is not the peer's fault is our settings': what was negotiated lacks what the answer needs. No reason to fall silent.
    peers = isinstance(error, DecodeError | AuthenticationFailed)
    return Reject(ErrorCode.INVALID_REQUEST if peers else ErrorCode.UNSPECIFIED, str(error))
