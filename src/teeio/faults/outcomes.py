"""The words in which `rows` says what may follow a fault: outcomes, error bits, and rows for steps that set up or take down."""

from __future__ import annotations

from typing import Any

from teeio.faults.expected import Ending, Outcome, Row, Stage
from teeio.faults.points import Seam
from teeio.faults.states import State
from teeio.pcie.capabilities.aer import Uncorrectable

NONE, SESSION, STREAM, LOCKED, RUN = ALL = tuple(Stage)
BUILT = (STREAM, LOCKED, RUN)
UP, DOWN = False, True
BETWEEN = (Seam.MESSAGE, Seam.CALL)
Errors = frozenset[Uncorrectable]

ON: Outcome = (Ending.WENT_ON, State.NOT_CONNECTED)
ON_SESSION_LEFT: Outcome = (Ending.WENT_ON, State.SESSION_LEFT)
ON_ERROR_LEFT: Outcome = (Ending.WENT_ON, State.ERROR_LEFT)
NOTHING: Outcome = (Ending.UNDONE, State.NOT_CONNECTED)
CONNECTED: Outcome = (Ending.UNDONE, State.CONNECTED)
RUNNING: Outcome = (Ending.UNDONE, State.RUNNING)
GIVEN_BACK: Outcome = (Ending.GIVEN_BACK, State.CONNECTED)
SET_ASIDE: Outcome = (Ending.SET_ASIDE, State.RUNNING)
TDI_FAILED: Outcome = (Ending.ERROR, State.TDI_FAILED)
STREAM_FAILED: Outcome = (Ending.ERROR, State.STREAM_FAILED)
SESSION_OVER: Outcome = (Ending.LOST, State.SESSION_OVER)
SESSION_ENDED: Outcome = (Ending.LOST, State.SESSION_ENDED)
SESSION_FORGOTTEN: Outcome = (Ending.LOST, State.SESSION_FORGOTTEN)
SESSION_LEFT: Outcome = (Ending.LOST, State.SESSION_LEFT)
OFF: Outcome = (Ending.ERROR, State.STREAM_STOPPED)
STREAM_BLOCKED: Outcome = (Ending.ERROR, State.STREAM_BLOCKED)
STOPS_LATE: Outcome = (Ending.UNFINISHED, State.SESSION_ENDED)
STOPS: Outcome = (Ending.UNFINISHED, State.STREAM_STOPPED)
WAITS: Outcome = (Ending.UNFINISHED, State.CONNECTED)
WAITS_RUNNING: Outcome = (Ending.UNFINISHED, State.RUNNING)
WAITS_UNCONNECTED: Outcome = (Ending.UNFINISHED, State.NOT_CONNECTED)

TIMEOUT = frozenset({Uncorrectable.COMPLETION_TIMEOUT})
CHECKED = frozenset({Uncorrectable.IDE_CHECK_FAILED})
UNSUPPORTED = frozenset({Uncorrectable.UNSUPPORTED_REQUEST})
NO_ERRORS = frozenset[Uncorrectable]()
MISROUTED = frozenset({Uncorrectable.MISROUTED_IDE_TLP})
UNEXPECTED = frozenset({Uncorrectable.UNEXPECTED_COMPLETION})


def up(stages: tuple[Stage, ...], *outcomes: Outcome, **more: Any) -> Row:
    """Say what follows in a step that sets up or uses."""
    return Row(stages, outcomes, UP, **more)


def down(stages: tuple[Stage, ...], *outcomes: Outcome, **more: Any) -> Row:
    """Say what follows in a step that takes down."""
    return Row(stages, outcomes, DOWN, **more)


def always(*outcomes: Outcome, **more: Any) -> Row:
    """Say what follows everywhere."""
    return Row(ALL, outcomes, None, **more)
