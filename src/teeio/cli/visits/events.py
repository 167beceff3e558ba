"""Events of the responder: which there are, and subscribing to them. They come by `sessions.serve`."""

from __future__ import annotations

from dataclasses import replace

from teeio.cli.visits.visit import Visit
from teeio.errors import Misuse
from teeio.spdm import flows
from teeio.spdm.messages import DmtfEvent, Event, EventGroup, EventType

ALL = "all"
NONE = "none"


def list_event_types(visit: Visit) -> None:
    """Ask which events the responder raises."""
    groups = visit.run(flows.get_supported_event_types(visit.session))
    found = [
        {
            "registry": group.registry,
            "vendor": group.vendor.hex(),
            "version": group.group_version,
            "types": [_name(kind.type_id) for kind in group.types],
        }
        for group in groups
    ]
    note = ", ".join(_name(kind.type_id) for group in groups for kind in group.types)
    visit.done("event_types", found, "event types", note)


def _name(type_id: int) -> str:
    return DmtfEvent(type_id).name if type_id in tuple(DmtfEvent) else str(type_id)


def parse_types(text: str) -> tuple[EventGroup, ...] | None:
    """Read what to subscribe to: None for all that there are, () for nothing. Raises `Misuse`."""
    wanted = text.strip().lower()
    if wanted in ("", ALL):
        return None
    if wanted == NONE:
        return ()
    names = [part.strip().upper().replace("-", "_") for part in text.split("+")]
    unknown = [name for name in names if name not in DmtfEvent.__members__]
    if unknown:
        raise Misuse(
            f"subscribe: {', '.join(unknown)} is no event type",
            remedy=f"known are {', '.join(DmtfEvent.__members__)}, {ALL} and {NONE}",
        )
    return (EventGroup(types=tuple(EventType(type_id=DmtfEvent[name]) for name in names)),)


def subscribe(visit: Visit, wanted: tuple[EventGroup, ...] | None) -> None:
    """Subscribe the session to events, in place of what it was subscribed to; None is all that the responder raises."""
    if wanted is None:
        offered = visit.run(flows.get_supported_event_types(visit.session))
        wanted = tuple(replace(group, all_types=1, types=()) for group in offered)
    visit.run(flows.subscribe_event_types(visit.session, wanted))
    names = [ALL if group.all_types else _name(kind.type_id) for group in wanted for kind in group.types or [_ANY]]
    visit.done("subscribed", names, "subscription", ", ".join(names) or "ended")


def send(visit: Visit, kind: DmtfEvent, detail: bytes) -> None:
    """Report an event of ours to the responder."""
    visit.run(flows.send_event(visit.session, [Event(instance_id=0, type_id=kind, detail=detail)]))
    visit.done("event_sent", kind.name, "event", f"{kind.name} acknowledged")


_ANY = EventType(type_id=0)
