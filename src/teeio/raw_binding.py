"""No transport binding at all: a frame is an SPDM message (`--trans NONE` of the DMTF reference emulator).

Nothing tells a secured message from a plain one, so there are no sessions: both sides leave the capabilities for them out.
"""

from __future__ import annotations

from teeio.errors import Misuse
from teeio.spdm.binding import NO_LIMIT
from teeio.spdm.constants import NEEDS_SESSION, SESSION_CAPABILITIES, Capability

WITHOUT_SESSIONS = SESSION_CAPABILITIES | NEEDS_SESSION | Capability.EVENT
"""Capabilities that mean nothing without sessions; a side on this binding must not offer them."""


class RawBinding:
    """SPDM messages as they are."""

    name = "none"
    sequence_number_size = 0
    max_random_padding = 0
    max_transport_padding = 0
    max_message = NO_LIMIT

    def wrap(self, message: bytes, secured: bool) -> bytes:
        """Give the message itself. Raises `Misuse` for a secured message."""
        if secured:
            raise Misuse("the raw transport carries no secured messages", remedy="choose a transport that has sessions")
        return message

    def unwrap(self, frame: bytes) -> tuple[bytes, bool]:
        """Give the frame itself, never secured."""
        return frame, False

    def wrap_application(self, message: bytes) -> bytes:
        """Give the message itself."""
        return message

    def unwrap_application(self, data: bytes) -> bytes:
        """Give the message itself."""
        return data
