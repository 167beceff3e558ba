"""SEAMCALLs on a device, in the order of its life: SPDM session, IDE stream, device interface.

Resumable calls work like a pump. A result SPDM_REQUEST has a DOE data object to carry to the device; the next call has
the device's answer as `response`, until another status comes. Without an answer (`response` None) an exchange under way
gives the same data object again. One exchange at a time runs in an SPDM context: others get OPERAND_BUSY.

Sources and simplifications as in `memory_seamcalls`; data objects are operands here instead of pages that hold them.
"""

from __future__ import annotations

from dataclasses import dataclass

from teeio.abi.declaration import Boundary, call
from teeio.abi.operands import (
    DevifOperation,
    FunctionId,
    KmOperation,
    LockParameters,
    PagesReturned,
    SpdmOperation,
    StreamOptions,
)
from teeio.abi.statuses import Status
from teeio.pcie.address import AddressRange

SEAMCALL = Boundary.SEAMCALL

_EXCHANGE_FAILURES = (Status.OPERAND_BUSY, Status.SPDM_FAILED)
_DEVICE_FAILURES = (*_EXCHANGE_FAILURES, Status.SPDM_SESSION_NOT_PRESENT)


# -- SPDM session ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpdmCreated:
    """Handle of an SPDM context."""

    spdm_id: int


@call(
    SEAMCALL,
    "TDH.SPDM.CREATE",
    130,
    returns=SpdmCreated,
    refusals=[Status.PAGE_METADATA_INCORRECT, Status.IOMMU_NOT_CONFIGURED, Status.OPERAND_BUSY],
)
class TdhSpdmCreate:
    """Create the SPDM context of a device: `function_id` is its function 0, `root_port` a requester id."""

    iommu_id: int
    function_id: FunctionId
    root_port: int
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SpdmConnected:
    """What the session set-up collected.

    The VMM carries it to those who verify; the TSM vouches for it with digests (TDG.DEVIF.READ). `heartbeat_period` is that of the
    session, in seconds, 0 for none: the VMM must have something said in it that often (DSP0274 HEARTBEAT). How the
    TDX module tells is not published; here it is returned.
    """

    certificate_chain: bytes
    vca: bytes
    measurements: bytes
    heartbeat_period: int


@call(SEAMCALL, "TDH.SPDM.CONNECT", 142, returns=SpdmConnected, refusals=_EXCHANGE_FAILURES, resumable=True)
class TdhSpdmConnect:
    """Set up the SPDM session with the device."""

    spdm_id: int
    response: bytes | None = None


@call(
    SEAMCALL,
    "TDH.SPDM.MNG",
    144,
    returns=SpdmConnected,
    refusals=_DEVICE_FAILURES,
    resumable=True,
)
class TdhSpdmMng:
    """Keep the session: heartbeat, key update, or collect the measurements again."""

    spdm_id: int
    operation: SpdmOperation
    response: bytes | None = None


@call(
    SEAMCALL,
    "TDH.SPDM.DISCONNECT",
    143,
    refusals=[Status.SPDM_SESSION_NOT_PRESENT],
    resumable=True,
)
class TdhSpdmDisconnect:
    """End the session; it ends here even if the device does not answer."""

    spdm_id: int
    response: bytes | None = None


@call(SEAMCALL, "TDH.SPDM.DELETE", 131, returns=PagesReturned, refusals=[Status.OPERAND_BUSY, Status.IDE_STREAM_IN_USE])
class TdhSpdmDelete:
    """Delete a context without session and streams."""

    spdm_id: int


# -- IDE stream ------------------------------------------------------------------------------------------------------


@call(
    SEAMCALL,
    "TDH.IDE.STREAM.CREATE",
    132,
    refusals=[
        Status.PAGE_METADATA_INCORRECT,
        Status.SPDM_SESSION_NOT_PRESENT,
        Status.OPERAND_BUSY,
        Status.IDE_OPTION_NOT_SUPPORTED,
    ],
)
class TdhIdeStreamCreate:
    """Create a selective IDE stream; the TSM writes the root port's registers, the VMM the device's.

    `requesters` are the first and the last requester id behind the root port that use the stream, `memory` its
    address association. `options` are of this model's generic profile: TDX Connect streams have none.
    """

    spdm_id: int
    stream_id: int
    requesters: tuple[int, int]
    memory: AddressRange
    pages: tuple[int, ...]
    options: StreamOptions = StreamOptions()


