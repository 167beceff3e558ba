"""A discrete-event clock: processes in virtual time that wait, and queue for what only one can use at a time.

A process is a generator. It yields `Wait(seconds)`, or `Use(resource, seconds)`: stand in the resource's queue, first
come first served, and hold it for that long. Virtual time has nothing to do with the time that the program takes.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(slots=True, eq=False)
class Resource:
    """Something that one process at a time can hold. `busy` adds up seconds held, `waited` seconds in the queue."""

    name: str
    busy: float = 0.0
    waited: float = 0.0
    held: bool = False
    queue: deque[tuple[float, Use, Process]] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class Wait:
    """Let `seconds` pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Use:
    """Hold a resource; `seconds` may depend on how many others wait at that moment."""

    resource: Resource
    seconds: float | Callable[[int], float]


Process: TypeAlias = Generator[Wait | Use, None, None]


class Simulation:
    """Virtual time and what is to happen in it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._number = 0
        self._due: list[tuple[float, int, Process, Resource | None]] = []

    def start(self, process: Process) -> None:
        """Let a process begin now."""
        self._at(0.0, process, None)

    def run(self) -> float:
        """Run until nothing is left to happen; give the time then, in seconds."""
        while self._due:
            self.now, _, process, released = heapq.heappop(self._due)
            if released is not None:
                self._release(released)
            self._go_on(process)
        return self.now

    def _at(self, delay: float, process: Process, held: Resource | None) -> None:
        # The number keeps the order of what happens at the same time.
        self._number += 1
        heapq.heappush(self._due, (self.now + delay, self._number, process, held))

    def _go_on(self, process: Process) -> None:
        step = next(process, None)
        if isinstance(step, Wait):
            self._at(step.seconds, process, None)
        elif isinstance(step, Use):
            step.resource.queue.append((self.now, step, process))
            self._serve(step.resource)

    def _release(self, resource: Resource) -> None:
        resource.held = False
        self._serve(resource)

    def _serve(self, resource: Resource) -> None:
        if resource.held or not resource.queue:
            return
        since, use, process = resource.queue.popleft()
        seconds = use.seconds(len(resource.queue)) if callable(use.seconds) else use.seconds
        resource.held = True
        resource.waited += self.now - since
        resource.busy += seconds
        self._at(seconds, process, resource)
