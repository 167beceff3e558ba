"""The five seams between a device and what lies outside: configuration space, BARs, DMA, interrupts, reset.

The software platform joins them over a link (`ports`); an emulator of a whole machine calls and offers the very same
ones. A device implements `ConfigAccess`, `BarAccess` and `Resettable`, and is given a `Dma` and an `Interrupts`.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Protocol

from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.msix import MsixMessage
from teeio.pcie.registers import RegisterAccess
from teeio.pcie.tlp import CompletionStatus, Tlp


class Reply(NamedTuple):
    """How a read or a request ended: `data` only with status SC; `completer_id` None leaves it to the port."""

    status: CompletionStatus
    data: bytes = b""
    completer_id: int | None = None

    @property
    def ok(self) -> bool:
        """Whether the request succeeded."""
        return self.status is CompletionStatus.SC


UNSUPPORTED = Reply(CompletionStatus.UR)
ABORTED = Reply(CompletionStatus.CA)
TIMED_OUT = Reply(CompletionStatus.TIMEOUT)
DONE = Reply(CompletionStatus.SC)


class ConfigAccess(Protocol):
    """Configuration space of a device's functions; offset and size as software gave them, values little-endian."""

    def config_read(self, function: Bdf, offset: int, size: int) -> int | None:
        """Read 1, 2 or 4 bytes; None if there is no such function now."""
        ...

    def config_write(self, function: Bdf, offset: int, size: int, value: int) -> bool:
        """Write 1, 2 or 4 bytes; False if there is no such function now."""
        ...


class ConfigRegisters(ConfigAccess, Protocol):
    """Configuration space of which single DWs can be reached directly."""

    def config_register(self, function: Bdf, offset: int) -> RegisterAccess | None:
        """Give access to one DW of the function that is there now; None if there is none."""
        ...


class BarAccess(Protocol):
    """Memory behind the BARs. `t_bit` and `stream_id` say how the request came; without IDE they are False and None."""

    def bar_read(self, function: Bdf, bar: int, offset: int, size: int, t_bit: bool, stream_id: int | None) -> Reply:
        """Read up to 4096 bytes."""
        ...

    def bar_write(
        self, function: Bdf, bar: int, offset: int, data: bytes, t_bit: bool, stream_id: int | None
    ) -> CompletionStatus:
        """Write up to 4096 bytes; the status of a posted write is seen by observers only."""
        ...


class Dma(Protocol):
    """Host memory as a device reaches it; `requester_id` is the function's, `t_bit` asks for the TEE's memory."""

    def dma_read(self, requester_id: int, address: int, size: int, t_bit: bool, stream_id: int | None = None) -> Reply:
        """Read any number of bytes."""
        ...

    def dma_write(
        self, requester_id: int, address: int, data: bytes, t_bit: bool, stream_id: int | None = None
    ) -> CompletionStatus:
        """Write any number of bytes."""
        ...


class TranslationAgent(Protocol):
    """What serves ATS and page requests above a root port (PCIe Base 10.1). Part of the host bridge, not a seam."""

    @property
    def translated(self) -> Dma:
        """Memory by translated address."""
        ...

    def translate(
        self, requester_id: int, address: int, pages: int, no_write: bool, t_bit: bool, stream_id: int | None
    ) -> Reply:
        """Answer a Translation Request with `pages` entries of 8 bytes."""
        ...

    def receive(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
        """Take a Page Request or an Invalidate Completion."""
        ...


class Interrupts(Protocol):
    """Where a function's MSI and MSI-X interrupts go; MSI here has vector 0 only."""

    def signal(
        self, function: Bdf, vector: int, message: MsixMessage, t_bit: bool, stream_id: int | None = None
    ) -> None:
        """Deliver vector number `vector`, whose table entry says `message`; no `stream_id` leaves it to the port."""
        ...


class ResetKind(Enum):
    """How much is reset."""

    CONVENTIONAL = "conventional reset"
    FUNCTION_LEVEL = "function level reset"


class Resettable(Protocol):
    """A device that can be reset from outside."""

    def reset(self, kind: ResetKind, function: Bdf | None = None) -> None:
        """Reset the whole device, or one function."""
        ...
