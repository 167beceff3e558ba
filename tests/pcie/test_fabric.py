"""Two ports on a link: routing, DMA, interrupts, IDE set up through registers, attacks on the link, reports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teeio.errors import Misuse
from teeio.observe import Event, Refused, StateChanged, TlpMoved
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.capabilities.bar import Bar
from teeio.pcie.capabilities.express import ExpressCapability, PortType
from teeio.pcie.capabilities.header import Type0Header, Type1Header, VirtualFunctionHeader
from teeio.pcie.capabilities.ide import IdeCapability, StreamBlock
from teeio.pcie.capabilities.msix import MsixMessage
from teeio.pcie.capabilities.sriov import SriovCapability
from teeio.pcie.config_space import ConfigSpace, Functions
from teeio.pcie.fabric import EndpointPort, Fabric, RootPort
from teeio.pcie.ide import Direction, KeySet
from teeio.pcie.ide_port import InsecureCause, ProgramResult
from teeio.pcie.ide_tlp import ide_fail, ide_sync
from teeio.pcie.link import Way, described
from teeio.pcie.seams import ABORTED, DONE, UNSUPPORTED, Reply
from teeio.pcie.tlp import (
    CompletionStatus,
    Routing,
    SubStream,
    Tlp,
    completion,
    config_read,
    memory_read,
    memory_write,
    message,
)
from teeio.pcie.transfer import completions, pieces, serve_memory

RP, PF = Bdf(0, 0, 1, 0), Bdf(0, 1, 0, 0)
BAR, HIGH_BAR = 0xFE00_0000, 0x40_0000_0000
STREAM = 5


class Device:
    """A device with one BAR of memory; it remembers how it was asked."""

    def __init__(self) -> None:
        self.config = ConfigSpace(
            Type0Header(0x1234, 0x5678, 0x120000, [Bar(0, 1 << 16), Bar(2, 4096, wide=False)]),
            [ExpressCapability(tee_io=True)],
            [AerCapability(), IdeCapability(2, 1, link=1), SriovCapability(2, 0x5679, [Bar(0, 4096)])],
        )
        vfs = [ConfigSpace(VirtualFunctionHeader(0x120000)) for _ in range(2)]
        self.functions = Functions(PF, {0: self.config}, {0: (self.config.need(SriovCapability), vfs)})
        self.memory = bytearray(1 << 16)
        self.asked: list[tuple[Bdf, bool, int | None]] = []
        self.refuse: Reply | None = None

    def config_read(self, function: Bdf, offset: int, size: int) -> int | None:
        return self.functions.config_read(function, offset, size)

    def config_write(self, function: Bdf, offset: int, size: int, value: int) -> bool:
        return self.functions.config_write(function, offset, size, value)

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
    """A host, a root port, a link and a device, enumerated."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.insecure: list[tuple[str, int, InsecureCause]] = []
        self.host, self.device, self.fabric = Host(), Device(), Fabric()
        self.root_config = ConfigSpace(
            Type1Header(0x8086, 0x1),
            [ExpressCapability(PortType.ROOT_PORT)],
            [AerCapability(), IdeCapability(2, 1, link=1)],
        )
        self.root = RootPort(
            self.host,
            RP,
            self.root_config,
            on_insecure=lambda stream_id, cause: self.insecure.append(("root", stream_id, cause)),
            observer=self.events.append,
        )
        self.port = EndpointPort(
            self.device,
            PF,
            self.device.config,
            on_insecure=lambda stream_id, cause: self.insecure.append(("device", stream_id, cause)),
            observer=self.events.append,
        )
        self.fabric.add(self.root)
        self.link = self.fabric.attach(self.root, self.port, observer=self.events.append)
        self.enumerate()

    def enumerate(self) -> None:
        write = self.fabric.config_write
        write(RP, 0x18, 4, 0x00_01_01_00)
        write(RP, 0x20, 4, 0xFE0F_FE00)
        write(RP, 0x24, 4, 0x0000_0000)
        write(RP, 0x28, 4, HIGH_BAR >> 32)
        write(RP, 0x2C, 4, HIGH_BAR >> 32)
        write(RP, 0x04, 2, 6)
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


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- routing without IDE


