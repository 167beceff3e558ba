"""What may follow on faults of TLPs, under IDE and plain (PCIe Base 6.33.8)."""

from __future__ import annotations

from teeio.faults.expected import QUIET, Row, Signs
from teeio.faults.outcomes import (
    ALL,
    CHECKED,
    CONNECTED,
    GIVEN_BACK,
    LOCKED,
    MISROUTED,
    NONE,
    NOTHING,
    OFF,
    ON,
    ON_ERROR_LEFT,
    ON_SESSION_LEFT,
    RUN,
    RUNNING,
    SESSION,
    SESSION_FORGOTTEN,
    SESSION_LEFT,
    STREAM,
    STREAM_FAILED,
    TDI_FAILED,
    TIMEOUT,
    UNEXPECTED,
    UNSUPPORTED,
    down,
    up,
)

PLAIN = ("plain",)
ASKED_BY_HOST = ("MRd IDE downstream", "CplD IDE upstream")
"""TLPs of requests for which the root port waits."""
ASKED_BY_DEVICE = ("MRd IDE upstream", "CplD IDE downstream")
"""TLPs of requests for which the device waits."""


def checked() -> tuple[Row, ...]:
    """Give the rows of a TLP that fails the check of its Secure stream: at the receiver, which tells its partner (6.33.8).

    Who waits for a completion that never comes notes that, too. After the last job nothing may be left that would notice.
    """
    rows = []
    for rule, outcomes, steps in (
        (up, (STREAM_FAILED, ON), ("work on",)),
        (up, (STREAM_FAILED,), ()),
        (down, (ON, ON_ERROR_LEFT), ()),
    ):
        for of, device, root_port in (
            ("MRd IDE downstream", Signs(CHECKED), Signs(may=TIMEOUT)),
            ("CplD IDE upstream", QUIET, Signs(CHECKED, TIMEOUT)),
            ("MRd IDE upstream", Signs(may=TIMEOUT), Signs(CHECKED)),
            ("CplD IDE downstream", Signs(CHECKED, TIMEOUT), QUIET),
            ("MWr IDE downstream", Signs(CHECKED), QUIET),
            ("MWr IDE upstream", QUIET, Signs(CHECKED)),
        ):
            rows.append(rule((RUN,), *outcomes, of=(of,), steps=steps, device=device, root_port=root_port))
    return tuple(rows)


def by_mailbox(signs: Signs) -> tuple[Row, ...]:
    """Give the rows of a plain TLP, which is a configuration access: of a register, or of the mailbox with a data object in it."""
    return (
        up((NONE,), NOTHING, ON, of=PLAIN, root_port=signs),
        up((SESSION,), NOTHING, SESSION_LEFT, OFF, ON, of=PLAIN, root_port=signs),
        up((STREAM,), NOTHING, CONNECTED, ON, of=PLAIN, steps=("connect",), root_port=signs),
        up((STREAM,), CONNECTED, GIVEN_BACK, RUNNING, SESSION_FORGOTTEN, ON, of=PLAIN, root_port=signs),
        up((LOCKED,), GIVEN_BACK, SESSION_FORGOTTEN, ON, of=PLAIN, root_port=signs),
        up((RUN,), RUNNING, GIVEN_BACK, SESSION_FORGOTTEN, ON, of=PLAIN, root_port=signs),
        down((RUN,), ON, ON_SESSION_LEFT, ON_ERROR_LEFT, of=PLAIN, root_port=signs),
        down(ALL, ON, ON_SESSION_LEFT, of=PLAIN, root_port=signs),
    )