@call(
    SEAMCALL,
    "TDH.IDE.STREAM.KM",
    135,
    refusals=[*_DEVICE_FAILURES, Status.IDE_KM_FAILED, Status.IDE_STREAM_BLOCKED, Status.RND_NO_ENTROPY],
    alias="TDH.IDE.STREAM.IDEKMREQ (135), TDH.IDE.STREAM.IDEKMRSP (136)",
    resumable=True,
)
class TdhIdeStreamKm:
    """Program, refresh or stop the stream's keys, at the device by IDE_KM and in the root port."""

    spdm_id: int
    stream_id: int
    operation: KmOperation
    response: bytes | None = None


@call(SEAMCALL, "TDH.IDE.STREAM.BLOCK", 133)
class TdhIdeStreamBlock:
    """Block a stream: nothing trusted passes any more."""

    spdm_id: int
    stream_id: int


@call(
    SEAMCALL,
    "TDH.IDE.STREAM.DELETE",
    134,
    returns=PagesReturned,
    refusals=[Status.IDE_STREAM_IN_USE, Status.OP_STATE_INCORRECT],
)
class TdhIdeStreamDelete:
    """Delete a blocked stream that no device interface uses."""

    spdm_id: int
    stream_id: int


# -- device interface (TDI) ------------------------------------------------------------------------------------------


@call(
    SEAMCALL,
    "TDH.DEVIF.CREATE",
    137,
    refusals=[
        Status.PAGE_METADATA_INCORRECT,
        Status.OP_STATE_INCORRECT,
        Status.OPERAND_BUSY,
        Status.SPDM_SESSION_NOT_PRESENT,
        Status.IDE_STREAM_NOT_READY,
        Status.IDE_STREAM_BLOCKED,
        Status.IDE_STREAM_NEEDS_NEW_KEYS,
    ],
    alias="TDH.TDI.CREATE (name UNCONFIRMED)",
)
class TdhDevifCreate:
    """Give the interface `function_id` of a connected device to a TVM, over a stream of that device.

    If the interface had T=1 traffic under the stream's keys before, the stream needs new ones first (CVE-2025-9614).
    """

    tdr: int
    function_id: FunctionId
    spdm_id: int
    stream_id: int
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DevifCompleted:
    """An exchange with the interface has ended. `data` is evidence for the TVM, empty for other operations.

    `state` is the TDISP state that the TSM now knows.
    """

    operation: DevifOperation
    state: int
    data: bytes = b""


_NOT_BEGUN = (
    *_DEVICE_FAILURES,
    Status.TDI_NOT_PRESENT,
    Status.DEVIF_NOT_AUTHORISED,
    Status.DEVIF_TDISP_INVALID_STATE,
    Status.DEVIF_TDISP_ERROR_STATE,
    Status.IDE_STREAM_BLOCKED,
    Status.IDE_STREAM_NOT_READY,
)
_NOT_COMPLETED = (
    Status.SPDM_FAILED,
    Status.TDI_NOT_PRESENT,
    Status.DEVIF_TDISP_INVALID_STATE,
    Status.DEVIF_TDISP_INVALID_REQ_STS,
    Status.DEVIF_TDISP_FAILED,
    Status.DEVIF_REPORT_UNACCEPTABLE,
    Status.IDE_STREAM_BLOCKED,
)


@call(SEAMCALL, "TDH.DEVIF.REQUEST", 139, returns=DevifCompleted, refusals=_NOT_BEGUN, resumable=True)
class TdhDevifRequest:
    """Begin an exchange with the interface: the VMM's own (`AUTHORITY`), or the one that its TVM asked for.

    `lock` belongs to LOCK and to nothing else.
    """

    function_id: FunctionId
    operation: DevifOperation
    lock: LockParameters | None = None


@call(SEAMCALL, "TDH.DEVIF.RESPONSE", 140, returns=DevifCompleted, refusals=_NOT_COMPLETED, resumable=True)
class TdhDevifResponse:
    """Go on with the exchange that TDH.DEVIF.REQUEST began: hand over the device's data object."""

    function_id: FunctionId
    response: bytes


@call(
    SEAMCALL,
    "TDH.DEVIF.REMOVE",
    138,
    returns=PagesReturned,
    refusals=[
        Status.TDI_NOT_PRESENT,
        Status.DEVIF_INVALID_STATE,
        Status.DEVIF_HAS_MAPPED_DMA,
        Status.DEVIF_HAS_MAPPED_MMIO,
    ],
    alias="TDH.TDI.REMOVE (name UNCONFIRMED)",
)
class TdhDevifRemove:
    """Take the interface from its TVM.

    It must be CONFIG_UNLOCKED or its stream blocked, with no DMA and no MMIO mapped.
    """

    function_id: FunctionId
