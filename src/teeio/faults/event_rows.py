"""What may follow on what happens to device, link, host and TVM between two data objects, calls or TLPs."""

from __future__ import annotations

from dataclasses import replace

from teeio.faults.expected import Row, Signs
from teeio.faults.link_rows import ASKED_BY_DEVICE, ASKED_BY_HOST, PLAIN, checked
from teeio.faults.outcomes import (
    ALL,
    BETWEEN,
    CONNECTED,
    GIVEN_BACK,
    LOCKED,
    MISROUTED,
    NO_ERRORS,
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
    STOPS,
    STOPS_LATE,
    STREAM,
    STREAM_BLOCKED,
    STREAM_FAILED,
    TDI_FAILED,
    TIMEOUT,
    UNSUPPORTED,
    WAITS,
    WAITS_RUNNING,
    WAITS_UNCONNECTED,
    Errors,
    down,
    up,
)
from teeio.faults.points import Moment, Seam
from teeio.faults.rows import HALTS

WAITING = ((ASKED_BY_HOST, NO_ERRORS, TIMEOUT), (ASKED_BY_DEVICE, TIMEOUT, NO_ERRORS))
"""Who waits for the completion of what is in flight when the stream fails."""


def events(
    rows: tuple[Row, ...],
    *,
    device: Errors = NO_ERRORS,
    root_port: Errors = NO_ERRORS,
    in_flight: Errors = NO_ERRORS,
    plain: tuple[Row, ...] | None = None,
) -> tuple[Row, ...]:
    """Add to rows the error bits that may follow; `in_flight` are those at the device of a TLP that was on the link.

    TLPs of the stream are there in RUN. `plain` are what else may follow at a plain TLP, which is part of a data object
    or an access to a register; None where none is struck.
    """
    made = [replace(row, seams=BETWEEN) for row in rows]
    if plain is not None:
        made += [replace(row, seams=(Seam.FRAME,), of=PLAIN) for row in (*plain, *rows)]
    made = [replace(row, device=Signs(may=device), root_port=Signs(may=root_port)) for row in made]
    for row in (
        replace(row, stages=(RUN,), seams=(Seam.FRAME,))
        for row in rows
        if RUN in row.stages and row.steps != ("refresh",)
    ):
        for of, at_device, at_root in (*WAITING, ((), NO_ERRORS, NO_ERRORS)):
            by_device, by_root = Signs(may=device | in_flight | at_device), Signs(may=root_port | at_root)
            made.append(replace(row, of=of, device=by_device, root_port=by_root))
    return tuple(made)


SESSION_ENDS = events(
    (
        up((NONE,), ON, NOTHING),
        up((SESSION,), NOTHING),
        up((STREAM,), SESSION_OVER, SESSION_ENDED),
        up((LOCKED,), SESSION_OVER),
        up((RUN,), SESSION_OVER, ON_ERROR_LEFT, steps=("work on",)),
        up((RUN,), SESSION_OVER, SESSION_ENDED),
        down((NONE, SESSION, STREAM), ON),
        down((RUN,), ON_ERROR_LEFT),
    )
)
"""The device ends the session: keys are gone, what was locked is in ERROR (PCIe Base 11.4.5)."""

RESET = events(
    (
        up((NONE,), NOTHING, CONNECTED),
        up((SESSION,), NOTHING),
        up((STREAM,), SESSION_OVER, SESSION_ENDED),
        up((LOCKED,), SESSION_OVER),
        up((RUN,), SESSION_OVER, ON, steps=("work on",)),
        up((RUN,), SESSION_OVER, SESSION_ENDED),
        down(ALL, ON),
    ),
    device=UNSUPPORTED,
    in_flight=MISROUTED,
    plain=(up((STREAM,), NOTHING, SESSION_ENDED, steps=("connect",)),),
)
"""Everything of the device is gone, its VFs too: who asks for them gets Unsupported Request (PCIe Base 11.4.8)."""

REMOVAL = events(
    (
        up((NONE,), NOTHING),
        up((SESSION,), SESSION_LEFT),
        up((STREAM,), STREAM_FAILED, SESSION_FORGOTTEN),
        up((LOCKED,), SESSION_FORGOTTEN),
        up((RUN,), SESSION_FORGOTTEN, ON_ERROR_LEFT, steps=("work on",)),
        up((RUN,), SESSION_FORGOTTEN, STREAM_BLOCKED, steps=("refresh",)),
        up((RUN,), SESSION_FORGOTTEN),
        down((NONE,), ON),
        down((SESSION,), ON, ON_SESSION_LEFT),
        down((STREAM,), ON_SESSION_LEFT),
        down((RUN,), ON_ERROR_LEFT, ON_SESSION_LEFT),
    ),
    root_port=TIMEOUT,
    plain=(up((STREAM,), STREAM_FAILED, SESSION_LEFT, steps=("connect",)),),
)
"""Nobody answers; what the device does not hear it does not do."""

