"""GET_VERSION and VERSION (DSP0274): always sent with version byte 1.0; the request resets the connection."""

from __future__ import annotations

from teeio.spdm.messages.base import Request, Response, message
from teeio.wire import count_of, repeat, reserved


@message(0x84, "GET_VERSION", version=0x10)
class GetVersion(Request["VersionResponse"]):
    """Ask for the supported versions."""

    _params: None = reserved(2)


@message(0x04, "VERSION", version=0x10)
class VersionResponse(Response):
    """Answer GET_VERSION. An entry is major << 12 | minor << 8 | update << 4 | alpha."""

    _params: None = reserved(2)
    _reserved: None = reserved(1)
    entry_count: None = count_of("entries", 1)
    entries: tuple[int, ...] = repeat(2, "VersionNumberEntry", count="entry_count")

    @property
    def versions(self) -> tuple[int, ...]:
        """The version bytes offered, alpha versions left out."""
        return tuple(entry >> 8 for entry in self.entries if not entry & 0xF)
