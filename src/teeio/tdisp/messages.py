"""Every TDISP 1.0 message and structure, declared once (PCIe Base 11.3).

A message starts with the 16-byte header: TDISPVersion, MessageType, two reserved bytes, and the 12-byte INTERFACE_ID,
of which the first four bytes are the FUNCTION_ID. The declarations here begin after it, except that every message has
a `function_id`. Not here: which message is legal when (`interface.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar, dataclass_transform

from teeio.errors import DecodeError, Misuse
from teeio.tdisp.constants import HEADER_SIZE as HEADER_SIZE
from teeio.tdisp.constants import NONCE_SIZE as NONCE_SIZE
from teeio.tdisp.constants import PAGE_SIZE as PAGE_SIZE
from teeio.tdisp.constants import PROTOCOL_ID as PROTOCOL_ID
from teeio.tdisp.constants import STANDARD_ID as STANDARD_ID
from teeio.tdisp.constants import VENDOR_ID as VENDOR_ID
from teeio.tdisp.constants import VERSION_1_0 as VERSION_1_0
from teeio.tdisp.constants import ErrorCode as ErrorCode
from teeio.tdisp.constants import InterfaceInfo as InterfaceInfo
from teeio.tdisp.constants import InterfaceState as InterfaceState
from teeio.tdisp.constants import LockFlags as LockFlags
from teeio.tdisp.constants import MessageType as MessageType
from teeio.tdisp.constants import RangeAttributes as RangeAttributes
from teeio.wire import (
    REST,
    Field,
    Record,
    bits,
    blob,
    build,
    count_of,
    i64,
    length_of,
    part,
    record,
    repeat,
    reserved,
    reserved_bits,
    u8,
    u16,
    u32,
    u64,
)

# -- structures ------------------------------------------------------------------------------------------------------


@record
class FunctionId(Record):
    """FUNCTION_ID: which function, as the header carries it."""

    requester_id: int = u16("Bus, device and function")
    segment: int = u8("Segment, if valid", default=0)
    segment_valid: int = bits(1, "Requester Segment Valid", of=1, default=0)
    _reserved: None = reserved_bits(7)

    def number(self) -> int:
        """Give the FUNCTION_ID as messages hold it."""
        return int.from_bytes(self.encode(), "little")


def interface_key(function_id: int) -> int:
    """Give the part of a FUNCTION_ID that names the interface: without reserved bits and a segment not marked valid."""
    return function_id & (0x01FF_FFFF if function_id >> 24 & 1 else 0xFFFF)


@record
class MmioRange(Record):
    """MMIO_RANGE (11.3.11): pages of one BAR that the TVM may map."""

    first_page: int = u64("Number of the first 4 KiB page, MMIO_REPORTING_OFFSET applied")
    pages: int = u32("Number of 4 KiB pages")
    attributes: RangeAttributes = u16("Range attributes", enum=RangeAttributes, default=RangeAttributes.NONE)
    range_id: int = u16("Range ID: 0 to 7 is the BAR number")

    def first_address(self, *, page_is_address: bool = False) -> int:
        """Give the first byte's address.

        UNCONFIRMED: PCIe Base says units of 4 KiB pages, a reference emulator sends byte addresses; `page_is_address`
        follows it.
        """
        return self.first_page if page_is_address else self.first_page * PAGE_SIZE


@record
class DeviceInterfaceReport(Record):
    """The TDI report (11.3.11), which GET_DEVICE_INTERFACE_REPORT reads in portions."""

    info: InterfaceInfo = u16("INTERFACE_INFO", enum=InterfaceInfo)
    _reserved: None = reserved(2)
    msi_x_message_control: int = u16("MSI-X Message Control, 0 unless the table is locked", default=0)
    lnr_control: int = u16("LNR Control", default=0)
    tph_control: int = u32("TPH Control, 0 unless supported and the MSI-X table is locked", default=0)
    range_count: None = count_of("ranges", 4)
    ranges: tuple[MmioRange, ...] = repeat(MmioRange, "MMIO ranges, ascending by BAR", count="range_count", default=())
    device_specific_length: None = length_of("device_specific", 4)
    device_specific: bytes = blob("device_specific_length", "Device specific information", default=b"")


@record
class LockParameters(Record):
    """What LOCK_INTERFACE_REQUEST asks for (11.3.8)."""

    flags: LockFlags = u16("FLAGS", enum=LockFlags, default=LockFlags.NONE)
    default_stream_id: int = u8("Stream ID of the default stream", default=0)
    _reserved: None = reserved(1)
    mmio_reporting_offset: int = i64("Bytes added to every reported MMIO address", default=0)
    bind_p2p_address_mask: int = u64("BIND_P2P_ADDRESS_MASK", default=0)


# -- what all messages share -----------------------------------------------------------------------------------------


@record
class Header(Record):
    """The 16 bytes that every TDISP message begins with, whatever their values."""

    version: int = u8("TDISPVersion")
    message_type: int = u8("MessageType", enum=MessageType)
    _reserved: None = reserved(2)
    function_id: int = u32("FUNCTION_ID")
    _interface_id: None = reserved(8)


@record
class Message(Record):
    """A TDISP message."""

    CODE: ClassVar[int] = 0
    NAME: ClassVar[str] = ""

    function_id: int = u32("FUNCTION_ID of the interface")


Rsp = TypeVar("Rsp", bound="Response", covariant=True)


class Response(Message):
    """A message that the DSM sends."""

    __slots__ = ()


class Request(Message, Generic[Rsp]):
    """A message that the TSM sends; `Rsp` is the response it expects."""

    __slots__ = ()

    @classmethod
    def response_class(cls) -> type[Response]:
        """Give the class of the expected response: its code is the request's with bit 7 clear."""
        found = BY_CODE[cls.CODE & 0x7F]
        if not issubclass(found, Response):
            raise Misuse(f"{cls.NAME} has no declared response")
        return found