def test_configuration_goes_by_bus(bench: Bench) -> None:
    read = bench.fabric.config_read
    assert read(RP, 0, 4) == 0x00018086
    assert read(PF, 0, 4) == 0x56781234
    assert read(PF, 0x02, 2) == 0x5678
    assert read(PF, 0x03, 1) == 0x56
    assert read(Bdf(0, 1, 0, 1), 0, 4) == 0xFFFFFFFF
    assert read(Bdf(0, 7, 0, 0), 0, 2) == 0xFFFF
    assert read(Bdf(1, 1, 0, 0), 0, 1) == 0xFF
    assert bench.fabric.config_write(Bdf(0, 7, 0, 0), 0, 2, 0) is CompletionStatus.UR
    assert bench.fabric.config_write(Bdf(0, 1, 0, 1), 4, 2, 0) is CompletionStatus.UR


def test_vfs_answer_once_enabled(bench: Bench) -> None:
    sriov = bench.device.config.need(SriovCapability).base
    write = bench.fabric.config_write
    write(PF, sriov + 0x24, 4, HIGH_BAR + 0x4_0000 & 0xFFFFFFFF)
    write(PF, sriov + 0x28, 4, HIGH_BAR >> 32)
    write(PF, sriov + 0x10, 2, 2)
    write(PF, sriov + 0x08, 2, 9)
    second = Bdf(0, 1, 0, 2)
    assert write(second, 4, 1, 4) is CompletionStatus.SC
    assert bench.fabric.config_read(second, 4, 1) == 4
    assert bench.fabric.memory_write(HIGH_BAR + 0x4_1000, b"vf") is CompletionStatus.SC
    assert bench.device.asked[-1] == (second, False, None)


@pytest.mark.parametrize("start", [0, 1, 63, 4090])
@pytest.mark.parametrize("size", [1, 3, 64, 700, 5000])
def test_memory_reads_and_writes(bench: Bench, start: int, size: int) -> None:
    data = bytes(n % 251 for n in range(size))
    assert bench.fabric.memory_write(HIGH_BAR + start, data) is CompletionStatus.SC
    assert bench.device.memory[start : start + size] == data
    reply = bench.fabric.memory_read(HIGH_BAR + start, size)
    assert reply == Reply(CompletionStatus.SC, data)


@pytest.mark.parametrize("start", [0, 1, 63, 4090])
@pytest.mark.parametrize("size", [1, 3, 64, 700, 5000])
def test_dma_reads_and_writes(bench: Bench, start: int, size: int) -> None:
    data = bytes(n % 251 for n in range(size))
    assert bench.port.dma_write(PF.requester_id, start, data, False) is CompletionStatus.SC
    assert bench.host.memory[start : start + size] == data
    assert bench.port.dma_read(PF.requester_id, start, size, False) == Reply(CompletionStatus.SC, data)
    assert set(bench.host.asked) == {(PF.requester_id, False, None)}


def test_transfers_are_cut(bench: Bench) -> None:
    bench.port.dma_read(PF.requester_id, 0, 2048, False)
    moved = [event for event in bench.events if isinstance(event, TlpMoved)]
    assert [event.kind for event in moved[-12:]] == (["MRd"] + ["CplD"] * 2) * 4
    assert max(event.size for event in moved) <= 16 + 256


@given(st.integers(0, 10000), st.integers(0, 10000), st.sampled_from([128, 256, 512]))
def test_pieces_cover_without_crossing_pages(address: int, size: int, largest: int) -> None:
    found = list(pieces(address, size, largest))
    assert sum(part for _, part in found) == size
    at = address
    for start, part in found:
        assert start == at
        assert 0 < part <= largest
        assert start // 4096 == (start + part - 1) // 4096
        at += part


