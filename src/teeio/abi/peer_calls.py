"""Peer-to-peer between two device interfaces of one TVM: SEAMCALLs, TDCALLs and hypercalls that are this model's own.

TDX Connect has no peer-to-peer and no trusted ATS, so nothing here is published anywhere. The names follow the family's
style, and the calls its habits: resumable calls work like a pump (`device_seamcalls`), pages that a call takes come back
from the call that undoes it. A TSM without the peer-to-peer profile refuses them all with P2P_NOT_SUPPORTED.

A peer-to-peer stream joins two connected devices without the root port; the TSM keys both ends in their two SPDM
sessions, and the VMM writes both ends' registers. One pair of interfaces uses it at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

from teeio.abi.declaration import Boundary, call
from teeio.abi.operands import FunctionId, KmOperation, PagesReturned
from teeio.abi.statuses import HypercallError, Status
from teeio.pcie.address import AddressRange

OWN = "none: this model's own"
"""Stands where other calls have their name in the other TDX Connect generation."""

_STREAM_FAILURES = (Status.P2P_NOT_SUPPORTED, Status.OPERAND_BUSY, Status.SPDM_SESSION_NOT_PRESENT)


# -- the stream ------------------------------------------------------------------------------------------------------


@call(
    Boundary.SEAMCALL,
    "TDH.P2P.STREAM.CREATE",
    None,
    refusals=[*_STREAM_FAILURES, Status.PAGE_METADATA_INCORRECT],
    alias=OWN,
)
class TdhP2pStreamCreate:
    """Create a stream between two connected devices; the VMM writes the registers of both ends.

    `memory` is what of the first device's MMIO the second addresses over the stream, `peer_memory` the other way round:
    whole MiB, within what the device's stream to the root port is for.
    """

    spdm_id: int
    peer_spdm_id: int
    stream_id: int
    memory: AddressRange
    peer_memory: AddressRange
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class P2pProgress:
    """How far an operation on keys is: the SPDM context whose turn is next, 0 when it is done."""

    next_spdm_id: int


@call(
    Boundary.SEAMCALL,
    "TDH.P2P.STREAM.KM",
    None,
    returns=P2pProgress,
    refusals=[
        *_STREAM_FAILURES,
        Status.SPDM_FAILED,
        Status.IDE_KM_FAILED,
        Status.IDE_STREAM_BLOCKED,
        Status.RND_NO_ENTROPY,
    ],
    alias=OWN,
    resumable=True,
)
class TdhP2pStreamKm:
    """Take an operation on the keys one step on, at the device of `spdm_id`; the ends take turns until it is done."""

    spdm_id: int
    stream_id: int
    operation: KmOperation
    response: bytes | None = None


@call(Boundary.SEAMCALL, "TDH.P2P.STREAM.BLOCK", None, refusals=[Status.P2P_NOT_SUPPORTED], alias=OWN)
class TdhP2pStreamBlock:
    """Give the stream up: no translation leads to it any more, and nothing can be bound to it."""

    spdm_id: int
    stream_id: int


@call(
    Boundary.SEAMCALL,
    "TDH.P2P.STREAM.DELETE",
    None,
    returns=PagesReturned,
    refusals=[Status.P2P_NOT_SUPPORTED, Status.OP_STATE_INCORRECT, Status.IDE_STREAM_IN_USE],
    alias=OWN,
)
class TdhP2pStreamDelete:
    """Delete a blocked stream that no locked interface is bound to."""

    spdm_id: int
    stream_id: int


# -- the pair of interfaces ------------------------------------------------------------------------------------------


@call(
    Boundary.TDCALL,
    "TDG.P2P.ALLOW",
    None,
    refusals=[
        Status.P2P_NOT_SUPPORTED,
        Status.TDI_NOT_PRESENT,
        Status.DEVIF_BIND_SESSION_MISMATCH,
        Status.DEVIF_TDISP_INVALID_STATE,
    ],
    alias=OWN,
)
class TdgP2pAllow:
    """Allow two interfaces of this TVM to exchange data directly, for exactly the locks whose evidence was verified.

    Both are in RUN and locked with BIND_P2P.
    """

    function_id: FunctionId
    bind_session_id: int
    peer_function_id: FunctionId
    peer_bind_session_id: int


@call(
    Boundary.TDCALL,
    "TDG.P2P.REVOKE",
    None,
    refusals=[Status.P2P_NOT_SUPPORTED, Status.TDI_NOT_PRESENT],
    alias=OWN,
)
class TdgP2pRevoke:
    """Take it back: no translation leads from one to the other any more, and both devices are told to forget theirs."""

    function_id: FunctionId
    peer_function_id: FunctionId


@dataclass(frozen=True, slots=True)
class P2pInfo:
    """What the TSM vouches for, of one moment.

    `ends` counts the interfaces whose device was asked to bind the stream for this pair and was not seen to release it,
    whatever else was taken back or lost: only at 0 are they released. `active` says that direct access works: allowed,
    both in RUN under the locks that were named, both bound, the stream keyed.
    """

    allowed: bool
    ends: int
    active: bool


@call(
    Boundary.TDCALL,
    "TDG.P2P.READ",
    None,
    returns=P2pInfo,
    refusals=[Status.P2P_NOT_SUPPORTED, Status.TDI_NOT_PRESENT],
    alias=OWN,
)
class TdgP2pRead:
    """Read what the TSM knows of a pair of this TVM's interfaces."""

    function_id: FunctionId
    peer_function_id: FunctionId


