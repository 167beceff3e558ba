"""The manufacturer's own TDISP messages: VDM_REQUEST with its PCI vendor ID (PCIe Base 11.3.25).

There is one command, which tells the firmware's version; every other vendor or command is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from teeio.device.identity import Firmware
from teeio.errors import Reject
from teeio.tdisp.messages import ErrorCode, VdmRequest, VdmResponse

PCI_SIG_REGISTRY = 0
"""REGISTRY_ID of PCI-SIG, whose vendor IDs have two bytes."""


class VendorCommand(IntEnum):
    """First byte of the vendor data."""

    FIRMWARE_VERSION = 1


class VendorMessages:
    """Answers for one device; `firmware` gives what runs now."""

    def __init__(self, vendor_id: int, firmware: Callable[[], Firmware]) -> None:
        self._vendor_id = vendor_id.to_bytes(2, "little")
        self._firmware = firmware

    def __call__(self, request: VdmRequest, session_id: int) -> VdmResponse:
        """Answer one request. Raises `Reject`."""
        if (request.registry_id, request.vendor_id) != (PCI_SIG_REGISTRY, self._vendor_id):
            raise Reject(
                ErrorCode.INVALID_REQUEST, f"vendor {request.vendor_id.hex()} is not known (PCIe Base 11.3.25)"
            )
        if request.data != bytes([VendorCommand.FIRMWARE_VERSION]):
            raise Reject(ErrorCode.INVALID_REQUEST, f"vendor data {request.data[:8].hex()} is no command")
        answer = request.data + self._firmware().version.encode()
        return VdmResponse(
            function_id=request.function_id, registry_id=PCI_SIG_REGISTRY, vendor_id=self._vendor_id, data=answer
        )
