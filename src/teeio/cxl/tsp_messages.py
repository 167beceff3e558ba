"""Messages of the CXL TEE Security Protocol that a target's set-up needs, declared once (CXL 3.1, "TSP").

A message starts with TSPVersion and Opcode. Left out: the memory encryption key and delayed completion messages,
whose opcodes are named.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, IntFlag
from typing import ClassVar, TypeVar, dataclass_transform

from teeio.errors import DecodeError
from teeio.wire import (
    REST,
    Field,
    Record,
    blob,
    build,
    count_of,
    length_of,
    part,
    record,
    repeat,
    reserved,
    u8,
    u16,
    u32,
    u64,
)

VERSION_1_0 = 0x10
PROTOCOL_ID = 0x01
"""TSP among CXL's protocols."""
HEADER_SIZE = 2
UNUSED_LENGTH_INDEX = 0xFF
MAX_RANGES = 32
"""Most memory ranges in one SET_TARGET_TE_STATE."""


class Opcode(IntEnum):
    """Opcode; a response is its request with bit 7 clear."""

    GET_TARGET_TSP_VERSION_RESPONSE = 0x01
    GET_TARGET_CAPABILITIES_RESPONSE = 0x02
    SET_TARGET_CONFIGURATION_RESPONSE = 0x03
    GET_TARGET_CONFIGURATION_RESPONSE = 0x04
    GET_TARGET_CONFIGURATION_REPORT_RESPONSE = 0x05
    LOCK_TARGET_CONFIGURATION_RESPONSE = 0x06
    SET_TARGET_TE_STATE_RESPONSE = 0x0D
    DELAYED_RESPONSE = 0x7E
    ERROR_RESPONSE = 0x7F
    GET_TARGET_TSP_VERSION = 0x81
    GET_TARGET_CAPABILITIES = 0x82
    SET_TARGET_CONFIGURATION = 0x83
    GET_TARGET_CONFIGURATION = 0x84
    GET_TARGET_CONFIGURATION_REPORT = 0x85
    LOCK_TARGET_CONFIGURATION = 0x86
    SET_TARGET_CKID_SPECIFIC_KEY = 0x87
    SET_TARGET_CKID_RANDOM_KEY = 0x88
    CLEAR_TARGET_CKID_KEY = 0x89
    SET_TARGET_RANGE_SPECIFIC_KEY = 0x8A
    SET_TARGET_RANGE_RANDOM_KEY = 0x8B
    CLEAR_TARGET_RANGE_KEY = 0x8C
    SET_TARGET_TE_STATE = 0x8D
    CHECK_TARGET_DELAYED_COMPLETION = 0x8E


class ErrorCode(IntEnum):
    """Error code of ERROR_RESPONSE."""

    INVALID_REQUEST = 0x01
    BUSY = 0x02
    UNSPECIFIED = 0x03
    UNSUPPORTED_REQUEST = 0x04
    VERSION_MISMATCH = 0x05
    VENDOR_SPECIFIC_ERROR = 0x06
    NO_PRIVILEGE = 0x07
    NO_ENTROPY = 0x08
    INVALID_CKID = 0x09
    INVALID_SECURITY_CONFIGURATION = 0x0A
    INVALID_SECURITY_STATE = 0x0B
    LONG_EXECUTION_TIME = 0x0C
    ALREADY_LOCKED = 0x0D


class TspState(IntEnum):
    """State of the target."""

    CONFIG_UNLOCKED = 0
    CONFIG_LOCKED = 1
    ERROR = 2


class EncryptionFeatures(IntFlag):
    """Memory encryption features, as enabled."""

    ENCRYPTION = 0x1
    CKID_BASED = 0x2
    RANGE_BASED = 0x4
    CKID_BASED_REQUIRED = 0x8


class EncryptionAlgorithms(IntFlag):
    """Memory encryption algorithms."""

    AES_XTS_128 = 0x1
    AES_XTS_256 = 0x2
    VENDOR_SPECIFIC = 0x8000_0000


class TeStateFeatures(IntFlag):
    """TE state change and access control features."""

    WRITE_ACCESS_CONTROL = 0x01
    READ_ACCESS_CONTROL = 0x02
    IMPLICIT_TE_STATE_CHANGE = 0x04
    EXPLICIT_OOB_TE_STATE_CHANGE = 0x08
    EXPLICIT_IB_TE_STATE_CHANGE = 0x10
    EXPLICIT_TE_STATE_CHANGE_SANITIZE = 0x20


