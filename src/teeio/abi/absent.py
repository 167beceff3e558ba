"""The calls of both TDX Connect generations, and of the base API beside them, that are not declared here, and why.

Numbers are leaves. Sources as in `memory_seamcalls`; the earlier generation's names are those of its first public Linux header.
"""

from __future__ import annotations

from typing import NamedTuple


class Absent(NamedTuple):
    """A call that this model does without."""

    name: str
    leaf: int | None
    reason: str


_ONE_STEP = "the module's trees are entered in one step: the call that names a leaf takes its pages"
_NO_PROCESSORS = "there are no virtual processors; whoever holds a TVM's calls and memory is its processor"
_NO_CACHES = "there are no caches"

ABSENT: tuple[Absent, ...] = (
    Absent("TDH.EXT.MEM.ADD", 61, "memory for a module extension of the current generation: the TPA takes none here"),
    Absent("TDH.IOMMU.GETREG", 129, "reads back what SETREG wrote; TDH.IOMMU.SETUP writes all registers at once"),
    Absent("TDH.DEVIFMT.ADD", 164, _ONE_STEP),
    Absent("TDH.DEVIFMT.REMOVE", 165, _ONE_STEP),
    Absent("TDH.DEVIFMT.RD", 166, _ONE_STEP),
    Absent("TDH.MEM.SEPT.ADD", 3, _ONE_STEP),
    Absent("TDH.MEM.SEPT.RD", 25, _ONE_STEP),
    Absent("TDH.MEM.SEPT.REMOVE", 30, _ONE_STEP),
    Absent("TDH.MEM.PAGE.PROMOTE", 23, "pages are split where a TVM shares parts of them, and not merged again"),
    Absent("TDH.MEM.RANGE.UNBLOCK", 39, "a blocked page is split or leaves"),
    Absent("TDH.MR.EXTEND", 16, "a TVM's first contents are not measured"),
    Absent("TDH.MNG.ADDCX", 1, "TDH.MNG.INIT and TDH.MR.FINALIZE stand for the whole building of a TVM"),
    Absent("TDH.MNG.KEY.CONFIG", 8, "the key is there with TDH.MNG.CREATE"),
    Absent("TDH.MNG.VPFLUSHDONE", 19, _NO_PROCESSORS),
    Absent("TDH.VP.ENTER", 0, _NO_PROCESSORS),
    Absent("TDH.VP.CREATE", 10, _NO_PROCESSORS),
    Absent("TDH.VP.INIT", 22, _NO_PROCESSORS),
    Absent("TDH.VP.FLUSH", 18, _NO_PROCESSORS),
    Absent("TDH.PHYMEM.CACHE.WB", 40, _NO_CACHES),
    Absent("TDH.PHYMEM.PAGE.WBINVD", 41, _NO_CACHES),
    Absent("TDG.MR.REPORT", 4, "attestation here is of the device to the TVM, not of the TVM to its owner"),
)
"""Every public call on memory, devices and I/O that has no declaration; other names of declared ones are their aliases."""
