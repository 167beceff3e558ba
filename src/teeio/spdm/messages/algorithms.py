"""NEGOTIATE_ALGORITHMS and ALGORITHMS (DSP0274)."""

from __future__ import annotations

from enum import IntEnum

from teeio.crypto.algorithms import (
    BaseAsym,
    BaseHash,
    MeasurementHash,
    MeasurementSpecification,
    OpaqueDataFormat,
    PqcAsym,
)
from teeio.spdm.constants import Version
from teeio.spdm.messages.base import Facts, Request, Response, message
from teeio.wire import (
    REST,
    Record,
    bits,
    blob,
    count_of,
    record,
    repeat,
    reserved,
    reserved_bits,
    total_length,
    u8,
    u16,
    u32,
)


class AlgType(IntEnum):
    """Kinds of algorithm structure tables."""

    DHE = 2
    AEAD = 3
    REQ_BASE_ASYM = 4
    KEY_SCHEDULE = 5
    REQ_PQC_ASYM = 6
    KEM = 7


@record
class AlgorithmTable(Record):
    """An algorithm structure table with a 2-byte fixed part."""

    alg_type: int = u8("AlgType", enum=AlgType)
    counts: int = u8("AlgCount: fixed bytes in bits 7:4, external algorithms in bits 3:0", default=0x20)
    supported: int = u16("AlgSupported")
    extended: tuple[int, ...] = repeat(4, "External algorithms", count="counts & 0xF", default=())


@message(0xE3, "NEGOTIATE_ALGORITHMS")
class NegotiateAlgorithms(Request["Algorithms"]):
    """Offer algorithms."""

    table_count: None = count_of("tables", 1, since=Version.V1_1, held=True)
    _param2: None = reserved(1)
    length: None = total_length(2)
    measurement_specification: MeasurementSpecification = u8("MeasurementSpecification", enum=MeasurementSpecification)
    opaque_formats: OpaqueDataFormat = bits(
        4, "Opaque data formats", of=1, enum=OpaqueDataFormat, since=Version.V1_2, default=OpaqueDataFormat(0)
    )
    responder_multi_key: int = bits(1, "ResponderMultiKeyConn", since=Version.V1_3, default=0)
    _other: None = reserved_bits(3)
    base_asym: BaseAsym = u32("BaseAsymAlgo", enum=BaseAsym)
    base_hash: BaseHash = u32("BaseHashAlgo", enum=BaseHash)
    pqc_asym: PqcAsym = u32("PqcAsymAlgo", enum=PqcAsym, since=Version.V1_4, held=True, default=PqcAsym(0))
    _reserved: None = reserved(8)
    ext_asym_count: None = count_of("ext_asym", 1)
    ext_hash_count: None = count_of("ext_hash", 1)
    _reserved2: None = reserved(1)
    mel_specification: int = u8("MELspecification", since=Version.V1_3, held=True, default=0)
    ext_asym: tuple[int, ...] = repeat(4, "External signature algorithms", count="ext_asym_count", default=())
    ext_hash: tuple[int, ...] = repeat(4, "External hash algorithms", count="ext_hash_count", default=())
    tables: tuple[AlgorithmTable, ...] = repeat(
        AlgorithmTable, "Algorithm structure tables", count="table_count", since=Version.V1_1, default=()
    )


@message(0x63, "ALGORITHMS")
class Algorithms(Response):
    """Select from the offer: at most one bit of each kind."""

    table_count: None = count_of("tables", 1, since=Version.V1_1, held=True)
    _param2: None = reserved(1)
    length: None = total_length(2)
    measurement_specification: MeasurementSpecification = u8(
        "MeasurementSpecificationSel", enum=MeasurementSpecification
    )
    opaque_format: OpaqueDataFormat = bits(
        4, "Opaque data format", of=1, enum=OpaqueDataFormat, since=Version.V1_2, default=OpaqueDataFormat(0)
    )
    requester_multi_key: int = bits(1, "RequesterMultiKeyConnSel", since=Version.V1_3, default=0)
    _other: None = reserved_bits(3)
    measurement_hash: MeasurementHash = u32("MeasurementHashAlgo", enum=MeasurementHash)
    base_asym: BaseAsym = u32("BaseAsymSel", enum=BaseAsym)
    base_hash: BaseHash = u32("BaseHashSel", enum=BaseHash)
    pqc_asym: PqcAsym = u32("PqcAsymSel", enum=PqcAsym, since=Version.V1_4, held=True, default=PqcAsym(0))
    _reserved: None = reserved(7)
    mel_specification: int = u8("MELspecificationSel", since=Version.V1_3, held=True, default=0)
    ext_asym_count: None = count_of("ext_asym", 1)
    ext_hash_count: None = count_of("ext_hash", 1)
    _reserved2: None = reserved(2)
    ext_asym: tuple[int, ...] = repeat(4, "External signature algorithm", count="ext_asym_count", default=())
    ext_hash: tuple[int, ...] = repeat(4, "External hash algorithm", count="ext_hash_count", default=())
    tables: tuple[AlgorithmTable, ...] = repeat(
        AlgorithmTable, "Algorithm structure tables", count="table_count", since=Version.V1_1, default=()
    )


def selected(tables: tuple[AlgorithmTable, ...], alg_type: AlgType) -> int:
    """Give the bits of the table of `alg_type`, or 0 if there is none."""
    return next((table.supported for table in tables if table.alg_type == alg_type), 0)


@record
class SupportedAlgorithms(Record):
    """The supported-algorithms block of CAPABILITIES (1.3): a NEGOTIATE_ALGORITHMS from Param1 on, with a length of its own."""

    table_count: int = u8("Number of algorithm structure tables")
    _param2: None = reserved(1)
    length: None = total_length(2)
    fields: bytes = blob(REST, "From MeasurementSpecification on")

    @classmethod
    def of(cls, offer: NegotiateAlgorithms, version: int) -> SupportedAlgorithms:
        """Make the block that lists what `offer` offers."""
        encoded = offer.encode(Facts(version=version))
        return cls(table_count=len(offer.tables), fields=encoded[_BEFORE_FIELDS:])

    def offer(self, version: int) -> NegotiateAlgorithms:
        """Give what the block lists. Raises `DecodeError`."""
        size = _BEFORE_FIELDS + len(self.fields)
        start = bytes([version, NegotiateAlgorithms.CODE, self.table_count, 0]) + size.to_bytes(2, "little")
        return NegotiateAlgorithms.decode(start + self.fields, Facts(version=version))


_BEFORE_FIELDS = 6
"""Bytes of NEGOTIATE_ALGORITHMS before MeasurementSpecification: header and Length."""
