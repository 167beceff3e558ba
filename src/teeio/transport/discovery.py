"""DOE discovery for a responder behind a socket: a mailbox would answer it, there is none here."""

from __future__ import annotations

from collections.abc import Sequence

from teeio.errors import DecodeError
from teeio.pcie import doe
from teeio.transport.kinds import Transport
from teeio.transport.sockets import FrameHandler

PROTOCOLS = (doe.DISCOVERY, doe.SPDM, doe.SECURED_SPDM)

_DISCOVERY = b"\x01\x00\x00\x00"
"""How a data object of discovery begins: vendor 1 (PCI-SIG), type 0."""


def with_discovery(
    transport: Transport, respond: FrameHandler, protocols: Sequence[doe.DoeProtocol] = PROTOCOLS
) -> FrameHandler:
    """Give a handler that answers discovery, where there is DOE, and leaves all other frames to `respond`.

    `protocols` begins with discovery itself.
    """
    if transport is not Transport.PCI_DOE:
        return respond

    def handle(frame: bytes) -> bytes | None:
        return _answer(frame, protocols) if frame.startswith(_DISCOVERY) else respond(frame)

    return handle


def _answer(frame: bytes, protocols: Sequence[doe.DoeProtocol]) -> bytes | None:
    try:
        return doe.answer_discovery(doe.DiscoveryRequest.decode(doe.decode_object(frame).payload), protocols)
    except DecodeError:
        return None
