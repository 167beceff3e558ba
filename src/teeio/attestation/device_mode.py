"""The device mode measurement: in which mode a device runs and whether it is, or was, debugged.

Follows DSP0274 ("Device mode field of a measurement block").
"""

from __future__ import annotations

from enum import IntFlag

from teeio.wire import Record, record, u32


class OperationalMode(IntFlag):
    """Operational modes: capabilities say which the device can report, the state which it is in."""

    MANUFACTURING = 1 << 0
    VALIDATION = 1 << 1
    NORMAL = 1 << 2
    RECOVERY = 1 << 3
    RMA = 1 << 4
    DECOMMISSIONED = 1 << 5


class DebugMode(IntFlag):
    """Debug modes. The last one is history that outlives resets."""

    NON_INVASIVE_DEBUG_ACTIVE = 1 << 0
    INVASIVE_DEBUG_ACTIVE = 1 << 1
    NON_INVASIVE_DEBUG_SINCE_RESET = 1 << 2
    INVASIVE_DEBUG_SINCE_RESET = 1 << 3
    INVASIVE_DEBUG_SINCE_MANUFACTURING = 1 << 4


@record
class DeviceMode(Record):
    """Value of a measurement block of type device mode."""

    operational_capabilities: OperationalMode = u32("OperationalModeCapabilities", enum=OperationalMode)
    operational_state: OperationalMode = u32("OperationalModeState", enum=OperationalMode)
    debug_capabilities: DebugMode = u32("DeviceModeCapabilities", enum=DebugMode)
    debug_state: DebugMode = u32("DeviceModeState", enum=DebugMode)


DEBUGGED = (
    DebugMode.NON_INVASIVE_DEBUG_ACTIVE
    | DebugMode.INVASIVE_DEBUG_ACTIVE
    | DebugMode.NON_INVASIVE_DEBUG_SINCE_RESET
    | DebugMode.INVASIVE_DEBUG_SINCE_RESET
)
"""States in which a device's secrets may have been seen since its last reset."""

MUST_REPORT = DebugMode.NON_INVASIVE_DEBUG_ACTIVE | DebugMode.INVASIVE_DEBUG_ACTIVE
"""What a device must be able to report for its state to mean anything."""