class ConfigurationFeatures(IntFlag):
    """Configuration features; bit 1 differs between what is supported and what is set."""

    LOCKED_TARGET_FW_UPDATE = 0x1
    SUPPORTS_ADDITIONAL_SPDM_SESSIONS = 0x2
    ENABLES_SPECIAL_PURPOSE_MEMORY = 0x2


class Message(Record):
    """A TSP message."""

    __slots__ = ()
    CODE: ClassVar[int] = 0
    NAME: ClassVar[str] = ""


BY_CODE: dict[int, type[Message]] = {}
"""Every declared message by its Opcode."""

M = TypeVar("M", bound=Message)


@dataclass_transform(
    kw_only_default=True, field_specifiers=(u8, u16, u32, u64, blob, part, repeat, reserved, count_of, length_of)
)
def message(code: Opcode) -> Callable[[type[M]], type[M]]:
    """Declare the TSP message with Opcode `code`; fields of a layout that it inherits from come first."""

    def decorate(cls: type[M]) -> type[M]:
        header = (
            Field("const", 1, "TSPVersion", count=str(VERSION_1_0), name="version"),
            Field("const", 1, "Opcode", count=str(int(code)), name="opcode"),
        )
        made: type[M] = build(cls, (*header, *cls.FIELDS))
        made.CODE = code
        made.NAME = code.name
        BY_CODE[code] = made
        return made

    return decorate


def decode_message(data: bytes) -> Message:
    """Decode any declared TSP message by its Opcode. Raises `DecodeError`, also for an undeclared one."""
    if len(data) < HEADER_SIZE:
        raise DecodeError("TspMessage", "opcode", 0, f"needs {HEADER_SIZE} bytes, has {len(data)}")
    found = BY_CODE.get(data[1])
    if found is None:
        raise DecodeError("TspMessage", "opcode", 1, f"{data[1]:#04x} is not a declared Opcode")
    return found.decode(data)


@record
class Empty(Record):
    """The body of most messages: nothing."""

    _reserved: None = reserved(2)


@record
class Granularity(Record):
    """One entry of the in-band TE state change granularities."""

    te_state_granularity: int = u64("Granularity", default=0)
    length_index: int = u8("Length index 0 to 7, or 0xFF if unused", default=UNUSED_LENGTH_INDEX)
    _reserved: None = reserved(7)


@record
class Configuration(Record):
    """What SET_TARGET_CONFIGURATION sets and GET_TARGET_CONFIGURATION reads, in the same places."""

    encryption_features: EncryptionFeatures = u16(
        "Memory encryption", enum=EncryptionFeatures, default=EncryptionFeatures(0)
    )
    encryption_algorithm: EncryptionAlgorithms = u32(
        "Memory encryption algorithm", enum=EncryptionAlgorithms, default=EncryptionAlgorithms(0)
    )
    _reserved: None = reserved(4)
    te_state_features: TeStateFeatures = u16("TE state changes", enum=TeStateFeatures, default=TeStateFeatures(0))
    _reserved_2: None = reserved(2)
    oob_granularity: int = u32("Explicit out-of-band TE state granularity", default=0)
    _reserved_3: None = reserved(4)
    configuration_features: ConfigurationFeatures = u16(
        "Configuration features", enum=ConfigurationFeatures, default=ConfigurationFeatures(0)
    )
    _reserved_4: None = reserved(2)
    ckid_base: int = u32("First CKID", default=0)
    number_of_ckids: int = u32("Number of CKIDs", default=0)


@record
class MemoryRange(Record):
    """Memory whose TE state is set."""

    start: int = u64("First byte")
    length: int = u64("Bytes")


@message(Opcode.GET_TARGET_TSP_VERSION)
class GetTargetTspVersion(Empty, Message):
    """Ask for the supported versions."""


@message(Opcode.GET_TARGET_TSP_VERSION_RESPONSE)
class GetTargetTspVersionResponse(Message):
    """Answer GET_TARGET_TSP_VERSION."""

    _reserved: None = reserved(2)
    version_count: None = count_of("versions", 1)
    versions: tuple[int, ...] = repeat(1, "Versions", count="version_count")


@message(Opcode.GET_TARGET_CAPABILITIES)
class GetTargetCapabilities(Empty, Message):
    """Ask for the target's capabilities."""


