"""IDE between ports in Flit Mode: traffic with all options, tampering, retraining, and switches between two modes."""

from __future__ import annotations

import pytest

from pcie import link_bench
from pcie.link_bench import HIGH_BAR, PF, RP, STREAM, Bench
from pcie.switch_bench import DEVICE, SwitchBench
from teeio.observe import TlpMoved
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.pcie.flit_decoding import take
from teeio.pcie.flit_types import Trailer
from teeio.pcie.ide import KeySet, Stream
from teeio.pcie.ide_port import InsecureCause
from teeio.pcie.link import Way
from teeio.pcie.tlp import CompletionStatus, Tlp, memory_write

BOTH = (True, True)
SECRET = b"a secret that nobody on the link may see"


@pytest.fixture
def bench() -> Bench:
    return Bench(flit_mode=BOTH)


def frames_of(bench: Bench) -> list[bytes]:
    seen: list[bytes] = []
    bench.link.tamper = lambda frame, way: seen.append(frame) or frame
    return seen


def sealed(bench: Bench, tlp: Tlp) -> bytes:
    """Give the frame that a TLP becomes at the root port; it does not arrive."""
    frames: list[bytes] = []
    link = bench.uplink if isinstance(bench, SwitchBench) else bench.link
    link.tamper = lambda frame, way: frames.append(frame)
    bench.root.ide.transmit(tlp, True)
    link.tamper = None
    return frames[0]


@pytest.mark.parametrize("control", [{}, {"pcrc": 1}, {"pcrc": 1, "pr_aggregation": 3, "cpl_aggregation": 3}])
def test_all_options_carry_the_same(bench: Bench, control: dict[str, int]) -> None:
    bench.secure(**control)
    frames = frames_of(bench)
    data = SECRET * 40
    assert bench.fabric.memory_write(HIGH_BAR + 1, data, t_bit=True) is CompletionStatus.SC
    assert bench.fabric.memory_read(HIGH_BAR + 1, len(data), t_bit=True).data == data
    assert bench.port.dma_write(PF.requester_id, 0x9001, data, True) is CompletionStatus.SC
    assert bench.port.dma_read(PF.requester_id, 0x9001, len(data), True).data == data
    assert bench.state() == (True, True)
    assert not any(SECRET[:8] in frame for frame in frames)
    trailers = {take(frame).trailer for frame in frames}
    assert (Trailer.PCRC_AND_MAC in trailers) is ("pcrc" in control)
    assert (Trailer.NONE in trailers) is ("pr_aggregation" in control)
    moved = {event.protection for event in bench.events if isinstance(event, TlpMoved)}
    assert moved == {"plain", "IDE T=1"}


