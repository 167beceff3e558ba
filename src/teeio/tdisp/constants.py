"""Numbers and enumerations of TDISP 1.0 (PCIe Base 11.2, 11.3); `messages` gives them beside its layouts."""

from __future__ import annotations

from enum import IntEnum, IntFlag

VERSION_1_0 = 0x10
HEADER_SIZE = 16
NONCE_SIZE = 32
PAGE_SIZE = 4096

STANDARD_ID = 3
"""StandardID of the vendor-defined SPDM message: PCI-SIG."""
VENDOR_ID = b"\x01\x00"
"""PCI-SIG's VendorID 0x0001."""
PROTOCOL_ID = 0x01
"""TDISP among PCI-SIG's protocols."""


class MessageType(IntEnum):
    """MessageType; a response is its request with bit 7 clear."""

    TDISP_VERSION = 0x01
    TDISP_CAPABILITIES = 0x02
    LOCK_INTERFACE_RESPONSE = 0x03
    DEVICE_INTERFACE_REPORT = 0x04
    DEVICE_INTERFACE_STATE = 0x05
    START_INTERFACE_RESPONSE = 0x06
    STOP_INTERFACE_RESPONSE = 0x07
    BIND_P2P_STREAM_RESPONSE = 0x08
    UNBIND_P2P_STREAM_RESPONSE = 0x09
    SET_MMIO_ATTRIBUTE_RESPONSE = 0x0A
    VDM_RESPONSE = 0x0B
    SET_TDISP_CONFIG_RESPONSE = 0x0C
    TDISP_ERROR = 0x7F
    GET_TDISP_VERSION = 0x81
    GET_TDISP_CAPABILITIES = 0x82
    LOCK_INTERFACE_REQUEST = 0x83
    GET_DEVICE_INTERFACE_REPORT = 0x84
    GET_DEVICE_INTERFACE_STATE = 0x85
    START_INTERFACE_REQUEST = 0x86
    STOP_INTERFACE_REQUEST = 0x87
    BIND_P2P_STREAM_REQUEST = 0x88
    UNBIND_P2P_STREAM_REQUEST = 0x89
    SET_MMIO_ATTRIBUTE_REQUEST = 0x8A
    VDM_REQUEST = 0x8B
    SET_TDISP_CONFIG_REQUEST = 0x8C


class InterfaceState(IntEnum):
    """TDI_STATE."""

    CONFIG_UNLOCKED = 0
    CONFIG_LOCKED = 1
    RUN = 2
    ERROR = 3

    def __init__(self, state: int) -> None:
        self.locked = state in (1, 2)
        """Whether the configuration counts as locked: CONFIG_LOCKED and RUN."""


class ErrorCode(IntEnum):
    """ERROR_CODE of TDISP_ERROR."""

    INVALID_REQUEST = 0x0001
    BUSY = 0x0003
    INVALID_INTERFACE_STATE = 0x0004
    UNSPECIFIED = 0x0005
    UNSUPPORTED_REQUEST = 0x0007
    VERSION_MISMATCH = 0x0041
    VENDOR_SPECIFIC_ERROR = 0x00FF
    INVALID_INTERFACE = 0x0101
    INVALID_NONCE = 0x0102
    INSUFFICIENT_ENTROPY = 0x0103
    INVALID_DEVICE_CONFIGURATION = 0x0104


class LockFlags(IntFlag):
    """FLAGS of LOCK_INTERFACE_REQUEST and LOCK_INTERFACE_FLAGS_SUPPORTED."""

    NONE = 0
    NO_FW_UPDATE = 1 << 0
    SYSTEM_CACHE_LINE_SIZE = 1 << 1
    LOCK_MSIX = 1 << 2
    BIND_P2P = 1 << 3
    ALL_REQUEST_REDIRECT = 1 << 4

    @classmethod
    def defined(cls) -> LockFlags:
        """Give all flags that have a meaning; bits 15:5 are reserved."""
        return cls(0x1F)


class InterfaceInfo(IntFlag):
    """INTERFACE_INFO of the report."""

    NONE = 0
    NO_FW_UPDATE_WHILE_LOCKED = 1 << 0
    DMA_WITHOUT_PASID = 1 << 1
    DMA_WITH_PASID = 1 << 2
    ATS_ENABLED = 1 << 3
    PRS_ENABLED = 1 << 4


class RangeAttributes(IntFlag):
    """Range attributes of an MMIO_RANGE."""

    NONE = 0
    MSIX_TABLE = 1 << 0
    MSIX_PBA = 1 << 1
    IS_NON_TEE_MEM = 1 << 2
    IS_MEM_ATTR_UPDATABLE = 1 << 3
