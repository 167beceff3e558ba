"""What the TVM may ask of the TSM: TDCALLs. The TSM knows which TVM calls; a TVM can name only what is its own.

Names: the TDX Connect generation with a TPA; an alias is the name in the other generation. Two simplifications:
TDG.DEVIF.READ gives all fields of one moment instead of one field a call, and TDG.DEVIF.RESPONSE gives a digest where
the module copies the message into a page, because here the VMM carries evidence and the TSM vouches for it, as in the
current generation. Left out: virtual processors, reports on the TVM itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from teeio.abi.declaration import Boundary, call
from teeio.abi.operands import DevifOperation, FunctionId, PageLevel
from teeio.abi.statuses import Status

TDCALL = Boundary.TDCALL

PUBLIC_KEY_HASH_SIZE = 48
"""SHA-384. UNCONFIRMED what exactly is hashed: here SubjectPublicKeyInfo of the device's leaf certificate, in DER."""

NO_BIND_SESSION = 0
"""The bind session id of an interface that is not locked."""


@call(
    TDCALL,
    "TDG.MEM.PAGE.ACCEPT",
    6,
    refusals=[
        Status.EPT_WALK_FAILED,
        Status.EPT_ENTRY_STATE_INCORRECT,
        Status.PAGE_ALREADY_ACCEPTED,
        Status.PAGE_SIZE_MISMATCH,
    ],
)
class TdgMemPageAccept:
    """Accept a pending private page."""

    gpa: int
    level: PageLevel = PageLevel.PAGE_4K


@dataclass(frozen=True, slots=True)
class DevifInfo:
    """What the TSM vouches for, of one moment.

    `bind_session_id` is new for each lock and `NO_BIND_SESSION` outside one: it ties evidence to the start.
    `lock_flags` and `mmio_reporting_offset` are those that the TSM sent in LOCK. Digests are SHA-384 of the exact
    bytes that TDH.SPDM.CONNECT and TDH.DEVIF.RESPONSE gave to the VMM, empty where there are none; `generation` grows
    with each change of any of them.
    """

    state: int
    bind_session_id: int
    stream_id: int
    lock_flags: int
    mmio_reporting_offset: int
    validated: bool
    generation: int
    public_key_hash: bytes
    certificate_chain_digest: bytes
    vca_digest: bytes
    measurements_digest: bytes
    report_digest: bytes


@call(TDCALL, "TDG.DEVIF.READ", 67, returns=DevifInfo, refusals=[Status.TDI_NOT_PRESENT], alias="TDG.TDI.RD (67)")
class TdgDevifRead:
    """Read what the TSM knows of an interface of this TVM."""

    function_id: FunctionId


@call(
    TDCALL,
    "TDG.DEVIF.VALIDATE",
    None,
    refusals=[Status.TDI_NOT_PRESENT, Status.DEVIF_BIND_SESSION_MISMATCH, Status.DEVIF_PUBLIC_KEY_MISMATCH],
)
class TdgDevifValidate:
    """Say which device key this TVM has verified; the TSM refuses if its SPDM session is with another."""

    function_id: FunctionId
    bind_session_id: int
    public_key_hash: bytes


_REQUEST_FAILURES = (
    Status.TDI_NOT_PRESENT,
    Status.OPERAND_BUSY,
    Status.DEVIF_NOT_AUTHORISED,
    Status.DEVIF_BIND_SESSION_MISMATCH,
    Status.DEVIF_TDISP_INVALID_STATE,
    Status.DEVIF_TDISP_ERROR_STATE,
)


@call(TDCALL, "TDG.DEVIF.REQUEST", None, refusals=_REQUEST_FAILURES)
class TdgDevifRequest:
    """Ask for REPORT, MEASUREMENTS or STATE; the VMM then drives the exchange (TDCM hypercall).

    `nonce` (32 bytes) is for MEASUREMENTS, where it must be fresh, and empty otherwise. START has its own call.
    """

    function_id: FunctionId
    bind_session_id: int
    operation: DevifOperation
    nonce: bytes = b""


@dataclass(frozen=True, slots=True)
class DevifAnswer:
    """How the exchange ended; `digest` is SHA-384 of the evidence, empty for other operations."""

    operation: DevifOperation
    state: int
    bind_session_id: int
    digest: bytes = b""


@call(
    TDCALL,
    "TDG.DEVIF.RESPONSE",
    None,
    returns=DevifAnswer,
    refusals=[Status.TDI_NOT_PRESENT, Status.DEVIF_TDISP_INVALID_REQ_STS, Status.DEVIF_TDISP_FAILED],
)
class TdgDevifResponse:
    """Fetch the end of the exchange asked for; DEVIF_TDISP_INVALID_REQ_STS while the VMM has not driven it."""

    function_id: FunctionId


@call(
    TDCALL,
    "TDG.MMIO.ACCEPT",
    71,
    refusals=[
        Status.TDI_NOT_PRESENT,
        Status.DEVIF_BIND_SESSION_MISMATCH,
        Status.EPT_WALK_FAILED,
        Status.EPT_ENTRY_STATE_INCORRECT,
        Status.PAGE_SIZE_MISMATCH,
        Status.MMIO_REPORT_MISMATCH,
    ],
)
class TdgMmioAccept:
    """Accept pending private MMIO as part of a range of the interface's report.

    `count` 4 KiB pages from `gpa` on, in mappings of `level`, are pages `page_offset`... of the range `range_index`.

    The TSM refuses unless each mapping leads to exactly that page of the interface's report.
    """

    function_id: FunctionId
    bind_session_id: int
    gpa: int
    range_index: int
    page_offset: int
    count: int
    level: PageLevel = PageLevel.PAGE_4K


@call(
    TDCALL,
    "TDG.DMAR.ACCEPT",
    70,
    refusals=[
        Status.TDI_NOT_PRESENT,
        Status.DEVIF_BIND_SESSION_MISMATCH,
        Status.DEVIF_TDISP_INVALID_STATE,
        Status.DMAR_ENTRY_NOT_PRESENT,
        Status.DMAR_INVALID_MAPPING_STATE,
        Status.DMAR_TABLE_POISONED,
    ],
)
class TdgDmarAccept:
    """Accept the pending trusted DMA entry of an interface that is CONFIG_LOCKED.

    `target` 0 is the TVM itself; 1-3 are nested VMs, which this model does not have.
    """

    function_id: FunctionId
    bind_session_id: int
    target: int = 0


@call(
    TDCALL,
    "TDG.TDI.START",
    68,
    refusals=[
        Status.TDI_NOT_PRESENT,
        Status.OPERAND_BUSY,
        Status.DEVIF_BIND_SESSION_MISMATCH,
        Status.DEVIF_TDISP_INVALID_STATE,
        Status.DEVIF_NOT_VALIDATED,
    ],
    alias="TDG.DEVIF.REQUEST with START_INTERFACE",
)
class TdgTdiStart:
    """Allow the start of the interface, for exactly the lock whose evidence was verified.

    The VMM then drives the exchange (TDCM.START.TDI).
    """

    function_id: FunctionId
    bind_session_id: int
