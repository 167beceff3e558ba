"""What a flow yields and gets back: one request and its answer."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from teeio.flow import Flow
from teeio.spdm.messages import Message, Request, Response

R = TypeVar("R", bound=Response)
M = TypeVar("M", bound=Message, covariant=True)


@dataclass(frozen=True, slots=True)
class Ask:
    """Send `request` in `session` (None: the session the flow was started in)."""

    request: Request[Any]
    session: int | None = None


@dataclass(frozen=True, slots=True)
class Answer(Generic[R]):
    """A response with the bytes of both messages as they travelled, without transport padding."""

    message: R
    sent: bytes
    received: bytes


def exchange(request: Request[R], session: int | None = None) -> Generator[Ask, Answer[R], Answer[R]]:
    """Send a request and return its answer with the bytes."""
    return (yield Ask(request, session))


def ask(request: Request[R], session: int | None = None) -> Flow[R]:
    """Send a request and return the response."""
    answer: Answer[R] = yield Ask(request, session)
    return answer.message
