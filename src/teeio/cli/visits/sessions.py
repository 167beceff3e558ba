"""Sessions: set-up by certificate and by pre-shared key, upkeep, what the responder asks in them, end."""

from __future__ import annotations

from teeio.cli.visits.visit import Visit
from teeio.errors import Misuse
from teeio.spdm import flows
from teeio.spdm.constants import Capability
from teeio.spdm.messages import DmtfEvent
from teeio.spdm.state import Session

MAX_ROUNDS = 32
"""Flows of the responder that are served one after the other before we go on with ours."""


def open_session(visit: Visit) -> None:
    """Set up a session by KEY_EXCHANGE and FINISH; the responder may make us prove our identity."""
    plan = visit.plan
    flow = flows.key_exchange(visit.requester, plan.slot, visit.summary_type, plan.session_policy)
    _opened(visit, "session", "session", visit.run(flow))


def open_psk_session(visit: Visit) -> None:
    """Set up a session on the pre-shared key. Raises `Misuse` without one."""
    plan = visit.plan
    if plan.psk is None:
        raise Misuse("there is no pre-shared key", remedy="give one as --psk HINT=HEX")
    flow = flows.psk_exchange(visit.requester, *plan.psk, visit.summary_type, plan.session_policy)
    _opened(visit, "psk_session", "session by PSK", visit.run(flow))


def quick_start(visit: Visit) -> None:
    """Begin anew with GET_VERSION alone on what the last END_SESSION preserved, and set up a session on the pre-shared key (CACHE)."""
    visit.run(flows.resume(visit.requester))
    open_psk_session(visit)


def _opened(visit: Visit, key: str, title: str, session: Session) -> None:
    visit.sessions.append(session)
    details = {
        "id": f"{session.session_id:#010x}",
        "heartbeat_period": session.heartbeat_period,
        "encrypted": session.encrypted,
        "mutual": session.requester_slot is not None,
    }
    ours = f", our slot {session.requester_slot} proven" if session.requester_slot is not None else ""
    plain = "" if session.encrypted else ", records are not encrypted"
    visit.done(key, details, title, f"{session.session_id:#010x} established{ours}{plain}")


def no_session(visit: Visit, reason: str) -> None:
    """Say that there is no session."""
    visit.done("session", None, "session", reason)


def keep_alive(visit: Visit) -> None:
    """Send a heartbeat, update the keys and answer what the responder asks, as far as both sides can."""
    common = visit.connection.common_capabilities
    if common & Capability.HBEAT:
        heartbeat(visit)
    if common & Capability.KEY_UPD:
        update_keys(visit)
    if common & Capability.ENCAP:
        serve(visit)


def heartbeat(visit: Visit) -> None:
    """Send a heartbeat."""
    visit.run(flows.heartbeat(visit.session))
    visit.done("heartbeat", True, "heartbeat", "acknowledged")


def update_keys(visit: Visit, *, both: bool = True) -> None:
    """Update the keys of both directions, or of requests only."""
    visit.run(flows.key_update(visit.requester, visit.session, both=both))
    what = "all keys" if both else "the request key"
    visit.done("key_update", "all" if both else "request", "key update", f"{what} updated and verified")


def serve(visit: Visit) -> None:
    """Answer what the responder wants to ask in the session, until it wants nothing more: new keys, events, what we are."""
    session, requester = visit.session, visit.requester
    before, known = session.response_key.secret, len(requester.events.received) if requester.events else 0
    rounds = 0
    while rounds < MAX_ROUNDS and visit.run(flows.serve_pending(requester, session)):
        rounds += 1
    received = requester.events.received[known:] if requester.events else []
    events = [
        {
            "instance_id": event.instance_id,
            "type": _event_name(event.type_id),
            "detail": event.detail.hex(),
        }
        for _, event in received
    ]
    renewed = session.response_key.secret != before
    found = {"flows": rounds, "response_key_renewed": renewed, "events": events}
    said = [f"{rounds} answered"] + ["a new response key"] * renewed + [f"event {event['type']}" for event in events]
    visit.done("served", found, "encapsulated requests", ", ".join(said) if rounds else "the responder asks nothing")


def _event_name(type_id: int) -> str:
    return DmtfEvent(type_id).name if type_id in tuple(DmtfEvent) else str(type_id)


def end(visit: Visit, *, clear: bool = False) -> None:
    """End the session opened last; `clear` lets a responder with CACHE forget what was negotiated."""
    session = visit.session
    visit.run(flows.end_session(visit.requester, session, clear_negotiated_state=clear))
    visit.done("session_ended", True, "end of session", "acknowledged")
