"""A bench with a switch between root port and endpoint, for tests of what passes it."""

from __future__ import annotations

from pcie.link_bench import RP, Bench
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.aer import Uncorrectable
from teeio.pcie.capabilities.ide import IdeCapability, SwitchIdeCapability
from teeio.pcie.ide import Direction, KeySet
from teeio.pcie.ide_port import IdePort, ProgramResult
from teeio.pcie.link import join
from teeio.pcie.switch import Switch
from teeio.pcie.tlp import SubStream

UPSTREAM, DOWNSTREAM, EMPTY, DEVICE = Bdf(0, 1, 0, 0), Bdf(0, 2, 0, 0), Bdf(0, 2, 1, 0), Bdf(0, 3, 0, 0)
LINK_STREAM = 9


class SwitchBench(Bench):
    """The bench with a switch in the middle; the device is on bus 3, behind downstream port 0."""

    switch_flit_mode = False

    def open_bridges(self) -> None:
        self.switch = Switch(2, observer=self.events.append, flit_mode=self.switch_flit_mode)
        self.uplink = join(self.root, self.switch.upstream, observer=self.events.append)
        self.link = join(self.switch.downstream[0], self.port, observer=self.events.append)
        self.open_bridge(RP, 0x00_04_01_00)
        self.open_bridge(UPSTREAM, 0x00_04_02_01)
        self.open_bridge(DOWNSTREAM, 0x00_03_03_02)
        self.fabric.config_write(EMPTY, 0x18, 4, 0x00_04_04_02)

    def flow_through(self, on: int = 1) -> SwitchBench:
        for function in (UPSTREAM, DOWNSTREAM):
            at = self.switch.upstream.capability.base + SwitchIdeCapability.CONTROL.offset
            self.fabric.config_write(function, at, 4, on << 2)
        return self

    def misrouted(self) -> list[bool]:
        ports = (self.switch.upstream, self.switch.downstream[0])
        return [port.aer.recorded(Uncorrectable.MISROUTED_IDE_TLP) for port in ports]

    def hops(self) -> list[tuple[tuple[IdeCapability, IdePort], tuple[IdeCapability, IdePort]]]:
        def end(port: object) -> tuple[IdeCapability, IdePort]:
            return port.config.need(IdeCapability), port.ide  # type: ignore[attr-defined]

        up, down = self.switch.upstream, self.switch.downstream[0]
        return [(end(self.root), end(up)), (end(down), end(self.port))]

    def link_streams(self, hops: int = 2) -> SwitchBench:
        for number, hop in enumerate(self.hops()[:hops]):
            for flip, (capability, ide) in enumerate(hop):
                control = capability.streams[0].control
                capability.write(control.offset, 4, control.put(0, stream_id=LINK_STREAM))
                for direction in Direction:
                    for sub_stream in SubStream:
                        key = bytes([70 + number, direction, sub_stream]) + bytes(29)
                        mine = Direction(1 - direction) if flip else direction
                        assert ide.program(LINK_STREAM, KeySet.K0, mine, sub_stream, key, 1) is ProgramResult.OK
                        assert ide.set_go(LINK_STREAM, KeySet.K0, mine, sub_stream)
                capability.write(control.offset, 4, control.put(0, stream_id=LINK_STREAM, enable=1))
                assert ide.is_secure(LINK_STREAM)
        return self