@message(Opcode.GET_TARGET_CAPABILITIES_RESPONSE)
class GetTargetCapabilitiesResponse(Message):
    """Answer GET_TARGET_CAPABILITIES."""

    encryption_features: int = u16("Memory encryption features supported; bits 3 and 4 differ from those enabled")
    encryption_algorithms: EncryptionAlgorithms = u32("Memory encryption algorithms", enum=EncryptionAlgorithms)
    number_of_range_keys: int = u16("Range-based keys", default=0)
    _reserved: None = reserved(2)
    te_state_features: TeStateFeatures = u16("TE state changes", enum=TeStateFeatures)
    _reserved_2: None = reserved(2)
    oob_granularities: int = u32("Explicit out-of-band TE state granularities", default=0)
    ib_granularities: int = u32("Explicit in-band TE state granularities")
    configuration_features: ConfigurationFeatures = u16("Configuration features", enum=ConfigurationFeatures)
    _reserved_3: None = reserved(2)
    number_of_ckids: int = u32("CKIDs", default=0)
    number_of_secondary_sessions: int = u8("Secondary SPDM sessions", default=0)
    _reserved_4: None = reserved(19)


@message(Opcode.SET_TARGET_CONFIGURATION)
class SetTargetConfiguration(Configuration, Message):
    """Configure the target."""

    _reserved_5: None = reserved(12)
    ib_granularities: tuple[Granularity, ...] = repeat(Granularity, "In-band granularities", count="8")
    _reserved_6: None = reserved(16)
    validity_flags: int = u16("Which secondary sessions' keys are valid", default=0)
    _reserved_7: None = reserved(14)
    secondary_ckid_type: int = u8("CKID type of secondary sessions", default=0)
    _reserved_8: None = reserved(15)
    secondary_keys: bytes = blob(128, "PSK key material of four secondary sessions", secret=True, default=bytes(128))


@message(Opcode.SET_TARGET_CONFIGURATION_RESPONSE)
class SetTargetConfigurationResponse(Empty, Message):
    """Answer SET_TARGET_CONFIGURATION."""


@message(Opcode.GET_TARGET_CONFIGURATION)
class GetTargetConfiguration(Empty, Message):
    """Ask for the configuration and the state."""


@message(Opcode.GET_TARGET_CONFIGURATION_RESPONSE)
class GetTargetConfigurationResponse(Configuration, Message):
    """Answer GET_TARGET_CONFIGURATION."""

    state: TspState = u8("Current TSP state", enum=TspState)
    _reserved_5: None = reserved(11)
    ib_granularities: tuple[Granularity, ...] = repeat(Granularity, "In-band granularities", count="8")
    _reserved_6: None = reserved(16)


@message(Opcode.GET_TARGET_CONFIGURATION_REPORT)
class GetTargetConfigurationReport(Message):
    """Ask for a portion of the configuration report."""

    _reserved: None = reserved(2)
    offset: int = u16("First byte wanted")
    length: int = u16("Bytes wanted")


@message(Opcode.GET_TARGET_CONFIGURATION_REPORT_RESPONSE)
class GetTargetConfigurationReportResponse(Message):
    """Answer GET_TARGET_CONFIGURATION_REPORT."""

    _reserved: None = reserved(2)
    portion_length: None = length_of("portion", 2)
    remainder_length: int = u16("Bytes after this portion")
    portion: bytes = blob("portion_length", "Report bytes")


@record
class ConfigurationReport(Record):
    """The head of the configuration report: which register blocks follow it."""

    valid_fields: int = u8("Which register blocks are there")
    _reserved: None = reserved(3)
    registers: bytes = blob(REST, "The register blocks", default=b"")


@message(Opcode.LOCK_TARGET_CONFIGURATION)
class LockTargetConfiguration(Empty, Message):
    """Lock the configuration."""


@message(Opcode.LOCK_TARGET_CONFIGURATION_RESPONSE)
class LockTargetConfigurationResponse(Empty, Message):
    """Answer LOCK_TARGET_CONFIGURATION."""


@message(Opcode.SET_TARGET_TE_STATE)
class SetTargetTeState(Message):
    """Make memory trusted or not."""

    te_state: int = u8("TE state: 1 trusted")
    range_count: None = count_of("ranges", 1)
    _reserved: None = reserved(12)
    ranges: tuple[MemoryRange, ...] = repeat(MemoryRange, "Memory ranges", count="range_count")


@message(Opcode.SET_TARGET_TE_STATE_RESPONSE)
class SetTargetTeStateResponse(Empty, Message):
    """Answer SET_TARGET_TE_STATE."""


@message(Opcode.ERROR_RESPONSE)
class ErrorResponse(Message):
    """Refuse a request."""

    _reserved: None = reserved(2)
    code: ErrorCode = u32("Error code", enum=ErrorCode)
    data: int = u32("Error data", default=0)
    extended: bytes = blob(REST, "Extended error data", default=b"")
