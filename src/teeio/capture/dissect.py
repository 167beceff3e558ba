"""The dissector: frames in, messages out, decrypted where the keys are known, decoded, and verified.

It never raises on what a frame holds: what cannot be decrypted or decoded is given with the reason. Frames are fed in
the order of the capture; requests and responses are matched outside sessions and within each (SPDM has one request
outstanding).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from teeio.capture.chunks import ChunkAssembly
from teeio.capture.conversation import Conversation, Exchange
from teeio.capture.encapsulated import EncapsulatedRequest, encapsulated_answer, encapsulated_request
from teeio.capture.findings import Finding, Verdict
from teeio.capture.framing import BINDINGS, Carried, decode_discovery, unframe
from teeio.capture.keylog import KeyLog, parse_key_log
from teeio.capture.negotiated import VERSIONS
from teeio.capture.pcap import Capture, Frame, LinkType, read_pcap
from teeio.capture.sessions import Direction, DissectedSession
from teeio.capture.vendor import ReportAssembly, VendorMessage, decode_vendor
from teeio.errors import AuthenticationFailed, DecodeError
from teeio.spdm import messages as m
from teeio.spdm.constants import ErrorCode
from teeio.spdm.messages.base import HEADER_SIZE
from teeio.spdm.record import record_header
from teeio.wire import Record, Span

MAX_NESTING = 3
"""How deep messages may lie in others: a chunked message that carries an encapsulated one."""

PENDING_ERRORS = (ErrorCode.BUSY, ErrorCode.RESPONSE_NOT_READY, ErrorCode.LARGE_RESPONSE)
"""Errors that leave the request open: its answer comes later, or in chunks."""

NEXT_REQUEST = 1
"""Payload type of ENCAPSULATED_RESPONSE_ACK."""


class Protection(Enum):
    """How a message travelled."""

    CLEAR = "clear"
    ENCRYPTED = "encrypted"
    AUTHENTICATED = "authenticated"
    UNOPENED = "not opened"


@dataclass(slots=True)
class DissectedMessage:
    """What one frame holds, or what lies inside another message.

    `raw` is the message without padding; of an unopened record it is the record. `error` says what is wrong with it;
    `message` is None if it did not decode. `inner` is an encapsulated message, or a large one that a chunk completes.
    """

    frame: int
    time: int
    carried: Carried
    direction: Direction
    name: str
    raw: bytes = field(repr=False)
    session: int | None = None
    version: int | None = None
    code: int | None = None
    message: Record | None = None
    facts: m.Facts = field(default_factory=m.Facts, repr=False)
    error: str = ""
    protection: Protection = Protection.CLEAR
    trailing: bytes = b""
    findings: list[Finding] = field(default_factory=list)
    vendor: VendorMessage | None = None
    inner: DissectedMessage | None = None

    @property
    def is_spdm(self) -> bool:
        """Tell whether it is an SPDM message, opened or not."""
        return self.carried in (Carried.SPDM, Carried.SECURED)

    def spans(self) -> list[Span]:
        """Say where each field lies in `raw`; empty if it did not decode."""
        if self.message is None:
            return []
        return type(self.message).spans(self.raw, self.facts)

    def nested(self) -> Iterator[DissectedMessage]:
        """Yield this message and all that lie inside it."""
        found: DissectedMessage | None = self
        while found is not None:
            yield found
            found = found.inner


@dataclass(slots=True)
class _Scope:
    """Where requests and responses are matched: outside sessions, or in one."""

    session: DissectedSession | None = None
    pending: Exchange | None = None
    vendor: VendorMessage | None = None
    report: ReportAssembly = field(default_factory=ReportAssembly)
    encapsulated: EncapsulatedRequest | None = None
    sending: ChunkAssembly = field(default_factory=ChunkAssembly)
    getting: ChunkAssembly = field(default_factory=ChunkAssembly)


class Dissector:
    """Dissects the frames of one link, one after another."""

    def __init__(self, link_type: LinkType, key_log: KeyLog | None = None) -> None:
        self.link_type = link_type
        self.conversation = Conversation(key_log or KeyLog())
        self._binding = BINDINGS[link_type]
        self._outside = _Scope()
        self._scopes: dict[int, _Scope] = {}
        self._last = Direction.RESPONSE

    @property
    def sessions(self) -> list[DissectedSession]:
        """Every session so far, in the order of appearance."""
        return self.conversation.history

    def feed(self, frame: Frame) -> DissectedMessage:
        """Dissect the next frame."""
        framed = unframe(self.link_type, frame.data)
        found = DissectedMessage(
            frame.number,
            frame.time,
            framed.carried,
            self._last.opposite,
            framed.name,
            framed.payload,
            error=framed.error,
        )
        if framed.carried is Carried.SPDM:
            self._spdm(found, self._outside)
        elif framed.carried is Carried.SECURED:
            self._secured(found)
        elif framed.carried is Carried.DISCOVERY:
            found.message = decode_discovery(found.raw, request=found.direction is Direction.REQUEST)
        self._last = found.direction
        return found

    # -- records ---------------------------------------------------------------------------------------------------

    def _secured(self, found: DissectedMessage) -> None:
        found.protection = Protection.UNOPENED
        try:
            found.session = record_header(found.raw, self._binding).session_id
        except DecodeError as error:
            found.error = str(error)
            return
        session = self.conversation.sessions.get(found.session)
        if session is None:
            found.error = "the beginning of the session is not in the capture"
            return
        try:
            found.raw, found.direction = session.open(found.raw, self._binding, found.direction)
        except (AuthenticationFailed, DecodeError) as error:
            found.error = str(error)
            session.unopened.append(found.frame)
            return
        if session.opened == 1:
            self.conversation.spend(session)
        found.protection = Protection.ENCRYPTED if session.spdm.encrypted else Protection.AUTHENTICATED
        self._spdm(found, self._scope(session))

    def _scope(self, session: DissectedSession) -> _Scope:
        scope = self._scopes.get(session.session_id)
        if scope is None or scope.session is not session:
            scope = self._scopes[session.session_id] = _Scope(session)
        return scope

    # -- messages --------------------------------------------------------------------------------------------------

    def _spdm(self, found: DissectedMessage, scope: _Scope, depth: int = 0) -> None:
        """Complete `found`, whose `raw` holds an SPDM message and perhaps padding."""
        try:
            header = m.header(found.raw)
        except DecodeError as error:
            found.error = str(error)
            return
        found.version, found.code, found.name = header.version, header.code, m.name_of(header.code)
        found.direction = Direction.REQUEST if header.code & 0x80 else Direction.RESPONSE
        pending = scope.pending if found.direction is Direction.RESPONSE else None
        facts = self.conversation.negotiated.facts_of(header.version)
        if pending is not None and pending.request is not None:
            facts = facts.answering(pending.request)
        self._decode(found, facts)
        if found.direction is Direction.REQUEST:
            self._request(found, scope, depth)
        else:
            self._response(found, scope, depth)

    def _decode(self, found: DissectedMessage, facts: m.Facts) -> None:
        found.facts = facts
        if facts.version not in VERSIONS:
            found.error = f"SPDMVersion {facts.version:#04x} is not known"
            return
        try:
            found.message, used = m.decode(found.raw, facts)
        except DecodeError as error:
            found.error = str(error)
            return
        rest, found.raw = found.raw[used:], found.raw[:used]
        allowed = self._binding.max_transport_padding if found.protection is Protection.CLEAR else 0
        found.trailing = rest if len(rest) > allowed or any(rest) else b""
        if isinstance(found.message, m.VendorDefinedRequest | m.VendorDefinedResponse):
            found.vendor = decode_vendor(found.message)

    def _nested(self, found: DissectedMessage, raw: bytes, direction: Direction) -> DissectedMessage:
        found.inner = DissectedMessage(
            found.frame, found.time, Carried.SPDM, direction, "", raw, found.session, protection=found.protection
        )
        return found.inner

    def _large(self, found: DissectedMessage, raw: bytes, scope: _Scope, depth: int) -> None:
        if depth < MAX_NESTING:
            self._spdm(self._nested(found, raw, found.direction), scope, depth + 1)

    def _request(self, found: DissectedMessage, scope: _Scope, depth: int) -> None:
        message = found.message
        if isinstance(message, m.ChunkSend):
            whole = scope.sending.add(message)
            if whole is not None:
                self._large(found, whole, scope, depth)
            return
        if isinstance(message, m.ChunkGet | m.RespondIfReady):
            return
        if isinstance(message, m.GetVersion) and scope.session is None:
            self._scopes.clear()
            scope.encapsulated = None
        scope.pending, scope.vendor = Exchange(message, found.raw, scope.session, found.frame), found.vendor
        found.findings += self.conversation.requested(scope.pending)
        if isinstance(message, m.DeliverEncapsulatedResponse):
            self._encapsulated(found, message.inner, scope, Direction.REQUEST)

    def _response(self, found: DissectedMessage, scope: _Scope, depth: int) -> None:
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
                self.conversation.refused(pending)
            return
        scope.pending = None
        if message is None:
            return
        if found.code != pending.code & 0x7F:
            found.error = f"it does not answer {m.name_of(pending.code)}, which came before it"
            return
        pending.response, pending.received, pending.frame = message, found.raw, found.frame
        found.findings += self.conversation.answered(pending)
        if found.vendor is not None:
            found.vendor = scope.report.complete(found.vendor, scope.vendor)
        asked = _asked_by_responder(message)
        if asked is not None:
            self._encapsulated(found, asked, scope, Direction.RESPONSE)

    # -- encapsulated: the responder asks, the requester answers ---------------------------------------------------

    def _encapsulated(self, found: DissectedMessage, raw: bytes, scope: _Scope, direction: Direction) -> None:
        inner = self._nested(found, raw, direction)
        try:
            header = m.header(raw)
        except DecodeError as error:
            inner.error = str(error)
            return
        inner.version, inner.code, inner.name = header.version, header.code, m.name_of(header.code)
        facts = self.conversation.negotiated.facts_of(header.version, encapsulated=True)
        asked = scope.encapsulated
        if direction is Direction.REQUEST and asked is not None:
            facts = facts.answering(asked.message)
        self._decode(inner, facts)
        if not isinstance(inner.message, m.Message):
            return
        if direction is Direction.RESPONSE:
            scope.encapsulated = EncapsulatedRequest(inner.message, inner.raw)
            encapsulated_request(self.conversation, inner.message, scope.session)
        else:
            scope.encapsulated = None
            inner.findings += encapsulated_answer(self.conversation, asked, inner.message, inner.raw, scope.session)


def _asked_by_responder(message: Record) -> bytes | None:
    """Give the request of the responder that a response carries, or None."""
    if isinstance(message, m.EncapsulatedRequest):
        return message.inner
    if isinstance(message, m.EncapsulatedResponseAck) and message.payload_type == NEXT_REQUEST:
        return message.inner
    return None


@dataclass(slots=True)
class Dissection:
    """A whole capture, dissected; `problems` are sentences on what could not be read."""

    capture: Capture
    messages: list[DissectedMessage]
    sessions: list[DissectedSession]
    problems: list[str]

    def findings(self) -> Iterator[tuple[int, Finding]]:
        """Yield (frame, finding) of everything that was verified."""
        for message in self.messages:
            for part in message.nested():
                for finding in part.findings:
                    yield message.frame, finding

    def wrong(self) -> list[tuple[int, Finding]]:
        """Give the findings that are wrong."""
        return [(frame, finding) for frame, finding in self.findings() if finding.verdict is Verdict.WRONG]


def dissect(capture: Capture, key_log: KeyLog | None = None) -> Dissection:
    """Dissect all frames of a capture. Never raises on what they hold."""
    dissector = Dissector(capture.link_type, key_log)
    messages = [dissector.feed(frame) for frame in capture.frames]
    return Dissection(capture, messages, dissector.sessions, _problems(capture, dissector, key_log))


def decode_capture(data: bytes, keys: str | None = None) -> Dissection:
    """Read a pcap file, with the text of a key log in either form, and dissect it.

    Raises `DecodeError` for a file header or a key log that cannot be read.
    """
    capture = read_pcap(data)
    return dissect(capture, parse_key_log(keys) if keys is not None else None)


def _problems(capture: Capture, dissector: Dissector, key_log: KeyLog | None) -> list[str]:
    problems = [str(capture.problem)] if capture.problem else []
    locked = [session for session in dissector.sessions if session.unopened]
    if key_log is None:
        count = sum(len(session.unopened) for session in locked)
        return [*problems, f"{count} records are encrypted: give the key log of this run"] if count else problems
    if locked and not any(session.opened for session in dissector.sessions):
        return [*problems, "the key log opens no record of this capture: are they of the same run?"]
    for session in locked:
        count, first = len(session.unopened), session.unopened[0]
        problems.append(
            f"session {session.session_id:#010x} (from frame {session.first_frame}): {count} records not opened, "
            f"the first in frame {first}: {session.reason or 'no key fits'}"
        )
    return problems
