"""KEY_EXCHANGE and FINISH with their responses (DSP0274)."""

from __future__ import annotations

from teeio.spdm.constants import SummaryType, Version
from teeio.spdm.messages.base import Request, Response, message
from teeio.wire import bits, blob, length_of, reserved, reserved_bits, u8, u16


@message(0xE4, "KEY_EXCHANGE")
class KeyExchange(Request["KeyExchangeRsp"]):
    """Start a session authenticated by the responder's certificate."""

    summary_type: int = u8("Measurement summary hash wanted", enum=SummaryType)
    slot: int = u8("SlotID; 0xFF for the provisioned public key")
    req_session_id: int = u16("ReqSessionID")
    session_policy: int = u8("SessionPolicy", since=Version.V1_2, held=True, default=0)
    _reserved: None = reserved(1)
    random: bytes = blob(32, "RandomData")
    exchange_data: bytes = blob("request_exchange_size", "ExchangeData")
    opaque_length: None = length_of("opaque", 2)
    opaque: bytes = blob("opaque_length", "OpaqueData", default=b"")


@message(0x64, "KEY_EXCHANGE_RSP")
class KeyExchangeRsp(Response):
    """Answer KEY_EXCHANGE. Verify data is absent when the handshake is in the clear."""

    heartbeat_period: int = u8("HeartbeatPeriod in seconds", default=0)
    _param2: None = reserved(1)
    rsp_session_id: int = u16("RspSessionID")
    mut_auth_requested: int = u8("MutAuthRequested", default=0)
    req_slot: int = bits(4, "SlotIDParam", of=1, default=0)
    _slot: None = reserved_bits(4)
    random: bytes = blob(32, "RandomData")
    exchange_data: bytes = blob("response_exchange_size", "ExchangeData")
    summary: bytes = blob("summary_size", "MeasurementSummaryHash", default=b"")
    opaque_length: None = length_of("opaque", 2)
    opaque: bytes = blob("opaque_length", "OpaqueData", default=b"")
    signature: bytes = blob("signature_size", "Signature over the transcript up to the opaque data")
    verify_data: bytes = blob("hash_size * (not handshake_in_the_clear)", "ResponderVerifyData", default=b"")


@message(0xE5, "FINISH")
class Finish(Request["FinishRsp"]):
    """Complete the handshake of KEY_EXCHANGE."""

    signature_included: int = bits(1, "Signature is there", of=1, default=0)
    _param1: None = reserved_bits(7)
    req_slot: int = u8("ReqSlotID", default=0)
    opaque_length: None = length_of("opaque", 2, since=Version.V1_4)
    opaque: bytes = blob("opaque_length", "OpaqueData", since=Version.V1_4, default=b"")
    signature: bytes = blob("req_signature_size", "Requester's signature", when="signature_included", default=b"")
    verify_data: bytes = blob("hash_size", "RequesterVerifyData")


@message(0x65, "FINISH_RSP")
class FinishRsp(Response):
    """Answer FINISH. Verify data is there only when the handshake is in the clear."""

    _params: None = reserved(2)
    opaque_length: None = length_of("opaque", 2, since=Version.V1_4)
    opaque: bytes = blob("opaque_length", "OpaqueData", since=Version.V1_4, default=b"")
    verify_data: bytes = blob("hash_size * handshake_in_the_clear", "ResponderVerifyData", default=b"")
