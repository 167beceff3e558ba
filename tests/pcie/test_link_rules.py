"""What the published specifications leave open on the link, and the rules that close it (CERT VU#404544)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcie.link_bench import HIGH_BAR, PF, RP, Bench
from pcie.test_ide import CPL, MRD, MWR, pair
from teeio.errors import Misuse
from teeio.observe import TlpMoved
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.ide import SYNC_AT, Stream
from teeio.pcie.ide_key import IdeCheckFailed
from teeio.pcie.ide_tlp import ESCORTED_FLAG, SUB_STREAM_SHIFT, ide_escort, ide_sync
from teeio.pcie.link import Way
from teeio.pcie.link_rules import AS_PUBLISHED, CLOSED, LinkRules
from teeio.pcie.tlp import CompletionStatus, MessageCode, SubStream, Tlp
from teeio.pcie.transfer import TAGS


def write(bench: Bench, times: int) -> None:
    for _ in range(times):
        assert bench.port.dma_write(PF.requester_id, 0, b"1234", True) is CompletionStatus.SC


@pytest.mark.parametrize(("rules", "escorts"), [(AS_PUBLISHED, 0), (CLOSED, 1)])
def test_long_runs_of_writes_are_synchronized(rules: LinkRules, escorts: int) -> None:
    bench = Bench(rules).secure()

    def messages() -> int:
        return len([event for event in bench.events if isinstance(event, TlpMoved) and event.kind == "Msg"])

    write(bench, 600)
    assert messages() == 2
    for _ in range(3):
        assert read_by_device(bench)
        assert messages() == 2 + escorts, "the next NPR is escorted, no other"
    for _ in range(3):
        assert read_by_host(bench)
        assert messages() == 2 + 2 * escorts, "and so is the next CPL"
    assert bench.port.dma_read(PF.requester_id, 0, 4, True).data == b"1234"
    assert bench.fabric.memory_read(HIGH_BAR, 4, t_bit=True).ok
    assert bench.state() == (True, True)


def sent(stream: Stream, tlp: Tlp) -> list[bytes]:
    """Give the frames that go when a TLP is sent: with what a port sends before and after it."""
    whose = PF.requester_id, RP.requester_id
    frames = [stream.seal_escort(*whose, tlp.sub_stream)] if stream.owes_escort(tlp) else []
    frames.append(stream.seal(tlp))
    return [*frames, stream.seal_sync(*whose)] if stream.sync_due else frames


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
def test_tlps_that_pass_writes_that_a_sync_counts_are_noticed(read: object) -> None:
    bench = Bench().secure()
    bench.link.tamper = Hold(SubStream.PR)
    write(bench, SYNC_AT)
    assert bench.state() == (True, True)
    assert not read(bench)  # type: ignore[operator]
    assert bench.state() == (False, False)
    assert bench.root_config.need(AerCapability).recorded(Uncorrectable.IDE_CHECK_FAILED)


@pytest.mark.parametrize(("read", "sub_stream"), [(read_by_device, SubStream.NPR), (read_by_host, SubStream.CPL)])
def test_an_escort_goes_right_before_the_tlp_that_says_so(read: object, sub_stream: SubStream) -> None:
    bench = Bench().secure()
    write(bench, SYNC_AT)
    bench.link.tamper = hold = Hold(*SubStream)
    assert not read(bench)  # type: ignore[operator]
    assert [frame[3] >> SUB_STREAM_SHIFT & 7 for frame in hold.held] == [SubStream.PR, sub_stream]
    assert [bool(frame[3] & ESCORTED_FLAG) for frame in hold.held] == [False, True]
    assert (hold.held[0][10], hold.held[0][11]) == (sub_stream, MessageCode.IDE_ESCORT)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([MWR] * 20 + [MRD, CPL]), min_size=SYNC_AT - 40, max_size=2 * SYNC_AT),
    st.integers(0, 2 * SYNC_AT),
)
def test_with_escorts_nothing_passes_a_posted_tlp(tlps: list[Tlp], held_from: int) -> None:
    near, far = pair(escorts=True)
    posted_held = False
    for number, tlp in enumerate(tlps):
        frames = sent(near, tlp)
        for frame in frames:
            if frame[3] >> SUB_STREAM_SHIFT == SubStream.PR and number >= held_from:
                posted_held = True
            elif posted_held:
                with pytest.raises(IdeCheckFailed):
                    far.open(frame)
                return
            else:
                far.open(frame)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([MWR] * 8 + [MRD, CPL]), max_size=40),
    st.lists(st.integers(0, 40), max_size=6),
    st.data(),
)
def test_with_escorts_all_that_may_pass_passes(tlps: list[Tlp], syncs: list[int], data: st.DataObject) -> None:
    """Posted TLPs may pass all others, and those of NPR and CPL each other: no order of that kind is refused."""
    near, far = pair(escorts=True)
    waiting: dict[int, list[tuple[int, bytes]]] = {sub_stream: [] for sub_stream in SubStream}
    number = 0
    for place, tlp in enumerate(tlps):
        frames = sent(near, tlp)
        if place in syncs:
            frames.append(near.seal_sync(PF.requester_id, RP.requester_id))
        for frame in frames:
            waiting[frame[3] >> SUB_STREAM_SHIFT & 7].append((number, frame))
            number += 1
    while any(waiting.values()):
        posted = waiting[SubStream.PR]
        free = [queue for queue in waiting.values() if queue and (not posted or queue[0][0] <= posted[0][0])]
        far.open(data.draw(st.sampled_from(free)).pop(0)[1])
    assert far.secure


@pytest.mark.parametrize(("near_has", "far_has"), [(True, False), (False, True)])
def test_a_partner_as_published_is_understood(near_has: bool, far_has: bool) -> None:
    """Who knows no escorts takes no notice of them; who has them takes the plain IDE Sync of one who does not."""
    near, _ = pair(escorts=near_has)
    _, far = pair(escorts=far_has)
    for tlp in [MWR] * (3 * SYNC_AT) + [MRD, CPL, MRD, MWR, CPL]:
        for frame in sent(near, tlp):
            far.open(frame)
    assert far.secure


def test_a_tlp_that_owes_an_escort_is_not_sealed_without() -> None:
    near, _ = pair(escorts=True)
    near.seal_sync(PF.requester_id, RP.requester_id)
    for tlp in (MRD, CPL):
        with pytest.raises(Misuse, match="an IDE Escort must go first"):
            near.seal(tlp)
    near.seal(MWR)


@pytest.mark.parametrize("tlp", [MRD, CPL])
@pytest.mark.parametrize("escorted", [(), ("other",), ("own", "other")])
def test_an_escort_is_for_one_tlp_of_its_own_sub_stream(tlp: Tlp, escorted: tuple[str, ...]) -> None:
    near, far = pair(escorts=True)
    own = tlp.sub_stream
    for whose in escorted:
        sub_stream = own if whose == "own" else SubStream(3 - own)
        far.open(near.seal_escort(PF.requester_id, RP.requester_id, sub_stream))
    if "own" in escorted:
        far.open(near.seal(tlp))
    near._escorts[own - 1] = ESCORTED_FLAG
    with pytest.raises(IdeCheckFailed, match="without its IDE Escort"):
        far.open(near.seal(tlp))


@pytest.mark.parametrize("tlp", [MRD, CPL])
def test_the_mark_of_an_escorted_tlp_cannot_be_taken_off(tlp: Tlp) -> None:
    near, far = pair(escorts=True)
    near.seal_sync(PF.requester_id, RP.requester_id)
    frame = bytearray(sent(near, tlp)[1])
    frame[3] ^= ESCORTED_FLAG
    with pytest.raises(IdeCheckFailed):
        far.open(bytes(frame))


@pytest.mark.parametrize("code", [0, 3])
def test_an_escort_for_no_sub_stream_counts_for_none(code: int) -> None:
    near, far = pair(escorts=True)
    far.open(near.seal(ide_escort(PF.requester_id, RP.requester_id, code)))
    assert [inbound.escorts for inbound in far._inbound] == [0, 0, 0]


@pytest.mark.parametrize("code", [MessageCode.IDE_SYNC, MessageCode.IDE_ESCORT])
def test_messages_of_order_without_ide_are_ignored(code: MessageCode) -> None:
    bench = Bench().secure()
    made = ide_escort(PF.requester_id, RP.requester_id, SubStream.NPR)
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