def test_nothing_of_a_write_that_was_tampered_with_arrives(bench: Bench) -> None:
    """Every bit of an IDE write flipped on the way: some make it another TLP, none of those is taken for it either."""
    write = memory_write(RP.requester_id, 0, HIGH_BAR + 1, SECRET)
    frame = sealed(bench.secure(), write)
    for bit in range(8 * len(frame)):
        bench = Bench(flit_mode=BOTH).secure()

        def flip(frame: bytes, way: Way, bit: int = bit) -> bytes:
            spoilt = bytearray(frame)
            if way is Way.DOWN:
                spoilt[bit // 8] ^= 1 << bit % 8
            return bytes(spoilt)

        bench.link.tamper = flip
        bench.root.ide.transmit(write, True)
        bench.link.tamper = None
        assert not any(bench.device.memory), bit
        assert not bench.fabric.memory_read(HIGH_BAR, 4, t_bit=True).ok, bit
        assert False in bench.state(), bit


def test_an_ide_fail_tells_the_partner(bench: Bench) -> None:
    bench.secure()
    bench.port.ide.make_insecure(STREAM)
    assert bench.state() == (False, False)
    assert ("root", STREAM, InsecureCause.FAIL_RECEIVED) in bench.insecure


def test_long_runs_are_synchronized(bench: Bench) -> None:
    bench.secure()
    for _ in range(40):
        bench.port.dma_write(PF.requester_id, 0x4000, bytes(4096), True)
    assert bench.port.dma_read(PF.requester_id, 0x4000, 4, True).ok


def test_keys_are_refreshed_between_requests_and_completions(bench: Bench) -> None:
    bench.secure()

    def refresh(frame: bytes, way: Way) -> bytes:
        if not refreshed:
            refreshed.append(frame)
            bench.program(key_set=KeySet.K1)
            bench.go(key_set=KeySet.K1)
        fields = bench.link.mode.ide_fields(frame)
        assert fields is not None
        key_sets.append(fields.key_set)
        return frame

    refreshed: list[bytes] = []
    key_sets: list[int] = []
    bench.link.tamper = refresh
    for _ in range(3):
        assert bench.fabric.memory_read(HIGH_BAR, 4, t_bit=True).ok
    assert key_sets == [0, 1, 1, 1, 1, 1]
    assert bench.state() == (True, True)


def test_a_stream_is_of_the_mode_in_which_it_is_enabled(bench: Bench) -> None:
    bench.secure()
    at = bench.root_config.need(ExpressCapability).base + 0x10
    bench.fabric.config_write(RP, at, 2, 1 << 13)
    bench.link.fail()
    bench.link.restore()
    assert bench.state() == (False, False)
    assert bench.port.dma_write(PF.requester_id, 0x9000, SECRET, True) is CompletionStatus.UR
    bench.enable(0)
    bench.program(salt=1)
    bench.go()
    bench.enable()
    assert bench.state() == (True, True)
    streams = [bound.stream for port in (bench.root, bench.port) for bound in port.ide._bound if bound.id == STREAM]
    assert [type(stream) for stream in streams] == [Stream, Stream]
    frames = frames_of(bench)
    assert bench.port.dma_write(PF.requester_id, 0x9000, SECRET, True) is CompletionStatus.SC
    assert {frame[0] for frame in frames} == {0x92}


def test_errors_of_ide_log_header_base_and_ohc(bench: Bench) -> None:
    bench.secure()
    frames: list[bytes] = []
    bench.link.tamper = lambda frame, way: frames.append(frame) or frame[:-1] + bytes([frame[-1] ^ 1])
    bench.fabric.memory_write(HIGH_BAR, SECRET, t_bit=True)
    aer = bench.device.config.need(AerCapability)
    assert aer.recorded(Uncorrectable.IDE_CHECK_FAILED)
    log = b"".join(aer.value(register).to_bytes(4, "big") for register in aer.HEADER_LOG)
    assert log == frames[0][:16]
    assert aer.get(aer.CONTROL, "flit") == 1


def test_an_unknown_stream_is_misrouted(bench: Bench) -> None:
    bench.secure()
    frame = bytes.fromhex("6004a004 01000000 00000040 00000000 00000709") + bytes(28)
    bench.link.inject(frame, Way.DOWN)
    assert bench.device.config.need(AerCapability).recorded(Uncorrectable.MISROUTED_IDE_TLP)
    assert bench.state() == (True, True)


# -- through a switch


@pytest.fixture
def switched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SwitchBench:
    monkeypatch.setattr(link_bench, "PF", DEVICE)
    monkeypatch.setattr(SwitchBench, "switch_flit_mode", True)
    return SwitchBench(flit_mode=getattr(request, "param", BOTH))


def test_selective_streams_flow_through_in_flit_mode(switched: SwitchBench) -> None:
    switched.flow_through().secure()
    above: list[bytes] = []
    below: list[bytes] = []
    switched.uplink.tamper = lambda frame, way: above.append(frame) or frame
    switched.link.tamper = lambda frame, way: below.append(frame) or frame
    assert switched.fabric.memory_write(HIGH_BAR, SECRET, t_bit=True) is CompletionStatus.SC
    assert switched.fabric.memory_read(HIGH_BAR, len(SECRET), t_bit=True).data == SECRET
    assert switched.port.dma_write(DEVICE.requester_id, 0x9000, SECRET, True) is CompletionStatus.SC
    assert sorted(above) == sorted(below)
    assert {frame[2] >> 5 for frame in above} == {Trailer.MAC}
    assert switched.misrouted() == [False, False]


@pytest.mark.parametrize("switched", [(True, False), (False, True)], indirect=True)
@pytest.mark.parametrize("way", ["down", "up"])
def test_selective_streams_do_not_cross_from_one_mode_to_the_other(switched: SwitchBench, way: str) -> None:
    switched.flow_through().secure()
    if way == "down":
        assert not switched.fabric.memory_read(HIGH_BAR, 4, t_bit=True).ok
    else:
        switched.port.dma_write(DEVICE.requester_id, 0x9000, b"1234", True)
        assert switched.host.memory[0x9000:0x9004] == bytes(4)
    assert switched.misrouted() == [way == "down", way == "up"]
    assert switched.state() == (True, True), "misrouting changes no stream's state"
    assert switched.fabric.config_read(DEVICE, 0, 4) == 0x56781234


@pytest.mark.parametrize("switched", [(True, True), (True, False), (False, True)], indirect=True)
def test_link_streams_are_sealed_anew_in_the_mode_of_each_link(switched: SwitchBench) -> None:
    switched.link_streams()
    frames: list[tuple[bool, bytes]] = []
    for link in (switched.uplink, switched.link):
        link.tamper = lambda frame, way, link=link: (
            frames.append((link.mode.stream_of(frame) is not None, frame)) or frame
        )
    assert switched.fabric.memory_write(HIGH_BAR + 1, SECRET) is CompletionStatus.SC
    assert switched.fabric.memory_read(HIGH_BAR + 1, len(SECRET)).data == SECRET
    assert switched.port.dma_read(DEVICE.requester_id, 0x100, 200, False).ok
    assert all(sealed for sealed, _ in frames)
    assert not any(SECRET[:8] in frame for _, frame in frames)


def test_no_bytes_make_a_port_raise(switched: SwitchBench) -> None:
    switched.flow_through().secure()
    frame = sealed(switched, memory_write(RP.requester_id, 0, HIGH_BAR, SECRET))
    for at in range(24):
        for value in (0x00, 0xFF, frame[at] ^ 0x10):
            spoilt = frame[:at] + bytes([value]) + frame[at + 1 :]
            for cut in (len(spoilt), at, 4):
                switched.switch.arrived(switched.switch.upstream, spoilt[:cut])
                switched.port.receive_frame(spoilt[:cut])
