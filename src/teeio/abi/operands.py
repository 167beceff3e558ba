"""What the operands mean: address conventions, operation codes, structures that several calls pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import TypeAlias

from teeio.pcie.address import AddressRange

PAGE_SIZE = 4096
"""The unit of ownership and of mapping, in bytes."""

GPA_SHARED_BIT = 1 << 51
"""Set in a guest-physical address, it selects the shared EPT, which belongs to the VMM (TDX with a 52-bit GPA
width)."""

PRIVATE_MMIO_BASE = 1 << 32
"""Private MMIO lies above 4 GiB only (TDX Connect Device Guide, appendix A)."""

ECAM = AddressRange(0xE000_0000, 0x1000_0000)
"""Where configuration space lies in the address space, a TVM's too."""

MESSAGE_ADDRESS = 0xFEE0_0000
"""Where message-signalled interrupts go, from there on 1 MiB (Intel SDM 3A, 12.11)."""

SUB_STREAMS = 3
"""Of an IDE stream: PR, NPR, CPL."""

FunctionId: TypeAlias = int
"""FUNCTION_ID of TDISP: 15:0 requester id, 23:16 segment, 24 segment valid. The handle of a device interface."""


class Actor(Enum):
    """Who stands on either side of a trust boundary."""

    VMM = "VMM"
    TVM = "TVM"
    TSM = "TSM"


class PageLevel(IntEnum):
    """Size of a mapping, numbered as in the secure EPT."""

    PAGE_4K = 0
    PAGE_2M = 1

    def __init__(self, level: int) -> None:
        self.size = PAGE_SIZE << 9 * level
        """Size in bytes."""


class KmOperation(IntEnum):
    """Operations of TDH.IDE.STREAM.KM."""

    SETUP = 0
    REFRESH = 1
    STOP = 2


class SpdmOperation(IntEnum):
    """Operations of TDH.SPDM.MNG."""

    HEARTBEAT = 0
    KEY_UPDATE = 1
    RECOLLECT = 2


class DevifOperation(IntEnum):
    """What can be asked of a device interface, by the message code of TDISP; MEASUREMENTS is SPDM's."""

    LOCK = 0x83
    REPORT = 0x84
    STATE = 0x85
    START = 0x86
    STOP = 0x87
    MEASUREMENTS = 0xE0


AUTHORITY: Mapping[DevifOperation, frozenset[Actor]] = MappingProxyType(
    {
        DevifOperation.LOCK: frozenset({Actor.VMM}),
        DevifOperation.REPORT: frozenset({Actor.TVM}),
        DevifOperation.STATE: frozenset({Actor.VMM, Actor.TVM}),
        DevifOperation.START: frozenset({Actor.TVM}),
        DevifOperation.STOP: frozenset({Actor.VMM}),
        DevifOperation.MEASUREMENTS: frozenset({Actor.TVM}),
    }
)
"""Who may trigger an operation (TDX module, tdisp.c; MEASUREMENTS is this model's reading of evidence on request).
The VMM carries all of them, but starts one that is not its own only after the TVM has asked for it."""


class DmarLevel(IntEnum):
    """The levels of the trusted DMA remapping tables, from the leaf up, named by whose entry is meant (TDX module, dmar_defs.h)."""

    PASID = 0
    PASID_DIRECTORY = 1
    CONTEXT = 2
    ROOT = 3


class DmarState(IntEnum):
    """Mapping state of an entry of these tables; only PASID entries are ever PENDING (dmar_defs.h)."""

    FREE = 0
    PENDING = 1
    BLOCKED = 2
    PRESENT = 3


class InvalidationState(IntEnum):
    """How far a blocked entry is out of the caches (dmar_defs.h)."""

    PENDING = 0
    QUEUED = 1
    DONE = 3


class Invalidation(IntEnum):
    """What TDH.IQINV.REQ throws away: what is cached of a TVM's addresses, or of one entry (inv_queue_defs.h)."""

    IOTLB = 0
    ROOT = 1
    CONTEXT = 2
    PASID_DIRECTORY = 3
    PASID = 4


@dataclass(frozen=True, slots=True)
class LockParameters:
    """What the VMM chooses for LOCK_INTERFACE: the FLAGS and the MMIO_REPORTING_OFFSET (signed, bytes).

    The default stream is the interface's. The peer-to-peer mask is zero without BIND_P2P, which TDX Connect does not have.
    """

    flags: int
    mmio_reporting_offset: int = 0
    bind_p2p_address_mask: int = 0


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What an IDE stream does besides the default; TDX Connect has no aggregation, so this is the generic profile's.

    `aggregation` says for PR, NPR and CPL how many TLPs may share a MAC, as registers encode it: 0 to 3 for up to 1, 2, 4, 8.
    """

    pcrc: bool = False
    aggregation: tuple[int, int, int] = (0, 0, 0)

    @property
    def valid(self) -> bool:
        """Whether registers can say it."""
        return len(self.aggregation) == SUB_STREAMS and all(0 <= code <= 3 for code in self.aggregation)

    @property
    def features(self) -> list[str]:
        """What a port must support for it, as the IDE Capability register names it."""
        return [name for name, wanted in (("aggregation", any(self.aggregation)), ("pcrc", self.pcrc)) if wanted]

    @property
    def control(self) -> dict[str, int]:
        """The fields of the stream's control register that say it."""
        pr, npr, cpl = self.aggregation
        return {"pcrc": int(self.pcrc), "pr_aggregation": pr, "npr_aggregation": npr, "cpl_aggregation": cpl}


NO_OPTIONS = StreamOptions()
"""A stream as TDX Connect has it."""


@dataclass(frozen=True, slots=True)
class PagesReturned:
    """Physical pages that belong to the VMM again, scrubbed."""

    pages: tuple[int, ...]
