"""Evidence on a device interface as a TVM collects it, and what its bytes say when read.

The VMM carries the bytes, so nothing in them counts before the rules have judged it; what the TSM states comes through
a call that the VMM cannot touch. Version, algorithms and measurement blocks are not fields of their own: they are read
out of the signed bytes, so they cannot disagree with what was signed. Follows DSP0274 (VCA, GET_MEASUREMENTS, L1).
Leaves out how the bytes were fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from teeio.crypto.algorithms import Aead, BaseAsym, BaseHash, Dhe, MeasurementHash
from teeio.crypto.certificates.extensions import HASH_OIDS
from teeio.errors import DecodeError, Incompatible
from teeio.spdm.constants import Version
from teeio.spdm.messages import (
    Algorithms,
    AlgType,
    Capabilities,
    Facts,
    GetCapabilities,
    GetMeasurements,
    GetVersion,
    MeasurementBlock,
    Measurements,
    Message,
    NegotiateAlgorithms,
    VersionResponse,
    selected,
)

M = TypeVar("M", bound=Message)

STATEMENT_HASH = BaseHash.SHA_384
"""The hash of every digest in a `TsmStatement`."""


@dataclass(frozen=True, slots=True)
class TsmStatement:
    """What the TSM itself says of the interface, over a call that the VMM does not carry.

    `state` and `lock_flags` are TDISP values, `bind_session_id` names the lock that now holds (0 outside a lock). The
    digests are SHA-384 of the exact evidence bytes that the TSM handed out, and of the SubjectPublicKeyInfo of the
    device key of its SPDM session; empty where the TSM gives none.
    """

    state: int
    bind_session_id: int
    lock_flags: int
    mmio_reporting_offset: int = 0
    public_key_hash: bytes = b""
    certificate_chain_digest: bytes = b""
    vca_digest: bytes = b""
    measurements_digest: bytes = b""
    report_digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is judged before a device interface is accepted.

    `certificate_chain` is the SPDM structure, `slot` where it was read, `vca` the six negotiation messages,
    `measurements` what `measurement_object` makes, `report` the TDI report, `nonce` the value that the verifier chose.
    `bind_session_id` names the lock under which all of it was collected.
    """

    certificate_chain: bytes
    slot: int
    vca: bytes
    measurements: bytes
    report: bytes
    nonce: bytes
    bind_session_id: int
    statement: TsmStatement


def measurement_object(transcript: bytes, vca: bytes, signature: bytes, version: int) -> bytes:
    """Make `Evidence.measurements`: the exchanges of L1 without the VCA before them, then the signature."""
    return (transcript.removeprefix(vca) if version >= Version.V1_2 else transcript) + signature


@dataclass(frozen=True, slots=True)
class Negotiation:
    """What the VCA messages say: the version in use, what the requester offered, what the responder selected."""

    version: int
    responder_versions: tuple[int, ...]
    offer: NegotiateAlgorithms
    selection: Algorithms

    @property
    def base_hash(self) -> BaseHash:
        """BaseHashSel."""
        return self.selection.base_hash

    @property
    def base_asym(self) -> BaseAsym:
        """BaseAsymSel."""
        return self.selection.base_asym

    @property
    def measurement_hash(self) -> MeasurementHash:
        """MeasurementHashAlgo."""
        return self.selection.measurement_hash

    @property
    def dhe(self) -> Dhe:
        """The selected DHE group; no bit where none was negotiated."""
        return Dhe(selected(self.selection.tables, AlgType.DHE))

    @property
    def aead(self) -> Aead:
        """The selected AEAD suite; no bit where none was negotiated."""
        return Aead(selected(self.selection.tables, AlgType.AEAD))


def parse_vca(vca: bytes) -> Negotiation:
    """Read the six VCA messages, which must fill `vca` exactly.

    Raises `DecodeError`, or `Incompatible` for algorithms without an implementation. A CAPABILITIES with a block of
    supported algorithms (1.3) has no length of its own and does not parse.
    """
    reader = _Reader("VCA", vca)
    first = Facts(version=Version.V1_0)
    reader.take(GetVersion, first)
    versions = reader.take(VersionResponse, first)
    facts = Facts(version=reader.version())
    reader.take(GetCapabilities, facts)
    reader.take(Capabilities, facts)
    offer = reader.take(NegotiateAlgorithms, facts)
    selection = reader.take(Algorithms, facts)
    reader.end()
    if selection.base_hash not in HASH_OIDS or selection.base_asym not in set(BaseAsym):
        raise Incompatible(
            f"the connection uses {selection.base_hash!r} and {selection.base_asym!r}, not both are implemented",
            remedy="negotiate one SHA-2 or SHA-3 hash and one ECDSA signature algorithm",
        )
    return Negotiation(facts.version, versions.versions, offer, selection)


@dataclass(frozen=True, slots=True)
class MeasurementRecord:
    """The exchanges of L1: all blocks in the order in which they came, and the signed exchange at the end."""

    request: GetMeasurements
    response: Measurements
    blocks: tuple[MeasurementBlock, ...]
    transcript: bytes
    signature: bytes


def parse_measurements(measurements: bytes, vca: bytes, negotiation: Negotiation) -> MeasurementRecord:
    """Read what `measurement_object` made; the last exchange must be the one that is signed. Raises `DecodeError`."""
    signature_size = negotiation.base_asym.signature_size
    facts = Facts(version=negotiation.version, hash_size=negotiation.base_hash.size, signature_size=signature_size)
    reader = _Reader("Measurements", measurements)
    blocks: list[MeasurementBlock] = []
    while True:
        request = reader.take(GetMeasurements, facts)
        response = reader.take(Measurements, facts.answering(request))
        blocks += response.blocks()
        if request.signature_requested:
            break
    reader.end()
    transcript = measurements[: len(measurements) - signature_size]
    if negotiation.version >= Version.V1_2:
        transcript = vca + transcript
    return MeasurementRecord(request, response, tuple(blocks), transcript, response.signature)


class _Reader:
    """Reads messages that follow one another without a length between them."""

    def __init__(self, name: str, data: bytes) -> None:
        self._name = name
        self._data = data
        self._at = 0

    def take(self, kind: type[M], facts: Facts) -> M:
        """Read one message of `kind`."""
        if self._at == len(self._data):
            raise DecodeError(self._name, kind.NAME, self._at, "the bytes end before this message")
        message, used = kind.decode_prefix(self._data[self._at :], facts)
        self._at += used
        return message

    def version(self) -> Version:
        """Look at the version byte of the next message."""
        found = self._data[self._at : self._at + 1]
        if not found or found[0] not in {int(version) for version in Version}:
            raise DecodeError(
                self._name, "SPDMVersion", self._at, f"{found.hex() or 'nothing'} is no version known here"
            )
        return Version(found[0])

    def end(self) -> None:
        """Refuse bytes that are left."""
        if self._at != len(self._data):
            raise DecodeError(self._name, "(end)", self._at, f"{len(self._data) - self._at} trailing bytes")
