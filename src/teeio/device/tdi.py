"""One TEE Device Interface: the device side of its state machine (PCIe Base 11.2, 11.3.8 to 11.3.16, 11.4).

It answers what TDISP asks of the device, from real registers; tells the state machine of changes to what is locked, by
the class that each register field declares; and judges TLPs by the tables of `tdisp.tlp_rules`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

from teeio.device.function import Function
from teeio.observe import Observer, ignore
from teeio.pcie.address import AddressRange
from teeio.pcie.capabilities.ats import AtsCapability
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.pcie.capabilities.ide import IdeCapability, StreamBlock
from teeio.pcie.capabilities.sriov import SriovCapability
from teeio.pcie.ide_port import IdePort
from teeio.pcie.registers import Register, disturbs
from teeio.tdisp.backend import StreamStatus
from teeio.tdisp.interface import Interface, InterfacePolicy
from teeio.tdisp.messages import (
    PAGE_SIZE,
    DeviceInterfaceReport,
    InterfaceInfo,
    InterfaceState,
    LockFlags,
    LockParameters,
    MmioRange,
    RangeAttributes,
)
from teeio.tdisp.states import Event
from teeio.tdisp.tlp_rules import (
    Access,
    Handling,
    RequesterTlp,
    Sending,
    Target,
    completer_rule,
    requester_rule,
    target_of,
)

_MSIX = RangeAttributes.MSIX_TABLE | RangeAttributes.MSIX_PBA


class Tdi:
    """The interface of one function.

    `neighbours` gives where the BARs of all other functions lie. `key_session` gives the SPDM session that owns the
    port's keys.
    """

    def __init__(
        self,
        name: str,
        function: Function,
        port: IdePort,
        streams: IdeCapability,
        *,
        neighbours: Callable[[], list[AddressRange]],
        key_session: Callable[[], int | None],
        lock_flags: LockFlags = LockFlags.NO_FW_UPDATE,
        policy: InterfacePolicy | None = None,
        observer: Observer = ignore,
    ) -> None:
        self.function = function
        self._port = port
        self._streams = streams
        self._neighbours = neighbours
        self._key_session = key_session
        self._locked_at: dict[int, AddressRange] = {}
        self._block_of = {register: block for block in streams.streams for register in block.registers()}
        self.interface = Interface(name, self, lock_flags=lock_flags, policy=policy, observer=observer)
        self._track()

    @property
    def state(self) -> InterfaceState:
        """The TDI's state."""
        return self.interface.state

    @property
    def msix_locked(self) -> bool:
        """Whether the MSI-X table is locked."""
        parameters = self.interface.parameters
        return parameters is not None and bool(parameters.flags & LockFlags.LOCK_MSIX)

    # -- what TDISP asks (InterfaceBackend)

    @property
    def ide_required(self) -> bool:
        """A device on a link needs IDE."""
        return True

    def stream_status(self, stream_id: int) -> StreamStatus | None:
        """Give the state of a stream from its registers and the port's keys."""
        block = self._port.block(stream_id)
        if block is None or not block.selective:
            return None
        keyed = self._port.keyed(stream_id)
        named = [other for other in self._configured() if other.field("stream_id") == stream_id]
        return StreamStatus(
            stream_id,
            blocks=max(len(named), 1),
            default=bool(block.field("default")),
            traffic_class=block.field("traffic_class"),
            keys_set=keyed,
            # Keys never outlive their session here, so all of them came from the one that owns the port.
            key_session=self._key_session() if keyed else None,
            secure=self._port.is_secure(stream_id),
            overlaps=any(_overlap(block, other) for other in self._configured() if other is not block),
        )

    def _configured(self) -> list[StreamBlock]:
        """List the blocks that somebody has set up; the Stream ID of all others is only a reset value."""
        return [block for block in self._streams.streams if block.field("enable") or block.rid_range() is not None]

    def default_stream_count(self) -> int:
        """Count the register blocks marked as default stream."""
        return sum(block.field("default") for block in self._streams.streams)

    def lock_problem(self, parameters: LockParameters) -> str | None:
        """Say why the configuration cannot be locked, or None (11.3.8)."""
        own = self.function.placed()
        for bar, placed in own.items():
            if placed.start == 0:
                return f"BAR {bar} has no address"
        for (left, one), (right, other) in combinations(own.items(), 2):
            if one.overlaps(other):
                return f"BAR {left} ({one}) overlaps BAR {right} ({other})"
        for other in self._neighbours():
            for bar, placed in own.items():
                if placed.overlaps(other):
                    return f"BAR {bar} ({placed}) overlaps a BAR of another function ({other})"
        if self.function.shared_control.get(ExpressCapability.DEVICE_CONTROL, "phantom_functions"):
            return "phantom functions are enabled"
        if self.function.loses_state():
            return "the function is in a power state without context"
        return self._page_size_problem()

    def _page_size_problem(self) -> str | None:
        owner = self.function if self.function.parent is None else self.function.parent
        if owner.sriov is None:
            return None
        size = owner.sriov.value(SriovCapability.SYSTEM_PAGE_SIZE)
        supported = owner.sriov.value(SriovCapability.SUPPORTED_PAGE_SIZES)
        if size.bit_count() != 1 or not size & supported:
            return f"System Page Size {size:#x} is not one of the supported sizes {supported:#x}"
        # The VF BARs here are multiples of 4 KiB only, so larger pages would hold registers of several VFs.
        return None if size == 1 else f"VF BARs are not aligned to pages of {size * PAGE_SIZE} bytes"

    def report(self, parameters: LockParameters) -> DeviceInterfaceReport:
        """Describe the TDI as it would be locked, from its BARs as they are (11.3.11)."""
        msix = bool(parameters.flags & LockFlags.LOCK_MSIX)
        info = InterfaceInfo.DMA_WITHOUT_PASID
        if parameters.flags & LockFlags.NO_FW_UPDATE:
            info |= InterfaceInfo.NO_FW_UPDATE_WHILE_LOCKED
        ats = self.function.space.find(AtsCapability)
        if ats is not None and ats.enabled:
            info |= InterfaceInfo.ATS_ENABLED
        pages = self.function.page_requests
        if pages is not None and pages.enabled:
            info |= InterfaceInfo.PRS_ENABLED
        placed = self.function.placed()
        ranges = [
            MmioRange(
                first_page=(placed[region.bar].start + region.offset) // PAGE_SIZE,
                pages=region.size // PAGE_SIZE,
                attributes=_reported(region.attributes, msix),
                range_id=region.bar,
            )
            for region in self.function.regions
        ]
        return DeviceInterfaceReport(
            info=info,
            msi_x_message_control=self.function.msix.value(self.function.msix.CONTROL) if msix else 0,
            ranges=tuple(ranges),
            device_specific=self.function.model.describe(),
        )

    def arm(self, parameters: LockParameters) -> None:
        """Note where the BARs lie; changes are tracked as long as the interface is locked."""
        self._locked_at = self.function.placed()

    def covers(self, other: AddressRange) -> bool:
        """Tell whether some of `other` is a locked BAR's."""
        return any(placed.overlaps(other) for placed in self._locked_at.values())

    def quiesce(self) -> None:
        """Abort accepted work, drop interrupts that wait, translations and page requests (11.3.8, 11.3.16).

        Between two of the model's steps no DMA is under way.
        """
        self.function.model.abort()
        self.function.translations.clear()
        self.function.drop_interrupts()

    def scrub(self) -> None:
        """Erase the TVM's data, with what it wrote to a locked MSI-X table."""
        self.function.model.scrub()
        if self.msix_locked:
            self.function.msix.table.reset()
        self._locked_at = {}

    # -- changes of what is locked

    def _track(self) -> None:
        self.function.space.observe_guarded(self._written)
        if self.function.space.find(IdeCapability) is not self._streams:
            self._streams.observe(self._written)
        if self.function.parent is not None:
            self.function.parent.express.observe(self._written)
            self.function.parent.space.need(SriovCapability).observe(self._written)
            if self.function.page_requests is not None:
                self.function.page_requests.observe(self._written)

    def _written(self, register: Register, old: int, new: int) -> None:
        if not self.state.locked:
            return
        block = self._block_of.get(register)
        # Before the write the control register said whose stream it is.
        stream_id = None
        if block is not None:
            stream_id = register.get(old, "stream_id") if register is block.control else block.field("stream_id")
        if disturbs(
            register,
            old,
            new,
            msix_locked=self.msix_locked,
            stream_bound=stream_id in self.interface.bound_streams,
            state_lost=self.function.loses_state(),
        ):
            self.interface.happen(Event.CONFIG_CHANGED)

    def stream_insecure(self, stream_id: int) -> None:
        """Learn that a stream went Insecure."""
        if stream_id in self.interface.bound_streams:
            self.interface.happen(Event.STREAM_INSECURE)

    # -- TLPs

    def access(self, t_bit: bool, stream_id: int | None) -> Access:
        """Say how a request arrived, for the completer table."""
        if not t_bit:
            return Access.UNTRUSTED
        bound = stream_id is not None and stream_id in self.interface.bound_streams
        return Access.TRUSTED_BOUND if bound else Access.TRUSTED_ELSEWHERE

    def handles(self, bar: int, offset: int, size: int, t_bit: bool, stream_id: int | None) -> bool:
        """Tell whether a memory request to the TDI's MMIO is handled; all its pages must allow it (11.2.1)."""
        access = self.access(t_bit, stream_id)
        pages = range(offset // PAGE_SIZE, (offset + max(size, 1) - 1) // PAGE_SIZE + 1)
        lenient = self.interface.policy.non_tee_ignores_state
        rules = (
            completer_rule(self._target(bar, page), access, self.state, non_tee_ignores_state=lenient) for page in pages
        )
        return all(rule is Handling.HANDLE for rule in rules)

    def _target(self, bar: int, page: int) -> Target:
        """Say what kind of MMIO a page of a BAR is, by what was locked: a BAR that moved since keeps its kind."""
        if self.state is InterfaceState.CONFIG_UNLOCKED:
            return self._declared_target(bar, page * PAGE_SIZE)
        locked = self._locked_at.get(bar)
        found = self.interface.range_at(locked.start + page * PAGE_SIZE) if locked else None
        return target_of(found.attributes) if found else Target.TEE

    def _declared_target(self, bar: int, offset: int) -> Target:
        for region in self.function.regions:
            if region.bar == bar and region.offset <= offset < region.offset + region.size:
                return target_of(_reported(region.attributes, False))
        return Target.TEE

    def sending(self, kind: RequesterTlp) -> Sending:
        """Say how the TDI may send a TLP now; an MSI-X message of a locked table is of a kind of its own."""
        if kind is RequesterTlp.MSIX and self.msix_locked:
            kind = RequesterTlp.LOCKED_MSIX
        return requester_rule(kind, self.state)

    def stream_for(self, selected: int | None) -> int | None:
        """Give the stream for a T=1 request: the P2P stream that the associations chose if bound, else the default."""
        parameters = self.interface.parameters
        if selected is not None and selected in self.interface.p2p_streams:
            return selected
        return parameters.default_stream_id if parameters else None


def _reported(attributes: RangeAttributes, msix_locked: bool) -> RangeAttributes:
    """Give the attributes to report: MSI-X pages that are not locked are the host's, so they are non-TEE memory."""
    return RangeAttributes.IS_NON_TEE_MEM if attributes & _MSIX and not msix_locked else attributes


def _overlap(one: StreamBlock, other: StreamBlock) -> bool:
    left, right = one.rid_range() or range(0), other.rid_range() or range(0)
    if max(left.start, right.start) < min(left.stop, right.stop):
        return True
    return any(a.overlaps(b) for a in one.address_ranges() for b in other.address_ranges())
