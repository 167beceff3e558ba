"""What the module keeps of TVMs, IOMMUs, SPDM contexts and IDE streams, and all of it together.

Handles that callers pass are looked up here; an unknown one is refused. Pages that a caller gives up are the TSM's
until the record that they were given for is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from teeio.abi.operands import PAGE_SIZE, DmarState, FunctionId, StreamOptions
from teeio.abi.statuses import Status
from teeio.crypto.entropy import Entropy
from teeio.errors import Reject
from teeio.host.iommu import Iommu
from teeio.host.key_unit import KeyUnit
from teeio.host.memory import TSM, PhysicalMemory
from teeio.host.mmio_metadata import MmioMetadata
from teeio.host.secure_ept import Leaf, SecureEpt, SeptState, SharedEpt
from teeio.host.tdx.tpa import Agent
from teeio.host.tdx.trusted_tables import TrustedTables
from teeio.ide_km.messages import KeySet
from teeio.observe import Observer, StateChanged, ignore
from teeio.pcie.address import AddressRange
from teeio.pcie.link_rules import CLOSED, LinkRules
from teeio.tdisp.messages import FunctionId as FunctionIdRecord

if TYPE_CHECKING:
    from teeio.host.tdx.interface import Devif
    from teeio.host.tdx.peer_records import PeerRecords
    from teeio.host.trusted_translation import TrustedAgent

MAX_PAGES = 64
"""Most pages that one call gives for the module's own structures; one is needed at least."""

MMIO_STATES = frozenset({SeptState.MMIO_PENDING, SeptState.MMIO_MAPPED, SeptState.MMIO_BLOCKED})
"""States of a leaf that leads to MMIO."""


class TvmPhase(Enum):
    """The life of a TVM."""

    CREATED = "created"
    BUILDING = "parameters set, contents may be added"
    RUNNING = "finalised"
    ENDED = "its key is gone"


@dataclass(slots=True)
class Tvm:
    """One TVM; `shared` is the VMM's table."""

    tdr: int
    sept: SecureEpt
    shared: SharedEpt
    phase: TvmPhase = TvmPhase.CREATED
    tdx_connect: bool = False

    def need(self, phase: TvmPhase) -> None:
        """Refuse a call that belongs to another phase. Raises `Reject`."""
        if self.phase is not phase:
            raise Reject(Status.OP_STATE_INCORRECT, f"the TVM is {self.phase.name}, the call needs {phase.name}")


class StreamPhase(Enum):
    """The life of an IDE stream."""

    CREATED = "registers written, no keys"
    READY = "keys in use"
    STOPPED = "keys erased"
    BLOCKED = "on its way out"


