"""What the responder does when it is asked about itself: measurement extension log, endpoint information, events (1.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from teeio.errors import Reject
from teeio.spdm import messages as m
from teeio.spdm.call import Call, encoded, sign
from teeio.spdm.constants import Capability, ErrorCode
from teeio.spdm.events import Events, problem_of_events
from teeio.spdm.messages.measurements import LOG_PORTION_OFFSET
from teeio.spdm.public_keys import from_four_bits, in_four_bits
from teeio.spdm.transcript import ENDPOINT_INFO_CONTEXT

if TYPE_CHECKING:
    from teeio.spdm.responder import Responder


def get_measurement_extension_log(r: Responder, request: m.GetMeasurementExtensionLog, call: Call) -> m.Response:
    """Give a portion of the log."""
    if not r.connection.mel_specification:
        raise Reject(ErrorCode.UNEXPECTED_REQUEST, "no MELspecification was negotiated (DSP0274 ALGORITHMS)")
    log = r.measurements.extension_log()
    if request.offset >= len(log) or not request.length:
        raise Reject(
            ErrorCode.INVALID_REQUEST,
            f"offset {request.offset} of {len(log)} bytes (DSP0274 GET_MEASUREMENT_EXTENSION_LOG)",
        )
    room = (r.connection.peer_data_transfer_size or 0x10000) - LOG_PORTION_OFFSET
    portion = log[request.offset :][: min(request.length, room)]
    return m.MeasurementExtensionLog(portion=portion, remainder_length=len(log) - request.offset - len(portion))


def get_endpoint_info(r: Responder, request: m.GetEndpointInfo, call: Call) -> m.Response:
    """Give the device class identifiers, signed (IL1) if asked for."""
    if request.sub_code != m.DEVICE_CLASS_IDENTIFIER:
        raise Reject(ErrorCode.INVALID_REQUEST, f"sub code {request.sub_code} (DSP0274 GET_ENDPOINT_INFO)")
    info = device_class_info(r.device_classes)
    if not request.signature_requested:
        return m.EndpointInfo(slot=0, info=info)
    if not r.connection.responder_capabilities & Capability.EP_INFO_SIG:
        raise Reject(
            ErrorCode.UNSUPPORTED_REQUEST,
            "endpoint information is not signed here (DSP0274 EP_INFO_CAP)",
            m.GetEndpointInfo.CODE,
        )
    slot = from_four_bits(request.slot)
    r.slot(slot)  # refuses where no signature algorithm was negotiated, too
    size = r.connection.asym.signature_size
    response = m.EndpointInfo(slot=in_four_bits(slot), nonce=r.entropy(32), info=info, signature=bytes(size))
    il1 = r.transcript.vca + call.request + encoded(r, request, response, size)
    response.signature = sign(r, slot, ENDPOINT_INFO_CONTEXT, il1)
    return response


def device_class_info(classes: tuple[m.DeviceClass, ...]) -> bytes:
    """Encode device class identifiers as endpoint information."""
    elements = tuple(m.DeviceClassElement(element=identifier.encode()) for identifier in classes)
    return m.DeviceClasses(elements=elements).encode()


def _events(r: Responder, call: Call, code: int) -> tuple[Events, int]:
    if r.events is None or call.session is None:
        raise Reject(ErrorCode.UNSUPPORTED_REQUEST, "this device has no events (DSP0274 EVENT_CAP)", code)
    return r.events, r.event_key(call.session.session_id)


def get_supported_event_types(r: Responder, request: m.GetSupportedEventTypes, call: Call) -> m.Response:
    """List the events that can be subscribed to."""
    events, _ = _events(r, call, request.CODE)
    return m.SupportedEventTypes(group_count=len(events.groups), groups=events.groups)


def subscribe_event_types(r: Responder, request: m.SubscribeEventTypes, call: Call) -> m.Response:
    """Replace the subscription of the session."""
    events, session_id = _events(r, call, request.CODE)
    if len(request.groups) != request.group_count:
        raise Reject(
            ErrorCode.INVALID_REQUEST,
            f"{len(request.groups)} groups, {request.group_count} announced (DSP0274 SUBSCRIBE_EVENT_TYPES)",
        )
    events.subscribe(session_id, request.groups)
    return m.SubscribeEventTypesAck()


def send_event(r: Responder, request: m.SendEvent, call: Call) -> m.Response:
    """Take in the requester's events."""
    events, _ = _events(r, call, request.CODE)
    problem = problem_of_events(request.events)
    if problem:
        raise Reject(ErrorCode.INVALID_REQUEST, f"{problem} (DSP0274 SEND_EVENT)")
    events.receive(call.session_id or 0, sorted(request.events, key=lambda event: event.instance_id))
    return m.EventAck()


INFORMATION_HANDLERS: Mapping[int, Callable[[Responder, Any, Call], m.Response]] = {
    m.GetMeasurementExtensionLog.CODE: get_measurement_extension_log,
    m.GetEndpointInfo.CODE: get_endpoint_info,
    m.GetSupportedEventTypes.CODE: get_supported_event_types,
    m.SubscribeEventTypes.CODE: subscribe_event_types,
    m.SendEvent.CODE: send_event,
}
"""Handlers by request code."""
