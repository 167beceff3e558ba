"""Why an IOMMU blocks a request, and by which rule; those of the trusted tables with the numbers of VT-d.

The numbers are the fault reasons of VT-d's scalable mode (VT-d 7.1.3, table of fault conditions; Linux `dmar.c`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from teeio.abi.operands import DmarLevel


class FaultReason(Enum):
    """Why a request was blocked."""

    NO_DOMAIN = "the requester has no legacy domain"
    NOT_MAPPED = "no translation for the address"
    NOT_MEMORY = "the translation leads outside memory"
    PRIVATE_MEMORY = "a request without trust ends on memory that is not the VMM's"
    READ_ONLY = "a write to a page mapped for reading"
    NO_ATS = "a request by translated address of a requester that may not use ATS, or with trust"
    PASID_NOT_ENABLED = "a request with PASID, which no trusted context entry and no legacy domain enables"
    ROOT_TABLE_INVALID = "there is no trusted root table"
    ROOT_ENTRY_UNREADABLE = "error on reading the trusted root entry"
    ROOT_ENTRY_NOT_PRESENT = "the trusted root entry is not present"
    ROOT_ENTRY_RESERVED = "reserved bits are set in the trusted root entry"
    CONTEXT_ENTRY_UNREADABLE = "error on reading the trusted context entry"
    CONTEXT_ENTRY_NOT_PRESENT = "the trusted context entry is not present"
    CONTEXT_ENTRY_RESERVED = "reserved bits are set in the trusted context entry"
    DIRECTORY_ENTRY_UNREADABLE = "error on reading the trusted PASID directory entry"
    DIRECTORY_ENTRY_NOT_PRESENT = "the trusted PASID directory entry is not present"
    DIRECTORY_ENTRY_RESERVED = "reserved bits are set in the trusted PASID directory entry"
    PASID_ENTRY_UNREADABLE = "error on reading the trusted PASID entry"
    PASID_ENTRY_NOT_PRESENT = "the trusted PASID entry is not present: none, or not accepted, or blocked"
    PASID_ENTRY_RESERVED = "reserved bits are set in the trusted PASID entry"
    PASID_ENTRY_INVALID = "the trusted PASID entry leads to no second stage"


_R = FaultReason

NUMBERS: Mapping[FaultReason, int] = MappingProxyType(
    {
        _R.ROOT_TABLE_INVALID: 0x30,
        _R.ROOT_ENTRY_UNREADABLE: 0x38,
        _R.ROOT_ENTRY_NOT_PRESENT: 0x39,
        _R.ROOT_ENTRY_RESERVED: 0x3A,
        _R.CONTEXT_ENTRY_UNREADABLE: 0x40,
        _R.CONTEXT_ENTRY_NOT_PRESENT: 0x41,
        _R.CONTEXT_ENTRY_RESERVED: 0x42,
        _R.PASID_NOT_ENABLED: 0x45,
        _R.DIRECTORY_ENTRY_UNREADABLE: 0x50,
        _R.DIRECTORY_ENTRY_NOT_PRESENT: 0x51,
        _R.DIRECTORY_ENTRY_RESERVED: 0x52,
        _R.PASID_ENTRY_UNREADABLE: 0x58,
        _R.PASID_ENTRY_NOT_PRESENT: 0x59,
        _R.PASID_ENTRY_RESERVED: 0x5A,
        _R.PASID_ENTRY_INVALID: 0x5B,
    }
)
"""VT-d's numbers of the reasons that concern the trusted tables."""


class EntryFaults(NamedTuple):
    """What can be wrong with an entry that the walk meets."""

    unreadable: FaultReason
    not_present: FaultReason
    reserved: FaultReason


ENTRY_FAULTS: Mapping[DmarLevel, EntryFaults] = MappingProxyType(
    {
        DmarLevel.ROOT: EntryFaults(_R.ROOT_ENTRY_UNREADABLE, _R.ROOT_ENTRY_NOT_PRESENT, _R.ROOT_ENTRY_RESERVED),
        DmarLevel.CONTEXT: EntryFaults(
            _R.CONTEXT_ENTRY_UNREADABLE, _R.CONTEXT_ENTRY_NOT_PRESENT, _R.CONTEXT_ENTRY_RESERVED
        ),
        DmarLevel.PASID_DIRECTORY: EntryFaults(
            _R.DIRECTORY_ENTRY_UNREADABLE, _R.DIRECTORY_ENTRY_NOT_PRESENT, _R.DIRECTORY_ENTRY_RESERVED
        ),
        DmarLevel.PASID: EntryFaults(_R.PASID_ENTRY_UNREADABLE, _R.PASID_ENTRY_NOT_PRESENT, _R.PASID_ENTRY_RESERVED),
    }
)
"""By the table whose entry it is."""

TRUSTED_ENTRY_RULE = "T=1 needs trusted tables that lead to a PASID entry which the TVM has accepted (TDG.DMAR.ACCEPT)"

RULES: Mapping[FaultReason, str] = MappingProxyType(
    {
        **dict.fromkeys(NUMBERS, TRUSTED_ENTRY_RULE),
        _R.NO_DOMAIN: "an IOMMU translates only for requesters it knows",
        _R.NOT_MAPPED: "DMA reaches only what is mapped, accepted and unblocked",
        _R.NOT_MEMORY: "peer-to-peer requests are not supported",
        _R.PRIVATE_MEMORY: "T=0 DMA reaches only shared memory (TDX Connect Device Guide, appendix A)",
        _R.READ_ONLY: "access rights of the legacy domain",
        _R.NO_ATS: "translated addresses are honoured with T=0 and where the VMM allows ATS",
        _R.PASID_NOT_ENABLED: "TDX Connect has no PASID: PASIDE is clear in every trusted context entry (VT-d 9.4)",
    }
)
"""The rule behind each reason, for observers."""
