"""Two devices below one switch, each with a default stream to the root port and a peer-to-peer stream between the two.

The TSM's part - keys, LOCK with BIND_P2P, BIND_P2P_STREAM - is played on the devices' own responders.
"""

from __future__ import annotations

from collections.abc import Callable

from device.conftest import MMIO, NOW, ROOT, SESSION, Host
from teeio.crypto.entropy import SeededEntropy
from teeio.device.bus import FunctionBus
from teeio.device.configuration import Configuration
from teeio.device.device import Device
from teeio.device.profiles import associate_default_stream, place_bars
from teeio.device.tdi import Tdi
from teeio.ide_km.messages import (
    Direction,
    KeyProg,
    KeySet,
    KeySlot,
    KeySubStream,
    KSetGo,
    Query,
    key_slots,
    reverse_dwords,
)
from teeio.observe import Event as Observed
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.aer import AerCapability
from teeio.pcie.capabilities.ats import AtsCapability
from teeio.pcie.capabilities.express import ExpressCapability, PortType
from teeio.pcie.capabilities.header import Type1Header
from teeio.pcie.capabilities.ide import IdeCapability, StreamBlock, SwitchIdeCapability
from teeio.pcie.config_space import ConfigSpace
from teeio.pcie.ide import Direction as PortDirection
from teeio.pcie.ide import KeySet as PortKeySet
from teeio.pcie.ide_port import IdePort, ProgramResult
from teeio.pcie.link import join
from teeio.pcie.ports import RootPort
from teeio.pcie.switch import Switch
from teeio.pcie.tlp import SubStream
from teeio.pcie.translation import Translation
from teeio.tdisp.messages import InterfaceState, LockFlags, LockParameters

ADDRESSES = (Bdf(0, 3, 0, 0), Bdf(0, 4, 0, 0))
DEFAULTS, P2P = (5, 6), 9
STEP = 0x10_0000_0000
P2P_FLAGS = LockFlags.NO_FW_UPDATE | LockFlags.BIND_P2P


