"""What runs on a device, and whether it is or was debugged: its measurements show that at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from teeio.attestation.device_mode import DebugMode
from teeio.device.configuration import Configuration, measurements_of
from teeio.device.identity import Firmware, changes

_DEBUGGING = (
    DebugMode.INVASIVE_DEBUG_ACTIVE
    | DebugMode.INVASIVE_DEBUG_SINCE_RESET
    | DebugMode.INVASIVE_DEBUG_SINCE_MANUFACTURING
)
_UNTIL_RESET = DebugMode.INVASIVE_DEBUG_SINCE_RESET | DebugMode.NON_INVASIVE_DEBUG_SINCE_RESET


class MeasuredState:
    """Firmware and debug mode; `changed` is told when measurements differ, with the detail of MeasurementChanged."""

    def __init__(self, configuration: Configuration, changed: Callable[[bytes], object]) -> None:
        self.firmware = configuration.manufacture.firmware
        self.measurements = measurements_of(configuration)
        self._configuration = configuration
        self._debug = DebugMode(0)
        self._changed = changed

    def run(self, firmware: Firmware) -> None:
        """Run other firmware from now on."""
        self.firmware = firmware
        self._measure()

    def debug(self, active: bool) -> None:
        """Turn invasive debug on or off; that it was on stays to be seen."""
        self._debug = self._debug | _DEBUGGING if active else self._debug & ~DebugMode.INVASIVE_DEBUG_ACTIVE
        self._measure()

    def reset(self) -> None:
        """Forget what is told of the time since the last reset."""
        self._debug &= ~_UNTIL_RESET
        self._measure()

    def _measure(self) -> None:
        c = self._configuration
        now = measurements_of(replace(c, manufacture=replace(c.manufacture, firmware=self.firmware)), self._debug)
        changed = changes(self.measurements.measured, now.measured)
        self.measurements.measured, self.measurements.log = now.measured, now.log
        if any(changed):
            self._changed(changed)
