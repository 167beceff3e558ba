"""The VMM as the one who carries data objects between TSM and device: it may lose, garble or repeat one, and let an exchange wait."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import Enum
from typing import Any, NamedTuple

from teeio.abi.statuses import Status
from teeio.errors import Misuse
from teeio.host.vmm.mailbox import Step
from teeio.platform import Platform
from teeio.spdm.state import Session

HEADER = 8
"""Bytes of a data object before what it carries."""


class Mishap(Enum):
    """What befalls the next data object."""

    LOSE = "lose the next request"
    LOSE_ANSWER = "lose the next answer"
    FLIP = "flip a bit of the next request"
    FLIP_ANSWER = "flip a bit of the next answer"
    REPEAT = "carry the next request twice"
    OLD = "answer the next request with the last answer"


class Waiting(NamedTuple):
    """An exchange that has begun: what the device is asked, and once it has answered, what it said.

    `step` is the resumable call, `rounds` counts its requests; `session` is the TSM's session then, and the numbers are
    those of the records in it.
    """

    step: Step[Any]
    rounds: int
    request: bytes
    session: Session | None
    request_number: int
    answer: bytes | None = None
    answer_number: int = 0


class Courier:
    """Carries by the mailbox's seam, one data object after the other; `carried` counts them."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._next: Mishap | None = None
        self._last = b""
        self.waiting: Waiting | None = None
        self.carried = 0

    def __call__(self, data_object: bytes, now: float) -> bytes:
        """Take a data object to the device and bring its answer, unless something befalls it."""
        mishap, self._next = self._next, None
        self.carried += 1
        if mishap is Mishap.LOSE:
            return b""
        if mishap is Mishap.OLD:
            return self._last
        answer = self._deliver(_flipped(data_object) if mishap is Mishap.FLIP else data_object, now)
        if mishap is Mishap.REPEAT:
            self._deliver(data_object, now)
        if mishap is Mishap.LOSE_ANSWER:
            return b""
        self._last = answer or self._last
        return _flipped(answer) if mishap is Mishap.FLIP_ANSWER else answer

    def _deliver(self, data_object: bytes, now: float) -> bytes:
        return self._platform.device.responder.respond(data_object, now) or b"" if self._platform.link.up else b""

    def do_next(self, mishap: Mishap) -> None:
        """Do this to the next data object. Raises `Misuse` if there is no old answer to give."""
        if mishap is Mishap.OLD and not self._last:
            raise Misuse("the device has answered nothing yet")
        self._next = mishap

    # -- an exchange in pieces

    def ask(self, step: Step[Any]) -> None:
        """Begin an exchange by a resumable call, and let what the device is asked wait. Raises `CallRefused`."""
        self._go_on(step, 1, None)

    def take(self) -> None:
        """Take what waits to the device; its answer waits then. Raises `Misuse`."""
        waiting = self._exchange()
        answer = self(waiting.request, self._platform.now())
        sessions = self._platform.device.responder.sessions.values()
        number = next((session.response_key.sequence - 1 for session in sessions), 0)
        self.waiting = waiting._replace(answer=answer, answer_number=number)

    def give(self, answer: Callable[[Waiting], bytes | None]) -> None:
        """Give the TSM an answer for what waits. Raises `CallRefused`, and `Misuse` if there is none."""
        waiting = self._exchange()
        response = answer(waiting)
        if response is None:
            raise Misuse("the device has not answered", remedy="take the request to it first")
        self.waiting = None
        self.carried += 1  # the TSM goes on with it, whatever it is
        self._go_on(waiting.step, waiting.rounds + 1, response)

    @property
    def last(self) -> bytes:
        """The device's last answer that arrived."""
        return self._last

    def _exchange(self) -> Waiting:
        if self.waiting is None:
            raise Misuse("no exchange waits", remedy="begin one")
        return self.waiting

    def _go_on(self, step: Step[Any], rounds: int, response: bytes | None) -> None:
        result = step(response, self._platform.now())
        if result.status is not Status.SPDM_REQUEST:
            result.require("the call that waited")
            return
        session = next((one.agent.session for one in self._platform.module.records.contexts.values()), None)
        number = session.request_key.sequence - 1 if session is not None else 0
        self.waiting = Waiting(step, rounds, result.data_object, session, number)

    # -- for the fingerprint

    def state(self) -> Hashable:
        """Give what the next steps depend on: of records, whether their receivers would still open them."""
        ends = tuple(
            (
                context.agent.task,
                type(context.agent._action).__name__,
                self._behind(context.agent.session),
                self._exchange_in(context.agent.session),
            )
            for context in self._platform.module.records.contexts.values()
        )
        return self._next, bool(self._last), self.waiting is not None, ends

    def _device_session(self, session: Session | None) -> Session | None:
        return None if session is None else self._platform.device.responder.sessions.get(session.session_id)

    def _behind(self, session: Session | None) -> Hashable:
        """Tell by how many records each receiver is behind its sender."""
        other = self._device_session(session)
        if session is None or other is None:
            return None
        return (
            session.request_key.sequence - other.request_key.sequence,
            other.response_key.sequence - session.response_key.sequence,
        )

    def _exchange_in(self, session: Session | None) -> Hashable:
        waiting, other = self.waiting, self._device_session(session)
        if waiting is None or waiting.session is not session or session is None:
            return None
        return (
            waiting.rounds,
            None if other is None else other.request_key.sequence - waiting.request_number,
            waiting.answer and session.response_key.sequence - waiting.answer_number,
        )


def _flipped(data: bytes) -> bytes:
    """Change one bit in the middle of what follows a data object's header."""
    if len(data) <= HEADER:
        return data
    at = HEADER + (len(data) - HEADER) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
