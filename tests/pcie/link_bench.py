"""A host, a root port, a link and a device, enumerated, for tests of what travels between two ports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from teeio.observe import Event, Refused
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.aer import AerCapability
from teeio.pcie.capabilities.bar import Bar
from teeio.pcie.capabilities.express import ExpressCapability, PortType
from teeio.pcie.capabilities.header import Type0Header, Type1Header, VirtualFunctionHeader
from teeio.pcie.capabilities.ide import IdeCapability, StreamBlock
from teeio.pcie.capabilities.sriov import SriovCapability
from teeio.pcie.config_space import ConfigSpace, Functions
from teeio.pcie.fabric import Fabric
from teeio.pcie.ide import Direction, KeySet
from teeio.pcie.ide_port import InsecureCause, ProgramResult
from teeio.pcie.link_rules import CLOSED, LinkRules
from teeio.pcie.ports import EndpointPort, RootPort
from teeio.pcie.registers import RegisterAccess
from teeio.pcie.seams import DONE, UNSUPPORTED, Reply
from teeio.pcie.tlp import (
    CompletionStatus,
    SubStream,
    Tlp,
)
from teeio.pcie.transfer import serve_memory

RP, PF = Bdf(0, 0, 1, 0), Bdf(0, 1, 0, 0)
BAR, HIGH_BAR = 0xFE00_0000, 0x40_0000_0000
STREAM = 5


class Device:
    """A device with one BAR of memory; it remembers how it was asked."""

    def __init__(self, ide: IdeCapability) -> None:
        self.config = ConfigSpace(
            Type0Header(0x1234, 0x5678, 0x120000, [Bar(0, 1 << 16), Bar(2, 4096, wide=False)]),
            [ExpressCapability(tee_io=True)],
            [AerCapability(), ide, SriovCapability(2, 0x5679, [Bar(0, 4096)])],
        )
        vfs = [ConfigSpace(VirtualFunctionHeader(0x120000)) for _ in range(2)]
        self.functions = Functions(PF, {0: self.config}, {0: (self.config.need(SriovCapability), vfs)})
        self.memory = bytearray(1 << 16)
        self.asked: list[tuple[Bdf, bool, int | None]] = []
        self.refuse: Reply | None = None

    def renumber(self, bus: int) -> None:
        self.functions.first = replace(self.functions.first, bus=bus)

    def config_read(self, function: Bdf, offset: int, size: int) -> int | None:
        return self.functions.config_read(function, offset, size)

    def config_write(self, function: Bdf, offset: int, size: int, value: int) -> bool:
        return self.functions.config_write(function, offset, size, value)

    def config_register(self, function: Bdf, offset: int) -> RegisterAccess | None:
        return self.functions.config_register(function, offset)

    def receive(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
        if self.refuse is not None:
            return self.refuse
        if tlp.type.is_message:
            return DONE
        return serve_memory(self.functions, self, tlp, t_bit, stream_id)

    def bar_read(self, function: Bdf, bar: int, offset: int, size: int, t_bit: bool, stream_id: int | None) -> Reply:
        self.asked.append((function, t_bit, stream_id))
        return Reply(CompletionStatus.SC, bytes(self.memory[offset : offset + size]))

    def bar_write(
        self, function: Bdf, bar: int, offset: int, data: bytes, t_bit: bool, stream_id: int | None
    ) -> CompletionStatus:
        self.asked.append((function, t_bit, stream_id))
        self.memory[offset : offset + len(data)] = data
        return CompletionStatus.SC


class Host:
    """Host memory of 64 KiB; T=0 may not reach its upper half."""

    def __init__(self) -> None:
        self.memory = bytearray(1 << 16)
        self.asked: list[tuple[int, bool, int | None]] = []

    def _allowed(self, address: int, size: int, t_bit: bool) -> bool:
        return address + size <= (1 << 16 if t_bit else 1 << 15)

    def dma_read(self, requester_id: int, address: int, size: int, t_bit: bool, stream_id: int | None = None) -> Reply:
        self.asked.append((requester_id, t_bit, stream_id))
        if not self._allowed(address, size, t_bit):
            return UNSUPPORTED
        return Reply(CompletionStatus.SC, bytes(self.memory[address : address + size]))

    def dma_write(
        self, requester_id: int, address: int, data: bytes, t_bit: bool, stream_id: int | None = None
    ) -> CompletionStatus:
        self.asked.append((requester_id, t_bit, stream_id))
        if not self._allowed(address, len(data), t_bit):
            return CompletionStatus.UR
        self.memory[address : address + len(data)] = data
        return CompletionStatus.SC


class Bench:
    """A host, a root port, a link and a device, enumerated.

    `flit_mode` says which of the ports support Flit Mode, `features` what of IDE each does, as in `IdeCapability`.
    """

    def __init__(
        self,
        rules: LinkRules = CLOSED,
        flit_mode: tuple[bool, bool] = (False, False),
        features: tuple[dict[str, bool], dict[str, bool]] = ({}, {}),
    ) -> None:
        self.events: list[Event] = []
        self.insecure: list[tuple[str, int, InsecureCause]] = []
        root, below = (
            IdeCapability(2, 1, link=1, **{"selective_configuration": True, **feature}) for feature in features
        )
        self.host, self.device, self.fabric = Host(), Device(below), Fabric()
        self.root_config = ConfigSpace(
            Type1Header(0x8086, 0x1),
            [ExpressCapability(PortType.ROOT_PORT)],
            [AerCapability(), root],
        )
        self.root = RootPort(
            self.host,
            RP,
            self.root_config,
            on_insecure=lambda stream_id, cause: self.insecure.append(("root", stream_id, cause)),
            observer=self.events.append,
            rules=rules,
        )
        self.port = EndpointPort(
            self.device,
            PF,
            self.device.config,
            on_insecure=lambda stream_id, cause: self.insecure.append(("device", stream_id, cause)),
            observer=self.events.append,
            rules=rules,
        )
        for config, flit in zip((self.root_config, self.device.config), flit_mode, strict=True):
            config.need(ExpressCapability).set(ExpressCapability.CAPABILITIES, flit_mode=int(flit))
        self.fabric.add(self.root)
        self.link = self.fabric.attach(self.root, self.port, observer=self.events.append)
        self.enumerate()

    def open_bridge(self, bridge: Bdf, buses: int) -> None:
        write = self.fabric.config_write
        write(bridge, 0x18, 4, buses)
        write(bridge, 0x20, 4, 0xFE0F_FE00)
        write(bridge, 0x24, 4, 0x0000_0000)
        write(bridge, 0x28, 4, HIGH_BAR >> 32)
        write(bridge, 0x2C, 4, HIGH_BAR >> 32)
        write(bridge, 0x04, 2, 6)

    def open_bridges(self) -> None:
        self.open_bridge(RP, 0x00_01_01_00)

    def enumerate(self) -> None:
        self.open_bridges()
        write = self.fabric.config_write
        write(PF, 0x10, 4, HIGH_BAR & 0xFFFFFFFF)
        write(PF, 0x14, 4, HIGH_BAR >> 32)
        write(PF, 0x18, 4, BAR)
        write(PF, 0x04, 2, 6)
        for config in (self.root_config, self.device.config):
            config.need(ExpressCapability).write(0x08, 2, 0x2820)

    def sides(self) -> Iterator[tuple[RootPort | EndpointPort, StreamBlock, range, bool]]:
        for port, rids, flip in (
            (self.root, range(PF.requester_id, PF.requester_id + 3), True),
            (self.port, range(RP.requester_id, RP.requester_id + 1), False),
        ):
            yield port, port.config.need(IdeCapability).streams[1], rids, flip

    def program(self, stream_id: int = STREAM, key_set: KeySet = KeySet.K0, salt: int = 0) -> None:
        for port, _, _, flip in self.sides():
            for direction in Direction:
                for sub_stream in SubStream:
                    key = bytes([salt, key_set, direction, sub_stream]) + bytes(28)
                    mine = Direction(1 - direction) if flip else direction
                    assert port.ide.program(stream_id, key_set, mine, sub_stream, key, 1) is ProgramResult.OK

    def go(self, stream_id: int = STREAM, key_set: KeySet = KeySet.K0) -> None:
        for direction in Direction:
            for port, *_ in self.sides():
                for sub_stream in SubStream:
                    assert port.ide.set_go(stream_id, key_set, direction, sub_stream)

    def associate(self, stream_id: int = STREAM, **control: int) -> None:
        for port, block, rids, _ in self.sides():
            assert block.rid is not None
            base = port.config.need(IdeCapability)
            write = lambda register, value, base=base: base.write(register.offset, 4, value)  # noqa: E731
            write(block.rid[0], rids[-1] << 8)
            write(block.rid[1], rids[0] << 8 | 1)
            if port is self.root:
                first, second, third = block.addresses[0]
                write(first, 1)
                write(second, HIGH_BAR >> 32)
                write(third, HIGH_BAR >> 32)
            write(block.control, block.control.put(0, stream_id=stream_id, default=int(port is self.port), **control))

    def enable(self, on: int = 1) -> None:
        for port, block, _, _ in self.sides():
            ide = port.config.need(IdeCapability)
            ide.write(block.control.offset, 4, block.control.put(ide.value(block.control), enable=on))

    def secure(self, **control: int) -> Bench:
        """Set up the stream as software does."""
        self.associate(**control)
        self.program()
        self.go()
        self.enable()
        assert self.root.ide.is_secure(STREAM)
        assert self.port.ide.is_secure(STREAM)
        return self

    def refusals(self) -> list[str]:
        return [event.rule for event in self.events if isinstance(event, Refused)]

    def state(self) -> tuple[bool, bool]:
        return self.root.ide.is_secure(STREAM), self.port.ide.is_secure(STREAM)