@dataclass(slots=True)
class IdeStream:
    """One stream between a root port and a device; `requesters` and `memory` are the root port's associations."""

    spdm: SpdmContext
    stream_id: int
    requesters: range
    memory: AddressRange
    pages: tuple[int, ...]
    options: StreamOptions = StreamOptions()
    observer: Observer = ignore
    phase: StreamPhase = StreamPhase.CREATED
    key_set: KeySet = KeySet.K0
    changing_over: bool = False
    had_traffic: set[int] = field(default_factory=set)
    """Interfaces, by function id, that had T=1 traffic under the keys in use and were taken from their TVMs since."""
    had_mmio: dict[int, int] = field(default_factory=dict)
    """Pages of MMIO that T=1 requests went to under the keys in use, and the interface whose they were."""

    def changes_over(self) -> None:
        """Note that from now on the ends may use different key sets."""
        self.changing_over = True

    def move(self, phase: StreamPhase, cause: str) -> None:
        """Change phase and tell the observer."""
        old, self.phase = self.phase, phase
        if old is not phase:
            self.observer(StateChanged(f"IDE stream {self.stream_id} of the TSM", old.name, phase.name, cause))

    def check_ready(self) -> None:
        """Refuse what needs a Secure stream. Raises `Reject`."""
        self.check_not_blocked()
        if self.phase is not StreamPhase.READY or not self.spdm.unit.is_secure(self.stream_id):
            raise Reject(Status.IDE_STREAM_NOT_READY, f"IDE stream {self.stream_id} is not Secure at the root port")

    def renewed(self) -> None:
        """Note that the keys are new: what went under the old ones cannot arrive any more."""
        self.had_traffic.clear()
        self.had_mmio.clear()

    def check_pages_flushed(self, function_id: int, mmio: int, size: int) -> None:
        """Refuse MMIO that was another interface's under the same keys: late writes would arrive. Raises `Reject`."""
        pages = range(mmio, mmio + size, PAGE_SIZE) if self.had_mmio else ()
        if any(self.had_mmio.get(page, function_id) != function_id for page in pages):
            raise Reject(
                Status.IDE_STREAM_NEEDS_NEW_KEYS,
                f"MMIO at {mmio:#x} was another interface's under the keys of IDE stream {self.stream_id} "
                "(CVE-2025-9614): TDH.IDE.STREAM.KM REFRESH first",
            )

    def check_flushed(self, function_id: int) -> None:
        """Refuse an interface whose earlier user's Posted TLPs may still be on their way. Raises `Reject`.

        They arrived as the next user's if they arrived after it was bound; with the keys gone they are dropped.
        """
        if function_id in self.had_traffic:
            raise Reject(
                Status.IDE_STREAM_NEEDS_NEW_KEYS,
                f"interface {function_id:#x} had traffic under the keys of IDE stream {self.stream_id} (CVE-2025-9614): "
                "TDH.IDE.STREAM.KM REFRESH first",
            )

    def check_not_blocked(self) -> None:
        """Refuse a blocked stream. Raises `Reject`."""
        if self.phase is StreamPhase.BLOCKED:
            raise Reject(Status.IDE_STREAM_BLOCKED, f"IDE stream {self.stream_id} is blocked")


@dataclass(slots=True)
class SpdmContext:
    """One device behind one root port: its SPDM connection and its streams."""

    spdm_id: int
    iommu_id: int
    function_id: int
    unit: KeyUnit
    agent: Agent
    pages: tuple[int, ...]
    streams: dict[int, IdeStream] = field(default_factory=dict)

    def stream(self, stream_id: int) -> IdeStream:
        """Look a stream up. Raises `Reject`."""
        found = self.streams.get(stream_id)
        if found is None:
            raise Reject(Status.OPERAND_INVALID, f"the device has no IDE stream {stream_id}")
        return found

    @property
    def requesters(self) -> range:
        """The requester ids of the device that its streams to the root port are for."""
        return next((stream.requesters for stream in self.streams.values()), range(0))


def requester_id_of(function_id: FunctionId) -> int:
    """Reduce a FUNCTION_ID to its requester id, so that an interface has one name. Raises `Reject`.

    There is one segment, number 0; reserved bits must be 0.
    """
    if not 0 < function_id < 1 << 32:
        raise Reject(Status.OPERAND_INVALID, f"FUNCTION_ID {function_id:#x} names no function")
    parts = FunctionIdRecord.decode((function_id & 0x01FF_FFFF).to_bytes(4, "little"))
    if function_id >> 25 or parts.segment:
        raise Reject(Status.OPERAND_INVALID, f"FUNCTION_ID {function_id:#x}: segment and reserved bits are not 0")
    return parts.requester_id