BY_CODE: dict[int, type[Message]] = {}
"""Every declared message by its MessageType."""

M = TypeVar("M", bound=Message)


@dataclass_transform(
    kw_only_default=True, field_specifiers=(u8, u16, u32, blob, part, repeat, reserved, count_of, length_of)
)
def message(code: MessageType) -> Callable[[type[M]], type[M]]:
    """Declare the TDISP message with MessageType `code`."""

    def decorate(cls: type[M]) -> type[M]:
        header = (
            Field("const", 1, "TDISPVersion", count=str(VERSION_1_0), name="version"),
            Field("const", 1, "MessageType", count=str(int(code)), name="message_type"),
            Field("reserved", 2, "Reserved", name="_header"),
            *Message.FIELDS,
            Field("reserved", 8, "Reserved", name="_interface_id"),
        )
        made: type[M] = build(cls, header)
        made.CODE = code
        made.NAME = code.name
        BY_CODE[code] = made
        return made

    return decorate


def decode_message(data: bytes) -> Message:
    """Decode any TDISP message by its type. Raises `DecodeError`, also for an undeclared type."""
    header, _ = Header.decode_prefix(data)
    found = BY_CODE.get(header.message_type)
    if found is None:
        raise DecodeError(
            "TdispMessage", "message_type", 1, f"{header.message_type:#04x} is not a declared MessageType"
        )
    return found.decode(data)


def name_of(code: int) -> str:
    """Give a message type's name, or the code in hex for an undeclared one."""
    found = BY_CODE.get(code)
    return found.NAME if found else f"{code:#04x}"


# -- the messages ----------------------------------------------------------------------------------------------------


@message(MessageType.GET_TDISP_VERSION)
class GetTdispVersion(Request["TdispVersion"]):
    """Ask for the supported versions (11.3.4)."""


