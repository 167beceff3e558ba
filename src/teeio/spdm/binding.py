"""What a transport binding must tell the SPDM engines; MCTP and PCI DOE each give one such object.

DSP0277 leaves the size of the transmitted sequence number and of the random padding to the binding (DSP0276 for MCTP, the PCIe
DOE binding, DSP0287 for TCP).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from teeio.errors import DecodeError

NO_LIMIT = 1 << 32
"""`max_message` of a binding whose frames have no length of their own: above every message (MaxSPDMmsgSize has 32 bits)."""


class OtherApplication(DecodeError):
    """Application data of a secured message that is well formed and no SPDM message; `data` is all of it."""

    def __init__(self, record: str, field: str, reason: str, data: bytes) -> None:
        super().__init__(record, field, 0, reason)
        self.data = data


ApplicationHandler = Callable[[bytes], bytes | None]
"""Answers application data that is not SPDM with application data, or has nothing to say."""


class Binding(Protocol):
    """A transport binding. `unwrap` and `unwrap_application` raise `DecodeError` on malformed input."""

    @property
    def name(self) -> str:
        """Short name, such as "mctp"."""

    @property
    def sequence_number_size(self) -> int:
        """Bytes of sequence number that travel in a secured message."""

    @property
    def max_random_padding(self) -> int:
        """Largest random padding inside a secured message, 0 for none."""

    @property
    def max_transport_padding(self) -> int:
        """Most bytes that the transport adds behind a message, plain or secured, to align it."""

    @property
    def max_message(self) -> int:
        """Largest SPDM message or secured message that a frame holds."""

    def wrap(self, message: bytes, secured: bool) -> bytes:
        """Make a transport frame of an SPDM message or of a secured message."""

    def unwrap(self, frame: bytes) -> tuple[bytes, bool]:
        """Give the message in a frame and whether it is secured; transport padding may follow the message."""

    def wrap_application(self, message: bytes) -> bytes:
        """Make the application data of a secured message from an SPDM message."""

    def unwrap_application(self, data: bytes) -> bytes:
        """Give the SPDM message in application data. Raises `OtherApplication` for another protocol's message."""
