"""Other protocols inside VENDOR_DEFINED messages: which decoder reads which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

from teeio import cxl
from teeio.cxl import ide_km as cxl_ide_km
from teeio.cxl import tsp_messages as tsp
from teeio.errors import DecodeError
from teeio.ide_km import messages as ide_km
from teeio.spdm.messages import VendorDefinedRequest, VendorDefinedResponse
from teeio.tdisp import messages as tdisp
from teeio.wire import Record


class _Named(Protocol):
    NAME: ClassVar[str]


@dataclass(frozen=True, slots=True)
class VendorMessage:
    """A message inside a VENDOR_DEFINED message; `error` says why it was not decoded, or is "".

    `structure` is what a message carries in its turn: the TDI report in DEVICE_INTERFACE_REPORT.
    """

    protocol: str
    name: str
    raw: bytes = field(repr=False)
    message: Record | None = None
    error: str = ""
    structure: Record | None = None


@dataclass(frozen=True, slots=True)
class VendorDecoder:
    """A protocol that rides in VENDOR_DEFINED messages: its decoder, its messages by code, and where the code lies."""

    name: str
    decode: Callable[[bytes], Record]
    by_code: Mapping[int, type[_Named]]
    code_at: int

    def name_of(self, data: bytes) -> str:
        """Give the name of a message that may not decode."""
        if len(data) <= self.code_at:
            return ""
        found = self.by_code.get(data[self.code_at])
        return found.NAME if found else f"{data[self.code_at]:#04x}"


DECODERS: dict[tuple[int, bytes, int], VendorDecoder] = {
    (ide_km.STANDARD_ID, ide_km.VENDOR_ID, ide_km.PROTOCOL_ID): VendorDecoder(
        "IDE_KM", ide_km.decode_message, ide_km.BY_CODE, 0
    ),
    (tdisp.STANDARD_ID, tdisp.VENDOR_ID, tdisp.PROTOCOL_ID): VendorDecoder(
        "TDISP", tdisp.decode_message, tdisp.BY_CODE, 1
    ),
    (cxl.STANDARD_ID, cxl.VENDOR_ID, cxl_ide_km.PROTOCOL_ID): VendorDecoder(
        "CXL_IDE_KM", cxl_ide_km.decode_message, cxl_ide_km.BY_CODE, 0
    ),
    (cxl.STANDARD_ID, cxl.VENDOR_ID, tsp.PROTOCOL_ID): VendorDecoder("CXL_TSP", tsp.decode_message, tsp.BY_CODE, 1),
}
"""Decoders by StandardID, VendorID and the payload's first byte."""


def decode_vendor(message: VendorDefinedRequest | VendorDefinedResponse) -> VendorMessage | None:
    """Decode what a VENDOR_DEFINED message carries; None if it carries nothing."""
    payload = message.large_payload or message.payload
    if not payload:
        return None
    decoder = DECODERS.get((int(message.standard_id), message.vendor_id, payload[0]))
    if decoder is None:
        registry = f"registry {int(message.standard_id):#x}, vendor {message.vendor_id.hex() or 'none'}"
        return VendorMessage("unknown", "", payload, error=f"no decoder for {registry}, protocol {payload[0]:#04x}")
    data = payload[1:]
    try:
        return VendorMessage(decoder.name, decoder.name_of(data), data, decoder.decode(data))
    except DecodeError as error:
        return VendorMessage(decoder.name, decoder.name_of(data), data, error=str(error))


class ReportAssembly:
    """The TDI report of one session, put together from the portions in which GET_DEVICE_INTERFACE_REPORT reads it."""

    def __init__(self) -> None:
        self._report = bytearray()
        self._function_id = -1

    def complete(self, answer: VendorMessage, asked: VendorMessage | None) -> VendorMessage:
        """Add the report to the answer that carries its last portion; any other answer is given back as it is."""
        message, request = answer.message, asked.message if asked else None
        if not isinstance(message, tdisp.DeviceInterfaceReportResponse):
            return answer
        if not isinstance(request, tdisp.GetDeviceInterfaceReport):
            return answer
        if request.offset == 0:
            self._report.clear()
            self._function_id = request.function_id
        if request.offset != len(self._report) or request.function_id != self._function_id:
            return answer
        self._report += message.portion
        if message.remainder_length:
            return answer
        try:
            return replace(answer, structure=tdisp.DeviceInterfaceReport.decode(bytes(self._report)))
        except DecodeError as error:
            return replace(answer, error=str(error))
