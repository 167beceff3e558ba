"""The standards-body header and what is named by it: event groups and events, device class identifiers (DSP0274 1.3)."""

from __future__ import annotations

from enum import IntEnum

from teeio.wire import Record, bits, blob, count_of, length_of, record, repeat, reserved, reserved_bits, u8, u16, u32

DMTF_REGISTRY = 0
"""ID of the DMTF's own registry, which has no vendor ids."""

EVENT_GROUP_VERSION = 1


class DmtfEvent(IntEnum):
    """EventTypeId of the DMTF event group."""

    EVENT_LOST = 1
    MEASUREMENT_CHANGED = 2
    MEASUREMENT_PRE_UPDATE = 3
    CERTIFICATE_CHANGED = 4


EVENT_DETAIL_SIZES = {
    DmtfEvent.EVENT_LOST: 8,
    DmtfEvent.MEASUREMENT_CHANGED: 32,
    DmtfEvent.MEASUREMENT_PRE_UPDATE: 32,
    DmtfEvent.CERTIFICATE_CHANGED: 1,
}
"""Bytes of EventDetail of each DMTF event."""


@record
class EventType(Record):
    """One type in an event group."""

    type_id: int = u16("EventTypeId")
    _reserved: None = reserved(2)


@record
class EventGroup(Record):
    """A group of event types; in a subscription the types wanted of it, or all of them."""

    registry: int = u8("EventGroupId: registry", default=DMTF_REGISTRY)
    vendor_length: None = length_of("vendor", 1)
    vendor: bytes = blob("vendor_length", "EventGroupId: vendor id", default=b"")
    type_count: None = count_of("types", 2)
    group_version: int = u16("EventGroupVer", default=EVENT_GROUP_VERSION)
    all_types: int = bits(1, "All types of the group, in a subscription", of=4, default=0)
    _attributes: None = reserved_bits(31)
    types: tuple[EventType, ...] = repeat(EventType, "Event types", count="type_count", default=())


@record
class Event(Record):
    """One event that has happened."""

    instance_id: int = u32("EventInstanceId")
    _reserved: None = reserved(4)
    registry: int = u8("EventGroupId: registry", default=DMTF_REGISTRY)
    vendor_length: None = length_of("vendor", 1)
    vendor: bytes = blob("vendor_length", "EventGroupId: vendor id", default=b"")
    type_id: int = u16("EventTypeId")
    detail_length: None = length_of("detail", 2)
    detail: bytes = blob("detail_length", "EventDetail")


@record
class SubordinateId(Record):
    """A subordinate identifier of a device class identifier."""

    length: None = length_of("identifier", 1)
    identifier: bytes = blob("length", "Subordinate identifier")


@record
class DeviceClass(Record):
    """What follows the element length of a device class identifier."""

    registry: int = u8("Registry", default=DMTF_REGISTRY)
    vendor_length: None = length_of("vendor", 1)
    vendor: bytes = blob("vendor_length", "Vendor id", default=b"")
    subordinate_count: None = count_of("subordinates", 1)
    subordinates: tuple[SubordinateId, ...] = repeat(
        SubordinateId, "Subordinate identifiers", count="subordinate_count", default=()
    )


@record
class DeviceClassElement(Record):
    """A device class identifier with its length."""

    element_length: None = length_of("element", 1)
    element: bytes = blob("element_length", "DeviceClass")


@record
class DeviceClasses(Record):
    """Endpoint information of sub code 1: the device class identifiers."""

    element_count: None = count_of("elements", 1)
    _reserved: None = reserved(3)
    elements: tuple[DeviceClassElement, ...] = repeat(
        DeviceClassElement, "Device class identifiers", count="element_count", default=()
    )
