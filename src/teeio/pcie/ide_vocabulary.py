"""What may become of a stream and of a key at a port (PCIe Base 6.33.3)."""

from __future__ import annotations

from enum import Enum


class InsecureCause(Enum):
    """Why a stream left Secure."""

    DISABLED = "enable bit cleared"
    CHECK_FAILED = "IDE check failed"
    FAIL_RECEIVED = "IDE Fail received"
    RECONFIGURED = "reconfigured while enabled"
    BAD_SETTINGS = "enabled without a valid RID association or with an unknown algorithm"
    RESET = "reset"
    FUNCTION_RESET = "reset of the function that holds the IDE registers"
    ORDERED = "ordered by the device"


class ProgramResult(Enum):
    """What became of a key; only OK installed it."""

    OK = "installed"
    UNKNOWN_STREAM = "no stream block has this Stream ID"
    BAD_KEY = "the key has the wrong size"
    BAD_IFV = "the initial invocation field must be 1"
    IN_USE = "the slot is in use"
    KEY_REUSED = "the key was installed before"
    TOO_MANY_KEYS = "the port remembers no more used keys until the next conventional reset"