@given(st.integers(0, 4095), st.integers(1, 4096), st.sampled_from([128, 256, 512]))
def test_completions_follow_the_read_completion_boundary(offset: int, size: int, max_payload: int) -> None:
    size = min(size, 4096 - offset)
    request = memory_read(8, 3, 0x1000 + offset, size)
    parts = completions(request, 0x100, Reply(CompletionStatus.SC, bytes(size)), max_payload)
    assert sum(len(part.payload) for part in parts) == 4 * request.memory().dwords
    assert all(len(part.payload) <= max_payload for part in parts)
    left = size
    for number, part in enumerate(parts):
        header = part.completion()
        assert (header.byte_count or 4096) == left
        if number:
            assert header.lower_address % 64 == 0
        left -= len(part.payload) - (offset % 4 if number == 0 else 0)


def test_refusals_come_back_as_completions(bench: Bench) -> None:
    assert bench.fabric.memory_read(0x1000, 4) == UNSUPPORTED
    assert bench.fabric.memory_write(0x1000, b"1234") is CompletionStatus.UR
    assert bench.fabric.memory_read(HIGH_BAR + (1 << 16), 4) == UNSUPPORTED
    bench.device.refuse = ABORTED
    assert bench.fabric.memory_read(HIGH_BAR, 4) == ABORTED
    assert bench.port.dma_read(PF.requester_id, 0x8000, 4, False) == UNSUPPORTED
    aer = bench.device.config.need(AerCapability)
    assert aer.recorded(Uncorrectable.UNSUPPORTED_REQUEST)
    assert aer.recorded(Uncorrectable.COMPLETER_ABORT)


def test_reads_of_nothing_and_messages(bench: Bench) -> None:
    bench.link.inject(memory_read(PF.requester_id, 9, 0x100, 0).encode(), Way.UP)
    bench.link.inject(message(PF.requester_id, 0x7F, Routing.TO_ROOT_COMPLEX).encode(), Way.UP)
    bench.link.inject(message(RP.requester_id, 0x7F, Routing.LOCAL).encode(), Way.DOWN)
    assert bench.refusals() == ["UNEXPECTED_COMPLETION"]


def test_requests_that_nobody_takes(bench: Bench) -> None:
    bench.link.inject(config_read(PF.requester_id, 0, RP.requester_id, 0).encode(), Way.UP)
    assert "UNSUPPORTED_REQUEST" in bench.refusals()


def test_an_interrupt_is_a_memory_write(bench: Bench) -> None:
    bench.port.signal(PF, 0, MsixMessage(0x1000, 0x41), False)
    assert bench.host.memory[0x1000:0x1004] == b"\x41\0\0\0"


def test_a_port_without_a_link_says_so() -> None:
    host = Host()
    port = RootPort(host, RP, ConfigSpace(Type1Header(1, 2)))
    with pytest.raises(Misuse, match="attached"):
        port.memory_write(0, b"1234")
    fabric = Fabric()
    fabric.add(port)
    with pytest.raises(Misuse, match="taken"):
        fabric.add(port)


# -- with IDE


def test_t_1_needs_a_stream(bench: Bench) -> None:
    assert bench.root.memory_write(HIGH_BAR, b"1234", t_bit=True) is CompletionStatus.UR
    assert not bench.root.memory_read(HIGH_BAR, 4, t_bit=True).ok
    assert not bench.port.dma_read(PF.requester_id, 0, 4, True).ok
    assert bench.device.asked == bench.host.asked == []


def test_traffic_goes_on_the_stream(bench: Bench) -> None:
    bench.secure()
    bench.events.clear()
    assert bench.fabric.memory_write(HIGH_BAR + 8, b"secret", t_bit=True) is CompletionStatus.SC
    assert bench.fabric.memory_read(HIGH_BAR + 8, 6, t_bit=True).data == b"secret"
    assert bench.device.asked == [(PF, True, STREAM)] * 2
    assert bench.port.dma_write(PF.requester_id, 0x9000, b"private", True) is CompletionStatus.SC
    assert bench.port.dma_read(PF.requester_id, 0x9000, 7, True).data == b"private"
    assert bench.port.dma_read(PF.requester_id, 0x9000, 7, False) == UNSUPPORTED
    assert bench.host.asked[:2] == [(PF.requester_id, True, STREAM)] * 2
    assert bench.host.asked[2] == (PF.requester_id, False, STREAM)
    protections = {event.protection for event in bench.events if isinstance(event, TlpMoved)}
    assert protections == {"IDE T=1", "IDE T=0"}


