"""Events of a device (DSP0274 1.3): which there are, who has subscribed to them, what waits to be sent, what has come.

One object serves all connections of a device. How events leave a responder (SEND_EVENT inside an encapsulated request) is not
here; `waiting` and `acknowledge` are what it needs. Groups of other registries than the DMTF's are carried but never raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from teeio.errors import Reject
from teeio.spdm.constants import ErrorCode
from teeio.spdm.messages import EVENT_DETAIL_SIZES, DmtfEvent, Event, EventGroup, EventType

MAX_WAITING = 64
"""Events that wait for one session before they are replaced by EventLost."""

MAX_RECEIVED = 256
"""Received events that are kept; the oldest go first."""

DMTF_EVENTS = EventGroup(types=tuple(EventType(type_id=kind) for kind in DmtfEvent))
"""The group that every notifier has."""

Subscription = frozenset[int]
"""The DMTF event types that a session wants."""


def subscriber(connection: int, session_id: int) -> int:
    """Give the number by which `Events` knows a session: session ids repeat on every connection."""
    return connection << 32 | session_id


def problem_of_events(events: Sequence[Event]) -> str:
    """Say what is wrong with the events of a SEND_EVENT, or ""."""
    if not events:
        return "at least one event is sent"
    for event in events:
        if event.registry == DMTF_EVENTS.registry:
            size = EVENT_DETAIL_SIZES.get(event.type_id)  # type: ignore[call-overload]
            if event.vendor or size is None:
                return f"type {event.type_id} is no DMTF event"
            if len(event.detail) != size:
                return f"{DmtfEvent(event.type_id).name} has {size} bytes of detail, not {len(event.detail)}"
    numbers = sorted(event.instance_id for event in events)
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return "event instance ids have gaps or repeat"
    return ""


@dataclass(slots=True)
class Events:
    """Events raised by and sent to one device. `supported` are the types it raises."""

    supported: tuple[DmtfEvent, ...] = tuple(DmtfEvent)
    subscriptions: dict[int, Subscription] = field(default_factory=dict)
    received: list[tuple[int, Event]] = field(default_factory=list)
    _queues: dict[int, list[Event]] = field(default_factory=dict)
    _next: dict[int, int] = field(default_factory=dict)
    _connections: int = 0

    def connection(self) -> int:
        """Give a new connection its number; sessions are known here by `subscriber`."""
        self._connections += 1
        return self._connections - 1

    @property
    def groups(self) -> tuple[EventGroup, ...]:
        """What SUPPORTED_EVENT_TYPES lists; EventLost is always in it."""
        kinds = sorted({DmtfEvent.EVENT_LOST, *self.supported})
        return (replace(DMTF_EVENTS, types=tuple(EventType(type_id=kind) for kind in kinds)),)

    def subscribe(self, session_id: int, groups: Iterable[EventGroup]) -> None:
        """Replace the subscription of a session; no groups end it. Refuses what is not supported, changing nothing."""
        offered = self.groups[0]
        wanted: set[int] = set()
        for group in groups:
            if (group.registry, group.vendor, group.group_version) != (
                offered.registry,
                offered.vendor,
                offered.group_version,
            ):
                raise Reject(ErrorCode.INVALID_REQUEST, "an event group that is not supported (DSP0274 events)")
            if bool(group.all_types) == bool(group.types):
                raise Reject(ErrorCode.INVALID_REQUEST, "either all types of a group or some (DSP0274 events)")
            kinds = {kind.type_id for kind in (offered.types if group.all_types else group.types)}
            if not kinds <= {kind.type_id for kind in offered.types}:
                raise Reject(ErrorCode.INVALID_REQUEST, "an event type that is not supported (DSP0274 events)")
            wanted |= kinds
        self.session_ended(session_id)
        if wanted:
            self.subscriptions[session_id] = frozenset(wanted)

    def subscribe_to_all(self, session_id: int) -> None:
        """Subscribe to everything, as the session policy of KEY_EXCHANGE may ask."""
        self.subscribe(session_id, [replace(DMTF_EVENTS, all_types=1, types=())])

    def session_ended(self, session_id: int) -> None:
        """Forget a session's subscription and what waits for it."""
        for kept in (self.subscriptions, self._queues, self._next):
            kept.pop(session_id, None)

    def happened(self, kind: DmtfEvent, detail: bytes) -> None:
        """Put an event into the queue of every session that has subscribed to it."""
        for session_id, wanted in self.subscriptions.items():
            if kind not in wanted:
                continue
            queue = self._queues.setdefault(session_id, [])
            number = self._next.get(session_id, 0)
            self._next[session_id] = number + 1
            if len(queue) == MAX_WAITING:
                acknowledged = max(queue[0].instance_id - 1, 0)
                lost = b"".join(value.to_bytes(4, "little") for value in (acknowledged, number))
                queue[:] = [Event(instance_id=number, type_id=DmtfEvent.EVENT_LOST, detail=lost)]
            else:
                queue.append(Event(instance_id=number, type_id=kind, detail=detail))

    def waiting(self, session_id: int) -> tuple[Event, ...]:
        """Give what waits to be sent in a session, oldest first."""
        return tuple(self._queues.get(session_id, ()))

    def acknowledge(self, session_id: int, events: Iterable[Event]) -> None:
        """Take events that the peer has acknowledged from the queue."""
        gone = {event.instance_id for event in events}
        queue = self._queues.get(session_id, [])
        queue[:] = [event for event in queue if event.instance_id not in gone]

    def receive(self, session_id: int, events: Iterable[Event]) -> None:
        """Take in what the peer has sent."""
        self.received = [*self.received, *((session_id, event) for event in events)][-MAX_RECEIVED:]