_EXCHANGE_FAILURES = (
    Status.P2P_NOT_SUPPORTED,
    Status.TDI_NOT_PRESENT,
    Status.P2P_NOT_ALLOWED,
    Status.OPERAND_BUSY,
    Status.SPDM_FAILED,
    Status.DEVIF_TDISP_FAILED,
)


@call(
    Boundary.SEAMCALL,
    "TDH.P2P.BIND",
    None,
    refusals=[
        *_EXCHANGE_FAILURES,
        Status.SPDM_SESSION_NOT_PRESENT,
        Status.P2P_STREAM_MISMATCH,
        Status.IDE_STREAM_BLOCKED,
        Status.IDE_STREAM_NOT_READY,
        Status.IDE_STREAM_NEEDS_NEW_KEYS,
    ],
    alias=OWN,
    resumable=True,
)
class TdhP2pBind:
    """Bind the stream to one interface of a pair that the TVM has allowed; then to the other.

    The device is asked for its stream registers first: they must be what TDH.P2P.STREAM.CREATE said, enabled and Secure.
    """

    function_id: FunctionId
    peer_function_id: FunctionId
    stream_id: int
    response: bytes | None = None


@call(Boundary.SEAMCALL, "TDH.P2P.UNBIND", None, refusals=_EXCHANGE_FAILURES, alias=OWN, resumable=True)
class TdhP2pUnbind:
    """Release the stream from one interface of a pair.

    A device that is CONFIG_UNLOCKED has released it already. One that cannot be asked, as its interface was given up, may not
    have: then nobody else can use the stream.
    """

    function_id: FunctionId
    peer_function_id: FunctionId
    response: bytes | None = None


@call(
    Boundary.SEAMCALL,
    "TDH.P2P.INVALIDATE",
    None,
    refusals=[Status.P2P_NOT_SUPPORTED, Status.TDI_NOT_PRESENT, Status.DEVICE_TLB_NOT_INVALIDATED],
    alias=OWN,
)
class TdhP2pInvalidate:
    """Empty an interface's translation cache, and see it complete that with T=1.

    One that is CONFIG_UNLOCKED, or whose stream to the root port is blocked, is taken for empty.
    """

    function_id: FunctionId


# -- what the TVM asks of the VMM ------------------------------------------------------------------------------------

_TDCM_FAILURES = (
    HypercallError.MODULE,
    HypercallError.DEVICE,
    HypercallError.SPDM,
    HypercallError.IDE_KM,
    HypercallError.TDISP,
    HypercallError.INVALID_STATE,
)


@call(Boundary.HYPERCALL, "TDCM.P2P.BIND", None, refusals=_TDCM_FAILURES, alias=OWN, timed=True)
class TdcmP2pBind:
    """Ask to set up a stream between the devices of two interfaces, and to bind both to it."""

    function_id: FunctionId
    peer_function_id: FunctionId


@call(
    Boundary.HYPERCALL,
    "TDCM.P2P.UNBIND",
    None,
    refusals=[HypercallError.MODULE],
    alias=OWN,
    timed=True,
)
class TdcmP2pUnbind:
    """Ask to release both interfaces from their stream and to take it down."""

    function_id: FunctionId
    peer_function_id: FunctionId