@message(MessageType.TDISP_VERSION)
class TdispVersion(Response):
    """Answer GET_TDISP_VERSION (11.3.5)."""

    version_count: None = count_of("versions", 1)
    versions: tuple[int, ...] = repeat(1, "VERSION_NUM_ENTRY: major in the high four bits", count="version_count")


@message(MessageType.GET_TDISP_CAPABILITIES)
class GetTdispCapabilities(Request["TdispCapabilities"]):
    """Ask for the DSM's capabilities and tell the TSM's (11.3.6)."""

    tsm_caps: int = u32("TSM_CAPS", default=0)


@message(MessageType.TDISP_CAPABILITIES)
class TdispCapabilities(Response):
    """Answer GET_TDISP_CAPABILITIES (11.3.7)."""

    dsm_caps: int = u32("DSM_CAPS", default=0)
    req_msgs_supported: bytes = blob(16, "REQ_MSGS_SUPPORTED: one bit for each request")
    lock_flags_supported: LockFlags = u16("LOCK_INTERFACE_FLAGS_SUPPORTED", enum=LockFlags)
    _reserved: None = reserved(3)
    dev_addr_width: int = u8("DEV_ADDR_WIDTH: address bits of the device")
    num_req_this: int = u8("NUM_REQ_THIS: outstanding requests for this interface")
    num_req_all: int = u8("NUM_REQ_ALL: outstanding requests for all interfaces")


@message(MessageType.LOCK_INTERFACE_REQUEST)
class LockInterfaceRequest(Request["LockInterfaceResponse"]):
    """Lock the interface's configuration (11.3.8)."""

    parameters: LockParameters = part(LockParameters, "What to lock")


@message(MessageType.LOCK_INTERFACE_RESPONSE)
class LockInterfaceResponse(Response):
    """Answer LOCK_INTERFACE_REQUEST with the nonce that START needs (11.3.9)."""

    nonce: bytes = blob(NONCE_SIZE, "START_INTERFACE_NONCE", secret=True)


@message(MessageType.GET_DEVICE_INTERFACE_REPORT)
class GetDeviceInterfaceReport(Request["DeviceInterfaceReportResponse"]):
    """Ask for a portion of the TDI report (11.3.10)."""

    offset: int = u16("First byte wanted")
    length: int = u16("Bytes wanted")


@message(MessageType.DEVICE_INTERFACE_REPORT)
class DeviceInterfaceReportResponse(Response):
    """Answer GET_DEVICE_INTERFACE_REPORT with a portion of the encoded `DeviceInterfaceReport` (11.3.11)."""

    portion_length: None = length_of("portion", 2)
    remainder_length: int = u16("Bytes after this portion")
    portion: bytes = blob("portion_length", "REPORT_BYTES")


@message(MessageType.GET_DEVICE_INTERFACE_STATE)
class GetDeviceInterfaceState(Request["DeviceInterfaceState"]):
    """Ask for the interface's state (11.3.12)."""


@message(MessageType.DEVICE_INTERFACE_STATE)
class DeviceInterfaceState(Response):
    """Answer GET_DEVICE_INTERFACE_STATE (11.3.13)."""

    state: InterfaceState = u8("TDI_STATE", enum=InterfaceState)


@message(MessageType.START_INTERFACE_REQUEST)
class StartInterfaceRequest(Request["StartInterfaceResponse"]):
    """Move the interface to RUN (11.3.14)."""

    nonce: bytes = blob(NONCE_SIZE, "START_INTERFACE_NONCE", secret=True)


@message(MessageType.START_INTERFACE_RESPONSE)
class StartInterfaceResponse(Response):
    """Answer START_INTERFACE_REQUEST (11.3.15)."""


@message(MessageType.STOP_INTERFACE_REQUEST)
class StopInterfaceRequest(Request["StopInterfaceResponse"]):
    """Move the interface to CONFIG_UNLOCKED, scrubbed (11.3.16)."""


@message(MessageType.STOP_INTERFACE_RESPONSE)
class StopInterfaceResponse(Response):
    """Answer STOP_INTERFACE_REQUEST (11.3.17)."""


