"""Traffic on a stream with its options: PCRC, aggregation, and keys that are refreshed while it flows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcie.link_bench import HIGH_BAR, PF, STREAM, Bench
from pcie.test_ide import CPL, MRD, MWR, distinct, go, load, pair
from teeio.observe import TlpMoved
from teeio.pcie.ide import Direction, KeySet
from teeio.pcie.ide_key import SlotState, StaleKey
from teeio.pcie.ide_tlp import K_FLAG, M_FLAG, P_FLAG
from teeio.pcie.link import Way
from teeio.pcie.tlp import CompletionStatus, SubStream, memory_write

AGGREGATED = {"pr_aggregation": 3, "npr_aggregation": 3, "cpl_aggregation": 3}


def frames_of(bench: Bench) -> list[bytes]:
    seen: list[bytes] = []
    bench.link.tamper = lambda frame, way: seen.append(frame) or frame
    return seen


# -- PCRC and aggregation


@pytest.mark.parametrize("control", [{}, {"pcrc": 1}, AGGREGATED, {"pcrc": 1, **AGGREGATED}, {"pr_aggregation": 1}])
def test_all_options_carry_the_same(bench: Bench, control: dict[str, int]) -> None:
    bench.secure(**control)
    data = bytes(range(256)) * 8
    assert bench.fabric.memory_write(HIGH_BAR, data, t_bit=True) is CompletionStatus.SC
    assert bench.fabric.memory_read(HIGH_BAR, len(data), t_bit=True).data == data
    assert bench.port.dma_write(PF.requester_id, 0x9001, data, True) is CompletionStatus.SC
    assert bench.port.dma_read(PF.requester_id, 0x9001, len(data), True).data == data
    assert bench.state() == (True, True)


def test_pcrc_is_on_every_tlp_with_payload(bench: Bench) -> None:
    bench.secure(pcrc=1)
    seen = frames_of(bench)
    bench.port.dma_write(PF.requester_id, 0x9000, bytes(512), True)
    assert bench.port.dma_read(PF.requester_id, 0x9000, 512, True).ok
    assert {bool(frame[3] & P_FLAG) for frame in seen if len(frame) > 64} == {True}
    assert {bool(frame[3] & P_FLAG) for frame in seen if len(frame) < 64} == {False}


@pytest.mark.parametrize(("code", "limit"), [(0, 1), (1, 2), (2, 4), (3, 8)])
def test_the_mac_comes_with_the_last_tlp_of_a_unit(bench: Bench, code: int, limit: int) -> None:
    bench.secure(pr_aggregation=code, cpl_aggregation=code)
    seen = frames_of(bench)
    bench.port.dma_write(PF.requester_id, 0x9000, bytes(4096), True)
    # Bytes of one unit's payload are limited to 256 DW, which are four TLPs of 256 bytes.
    size = min(limit, 1024 // bench.port.max_payload)
    writes = [bool(frame[3] & M_FLAG) for frame in seen]
    assert writes == ([False] * (size - 1) + [True]) * (len(writes) // size)
    seen.clear()
    assert bench.fabric.memory_read(HIGH_BAR, 512, t_bit=True).ok
    completions = [frame for frame in seen if frame[3] >> 4 == SubStream.CPL]
    assert len(completions) > 1
    assert sum(bool(frame[3] & M_FLAG) for frame in completions) == -(-len(completions) // size)


def test_a_run_over_two_streams_makes_units_of_each(bench: Bench) -> None:
    bench.secure(**AGGREGATED)
    writes = [memory_write(8, 0, address, b"1234") for address in (0x1000, HIGH_BAR, HIGH_BAR + 4, 0x2000)]
    bench.events.clear()
    assert bench.root.ide.transmit_run(writes)
    protections = [event.protection for event in bench.events if isinstance(event, TlpMoved)]
    assert protections == ["plain", "IDE T=0", "IDE T=0", "plain"]
    assert bench.device.asked == [(PF, False, STREAM)] * 2


def test_long_runs_in_units_are_synchronized_in_time(bench: Bench) -> None:
    bench.secure(**AGGREGATED)
    for _ in range(40):
        bench.port.dma_write(PF.requester_id, 0x4000, bytes(4096), True)
    assert bench.port.dma_read(PF.requester_id, 0x4000, 4, True).ok
    assert bench.state() == (True, True)


# -- key refresh


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_tlp_is_lost_when_keys_change_over_in_flight(data: st.DataObject) -> None:
    """TLPs wait on the link, in the order of their sub-stream, while both ends take up new keys, again and again."""
    near, far = pair()
    key_set = KeySet.K0
    waiting: dict[int, list[tuple[bytes, object]]] = {sub_stream: [] for sub_stream in SubStream}
    for round_number in range(data.draw(st.integers(1, 4))):
        for tlp in data.draw(st.lists(st.sampled_from([MWR, MRD, CPL]), max_size=6)):
            waiting[SubStream.PR if tlp is MWR else SubStream.NPR if tlp is MRD else SubStream.CPL].append(
                (near.seal(tlp, True), tlp)
            )
        following = KeySet(1 - key_set)
        for flip, stream in enumerate((near, far)):
            load(stream, following, lambda d, s, n=round_number: bytes([10 + n, d, s]) + bytes(29), bool(flip))
        for direction, stream in ((Direction.RX, far), (Direction.TX, near), (Direction.RX, near), (Direction.TX, far)):
            for sub_stream in SubStream:
                assert stream.set_go(following, direction, sub_stream)
        for tlp in (MWR, MRD, CPL):
            sub_stream = SubStream.PR if tlp is MWR else SubStream.NPR if tlp is MRD else SubStream.CPL
            frame = near.seal(tlp, True)
            assert bool(frame[3] & K_FLAG) is bool(following)
            waiting[sub_stream].append((frame, tlp))
        # Writes first: nothing may pass them.
        for sub_stream in SubStream:
            for frame, tlp in waiting[sub_stream]:
                assert far.open(frame) == (tlp, True)
            waiting[sub_stream].clear()
            assert far.slot(key_set, Direction.RX, sub_stream).state is SlotState.RETIRED
        for flip, stream in enumerate((near, far)):
            for direction in Direction:
                for sub_stream in SubStream:
                    stream.set_stop(key_set, Direction(1 - direction) if flip else direction, sub_stream)
        key_set = following
    assert near.secure
    assert far.secure


def test_both_sets_are_good_until_their_sub_stream_changes_over() -> None:
    near, far = pair()
    old_write, old_read = near.seal(MWR), near.seal(MRD)
    for flip, stream in enumerate((near, far)):
        load(stream, KeySet.K1, distinct(KeySet.K1), bool(flip))
        go(stream, KeySet.K1)
    new_write = near.seal(MWR)
    far.open(old_write)
    far.open(new_write)
    assert far.open(old_read)[0] == MRD, "the other sub-streams have not changed over yet"
    with pytest.raises(StaleKey):
        far.open(old_write)
    assert far.secure, "what is stale is dropped, and no more"


def test_a_refresh_between_requests_and_their_completions(bench: Bench) -> None:
    """The keys change while a read of the device is on its way: the completion comes under the new set."""
    bench.secure()
    done: list[int] = []

    def refresh(frame: bytes, way: Way) -> bytes:
        if way is Way.UP and not done:
            done.append(1)
            bench.program(key_set=KeySet.K1, salt=7)
            bench.go(key_set=KeySet.K1)
        return frame

    bench.link.tamper = refresh
    bench.host.memory[:4] = b"late"
    assert bench.port.dma_read(PF.requester_id, 0, 4, True).data == b"late"
    for number in range(50):
        assert bench.port.dma_write(PF.requester_id, 4 * number, number.to_bytes(4, "big"), True) is CompletionStatus.SC
    assert bench.host.memory[:200] == b"".join(number.to_bytes(4, "big") for number in range(50))
    assert bench.state() == (True, True)


def test_the_first_tlp_of_a_sub_stream_is_stale_after_the_change_as_well() -> None:
    near, far = pair()
    held = near.seal(MWR)
    for flip, stream in enumerate((near, far)):
        load(stream, KeySet.K1, distinct(KeySet.K1), bool(flip))
        go(stream, KeySet.K1)
    far.open(near.seal(MWR))
    with pytest.raises(StaleKey):
        far.open(held)
