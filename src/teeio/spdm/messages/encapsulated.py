"""GET_ENCAPSULATED_REQUEST and DELIVER_ENCAPSULATED_RESPONSE with their responses (DSP0274, 1.1 and later)."""

from __future__ import annotations

from teeio.spdm.constants import Version
from teeio.spdm.messages.base import Request, Response, message
from teeio.wire import REST, blob, reserved, u8


@message(0xEA, "GET_ENCAPSULATED_REQUEST")
class GetEncapsulatedRequest(Request["EncapsulatedRequest"]):
    """Ask what the responder wants to ask."""

    _params: None = reserved(2)


@message(0x6A, "ENCAPSULATED_REQUEST")
class EncapsulatedRequest(Response):
    """Carry the responder's request."""

    request_id: int = u8("Request ID")
    _param2: None = reserved(1)
    inner: bytes = blob(REST, "Encapsulated request")


@message(0xEB, "DELIVER_ENCAPSULATED_RESPONSE")
class DeliverEncapsulatedResponse(Request["EncapsulatedResponseAck"]):
    """Carry the requester's response."""

    request_id: int = u8("Request ID")
    _param2: None = reserved(1)
    inner: bytes = blob(REST, "Encapsulated response")


@message(0x6B, "ENCAPSULATED_RESPONSE_ACK")
class EncapsulatedResponseAck(Response):
    """Acknowledge, and perhaps carry the next request."""

    request_id: int = u8("Request ID of the next request")
    payload_type: int = u8("0 none, 1 next request, 2 requester's slot")
    ack_request_id: int = u8("AckRequestID", since=Version.V1_2, default=0)
    _reserved: None = reserved(3, since=Version.V1_2)
    inner: bytes = blob(REST, "Next request or slot", default=b"")