@dataclass(slots=True)
class Records:
    """Everything the module knows.

    `iommus`, `units` and `agents` are the platform's: by id, and by root port requester id.
    """

    memory: PhysicalMemory
    iommus: dict[int, Iommu]
    units: dict[int, KeyUnit]
    mmio: MmioMetadata
    not_device_memory: tuple[AddressRange, ...]
    entropy: Entropy
    peers: PeerRecords
    agents: dict[int, TrustedAgent]
    observer: Observer = ignore
    rules: LinkRules = CLOSED
    iommu_pages: dict[int, tuple[int, ...]] = field(default_factory=dict)
    tvms: dict[int, Tvm] = field(default_factory=dict)
    contexts: dict[int, SpdmContext] = field(default_factory=dict)
    devifs: dict[int, Devif] = field(default_factory=dict)
    dmar: dict[int, TrustedTables] = field(init=False)
    """The trusted tables of each IOMMU."""
    last_spdm_id: int = 0
    last_bind_session_id: int = 0

    def __post_init__(self) -> None:
        """Find the registers of each IOMMU."""
        self.dmar = {number: TrustedTables(iommu.trusted, self.memory) for number, iommu in self.iommus.items()}

    # -- pages

    def give(self, pages: tuple[int, ...]) -> None:
        """Take pages from the VMM for the module. All or nothing. Raises `Reject`."""
        if not 0 < len(pages) <= MAX_PAGES:
            raise Reject(Status.OPERAND_INVALID, f"{len(pages)} pages for the module's structures: 1 to {MAX_PAGES}")
        done: list[int] = []
        try:
            for page in pages:
                self.memory.assign(page, TSM)
                done.append(page)
        except Reject:
            self.give_back(tuple(done))
            raise

    def give_back(self, pages: tuple[int, ...]) -> tuple[int, ...]:
        """Return pages to the VMM, scrubbed."""
        for page in pages:
            self.memory.reclaim(page, TSM)
        return pages

    # -- looking things up, all raising `Reject`

    def tvm(self, tdr: int) -> Tvm:
        """Look up a TVM that has not ended."""
        found = self.tvms.get(tdr)
        if found is None or found.phase is TvmPhase.ENDED:
            raise Reject(Status.OPERAND_INVALID, f"{tdr:#x} is the root page of no TVM")
        return found

    def iommu(self, iommu_id: int) -> TrustedTables:
        """Look up the trusted tables of an IOMMU in TDX mode."""
        if iommu_id not in self.iommus:
            raise Reject(Status.OPERAND_INVALID, f"there is no IOMMU {iommu_id} with a TDX mode")
        if iommu_id not in self.iommu_pages:
            raise Reject(Status.IOMMU_NOT_CONFIGURED, f"IOMMU {iommu_id} is not in TDX mode: TDH.IOMMU.SETUP first")
        return self.dmar[iommu_id]

    def context(self, spdm_id: int) -> SpdmContext:
        """Look up an SPDM context."""
        found = self.contexts.get(spdm_id)
        if found is None:
            raise Reject(Status.OPERAND_INVALID, f"there is no SPDM context {spdm_id}")
        return found

    def devif(self, function_id: FunctionId) -> Devif:
        """Look up an interface, whosoever's it is."""
        found = self.devifs.get(requester_id_of(function_id))
        if found is None:
            raise Reject(Status.TDI_NOT_PRESENT, f"no TVM has an interface {function_id:#x}")
        return found

    def devifs_on(self, stream: IdeStream) -> list[Devif]:
        """List the interfaces that use a stream."""
        return [devif for devif in self.devifs.values() if devif.stream is stream]

    def streams(self) -> Iterator[IdeStream]:
        """Yield all streams of all devices."""
        for context in self.contexts.values():
            yield from context.streams.values()

    def dmar_state(self, devif: Devif) -> DmarState:
        """Give the state of an interface's PASID entry."""
        return self.dmar[devif.stream.spdm.iommu_id].state(devif.function_id)

    def mmio_mappings(self, devif: Devif) -> list[Leaf]:
        """List the private mappings of an interface's MMIO, in whatever state."""
        found = []
        for _, leaf in devif.tvm.sept.leaves():
            entry = self.mmio.entry(leaf.hpa) if leaf.state in MMIO_STATES else None
            if entry is not None and entry.function_id == devif.function_id:
                found.append(leaf)
        return found

    # -- what several calls bring about

    def block(self, stream: IdeStream, cause: str) -> None:
        """Let nothing trusted pass on a stream any more; locked interfaces on it are lost."""
        if stream.phase is not StreamPhase.BLOCKED:
            stream.spdm.unit.block(stream.stream_id)
            stream.move(StreamPhase.BLOCKED, cause)
        for devif in self.devifs_on(stream):
            devif.fail(cause)

    def abandon(self, context: SpdmContext) -> None:
        """Drop what is under way with a device. If its answer was still out, the session is out of step and over."""
        had_session = context.agent.session is not None
        context.agent.abandon()
        if had_session and context.agent.session is None:
            self.session_ended(context, "an exchange in the session was abandoned")

    def session_ended(self, context: SpdmContext, cause: str) -> None:
        """Block all streams of a device whose session is over: their keys came over it (PCIe Base 11.4.5)."""
        context.agent.forget_session(cause)
        for stream in context.streams.values():
            self.block(stream, cause)
