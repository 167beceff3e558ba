"""Other protocols in VENDOR_DEFINED messages: IDE_KM and TDISP of PCI-SIG, CXL's own.

The payload of PCI-SIG and CXL begins with a protocol id byte (PCIe Base 6, "IDE_KM", "TDISP message transport").
"""

from __future__ import annotations

from typing import Any, Protocol

from teeio.errors import PeerViolation
from teeio.flow import Flow
from teeio.spdm.exchange import ask
from teeio.spdm.messages import VendorDefinedRequest


class VendorProtocol(Protocol):
    """A responder of a protocol inside VENDOR_DEFINED messages; it only ever sees messages of a session."""

    @property
    def standard_id(self) -> int:
        """The registry: StandardID."""

    @property
    def vendor_id(self) -> bytes:
        """VendorID as it travels."""

    @property
    def protocol_id(self) -> int:
        """First byte of the payload."""

    def respond(self, session_id: int, message: bytes, now: float) -> bytes | None:
        """Answer the bytes after the protocol id; None drops the request silently. Never raises."""

    def session_ended(self, session_id: int) -> None:
        """Learn that a session is over, whatever ended it."""


def vendor_exchange(standard_id: int, vendor_id: bytes, payload: bytes, *, large: bool = False) -> Flow[bytes]:
    """Send `payload` (protocol id included) and return the response's payload.

    `large` is the form of 1.4 with a 32-bit length, for which both sides need LARGE_RESP. Raises `PeerViolation` if the response
    names another registry or vendor.
    """
    form: dict[str, Any] = {"large": 1, "large_payload": payload} if large else {"payload": payload}
    response = yield from ask(VendorDefinedRequest(standard_id=standard_id, vendor_id=vendor_id, **form))
    if response.standard_id != standard_id or response.vendor_id != vendor_id:
        raise PeerViolation(
            f"VENDOR_DEFINED_RESPONSE is of registry {response.standard_id:#x}, vendor {response.vendor_id.hex()}",
            "DSP0274 VENDOR_DEFINED_RESPONSE",
        )
    return response.large_payload if response.large else response.payload
