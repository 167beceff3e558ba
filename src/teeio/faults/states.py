"""The states in which a device is allowed to be after a fault: its TDI, both ends of its stream, its session, and what leads on.

Where nothing else is said, the function may be gone (its VFs are off after a reset of the PF) or its TDI be in
CONFIG_UNLOCKED, where it could not be told to go to ERROR because it was not locked. Whatever fits none of these is half
done. PCIe Base 11.2, 11.4 (TDI), 6.33.3, 6.33.8 (stream), 11.4.5 (session).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from teeio.faults.standing import End, Standing
from teeio.host.tdx.records import StreamPhase
from teeio.tdisp.messages import InterfaceState

_UNLOCKED, _LOCKED = InterfaceState.CONFIG_UNLOCKED, InterfaceState.CONFIG_LOCKED
_RUN, _ERROR = InterfaceState.RUN, InterfaceState.ERROR
_OFF, _INSECURE, _SECURE = End.OFF, End.INSECURE, End.SECURE


class State(Enum):
    """How a device stands, with what is given out over it."""

    NOT_CONNECTED = "not connected"
    SESSION_LEFT = "not connected, session left"
    ERROR_LEFT = "not connected, ERROR left"
    CONNECTED = "connected"
    BOUND = "bound"
    LOCKED = "locked"
    RUNNING = "running"
    TDI_FAILED = "TDI failed"
    STREAM_FAILED = "stream failed"
    STREAM_STOPPED = "stream stopped"
    STREAM_BLOCKED = "stream blocked"
    SESSION_OVER = "session over"
    SESSION_FORGOTTEN = "session forgotten"
    SESSION_ENDED = "session ended"

    @property
    def form(self) -> Form:
        """What it is in registers and records."""
        return FORMS[self]


@dataclass(frozen=True, slots=True)
class Form:
    """What a state is: each field lists what the `Standing` of that name may be; `leads_on` is what the owners do next."""

    tdi: tuple[InterfaceState | None, ...]
    known: tuple[InterfaceState | None, ...]
    device_end: tuple[End, ...]
    root_end: tuple[End, ...]
    phase: tuple[StreamPhase | None, ...]
    device_session: tuple[bool, ...]
    tsm_session: bool
    meaning: str
    leads_on: str

    def cells(self) -> tuple[str, ...]:
        """Say for each field what it may be."""
        return (
            _either(_named(state) for state in self.tdi),
            _either(_named(state) for state in self.known),
            _either(end.value for end in self.device_end),
            _either(end.value for end in self.root_end),
            _either("none" if phase is None else phase.name for phase in self.phase),
            _either("yes" if has else "no" for has in self.device_session),
            "yes" if self.tsm_session else "no",
        )

    def fits(self, found: Standing) -> bool:
        """Tell whether a device stands like this."""
        return (
            found.tdi in self.tdi
            and found.known in self.known
            and found.device_end in self.device_end
            and found.root_end in self.root_end
            and found.phase in self.phase
            and found.device_session in self.device_session
            and found.tsm_session is self.tsm_session
        )


def _named(state: InterfaceState | None) -> str:
    return "none" if state is None else state.name


def _either(values: Iterable[str]) -> str:
    return " or ".join(values)


_REST = (_UNLOCKED, None)
_NO, _YES, _ANY = (False,), (True,), (False, True)
_READY, _BLOCKED, _STOPPED = StreamPhase.READY, StreamPhase.BLOCKED, StreamPhase.STOPPED
_NOT_SECURE = (_OFF, _INSECURE)
_States = tuple[InterfaceState | None, ...]


def _secure(tdi: _States, known: _States, meaning: str, leads_on: str) -> Form:
    return Form(tdi, known, (_SECURE,), (_SECURE,), (_READY,), _YES, True, meaning, leads_on)


FORMS: Mapping[State, Form] = {
    State.NOT_CONNECTED: Form(
        _REST, (None,), (_OFF,), (_OFF,), (None,), _NO, False, "as before connect, or after disconnect", "connect"
    ),
    State.SESSION_LEFT: Form(
        _REST,
        (None,),
        _NOT_SECURE,
        (_OFF,),
        (None,),
        _YES,
        False,
        "the host has let go; the device never heard of it and keeps its session, and the registers of its end",
        "connect: GET_VERSION ends the session, as three heartbeat periods do",
    ),
    State.ERROR_LEFT: Form(
        (_ERROR,),
        (None,),
        _NOT_SECURE,
        (_OFF,),
        (None,),
        _ANY,
        False,
        "the host has let go, and the TDI stays in ERROR, scrubbed: who could say STOP has no session",
        "connect and bind: the first LOCK is refused, STOP clears it up",
    ),
    State.CONNECTED: _secure(_REST, (None,), "session and Secure stream, no TVM has the interface", "lock"),
    State.BOUND: _secure(
        (_UNLOCKED,),
        (_UNLOCKED, _RUN),
        "the interface is a TVM's, not locked, or not any more, which the TSM knows once it has the answer",
        "lock, or unbind",
    ),
    State.LOCKED: _secure(
        (_LOCKED,),
        (_LOCKED, _UNLOCKED),
        "locked for a TVM, which the TSM knows once it has the answer",
        "attest, or unlock",
    ),
    State.RUNNING: _secure(
        (_RUN,), (_RUN, _LOCKED), "in RUN for a TVM, which the TSM knows once it has the answer", "work, or unlock"
    ),
    State.TDI_FAILED: _secure(
        (_ERROR,), (_ERROR,), "the TDI is in ERROR, on a Secure stream", "unlock (STOP), then lock it again"
    ),
    State.STREAM_FAILED: Form(
        (_ERROR, *_REST),
        (_ERROR, _RUN, None),
        _NOT_SECURE,
        (_INSECURE,),
        (_READY,),
        _YES,
        True,
        "the stream is Insecure at both ends (off at a device whose PF was reset), the session lives; a TDI that was "
        "locked is in ERROR, which the TSM knows after the next exchange",
        "unlock; disconnect, connect",
    ),
    State.STREAM_STOPPED: Form(
        _REST,
        (None,),
        (_OFF,),
        (_OFF, _SECURE),
        (_READY, _STOPPED, _BLOCKED, None),
        _YES,
        True,
        "the device's end of the stream is off, or goes by another Stream ID: it is not all set up, or not all taken down",
        "disconnect (again): it goes on where it stopped",
    ),
    State.STREAM_BLOCKED: Form(
        (_ERROR,),
        (_ERROR, None),
        _NOT_SECURE,
        (_OFF,),
        (_BLOCKED,),
        _YES,
        True,
        "the TSM has blocked the stream, as it cannot know which keys each end uses; the session lives",
        "unlock; disconnect, connect",
    ),
    State.SESSION_OVER: Form(
        (_ERROR, *_REST),
        (_ERROR, None),
        _NOT_SECURE,
        (_OFF,),
        (_BLOCKED,),
        _NO,
        False,
        "both sides know that the session is over: the TSM has blocked the stream, a TDI that was locked is in ERROR",
        "unlock; disconnect, connect",
    ),
    State.SESSION_FORGOTTEN: Form(
        (_ERROR, *_REST),
        (_ERROR, None),
        _NOT_SECURE,
        (_OFF,),
        (_BLOCKED,),
        _YES,
        False,
        "the TSM has given up a session that is out of step, and blocked its stream; the device still has it",
        "unlock; disconnect, connect",
    ),
    State.SESSION_ENDED: Form(
        (_ERROR, *_REST),
        (_ERROR, _RUN, None),
        _NOT_SECURE,
        _NOT_SECURE,
        (_READY, _BLOCKED, None),
        _NO,
        True,
        "the device has ended the session, with the keys that came over it; the TSM learns it with its next exchange",
        "unlock; disconnect, connect",
    ),
}
"""All states by what they are; no `Standing` fits two of them."""


def state_of(found: Standing) -> State | None:
    """Name the state that fits; None if there is none."""
    return next((state for state, form in FORMS.items() if form.fits(found)), None)
