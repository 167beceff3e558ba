"""One request being answered, and what several handlers do with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from teeio.errors import Reject
from teeio.spdm import messages as m
from teeio.spdm.constants import MEAS_CAPABILITIES, ErrorCode, SummaryType
from teeio.spdm.device_state import KeyUsage
from teeio.spdm.signing import sign_transcript
from teeio.spdm.state import Connection, Session
from teeio.spdm.transcript import (
    CHALLENGE_CONTEXT,
    ENDPOINT_INFO_CONTEXT,
    KEY_EXCHANGE_CONTEXT,
    MEASUREMENTS_CONTEXT,
    signers_context,
)

if TYPE_CHECKING:
    from teeio.spdm.responder import Responder


@dataclass(slots=True)
class Call:
    """One request being answered.

    `after` runs once the response has been protected: it changes keys or ends sessions. `before` is the connection to return
    to if the request is refused. `in_one_transfer` is false of a message that was put together here or inside another one:
    DataTransferSize does not bound it.
    """

    request: bytes
    session: Session | None
    now: float
    after: Callable[[], None] | None = None
    before: Connection | None = None
    in_one_transfer: bool = True

    @property
    def session_id(self) -> int | None:
        """The session the request came in."""
        return self.session.session_id if self.session else None


class NotReady(Exception):
    """Raised by a handler that needs until the time `until`: the requester is told so and asks again with RESPOND_IF_READY."""

    def __init__(self, until: float) -> None:
        super().__init__(f"not ready before {until}")
        self.until = until


class Silence(Exception):
    """Raised by a handler to drop a request without an answer."""


def summary(r: Responder, kind: int) -> bytes:
    """Give the measurement summary hash that a request asks for, or refuse."""
    if kind == SummaryType.NONE:
        return b""
    measures = r.connection.responder_capabilities & MEAS_CAPABILITIES
    if not measures or kind not in (SummaryType.TCB, SummaryType.ALL):
        raise Reject(ErrorCode.INVALID_REQUEST, f"summary type {kind:#x} (DSP0274 MeasurementSummaryHashType)")
    return r.measurements.summary(kind, r.connection.measurement_hash, r.connection.base_hash)


def encoded(r: Responder, request: m.Request[m.Response], response: m.Response, cut: int) -> bytes:
    """Encode a response whose last `cut` bytes are not known yet, without them."""
    return response.encode(r.connection.facts.answering(request))[:-cut]


_USES = {
    CHALLENGE_CONTEXT: KeyUsage.CHALLENGE,
    MEASUREMENTS_CONTEXT: KeyUsage.MEASUREMENT,
    KEY_EXCHANGE_CONTEXT: KeyUsage.KEY_EXCHANGE,
    ENDPOINT_INFO_CONTEXT: KeyUsage.ENDPOINT_INFO,
}
"""What a key must be meant for to sign in a context."""


def _check_use(r: Responder, slot: int, context: str) -> None:
    """Refuse a slot whose key is not meant for this, whether or not the peer asked for several keys (DSP0274 1.3 KeyUsageMask)."""
    if not r.key_usage(r.slot(slot)) & _USES[context]:
        raise Reject(
            ErrorCode.INVALID_REQUEST,
            f"the key of slot {slot} is not meant for {_USES[context].name} (DSP0274 KeyUsageMask)",
        )


def sign(r: Responder, slot: int, context: str, transcript: bytes) -> bytes:
    """Sign a transcript with the key of a slot."""
    _check_use(r, slot, context)
    context = signers_context(context, encapsulated=r.connection.encapsulated)
    return sign_transcript(r.slot(slot).key, r.connection, context, transcript, r.settings.signature_order)
