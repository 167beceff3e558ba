"""Two ports on a link without IDE: routing, configuration, MMIO, DMA, interrupts, tags."""

from __future__ import annotations

import pytest

from pcie.link_bench import HIGH_BAR, PF, RP, Bench, Host
from teeio.errors import Misuse
from teeio.observe import Refused
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.capabilities.header import Type1Header
from teeio.pcie.capabilities.msix import MsixMessage
from teeio.pcie.capabilities.sriov import SriovCapability
from teeio.pcie.config_space import ConfigSpace
from teeio.pcie.fabric import Fabric
from teeio.pcie.link import Way
from teeio.pcie.ports import RootPort
from teeio.pcie.seams import ABORTED, UNSUPPORTED, Reply
from teeio.pcie.tlp import (
    CompletionStatus,
    Routing,
    config_read,
    memory_read,
    message,
)
from teeio.pcie.transfer import TAGS


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
    told = [event.what for event in bench.events if isinstance(event, Refused) and "no tag left" in event.what]
    assert len(told) == 300 - TAGS + 1, "nothing was sent, and that is not taken for another timeout"
    bench.link.fail()
    bench.link.restore()
    assert bench.port.dma_read(PF.requester_id, 0, 4, False).ok


def test_runs_repeat_byte_for_byte() -> None:
    def run() -> list[bytes]:
        bench, seen = Bench(), []
        bench.link.tamper = lambda frame, way: seen.append(frame) or frame
        bench.secure()
        bench.port.dma_write(PF.requester_id, 0x9000, b"private", True)
        bench.fabric.memory_read(HIGH_BAR, 100, t_bit=True)
        return seen

    assert run() == run()
