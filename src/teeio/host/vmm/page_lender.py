"""Pages that the VMM gives to the TSM for its structures, and frees when it gets them back."""

from __future__ import annotations

from collections.abc import Callable
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

    def give(self, call: Callable[[tuple[int, ...]], Result[V]]) -> Result[V]:
        """Give a call a page; free the page if the call is refused."""
        page = self._memory.allocate()
        result = call((page,))
        if result.status is not Status.SUCCESS:
            self._memory.free(page)
        return result

    def take_back(self, result: Result[PagesReturned]) -> None:
        """Free the pages that a call returns. After a refusal they stay the TSM's, on purpose (as Linux does)."""
        for page in result.values.pages if result.values else ():
            self._memory.free(page)