class Peers:
    """The bench; device 0 is A, device 1 is B."""

    def __init__(self) -> None:
        self.events: list[Observed] = []
        self.host = Host()
        self.devices = [
            Device(
                Configuration(address=address, streams=2, address_blocks=1, vfs=1, name=name),
                SeededEntropy(name.encode()),
                NOW,
                observer=self.events.append,
            )
            for name, address in zip("AB", ADDRESSES, strict=True)
        ]
        root_config = ConfigSpace(
            Type1Header(0x8086, 1),
            [ExpressCapability(PortType.ROOT_PORT)],
            [AerCapability(), IdeCapability(2, 1)],
        )
        self.root = RootPort(self.host, ROOT, root_config, observer=self.events.append)
        self.root_streams = root_config.need(IdeCapability)
        self.switch = Switch(2, observer=self.events.append)
        self.uplink = join(self.root, self.switch.upstream, observer=self.events.append)
        self.links = [
            join(port, device.port, observer=self.events.append)
            for port, device in zip(self.switch.downstream, self.devices, strict=True)
        ]
        self._keys = SeededEntropy(b"keys")
        self._open()

    def window(self, number: int) -> int:
        """Give where a device's memory begins."""
        return MMIO + number * STEP

    def _open(self) -> None:
        self._bridge(self.root.header, (1, 4), (0, 1))
        self._bridge(self.switch.upstream.header, (2, 4), (0, 1))
        for number, port in enumerate(self.switch.downstream):
            self._bridge(port.header, (3 + number, 3 + number), (number, number))
        for port in (self.switch.upstream, *self.switch.downstream):
            port.capability.set(SwitchIdeCapability.CONTROL, flow_through=1)
        for number, device in enumerate(self.devices):
            place_bars(device, self.window(number), self.window(number) + 0x1000_0000)

    def _bridge(self, header: Type1Header, buses: tuple[int, int], windows: tuple[int, int]) -> None:
        first, last = (self.window(number) >> 32 for number in windows)
        header.set(header.BUSES, secondary=buses[0], subordinate=buses[1])
        header.set(header.COMMAND, memory_space=1, bus_master=1)
        header.set(header.PREFETCHABLE_BASE, high=first)
        header.set(header.PREFETCHABLE_LIMIT, high=last)
        header.set(header.PREFETCHABLE, base=0, limit=0x3FF)

    # -- streams

    def protect(self) -> Peers:
        """Set up all three streams."""
        for number, device in enumerate(self.devices):
            assert device.dsm.ide_km.respond(SESSION, Query(port_index=0).encode(), NOW) is not None
            associate_default_stream(device, DEFAULTS[number], ROOT)
            self._associate(self.root_streams, self.root_streams.streams[number], number, DEFAULTS[number])
            self._associate(device.streams, device.streams.streams[1], 1 - number, P2P)
        for number, device in enumerate(self.devices):
            root = self.root.ide
            self._key(
                device, DEFAULTS[number], lambda slot, key, n=number, ide=root: _program(ide, DEFAULTS[n], slot, key)
            )
        one, other = self.devices
        self._key(
            one,
            P2P,
            lambda slot, key: self._give(other, P2P, slot._replace(direction=Direction(1 - slot.direction)), key),
        )
        for capability in (self.root_streams, *(device.streams for device in self.devices)):
            for block in capability.streams:
                control = block.control
                capability.write(control.offset, 4, control.put(capability.value(control), enable=1))
        for number, device in enumerate(self.devices):
            assert device.port.ide.is_secure(DEFAULTS[number])
            assert device.port.ide.is_secure(P2P)
        return self

    def _associate(self, capability: IdeCapability, block: StreamBlock, partner: int, stream_id: int) -> None:
        """Name the device `partner` as the one at the other end."""
        assert block.rid is not None
        limit, base = block.rid
        low, high_limit, high_base = block.addresses[0]
        first = ADDRESSES[partner].requester_id
        high = self.window(partner) >> 32
        for register, value in (
            (limit, limit.put(0, limit=first | 0xFF)),
            (base, base.put(0, base=first, valid=1)),
            (low, low.put(0, valid=1, base=0, limit=0x3FF)),
            (high_limit, high),
            (high_base, high),
            (block.control, block.control.put(0, stream_id=stream_id)),
        ):
            capability.write(register.offset, 4, value)

    def _key(self, device: Device, stream_id: int, at_partner: Callable[[KeySlot, bytes], None]) -> None:
        for direction in Direction:
            for slot in key_slots(KeySet.K0, direction):
                key = self._keys(32)
                self._give(device, stream_id, slot, key)
                at_partner(slot, key)

    @staticmethod
    def _give(device: Device, stream_id: int, slot: KeySlot, key: bytes) -> None:
        address = {"stream_id": stream_id, "key_sub_stream": KeySubStream.of(slot), "port_index": 0}
        prog = KeyProg(key_dwords=reverse_dwords(key), **address)  # type: ignore[arg-type]
        assert (device.dsm.ide_km.respond(SESSION, prog.encode(), NOW) or b"")[4] == 0
        assert device.dsm.ide_km.respond(SESSION, KSetGo(**address).encode(), NOW) is not None  # type: ignore[arg-type]

    # -- TDIs

    def tdi(self, number: int) -> Tdi:
        """Give the TDI of a device's PF."""
        return self.devices[number].tdis[self.devices[number].pfs[0]]

    def bus(self, number: int) -> FunctionBus:
        """Give its way to memory."""
        return self.devices[number].bus_of(ADDRESSES[number])

    def run(self, number: int, flags: LockFlags = P2P_FLAGS, *, bind: bool = True) -> Tdi:
        """Bring a TDI to RUN, with the peer-to-peer stream bound unless told otherwise."""
        tdi = self.tdi(number)
        ats = tdi.function.space.need(AtsCapability)
        ats.write(AtsCapability.CONTROL.offset, 2, AtsCapability.CONTROL.put(0, enable=1))
        wanted = LockParameters(flags=flags, default_stream_id=DEFAULTS[number])
        tdi.interface.start(SESSION, tdi.interface.lock(SESSION, wanted, SeededEntropy(b"lock")))
        if bind:
            tdi.interface.bind_p2p_stream(SESSION, P2P)
        assert tdi.state is InterfaceState.RUN
        return tdi

    def target(self, number: int, bar: int = 0) -> int:
        """Give where a TDI's BAR lies."""
        return self.tdi(number).function.placed()[bar].start

    def translate(self, number: int, address: int, to: int) -> None:
        """Let a TDI know a translation, as its translation agent would have told it."""
        self.tdi(number).function.translations.keep(address, Translation(read=1, write=1, page=to // 4096))


def _program(ide: IdePort, stream_id: int, slot: KeySlot, key: bytes) -> None:
    named = PortKeySet.K0, PortDirection(1 - slot.direction), SubStream(slot.sub_stream)
    assert ide.program(stream_id, *named, key, 1) is ProgramResult.OK
    assert ide.set_go(stream_id, *named)
