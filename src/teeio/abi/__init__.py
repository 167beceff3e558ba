"""Every call that crosses a trust boundary, declared.

SEAMCALLs go from the VMM to the TSM, TDCALLs from a TVM to the TSM, hypercalls from a TVM to the VMM.

What the VMM may ask of the TSM is exactly what stands here, so the security model can be read off these declarations.
The calls' operands and values are in `memory_seamcalls`, `device_seamcalls`, `tdcalls` and `hypercalls`, status codes
in `statuses`, what operands mean in `operands`.
"""

from teeio.abi.declaration import CALLS, Boundary, Call, CallRefused, HypercallResult, Result
from teeio.abi.interfaces import EptViolation, Processor, TvmToTsm, TvmToVmm, VmmToTsm

__all__ = [
    "CALLS",
    "Boundary",
    "Call",
    "CallRefused",
    "EptViolation",
    "HypercallResult",
    "Processor",
    "Result",
    "TvmToTsm",
    "TvmToVmm",
    "VmmToTsm",
]
