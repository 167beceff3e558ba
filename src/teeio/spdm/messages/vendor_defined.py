"""VENDOR_DEFINED_REQUEST and VENDOR_DEFINED_RESPONSE (DSP0274), their large form of 1.4 included."""

from __future__ import annotations

from enum import IntEnum

from teeio.spdm.constants import Version
from teeio.spdm.messages.base import Request, Response, message
from teeio.wire import bits, blob, length_of, reserved, reserved_bits, u16


class StandardsBody(IntEnum):
    """StandardID: the registry that VendorID belongs to."""

    DMTF = 0x0
    TCG = 0x1
    USB = 0x2
    PCI_SIG = 0x3
    IANA = 0x4
    HDBASET = 0x5
    MIPI = 0x6
    CXL = 0x7
    JEDEC = 0x8
    VESA = 0x9
    IANA_CBOR = 0xA
    DMTF_DSP = 0xB


@message(0xFE, "VENDOR_DEFINED_REQUEST")
class VendorDefinedRequest(Request["VendorDefinedResponse"]):
    """Carry another protocol's request."""

    _param1: None = reserved_bits(7, of=1)
    large: int = bits(1, "Large payload", since=Version.V1_4, default=0)
    _param2: None = reserved(1)
    standard_id: int = u16("StandardID", enum=StandardsBody)
    vendor_id_length: None = length_of("vendor_id", 1)
    vendor_id: bytes = blob("vendor_id_length", "VendorID")
    payload_length: None = length_of("payload", 2)
    large_payload_length: None = length_of("large_payload", 4, when="large", since=Version.V1_4)
    payload: bytes = blob(
        "payload_length", "Payload; in the large form the length before it is reserved", when="not large", default=b""
    )
    large_payload: bytes = blob("large_payload_length", "Payload", when="large", since=Version.V1_4, default=b"")


@message(0x7E, "VENDOR_DEFINED_RESPONSE")
class VendorDefinedResponse(Response):
    """Carry another protocol's response."""

    _param1: None = reserved_bits(7, of=1)
    large: int = bits(1, "Large payload", since=Version.V1_4, default=0)
    _param2: None = reserved(1)
    standard_id: int = u16("StandardID", enum=StandardsBody)
    vendor_id_length: None = length_of("vendor_id", 1)
    vendor_id: bytes = blob("vendor_id_length", "VendorID")
    payload_length: None = length_of("payload", 2)
    large_payload_length: None = length_of("large_payload", 4, when="large", since=Version.V1_4)
    payload: bytes = blob(
        "payload_length", "Payload; in the large form the length before it is reserved", when="not large", default=b""
    )
    large_payload: bytes = blob("large_payload_length", "Payload", when="large", since=Version.V1_4, default=b"")
