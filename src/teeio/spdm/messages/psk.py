"""PSK_EXCHANGE and PSK_FINISH with their responses (DSP0274)."""

from __future__ import annotations

from teeio.spdm.constants import SummaryType, Version
from teeio.spdm.messages.base import Request, Response, message
from teeio.wire import blob, length_of, reserved, u8, u16


@message(0xE6, "PSK_EXCHANGE")
class PskExchange(Request["PskExchangeRsp"]):
    """Start a session on a pre-shared key."""

    summary_type: int = u8("Measurement summary hash wanted", enum=SummaryType)
    session_policy: int = u8("SessionPolicy", since=Version.V1_2, held=True, default=0)
    req_session_id: int = u16("ReqSessionID")
    hint_length: None = length_of("hint", 2)
    context_length: None = length_of("context", 2)
    opaque_length: None = length_of("opaque", 2)
    hint: bytes = blob("hint_length", "PSKHint")
    context: bytes = blob("context_length", "RequesterContext")
    opaque: bytes = blob("opaque_length", "OpaqueData", default=b"")


@message(0x66, "PSK_EXCHANGE_RSP")
class PskExchangeRsp(Response):
    """Answer PSK_EXCHANGE. Without a context, the session is established at once."""

    heartbeat_period: int = u8("HeartbeatPeriod in seconds", default=0)
    _param2: None = reserved(1)
    rsp_session_id: int = u16("RspSessionID")
    _reserved: None = reserved(2)
    context_length: None = length_of("context", 2)
    opaque_length: None = length_of("opaque", 2)
    summary: bytes = blob("summary_size", "MeasurementSummaryHash", default=b"")
    context: bytes = blob("context_length", "ResponderContext")
    opaque: bytes = blob("opaque_length", "OpaqueData", default=b"")
    verify_data: bytes = blob("hash_size", "ResponderVerifyData")


@message(0xE7, "PSK_FINISH")
class PskFinish(Request["PskFinishRsp"]):
    """Complete the handshake of PSK_EXCHANGE."""

    _params: None = reserved(2)
    opaque_length: None = length_of("opaque", 2, since=Version.V1_4)
    opaque: bytes = blob("opaque_length", "OpaqueData", since=Version.V1_4, default=b"")
    verify_data: bytes = blob("hash_size", "RequesterVerifyData")


@message(0x67, "PSK_FINISH_RSP")
class PskFinishRsp(Response):
    """Answer PSK_FINISH."""

    _params: None = reserved(2)
    opaque_length: None = length_of("opaque", 2, since=Version.V1_4)
    opaque: bytes = blob("opaque_length", "OpaqueData", since=Version.V1_4, default=b"")
