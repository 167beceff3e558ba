"""The TSM's side of TDISP: one procedure for each request, as generators (PCIe Base 11.3).

Each gives what its caller wants and checks the answer: message type, version, interface, and the rules on its fields.
A TDISP_ERROR is raised as `ErrorResponse`, an answer that breaks a rule as `PeerViolation`, bytes that do not parse
as `DecodeError`.
"""

from __future__ import annotations

from typing import TypeVar

from teeio.errors import DecodeError, ErrorResponse, Incompatible, Misuse, PeerViolation
from teeio.flow import Flow
from teeio.spdm.vendor import vendor_exchange
from teeio.tdisp.messages import (
    PROTOCOL_ID,
    STANDARD_ID,
    VENDOR_ID,
    VERSION_1_0,
    BindP2pStreamRequest,
    DeviceInterfaceReport,
    ErrorCode,
    GetDeviceInterfaceReport,
    GetDeviceInterfaceState,
    GetTdispCapabilities,
    GetTdispVersion,
    Header,
    InterfaceState,
    LockInterfaceRequest,
    LockParameters,
    MessageType,
    MmioRange,
    Request,
    Response,
    SetMmioAttributeRequest,
    StartInterfaceRequest,
    StopInterfaceRequest,
    TdispCapabilities,
    TdispError,
    UnbindP2pStreamRequest,
    VdmRequest,
    VdmResponse,
    name_of,
)

REPORT_LIMIT = 0xFFFF
"""Most bytes of a report: its offsets are 16-bit (11.3.10)."""

Rsp = TypeVar("Rsp", bound=Response)


def exchange(request: Request[Rsp]) -> Flow[Rsp]:
    """Send `request` and give its checked response."""
    payload = yield from vendor_exchange(STANDARD_ID, VENDOR_ID, bytes([PROTOCOL_ID]) + request.encode())
    if payload[:1] != bytes([PROTOCOL_ID]):
        raise PeerViolation(f"the answer to {request.NAME} is not of protocol TDISP", "PCIe Base 11.2.2")
    return _checked(request, payload[1:])


def _checked(request: Request[Rsp], answer: bytes) -> Rsp:
    header, _ = Header.decode_prefix(answer)
    if header.version != VERSION_1_0:
        raise PeerViolation(f"the answer to {request.NAME} has version {header.version:#04x}", "PCIe Base 11.3.3")
    if header.function_id != request.function_id:
        raise PeerViolation(
            f"the answer to {request.NAME} is for interface {header.function_id:#x}, not {request.function_id:#x}",
            "PCIe Base 11.3.3",
        )
    expected = request.response_class()
    if header.message_type == MessageType.TDISP_ERROR:
        raise _error(request, TdispError.decode(answer))
    if header.message_type != expected.CODE:
        raise PeerViolation(f"{name_of(header.message_type)} answers {request.NAME}", "PCIe Base 11.3.2")
    # The declared pair of request and response makes this the class that `Request[Rsp]` names.
    return expected.decode(answer)  # type: ignore[return-value]


def _error(request: Request[Rsp], error: TdispError) -> ErrorResponse:
    known = isinstance(error.code, ErrorCode)
    name = error.code.name if known else f"error {error.code:#x}"
    return ErrorResponse(
        f"the device refused {request.NAME} with {name}",
        int(error.code),
        error.data,
        remedy=_REMEDIES.get(ErrorCode(error.code), "") if known else "",
    )


_REMEDIES = {
    ErrorCode.INVALID_INTERFACE_STATE: "Read the state with GET_DEVICE_INTERFACE_STATE; stop it to start afresh.",
    ErrorCode.INVALID_NONCE: "The lock was not the one that the nonce came from: stop, lock and attest again.",
    ErrorCode.INVALID_INTERFACE: "Check the FUNCTION_ID: requester ID, segment and its valid bit.",
    ErrorCode.INVALID_DEVICE_CONFIGURATION: "Check BARs, SR-IOV and phantom functions of the device.",
    ErrorCode.BUSY: "Try again later.",
}


