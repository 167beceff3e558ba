"""Taking something apart in steps, so that a step which fails can be tried again later without repeating those before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from teeio.errors import Busy


class Teardown:
    """Steps that are each done once, in order. A step that raises is where the next `run` goes on."""

    def __init__(self, steps: Iterable[Callable[[], object]]) -> None:
        self._steps = deque(steps)
        self._running = False

    def run(self) -> None:
        """Do what is left. Raises `Busy` out of one of its own steps."""
        if self._running:
            raise Busy("it is being taken apart already", remedy="wait until that is done")
        self._running = True
        try:
            while self._steps:
                self._steps[0]()
                self._steps.popleft()
        finally:
            self._running = False