FRAME_LOST = (
    *by_mailbox(Signs(TIMEOUT)),
    up((RUN,), RUNNING, STREAM_FAILED, of=ASKED_BY_HOST, device=Signs(may=CHECKED), root_port=Signs(TIMEOUT, CHECKED)),
    up(
        (RUN,),
        TDI_FAILED,
        STREAM_FAILED,
        of=ASKED_BY_DEVICE,
        device=Signs(TIMEOUT, CHECKED | UNSUPPORTED),
        root_port=Signs(may=CHECKED),
    ),
    up((RUN,), ON, STREAM_FAILED, of=("MWr IDE downstream",), device=Signs(may=CHECKED), root_port=Signs(may=TIMEOUT)),
    up(
        (RUN,),
        ON,
        STREAM_FAILED,
        of=("MWr IDE upstream",),
        device=Signs(may=TIMEOUT),
        root_port=Signs(may=CHECKED | TIMEOUT),
    ),
    down((RUN,), ON, ON_ERROR_LEFT, device=Signs(may=CHECKED), root_port=Signs(may=CHECKED | TIMEOUT)),
)
"""A gap in the counter of a sub-stream shows with its next TLP; a request without completion times out."""

GIVEN_UP = (
    *by_mailbox(Signs(TIMEOUT, UNEXPECTED)),
    up((RUN,), RUNNING, of=ASKED_BY_HOST, root_port=Signs(TIMEOUT | UNEXPECTED)),
    up((RUN,), TDI_FAILED, of=("MRd IDE upstream",), device=Signs(TIMEOUT | UNEXPECTED, UNSUPPORTED)),
    down((RUN,), ON, of=("MRd IDE downstream",), device=Signs(MISROUTED), root_port=Signs(TIMEOUT)),
    down((RUN,), ON, of=("CplD IDE upstream",), root_port=Signs(TIMEOUT | MISROUTED)),
)
"""Who asked has given up, and the completion is unexpected; what was under way when the stream was taken down is misrouted."""

FRAME_LATE = (
    *GIVEN_UP,
    up((RUN,), TDI_FAILED, ON, of=("CplD IDE downstream",), device=Signs(may=TIMEOUT | UNEXPECTED | UNSUPPORTED)),
    up(
        (RUN,),
        STREAM_FAILED,
        of=("MWr T=0 upstream",),
        steps=("work",),
        device=Signs(may=TIMEOUT),
        root_port=Signs(CHECKED),
    ),
    up((RUN,), ON, RUNNING, of=("MWr IDE",)),
    down((RUN,), ON, of=("MWr IDE",)),
)
"""No check fails, as the order is kept; but the interrupt of a job comes with the next one, under keys that are gone by then."""

FRAME_OVERTAKEN = (
    up(
        (RUN,),
        ON,
        ON_ERROR_LEFT,
        SESSION_FORGOTTEN,
        of=("CfgWr0 plain",),
        steps=("keep",),
        root_port=Signs(TIMEOUT, UNEXPECTED),
    ),
    *GIVEN_UP,
    up(
        (RUN,),
        TDI_FAILED,
        STREAM_FAILED,
        of=("CplD IDE downstream",),
        device=Signs(TIMEOUT, CHECKED | UNEXPECTED | UNSUPPORTED),
    ),
    up((RUN,), ON, of=("MWr T=0 upstream",), steps=("work on",), root_port=Signs(CHECKED, TIMEOUT)),
    up((RUN,), STREAM_FAILED, of=("MWr IDE downstream",), device=Signs(CHECKED), root_port=Signs(may=TIMEOUT)),
    up((RUN,), STREAM_FAILED, of=("MWr IDE upstream",), device=Signs(may=TIMEOUT), root_port=Signs(CHECKED)),
    down((RUN,), ON, of=("MWr IDE downstream",), device=Signs(CHECKED), root_port=Signs(may=TIMEOUT)),
)
"""The check fails where the next one is of the same sub-stream: each has a counter of its own (PCIe Base 6.33.5).

A write to the mailbox that comes amid the next data object spoils that one, in the step where it is.
"""

FRAME_TWICE = (*by_mailbox(Signs(UNEXPECTED)), *checked())

FRAME_CHANGED = (*by_mailbox(QUIET), *checked())
