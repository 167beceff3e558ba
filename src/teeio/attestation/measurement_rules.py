"""Rules on what the device runs: reference values, security version, debug state, DICE identity of the firmware."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from teeio.attestation.device_mode import DEBUGGED, MUST_REPORT, DeviceMode, OperationalMode
from teeio.attestation.reference_values import JUDGED_ELSEWHERE, ReferenceValue
from teeio.attestation.rule import Case, Judgement, Rule, all_of, failed, shown, unchecked
from teeio.crypto.algorithms import MeasurementHash, MeasurementSpecification
from teeio.crypto.certificates import OperationalFlags, load_certificate, tcb_info
from teeio.crypto.certificates.extensions import HASH_OIDS
from teeio.crypto.kdf import digest
from teeio.spdm.messages import MeasurementBlock, MeasurementType

SVN_SIZE = 8
"""Bytes of a security version number, little-endian (DSP0274)."""

_FIRMWARE = (MeasurementType.IMMUTABLE_ROM, MeasurementType.MUTABLE_FIRMWARE)
_UNSAFE = (
    OperationalFlags.NOT_CONFIGURED | OperationalFlags.NOT_SECURE | OperationalFlags.RECOVERY | OperationalFlags.DEBUG
)


def _of_type(case: Case, kind: MeasurementType) -> list[MeasurementBlock]:
    return [block for block in case.record.blocks if block.type == kind]


def _measurement_hash(case: Case) -> Judgement:
    negotiation = case.negotiation
    if negotiation.selection.measurement_specification != MeasurementSpecification.DMTF:
        return failed(f"measurement specification {negotiation.selection.measurement_specification!r} is not DMTF")
    algorithm = negotiation.measurement_hash
    if algorithm not in set(MeasurementHash):
        return failed(f"measurement hash {algorithm!r} is not exactly one algorithm")
    size = _digest_size(algorithm)
    problems = []
    for block in case.record.blocks:
        if block.specification != MeasurementSpecification.DMTF:
            problems.append(f"index {block.index}: measurement specification {block.specification:#x} is not DMTF")
        elif not block.raw and len(block.value) != size:
            problems.append(f"index {block.index}: digest of {len(block.value)} bytes, {algorithm.name} has {size}")
    return all_of(problems, f"every digest is of the negotiated {algorithm.name}")


def _digest_size(algorithm: MeasurementHash) -> int:
    return 0 if algorithm is MeasurementHash.RAW_ONLY else algorithm.base_hash.size


def _reference_values(case: Case) -> Judgement:
    if not case.reference:
        return unchecked("there are no reference values: nothing was compared")
    blocks = {block.index: block for block in case.record.blocks}
    problems, compared = [], 0
    for index in sorted({value.index for value in case.reference.values}):
        wanted = case.reference.at(index)
        block = blocks.get(index)
        if block is None:
            if not all(value.optional for value in wanted):
                problems.append(f"index {index} is missing")
        elif not any(_matches(case, value, block) for value in wanted):
            problems.append(_mismatch(case, block, wanted))
        elif not all(value.any_value for value in wanted):
            compared += 1
    if not problems and not compared:
        return unchecked("no block has a reference value: nothing was compared")
    return all_of(problems, f"{compared} blocks agree with the reference values")


def _matches(case: Case, value: ReferenceValue, block: MeasurementBlock) -> bool:
    if value.type != block.type:
        return False
    if value.any_value:
        return True
    if value.algorithm is None:
        return bool(block.raw) and block.value in value.allowed
    if block.raw:
        oid = _hash_oid(value.algorithm)
        return oid is not None and digest(value.algorithm.base_hash, block.value) in value.allowed
    return value.algorithm == case.negotiation.measurement_hash and block.value in value.allowed


def _mismatch(case: Case, block: MeasurementBlock, wanted: Iterable[ReferenceValue]) -> str:
    algorithm = case.negotiation.measurement_hash
    text = f"index {block.index} ({_type_name(block.type)}) is {shown(block.value)}"
    elsewhere = [value.index for value in case.reference.values if block.value in value.allowed]
    if elsewhere and block.index not in elsewhere:
        return f"{text}, which is right for index {elsewhere[0]}"
    if all(value.type != block.type for value in wanted):
        return f"{text}, but the reference is of another type"
    if not block.raw and all(value.algorithm != algorithm for value in wanted):
        return f"{text} by {algorithm.name}, but the reference is by another algorithm"
    return f"{text}, which no reference value allows"


def _type_name(kind: int) -> str:
    return kind.name if isinstance(kind, MeasurementType) else f"type {kind:#x}"


def _no_unexpected_block(case: Case) -> Judgement:
    if not case.reference:
        return unchecked("there are no reference values to say what is expected")
    known = {value.index for value in case.reference.values}
    problems = [
        f"unexpected index {block.index} ({_type_name(block.type)})"
        for block in case.record.blocks
        if block.index not in known and block.type not in JUDGED_ELSEWHERE
    ]
    return all_of(problems, "every block is expected")


def _no_duplicate_block(case: Case) -> Judgement:
    counts = Counter(block.index for block in case.record.blocks)
    problems = [f"index {index} is given {count} times" for index, count in counts.items() if count > 1]
    return all_of(problems, "every index is given once")


def _minimum_svn(case: Case) -> Judgement:
    minimum = case.reference.minimum_svn
    if minimum is None:
        return unchecked("no minimum security version is set")
    blocks = _of_type(case, MeasurementType.SECURE_VERSION_NUMBER)
    if not blocks:
        return failed(f"the device reports no security version, at least {minimum} is needed")
    problems = []
    for block in blocks:
        if not block.raw or len(block.value) != SVN_SIZE:
            problems.append(f"index {block.index} is no raw {SVN_SIZE}-byte security version number")
        elif (svn := int.from_bytes(block.value, "little")) < minimum:
            problems.append(f"index {block.index}: svn {svn} < {minimum}")
    return all_of(problems, f"the security version is at least {minimum}")


def _device_mode(case: Case) -> Judgement:
    blocks = _of_type(case, MeasurementType.DEVICE_MODE)
    if not blocks:
        return unchecked("the device does not report its mode")
    problems, doubts = [], []
    for block in blocks:
        if not block.raw:
            doubts.append(f"index {block.index} is only a digest of the device mode")
            continue
        mode = DeviceMode.decode(block.value)
        if mode.debug_state & DEBUGGED:
            problems.append(f"debug enabled: {mode.debug_state & DEBUGGED!r}")
        if mode.operational_state & ~OperationalMode.NORMAL:
            problems.append(f"the device runs in {mode.operational_state!r}")
        if mode.debug_capabilities & MUST_REPORT != MUST_REPORT:
            doubts.append("the device cannot report whether it is debugged")
        if not mode.operational_state:
            doubts.append("the device does not say in which mode it runs")
    if not problems and doubts:
        return unchecked("; ".join(doubts))
    return all_of(problems, "the device runs in normal mode and is not debugged")


def _firmware_identity(case: Case) -> Judgement:
    info = tcb_info(load_certificate(case.leaf))
    if info is None or not info.fwids:
        return unchecked("the leaf carries no DICE firmware identity to compare with the measurements")
    problems = [f"the leaf's TcbInfo says {flag.name}" for flag in OperationalFlags if flag & info.flags & _UNSAFE]
    for fwid in info.fwids:
        measured = {
            algorithm
            for block in case.record.blocks
            if block.type in _FIRMWARE and (algorithm := _measured_as(case, block, fwid.digest))
        }
        if fwid.hash_oid not in measured:
            problems.append(f"firmware identity {shown(fwid.digest)} ({fwid.hash_oid}) is not what was measured")
    return all_of(problems, "the firmware identity of the leaf is the measured one")


def _measured_as(case: Case, block: MeasurementBlock, value: bytes) -> str | None:
    """Give the identifier of the hash by which `block` shows `value`, or None if it does not."""
    if not block.raw:
        return _hash_oid(case.negotiation.measurement_hash) if block.value == value else None
    return next((oid for algorithm, oid in HASH_OIDS.items() if digest(algorithm, block.value) == value), None)


def _hash_oid(algorithm: MeasurementHash) -> str | None:
    """Give the identifier of a measurement hash, or None if it is none that is implemented."""
    if algorithm is MeasurementHash.RAW_ONLY or algorithm not in set(MeasurementHash):
        return None
    return HASH_OIDS.get(algorithm.base_hash)


MEASUREMENT_RULES = (
    Rule(
        "measurement-hash",
        "Every digest is of the negotiated measurement hash",
        "a device reports digests of another algorithm",
        "DSP0274 ALGORITHMS: MeasurementHashAlgo",
        _measurement_hash,
    ),
    Rule(
        "reference-values",
        "Every reference value is matched by index, type, algorithm and value",
        "a device runs other firmware, or reports digests under other indexes; an empty reference compares nothing",
        "DSP0274 measurement block; RFC 9334 section 8",
        _reference_values,
    ),
    Rule(
        "no-unexpected-block",
        "No block is there that the reference does not know",
        "a device runs something besides what was reviewed",
        "DSP0274 measurement record",
        _no_unexpected_block,
    ),
    Rule(
        "no-duplicate-block",
        "No index is given twice",
        "a good digest beside a bad one under the same index",
        "DSP0274 measurement record: Index",
        _no_duplicate_block,
    ),
    Rule(
        "minimum-svn",
        "The security version is not below the minimum",
        "a device is rolled back to old firmware that is validly signed",
        "DSP0274 measurement type 7",
        _minimum_svn,
    ),
    Rule(
        "device-mode",
        "The device runs in normal mode and is not debugged",
        "secrets are read through a debug port",
        "DSP0274 device mode field",
        _device_mode,
    ),
    Rule(
        "firmware-identity",
        "The DICE firmware identity of the leaf is the measured one",
        "a key certified for other firmware signs for this one",
        "DICE Attestation Architecture section 6.1.1",
        _firmware_identity,
    ),
)
