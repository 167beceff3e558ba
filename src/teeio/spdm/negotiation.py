"""Capability consistency and algorithm selection (DSP0274, CAPABILITIES and ALGORITHMS)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntFlag
from typing import TypeVar

from teeio.crypto.algorithms import (
    Aead,
    BaseAsym,
    BaseHash,
    Dhe,
    Kem,
    KeySchedule,
    MeasurementHash,
    MeasurementSpecification,
    OpaqueDataFormat,
    PqcAsym,
)
from teeio.errors import Misuse, PeerViolation
from teeio.spdm.algorithm_rules import defined_in
from teeio.spdm.constants import (
    EP_INFO_CAPABILITIES,
    KNOWN_CAPABILITIES,
    MEAS_CAPABILITIES,
    MIN_DATA_TRANSFER_SIZE,
    NEEDS_SESSION,
    SESSION_CAPABILITIES,
    Version,
)
from teeio.spdm.constants import Capability as Cap
from teeio.spdm.messages import (
    Algorithms,
    AlgorithmTable,
    AlgType,
    Capabilities,
    GetCapabilities,
    NegotiateAlgorithms,
    selected,
)
from teeio.spdm.state import Connection, Settings

F = TypeVar("F", bound=IntFlag)
MAX_CT_EXPONENT = 31

_MULTI_KEY = Cap.MULTI_KEY_NEG | Cap.MULTI_KEY_ONLY
_IDENTITY = Cap.CERT | Cap.PUB_KEY_ID
_SIGNING = Cap.CHAL | Cap.KEY_EX | Cap.MEAS_SIG | Cap.EP_INFO_SIG
_KEY_PAIRS = Cap.GET_KEY_PAIR_INFO | Cap.SET_KEY_PAIR_INFO

NO_FLAGS = Cap(0)

FlagRule = tuple[str, Callable[[Cap], bool]]

_COMMON_FLAG_RULES: tuple[FlagRule, ...] = (
    ("CERT and PUB_KEY_ID exclude each other", lambda f: f & _IDENTITY != _IDENTITY),
    ("CHAL and MUT_AUTH need CERT or PUB_KEY_ID", lambda f: not f & (Cap.CHAL | Cap.MUT_AUTH) or bool(f & _IDENTITY)),
    ("PUB_KEY_ID needs CHAL, KEY_EX, signed MEAS or EP_INFO", lambda f: not f & Cap.PUB_KEY_ID or bool(f & _SIGNING)),
    ("MUT_AUTH needs CHAL or KEY_EX", lambda f: not f & Cap.MUT_AUTH or bool(f & (Cap.CHAL | Cap.KEY_EX))),
    ("EP_INFO_CAP 11b is reserved", lambda f: f & EP_INFO_CAPABILITIES != EP_INFO_CAPABILITIES),
    ("EP_INFO_CAP 10b needs CERT or PUB_KEY_ID", lambda f: not f & Cap.EP_INFO_SIG or bool(f & _IDENTITY)),
    ("MULTI_KEY_CAP 11b is reserved", lambda f: f & _MULTI_KEY != _MULTI_KEY),
    ("MULTI_KEY needs CERT", lambda f: not f & _MULTI_KEY or bool(f & Cap.CERT)),
)

REQUESTER_FLAG_RULES: tuple[FlagRule, ...] = (
    ("PSK_CAP of a requester is 00b or 01b", lambda f: not f & Cap.PSK_WITH_CONTEXT),
    ("KEY_EX or PSK needs ENCRYPT or MAC", lambda f: not f & SESSION_CAPABILITIES or bool(f & (Cap.ENCRYPT | Cap.MAC))),
    ("session flags need KEY_EX or PSK", lambda f: bool(f & SESSION_CAPABILITIES) or not f & NEEDS_SESSION),
    ("HANDSHAKE_IN_THE_CLEAR needs KEY_EX", lambda f: not f & Cap.HANDSHAKE_IN_THE_CLEAR or bool(f & Cap.KEY_EX)),
    ("EVENT needs KEY_EX or PSK", lambda f: not f & Cap.EVENT or bool(f & SESSION_CAPABILITIES)),
    *_COMMON_FLAG_RULES,
)
"""What must hold of a requester's flags (DSP0274, GET_CAPABILITIES flag definitions)."""

