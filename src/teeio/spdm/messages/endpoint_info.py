"""GET_ENDPOINT_INFO (1.3), events (1.3) and SLOT_MANAGEMENT (1.4) with their responses (DSP0274)."""

from __future__ import annotations

from enum import IntEnum

from teeio.spdm.messages.base import Request, Response, message
from teeio.spdm.messages.svh import Event, EventGroup
from teeio.wire import REST, bits, blob, count_of, length_of, repeat, reserved, reserved_bits, u8, u16


class SlotManagementCode(IntEnum):
    """Sub codes of SLOT_MANAGEMENT (as proposed for the DMTF reference; UNCONFIRMED in DSP0274's text)."""

    SUPPORTED_SUB_CODES = 0x00
    GET_BANK_INFO = 0x01
    GET_BANK_DETAILS = 0x02
    GET_CERTIFICATE_CHAIN = 0x03
    GET_CSR = 0x04
    MANAGE_BANK = 0x20
    MANAGE_SLOT = 0x21
    SET_CERTIFICATE = 0x22


DEVICE_CLASS_IDENTIFIER = 1
"""The one sub code of GET_ENDPOINT_INFO that is defined."""


@message(0x87, "GET_ENDPOINT_INFO")
class GetEndpointInfo(Request["EndpointInfo"]):
    """Ask what the endpoint is."""

    sub_code: int = u8("1 device class identifier")
    slot: int = u8("SlotID")
    signature_requested: int = bits(1, "Signature wanted", of=1, default=0)
    _attributes: None = reserved_bits(7)
    _reserved: None = reserved(3)
    nonce: bytes = blob(32, "Requester's nonce", when="signature_requested", default=b"")


@message(0x07, "ENDPOINT_INFO")
class EndpointInfo(Response):
    """Answer GET_ENDPOINT_INFO."""

    _param1: None = reserved(1)
    slot: int = u8("SlotID")
    _reserved: None = reserved(4)
    nonce: bytes = blob("32 * signed", "Responder's nonce", default=b"")
    info_length: None = length_of("info", 4)
    info: bytes = blob("info_length", "Endpoint information")
    signature: bytes = blob("signature_size * signed", "Signature over IL1", default=b"")


@message(0xE2, "GET_SUPPORTED_EVENT_TYPES")
class GetSupportedEventTypes(Request["SupportedEventTypes"]):
    """Ask which events the responder sends."""

    _params: None = reserved(2)


@message(0x62, "SUPPORTED_EVENT_TYPES")
class SupportedEventTypes(Response):
    """Answer GET_SUPPORTED_EVENT_TYPES."""

    group_count: int = u8("EventGroupCount")
    _param2: None = reserved(1)
    groups_length: None = length_of("groups", 4)
    groups: tuple[EventGroup, ...] = repeat(EventGroup, "SupportedEventGroupsList", size="groups_length", default=())


@message(0xF0, "SUBSCRIBE_EVENT_TYPES")
class SubscribeEventTypes(Request["SubscribeEventTypesAck"]):
    """Subscribe to events."""

    group_count: int = u8("SubscribeEventGroupCount")
    _param2: None = reserved(1)
    groups_length: None = length_of("groups", 4, when="group_count")
    groups: tuple[EventGroup, ...] = repeat(
        EventGroup, "SubscribeList; absent to unsubscribe", size="groups_length", when="group_count", default=()
    )


@message(0x70, "SUBSCRIBE_EVENT_TYPES_ACK")
class SubscribeEventTypesAck(Response):
    """Answer SUBSCRIBE_EVENT_TYPES."""

    _params: None = reserved(2)


@message(0xF1, "SEND_EVENT")
class SendEvent(Request["EventAck"]):
    """Report events."""

    _params: None = reserved(2)
    event_count: None = count_of("events", 4)
    events: tuple[Event, ...] = repeat(Event, "Events", count="event_count")


@message(0x71, "EVENT_ACK")
class EventAck(Response):
    """Answer SEND_EVENT."""

    _params: None = reserved(2)


@message(0x88, "SLOT_MANAGEMENT")
class SlotManagement(Request["SlotManagementRsp"]):
    """Manage the certificate slots of every algorithm, in banks (1.4). UNCONFIRMED: what stands behind the header."""

    sub_code: int = u8("Sub code", enum=SlotManagementCode)
    _param2: None = reserved(1)
    structure_offset: int = u16("MgmtStructOffset: 8, or 0 without a structure", default=0)
    _reserved: None = reserved(2)
    details: bytes = blob(REST, "Structure of the sub code, undecoded", default=b"")


@message(0x08, "SLOT_MANAGEMENT_RSP")
class SlotManagementRsp(Response):
    """Answer SLOT_MANAGEMENT."""

    sub_code: int = u8("Sub code", enum=SlotManagementCode)
    _param2: None = reserved(1)
    structure_offset: int = u16("MgmtStructOffset: 8, or 0 without a structure", default=0)
    _reserved: None = reserved(2)
    details: bytes = blob(REST, "Structure of the sub code, undecoded", default=b"")
