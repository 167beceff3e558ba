"""The side that asks: what a flow reads and sets, and how an answer is read (DSP0274, "Generic SPDM message format").

That side is the requester. When the responder asks through encapsulated requests it is the responder, which then runs the same flows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from teeio.crypto.keys import PublicKey
from teeio.errors import DecodeError, ErrorResponse, Misuse, PeerViolation
from teeio.observe import Event
from teeio.spdm import messages as m
from teeio.spdm.constants import ErrorCode, Version
from teeio.spdm.rules import BY_REQUEST, Place, refusal
from teeio.spdm.state import Connection, Settings
from teeio.spdm.transcript import Transcript


class Asker(Protocol):
    """What flows need of the side that asks: the peer's chains by slot with their models, as read, and its provisioned public keys."""

    connection: Connection
    settings: Settings
    transcript: Transcript
    chains: dict[int, bytes]
    models: dict[int, int]
    peer_keys: Sequence[PublicKey]
    peer: str

    def entropy(self, size: int, /) -> bytes:
        """Give random bytes."""

    def observer(self, event: Event, /) -> None:
        """Take what has happened."""

    @property
    def drop_session(self) -> Callable[[int, str], None]:
        """Ends a session, given its id and the cause."""


def check_legal(c: Connection, code: int, place: Place) -> None:
    """Check that we may send the request `code` now. Raises `Misuse`."""
    why = refusal(code, c.version, c.phase, place, c.responder_capabilities, c.requester_capabilities)
    if why is not None:
        clause = BY_REQUEST[code].clause if code in BY_REQUEST else "DSP0274 request codes"
        raise Misuse(f"{m.name_of(code)} cannot be sent now: {why.value} ({clause})")


def error_answer(peer: str, request: m.Request[Any], received: bytes) -> ErrorResponse | None:
    """Give the error that `peer` answered with, or None if it is not an ERROR."""
    header = m.header(received)
    if header.code != m.Error.CODE:
        return None
    name = next((code.name for code in ErrorCode if code == header.param1), f"{header.param1:#04x}")
    return ErrorResponse(
        f"{peer} answered {request.NAME} with ERROR {name}, data {header.param2:#04x}", header.param1, header.param2
    )


def decode_answer(c: Connection, request: m.Request[Any], received: bytes, padding: int) -> tuple[m.Response, int]:
    """Decode the response to `request`; give it and its size. At most `padding` bytes of transport padding may follow.

    Raises `PeerViolation` for another response or version, `DecodeError`.
    """
    expected = request.response_class()
    header = m.header(received)
    if header.code != expected.CODE:
        raise PeerViolation(f"{m.name_of(header.code)} came in answer to {request.NAME}", "DSP0274 response codes")
    version = Version.V1_0 if request.CODE == m.GetVersion.CODE else c.version
    if header.version != version:
        raise PeerViolation(
            f"{expected.NAME} carries SPDMVersion {header.version:#04x}, {version:#04x} is in use",
            "DSP0274 SPDMVersion",
        )
    response, used = expected.decode_prefix(received, c.facts.answering(request))
    if len(received) - used > padding:
        raise DecodeError(expected.NAME, "(end)", used, f"{len(received) - used} trailing bytes")
    return response, used
