"""GET_MEASUREMENTS and MEASUREMENTS (DSP0274), the DMTF measurement block, and the measurement extension log (1.3)."""

from __future__ import annotations

from enum import IntEnum

from teeio.errors import DecodeError
from teeio.spdm.constants import Version
from teeio.spdm.messages.base import Request, Response, message
from teeio.wire import Record, bits, blob, const, count_of, length_of, record, repeat, reserved, reserved_bits, u8, u32


class MeasurementType(IntEnum):
    """DMTFSpecMeasurementValueType, without the raw bit."""

    IMMUTABLE_ROM = 0
    MUTABLE_FIRMWARE = 1
    HARDWARE_CONFIGURATION = 2
    FIRMWARE_CONFIGURATION = 3
    MANIFEST = 4
    DEVICE_MODE = 5
    VERSION = 6
    SECURE_VERSION_NUMBER = 7
    HASH_EXTEND = 8
    INFORMATIONAL = 9
    STRUCTURED_MANIFEST = 10


@record
class MeasurementBlock(Record):
    """A measurement block of the DMTF specification."""

    index: int = u8("Index, 1 to 0xFE")
    specification: int = u8("MeasurementSpecification: 1 is DMTF", default=1)
    size: None = length_of("value", 2, "Bytes that follow", bias=3)
    type: int = bits(7, "DMTFSpecMeasurementValueType", of=1, enum=MeasurementType)
    raw: int = bits(1, "Value is raw, not a digest", default=0)
    value_size: None = const(2, "size", "Bytes of value")
    value: bytes = blob("size", "Value")


@message(0xE0, "GET_MEASUREMENTS")
class GetMeasurements(Request["Measurements"]):
    """Ask for measurements: 0 for their number, an index, or 0xFF for all."""

    signature_requested: int = bits(1, "Signature wanted", of=1, default=0)
    raw_requested: int = bits(1, "Raw bit streams wanted", since=Version.V1_2, default=0)
    new_requested: int = bits(1, "New measurements wanted", since=Version.V1_3, default=0)
    _param1: None = reserved_bits(5)
    operation: int = u8("0 number of blocks, 1 to 0xFE an index, 0xFF all")
    nonce: bytes = blob(32, "Requester's nonce", when="signature_requested", default=b"")
    slot: int = u8("SlotID in bits 3:0", when="signature_requested", since=Version.V1_1, default=0)
    context: bytes = blob(8, "Requester's context", since=Version.V1_3, default=bytes(8))


@message(0x60, "MEASUREMENTS")
class Measurements(Response):
    """Answer GET_MEASUREMENTS."""

    total: int = u8("Number of blocks, when that was asked for", default=0)
    slot: int = bits(4, "SlotID", of=1, default=0)
    content_changed: int = bits(2, "0 not detected, 1 changed, 2 unchanged", since=Version.V1_2, default=0)
    _param2: None = reserved_bits(2)
    block_count: int = u8("NumberOfBlocks", default=0)
    record_length: None = length_of("record", 3)
    record: bytes = blob("record_length", "MeasurementRecord", default=b"")
    nonce: bytes = blob(32, "Responder's nonce")
    opaque_length: None = length_of("opaque", 2)
    opaque: bytes = blob("opaque_length", "OpaqueData", default=b"")
    context: bytes = blob(8, "Requester's context, echoed", since=Version.V1_3, default=bytes(8))
    signature: bytes = blob("signature_size * signed", "Signature over L1", default=b"")

    def blocks(self) -> tuple[MeasurementBlock, ...]:
        """Decode the record. Raises `DecodeError` if it does not hold `block_count` blocks exactly."""
        return decode_blocks(self.record, self.block_count)


def decode_blocks(data: bytes, count: int) -> tuple[MeasurementBlock, ...]:
    """Decode `count` measurement blocks that fill `data`."""
    blocks: list[MeasurementBlock] = []
    rest = data
    while rest and len(blocks) < count:
        block, used = MeasurementBlock.decode_prefix(rest)
        blocks.append(block)
        rest = rest[used:]
    if rest or len(blocks) != count:
        at = len(data) - len(rest)
        raise DecodeError(
            "Measurements", "record", at, f"holds {len(blocks)} blocks and {len(rest)} bytes more, not {count}"
        )
    return tuple(blocks)


@message(0xEF, "GET_MEASUREMENT_EXTENSION_LOG")
class GetMeasurementExtensionLog(Request["MeasurementExtensionLog"]):
    """Ask for a portion of the measurement extension log (1.3)."""

    _params: None = reserved(2)
    offset: int = u32("Offset")
    length: int = u32("Length")


@message(0x6F, "MEASUREMENT_EXTENSION_LOG")
class MeasurementExtensionLog(Response):
    """Answer GET_MEASUREMENT_EXTENSION_LOG."""

    _params: None = reserved(2)
    portion_length: None = length_of("portion", 4)
    remainder_length: int = u32("RemainderLength")
    portion: bytes = blob("portion_length", "Portion of the log")


LOG_PORTION_OFFSET = 12
"""Bytes of MEASUREMENT_EXTENSION_LOG before the portion."""


@record
class LogEntry(Record):
    """An entry of the DMTF measurement extension log."""

    mel_index: int = u32("MELIndex")
    measurement_index: int = u8("Index of the measurement block it extends")
    _reserved: None = reserved(3)
    type: int = u8("DMTFSpecMeasurementValueType with the raw bit")
    value_size: None = length_of("value", 2)
    value: bytes = blob("value_size", "Value")


@record
class Log(Record):
    """The DMTF measurement extension log."""

    entry_count: None = count_of("entries", 4)
    entries_length: int = u32("Bytes of all entries")
    _reserved: None = reserved(8)
    entries: tuple[LogEntry, ...] = repeat(LogEntry, "Entries", count="entry_count")
