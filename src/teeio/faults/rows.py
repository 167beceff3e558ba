"""What may follow on faults of data objects and calls, by how far the device was and what was struck.

First come the rows that say more.
"""

from __future__ import annotations

from dataclasses import replace

from teeio.faults.expected import Ending, Row
from teeio.faults.outcomes import (
    BUILT,
    CONNECTED,
    GIVEN_BACK,
    LOCKED,
    NONE,
    NOTHING,
    ON,
    ON_ERROR_LEFT,
    ON_SESSION_LEFT,
    RUN,
    RUNNING,
    SESSION,
    SESSION_ENDED,
    SESSION_FORGOTTEN,
    SESSION_LEFT,
    SESSION_OVER,
    SET_ASIDE,
    STOPS,
    STOPS_LATE,
    STREAM,
    WAITS,
    WAITS_RUNNING,
    WAITS_UNCONNECTED,
    always,
    down,
    up,
)
from teeio.faults.states import State

UNNOTICED = (always(ON),)

# -- data objects

OUT_OF_STEP = (
    up((NONE,), NOTHING, SESSION_LEFT, of=("KEY_EXCHANGE",)),
    up((NONE,), NOTHING),
    up((SESSION,), SESSION_LEFT),
    up(BUILT, SESSION_FORGOTTEN),
    down((SESSION, STREAM), ON, ON_SESSION_LEFT),
    down((RUN,), ON_SESSION_LEFT, ON_ERROR_LEFT),
)
"""The TSM gives up an exchange that is out of step, and the session that it was in; the device does not know."""

ANSWERED_TWICE = (
    up((NONE,), NOTHING, SESSION_LEFT, of=("GET_MEASUREMENTS",)),
    up((SESSION,), SESSION_LEFT, SESSION_FORGOTTEN, of=("K_SET_GO",)),
    up((RUN,), ON_SESSION_LEFT, steps=("keep",), of=("GET_DEVICE_INTERFACE_STATE",)),
    *OUT_OF_STEP,
)
"""The step goes on; what comes next is out of step, be it the next step's."""

REFUSED_BY_THE_DEVICE = (
    up((NONE, SESSION), NOTHING),
    up(BUILT, SESSION_OVER, SESSION_ENDED),
    down((NONE, SESSION, STREAM), ON),
    down((RUN,), ON_ERROR_LEFT),
)
"""The device ends a session in which a record does not verify (DSP0277)."""

TWICE_TO_THE_DEVICE = (
    up((NONE,), ON, ON_SESSION_LEFT, of=("KEY_EXCHANGE",)),
    up((NONE,), NOTHING, ON),
    down((RUN,), ON, ON_ERROR_LEFT),
    *REFUSED_BY_THE_DEVICE,
)
"""... or takes it for two; a session that was opened twice is left once."""

# -- calls

HYPERCALL = ("TDVMCALL", "TDCM")
MODULE = ("TDH", "TDG")

HYPERCALL_REFUSED = (
    up((STREAM,), CONNECTED, GIVEN_BACK),
    up((LOCKED,), GIVEN_BACK),
    up((RUN,), GIVEN_BACK, steps=("accept",)),
    up((RUN,), RUNNING, SET_ASIDE, steps=("share",)),
    up((RUN,), RUNNING, steps=("probe",)),
    up((RUN,), ON, steps=("keep",)),
    down((STREAM, RUN), ON, RUNNING, WAITS),
)

CALL_REFUSED = (
    up((NONE, SESSION), NOTHING),
    up((STREAM,), CONNECTED, steps=("launch",)),
    up((STREAM,), CONNECTED, GIVEN_BACK, steps=("lock",)),
    up((LOCKED,), GIVEN_BACK),
    up((RUN,), GIVEN_BACK, steps=("accept",)),
    up((RUN,), RUNNING, SET_ASIDE, steps=("share",)),
    up((RUN,), RUNNING, steps=("probe", "refresh")),
    up((RUN,), RUNNING, ON, steps=("keep",)),
    down((NONE,), WAITS_UNCONNECTED),
    down((SESSION,), STOPS, ON, ON_SESSION_LEFT),
    down((STREAM,), ON, WAITS),
    down((RUN,), ON, ON_ERROR_LEFT),
)

REFUSED = tuple(
    replace(row, of=of) for of, rows in ((HYPERCALL, HYPERCALL_REFUSED), (MODULE, CALL_REFUSED)) for row in rows
)

BUSY = (always(ON, of=MODULE), *HYPERCALL_REFUSED)

BUSY_FOR_LONG = (
    up((SESSION,), SESSION_LEFT, of=("with an answer",)),
    up((STREAM, LOCKED), SESSION_FORGOTTEN, of=("with an answer",)),
    up((RUN,), SESSION_FORGOTTEN, WAITS_RUNNING, ON_ERROR_LEFT, of=("with an answer",)),
    down((SESSION,), STOPS, ON_SESSION_LEFT, STOPS_LATE, of=("with an answer",)),
    down((STREAM, RUN), ON, ON_SESSION_LEFT, ON_ERROR_LEFT, of=("with an answer",)),
    *CALL_REFUSED,
)
"""An exchange whose answer cannot be handed over stays under way, or is given up with its session."""

CALLED_TWICE = (
    up((NONE,), NOTHING, ON, of=("with an answer",)),
    up((SESSION,), SESSION_LEFT, ON, of=("with an answer",)),
    up(BUILT, SESSION_FORGOTTEN, ON, of=("with an answer",)),
    down((SESSION,), ON, ON_SESSION_LEFT, of=("with an answer",)),
    down((STREAM, RUN), ON, ON_SESSION_LEFT, ON_ERROR_LEFT, of=("with an answer",)),
    always(ON),
)
"""An answer that is handed over twice answers what was not asked, which costs the exchange; all else is refused the second time."""

HALTS = (
    Row((STREAM,), ((Ending.HALTED, State.CONNECTED), (Ending.HALTED, State.BOUND))),
    Row((LOCKED,), ((Ending.HALTED, State.LOCKED),)),
    Row((RUN,), ((Ending.HALTED, State.RUNNING),)),
)
