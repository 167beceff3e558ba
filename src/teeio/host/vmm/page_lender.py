"""Pages that the VMM gives to the TSM for its structures, and frees when it gets them back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

from teeio.abi import Result
from teeio.abi.operands import PagesReturned
from teeio.abi.statuses import Status
from teeio.host.memory import VmmMemory

V = TypeVar("V")


class PageLender:
    """Takes pages from the VMM's memory for one call each."""

    def __init__(self, memory: VmmMemory) -> None:
        self._memory = memory

    def give(self, call: Callable[[tuple[int, ...]], Result[V]], count: int = 1) -> Result[V]:
        """Give a call pages; free them if the call is refused, or never made."""
        with ExitStack() as undo:
            pages = tuple(self._take_one(undo) for _ in range(count))
            result = call(pages)
            if result.status is Status.SUCCESS:
                undo.pop_all()
        return result

    def _take_one(self, undo: ExitStack) -> int:
        page = self._memory.allocate()
        undo.callback(self._memory.free, page)
        return page

    def take_back(self, result: Result[PagesReturned]) -> None:
        """Free the pages that a call returns. After a refusal they stay the TSM's, on purpose (as Linux does)."""
        for page in result.values.pages if result.values else ():
            self._memory.free(page)