def test_nothing_of_the_payload_is_on_the_link(bench: Bench) -> None:
    bench.secure()
    seen: list[bytes] = []

    def listen(frame: bytes, way: Way) -> bytes:
        seen.append(frame)
        return frame

    bench.link.tamper = listen
    secret = b"a secret that nobody on the link may see"
    bench.fabric.memory_write(HIGH_BAR, secret, t_bit=True)
    assert bench.fabric.memory_read(HIGH_BAR, len(secret), t_bit=True).data == secret
    assert len(seen) == 3
    assert not any(secret[:8] in frame for frame in seen)


def test_the_address_association_decides_at_the_root_port(bench: Bench) -> None:
    bench.secure()
    bench.fabric.memory_write(BAR, b"1234")
    bench.fabric.memory_write(HIGH_BAR, b"1234")
    assert [stream for _, _, stream in bench.device.asked] == [None, STREAM]


@pytest.mark.parametrize("control", [{"pcrc": 1}, {"pr_aggregation": 3, "npr_aggregation": 3, "cpl_aggregation": 3}])
def test_options(bench: Bench, control: dict[str, int]) -> None:
    bench.secure(**control)
    data = bytes(range(256)) * 8
    assert bench.fabric.memory_write(HIGH_BAR, data, t_bit=True) is CompletionStatus.SC
    assert bench.fabric.memory_read(HIGH_BAR, len(data), t_bit=True).data == data


def test_a_unit_over_the_link(bench: Bench) -> None:
    bench.secure(pr_aggregation=2)
    writes = [memory_write(PF.requester_id, 0, 16 * n, bytes([n + 1]) * 16) for n in range(4)]
    assert bench.port.ide.transmit_unit(writes, True)
    assert bench.host.memory[:64] == b"".join(bytes([n + 1]) * 16 for n in range(4))


def test_long_runs_of_writes_are_synchronized(bench: Bench) -> None:
    bench.secure()
    for _ in range(600):
        assert bench.port.dma_write(PF.requester_id, 0, b"1234", True) is CompletionStatus.SC
    syncs = [event for event in bench.events if isinstance(event, TlpMoved) and event.kind == "Msg"]
    assert len(syncs) == 2
    assert bench.port.dma_read(PF.requester_id, 0, 4, True).data == b"1234"
    assert bench.state() == (True, True)


def test_status_registers_and_events_tell_the_state(bench: Bench) -> None:
    bench.associate()
    bench.program()
    assert bench.port.ide.keyed(STREAM)
    assert not bench.port.ide.is_secure(STREAM)
    bench.enable()
    _, block, _, _ = list(bench.sides())[1]
    ide = bench.device.config.need(IdeCapability)
    assert ide.value(block.status) == 0
    bench.go()
    assert ide.value(block.status) == 2
    assert bench.port.ide.default_stream() == STREAM
    assert bench.root.ide.default_stream() is None
    bench.enable(0)
    assert ide.value(block.status) == 0
    changes = [(e.old, e.new) for e in bench.events if isinstance(e, StateChanged) and e.subject.endswith("endpoint")]
    assert changes == [("Insecure", "Secure"), ("Secure", "Insecure")]
    assert bench.insecure == [("root", STREAM, InsecureCause.DISABLED), ("device", STREAM, InsecureCause.DISABLED)]
    assert not bench.port.ide.keyed(STREAM)


def test_refresh_under_traffic(bench: Bench) -> None:
    bench.secure()
    for salt, key_set in enumerate((KeySet.K1, KeySet.K0, KeySet.K1), 1):
        bench.program(key_set=key_set, salt=salt)
        bench.go(key_set=key_set)
        for port, *_ in bench.sides():
            for direction in Direction:
                for sub_stream in SubStream:
                    assert port.ide.set_stop(STREAM, KeySet(1 - key_set), direction, sub_stream)
        bench.fabric.memory_write(HIGH_BAR, b"1234", t_bit=True)
        assert bench.fabric.memory_read(HIGH_BAR, 4, t_bit=True).data == b"1234"
        assert bench.port.dma_read(PF.requester_id, 0, 4, True).ok
    assert bench.state() == (True, True)


