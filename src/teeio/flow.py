"""Procedures as generators, and the actions that an engine gives to whoever moves the bytes.

A flow reads like a figure of its specification: it yields a request and gets the response back. It knows nothing of sockets,
clocks or threads; an engine drives it with one input at a time and returns one `Action`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

T = TypeVar("T")

Flow: TypeAlias = Generator[Any, Any, T]
"""A procedure that yields requests, is sent responses, and returns a `T`."""


@dataclass(frozen=True, slots=True)
class Send:
    """Carry `frame` (one whole transport frame) to the peer and hand its answer to `receive`."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing until the time `until` (seconds, the caller's clock), then call `wake`."""

    until: float


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """The flow has returned `result`."""

    result: T


Action: TypeAlias = Send | Wait | Done[Any]