RESPONDER_FLAG_RULES: tuple[FlagRule, ...] = (
    ("KEY_EX or PSK needs ENCRYPT or MAC", lambda f: not f & SESSION_CAPABILITIES or bool(f & (Cap.ENCRYPT | Cap.MAC))),
    ("KEY_EX needs CERT or PUB_KEY_ID", lambda f: not f & Cap.KEY_EX or bool(f & _IDENTITY)),
    ("signed MEAS needs CERT or PUB_KEY_ID", lambda f: not f & Cap.MEAS_SIG or bool(f & _IDENTITY)),
    ("ALIAS_CERT needs CERT", lambda f: not f & Cap.ALIAS_CERT or bool(f & Cap.CERT)),
    ("PUB_KEY_ID goes without KEY_PAIR_INFO", lambda f: not f & Cap.PUB_KEY_ID or not f & _KEY_PAIRS),
    ("CSR needs SET_CERT", lambda f: not f & Cap.CSR or bool(f & Cap.SET_CERT)),
    ("SET_CERT needs CERT", lambda f: not f & Cap.SET_CERT or bool(f & Cap.CERT)),
    ("CERT_INSTALL_RESET needs SET_CERT", lambda f: not f & Cap.CERT_INSTALL_RESET or bool(f & Cap.SET_CERT)),
    ("MULTI_KEY needs GET_KEY_PAIR_INFO", lambda f: not f & _MULTI_KEY or bool(f & Cap.GET_KEY_PAIR_INFO)),
    (
        "SET_KEY_PAIR_RESET needs SET_KEY_PAIR_INFO",
        lambda f: not f & Cap.SET_KEY_PAIR_RESET or bool(f & Cap.SET_KEY_PAIR_INFO),
    ),
    *_COMMON_FLAG_RULES,
)
"""What must hold of a responder's flags (DSP0274, CAPABILITIES flag definitions)."""


def known_flags(flags: Cap, version: int) -> Cap:
    """Clear the flags that `version` does not define."""
    return flags & KNOWN_CAPABILITIES[Version(version)]


def contradiction(flags: Cap, rules: Iterable[FlagRule]) -> str:
    """Name the first of `rules` that `flags` break, or ""."""
    return next((text for text, holds in rules if not holds(flags)), "")


def check_responder_flags(settings: Settings) -> None:
    """Check that a responder's own flags hold together in every version that it offers. Raises `Misuse`."""
    for version in sorted(settings.versions):
        broken = contradiction(known_flags(settings.capabilities, version), RESPONDER_FLAG_RULES)
        if broken:
            raise Misuse(
                f"a responder's capabilities contradict each other in SPDM {Version(version).text}: {broken} (DSP0274 CAPABILITIES)",
                remedy="change the capabilities, or leave that version out",
            )


def problem_of_request(request: GetCapabilities, version: int) -> str:
    """Say what is wrong with a GET_CAPABILITIES, or "" if nothing is."""
    flags = known_flags(request.flags, version)
    broken = contradiction(flags, REQUESTER_FLAG_RULES)
    if broken:
        return broken
    if version == Version.V1_1 and flags & Cap.MUT_AUTH and not flags & Cap.ENCAP:
        return "MUT_AUTH needs ENCAP in 1.1"
    if request.ct_exponent > MAX_CT_EXPONENT:
        return f"CTExponent is at most {MAX_CT_EXPONENT}"
    if version >= Version.V1_2:
        return _size_problem(request.data_transfer_size, request.max_message_size, bool(flags & Cap.CHUNK))
    return ""


def _size_problem(transfer: int, message: int, chunks: bool) -> str:
    if transfer < MIN_DATA_TRANSFER_SIZE:
        return f"DataTransferSize is at least {MIN_DATA_TRANSFER_SIZE}"
    if message < transfer:
        return "MaxSPDMmsgSize is at least DataTransferSize"
    if not chunks and message != transfer:
        return "MaxSPDMmsgSize equals DataTransferSize without CHUNK"
    return ""


def check_capabilities(response: Capabilities, version: int) -> None:
    """Check a CAPABILITIES response. Raises `PeerViolation`."""
    clause = "DSP0274 CAPABILITIES"
    if version >= Version.V1_2:
        problem = _size_problem(response.data_transfer_size, response.max_message_size, chunks=True)
        if problem:
            raise PeerViolation(problem, clause)
    broken = contradiction(known_flags(response.flags, version), RESPONDER_FLAG_RULES)
    if broken:
        raise PeerViolation(f"the responder's flags contradict each other: {broken}", clause)


def _first(preferred: Iterable[F], offered: int) -> int:
    return next((int(choice) for choice in preferred if choice & offered), 0)


def _union(choices: Iterable[F]) -> int:
    total = 0
    for choice in choices:
        total |= int(choice)
    return total


