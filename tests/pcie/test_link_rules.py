"""What the published specifications leave open on the link, and the rules that close it (CERT VU#404544)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcie.link_bench import HIGH_BAR, PF, RP, Bench
from pcie.test_ide import CPL, MRD, MWR, pair
from teeio.observe import TlpMoved
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.ide import SYNC_AT, Stream
from teeio.pcie.ide_key import IdeCheckFailed
from teeio.pcie.ide_tlp import SUB_STREAM_SHIFT, ide_escort, ide_sync
from teeio.pcie.link import Way
from teeio.pcie.link_rules import AS_PUBLISHED, CLOSED, LinkRules
from teeio.pcie.tlp import CompletionStatus, MessageCode, SubStream
from teeio.pcie.transfer import TAGS


def write(bench: Bench, times: int) -> None:
    for _ in range(times):
        assert bench.port.dma_write(PF.requester_id, 0, b"1234", True) is CompletionStatus.SC


@pytest.mark.parametrize(("rules", "messages"), [(AS_PUBLISHED, 2), (CLOSED, 4)])
def test_long_runs_of_writes_are_synchronized(rules: LinkRules, messages: int) -> None:
    bench = Bench(rules).secure()
    write(bench, 600)
    assert len([event for event in bench.events if isinstance(event, TlpMoved) and event.kind == "Msg"]) == messages
    assert bench.port.dma_read(PF.requester_id, 0, 4, True).data == b"1234"
    assert bench.fabric.memory_read(HIGH_BAR, 4, t_bit=True).ok
    assert bench.state() == (True, True)


class Hold:
    """Holds the frames of some sub-streams on their way up."""

    def __init__(self, *sub_streams: SubStream) -> None:
        self.sub_streams = sub_streams
        self.held: list[bytes] = []

    def __call__(self, frame: bytes, way: Way) -> bytes | None:
        if way is Way.DOWN or frame[0] != 0x92 or frame[3] >> SUB_STREAM_SHIFT & 7 not in self.sub_streams:
            return frame
        self.held.append(frame)
        return None


def read_by_device(bench: Bench) -> bool:
    return bench.port.dma_read(PF.requester_id, 0, 4, True).ok


def read_by_host(bench: Bench) -> bool:
    return bench.fabric.memory_read(HIGH_BAR, 4, t_bit=True).ok


@pytest.mark.parametrize("read", [read_by_device, read_by_host])
def test_as_published_reads_and_completions_pass_writes_that_a_sync_counts(read: object) -> None:
    bench = Bench(AS_PUBLISHED).secure()
    bench.link.tamper = hold = Hold(SubStream.PR)
    write(bench, SYNC_AT)
    assert len(hold.held) == SYNC_AT + 1
    assert read(bench)  # type: ignore[operator]
    bench.link.tamper = None
    for frame in hold.held:
        bench.link.inject(frame, Way.UP)
    assert bench.state() == (True, True), "nobody will ever know"
    assert bench.host.memory[:4] == b"1234"


@pytest.mark.parametrize("read", [read_by_device, read_by_host])
def test_escorts_that_pass_writes_are_noticed(read: object) -> None:
    bench = Bench().secure()
    bench.link.tamper = Hold(SubStream.PR)
    write(bench, SYNC_AT - 1)
    assert bench.state() == (True, True)
    write(bench, 1)
    assert bench.state() == (False, False)
    assert not read(bench)  # type: ignore[operator]
    assert bench.root_config.need(AerCapability).recorded(Uncorrectable.IDE_CHECK_FAILED)


@pytest.mark.parametrize(("read", "escort"), [(read_by_device, SubStream.NPR), (read_by_host, SubStream.CPL)])
def test_a_tlp_without_its_escort_is_noticed(read: object, escort: SubStream) -> None:
    bench = Bench().secure()
    bench.link.tamper = hold = Hold(*SubStream)
    write(bench, SYNC_AT)
    assert [frame[3] >> SUB_STREAM_SHIFT for frame in hold.held[-2:]] == [SubStream.NPR, SubStream.CPL]
    bench.link.tamper = Hold(*set(SubStream) - {escort})
    assert not read(bench)  # type: ignore[operator]
    assert bench.state() == (False, False)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([MWR] * 20 + [MRD, CPL]), min_size=SYNC_AT - 40, max_size=2 * SYNC_AT),
    st.integers(0, 2 * SYNC_AT),
)
def test_with_escorts_nothing_passes_a_posted_tlp(tlps: list[object], held_from: int) -> None:
    near, far = pair(escorts=True)
    posted_held = False
    for number, tlp in enumerate(tlps):
        frames = [near.seal(tlp)]  # type: ignore[arg-type]
        if near.sync_due:
            frames += near.seal_escorts(PF.requester_id, RP.requester_id)
        for frame in frames:
            if frame[3] >> SUB_STREAM_SHIFT == SubStream.PR and number >= held_from:
                posted_held = True
            elif posted_held:
                with pytest.raises(IdeCheckFailed):
                    far.open(frame)
                return
            else:
                far.open(frame)


def test_a_sync_is_no_substitute_for_escorts() -> None:
    near, far = pair(escorts=True)
    with pytest.raises(IdeCheckFailed, match="has escorts"):
        far.open(near.seal_sync(PF.requester_id, RP.requester_id))


def test_an_escort_is_nothing_to_a_stream_as_published() -> None:
    near, far = pair()
    npr, _ = near.seal_escorts(PF.requester_id, RP.requester_id)
    with pytest.raises(IdeCheckFailed, match="sub-stream"):
        far.open(npr)


def test_only_escorts_may_leave_their_class() -> None:
    near, far = pair(escorts=True)
    sync = ide_sync(PF.requester_id, RP.requester_id, 1, 1)
    near._classes = bytes([SubStream.NPR]) * 256
    with pytest.raises(IdeCheckFailed, match="sub-stream"):
        far.open(near.seal(sync))
    assert Stream().secure is False


@pytest.mark.parametrize("code", [MessageCode.IDE_SYNC, MessageCode.IDE_ESCORT])
def test_messages_of_order_without_ide_are_ignored(code: MessageCode) -> None:
    bench = Bench().secure()
    made = ide_escort(PF.requester_id, RP.requester_id)
    if code is MessageCode.IDE_SYNC:
        made = ide_sync(PF.requester_id, RP.requester_id, 200, 200)
    bench.link.inject(made.encode(), Way.UP)
    assert f"{code.name} without IDE" in [event.what for event in bench.events if hasattr(event, "what")]
    assert bench.state() == (True, True)
    assert read_by_device(bench)


@pytest.mark.parametrize(("rules", "crosses"), [(AS_PUBLISHED, True), (CLOSED, False)])
def test_a_late_completion(rules: LinkRules, crosses: bool) -> None:
    bench = Bench(rules).secure()
    bench.device.memory[:8] = b"A's----B"
    bench.link.tamper = hold = Hold(SubStream.CPL)
    assert not bench.fabric.memory_read(HIGH_BAR, 4, t_bit=True).ok
    bench.link.tamper = None
    for _ in range(TAGS - 1):
        bench.fabric.config_read(PF, 0, 4)

    def let_go(frame: bytes, way: Way) -> bytes:
        while way is Way.DOWN and hold.held:
            bench.link.inject(hold.held.pop(), Way.UP)
        return frame

    bench.link.tamper = let_go
    reply = bench.fabric.memory_read(HIGH_BAR + 4, 4, t_bit=True)
    assert reply.data == (b"A's-" if crosses else b"---B")
    assert bench.root_config.need(AerCapability).recorded(Uncorrectable.UNEXPECTED_COMPLETION)
