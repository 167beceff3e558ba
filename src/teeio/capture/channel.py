"""What two ends of a link say to each other: requests and responses matched, decoded and followed.

Messages are matched outside sessions and within each (SPDM has one request outstanding). GET_VERSION outside sessions
begins a connection. The sessions of connections before it are kept: frames of links that name nobody may mix the
connections of several devices, and then only the key that opens a record tells whose it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from teeio.capture import effects
from teeio.capture.chunks import ChunkAssembly
from teeio.capture.conversation import Conversation, Exchange, Ledger
from teeio.capture.encapsulated import EncapsulatedRequest, encapsulated_answer, encapsulated_request
from teeio.capture.framing import Carried
from teeio.capture.handshakes import confirm
from teeio.capture.message import DissectedMessage, Protection
from teeio.capture.negotiated import VERSIONS
from teeio.capture.sessions import Direction, DissectedSession
from teeio.capture.vendor import ReportAssembly, VendorMessage, decode_vendor
from teeio.errors import AuthenticationFailed, DecodeError
from teeio.spdm import messages as m
from teeio.spdm.binding import Binding
from teeio.spdm.constants import ErrorCode
from teeio.spdm.messages.base import HEADER_SIZE
from teeio.wire import Record

GET_VERSION = m.GetVersion.CODE
VENDOR_DEFINED = (m.VendorDefinedRequest, m.VendorDefinedResponse)
REPEATED = (m.ChunkGet, m.RespondIfReady)
"""Requests that ask for the answer to an earlier one."""

MAX_NESTING = 3
"""How deep messages may lie in others: a chunked message that carries an encapsulated one."""

MAX_CONNECTIONS = 64
"""Connections of one channel, the latest, whose sessions are sought."""

PENDING_ERRORS = (ErrorCode.BUSY, ErrorCode.RESPONSE_NOT_READY, ErrorCode.LARGE_RESPONSE)
"""Errors that leave the request open: its answer comes later, or in chunks."""

NEXT_REQUEST = 1
"""Payload type of ENCAPSULATED_RESPONSE_ACK."""

NOT_NEGOTIATED = "the negotiation of this connection is not in the capture, so sizes are not known"


@dataclass(slots=True)
class Scope:
    """Where requests and responses are matched: outside the sessions of a connection, or in one."""

    conversation: Conversation
    session: DissectedSession | None = None
    pending: Exchange | None = None
    vendor: VendorMessage | None = None
    report: ReportAssembly = field(default_factory=ReportAssembly)
    encapsulated: EncapsulatedRequest | None = None
    sending: ChunkAssembly = field(default_factory=ChunkAssembly)
    getting: ChunkAssembly = field(default_factory=ChunkAssembly)

    @property
    def asks_version(self) -> bool:
        """Tell whether GET_VERSION is without an answer."""
        return self.pending is not None and isinstance(self.pending.request, m.GetVersion)


class Channel:
    """The messages between a requester and a responder, in the order of the capture; `last` is who has sent last."""

    def __init__(self, binding: Binding, ledger: Ledger, ends: str) -> None:
        self.last = Direction.RESPONSE
        self.binding = binding
        self._ledger = ledger
        self._ends = ends
        self._outside: Scope | None = None
        self._latest: Conversation | None = None
        self._conversations: deque[Conversation] = deque(maxlen=MAX_CONNECTIONS)
        self._scopes: dict[DissectedSession, Scope] = {}

    # -- records ---------------------------------------------------------------------------------------------------

    def sessions_of(self, session_id: int) -> Iterator[DissectedSession]:
        """Give the sessions of this id that have not ended, that of the latest connection first."""
        for conversation in reversed(self._conversations):
            session = conversation.sessions.get(session_id)
            if session is not None:
                yield session

    def current(self, session_id: int) -> DissectedSession | None:
        """Give the session of this id on the latest connection."""
        return self._latest.sessions.get(session_id) if self._latest is not None else None

    def open(self, found: DissectedMessage, session: DissectedSession) -> bool:
        """Complete `found`, whose `raw` is a record, if a key of `session` opens it; else say why not."""
        try:
            found.raw, found.direction = session.open(found.raw, self.binding, found.direction)
        except (AuthenticationFailed, DecodeError) as error:
            found.error = found.error or str(error)
            return False
        found.error = ""
        scope = self._scopes.get(session) or self._new_scope(session)
        if session.opened == 1:
            scope.conversation.spend(session)
            found.findings += confirm(session)
        found.protection = Protection.ENCRYPTED if session.spdm.encrypted else Protection.AUTHENTICATED
        session.last_frame = found.frame
        found.session_number = session.number
        self._spdm(found, scope)
        return True

    def _new_scope(self, session: DissectedSession) -> Scope:
        scope = self._scopes[session] = Scope(self._ledger.connections[session.connection - 1], session)
        return scope

    # -- messages --------------------------------------------------------------------------------------------------

    def plain(self, found: DissectedMessage) -> None:
        """Complete `found`, whose `raw` holds an SPDM message outside sessions."""
        if self._outside is None:
            self._outside = self._begin(found, whole=False)
        self._spdm(found, self._outside)

    def _begin(self, found: DissectedMessage, *, whole: bool) -> Scope:
        conversation = self._latest = self._ledger.begin(self._ends, found.frame, whole=whole)
        self._conversations.append(conversation)
        return Scope(conversation)

    def _spdm(self, found: DissectedMessage, scope: Scope, depth: int = 0) -> None:
        """Complete `found`, whose `raw` holds an SPDM message and perhaps padding."""
        try:
            header = m.header(found.raw)
        except DecodeError as error:
            found.error = str(error)
            return
        found.version, found.code, found.name = header.version, header.code, m.name_of(header.code)
        found.direction = Direction.REQUEST if header.code & 0x80 else Direction.RESPONSE
        if header.code == GET_VERSION and scope.session is None:
            scope = self._connect(found, scope)
        conversation = scope.conversation
        conversation.last_frame, found.connection = found.frame, conversation.number
        pending = scope.pending if found.direction is Direction.RESPONSE else None
        facts = conversation.negotiated.facts_of(header.version)
        if pending is not None and pending.request is not None:
            facts = facts.answering(pending.request)
        self._decode(found, facts, scope)
        if found.direction is Direction.REQUEST:
            self._request(found, scope, depth)
        else:
            self._response(found, scope, depth)

    def _connect(self, found: DissectedMessage, scope: Scope) -> Scope:
        """Begin a connection, unless GET_VERSION is only sent once more or is the first message at all."""
        conversation = scope.conversation
        if conversation.first_frame == found.frame:
            conversation.whole = True
        elif not scope.asks_version:
            self._outside = scope = self._begin(found, whole=True)
        return scope

    def _decode(self, found: DissectedMessage, facts: m.Facts, scope: Scope) -> None:
        found.facts = facts
        if facts.version not in VERSIONS:
            found.error = f"SPDMVersion {facts.version:#04x} is not known"
            return
        try:
            found.message, used = m.decode(found.raw, facts)
        except DecodeError as error:
            found.error = str(error) if scope.conversation.whole else f"{error}; {NOT_NEGOTIATED}"
            return
        if used < len(found.raw):
            rest, found.raw = found.raw[used:], found.raw[:used]
            found.trailing = rest if len(rest) > self._padding(found) or any(rest) else b""
        if isinstance(found.message, VENDOR_DEFINED):
            found.vendor = decode_vendor(found.message)

    def _padding(self, found: DissectedMessage) -> int:
        return self.binding.max_transport_padding if found.protection is Protection.CLEAR else 0

    def _nested(self, found: DissectedMessage, raw: bytes, direction: Direction) -> DissectedMessage:
        found.inner = DissectedMessage(
            found.frame,
            found.time,
            Carried.SPDM,
            direction,
            "",
            raw,
            found.session,
            protection=found.protection,
            connection=found.connection,
            session_number=found.session_number,
        )
        return found.inner

    def _large(self, found: DissectedMessage, raw: bytes, scope: Scope, depth: int) -> None:
        if depth < MAX_NESTING:
            self._spdm(self._nested(found, raw, found.direction), scope, depth + 1)

    def _request(self, found: DissectedMessage, scope: Scope, depth: int) -> None:
        message = found.message
        if isinstance(message, m.ChunkSend):
            whole = scope.sending.add(message)
            if whole is not None:
                self._large(found, whole, scope, depth)
            return
        if isinstance(message, REPEATED):
            return
        # Too many bytes behind a request make it as unreadable to the responder as too few.
        readable = message if len(found.trailing) <= self._padding(found) else None
        scope.pending, scope.vendor = Exchange(readable, found.raw, scope.session, found.frame), found.vendor
        found.findings += effects.requested(scope.conversation, scope.pending)
        if isinstance(message, m.DeliverEncapsulatedResponse):
            self._encapsulated(found, message.inner, scope, Direction.REQUEST)

    def _response(self, found: DissectedMessage, scope: Scope, depth: int) -> None:
        message = found.message
        if isinstance(message, m.ChunkResponse):
            whole = scope.getting.add(message)
            if whole is not None:
                self._large(found, whole, scope, depth)
            return
        if isinstance(message, m.ChunkSendAck):
            if len(message.response) >= HEADER_SIZE:
                self._large(found, message.response, scope, depth)
            return
        pending = scope.pending
        if pending is None:
            found.error = found.error or "there is no request that it answers"
            return
        if isinstance(message, m.Error):
            if message.error_code not in PENDING_ERRORS:
                scope.pending = None
                effects.refused(scope.conversation, pending)
            return
        scope.pending = None
        if message is None:
            return
        if found.code != pending.code & 0x7F:
            found.error = f"it does not answer {m.name_of(pending.code)}, which came before it"
            return
        pending.response, pending.received, pending.frame = message, found.raw, found.frame
        found.findings += effects.answered(scope.conversation, pending)
        if found.vendor is not None:
            found.vendor = scope.report.complete(found.vendor, scope.vendor)
        asked = _asked_by_responder(message)
        if asked is not None:
            self._encapsulated(found, asked, scope, Direction.RESPONSE)

    # -- encapsulated: the responder asks, the requester answers ---------------------------------------------------

    def _encapsulated(self, found: DissectedMessage, raw: bytes, scope: Scope, direction: Direction) -> None:
        inner = self._nested(found, raw, direction)
        try:
            header = m.header(raw)
        except DecodeError as error:
            inner.error = str(error)
            return
        inner.version, inner.code, inner.name = header.version, header.code, m.name_of(header.code)
        facts = scope.conversation.negotiated.facts_of(header.version, encapsulated=True)
        asked = scope.encapsulated
        if direction is Direction.REQUEST and asked is not None:
            facts = facts.answering(asked.message)
        self._decode(inner, facts, scope)
        if not isinstance(inner.message, m.Message):
            return
        if direction is Direction.RESPONSE:
            scope.encapsulated = EncapsulatedRequest(inner.message, inner.raw)
            encapsulated_request(scope.conversation, inner.message, scope.session)
        else:
            scope.encapsulated = None
            inner.findings += encapsulated_answer(scope.conversation, asked, inner.message, inner.raw, scope.session)


def _asked_by_responder(message: Record) -> bytes | None:
    """Give the request of the responder that a response carries, or None."""
    if isinstance(message, m.EncapsulatedRequest):
        return message.inner
    if isinstance(message, m.EncapsulatedResponseAck) and message.payload_type == NEXT_REQUEST:
        return message.inner
    return None
