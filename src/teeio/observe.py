"""What happened, told to whoever listens.

Observers only listen: logging, captures, the ladder diagram and the run's tables are all fed by these events. An observer never
changes what happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class FrameMoved:
    """A transport frame (a DOE data object, an MCTP message) went from `source` to `target`."""

    source: str
    target: str
    frame: bytes
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class MessageMoved:
    """A protocol message in the clear, seen at one end: `protocol` is SPDM, IDE_KM, TDISP...; `session` is None outside sessions."""

    source: str
    target: str
    protocol: str
    name: str
    size: int
    session: int | None = None


@dataclass(frozen=True, slots=True)
class BoundaryCalled:
    """A call crossed a trust boundary: a SEAMCALL, a TDCALL or a hypercall, with the status it returned."""

    caller: str
    callee: str
    name: str
    status: str


@dataclass(frozen=True, slots=True)
class StateChanged:
    """`subject` (a TDI, a stream, a session) moved from `old` to `new` because of `cause`."""

    subject: str
    old: str
    new: str
    cause: str


@dataclass(frozen=True, slots=True)
class TlpMoved:
    """A TLP crossed the link: `kind` is the TLP type, `protection` says "IDE T=1", "IDE T=0" or "plain"."""

    source: str
    target: str
    kind: str
    protection: str
    size: int


@dataclass(frozen=True, slots=True)
class SecretDerived:
    """A secret for the key log; observers that do not write one ignore it."""

    label: str
    context: str
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """Somebody refused something: `what` by `rule`. The platform reports stopped attacks this way."""

    by: str
    what: str
    rule: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step of a scenario ended."""

    actor: str
    title: str
    seconds: float
    messages: int
    bytes: int
    note: str = ""


Event: TypeAlias = (
    FrameMoved | MessageMoved | BoundaryCalled | StateChanged | TlpMoved | SecretDerived | Refused | StepDone
)
Observer: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing: the default observer."""


class Audience:
    """Observers, who may come and go, as one observer."""

    def __init__(self, *listeners: Observer) -> None:
        self.listeners = [listener for listener in listeners if listener is not ignore]

    def __call__(self, event: Event) -> None:
        """Tell all who listen now."""
        for listener in tuple(self.listeners):
            listener(event)


def heard(observer: Observer) -> bool:
    """Tell whether anybody hears what this observer is told, so that it is worth describing."""
    return bool(observer.listeners) if isinstance(observer, Audience) else observer is not ignore


def fan_out(observers: Iterable[Observer]) -> Observer:
    """Make one observer of several."""
    listeners = tuple(observers)

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell
