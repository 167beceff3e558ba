"""Taking something apart in steps, so that a step which fails can be tried again later without repeating those before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable


class Teardown:
    """Steps that are each done once, in order. A step that raises is where the next `run` goes on."""

    def __init__(self, steps: Iterable[Callable[[], object]]) -> None:
        self._steps = deque(steps)

    def run(self) -> None:
        """Do what is left."""
        while self._steps:
            self._steps[0]()
            self._steps.popleft()
