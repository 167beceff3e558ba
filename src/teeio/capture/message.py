"""A dissected message: what one frame holds, or what lies inside another message."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from teeio.capture.findings import Finding
from teeio.capture.framing import Carried
from teeio.capture.sessions import Direction, DissectedSession
from teeio.capture.vendor import VendorMessage
from teeio.spdm import messages as m
from teeio.wire import Record, Span


class Protection(Enum):
    """How a message travelled."""

    CLEAR = "clear"
    ENCRYPTED = "encrypted"
    AUTHENTICATED = "authenticated"
    UNOPENED = "not opened"


NOTHING_NEGOTIATED = m.Facts()


@dataclass(slots=True)
class DissectedMessage:
    """What one frame holds, or what lies inside another message.

    `raw` is the message without padding; of an unopened record it is the record. `error` says what is wrong with it;
    `message` is None if it did not decode. `inner` is an encapsulated message, or a large one that a chunk completes.
    `connection` and `session_number` count from 1 over the capture, in the order of appearance; they are None where the
    message cannot be attributed. `session` is the session id, which one capture may see several times.
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
    facts: m.Facts = field(default=NOTHING_NEGOTIATED, repr=False)
    error: str = ""
    protection: Protection = Protection.CLEAR
    trailing: bytes = b""
    findings: list[Finding] = field(default_factory=list)
    vendor: VendorMessage | None = None
    inner: DissectedMessage | None = None
    connection: int | None = None
    session_number: int | None = None

    @property
    def is_spdm(self) -> bool:
        """Tell whether it is an SPDM message, opened or not."""
        return self.carried in (Carried.SPDM, Carried.SECURED)

    def belongs_to(self, session: DissectedSession) -> None:
        """Attribute the message to a session and its connection."""
        self.connection, self.session_number = session.connection, session.number

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
