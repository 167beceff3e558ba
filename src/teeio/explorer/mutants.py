"""Checks as the exploration takes them out: what stands in the place of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from teeio.abi import memory_seamcalls as m
from teeio.abi.operands import AUTHORITY, PAGE_SIZE, Actor, DevifOperation, DmarLevel, DmarState, InvalidationState
from teeio.device.tdi import Tdi
from teeio.errors import DecodeError
from teeio.host import secure_ept
from teeio.host.dmar_tables import DmarEntry, PasidEntry, state_of
from teeio.host.iommu import Iommu
from teeio.host.iommu_faults import FaultReason
from teeio.host.memory import OwnerId, PhysicalMemory
from teeio.host.mmio_metadata import MmioEntry, MmioMetadata
from teeio.host.root_complex import Ingress
from teeio.host.tdx import interface_calls
from teeio.host.tdx.dma_mmio_calls import DmaMmioCalls
from teeio.host.tdx.guest_calls import GuestCalls
from teeio.host.tdx.interface import Devif, Request
from teeio.host.tdx.peer_guest_calls import PeerGuestCalls
from teeio.host.tdx.records import IdeStream, Records
from teeio.host.tdx.trusted_tables import DmarMove, TrustedTables, _next
from teeio.host.trusted_remapping import TrustedRemapping
from teeio.pcie.ide_key import MAC_SIZE
from teeio.pcie.ide_port import IdePort, Received
from teeio.pcie.ide_tlp import PREFIX_SIZE, T_FLAG
from teeio.pcie.tlp import Tlp
from teeio.scenarios.scenario import Mutant, Removed, nothing, without
from teeio.spdm.responder import Responder
from teeio.tdisp.tlp_rules import Sending

# -- the TSM ------------------------------------------------------------------------------------------------------------


def _asked_under_any_lock(self: Devif, operation: DevifOperation) -> Request | None:
    return self.request if self.request is not None and self.request.operation is operation else None


_ANYBODY_STARTS = MappingProxyType({**AUTHORITY, DevifOperation.START: frozenset({Actor.VMM, Actor.TVM})})

START_AUTHORITY = without("the TSM's rule that the TVM allows the start", interface_calls, "AUTHORITY", _ANYBODY_STARTS)
LOCK_BINDING = Mutant(
    "the TSM's two comparisons of bind session ids",
    (Removed(Devif, "check_bind_session", nothing), Removed(Devif, "asked_for", _asked_under_any_lock)),
)
OWN_INTERFACE = without(
    "the TSM's look at whose an interface is that a TVM names",
    PeerGuestCalls,
    "_devif",
    lambda self, function_id: self.records.devif(function_id),
)
NEW_KEYS = without("the TSM's demand for new keys between two users", IdeStream, "check_flushed", nothing)
TRACKING = without("the demand to track TLBs and IOMMUs first", secure_ept, "NEEDS_TRACKING", frozenset[Any]())
IOMMU_TRACKING = without(
    "the demand that IOMMUs have forgotten what was blocked",
    secure_ept.SecureEpt,
    "_is_tracked",
    lambda self, leaf: self.epoch > leaf.blocked_in,
)
LATE_ANSWERS = without(
    "the TSM's look, when an answer has come, at whether the lock that it is about still holds",
    interface_calls,
    "_expect_unchanged",
    nothing,
)
BLOCKED_STREAM = without("the TSM's look at whether a stream is blocked", IdeStream, "check_not_blocked", nothing)
SESSION_END = without(
    "the TSM's rule that streams end with their session",
    Records,
    "session_ended",
    lambda _, context, cause: context.agent.forget_session(cause),
)
MMIO_REPORT = without("the comparison of MMIO with the report", GuestCalls, "_check_mapping", nothing)

_map_mmio = vars(DmaMmioCalls)["tdh_mmio_map"]


def _mapped_for_anybody(self: DmaMmioCalls, call: m.TdhMmioMap, /) -> Any:
    """Take the interface meanwhile for that of the TVM for which the VMM maps."""
    entry = self.records.mmio.entry(call.mmio)
    devif, tvm = self.records.devifs.get(entry.function_id) if entry else None, self.records.tvms.get(call.tdr)
    if devif is None or tvm is None:
        return _map_mmio(self, call)
    own, devif.tvm = devif.tvm, tvm
    try:
        return _map_mmio(self, call)
    finally:
        devif.tvm = own


def _set_anyway(self: MmioMetadata, mmio: int, count: int, function_id: int) -> None:
    for page in self._covered(mmio, count * PAGE_SIZE):
        if function_id:
            self._pages[page] = MmioEntry(function_id, page in self._pages)
        else:
            self._pages.pop(page, None)


MMIO_OWNER = without("the look at whose MMIO is that is mapped", DmaMmioCalls, "tdh_mmio_map", _mapped_for_anybody)
MMIO_METADATA = without("the rule that mapped MMIO keeps its interface", MmioMetadata, "set", _set_anyway)

# -- the IOMMU and its tables --------------------------------------------------------------------------------------------


def _unscrubbed(self: PhysicalMemory, hpa: int, size: int, old: OwnerId, new: OwnerId) -> None:
    first, end = hpa // PAGE_SIZE, (hpa + size) // PAGE_SIZE
    self._owners[first:end] = bytes([new]) * (end - first)


_fetch = TrustedRemapping._fetch


def _pending_counts(self: TrustedRemapping, level: DmarLevel, table: int, requester_id: int) -> DmarEntry | FaultReason:
    found = _fetch(self, level, table, requester_id)
    if level is not DmarLevel.PASID or isinstance(found, PasidEntry):
        return found
    entry = PasidEntry.decode(self._memory.read(table, 64))
    return entry if entry.pending else found


_remove = TrustedTables.remove


def _removed_at_once(self: TrustedTables, level: DmarLevel, requester_id: int) -> tuple[int, ...]:
    found = self._tree.need(level, requester_id)
    if state_of(found.entry) is DmarState.BLOCKED:
        self._tree.put(found, DmarState.BLOCKED, InvalidationState.DONE)
    return _remove(self, level, requester_id)


def _devif_for_anybody(self: DmaMmioCalls, call: m.TdhDmarAdd) -> Devif:
    return replace(self.records.devif(call.function_id), tvm=self.records.tvm(call.tdr))


def _accepted_anyway(self: TrustedTables, requester_id: int, tdr: int) -> None:
    found = self._tree.need(DmarLevel.PASID, requester_id)
    self._tree.put(found, _next(DmarLevel.PASID, found.entry, DmarMove.ACCEPT))


def _not_looked_at(
    self: Iommu, requester_id: int, page: int, write: bool, t_bit: bool, pasid: int | None = None
) -> Any:
    if t_bit:
        return self.trusted.translate(requester_id, page, pasid)
    return self.legacy.translate(requester_id, page, write, pasid)


SCRUBBING = without("scrubbing of pages", PhysicalMemory, "_move", _unscrubbed)
DMA_PENDING = without(
    "the rule that an entry counts once the TVM has accepted it", TrustedRemapping, "_fetch", _pending_counts
)
DMA_INVALIDATION = without(
    "the demand to invalidate an entry before it is removed", TrustedTables, "remove", _removed_at_once
)
DMA_OWNER = Mutant(
    "the looks at whose TVM an entry leads to, on adding and on acceptance",
    (
        Removed(DmaMmioCalls, "_devif_behind", _devif_for_anybody),
        Removed(TrustedTables, "accept", _accepted_anyway),
    ),
)
PRIVATE_PAGES = without("the IOMMU's look at who owns a page", Iommu, "_translate_page", _not_looked_at)

# -- the device ----------------------------------------------------------------------------------------------------------

HEARTBEAT = without("the device's rule that a silent session ends", Responder, "expire", nothing)
SENDING = without("the device's rules on what a TDI may send", Tdi, "sending", lambda *_: Sending.TRUSTED)

# -- the link ------------------------------------------------------------------------------------------------------------

_receive = IdePort._receive


def _believed(self: IdePort, frame: bytes, stream_id: int) -> Iterator[Received]:
    if self.owns(stream_id):
        yield from _receive(self, frame, stream_id)
        return
    try:
        yield Received(Tlp.decode(frame[PREFIX_SIZE:-MAC_SIZE]), bool(frame[3] & T_FLAG))
    except DecodeError:
        return


_transmit_unit = IdePort.transmit_unit


def _sent_anyway(self: IdePort, tlps: Any, t_bit: bool = False, stream_id: int | None = None) -> bool:
    bound = self._select(tlps[0], t_bit) if stream_id is None else self._named(stream_id)
    if bound is None or bound.stream.secure:
        return _transmit_unit(self, tlps, t_bit, stream_id)
    for tlp in tlps:
        self.transmit_plain(tlp)
    return True


TRUSTED_STREAM = Mutant(
    "the port's and the root complex's looks at the stream of a T=1 request",
    (Removed(IdePort, "_receive", _believed), Removed(Ingress, "_trustworthy", lambda *_: True)),
)
REQUESTER_IDS = without("the port's look at the Requester IDs of a stream", IdePort, "_admits", lambda *_: True)
INSECURE = without("the rule that an Insecure stream carries nothing", IdePort, "transmit_unit", _sent_anyway)
