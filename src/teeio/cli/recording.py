"""Writing captures and key logs beside whatever a command does."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from teeio.capture.keylog import KeyLogWriter
from teeio.capture.pcap import PcapWriter
from teeio.cli.transports import Transport
from teeio.observe import Event, FrameMoved


class Recording:
    """An observer that keeps frames and secrets and writes them at the end, whatever has happened meanwhile."""

    def __init__(self, keylog: Path | None, pcap: Path | None, transport: Transport) -> None:
        self._keylog, self._pcap = keylog, pcap
        self._secrets = KeyLogWriter()
        self._frames = PcapWriter(link_type=291 if transport is Transport.MCTP else 292)

    def __call__(self, event: Event) -> None:
        """Observe."""
        if isinstance(event, FrameMoved):
            if self._pcap is not None:
                self._frames.add(event.frame, event.at)
        elif self._keylog is not None:
            self._secrets(event)

    def __enter__(self) -> Recording:
        # A path that cannot be written is told before the work, not after it.
        for path in (self._keylog, self._pcap):
            if path is not None:
                path.touch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._keylog is not None:
            self._keylog.write_text(self._secrets.text())
        if self._pcap is not None:
            self._pcap.write_bytes(self._frames.data())