LINK_DOWN = events(
    (
        up((NONE,), ON),
        up((SESSION,), ON, NOTHING, SESSION_LEFT),
        up((STREAM,), STREAM_FAILED),
        up((LOCKED,), STREAM_FAILED),
        up((RUN,), STREAM_FAILED, ON, steps=("work on",)),
        up((RUN,), SESSION_FORGOTTEN, STREAM_FAILED, STREAM_BLOCKED, steps=("refresh",)),
        up((RUN,), STREAM_FAILED),
        down(ALL, ON),
    ),
    plain=(up((STREAM,), NOTHING, STREAM_FAILED, steps=("connect",)),),
)
"""Both ends turn Insecure (PCIe Base 6.33.8); the session lives."""

FLR_OF_PF = events(
    (
        up((NONE,), ON, NOTHING),
        up((SESSION,), ON, NOTHING, SESSION_LEFT),
        up((STREAM, LOCKED), STREAM_FAILED),
        up((RUN,), STREAM_FAILED, ON_SESSION_LEFT, steps=("work on",)),
        up((RUN,), SESSION_FORGOTTEN, STREAM_FAILED, STREAM_BLOCKED, steps=("refresh",)),
        up((RUN,), STREAM_FAILED),
        down((NONE,), ON),
        down((SESSION, STREAM, RUN), ON, ON_SESSION_LEFT),
    ),
    in_flight=MISROUTED,
    plain=(
        up((STREAM,), NOTHING, STREAM_FAILED, steps=("connect",)),
        up((STREAM, LOCKED), STREAM_FAILED, SESSION_FORGOTTEN),
        up((RUN,), STREAM_FAILED, SESSION_FORGOTTEN, steps=("accept", "keep")),
        down((RUN,), ON, ON_SESSION_LEFT, ON_ERROR_LEFT),
    ),
)
"""The registers of the stream are the PF's; TDIs of its VFs that were locked go to ERROR (PCIe Base 11.4.9).

A data object in the mailbox is lost.
"""

FLR_OF_VF = events(
    (
        up((NONE, SESSION, STREAM), ON),
        up((LOCKED,), GIVEN_BACK, TDI_FAILED),
        up((RUN,), TDI_FAILED, ON, steps=("work on",)),
        up((RUN,), TDI_FAILED),
        down(ALL, ON),
    ),
    device=UNSUPPORTED,
    plain=(),
)
"""The TDI goes to ERROR, its stream stays Secure; requests with T=1 get Unsupported Request (PCIe Base 11.4.9)."""

KEY_REFRESH = (
    up((NONE, SESSION, STREAM, LOCKED), ON),
    up((RUN,), ON, seams=BETWEEN),
    *(replace(row, moments=(Moment.BEFORE,)) for row in checked()),
    up((RUN,), ON),
    down(ALL, ON),
)
"""Amid an exchange the VMM refuses another one; a TLP that is on the link comes under keys that are gone."""

TAKEN_WHEN_CONNECTING = (up((NONE,), NOTHING), up((SESSION,), NOTHING, ON))

NO_MEMORY = (
    up((NONE,), NOTHING),
    up((SESSION,), NOTHING, GIVEN_BACK),
    up((STREAM,), CONNECTED, GIVEN_BACK),
    up((LOCKED,), GIVEN_BACK, ON),
    up((RUN,), ON),
    down(ALL, ON),
)

BROKEN_OFF = (
    up((NONE,), NOTHING),
    up((SESSION,), NOTHING, SESSION_LEFT),
    up((STREAM,), CONNECTED, steps=("launch",)),
    up((RUN,), RUNNING, WAITS_RUNNING, steps=("refresh",)),
    up((RUN,), RUNNING, WAITS_RUNNING, steps=("keep",), of=("TDH.SPDM", "HEARTBEAT", "KEY_UPDATE", "GET_MEASUREMENTS")),
    down((STREAM,), WAITS, steps=("shut down",)),
    down((NONE, SESSION, STREAM), WAITS_UNCONNECTED, STOPS, STOPS_LATE, WAITS, steps=("disconnect",)),
    *HALTS,
)
"""The VMM's own procedure is undone, or goes on later; a TVM that waits for a hypercall waits for ever."""
