"""What a responder wants of its requester besides mutual authentication: to report events, new keys, to know what it talks to.

A responder can only wait until the requester fetches an encapsulated request. When it does and nothing is pending, the responder's
wishes are asked in turn; the first that wants something makes it pending (DSP0274 GET_ENCAPSULATED_REQUEST).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from teeio.flow import Flow
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import EP_INFO_CAPABILITIES, Capability
from teeio.spdm.encapsulation import Counterpart, ask_requester
from teeio.spdm.response_key_update import renew_response_key
from teeio.spdm.state import Session, SessionPhase

if TYPE_CHECKING:
    from teeio.spdm.responder import Responder

MAX_EVENTS = 8
"""Events of one SEND_EVENT, so that the message stays small; the rest follows in the next one."""


def report_events(r: Responder, session_id: int | None) -> None:
    """Send what waits for the session; acknowledged events are forgotten."""
    session, events = _established(r, session_id), r.events
    if session is None or events is None:
        return
    key = r.event_key(session.session_id)
    waiting = events.waiting(key)[:MAX_EVENTS]

    def report(side: Counterpart) -> Flow[None]:
        yield from flows.send_event(session, waiting)
        events.acknowledge(key, waiting)

    if waiting:
        ask_requester(r, report, session_id)


@dataclass(slots=True)
class KeyRenewal:
    """New response keys for every session, once, as soon as the requester lets the responder ask."""

    _asked: list[Session] = field(default_factory=list)

    def __call__(self, r: Responder, session_id: int | None) -> None:
        """Ask for it, if this session has not been asked yet and has KEY_UPD."""
        session = _established(r, session_id)
        if session is None or not r.connection.common_capabilities & Capability.KEY_UPD:
            return
        # Identifiers come again when a session has ended, so the sessions themselves are remembered.
        if any(session is one for one in self._asked):
            return
        self._asked = [one for one in self._asked if one.phase is not SessionPhase.ENDED] + [session]
        renew_response_key(r, session.session_id)


@dataclass(slots=True)
class Acquaintance:
    """The requester's device class identifiers, asked for once a connection and told to `learned`. They are not signed."""

    learned: Callable[[tuple[m.DeviceClass, ...]], None]
    _asked: bool = False

    def __call__(self, r: Responder, session_id: int | None) -> None:
        """Ask for them, if the requester has any to tell."""
        handshake = session_id is not None and _established(r, session_id) is None
        if self._asked or handshake or not r.connection.requester_capabilities & EP_INFO_CAPABILITIES:
            return
        self._asked = True
        ask_requester(r, lambda side: self._learn(side), session_id)

    def _learn(self, side: Counterpart) -> Flow[None]:
        self.learned((yield from flows.get_endpoint_info(side, signed=False)))


def _established(r: Responder, session_id: int | None) -> Session | None:
    session = r.sessions.get(session_id) if session_id is not None else None
    return session if session is not None and session.phase is SessionPhase.ESTABLISHED else None
