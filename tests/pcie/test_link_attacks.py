"""Attacks on the link between two ports: what is changed, lost, repeated, reordered or forged there."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcie.link_bench import HIGH_BAR, PF, RP, STREAM, Bench
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.capabilities.ide import IdeCapability
from teeio.pcie.flit_mode import FlitMode
from teeio.pcie.ide_port import InsecureCause
from teeio.pcie.ide_tlp import ide_fail, ide_sync
from teeio.pcie.link import Way, described
from teeio.pcie.link_mode import NON_FLIT
from teeio.pcie.seams import UNSUPPORTED
from teeio.pcie.tlp import (
    CompletionStatus,
    completion,
)


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


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=40), st.binary(max_size=24).map(lambda b: b"\x92\0\5" + b)), max_size=4))
def test_no_bytes_on_the_link_make_a_port_raise(frames: list[bytes]) -> None:
    bench = Bench().secure()
    for frame in frames:
        bench.link.inject(frame, Way.UP)
        bench.link.inject(frame, Way.DOWN)
        for mode in (NON_FLIT, FlitMode()):
            described(frame, "a", "b", mode)


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


def test_a_fail_for_somebody_else_is_not_ours(bench: Bench) -> None:
    bench.secure()
    bench.link.inject(ide_fail(PF.requester_id, 0x0777, STREAM).encode(), Way.UP)
    assert bench.state() == (True, True)
