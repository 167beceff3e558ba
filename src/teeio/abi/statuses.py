"""The status codes that SEAMCALLs, TDCALLs and hypercalls return.

Bits 63:32 of a TDX status say what happened: bit 63 error, bit 62 not recoverable, 47:40 class, 39:32 number.
Sources: Linux `tdx_errno.h` and the published TDX module sources. Codes whose number no public source gives carry the
software-defined class 0xFF, which the TDX module never returns; most of their names are the module's, and only these
numbers are this model's own. Left out: the operand number that the module adds in bits 31:0.
"""

from __future__ import annotations

from enum import IntEnum

_OWN = 0xC000_FF00_0000_0000
_STEP = 1 << 32


class Status(IntEnum):
    """What a SEAMCALL or a TDCALL returns in RAX."""

    SUCCESS = 0
    INTERRUPTED_RESUMABLE = 0x8000_0003_0000_0000
    OPERAND_INVALID = 0xC000_0100_0000_0000
    OPERAND_ADDR_RANGE_ERROR = 0xC000_0101_0000_0000
    OPERAND_BUSY = 0x8000_0200_0000_0000
    RND_NO_ENTROPY = 0x8000_0203_0000_0000
    PAGE_METADATA_INCORRECT = 0xC000_0300_0000_0000
    TD_ASSOCIATED_PAGES_EXIST = 0xC000_0400_0000_0000
    TD_FATAL = 0xE000_0604_0000_0000
    LIFECYCLE_STATE_INCORRECT = 0xC000_0607_0000_0000
    OP_STATE_INCORRECT = 0xC000_0608_0000_0000
    HKID_NOT_FREE = 0xC000_0820_0000_0000
    EPT_WALK_FAILED = 0xC000_0B00_0000_0000
    EPT_ENTRY_NOT_FREE = 0xC000_0B02_0000_0000
    TLB_TRACKING_NOT_DONE = 0xC000_0B08_0000_0000
    PAGE_ALREADY_ACCEPTED = 0x0000_0B0A_0000_0000
    PAGE_SIZE_MISMATCH = 0xC000_0B0B_0000_0000
    EPT_ENTRY_STATE_INCORRECT = 0xC000_0B0D_0000_0000
    TDI_NOT_PRESENT = 0xC000_0F40_0000_0000
    TDI_INVALID_METADATA = 0xC000_0F41_0000_0000
    SPDM_SESSION_KEY_REQUIRE_REFRESH = 0xC000_0F45_0000_0000
    SPDM_REQUEST = 0xC000_0F57_0000_0000

    # Numbers below are this model's own.
    SPDM_FAILED = _OWN + 0x01 * _STEP
    SPDM_SESSION_NOT_PRESENT = _OWN + 0x02 * _STEP
    IDE_KM_FAILED = _OWN + 0x03 * _STEP
    IDE_STREAM_BLOCKED = _OWN + 0x04 * _STEP
    IDE_STREAM_NOT_READY = _OWN + 0x05 * _STEP
    IDE_STREAM_IN_USE = _OWN + 0x06 * _STEP
    DEVIF_INVALID_STATE = _OWN + 0x07 * _STEP
    DEVIF_TDISP_INVALID_STATE = _OWN + 0x08 * _STEP
    DEVIF_TDISP_ERROR_STATE = _OWN + 0x09 * _STEP
    DEVIF_TDISP_INVALID_REQ_STS = _OWN + 0x0A * _STEP
    DEVIF_TDISP_FAILED = _OWN + 0x0B * _STEP
    DEVIF_HAS_MAPPED_DMA = _OWN + 0x0C * _STEP
    DEVIF_HAS_MAPPED_MMIO = _OWN + 0x0D * _STEP
    DEVIF_NOT_AUTHORISED = _OWN + 0x0E * _STEP
    DEVIF_BIND_SESSION_MISMATCH = _OWN + 0x0F * _STEP
    DEVIF_PUBLIC_KEY_MISMATCH = _OWN + 0x10 * _STEP
    DEVIF_NOT_VALIDATED = _OWN + 0x11 * _STEP
    DEVIF_REPORT_UNACCEPTABLE = _OWN + 0x12 * _STEP
    MMIO_INVALID_PAGE_METADATA = _OWN + 0x13 * _STEP
    MMIO_DEVIF_OWNER_MISMATCH = _OWN + 0x14 * _STEP
    MMIO_REPORT_MISMATCH = _OWN + 0x15 * _STEP
    DMAR_INVALID_MAPPING_STATE = _OWN + 0x16 * _STEP
    IOMMU_NOT_CONFIGURED = _OWN + 0x17 * _STEP
    IOMMU_QUEUE_FULL = _OWN + 0x18 * _STEP
    IDE_STREAM_NEEDS_NEW_KEYS = _OWN + 0x19 * _STEP
    P2P_NOT_SUPPORTED = _OWN + 0x1A * _STEP
    P2P_NOT_ALLOWED = _OWN + 0x1B * _STEP
    P2P_STREAM_MISMATCH = _OWN + 0x1C * _STEP
    DEVICE_TLB_NOT_INVALIDATED = _OWN + 0x1D * _STEP
    DMAR_ENTRY_NOT_PRESENT = _OWN + 0x20 * _STEP
    DMAR_INVALID_INV_STATE = _OWN + 0x21 * _STEP
    DMAR_TABLE_POISONED = _OWN + 0x22 * _STEP
    IDE_OPTION_NOT_SUPPORTED = _OWN + 0x23 * _STEP

    @property
    def is_error(self) -> bool:
        """Tell whether bit 63 is set: the call has not done what it was asked, or (SPDM_REQUEST) not yet."""
        return bool(self >> 63)

    @property
    def is_documented(self) -> bool:
        """Tell whether the number is a published one."""
        return self >> 40 & 0xFF != 0xFF


PENDING = frozenset({Status.SPDM_REQUEST, Status.INTERRUPTED_RESUMABLE})
"""The call is under way: carry the data object (`SPDM_REQUEST`) or wait (`INTERRUPTED_RESUMABLE`), then call again."""


TRANSIENT = frozenset({Status.OPERAND_BUSY, Status.RND_NO_ENTROPY})
"""Nothing was done, and nothing need be wrong with the call: it may be made again as it was (Linux: `sc_retry`)."""

TRIES = 3
"""How often a caller makes a call that is refused for now."""


class TdcmStatus(IntEnum):
    """How far a hypercall is (status field of the TDCM response buffer)."""

    WAIT = 0
    DONE = 1
    ERROR = 2


class HypercallError(IntEnum):
    """Why a hypercall failed: 10-15 are those of TDCM, those with bit 63 of TDG.VP.VMCALL itself."""

    NONE = 0
    MODULE = 10
    DEVICE = 11
    SPDM = 12
    IDE_KM = 13
    TDISP = 14
    INVALID_STATE = 15
    INVALID_OPERAND = 0x8000_0000_0000_0000
