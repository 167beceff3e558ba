"""What LOCK_INTERFACE and BIND_P2P_STREAM need beyond the right state: named checks (PCIe Base 11.3.8, 11.3.18).

Each check says the problem or None; the first problem refuses the request with the check's error code. Stream checks
apply only where the TDI needs IDE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from teeio.errors import Reject
from teeio.tdisp.backend import InterfaceBackend, StreamStatus
from teeio.tdisp.messages import PAGE_SIZE, DeviceInterfaceReport, ErrorCode, InterfaceInfo, LockFlags, LockParameters

_REPORT_LIMIT = 0xFFFF
"""Offsets and lengths of the report are 16-bit (11.3.10)."""
_PAGES = (1 << 64) // PAGE_SIZE


@dataclass(frozen=True, slots=True)
class LockAttempt:
    """A LOCK_INTERFACE_REQUEST being judged. `report` holds physical pages."""

    session_id: int
    parameters: LockParameters
    supported: LockFlags
    backend: InterfaceBackend
    report: DeviceInterfaceReport
    stream: StreamStatus | None
    secure_stream_needed: bool = False


@dataclass(frozen=True, slots=True)
class LockCheck:
    """One condition of locking: `problem` says what is wrong, or None."""

    name: str
    error: ErrorCode
    problem: Callable[[LockAttempt], str | None]
    clause: str = "PCIe Base 11.3.8"
    ide_only: bool = False


def _flags(attempt: LockAttempt) -> str | None:
    unsupported = attempt.parameters.flags & LockFlags.defined() & ~attempt.supported
    return f"FLAGS asks for {unsupported!r}, which the TDI does not support" if unsupported else None


def _stream_is_default(attempt: LockAttempt) -> str | None:
    if attempt.stream is None:
        return f"no IDE stream has Stream ID {attempt.parameters.default_stream_id}"
    return None if attempt.stream.default else f"stream {attempt.stream.stream_id} is not the default stream"


def _one_default(attempt: LockAttempt) -> str | None:
    count = attempt.backend.default_stream_count()
    return f"{count} IDE register blocks are marked default" if count > 1 else None


def _traffic_class(attempt: LockAttempt) -> str | None:
    found = attempt.stream.traffic_class if attempt.stream else 0
    return f"the default stream is on TC{found}, not TC0" if found else None


def _keys_set(attempt: LockAttempt) -> str | None:
    missing = attempt.stream is not None and not attempt.stream.keys_set
    return "the default stream lacks keys for some sub-streams" if missing else None


def _keys_from_session(attempt: LockAttempt) -> str | None:
    foreign = attempt.stream is not None and attempt.stream.key_session != attempt.session_id
    return "the default stream's keys came from another SPDM session" if foreign else None


def _stream_secure(attempt: LockAttempt) -> str | None:
    """UNCONFIRMED: only some hosts enable the stream before locking, so this is a policy, off by default."""
    insecure = attempt.secure_stream_needed and attempt.stream is not None and not attempt.stream.secure
    return "the default stream is not Secure" if insecure else None


def _reporting_offset(attempt: LockAttempt) -> str | None:
    """UNCONFIRMED: that an offset which is no multiple of 4 KiB is refused; a report in pages could not express it."""
    offset = attempt.parameters.mmio_reporting_offset
    if offset % PAGE_SIZE:
        return f"MMIO_REPORTING_OFFSET {offset:#x} is not a multiple of {PAGE_SIZE}"
    shift = offset // PAGE_SIZE
    for item in attempt.report.ranges:
        if item.first_page + shift < 0 or item.first_page + shift + item.pages > _PAGES:
            return f"MMIO_REPORTING_OFFSET {offset:#x} moves range {item.range_id} out of the 64-bit address space"
    return None


def _device_configuration(attempt: LockAttempt) -> str | None:
    return attempt.backend.lock_problem(attempt.parameters)


def _report_size(attempt: LockAttempt) -> str | None:
    size = len(attempt.report.encode())
    return f"the report has {size} bytes, more than {_REPORT_LIMIT}" if size > _REPORT_LIMIT else None


_REQUEST = ErrorCode.INVALID_REQUEST
_CONFIGURATION = ErrorCode.INVALID_DEVICE_CONFIGURATION
LOCK_CHECKS = (
    LockCheck("lock flags supported", _REQUEST, _flags),
    LockCheck("stream is the default stream", _REQUEST, _stream_is_default, ide_only=True),
    LockCheck("one default stream", _REQUEST, _one_default, ide_only=True),
    LockCheck("default stream on TC0", _REQUEST, _traffic_class, ide_only=True),
    LockCheck("keys for all sub-streams", _REQUEST, _keys_set, ide_only=True),
    LockCheck("keys from this session", _REQUEST, _keys_from_session, ide_only=True),
    LockCheck("stream secure", _REQUEST, _stream_secure, ide_only=True),
    LockCheck("reporting offset fits", _REQUEST, _reporting_offset),
    LockCheck("device configuration", _CONFIGURATION, _device_configuration),
    LockCheck("report fits", _CONFIGURATION, _report_size, "PCIe Base 11.3.10"),
)
"""All conditions of locking, in the order in which they are checked."""


def check_lock(attempt: LockAttempt) -> None:
    """Refuse the attempt by the first check that finds a problem. Raises `Reject`."""
    for check in LOCK_CHECKS:
        if check.ide_only and not attempt.backend.ide_required:
            continue
        problem = check.problem(attempt)
        if problem is not None:
            raise Reject(check.error, f"{problem} ({check.clause}, {check.name})")


@dataclass(frozen=True, slots=True)
class BindAttempt:
    """A BIND_P2P_STREAM_REQUEST being judged: what the TDI was locked with, and the stream's state."""

    session_id: int
    parameters: LockParameters
    report: DeviceInterfaceReport
    bound: frozenset[int]
    stream: StreamStatus | None