def test_keys_that_are_refused(bench: Bench) -> None:
    bench.associate()
    program = bench.port.ide.program
    args = (KeySet.K0, Direction.TX, SubStream.PR)
    assert program(99, *args, bytes(32), 1) is ProgramResult.UNKNOWN_STREAM
    assert program(STREAM, *args, bytes(31), 1) is ProgramResult.BAD_KEY
    assert program(STREAM, *args, bytes(32), 2) is ProgramResult.BAD_IFV
    assert program(STREAM, *args, bytes(32), 1) is ProgramResult.OK
    for other in ((KeySet.K0, Direction.TX, SubStream.NPR), (KeySet.K1, Direction.RX, SubStream.PR), args):
        assert program(STREAM, *other, bytes(32), 1) is ProgramResult.KEY_REUSED
    bench.port.ide.reset()
    assert program(STREAM, *args, bytes(32), 1) is ProgramResult.KEY_REUSED
    bench.port.ide.reset(conventional=True)
    assert program(STREAM, *args, bytes(32), 1) is ProgramResult.OK
    assert not bench.port.ide.set_go(99, *args)
    assert not bench.port.ide.set_stop(99, *args)
    assert bench.port.ide.block(99) is None


def test_a_key_in_use_is_not_replaced(bench: Bench) -> None:
    bench.secure()
    result = bench.port.ide.program(STREAM, KeySet.K0, Direction.TX, SubStream.PR, b"\xee" * 32, 1)
    assert result is ProgramResult.IN_USE


def test_changing_the_stream_id_erases_keys(bench: Bench) -> None:
    bench.associate()
    bench.program()
    bench.associate(stream_id=6)
    assert not bench.port.ide.keyed(6)


def test_enabling_without_a_rid_association_fails(bench: Bench) -> None:
    bench.associate()
    bench.program()
    bench.go()
    block = bench.device.config.need(IdeCapability).streams[1]
    assert block.rid is not None
    bench.device.config.need(IdeCapability).write(block.rid[1].offset, 4, 0)
    bench.enable()
    assert bench.state() == (True, False)


@pytest.mark.parametrize("what", ["control", "rid", "address"])
def test_reconfiguration_while_enabled_fails_the_stream(bench: Bench, what: str) -> None:
    bench.secure()
    ide = bench.device.config.need(IdeCapability)
    block = ide.streams[1]
    assert block.rid is not None
    register = {"control": block.control, "rid": block.rid[0], "address": block.addresses[0][1]}[what]
    value = ide.value(register)
    ide.write(register.offset, 4, value)
    assert bench.state() == (True, True)
    ide.write(register.offset, 4, value ^ 1 << 20)
    assert bench.state() == (False, False)
    assert bench.insecure == [
        ("root", STREAM, InsecureCause.FAIL_RECEIVED),
        ("device", STREAM, InsecureCause.RECONFIGURED),
    ]


# -- attacks on the link


class Attack:
    """Waits for a frame and replaces it once."""

    def __init__(self, way: Way, change: object) -> None:
        self.way, self.change, self.done = way, change, False

    def __call__(self, frame: bytes, way: Way) -> bytes | list[bytes] | None:
        if self.done or way is not self.way or frame[0] != 0x92:
            return frame
        self.done = True
        return self.change(frame)  # type: ignore[operator,no-any-return]


