"""A TDI with a device model of plain attributes behind it, and ways to bring it into every state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from teeio.crypto.entropy import SeededEntropy
from teeio.observe import Event as Observed
from teeio.tdisp.backend import StreamStatus
from teeio.tdisp.interface import Interface, InterfacePolicy
from teeio.tdisp.messages import (
    DeviceInterfaceReport,
    InterfaceInfo,
    InterfaceState,
    LockFlags,
    LockParameters,
    MessageType,
    MmioRange,
    RangeAttributes,
)
from teeio.tdisp.responder import DsmCapabilities, TdispResponder
from teeio.tdisp.states import Event

SESSION = 0x11
FUNCTION = 0xBEEF


@dataclass
class PlainDevice:
    """An `InterfaceBackend` whose answers a test sets."""

    ide_required: bool = True
    streams: dict[int, StreamStatus] = field(
        default_factory=lambda: {
            0: StreamStatus(0, default=True, keys_set=True, key_session=SESSION, secure=True),
            5: StreamStatus(5, keys_set=True, key_session=SESSION, secure=True),
        }
    )
    default_streams: int = 1
    problem: str | None = None
    ranges: tuple[MmioRange, ...] = (
        MmioRange(first_page=0x100, pages=4, range_id=0),
        MmioRange(first_page=0x104, pages=2, attributes=RangeAttributes.IS_MEM_ATTR_UPDATABLE, range_id=0),
        MmioRange(first_page=0x200, pages=1, attributes=RangeAttributes.IS_NON_TEE_MEM, range_id=2),
    )
    device_specific: bytes = b"model"
    calls: list[str] = field(default_factory=list)

    def stream_status(self, stream_id: int) -> StreamStatus | None:
        return self.streams.get(stream_id)

    def default_stream_count(self) -> int:
        return self.default_streams

    def lock_problem(self, parameters: LockParameters) -> str | None:
        return self.problem

    def report(self, parameters: LockParameters) -> DeviceInterfaceReport:
        info = InterfaceInfo.DMA_WITHOUT_PASID | InterfaceInfo.ATS_ENABLED
        return DeviceInterfaceReport(info=info, ranges=self.ranges, device_specific=self.device_specific)

    def arm(self, parameters: LockParameters) -> None:
        self.calls.append("arm")

    def quiesce(self) -> None:
        self.calls.append("quiesce")

    def scrub(self) -> None:
        self.calls.append("scrub")


@dataclass
class Rig:
    """One interface, its device, its responder, and what was observed."""

    device: PlainDevice
    interface: Interface
    responder: TdispResponder
    seen: list[Observed]
    nonce: bytes = b""

    parameters = LockParameters(flags=LockFlags.BIND_P2P, mmio_reporting_offset=0xD000_0000)

    def bring_to(self, state: InterfaceState) -> None:
        """Walk the interface from CONFIG_UNLOCKED to `state`."""
        if state is not InterfaceState.CONFIG_UNLOCKED:
            self.nonce = self.interface.lock(SESSION, self.parameters, SeededEntropy(b"rig"))
        if state is InterfaceState.RUN:
            self.interface.start(SESSION, self.nonce)
        if state is InterfaceState.ERROR:
            self.interface.happen(Event.CONFIG_CHANGED)
        assert self.interface.state is state


OPTIONAL = frozenset(
    {
        MessageType.BIND_P2P_STREAM_REQUEST,
        MessageType.UNBIND_P2P_STREAM_REQUEST,
        MessageType.SET_MMIO_ATTRIBUTE_REQUEST,
    }
)


@pytest.fixture(scope="session")
def make_rig() -> Callable[..., Rig]:
    """Give the function that makes a fresh rig; its arguments are those of `PlainDevice`."""

    def make(policy: InterfacePolicy | None = None, **device_options: object) -> Rig:
        seen: list[Observed] = []
        device = PlainDevice(**device_options)  # type: ignore[arg-type]
        interface = Interface("TDI 0", device, lock_flags=LockFlags.defined(), policy=policy, observer=seen.append)
        responder = TdispResponder(
            {FUNCTION: interface},
            SeededEntropy(b"dsm"),
            capabilities=DsmCapabilities(optional=OPTIONAL, portion_limit=40),
            observer=seen.append,
        )
        return Rig(device, interface, responder, seen)

    return make


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    """Give a fresh rig."""
    return make_rig()