@message(MessageType.BIND_P2P_STREAM_REQUEST)
class BindP2pStreamRequest(Request["BindP2pStreamResponse"]):
    """Bind a direct peer-to-peer stream to the interface (11.3.18)."""

    stream_id: int = u8("Stream ID")


@message(MessageType.BIND_P2P_STREAM_RESPONSE)
class BindP2pStreamResponse(Response):
    """Answer BIND_P2P_STREAM_REQUEST (11.3.19)."""


@message(MessageType.UNBIND_P2P_STREAM_REQUEST)
class UnbindP2pStreamRequest(Request["UnbindP2pStreamResponse"]):
    """Release a bound peer-to-peer stream (11.3.20)."""

    stream_id: int = u8("Stream ID")


@message(MessageType.UNBIND_P2P_STREAM_RESPONSE)
class UnbindP2pStreamResponse(Response):
    """Answer UNBIND_P2P_STREAM_REQUEST (11.3.21)."""


@message(MessageType.SET_MMIO_ATTRIBUTE_REQUEST)
class SetMmioAttributeRequest(Request["SetMmioAttributeResponse"]):
    """Make a range TEE or non-TEE memory (11.3.22)."""

    range: MmioRange = part(MmioRange, "The range as reported, with the new IS_NON_TEE_MEM")


@message(MessageType.SET_MMIO_ATTRIBUTE_RESPONSE)
class SetMmioAttributeResponse(Response):
    """Answer SET_MMIO_ATTRIBUTE_REQUEST (11.3.23)."""


@message(MessageType.VDM_REQUEST)
class VdmRequest(Request["VdmResponse"]):
    """Carry a vendor's own request (11.3.25). UNCONFIRMED: that its fields follow the header directly."""

    registry_id: int = u8("REGISTRY_ID: 0 PCI-SIG, 1 CXL")
    vendor_id_length: None = length_of("vendor_id", 1)
    vendor_id: bytes = blob("vendor_id_length", "VENDOR_ID")
    data: bytes = blob(REST, "VENDOR_DATA", default=b"")


@message(MessageType.VDM_RESPONSE)
class VdmResponse(Response):
    """Answer VDM_REQUEST (11.3.26); the same shape, as UNCONFIRMED."""

    registry_id: int = u8("REGISTRY_ID: 0 PCI-SIG, 1 CXL")
    vendor_id_length: None = length_of("vendor_id", 1)
    vendor_id: bytes = blob("vendor_id_length", "VENDOR_ID")
    data: bytes = blob(REST, "VENDOR_DATA", default=b"")


@message(MessageType.SET_TDISP_CONFIG_REQUEST)
class SetTdispConfigRequest(Request["SetTdispConfigResponse"]):
    """Set the XT mode, in a revision after 1.0. UNCONFIRMED: what the four bytes mean, and the rules."""

    configuration: int = u32("Four bytes of unknown meaning")


@message(MessageType.SET_TDISP_CONFIG_RESPONSE)
class SetTdispConfigResponse(Response):
    """Answer SET_TDISP_CONFIG_REQUEST. UNCONFIRMED, as the request."""


@message(MessageType.TDISP_ERROR)
class TdispError(Response):
    """Refuse a request (11.3.24)."""

    code: ErrorCode = u32("ERROR_CODE", enum=ErrorCode)
    data: int = u32("ERROR_DATA", default=0)
    extended: bytes = blob(REST, "EXTENDED_ERROR_DATA", default=b"")


@record
class ExtendedErrorData(Record):
    """EXTENDED_ERROR_DATA of a VENDOR_SPECIFIC_ERROR."""

    registry_id: int = u8("REGISTRY_ID: 0 PCI-SIG, 1 CXL")
    vendor_id_length: None = length_of("vendor_id", 1)
    vendor_id: bytes = blob("vendor_id_length", "VENDOR_ID")
    data: bytes = blob(REST, "VENDOR_ERR_DATA", default=b"")
