"""Writing captures and key logs beside whatever a command does."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from teeio.capture.keylog import KeyLogWriter
from teeio.capture.pcap import LinkType, PcapWriter
from teeio.errors import Misuse
from teeio.observe import Event, FrameMoved
from teeio.transport.kinds import Transport

LINK_TYPES = {kind: LinkType[kind.name] for kind in Transport if kind.name in LinkType.__members__}
"""The link types of captures; there is none for SPDM over TCP."""


class Recording:
    """An observer that keeps frames and secrets and writes them at the end, whatever has happened meanwhile."""

    def __init__(self, keylog: Path | None, pcap: Path | None, transport: Transport) -> None:
        self._keylog, self._pcap = keylog, pcap
        self._secrets = KeyLogWriter()
        link_type = LINK_TYPES.get(transport)
        if pcap is not None and link_type is None:
            raise Misuse(
                f"--pcap: captures have no link type for --transport {transport.value}",
                remedy=f"record over {' or '.join(known.value for known in LINK_TYPES)}",
            )
        self._frames = PcapWriter(link_type=link_type) if pcap is not None and link_type is not None else None

    def __call__(self, event: Event) -> None:
        """Observe."""
        if isinstance(event, FrameMoved):
            if self._frames is not None:
                self._frames.add(event.frame, event.at)
        elif self._keylog is not None:
            self._secrets(event)

    def __enter__(self) -> Recording:
        # A path that cannot be written is told before the work, not after it.
        if self._keylog is not None:
            self._keylog.touch(mode=0o600)  # secrets
        if self._pcap is not None:
            self._pcap.touch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._keylog is not None:
            self._keylog.write_text(self._secrets.text())
        if self._pcap is not None and self._frames is not None:
            self._pcap.write_bytes(self._frames.data())
