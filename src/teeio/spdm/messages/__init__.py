"""All SPDM messages: one file per exchange, request and response together."""

from teeio.spdm.messages.algorithms import (
    Algorithms,
    AlgorithmTable,
    AlgType,
    NegotiateAlgorithms,
    SupportedAlgorithms,
    selected,
)
from teeio.spdm.messages.base import Facts, Header, Message, Request, Response, declared, decode, header, name_of
from teeio.spdm.messages.capabilities import Capabilities, GetCapabilities
from teeio.spdm.messages.certificate import Certificate, GetCertificate
from teeio.spdm.messages.challenge import Challenge, ChallengeAuth
from teeio.spdm.messages.chunk import ChunkGet, ChunkResponse, ChunkSend, ChunkSendAck
from teeio.spdm.messages.digests import Digests, GetDigests
from teeio.spdm.messages.encapsulated import (
    DeliverEncapsulatedResponse,
    EncapsulatedRequest,
    EncapsulatedResponseAck,
    GetEncapsulatedRequest,
)
from teeio.spdm.messages.endpoint_info import (
    DEVICE_CLASS_IDENTIFIER,
    EndpointInfo,
    EventAck,
    GetEndpointInfo,
    GetSupportedEventTypes,
    SendEvent,
    SlotManagement,
    SlotManagementCode,
    SlotManagementRsp,
    SubscribeEventTypes,
    SubscribeEventTypesAck,
    SupportedEventTypes,
)
from teeio.spdm.messages.error import Error, RespondIfReady, ResponseNotReady
from teeio.spdm.messages.key_exchange import Finish, FinishRsp, KeyExchange, KeyExchangeRsp
from teeio.spdm.messages.measurements import (
    GetMeasurementExtensionLog,
    GetMeasurements,
    Log,
    LogEntry,
    MeasurementBlock,
    MeasurementExtensionLog,
    Measurements,
    MeasurementType,
    decode_blocks,
)
from teeio.spdm.messages.provisioning import (
    Csr,
    GetCsr,
    GetKeyPairInfo,
    KeyPairInfo,
    SetCertificate,
    SetCertificateRsp,
    SetKeyPairInfo,
    SetKeyPairInfoAck,
)
from teeio.spdm.messages.psk import PskExchange, PskExchangeRsp, PskFinish, PskFinishRsp
from teeio.spdm.messages.session import EndSession, EndSessionAck, Heartbeat, HeartbeatAck, KeyUpdate, KeyUpdateAck
from teeio.spdm.messages.svh import (
    EVENT_DETAIL_SIZES,
    DeviceClass,
    DeviceClassElement,
    DeviceClasses,
    DmtfEvent,
    Event,
    EventGroup,
    EventType,
    SubordinateId,
)
from teeio.spdm.messages.vendor_defined import StandardsBody, VendorDefinedRequest, VendorDefinedResponse
from teeio.spdm.messages.version import GetVersion, VersionResponse

__all__ = [
    "DEVICE_CLASS_IDENTIFIER", "EVENT_DETAIL_SIZES", "AlgType", "AlgorithmTable", "Algorithms", "Capabilities",
    "Certificate", "Challenge", "ChallengeAuth", "ChunkGet", "ChunkResponse", "ChunkSend", "ChunkSendAck", "Csr",
    "DeliverEncapsulatedResponse", "DeviceClass", "DeviceClassElement", "DeviceClasses", "Digests", "DmtfEvent",
    "EncapsulatedRequest", "EncapsulatedResponseAck", "EndSession", "EndSessionAck", "EndpointInfo", "Error", "Event",
    "EventAck", "EventGroup", "EventType", "Facts", "Finish", "FinishRsp", "GetCapabilities", "GetCertificate",
    "GetCsr", "GetDigests", "GetEncapsulatedRequest", "GetEndpointInfo", "GetKeyPairInfo",
    "GetMeasurementExtensionLog", "GetMeasurements", "GetSupportedEventTypes", "GetVersion", "Header", "Heartbeat",
    "HeartbeatAck", "KeyExchange", "KeyExchangeRsp", "KeyPairInfo", "KeyUpdate", "KeyUpdateAck", "Log", "LogEntry",
    "MeasurementBlock", "MeasurementExtensionLog", "MeasurementType", "Measurements", "Message",
    "NegotiateAlgorithms", "PskExchange", "PskExchangeRsp", "PskFinish", "PskFinishRsp", "Request", "RespondIfReady",
    "Response", "ResponseNotReady", "SendEvent", "SetCertificate", "SetCertificateRsp", "SetKeyPairInfo",
    "SetKeyPairInfoAck", "SlotManagement", "SlotManagementCode", "SlotManagementRsp", "StandardsBody", "SubordinateId",
    "SubscribeEventTypes", "SubscribeEventTypesAck", "SupportedAlgorithms", "SupportedEventTypes", "VendorDefinedRequest",
    "VendorDefinedResponse", "VersionResponse", "declared", "decode", "decode_blocks", "header", "name_of",
    "selected",
]  # fmt: skip
