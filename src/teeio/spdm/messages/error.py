"""ERROR and RESPOND_IF_READY (DSP0274)."""

from __future__ import annotations

from teeio.spdm.constants import ErrorCode
from teeio.spdm.messages.base import Request, Response, message
from teeio.wire import REST, Record, blob, record, u8


@message(0x7F, "ERROR")
class Error(Response):
    """Answer any request with an error."""

    error_code: int = u8("Error code", enum=ErrorCode)
    error_data: int = u8("Error data", default=0)
    extended: bytes = blob(REST, "ExtendedErrorData", default=b"")


@record
class ResponseNotReady(Record):
    """Extended error data of ResponseNotReady."""

    rdt_exponent: int = u8("Ready in 2^RDTExponent microseconds")
    request_code: int = u8("Code of the request that is being worked on")
    token: int = u8("Token for RESPOND_IF_READY")
    rdtm: int = u8("How many times the time may be waited for")


@message(0xFF, "RESPOND_IF_READY")
class RespondIfReady(Request[Response]):
    """Ask again for a response that was not ready; the original response answers it."""

    original_request_code: int = u8("Code of the original request")
    token: int = u8("Token")
