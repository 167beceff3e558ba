"""What the TVM may ask of the VMM: TDG.VP.VMCALL hypercalls. The VMM is not trusted, so nothing in an answer is.

TDCM (0x10007) is one hypercall with an operation code; here each operation is a call of its own, `leaf` is its
operation code. Others carry their TDVMCALL number. Request and response buffers in shared memory are operands and
values here.
"""

from __future__ import annotations

from dataclasses import dataclass

from teeio.abi.declaration import Boundary, call
from teeio.abi.operands import FunctionId
from teeio.abi.statuses import HypercallError

HYPERCALL = Boundary.HYPERCALL

TDCM = 0x10007
"""TDVMCALL number of all TDCM operations."""

_TDCM_FAILURES = (
    HypercallError.MODULE,
    HypercallError.DEVICE,
    HypercallError.SPDM,
    HypercallError.TDISP,
    HypercallError.INVALID_STATE,
)


@call(HYPERCALL, "TDVMCALL.MAP.GPA", 0x10001, timed=True)
class TdvmcallMapGpa:
    """Ask to make guest memory shared or private; new private pages are pending until accepted."""

    gpa: int
    size: int
    shared: bool


@dataclass(frozen=True, slots=True)
class MmioValue:
    """What a read gave, little endian; 0 after a write."""

    value: int


@call(HYPERCALL, "TDVMCALL.REQUEST.MMIO", 48, returns=MmioValue, timed=True)
class TdvmcallRequestMmio:
    """Ask the VMM to carry out an access to shared MMIO or to configuration space (#VE.RequestMMIO).

    `value` is what to write, None for a read; `size` is 1, 2, 4 or 8 bytes.
    """

    gpa: int
    size: int
    value: int | None = None


@dataclass(frozen=True, slots=True)
class TdiSupport:
    """The FUNCTION_ID under which the TSM knows the function."""

    function_id: FunctionId


@call(HYPERCALL, "TDCM.CHECK.TEEIO.SUPP", 1, returns=TdiSupport, refusals=[HypercallError.DEVICE])
class TdcmCheckTeeioSupp:
    """Ask whether the function at this requester id of the guest's PCI tree can be a TDI."""

    requester_id: int


@call(HYPERCALL, "TDCM.BIND", 2, refusals=[*_TDCM_FAILURES, HypercallError.IDE_KM], timed=True)
class TdcmBind:
    """Ask to bind and lock the interface."""

    function_id: FunctionId


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """Evidence on the device, carried by the VMM: compare with the digests of TDG.DEVIF.READ."""

    certificate_chain: bytes
    vca: bytes
    measurements: bytes


@call(HYPERCALL, "TDCM.GET.DEV.INFO", 3, returns=DeviceInfo, refusals=_TDCM_FAILURES, timed=True)
class TdcmGetDevInfo:
    """Ask for the device's evidence; drives the MEASUREMENTS exchange if this TVM has asked the TSM for one."""

    function_id: FunctionId


@dataclass(frozen=True, slots=True)
class TdiReport:
    """The interface report, carried by the VMM: compare with the digest of TDG.DEVIF.READ."""

    report: bytes


@call(HYPERCALL, "TDCM.GET.TDI.REPORT", 4, returns=TdiReport, refusals=_TDCM_FAILURES, timed=True)
class TdcmGetTdiReport:
    """Ask to drive the REPORT exchange that this TVM has asked the TSM for."""

    function_id: FunctionId


@call(HYPERCALL, "TDCM.START.TDI", 5, refusals=_TDCM_FAILURES, timed=True)
class TdcmStartTdi:
    """Ask to drive the START exchange that this TVM has allowed."""

    function_id: FunctionId


@dataclass(frozen=True, slots=True)
class TdiState:
    """The TDISP state as the VMM says; TDG.DEVIF.READ says it truly."""

    state: int


@call(HYPERCALL, "TDCM.GET.TDI.STATE", 6, returns=TdiState, refusals=_TDCM_FAILURES, timed=True)
class TdcmGetTdiState:
    """Ask to drive a STATE exchange."""

    function_id: FunctionId


@call(HYPERCALL, "TDCM.UNBIND", 7, refusals=[HypercallError.MODULE], timed=True)
class TdcmUnbind:
    """Ask to stop the interface and to take its DMA and MMIO mappings away."""

    function_id: FunctionId
