"""What a TDI's state machine needs from the device behind it: a Protocol, so that any device model can stand there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from teeio.tdisp.messages import DeviceInterfaceReport, LockParameters


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """What the device knows of one selective IDE stream.

    `blocks` counts the IDE register blocks that carry the Stream ID. `keys_set` says that all sub-streams have keys
    in both directions; `key_session` is the SPDM session over which all of them came, None if there was not exactly
    one. `overlaps` says that its RID or address association overlaps another block's.
    """

    stream_id: int
    blocks: int = 1
    default: bool = False
    traffic_class: int = 0
    keys_set: bool = False
    key_session: int | None = None
    secure: bool = False
    overlaps: bool = False


class InterfaceBackend(Protocol):
    """The device side of one TDI. None of these calls may raise."""

    @property
    def ide_required(self) -> bool:
        """Tell whether the TDI needs IDE; False for an integrated endpoint protected by other means (11.2)."""

    def stream_status(self, stream_id: int) -> StreamStatus | None:
        """Give the state of a stream, or None if no register block has this Stream ID."""

    def default_stream_count(self) -> int:
        """Count the IDE register blocks marked as default stream."""

    def lock_problem(self, parameters: LockParameters) -> str | None:
        """Say why the configuration cannot be locked (BAR overlaps, phantom functions, TPH...), or None (11.3.8)."""

    def report(self, parameters: LockParameters) -> DeviceInterfaceReport:
        """Describe the TDI as it would be locked. Pages are physical: it is not the device that adds the offset."""

    def arm(self, parameters: LockParameters) -> None:
        """Lock: allocate private resources, lock MSI-X if asked, and start tracking changes (11.3.9)."""

    def quiesce(self) -> None:
        """Abort work, finish or abort DMA, drain interrupts, drop ATC entries, stop page requests (11.3.9, 11.3.16)."""

    def scrub(self) -> None:
        """Erase the TVM's data and secrets, release what `arm` allocated, stop tracking (11.3.16)."""