def offer(settings: Settings, version: int, responder: Cap = NO_FLAGS) -> NegotiateAlgorithms:
    """Build the request that offers `settings`; what `version` does not define is left out.

    `responder` are the flags of CAPABILITIES: they decide what is asked about measurement logs and several keys.
    """
    settings = defined_in(settings, version)
    later = version >= Version.V1_4
    mutual = settings.capabilities & Cap.MUT_AUTH
    offered = {
        AlgType.DHE: _union(settings.dhe),
        AlgType.AEAD: _union(settings.aead),
        AlgType.REQ_BASE_ASYM: _union(settings.req_base_asym) if mutual else 0,
        AlgType.KEY_SCHEDULE: int(KeySchedule.SPDM),
        AlgType.REQ_PQC_ASYM: _union(settings.req_pqc_asym) if later and mutual else 0,
        AlgType.KEM: _union(settings.kem) if later else 0,
    }
    tables = tuple(AlgorithmTable(alg_type=kind, supported=bits) for kind, bits in offered.items() if bits)
    several_keys = responder & Cap.MULTI_KEY_ONLY or (responder & Cap.MULTI_KEY_NEG and settings.multi_key)
    return NegotiateAlgorithms(
        responder_multi_key=int(bool(several_keys)),
        mel_specification=int(MeasurementSpecification.DMTF) if responder & Cap.MEL else 0,
        measurement_specification=MeasurementSpecification.DMTF,
        opaque_formats=OpaqueDataFormat.OPAQUE_DATA_FORMAT_1,
        base_asym=BaseAsym(_union(settings.base_asym)),
        base_hash=BaseHash(_union(settings.base_hash)),
        pqc_asym=PqcAsym(_union(settings.pqc_asym) if later else 0),
        tables=tables if version >= Version.V1_1 and settings.capabilities & SESSION_CAPABILITIES else (),
    )


def problem_of_multi_key(request: NegotiateAlgorithms, responder: Cap) -> str:
    """Say what is wrong with ResponderMultiKeyConn, or "" (DSP0274 1.3 NEGOTIATE_ALGORITHMS)."""
    if request.responder_multi_key and not responder & (Cap.MULTI_KEY_ONLY | Cap.MULTI_KEY_NEG):
        return "ResponderMultiKeyConn without MULTI_KEY_CAP"
    if not request.responder_multi_key and responder & Cap.MULTI_KEY_ONLY:
        return "this responder takes multi-key connections only"
    return ""


def problem_of_offer(request: NegotiateAlgorithms, version: int) -> str:
    """Say what is wrong with a NEGOTIATE_ALGORITHMS, or ""."""
    types = [int(table.alg_type) for table in request.tables]
    highest = AlgType.KEM if version >= Version.V1_4 else AlgType.KEY_SCHEDULE
    if types != sorted(set(types)):
        return "algorithm tables come in strictly increasing AlgType"
    if any(not AlgType.DHE <= kind <= highest for kind in types):
        return f"AlgType is {AlgType.DHE.value} to {highest.value} in this version"
    if any(table.counts >> 4 != 2 or not table.supported for table in request.tables):
        return "an algorithm table has two fixed bytes and at least one bit set"
    if len(request.ext_asym) + len(request.ext_hash) + sum(len(t.extended) for t in request.tables) > 20:
        return "at most 20 external algorithms"
    return ""


def select(settings: Settings, connection: Connection, request: NegotiateAlgorithms) -> Algorithms:
    """Select our best of the offer; a kind without a common algorithm stays 0.

    Of a traditional and a post-quantum algorithm for the same purpose only one is selected: the traditional one, if there is one
    in common (as the DMTF reference prefers unless told otherwise).
    """
    settings = defined_in(settings, connection.version)
    mutual = connection.common_capabilities & Cap.MUT_AUTH
    preferences: dict[int, tuple[IntFlag, ...]] = {
        AlgType.DHE: settings.dhe,
        AlgType.AEAD: settings.aead,
        AlgType.REQ_BASE_ASYM: settings.req_base_asym if mutual else (),
        AlgType.KEY_SCHEDULE: (KeySchedule.SPDM,),
        AlgType.REQ_PQC_ASYM: settings.req_pqc_asym if mutual else (),
        AlgType.KEM: settings.kem,
    }
    chosen = {int(t.alg_type): _first(preferences.get(int(t.alg_type), ()), t.supported) for t in request.tables}
    if chosen.get(AlgType.DHE):
        chosen[AlgType.KEM] = 0
    if chosen.get(AlgType.REQ_BASE_ASYM):
        chosen[AlgType.REQ_PQC_ASYM] = 0
    base_asym = _first(settings.base_asym, request.base_asym)
    pqc_asym = 0 if base_asym else _first(settings.pqc_asym, request.pqc_asym)
    measures = connection.responder_capabilities & MEAS_CAPABILITIES
    specification = request.measurement_specification & MeasurementSpecification.DMTF if measures else 0
    logs = connection.responder_capabilities & Cap.MEL
    return Algorithms(
        requester_multi_key=int(bool(connection.requester_capabilities & Cap.MULTI_KEY_ONLY)),
        mel_specification=request.mel_specification & MeasurementSpecification.DMTF if logs else 0,
        measurement_specification=MeasurementSpecification(specification),
        opaque_format=request.opaque_formats & OpaqueDataFormat.OPAQUE_DATA_FORMAT_1,
        measurement_hash=settings.measurement_hash[0] if specification else MeasurementHash(0),
        base_asym=BaseAsym(base_asym),
        base_hash=BaseHash(_first(settings.base_hash, request.base_hash)),
        pqc_asym=PqcAsym(pqc_asym),
        tables=tuple(
            AlgorithmTable(alg_type=table.alg_type, supported=chosen[int(table.alg_type)]) for table in request.tables
        ),
    )


