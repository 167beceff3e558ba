"""What happened in a run, kept by step: the observer that tables, ladder diagrams and captures are made from.

The clocks are arguments. A run that is to repeat byte for byte has no wall clock: then steps have no duration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from teeio.observe import (
    BoundaryCalled,
    Event,
    FrameMoved,
    MessageMoved,
    Observer,
    Refused,
    StateChanged,
    StepDone,
    TlpMoved,
    ignore,
)

MAX_EVENTS = 200_000
"""Events kept; a longer run still counts, but shows no more lines."""


ENVELOPES = ("VENDOR_DEFINED_REQUEST", "VENDOR_DEFINED_RESPONSE")
"""SPDM messages that only carry another protocol's, which is told, and counted, itself."""


def is_envelope(event: Event) -> bool:
    """Tell whether an event is such a message."""
    return isinstance(event, MessageMoved) and event.name in ENVELOPES


@dataclass(slots=True)
class Step:
    """One step of a story: who acts, what is done, and what it took. `seconds` is None without a wall clock."""

    actor: str
    title: str
    seconds: float | None = None
    messages: int = 0
    calls: int = 0
    tlps: int = 0
    bytes: int = 0
    note: str = ""
    events: list[Event] = field(default_factory=list, repr=False)

    def as_dict(self) -> dict[str, object]:
        """Give the step for JSON."""
        return {
            "actor": self.actor,
            "title": self.title,
            "seconds": self.seconds,
            "messages": self.messages,
            "calls": self.calls,
            "tlps": self.tlps,
            "bytes": self.bytes,
            "note": self.note,
        }


class Journal:
    """An observer that files every event under the step that is under way."""

    def __init__(self, wall_clock: Callable[[], float] | None = None, listener: Observer = ignore) -> None:
        self.steps: list[Step] = []
        self._wall_clock = wall_clock
        self._listener = listener
        self._current = Step("platform", "power on")
        self._kept = 0
        self._begun = 0.0

    def __call__(self, event: Event) -> None:
        """Observe."""
        step = self._current
        if isinstance(event, MessageMoved):
            step.messages += not is_envelope(event)
        elif isinstance(event, BoundaryCalled):
            step.calls += 1
        elif isinstance(event, TlpMoved):
            step.tlps += 1
            step.bytes += event.size
        elif isinstance(event, FrameMoved):
            step.bytes += len(event.frame)
        if self._kept < MAX_EVENTS and not isinstance(event, FrameMoved):
            self._kept += 1
            step.events.append(event)
        self._listener(event)

    @contextmanager
    def step(self, actor: str, title: str) -> Iterator[Step]:
        """File what happens inside under a step; it is told as `StepDone`, even if it fails."""
        outer = self._current
        step = self._begin(actor, title)
        try:
            yield step
        finally:
            self._end()
            self._current = outer

    def turn(self, actor: str, title: str) -> Step:
        """End the step under way and file what follows, up to the end of its block, under a new one."""
        self._end()
        return self._begin(actor, title)

    def _begin(self, actor: str, title: str) -> Step:
        self._current = Step(actor, title)
        self.steps.append(self._current)
        self._begun = self._wall_clock() if self._wall_clock else 0.0
        return self._current

    def _end(self) -> None:
        step = self._current
        if self._wall_clock:
            step.seconds = self._wall_clock() - self._begun
        self._listener(StepDone(step.actor, step.title, step.seconds or 0.0, step.messages, step.bytes, step.note))

    def events(self) -> Iterator[Event]:
        """Give all kept events in order."""
        for step in self.steps:
            yield from step.events

    def states(self, subject: str) -> list[str]:
        """Give the states that `subject` was in, in order, the first one included."""
        changes = [event for event in self.events() if isinstance(event, StateChanged) and event.subject == subject]
        return [changes[0].old, *(change.new for change in changes)] if changes else []

    def refusals(self) -> list[Refused]:
        """Give everything that somebody refused."""
        return [event for event in self.events() if isinstance(event, Refused)]