def get_version(function_id: int) -> Flow[int]:
    """Give the version to use, 0x10. Raises `Incompatible` if the device does not offer it."""
    response = yield from exchange(GetTdispVersion(function_id=function_id))
    if VERSION_1_0 not in response.versions:
        offered = ", ".join(f"{version:#04x}" for version in response.versions) or "none"
        raise Incompatible(f"the device offers TDISP versions {offered}; only 0x10 is spoken here (PCIe Base 11.3.5)")
    return VERSION_1_0


def get_capabilities(function_id: int, tsm_caps: int = 0) -> Flow[TdispCapabilities]:
    """Give the DSM's capabilities."""
    return (yield from exchange(GetTdispCapabilities(function_id=function_id, tsm_caps=tsm_caps)))


def lock_interface(function_id: int, parameters: LockParameters) -> Flow[bytes]:
    """Lock the interface; give the START_INTERFACE_NONCE, a secret of the TSM."""
    response = yield from exchange(LockInterfaceRequest(function_id=function_id, parameters=parameters))
    return response.nonce


def get_device_interface_report_bytes(function_id: int, *, portion_length: int = 0x400) -> Flow[bytes]:
    """Read the encoded report, portion by portion, asking for at most `portion_length` bytes at a time.

    Every portion must bring at least one byte and keep the total that the first one announced, so the device cannot
    make it endless.
    """
    if not 0 < portion_length <= REPORT_LIMIT:
        raise Misuse(f"portion_length {portion_length} is not within 1 to {REPORT_LIMIT}")
    report = b""
    total = 0
    while not report or len(report) < total:
        wanted = min(portion_length, total - len(report)) if total else portion_length
        request = GetDeviceInterfaceReport(function_id=function_id, offset=len(report), length=wanted)
        response = yield from exchange(request)
        if not 0 < len(response.portion) <= wanted:
            raise PeerViolation(
                f"a portion of {len(response.portion)} bytes answers {wanted} wanted", "PCIe Base 11.3.11"
            )
        report += response.portion
        announced = len(report) + response.remainder_length
        total = total or announced
        if announced != total or total > REPORT_LIMIT:
            raise PeerViolation(f"the report's size went from {total} to {announced} bytes", "PCIe Base 11.3.11")
    return report


def get_device_interface_report(function_id: int, *, portion_length: int = 0x400) -> Flow[DeviceInterfaceReport]:
    """Read and decode the report."""
    data = yield from get_device_interface_report_bytes(function_id, portion_length=portion_length)
    return DeviceInterfaceReport.decode(data)


def get_state(function_id: int) -> Flow[InterfaceState]:
    """Give the interface's state."""
    response = yield from exchange(GetDeviceInterfaceState(function_id=function_id))
    if not isinstance(response.state, InterfaceState):
        raise DecodeError("DeviceInterfaceState", "state", 16, f"{response.state} is a reserved state")
    return response.state


def start_interface(function_id: int, nonce: bytes) -> Flow[None]:
    """Move the interface to RUN with the nonce of its lock."""
    yield from exchange(StartInterfaceRequest(function_id=function_id, nonce=nonce))


def stop_interface(function_id: int) -> Flow[None]:
    """Move the interface to CONFIG_UNLOCKED."""
    yield from exchange(StopInterfaceRequest(function_id=function_id))


def bind_p2p_stream(function_id: int, stream_id: int) -> Flow[None]:
    """Bind a peer-to-peer stream to the interface."""
    yield from exchange(BindP2pStreamRequest(function_id=function_id, stream_id=stream_id))


def unbind_p2p_stream(function_id: int, stream_id: int) -> Flow[None]:
    """Release a bound peer-to-peer stream."""
    yield from exchange(UnbindP2pStreamRequest(function_id=function_id, stream_id=stream_id))


def set_mmio_attribute(function_id: int, mmio_range: MmioRange) -> Flow[None]:
    """Set IS_NON_TEE_MEM of a range that the report marks updatable."""
    yield from exchange(SetMmioAttributeRequest(function_id=function_id, range=mmio_range))


def vendor_defined(request: VdmRequest) -> Flow[VdmResponse]:
    """Exchange a vendor's own message."""
    return (yield from exchange(request))