def missing(connection: Connection, answer: Algorithms) -> str:
    """Name a kind that the negotiated capabilities need and that the selection lacks, or ""."""
    common = connection.common_capabilities
    needs_hash = connection.responder_capabilities & (Cap.CERT | _SIGNING) or common & SESSION_CAPABILITIES
    if needs_hash and not answer.base_hash:
        return "base hash"
    signs = connection.responder_capabilities & (Cap.CHAL | Cap.MEAS_SIG | Cap.KEY_EX)
    if signs and not (answer.base_asym or answer.pqc_asym):
        return "signature algorithm"
    groups = selected(answer.tables, AlgType.DHE) or selected(answer.tables, AlgType.KEM)
    if common & Cap.KEY_EX and not groups:
        return "DHE group or KEM"
    if common & SESSION_CAPABILITIES and not common & (Cap.ENCRYPT | Cap.MAC):
        return "record protection"
    if common & SESSION_CAPABILITIES and not selected(answer.tables, AlgType.AEAD):
        return "AEAD suite"
    return ""


def check_selection(request: NegotiateAlgorithms, answer: Algorithms) -> None:
    """Check that an ALGORITHMS selects one of each from the offer. Raises `PeerViolation`."""
    clause = "DSP0274 ALGORITHMS"
    pairs = [
        ("BaseAsymSel", int(answer.base_asym), int(request.base_asym)),
        ("BaseHashSel", int(answer.base_hash), int(request.base_hash)),
        ("PqcAsymSel", int(answer.pqc_asym), int(request.pqc_asym)),
        ("OpaqueDataFormat", int(answer.opaque_format), int(request.opaque_formats)),
        ("MELspecificationSel", answer.mel_specification, request.mel_specification),
        ("MeasurementSpecificationSel", int(answer.measurement_specification), int(request.measurement_specification)),
    ]
    if [t.alg_type for t in answer.tables] != [t.alg_type for t in request.tables]:
        raise PeerViolation("the algorithm tables are not those of the request", clause)
    pairs += [
        (f"AlgType {int(mine.alg_type)}", mine.supported, offered.supported)
        for mine, offered in zip(answer.tables, request.tables, strict=True)
    ]
    for name, chosen, offered in pairs:
        if chosen & ~offered or chosen.bit_count() > 1:
            raise PeerViolation(f"{name} {chosen:#x} is not one bit of the offer {offered:#x}", clause)
    if answer.base_asym and answer.pqc_asym:
        raise PeerViolation("BaseAsymSel and PqcAsymSel are both set", clause)
    if selected(answer.tables, AlgType.DHE) and selected(answer.tables, AlgType.KEM):
        raise PeerViolation("a DHE group and a KEM are both selected", clause)
    if selected(answer.tables, AlgType.REQ_BASE_ASYM) and selected(answer.tables, AlgType.REQ_PQC_ASYM):
        raise PeerViolation("a traditional and a post-quantum algorithm are both selected for the requester", clause)
    if int(answer.measurement_hash).bit_count() > 1:
        raise PeerViolation("MeasurementHashAlgo has more than one bit", clause)


def chosen(answer: Algorithms) -> dict[str, object]:
    """Give the fields of a `Connection` that an ALGORITHMS fixes."""
    return {
        "mel_specification": answer.mel_specification,
        "requester_multi_key": bool(answer.requester_multi_key),
        "base_hash": answer.base_hash,
        "base_asym": answer.base_asym,
        "pqc_asym": answer.pqc_asym,
        "req_base_asym": BaseAsym(selected(answer.tables, AlgType.REQ_BASE_ASYM)),
        "req_pqc_asym": PqcAsym(selected(answer.tables, AlgType.REQ_PQC_ASYM)),
        "kem": Kem(selected(answer.tables, AlgType.KEM)),
        "dhe": Dhe(selected(answer.tables, AlgType.DHE)),
        "aead": Aead(selected(answer.tables, AlgType.AEAD)),
        "measurement_hash": answer.measurement_hash,
        "opaque_format": answer.opaque_format,
    }