@dataclass(frozen=True, slots=True)
class BindCheck:
    """One condition of binding a peer-to-peer stream: `holds` when satisfied, `problem` when not."""

    problem: str
    holds: Callable[[BindAttempt], bool]


BIND_CHECKS = (
    BindCheck("the TDI was not locked with BIND_P2P", lambda a: bool(a.parameters.flags & LockFlags.BIND_P2P)),
    BindCheck("ATS is not enabled", lambda a: bool(a.report.info & InterfaceInfo.ATS_ENABLED)),
    BindCheck("no IDE stream has this Stream ID", lambda a: a.stream is not None),
    BindCheck("the stream is bound already", lambda a: a.stream is not None and a.stream.stream_id not in a.bound),
    BindCheck("several register blocks have this Stream ID", lambda a: a.stream is not None and a.stream.blocks == 1),
    BindCheck(
        "the stream is the default stream",
        lambda a: (
            a.stream is not None and not a.stream.default and a.stream.stream_id != a.parameters.default_stream_id
        ),
    ),
    BindCheck("the stream lacks keys for some sub-streams", lambda a: a.stream is not None and a.stream.keys_set),
    BindCheck(
        "the stream's keys came from another SPDM session",
        lambda a: a.stream is not None and a.stream.key_session == a.session_id,
    ),
    BindCheck("the stream's associations overlap another's", lambda a: a.stream is not None and not a.stream.overlaps),
)
"""All conditions of BIND_P2P_STREAM_REQUEST; each failure is INVALID_REQUEST (11.3.19)."""


def check_bind(attempt: BindAttempt) -> None:
    """Refuse the attempt by the first check that does not hold. Raises `Reject`."""
    for check in BIND_CHECKS:
        if not check.holds(attempt):
            raise Reject(ErrorCode.INVALID_REQUEST, f"{check.problem} (PCIe Base 11.3.18)")
