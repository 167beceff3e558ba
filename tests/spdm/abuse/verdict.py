"""The kinds of abuse, the ERROR that each must get, and the check of one abuse: the answer, and that nothing else has changed.

Sources: DSP0274, "ERROR" and the clause of each message; the DMTF reference where the text leaves the choice. A receiver ignores
reserved fields and bits (DSP0274): their abuse gets the answer of the message without them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from spdm.abuse.scene import INSIDE, Scene
from spdm.abuse.snapshot import changed, snapshot
from teeio.spdm import messages as m
from teeio.spdm.constants import ErrorCode, Version

E = ErrorCode


class Kind(Enum):
    """What is done to a responder: what that is, the error, and in words where one error does not say it."""

    LOWER_VERSION = "a lower SPDMVersion", E.VERSION_MISMATCH, ""
    HIGHER_VERSION = "a higher SPDMVersion", E.VERSION_MISMATCH, ""
    UNKNOWN_VERSION = "an SPDMVersion that does not exist", E.VERSION_MISMATCH, ""
    NOT_IN_VERSION = "a request of a later version", E.UNSUPPORTED_REQUEST, ""
    UNDEFINED_CODE = "a code that is no request", E.UNSUPPORTED_REQUEST, ""
    NO_CAPABILITY = "a request whose capability is not negotiated", E.UNSUPPORTED_REQUEST, ""
    PHASE = "a request before or after its phase of negotiation", E.UNEXPECTED_REQUEST, ""
    OUTSIDE = "a request of sessions, outside one", E.SESSION_REQUIRED, "SESSION_REQUIRED; UNSPECIFIED before 1.2"
    INSIDE = "a request that is not legal in a session of this phase", E.UNEXPECTED_REQUEST, ""
    IN_FLIGHT = "a request amid encapsulated ones", E.REQUEST_IN_FLIGHT, ""
    MID_TRANSFER = (
        "a request amid a large message",
        E.UNEXPECTED_REQUEST,
        "UNEXPECTED_REQUEST, and the transfer goes on",
    )
    TRUNCATED = (
        "a message cut off before or in each field",
        E.INVALID_REQUEST,
        "INVALID_REQUEST; INVALID_RESPONSE_CODE in an encapsulated response",
    )
    LENGTH = "each length and count 0, one less, one more, the most", E.INVALID_REQUEST, ""
    TRAILING = "1, 4 and 300 bytes behind the message", E.INVALID_REQUEST, ""
    UNDEFINED_VALUE = (
        "a value that is not defined, or names nothing here",
        E.INVALID_REQUEST,
        "INVALID_REQUEST; UNSUPPORTED_REQUEST for an unknown vendor",
    )
    OVERSIZED = "a message above DataTransferSize (1.2)", E.REQUEST_TOO_LARGE, "REQUEST_TOO_LARGE; CHUNK_SEND early"
    RESERVED = "each reserved field and group of bits set", None, "the answer of the message without them"
    REPLAYED_MESSAGE = "the same message again", None, "an answer with new random bytes, or the error in the table"
    REPLAYED_RECORD = "the same record again", E.DECRYPT_ERROR, "DECRYPT_ERROR, the session ends"
    DAMAGED_RECORD = "a record with its header or body changed", E.DECRYPT_ERROR, "DECRYPT_ERROR, the session ends"
    NO_RECORD = "what is no record: cut off, wrong Length", None, "silence"
    UNKNOWN_SESSION = "a record of a session that does not exist", E.INVALID_SESSION, "INVALID_SESSION, unprotected"
    OTHER_SESSION = "a record under the id of another session", E.DECRYPT_ERROR, "DECRYPT_ERROR, the session named ends"

    @property
    def text(self) -> str:
        return str(self.value[0])

    @property
    def outcome(self) -> str:
        """What comes of it, for the table of the documentation."""
        return str(self.value[2]) or str(self.value[1].name)

    def error(self, version: int) -> ErrorCode | None:
        """The error in a version: SessionRequired exists from 1.2 on."""
        code: ErrorCode | None = self.value[1]
        return E.UNSPECIFIED if code is E.SESSION_REQUIRED and version < Version.V1_2 else code


@dataclass(frozen=True)
class Abuse:
    """A message that must be refused with `error` and `data`. `changes` names what the specification lets it change."""

    kind: Kind
    name: str
    message: bytes
    error: ErrorCode
    data: int = 0
    changes: frozenset[str] = frozenset()


def error_of(answer: bytes | None) -> tuple[int, int] | None:
    """Give code and data of an ERROR, also of one that an early CHUNK_SEND_ACK carries; None for another answer or none."""
    if answer is None:
        return None
    if answer[1] == m.ChunkSendAck.CODE:
        ack = m.ChunkSendAck.decode(answer, m.Facts(version=answer[0]))
        return error_of(ack.response) if ack.early_error else None
    return (answer[2], answer[3]) if answer[1] == m.Error.CODE else None


def complaint(scene: Scene, abuse: Abuse) -> str:
    """Send an abuse; say what is wrong with what came of it, or ""."""
    before = snapshot(scene.pair.responder)
    try:
        answer = scene.say(abuse.message)
    except Exception as error:  # whatever comes out of a responder is a finding
        return f"{abuse.name}: raised {error!r} on {abuse.message[:40].hex()}"
    found = error_of(answer)
    if found != (abuse.error, abuse.data):
        told = "nothing" if answer is None else answer[:12].hex()
        return f"{abuse.name}: answered {told}, not {abuse.error.name} {abuse.data:#x}; sent {abuse.message[:40].hex()}"
    touched = changed(before, snapshot(scene.pair.responder)) - place_names(scene, abuse.changes)
    return f"{abuse.name}: changed {sorted(touched)}" if touched else ""


def place_names(scene: Scene, names: frozenset[str]) -> set[str]:
    """Write out "{l}" and "{large}" in names for the place where the scene's messages travel."""
    inside = scene.session.session_id if scene.session is not None and scene.stage in INSIDE else None
    large = "large" if inside is None else f"session {inside:#x}.large"
    return {name.format(l=f"transcript.l[{inside}]", large=large) for name in names}


def complaints(make: Callable[[], Scene], abuses: Callable[[Scene], Iterable[Abuse]]) -> list[str]:
    """Send abuses one after another to the same responder, which no refusal may change; give what is wrong.

    One that may change something gets a responder of its own.
    """
    scene, found = make(), []
    for abuse in list(abuses(scene)):
        found.append(complaint(make() if abuse.changes else scene, abuse))
    return [text for text in found if text]
