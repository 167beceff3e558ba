"""How a call is declared, and what it returns.

A call is a dataclass of its operands under one decorator that says the rest: name, leaf, who calls whom, what comes
back, which refusals to expect, and its name in the other TDX Connect generation. `CALLS` is the table of them all;
interfaces, tests and documentation read it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Generic, TypeVar, dataclass_transform

from teeio.abi.operands import Actor
from teeio.abi.statuses import PENDING, HypercallError, Status, TdcmStatus
from teeio.errors import TeeioError

V = TypeVar("V")
C = TypeVar("C")


class Boundary(Enum):
    """The three trust boundaries, as caller and callee."""

    SEAMCALL = (Actor.VMM, Actor.TSM)
    TDCALL = (Actor.TVM, Actor.TSM)
    HYPERCALL = (Actor.TVM, Actor.VMM)

    @property
    def caller(self) -> Actor:
        """Who asks."""
        return self.value[0]

    @property
    def callee(self) -> Actor:
        """Who answers, and trusts nothing in the operands."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Call:
    """One row of the table of calls.

    `leaf` is None where no public number is known. `resumable` calls may return a pending status; `timed` calls take
    the time as a second argument, because an exchange with the device has limits in time.
    """

    name: str
    leaf: int | None
    boundary: Boundary
    arguments: type[Any]
    returns: type[Any] | None
    refusals: frozenset[Status | HypercallError]
    alias: str
    resumable: bool
    timed: bool

    @property
    def caller(self) -> Actor:
        """Who asks."""
        return self.boundary.caller

    @property
    def callee(self) -> Actor:
        """Who answers."""
        return self.boundary.callee

    @property
    def method(self) -> str:
        """Name of the method that implements it."""
        return self.name.lower().replace(".", "_")

    @property
    def meaning(self) -> str:
        """One line on what it does."""
        return inspect.getdoc(self.arguments).splitlines()[0]  # type: ignore[union-attr]


_calls: dict[str, Call] = {}

CALLS: Mapping[str, Call] = MappingProxyType(_calls)
"""All declared calls by name."""


class CallRefused(TeeioError):
    """The other side of a trust boundary refused a call; `status` is its answer."""

    def __init__(self, name: str, status: Status | HypercallError, reason: str = "", *, remedy: str = "") -> None:
        super().__init__(f"{name}: {status.name}" + (f": {reason}" if reason else ""), remedy=remedy)
        self.call = name
        self.status = status


@dataclass(frozen=True)  # no slots: `Result[None](...)` needs a place for the type
class Result(Generic[V]):
    """What a SEAMCALL or a TDCALL returns.

    `values` is set if the call succeeded and returns any. With SPDM_REQUEST, `data_object` is one whole DOE data
    object to carry to the device; its answer goes into the `response` of the next call. With INTERRUPTED_RESUMABLE,
    call again at `resume_at` (seconds). `reason` is for the reader, no part of the interface: nothing may depend on
    it.
    """

    status: Status
    values: V | None = None
    data_object: bytes = b""
    resume_at: float = 0.0
    reason: str = ""

    @property
    def pending(self) -> bool:
        """Tell whether the call wants to be called again."""
        return self.status in PENDING

    def require(self, name: str) -> V:
        """Give the values of the call `name`; a call without values gives None.

        Raises `CallRefused` on anything but SUCCESS, warnings such as PAGE_ALREADY_ACCEPTED included.
        """
        if self.status is not Status.SUCCESS:
            raise CallRefused(name, self.status, self.reason)
        return self.values  # type: ignore[return-value]


@dataclass(frozen=True)
class HypercallResult(Generic[V]):
    """What a hypercall returns: values if DONE, an error if ERROR; on WAIT the TVM asks again."""

    status: TdcmStatus
    error: HypercallError = HypercallError.NONE
    values: V | None = None
    reason: str = ""

    def require(self, name: str) -> V:
        """Give the values of the call `name`; a call without values gives None. Raises `CallRefused`."""
        if self.status is not TdcmStatus.DONE:
            raise CallRefused(name, self.error, self.reason or self.status.name)
        return self.values  # type: ignore[return-value]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def call(
    boundary: Boundary,
    name: str,
    leaf: int | None,
    *,
    returns: type[Any] | None = None,
    refusals: Iterable[Status | HypercallError] = (),
    alias: str = "",
    resumable: bool = False,
    timed: bool = False,
) -> Callable[[type[C]], type[C]]:
    """Declare the decorated class as the operands of a call.

    Every call may also refuse operands that are plainly invalid, so that is not listed among `refusals`.
    """
    invalid = HypercallError.INVALID_OPERAND if boundary is Boundary.HYPERCALL else Status.OPERAND_INVALID

    def declare(cls: type[C]) -> type[C]:
        arguments = dataclass(frozen=True, kw_only=True)(cls)
        expected = frozenset({invalid, *refusals})
        _calls[name] = Call(name, leaf, boundary, arguments, returns, expected, alias, resumable, timed or resumable)
        return arguments

    return declare
