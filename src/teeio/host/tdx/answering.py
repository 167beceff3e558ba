"""How a call is answered: handlers refuse with `Reject`, which becomes a status in this one place.

Nothing that a caller passes makes a call raise. What happened is told to the observer: the call with its status, and
the rule behind a refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from functools import cache, wraps
from typing import Any, TypeVar, get_type_hints

from teeio.abi import CALLS, Result
from teeio.abi.statuses import Status
from teeio.errors import Misuse, Reject
from teeio.observe import BoundaryCalled, Observer, Refused, heard

S = TypeVar("S", bound="Answering")
C = TypeVar("C")
V = TypeVar("V")

_NAMES = {row.method: (row.caller.value, row.callee.value, row.name) for row in CALLS.values()}
"""Who calls whom, and the call's name, by the method that answers it."""

_DONE: Result[Any] = Result(Status.SUCCESS)
"""What every call without values returns."""


class Answering:
    """Base of those who answer calls; `observer` hears of each."""

    observer: Observer

    def _answer(self, method: str, handle: Callable[[], Result[V]]) -> Result[V]:
        caller, callee, name = _NAMES[method]
        try:
            result = handle()
        except Reject as reject:
            result = Result(Status(reject.code), reason=reject.clause)
        except Misuse as error:  # an operand that names no memory at all, found only below the handlers
            result = Result(Status.OPERAND_INVALID, reason=str(error))
        if heard(self.observer):
            self.observer(BoundaryCalled(caller, callee, name, result.status.name))
        if result.status.is_error and not result.pending:
            self.observer(Refused(callee, name, f"{result.status.name}: {result.reason}"))
        return result


def _typed(operands: C) -> C:
    """Make members of what the call declares as an enumeration: in a register it is only a number. Raises `Reject`."""
    kinds = _enumerations(type(operands))  # type: ignore[arg-type]
    if not kinds:
        return operands
    changed = {}
    for name, kind in kinds.items():
        value = getattr(operands, name)
        if not isinstance(value, kind):
            try:
                changed[name] = kind(value)
            except ValueError as error:
                raise Reject(Status.OPERAND_INVALID, f"{name} {value} is no {kind.__name__}") from error
    return replace(operands, **changed) if changed else operands  # type: ignore[type-var]


@cache
def _enumerations(call: type) -> dict[str, type[Enum]]:
    hints = get_type_hints(call)
    return {name: kind for name, kind in hints.items() if isinstance(kind, type) and issubclass(kind, Enum)}


def answers(handler: Callable[[S, C], V]) -> Callable[[S, C], Result[V]]:
    """Make a call of a handler that gives its values."""

    @wraps(handler)
    def call(self: S, operands: C) -> Result[V]:
        def handle() -> Result[V]:
            values = handler(self, _typed(operands))
            return _DONE if values is None else Result(Status.SUCCESS, values)

        return self._answer(name, handle)

    name = handler.__name__
    return call


def answers_in_time(handler: Callable[[S, C, float], Result[V]]) -> Callable[[S, C, float], Result[V]]:
    """Make a call of a handler that takes the time and gives the whole result, which may be a pending one."""

    @wraps(handler)
    def call(self: S, operands: C, now: float) -> Result[V]:
        return self._answer(handler.__name__, lambda: handler(self, _typed(operands), now))

    return call
