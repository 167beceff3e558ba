"""Versions, capability flags and error codes of DSP0274, and what else more than one message uses."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Version(IntEnum):
    """The SPDMVersion byte: major in the high nibble, minor in the low one."""

    V1_0 = 0x10
    V1_1 = 0x11
    V1_2 = 0x12
    V1_3 = 0x13
    V1_4 = 0x14

    @property
    def text(self) -> str:
        """The version as "1.2"."""
        return f"{self >> 4}.{self & 0xF}"


class Capability(IntFlag):
    """Flags of GET_CAPABILITIES and CAPABILITIES (DSP0274, "Flag fields definitions")."""

    CACHE = 1 << 0
    CERT = 1 << 1
    CHAL = 1 << 2
    MEAS_NO_SIG = 1 << 3
    MEAS_SIG = 1 << 4
    MEAS_FRESH = 1 << 5
    ENCRYPT = 1 << 6
    MAC = 1 << 7
    MUT_AUTH = 1 << 8
    KEY_EX = 1 << 9
    PSK = 1 << 10
    PSK_WITH_CONTEXT = 1 << 11
    ENCAP = 1 << 12
    HBEAT = 1 << 13
    KEY_UPD = 1 << 14
    HANDSHAKE_IN_THE_CLEAR = 1 << 15
    PUB_KEY_ID = 1 << 16
    CHUNK = 1 << 17
    ALIAS_CERT = 1 << 18
    SET_CERT = 1 << 19
    CSR = 1 << 20
    CERT_INSTALL_RESET = 1 << 21
    EP_INFO_NO_SIG = 1 << 22
    EP_INFO_SIG = 1 << 23
    MEL = 1 << 24
    EVENT = 1 << 25
    MULTI_KEY_ONLY = 1 << 26
    MULTI_KEY_NEG = 1 << 27
    GET_KEY_PAIR_INFO = 1 << 28
    SET_KEY_PAIR_INFO = 1 << 29
    SET_KEY_PAIR_RESET = 1 << 30
    LARGE_RESP = 1 << 31


KNOWN_CAPABILITIES = {
    Version.V1_0: Capability(0x3F),
    Version.V1_1: Capability(0x1FFFF),
    Version.V1_2: Capability(0x3FFFFF),
    Version.V1_3: Capability(0x3FFFFFFF),
    Version.V1_4: Capability(0xFFFFFFFF),
}
"""Flags that a version defines; others are cleared before sending."""


class ErrorCode(IntEnum):
    """Error codes of ERROR (DSP0274, "Error code and error data")."""

    INVALID_REQUEST = 0x01
    INVALID_SESSION = 0x02
    BUSY = 0x03
    UNEXPECTED_REQUEST = 0x04
    UNSPECIFIED = 0x05
    DECRYPT_ERROR = 0x06
    UNSUPPORTED_REQUEST = 0x07
    REQUEST_IN_FLIGHT = 0x08
    INVALID_RESPONSE_CODE = 0x09
    SESSION_LIMIT_EXCEEDED = 0x0A
    SESSION_REQUIRED = 0x0B
    RESET_REQUIRED = 0x0C
    RESPONSE_TOO_LARGE = 0x0D
    REQUEST_TOO_LARGE = 0x0E
    LARGE_RESPONSE = 0x0F
    MESSAGE_LOST = 0x10
    INVALID_POLICY = 0x11
    DATA_TOO_LARGE = 0x12
    VERSION_MISMATCH = 0x41
    RESPONSE_NOT_READY = 0x42
    REQUEST_RESYNCH = 0x43
    OPERATION_FAILED = 0x44
    NO_PENDING_REQUESTS = 0x45
    REQUEST_SESSION_TERMINATED = 0x46
    INVALID_STATE = 0x47
    VENDOR_DEFINED = 0xFF


class SummaryType(IntEnum):
    """Measurement summary hash wanted in CHALLENGE, KEY_EXCHANGE and PSK_EXCHANGE."""

    NONE = 0x00
    TCB = 0x01
    ALL = 0xFF


class KeyUpdateOperation(IntEnum):
    """KEY_UPDATE Param1."""

    UPDATE_KEY = 1
    UPDATE_ALL_KEYS = 2
    VERIFY_NEW_KEY = 3


class KeyPairOperation(IntEnum):
    """Operation of SET_KEY_PAIR_INFO."""

    CHANGE = 0
    ERASE = 1
    GENERATE = 2


class MutualAuth(IntEnum):
    """MutAuthRequested of KEY_EXCHANGE_RSP: how a session authenticates the requester."""

    NONE = 0
    PLAIN = 1
    ENCAPSULATED = 2
    IMPLICIT_DIGESTS = 4


PUBLIC_KEY_SLOT = 0xFF
"""Slot value that names a provisioned public key instead of a certificate chain."""

MIN_DATA_TRANSFER_SIZE = 42
"""Smallest DataTransferSize (DSP0274, MinDataTransferSize)."""

ALL_MEASUREMENTS = 0xFF
"""GET_MEASUREMENTS operation that asks for every block."""

PSK_CAPABILITIES = Capability.PSK | Capability.PSK_WITH_CONTEXT
"""The two bits of PSK_CAP."""

MEAS_CAPABILITIES = Capability.MEAS_NO_SIG | Capability.MEAS_SIG
"""The two values of MEAS_CAP that say that there are measurements."""

EP_INFO_CAPABILITIES = Capability.EP_INFO_NO_SIG | Capability.EP_INFO_SIG
"""The two values of EP_INFO_CAP that say that there is endpoint information."""

SESSION_CAPABILITIES = Capability.KEY_EX | PSK_CAPABILITIES
"""With none of these there are no sessions."""

NEEDS_SESSION = (
    Capability.ENCRYPT | Capability.MAC | Capability.HANDSHAKE_IN_THE_CLEAR | Capability.HBEAT | Capability.KEY_UPD
)
"""What means nothing without sessions and needs them by the flag rules; EVENT needs them, too, by a rule of its own."""

PSK_CONTEXT_SIZE = 32
"""Bytes of the context that either side gives for a session on a pre-shared key."""

FIRST_SESSION_HALF = 0xFFFF
"""Where each side begins to number its half of a session id, downwards (as the DMTF reference does)."""
