"""Decoders of messages and frames: nothing but `DecodeError` may come out, and what decodes must encode to the same object again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from fuzz.samples import sample_records, sealed_records
from fuzz.surface import Strike, Surface
from teeio.cxl import ide_km as cxl_ide_km
from teeio.cxl import tsp_messages
from teeio.errors import DecodeError, TransportError
from teeio.ide_km import messages as ide_km
from teeio.mctp import MctpBinding
from teeio.pcie import doe
from teeio.pcie.flit_mode import FlitMode
from teeio.pcie.ide_tlp import IdePrefix, failed_stream, sync_counters
from teeio.pcie.tlp import (
    Routing,
    Tlp,
    TlpType,
    completion,
    config_read,
    config_write,
    memory_read,
    memory_write,
    message,
)
from teeio.spdm import messages as m
from teeio.spdm import opaque
from teeio.spdm.binding import Binding
from teeio.spdm.constants import Version
from teeio.tcp_binding import TcpBinding
from teeio.tdisp import messages as tdisp
from teeio.transport.platform_port import parse_header
from teeio.wire import NO_FACTS, Record

Prepared = tuple[Sequence[bytes], Strike]


def spdm_messages(random: Random) -> Prepared:
    """SPDM messages in all versions: decode, spans, encode."""
    facts = [
        m.Facts(
            version=version,
            hash_size=48,
            signature_size=96,
            req_signature_size=96,
            request_exchange_size=96,
            response_exchange_size=96,
            summary_size=size,
            handshake_in_the_clear=clear,
        )
        for version in Version
        for size, clear in ((0, False), (48, True))
    ]
    # Whatever a version lacks fails at its code or fields: a seed all the same. The first byte selects the facts.
    seeds = [
        bytes([number]) + encoded[1:]
        for number, one in enumerate(facts)
        for cls in m.declared()
        for encoded in sample_records(random, cls, one, 2)
    ]

    def code(data: bytes) -> bool:
        one = facts[(data[:1] or b"\0")[0] % len(facts)]
        found = _taken(lambda raw: m.decode(raw, one)[0], bytes([one.version]) + data[1:])
        if found is not None:
            _again(found, one)
        return found is not None

    return seeds, code


def _taken(decode: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return decode(data)
    except DecodeError as error:
        if error.offset < 0 or not error.reason:
            raise AssertionError(f"a refusal that says nothing: {error!r}") from error
        return None


def _again(found: Record, facts: Any) -> None:
    encoded = found.encode(facts)
    if type(found).decode(encoded, facts) != found:
        raise AssertionError(f"{found!r} is another object once encoded and decoded")
    spans = type(found).spans(encoded, facts)
    if spans and max(span.end for span in spans) > len(encoded):
        raise AssertionError("a span lies outside the message")


def spdm_opaque(random: Random) -> Prepared:
    """Opaque data: both formats, supported and selected versions."""
    seeds = [
        *(opaque.encode_supported(version) for version in (Version.V1_1, Version.V1_2)),
        *(opaque.encode_selected(version, 0x1200) for version in (Version.V1_1, Version.V1_2)),
    ]

    def code(data: bytes) -> bool:
        taken = False
        for version in (Version.V1_1, Version.V1_2):
            taken |= _taken(lambda raw, version=version: opaque.decode_supported(version, raw), data) is not None  # type: ignore[misc]
            taken |= _taken(lambda raw, version=version: opaque.decode_selected(version, raw), data) is not None  # type: ignore[misc]
        return taken

    return seeds, code


def _protocol(decode: Callable[[bytes], Record], by_code: Any) -> Callable[[Random], Prepared]:
    def prepare(random: Random) -> Prepared:
        seeds = [encoded for cls in by_code.values() for encoded in sample_records(random, cls, NO_FACTS, 6)]

        def code(data: bytes) -> bool:
            found = _taken(decode, data)
            if found is not None:
                _again(found, NO_FACTS)
            return found is not None

        return seeds, code

    return prepare


def doe_objects(random: Random) -> Prepared:
    """DOE data objects, discovery, and the SPDM binding on them."""
    binding = doe.DoeBinding()
    seeds = [
        doe.encode_object(doe.DISCOVERY, doe.DiscoveryRequest(index=1).encode()),
        doe.encode_object(doe.DISCOVERY, doe.DiscoveryResponse(vendor_id=1, type=2, next_index=0).encode()),
        binding.wrap(bytes(37), secured=False),
        binding.wrap(bytes(80), secured=True),
    ]

    def code(data: bytes) -> bool:
        found = _taken(doe.decode_object, data)
        _taken(binding.unwrap, data)
        if found is None:
            return False
        _taken(doe.DiscoveryRequest.decode, found.payload)
        _taken(doe.DiscoveryResponse.decode, found.payload)
        return True

    return seeds, code


def bindings(random: Random) -> Prepared:
    """Frames and application data of every binding."""
    every: list[Binding] = [doe.DoeBinding(), MctpBinding(), TcpBinding()]
    seeds = [b.wrap(bytes(24), secured=secured) for b in every for secured in (False, True)]
    seeds += [b.wrap_application(bytes(24)) for b in every]

    def code(data: bytes) -> bool:
        taken = False
        for binding in every:
            taken |= _taken(binding.unwrap, data) is not None
            _taken(binding.unwrap_application, data)
        return taken

    return seeds, code


def tlps(random: Random) -> Prepared:
    """TLPs and every reading of their headers."""
    seeds = [
        memory_write(0x100, 1, 0x1_0000_0000, bytes(64)).encode(),
        memory_write(0x100, 1, 0xFEC0_0003, bytes(7)).encode(),
        memory_read(0x100, 1, 0xFEC0_0004, 12).encode(),
        completion(0x100, 8, 1, bytes(16)).encode(),
        config_read(8, 1, 0x100, 0x10, 4).encode(),
        config_write(8, 1, 0x100, 0x10, 4, 0xFFFFFFFF).encode(),
        message(8, 0x54, Routing.LOCAL).encode(),
        IdePrefix(stream_id=1, sub_stream=0, m=1).encode() + memory_write(0x100, 1, 0x1000, bytes(16)).encode(),
    ]

    def code(data: bytes) -> bool:
        _taken(IdePrefix.decode_prefix, data)
        tlp = _taken(Tlp.decode, data)
        if tlp is None:
            return False
        if Tlp.decode(tlp.encode()) != tlp:
            raise AssertionError("another TLP once encoded and decoded")
        for read in (tlp.memory, tlp.completion, tlp.configuration, tlp.message):
            _taken(lambda _, read=read: read(), b"")  # type: ignore[misc]
        for read_body in (sync_counters, failed_stream):
            _taken(lambda _, read_body=read_body: read_body(tlp), b"")  # type: ignore[misc]
        if tlp.type in (TlpType.MRD, TlpType.MWR):
            header = tlp.memory()
            _ = (header.span, header.enabled(tlp.payload))
        return tlp.type is not None and tlp.traffic_class >= 0 and tlp.requester_id >= 0

    return seeds, code


def flit_tlps(random: Random) -> Prepared:
    """TLPs in Flit Mode, and what they say of themselves to whoever sits on the link."""
    mode = FlitMode(1)
    pasid, vendor = bytes.fromhex("91012345"), bytes.fromhex("9e112233")
    seeds = [
        mode.encode(memory_write(0x100, 1, 0x1_0000_0003, bytes(7))._replace(prefixes=pasid + vendor)),
        mode.encode(memory_read(0x100, 1, 0xFEC0_0004, 12)),
        mode.encode(completion(0x100, 8, 1, bytes(16), lower_address=3)),
        mode.encode(config_write(8, 1, 0x100, 0x10, 4, 0xFFFFFFFF)),
        mode.encode(message(8, 0x7F, Routing.BY_ID, data=bytes(4))),
        bytes.fromhex("40a50002 01000042 00001000 00000003 01000501") + bytes(20),
    ]

    def code(data: bytes) -> bool:
        for read in (mode.heading, mode.stream_of, mode.ide_fields, mode.type_of, mode.logged):
            _taken(read, data)
        tlp = _taken(mode.decode, data)
        if tlp is None:
            return False
        if mode.decode(mode.encode(tlp)) != tlp:
            raise AssertionError("another TLP once encoded and decoded")
        return Tlp.decode(tlp.encode()) == tlp

    return seeds, code


def socket_headers(random: Random) -> Prepared:
    """Headers of the emulator's socket protocol."""
    seeds = [bytes.fromhex(text) for text in ("0000dead0000000100000000", "00000001000000020000002c")]

    def code(data: bytes) -> bool:
        try:
            parse_header(data[:12].ljust(12, b"\0"))
        except TransportError:
            return False
        return True

    return seeds, code


