"""A device on a link below a root port, with host memory, IDE keys at both ends, and ways to bring a TDI into every state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from teeio.crypto.entropy import SeededEntropy
from teeio.device.configuration import Configuration
from teeio.device.device import Device
from teeio.device.profiles import associate_default_stream, place_bars
from teeio.device.tdi import Tdi
from teeio.ide_km.messages import Direction, KeyProg, KeySet, KeySubStream, KSetGo, Query, key_slots, reverse_dwords
from teeio.observe import Event as Observed
from teeio.observe import StateChanged
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.aer import AerCapability
from teeio.pcie.capabilities.express import ExpressCapability, PortType
from teeio.pcie.capabilities.header import Type1Header
from teeio.pcie.capabilities.ide import IdeCapability, StreamBlock
from teeio.pcie.config_space import ConfigSpace
from teeio.pcie.fabric import Fabric
from teeio.pcie.ide import Direction as PortDirection
from teeio.pcie.ide import KeySet as PortKeySet
from teeio.pcie.ide_port import ProgramResult
from teeio.pcie.ports import RootPort
from teeio.pcie.seams import UNSUPPORTED, Reply
from teeio.pcie.tlp import CompletionStatus, SubStream
from teeio.tdisp.messages import InterfaceState, LockFlags, LockParameters
from teeio.tdisp.states import Event

SESSION = 0x11
STREAM = 5
ROOT = Bdf(0, 0, 1, 0)
PF = Bdf(0, 1, 0, 0)
MMIO, VF_MMIO = 0x10_0000_0000, 0x10_1000_0000
NOW = 1.8e9
SHARED_END = 1 << 19
"""T=0 reaches host memory below this address only."""


@dataclass
class Host:
    """Host memory of 1 MiB that remembers how it was asked; what lies above `SHARED_END` is private."""

    memory: bytearray = field(default_factory=lambda: bytearray(1 << 20))
    asked: list[tuple[int, int, bool, int | None]] = field(default_factory=list)
    meanwhile: Callable[[], None] | None = None

    def _may(self, address: int, size: int, t_bit: bool) -> bool:
        return address + size <= (len(self.memory) if t_bit else SHARED_END)

    def dma_read(self, requester_id: int, address: int, size: int, t_bit: bool, stream_id: int | None = None) -> Reply:
        self.asked.append((requester_id, address, t_bit, stream_id))
        if self.meanwhile is not None:
            self.meanwhile()
        if not self._may(address, size, t_bit):
            return UNSUPPORTED
        return Reply(CompletionStatus.SC, bytes(self.memory[address : address + size]))

    def dma_write(
        self, requester_id: int, address: int, data: bytes, t_bit: bool, stream_id: int | None = None
    ) -> CompletionStatus:
        self.asked.append((requester_id, address, t_bit, stream_id))
        if not self._may(address, len(data), t_bit):
            return CompletionStatus.UR
        self.memory[address : address + len(data)] = data
        return CompletionStatus.SC


class Rig:
    """The whole bench. Keyword arguments are those of `Configuration`."""

    def __init__(self, **options: Any) -> None:
        self.events: list[Observed] = []
        self.host = Host()
        configuration = Configuration(**{"address": PF, "streams": 2, "address_blocks": 1, **options})
        self.device = Device(configuration, SeededEntropy(b"device"), NOW, observer=self.events.append)
        root_config = ConfigSpace(
            Type1Header(0x8086, 1),
            [ExpressCapability(PortType.ROOT_PORT)],
            [AerCapability(), IdeCapability(2, 2)],
        )
        self.root = RootPort(self.host, ROOT, root_config, observer=self.events.append)
        self.fabric = Fabric()
        self.fabric.add(self.root)
        self.link = self.fabric.attach(self.root, self.device.port)
        header = root_config.need(Type1Header)
        header.set(header.BUSES, secondary=1, subordinate=1)
        header.set(header.COMMAND, memory_space=1, bus_master=1)
        header.set(header.PREFETCHABLE_BASE, high=MMIO >> 32)
        header.set(header.PREFETCHABLE_LIMIT, high=MMIO >> 32)
        header.set(header.PREFETCHABLE, base=0, limit=0x3FF)
        place_bars(self.device, MMIO, VF_MMIO)
        self.root_streams = root_config.need(IdeCapability)
        self._keys = SeededEntropy(b"keys")

    # -- IDE

    @property
    def block(self) -> StreamBlock:
        """The device's block of the default stream."""
        return self.device.streams.streams[0]

    def associate(self) -> None:
        associate_default_stream(self.device, STREAM, ROOT)
        block = self.root_streams.streams[0]
        limit, base = block.rid or pytest.fail("no RID association")
        low, high_limit, high_base = block.addresses[0]
        write = self.root_streams.write
        write(limit.offset, 4, limit.put(0, limit=0x01FF))
        write(base.offset, 4, base.put(0, base=0x0100, valid=1))
        write(low.offset, 4, low.put(0, valid=1, base=0, limit=0x3FF))
        write(high_limit.offset, 4, MMIO >> 32)
        write(high_base.offset, 4, MMIO >> 32)
        write(block.control.offset, 4, block.control.put(0, stream_id=STREAM))

    def key(self, session: int = SESSION) -> None:
        """Program fresh keys at both ends and let them go."""
        ide_km = self.device.dsm.ide_km
        assert ide_km.respond(session, Query(port_index=0).encode(), NOW) is not None
        for direction in Direction:
            for slot in key_slots(KeySet.K0, direction):
                key = self._keys(32)
                address = {"stream_id": STREAM, "key_sub_stream": KeySubStream.of(slot), "port_index": 0}
                prog = KeyProg(key_dwords=reverse_dwords(key), **address)
                assert (ide_km.respond(session, prog.encode(), NOW) or b"")[4] == 0
                far = PortDirection(1 - direction)
                at_root = PortKeySet.K0, far, SubStream(slot.sub_stream)
                assert self.root.ide.program(STREAM, *at_root, key, 1) is ProgramResult.OK
                assert ide_km.respond(session, KSetGo(**address).encode(), NOW) is not None
                assert self.root.ide.set_go(STREAM, *at_root)

    def enable(self) -> None:
        for capability in (self.device.streams, self.root_streams):
            control = capability.streams[0].control
            capability.write(control.offset, 4, control.put(capability.value(control), enable=1))

    def protect(self) -> Rig:
        """Set up a Secure default stream."""
        self.associate()
        self.key()
        self.enable()
        assert self.device.port.ide.is_secure(STREAM)
        assert self.root.ide.is_secure(STREAM)
        return self

    # -- TDIs

    @property
    def pf(self) -> Tdi:
        return self.device.tdis[self.device.pfs[0]]

    def vf(self, number: int = 0) -> Tdi:
        return self.device.tdis[self.device.vfs[number]]

    def address(self, tdi: Tdi) -> Bdf:
        return self.device.address_of(tdi.function)

    def lock(self, tdi: Tdi, flags: LockFlags = LockFlags.NO_FW_UPDATE, **parameters: Any) -> bytes:
        wanted = LockParameters(flags=flags, default_stream_id=STREAM, **parameters)
        return tdi.interface.lock(SESSION, wanted, SeededEntropy(b"lock"))

    def bring(self, tdi: Tdi, state: InterfaceState, flags: LockFlags = LockFlags.NO_FW_UPDATE) -> Tdi:
        if state is not InterfaceState.CONFIG_UNLOCKED:
            nonce = self.lock(tdi, flags)
            if state is InterfaceState.RUN:
                tdi.interface.start(SESSION, nonce)
            if state is InterfaceState.ERROR:
                tdi.interface.happen(Event.TRUST_CHANGED)
        assert tdi.state is state
        return tdi

    def bar(self, tdi: Tdi, bar: int) -> int:
        return tdi.function.placed()[bar].start

    def causes(self) -> list[str]:
        """Why TDIs changed state so far."""
        return [e.cause for e in self.events if isinstance(e, StateChanged) and e.subject.startswith("TDI")]


@pytest.fixture
def rig() -> Rig:
    """Give a bench without IDE."""
    return Rig()


@pytest.fixture
def protected() -> Rig:
    """Give a bench with a Secure default stream."""
    return Rig().protect()


@pytest.fixture(scope="session")
def make_rig() -> Callable[..., Rig]:
    """Give the function that makes a bench."""
    return Rig