def flipped(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


@pytest.mark.parametrize("change", [flipped, lambda f: [f, f], lambda f: f[:-4]], ids=["flip", "replay", "cut"])
def test_tampering_makes_both_ends_insecure(bench: Bench, change: object) -> None:
    bench.secure()
    bench.link.tamper = Attack(Way.UP, change)
    bench.port.dma_write(PF.requester_id, 0x9000, b"private", True)
    assert bench.state() == (False, False)
    assert bench.root_config.need(AerCapability).recorded(Uncorrectable.IDE_CHECK_FAILED)
    assert not bench.device.config.need(AerCapability).recorded(Uncorrectable.IDE_CHECK_FAILED)
    statuses = [port.config.need(IdeCapability).value(block.status) for port, block, _, _ in bench.sides()]
    assert statuses == [0, 1 << 31]
    assert bench.insecure == [
        ("device", STREAM, InsecureCause.FAIL_RECEIVED),
        ("root", STREAM, InsecureCause.CHECK_FAILED),
    ]
    assert bench.port.dma_write(PF.requester_id, 0x9000, b"again", True) is CompletionStatus.UR
    assert bench.fabric.memory_read(HIGH_BAR, 4, t_bit=True) == UNSUPPORTED


def test_a_lost_write_is_noticed_at_the_next_tlp(bench: Bench) -> None:
    bench.secure()
    bench.link.tamper = Attack(Way.UP, lambda frame: None)
    bench.port.dma_write(PF.requester_id, 0x9000, b"lost", True)
    assert bench.state() == (True, True)
    assert not bench.port.dma_read(PF.requester_id, 0x9000, 4, True).ok
    assert bench.state() == (False, False)


def test_a_read_that_passes_a_write_is_noticed(bench: Bench) -> None:
    bench.secure()
    held: list[bytes] = []

    def reorder(frame: bytes, way: Way) -> bytes | list[bytes] | None:
        if way is Way.UP and not held:
            held.append(frame)
            return None
        return [frame, held[0]] if way is Way.UP else frame

    bench.link.tamper = reorder
    bench.port.dma_write(PF.requester_id, 0x9000, b"late", True)
    assert not bench.port.dma_read(PF.requester_id, 0x9000, 4, True).ok
    assert bench.state() == (False, False)
    assert bench.host.memory[0x9000:0x9004] == bytes(4)


def test_a_forged_fail_only_denies_service(bench: Bench) -> None:
    bench.secure()
    bench.link.inject(ide_fail(PF.requester_id, RP.requester_id, STREAM).encode(), Way.UP)
    assert bench.state() == (False, True)
    assert bench.root.ide.is_secure(STREAM + 1) is False
    bench.link.inject(ide_fail(PF.requester_id, RP.requester_id, 77).encode(), Way.UP)


def test_a_sync_without_ide_is_ignored(bench: Bench) -> None:
    bench.secure()
    bench.link.inject(ide_sync(PF.requester_id, RP.requester_id, 200, 200).encode(), Way.UP)
    assert bench.state() == (True, True)
    assert bench.port.dma_read(PF.requester_id, 0x9000, 4, True).ok


def test_a_misrouted_tlp_changes_no_state(bench: Bench) -> None:
    bench.secure()
    frames: list[bytes] = []

    def misroute(frame: bytes, way: Way) -> bytes:
        frames.append(frame)
        return frame[:2] + b"\x77" + frame[3:]

    bench.link.tamper = misroute
    bench.port.dma_write(PF.requester_id, 0x9000, b"lost", True)
    assert bench.root_config.need(AerCapability).recorded(Uncorrectable.MISROUTED_IDE_TLP)
    assert bench.state() == (True, True)
    bench.link.tamper = None
    bench.link.inject(frames[0], Way.UP)
    assert bench.host.memory[0x9000:0x9004] == b"lost"


def test_a_late_completion_is_never_taken_for_another(bench: Bench) -> None:
    held: list[bytes] = []

    def hold(frame: bytes, way: Way) -> bytes | None:
        if way is Way.DOWN:
            held.append(frame)
            return None
        return frame

    bench.link.tamper = hold
    assert bench.port.dma_read(PF.requester_id, 0, 4, False).status is CompletionStatus.TIMEOUT
    bench.link.tamper = None
    for _ in range(600):
        assert bench.port.dma_read(PF.requester_id, 0, 4, False).ok
    bench.link.inject(held[0], Way.DOWN)
    assert bench.refusals()[-1] == "UNEXPECTED_COMPLETION"
    assert bench.device.config.need(AerCapability).recorded(Uncorrectable.COMPLETION_TIMEOUT)


def test_tags_run_out_when_everything_is_lost_and_come_back_with_the_link(bench: Bench) -> None:
    bench.link.tamper = lambda frame, way: None
    for _ in range(300):
        assert bench.port.dma_read(PF.requester_id, 0, 4, False).status is CompletionStatus.TIMEOUT
    bench.link.tamper = None
    assert not bench.port.dma_read(PF.requester_id, 0, 4, False).ok
    bench.link.fail()
    bench.link.restore()
    assert bench.port.dma_read(PF.requester_id, 0, 4, False).ok


def test_a_plain_completion_does_not_answer_a_protected_read(bench: Bench) -> None:
    bench.secure()

    def forge(frame: bytes, way: Way) -> bytes:
        tag = frame[4 + 6]
        forged = completion(RP.requester_id, PF.requester_id, tag, b"evil")
        return forged.encode() if way is Way.DOWN else frame

    bench.link.tamper = forge
    reply = bench.port.dma_read(PF.requester_id, 0, 4, True)
    assert reply.status is CompletionStatus.TIMEOUT
    assert reply.data == b""


def test_a_completion_on_another_stream_fails_that_stream(bench: Bench) -> None:
    bench.secure()
    forged = completion(RP.requester_id, PF.requester_id, 0, b"evil")

    def send(tag: int) -> bool:
        assert tag == 0
        return bench.root.ide.transmit(forged, True, STREAM)

    reply = bench.port.requester.request(PF.requester_id, 4, 0, None, send)
    assert not reply.ok
    assert bench.state() == (False, False)


def test_a_requester_outside_the_association_is_unsupported(bench: Bench) -> None:
    bench.secure()
    assert not bench.port.dma_read(0x0555, 0, 4, True).ok
    assert bench.port.dma_write(0x0555, 0x9000, b"1234", True) is CompletionStatus.SC
    assert bench.host.memory[0x9000:0x9004] == bytes(4)
    assert bench.refusals()[0] == "UNSUPPORTED_REQUEST"
    assert bench.state() == (True, True)


def test_a_link_that_goes_down_makes_streams_insecure(bench: Bench) -> None:
    bench.secure()
    bench.link.fail()
    assert bench.state() == (False, False)
    assert {cause for _, _, cause in bench.insecure} == {InsecureCause.RESET}
    assert not bench.port.dma_read(PF.requester_id, 0, 4, False).ok


def test_an_enabled_stream_that_lost_its_keys_drops_t_0_traffic_too(bench: Bench) -> None:
    bench.secure()
    bench.link.fail()
    bench.link.restore()
    assert bench.fabric.memory_write(HIGH_BAR, b"1234") is CompletionStatus.UR
    assert not bench.port.dma_read(PF.requester_id, 0, 4, False).ok
    bench.device.config.reset()
    bench.port.ide.reset()
    assert bench.port.dma_write(PF.requester_id, 0, b"1234", False) is CompletionStatus.SC


def test_a_stopped_transmit_key_makes_the_stream_insecure_when_used(bench: Bench) -> None:
    bench.secure()
    assert bench.port.ide.set_stop(STREAM, KeySet.K0, Direction.TX, SubStream.PR)
    assert bench.state() == (True, True)
    assert bench.port.dma_write(PF.requester_id, 0, b"1234", True) is CompletionStatus.UR
    assert bench.state() == (False, False)


def test_a_missing_pcrc_is_reported_and_harmless(bench: Bench) -> None:
    bench.associate()
    root = bench.root_config.need(IdeCapability)
    block = root.streams[1]
    root.write(block.control.offset, 4, block.control.put(root.value(block.control), pcrc=1))
    bench.program()
    bench.go()
    bench.enable()
    bench.port.dma_write(PF.requester_id, 0, b"1234", True)
    assert bench.root_config.need(AerCapability).recorded(Uncorrectable.PCRC_CHECK_FAILED)
    assert bench.host.memory[:4] == bytes(4)
    assert bench.state() == (True, True)
    assert root.get(block.status, "fail_received") == 0


@pytest.mark.parametrize(
    ("tlp", "stream"),
    [
        (config_read(8, 0, PF.requester_id, 0, type_1=True), STREAM),
        (config_read(8, 0, 0x0777, 0, type_1=True), None),
        (config_read(8, 0, PF.requester_id, 0), None),
        (message(8, 0x7F, Routing.BY_ID, PF.requester_id.to_bytes(2, "big") + bytes(6)), STREAM),
        (message(8, 0x7F, Routing.BROADCAST), None),
        (message(8, 0x7F, Routing.TO_ROOT_COMPLEX), None),
        (memory_read(8, 0, HIGH_BAR, 4), STREAM),
        (memory_read(8, 0, BAR, 4), None),
        (completion(8, PF.requester_id, 0), STREAM),
        (completion(8, 0x0777, 0), None),
    ],
)
def test_associations_at_the_root_port(bench: Bench, tlp: Tlp, stream: int | None) -> None:
    bench.secure(configuration=1)
    assert bench.root.ide.select(tlp) == stream


@pytest.mark.parametrize(("t_bit", "stream"), [(True, STREAM), (False, None)])
def test_a_tee_limited_stream_carries_only_t_1(bench: Bench, t_bit: bool, stream: int | None) -> None:
    bench.secure(tee_limited=1)
    assert bench.port.ide.select(memory_read(PF.requester_id, 0, 0, 4), t_bit) == stream


def test_the_device_can_order_a_stream_insecure(bench: Bench) -> None:
    bench.secure()
    bench.port.ide.make_insecure(STREAM)
    assert bench.insecure == [("root", STREAM, InsecureCause.FAIL_RECEIVED), ("device", STREAM, InsecureCause.ORDERED)]
    bench.enable(0)
    bench.program(salt=9)
    bench.go()
    bench.enable()
    assert bench.state() == (True, True)


def test_a_link_stream_carries_everything(bench: Bench) -> None:
    for port in (bench.root, bench.port):
        ide = port.config.need(IdeCapability)
        control = ide.streams[0].control
        ide.write(control.offset, 4, control.put(0, stream_id=9))
        for direction in Direction:
            for sub_stream in SubStream:
                mine = Direction(1 - direction) if port is bench.root else direction
                key = bytes([7, direction, sub_stream]) + bytes(29)
                assert port.ide.program(9, KeySet.K0, mine, sub_stream, key, 1) is ProgramResult.OK
        for direction in Direction:
            for sub_stream in SubStream:
                assert port.ide.set_go(9, KeySet.K0, direction, sub_stream)
        ide.write(control.offset, 4, control.put(0, stream_id=9, enable=1))
    bench.events.clear()
    assert bench.fabric.config_read(PF, 0, 4) == 0x56781234
    assert bench.fabric.memory_read(BAR, 4).ok
    assert {event.protection for event in bench.events if isinstance(event, TlpMoved)} == {"IDE T=0"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=40), st.binary(max_size=24).map(lambda b: b"\x92\0\5" + b)), max_size=4))
