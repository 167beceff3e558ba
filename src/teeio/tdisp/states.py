"""The TDI state table: what each request and each event does in each state (PCIe Base 11.2, 11.3.1, 11.4).

One row for each request and one for each event. The interface, the responder, the tests and the documentation all
read these rows. What a request needs beyond the state is in `preconditions.py`; what TLPs each state allows is in
`tlp_rules.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from teeio.tdisp.messages import ErrorCode, InterfaceState, MessageType

UNLOCKED = InterfaceState.CONFIG_UNLOCKED
LOCKED = InterfaceState.CONFIG_LOCKED
RUN = InterfaceState.RUN
ERROR = InterfaceState.ERROR
ANY = frozenset(InterfaceState)

GENERIC_ERRORS = (
    ErrorCode.INVALID_REQUEST,
    ErrorCode.VERSION_MISMATCH,
    ErrorCode.BUSY,
    ErrorCode.UNSPECIFIED,
    ErrorCode.VENDOR_SPECIFIC_ERROR,
    ErrorCode.INVALID_INTERFACE,
)
"""Errors that may answer any request (11.3.3)."""


@dataclass(frozen=True, slots=True)
class RequestRule:
    """One request: the states in which it is legal, and where success leads.

    `next_state` None means the state stays. `errors` are those of the request itself, beside `GENERIC_ERRORS`. A
    `session_bound` request to a locked TDI is accepted only from the SPDM session that locked it.
    """

    request: MessageType
    legal: frozenset[InterfaceState]
    clause: str
    next_state: InterfaceState | None = None
    errors: tuple[ErrorCode, ...] = ()
    mandatory: bool = True
    session_bound: bool = False


_WRONG_STATE = ErrorCode.INVALID_INTERFACE_STATE
_ROWS = (
    RequestRule(MessageType.GET_TDISP_VERSION, ANY, "11.3.4"),
    RequestRule(MessageType.GET_TDISP_CAPABILITIES, ANY, "11.3.6"),
    RequestRule(
        MessageType.LOCK_INTERFACE_REQUEST,
        frozenset({UNLOCKED}),
        "11.3.8",
        next_state=LOCKED,
        errors=(
            ErrorCode.INVALID_REQUEST,
            _WRONG_STATE,
            ErrorCode.INSUFFICIENT_ENTROPY,
            ErrorCode.INVALID_DEVICE_CONFIGURATION,
        ),
    ),
    RequestRule(
        MessageType.GET_DEVICE_INTERFACE_REPORT,
        frozenset({LOCKED, RUN}),
        "11.3.10",
        errors=(ErrorCode.INVALID_REQUEST, _WRONG_STATE),
        session_bound=True,
    ),
    RequestRule(MessageType.GET_DEVICE_INTERFACE_STATE, ANY, "11.3.12"),
    RequestRule(
        MessageType.START_INTERFACE_REQUEST,
        frozenset({LOCKED}),
        "11.3.14",
        next_state=RUN,
        errors=(ErrorCode.INVALID_NONCE, _WRONG_STATE),
        session_bound=True,
    ),
    RequestRule(MessageType.STOP_INTERFACE_REQUEST, ANY, "11.3.16", next_state=UNLOCKED, session_bound=True),
    RequestRule(
        MessageType.BIND_P2P_STREAM_REQUEST,
        frozenset({RUN}),
        "11.3.18",
        errors=(ErrorCode.INVALID_REQUEST, _WRONG_STATE),
        mandatory=False,
        session_bound=True,
    ),
    RequestRule(
        MessageType.UNBIND_P2P_STREAM_REQUEST,
        frozenset({RUN}),
        "11.3.20",
        errors=(ErrorCode.INVALID_REQUEST, _WRONG_STATE),
        mandatory=False,
        session_bound=True,
    ),
    RequestRule(
        MessageType.SET_MMIO_ATTRIBUTE_REQUEST,
        frozenset({RUN}),
        "11.3.22",
        errors=(ErrorCode.INVALID_REQUEST, _WRONG_STATE),
        mandatory=False,
        session_bound=True,
    ),
    RequestRule(MessageType.VDM_REQUEST, ANY, "11.3.25", mandatory=False),
)

REQUEST_RULES: Mapping[MessageType, RequestRule] = MappingProxyType({row.request: row for row in _ROWS})
"""The rules by request code."""


class Event(Enum):
    """What may happen to a TDI without a TDISP request; the value says it in words."""

    CONFIG_CHANGED = "a change to the TDI's configuration"
    RID_CHANGED = "a change of the Requester ID"
    FLR = "a Function Level Reset of the function, or of its PF"
    STREAM_INSECURE = "a bound IDE stream went Insecure"
    SESSION_ENDED = "the SPDM session that locked the TDI ended"
    POISONED = "a poisoned TLP that cannot be recovered"
    DATA_INTEGRITY = "a data integrity error inside the device that cannot be recovered"
    TRUST_CHANGED = "a device-specific condition that affects trust, such as debug"
    UNPROTECTED_TRANSLATION = "a Translation Completion or PRG Response with T clear for a request with T set"
    REQUEST_FAILED = "a UR, CA or timeout on the TDI's own request, retries exhausted"
    CONVENTIONAL_RESET = "a conventional reset of the device"


_TO_ERROR: Mapping[InterfaceState, InterfaceState] = MappingProxyType({LOCKED: ERROR, RUN: ERROR})
_TO_UNLOCKED: Mapping[InterfaceState, InterfaceState] = MappingProxyType(dict.fromkeys(InterfaceState, UNLOCKED))


@dataclass(frozen=True, slots=True)
class EventRule:
    """One event: where it leads from each state; a state that is not named stays as it is."""

    event: Event
    clause: str
    next_states: Mapping[InterfaceState, InterfaceState] = field(default_factory=lambda: _TO_ERROR)


EVENT_RULES: Mapping[Event, EventRule] = MappingProxyType(
    {
        row.event: row
        for row in (
            EventRule(Event.CONFIG_CHANGED, "11.2.6"),
            EventRule(Event.RID_CHANGED, "11.2"),
            EventRule(Event.FLR, "11.4.9"),
            EventRule(Event.STREAM_INSECURE, "11.4.5"),
            EventRule(Event.SESSION_ENDED, "11.4.5"),
            EventRule(Event.POISONED, "11.4.6"),
            EventRule(Event.DATA_INTEGRITY, "11.4.6"),
            EventRule(Event.TRUST_CHANGED, "11.2"),
            EventRule(Event.UNPROTECTED_TRANSLATION, "11.4.10"),
            EventRule(Event.REQUEST_FAILED, "11.4.3"),
            EventRule(Event.CONVENTIONAL_RESET, "11.4.8", _TO_UNLOCKED),
        )
    }
)
"""The rules by event."""


def next_state(event: Event, state: InterfaceState, *, reset_to_unlocked: bool = True) -> InterfaceState:
    """Give the state after `event`.

    UNCONFIRMED: sources disagree on the conventional reset. PCIe Base 11.4.8 leads to CONFIG_UNLOCKED, after
    scrubbing; a device guide's table lists ERROR, which `reset_to_unlocked=False` follows.
    """
    rule = EVENT_RULES[event]
    if event is Event.CONVENTIONAL_RESET and not reset_to_unlocked:
        return _TO_ERROR.get(state, state)
    return rule.next_states.get(state, state)