def record_headers(random: Random) -> Prepared:
    """Secured messages: opened with each binding, encrypted or not; the keys are right, so damage to the clear part counts."""
    keys, seeds = sealed_records()

    def code(data: bytes) -> bool:
        taken = False
        for key in keys:
            taken |= key.opens(data)
        return taken

    return seeds, code


def surfaces() -> Iterator[Surface]:
    """All decoders of messages and frames."""
    yield Surface("SPDM messages", spdm_messages, 4, selector=1)
    yield Surface("SPDM opaque data", spdm_opaque, 2)
    yield Surface("IDE_KM messages", _protocol(ide_km.decode_message, ide_km.BY_CODE), 2)
    yield Surface("TDISP messages", _protocol(tdisp.decode_message, tdisp.BY_CODE), 2)
    yield Surface("CXL IDE_KM messages", _protocol(cxl_ide_km.decode_message, cxl_ide_km.BY_CODE), 2)
    yield Surface("CXL TSP messages", _protocol(tsp_messages.decode_message, tsp_messages.BY_CODE), 2)
    yield Surface("DOE data objects", doe_objects, 2)
    yield Surface("binding frames", bindings, 2)
    yield Surface("TLPs", tlps, 3)
    yield Surface("TLPs of Flit Mode", flit_tlps, 3)
    yield Surface("socket headers", socket_headers, 2)
    yield Surface("records", record_headers, 3)
