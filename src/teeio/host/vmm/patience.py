"""Calls made again when the TSM refuses them only for now, in one place for all of the VMM (Linux: `sc_retry`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from teeio.abi import Result, VmmToTsm
from teeio.abi.statuses import TRANSIENT, TRIES


class _Patient:
    """A TSM each of whose calls is made up to `TRIES` times while its status is a transient one."""

    def __init__(self, tsm: VmmToTsm) -> None:
        self._tsm = tsm

    def __getattr__(self, name: str) -> Callable[..., Result[Any]]:
        def call(*operands: Any) -> Result[Any]:
            method = getattr(self._tsm, name)
            result: Result[Any] = method(*operands)
            for _ in range(TRIES - 1):
                if result.status not in TRANSIENT:
                    break
                result = method(*operands)
            return result

        getattr(self._tsm, name)  # raises for what is no SEAMCALL
        self.__dict__[name] = call
        return call


def patient(tsm: VmmToTsm) -> VmmToTsm:
    """Give the same SEAMCALLs, repeated while they are refused only for now."""
    return cast(VmmToTsm, _Patient(tsm))
