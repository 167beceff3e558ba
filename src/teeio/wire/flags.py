"""Flags of decoded numbers, within bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag

MAX_REMEMBERED_FLAGS = 4096
"""Combinations of one kind of flags that the interpreter may remember at a time."""


def flags_of(kind: type[IntFlag]) -> Callable[[int], IntFlag]:
    """Make `kind` of a number without remembering every number that a peer ever sends, as `enum` alone would."""
    remembered = kind._value2member_map_
    named = dict(remembered)

    def flags(value: int) -> IntFlag:
        found = kind(value)
        if len(remembered) > MAX_REMEMBERED_FLAGS:
            remembered.clear()
            remembered.update(named)
        return found

    return flags
