"""What a requester may ask a device about itself besides identity and measurements (DSP0274 1.3).

The measurement extension log, endpoint information, and events. What a signature covers has been verified.
"""

from __future__ import annotations

from collections.abc import Sequence

from teeio.errors import DecodeError, Misuse, PeerViolation
from teeio.flow import Flow
from teeio.spdm import messages as m
from teeio.spdm.asking import Asker
from teeio.spdm.events import problem_of_events
from teeio.spdm.exchange import Answer, ask, exchange
from teeio.spdm.flows.identity import verify_signature
from teeio.spdm.messages.measurements import LOG_PORTION_OFFSET
from teeio.spdm.public_keys import in_four_bits
from teeio.spdm.state import Session
from teeio.spdm.transcript import ENDPOINT_INFO_CONTEXT

MAX_LOG = 1 << 20
"""Largest measurement extension log that is read."""


def get_measurement_extension_log(requester: Asker, session: int | None = None) -> Flow[m.Log]:
    """Read the whole measurement extension log, in portions. Raises `PeerViolation` if they do not add up.

    Nothing signs the log: compare its extension (`device_state.extended`) with a signed HASH_EXTEND measurement.
    """
    limit = requester.settings.data_transfer_size - LOG_PORTION_OFFSET
    data = b""
    while True:
        response = yield from ask(m.GetMeasurementExtensionLog(offset=len(data), length=limit), session)
        data += response.portion
        if not response.portion or len(data) + response.remainder_length > MAX_LOG:
            raise PeerViolation(
                f"a portion without bytes, or a log beyond {MAX_LOG} bytes", "DSP0274 MEASUREMENT_EXTENSION_LOG"
            )
        if not response.remainder_length:
            break
    log = m.Log.decode(data)
    size = sum(len(entry.encode()) for entry in log.entries)
    if log.entries_length != size:
        raise DecodeError("Log", "entries_length", 4, f"says {log.entries_length} bytes, the entries have {size}")
    return log


def get_endpoint_info(
    requester: Asker, *, slot: int = 0, signed: bool = True, session: int | None = None
) -> Flow[tuple[m.DeviceClass, ...]]:
    """Get the device class identifiers; if `signed`, verify the signature over IL1 with the key of `slot`."""
    request = m.GetEndpointInfo(
        sub_code=m.DEVICE_CLASS_IDENTIFIER,
        slot=in_four_bits(slot) if signed else 0,
        signature_requested=int(signed),
        nonce=requester.entropy(32) if signed else b"",
    )
    answer: Answer[m.EndpointInfo] = yield from exchange(request, session)
    response = answer.message
    if signed:
        if in_four_bits(response.slot) != in_four_bits(slot):
            raise PeerViolation(f"slot {response.slot} signs for slot {slot}", "DSP0274 ENDPOINT_INFO")
        size = requester.connection.asym.signature_size
        il1 = requester.transcript.vca + answer.sent + answer.received[:-size]
        verify_signature(requester, slot, ENDPOINT_INFO_CONTEXT, il1, response.signature)
    elements = m.DeviceClasses.decode(response.info).elements
    return tuple(m.DeviceClass.decode(element.element) for element in elements)


def get_supported_event_types(session: Session) -> Flow[tuple[m.EventGroup, ...]]:
    """Get the groups of events that the responder raises."""
    response = yield from ask(m.GetSupportedEventTypes(), session.session_id)
    if len(response.groups) != response.group_count:
        raise PeerViolation(
            f"{len(response.groups)} event groups, {response.group_count} announced", "DSP0274 SUPPORTED_EVENT_TYPES"
        )
    return response.groups


def subscribe_event_types(session: Session, groups: Sequence[m.EventGroup] = ()) -> Flow[None]:
    """Subscribe `session` to event groups, replacing its subscription; without groups end it."""
    yield from ask(m.SubscribeEventTypes(group_count=len(groups), groups=tuple(groups)), session.session_id)


def send_event(session: Session, events: Sequence[m.Event]) -> Flow[None]:
    """Report events to the peer. Raises `Misuse` for events that no peer may accept."""
    problem = problem_of_events(events)
    if problem:
        raise Misuse(f"these events cannot be sent: {problem} (DSP0274 SEND_EVENT)")
    yield from ask(m.SendEvent(events=tuple(events)), session.session_id)