def test_no_bytes_on_the_link_make_a_port_raise(frames: list[bytes]) -> None:
    bench = Bench().secure()
    for frame in frames:
        bench.link.inject(frame, Way.UP)
        bench.link.inject(frame, Way.DOWN)
        described(frame, "a", "b")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_mutated_traffic_makes_a_port_raise(data: st.DataObject) -> None:
    bench = Bench().secure() if data.draw(st.booleans()) else Bench()

    def mutate(frame: bytes, way: Way) -> bytes:
        at = data.draw(st.integers(0, len(frame) - 1))
        return frame[:at] + bytes([data.draw(st.integers(0, 255))]) + frame[at + 1 :]

    bench.link.tamper = mutate
    bench.fabric.memory_read(HIGH_BAR, 100)
    bench.fabric.config_read(PF, 0, 4)
    bench.port.dma_write(PF.requester_id, 0x10, bytes(20), False)
    bench.port.dma_read(PF.requester_id, 0x10, 20, False)


def test_runs_repeat_byte_for_byte() -> None:
    def run() -> list[bytes]:
        bench, seen = Bench(), []
        bench.link.tamper = lambda frame, way: seen.append(frame) or frame
        bench.secure()
        bench.port.dma_write(PF.requester_id, 0x9000, b"private", True)
        bench.fabric.memory_read(HIGH_BAR, 100, t_bit=True)
        return seen

    assert run() == run()
