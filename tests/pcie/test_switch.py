"""A switch between root port and endpoint: its own configuration space, routing, IDE that flows through or ends at each port."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcie import link_bench
from pcie.link_bench import HIGH_BAR, RP, STREAM
from pcie.switch_bench import DEVICE, DOWNSTREAM, EMPTY, LINK_STREAM, UPSTREAM, SwitchBench
from teeio.errors import Misuse
from teeio.observe import TlpMoved
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.capabilities.ide import SwitchIdeCapability
from teeio.pcie.ide_tlp import ide_fail
from teeio.pcie.link import Way
from teeio.pcie.seams import UNSUPPORTED
from teeio.pcie.switch import Switch, SwitchPort
from teeio.pcie.tlp import CompletionStatus, Routing, completion, config_read, memory_write, message


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SwitchBench:
    monkeypatch.setattr(link_bench, "PF", DEVICE)
    return SwitchBench()


# -- configuration and routing


def test_its_ports_have_configuration_space(bench: SwitchBench) -> None:
    read = bench.fabric.config_read
    assert [read(port, 0, 4) for port in (UPSTREAM, DOWNSTREAM, EMPTY)] == [0x5057_1AF4] * 3
    assert [read(port, 0x0E, 1) for port in (UPSTREAM, DOWNSTREAM)] == [1, 1]
    assert read(DEVICE, 0, 4) == 0x56781234
    for nobody in (Bdf(0, 1, 1, 0), Bdf(0, 2, 2, 0), Bdf(0, 2, 0, 1), Bdf(0, 4, 0, 0), Bdf(0, 3, 0, 1)):
        assert read(nobody, 0, 4) == 0xFFFF_FFFF
        assert bench.fabric.config_write(nobody, 4, 2, 0) is CompletionStatus.UR
    assert not bench.root_config.need(AerCapability).recorded(Uncorrectable.COMPLETION_TIMEOUT)
    with pytest.raises(Misuse, match="33 downstream ports"):
        Switch(33)


def test_requests_reach_the_device_and_memory(bench: SwitchBench) -> None:
    data = bytes(range(200))
    assert bench.fabric.memory_write(HIGH_BAR, data) is CompletionStatus.SC
    assert bench.fabric.memory_read(HIGH_BAR, 200).data == data
    assert bench.port.dma_write(DEVICE.requester_id, 0x100, data, False) is CompletionStatus.SC
    assert bench.port.dma_read(DEVICE.requester_id, 0x100, 200, False).data == data
    # An address below the upstream port that no downstream port has, and a completion for nobody.
    bench.open_bridge(DOWNSTREAM, 0x00_03_03_02)
    bench.fabric.config_write(DOWNSTREAM, 0x04, 2, 0)
    assert bench.fabric.memory_read(HIGH_BAR, 4) == UNSUPPORTED
    assert bench.switch.upstream.aer.recorded(Uncorrectable.UNSUPPORTED_REQUEST)
    bench.link.inject(completion(DEVICE.requester_id, 0x0400, 1, b"1234").encode(), Way.UP)
    assert bench.switch.downstream[0].aer.recorded(Uncorrectable.UNEXPECTED_COMPLETION)


def test_messages_are_routed(bench: SwitchBench) -> None:
    bench.events.clear()
    bench.link.inject(message(DEVICE.requester_id, 0x7F, Routing.TO_ROOT_COMPLEX).encode(), Way.UP)
    bench.link.inject(message(DEVICE.requester_id, 0x7F, Routing.LOCAL).encode(), Way.UP)
    bench.uplink.inject(message(RP.requester_id, 0x7F, Routing.BROADCAST).encode(), Way.DOWN)
    by_id = message(RP.requester_id, 0x7F, Routing.BY_ID, DEVICE.requester_id.to_bytes(2, "big") + bytes(6))
    bench.uplink.inject(by_id.encode(), Way.DOWN)
    arrived = [event.target for event in bench.events if isinstance(event, TlpMoved)]
    assert arrived == [
        "switch, downstream port 0",
        "root port",
        "switch, downstream port 0",
        "switch, upstream port",
        "endpoint",
        "switch, upstream port",
        "endpoint",
    ]


def test_a_link_that_is_down_answers_at_once(bench: SwitchBench) -> None:
    bench.link.fail()
    assert bench.fabric.memory_read(HIGH_BAR, 4) == UNSUPPORTED
    assert bench.fabric.config_read(DEVICE, 0, 4) == 0xFFFF_FFFF
    assert not bench.root_config.need(AerCapability).recorded(Uncorrectable.COMPLETION_TIMEOUT)


# -- Selective streams flow through


def test_selective_streams_flow_through_untouched(bench: SwitchBench) -> None:
    bench.flow_through().secure()
    above: list[bytes] = []
    below: list[bytes] = []
    bench.uplink.tamper = lambda frame, way: above.append(frame) or frame
    bench.link.tamper = lambda frame, way: below.append(frame) or frame
    secret = b"nobody in the middle reads this"
    assert bench.fabric.memory_write(HIGH_BAR, secret, t_bit=True) is CompletionStatus.SC
    assert bench.fabric.memory_read(HIGH_BAR, len(secret), t_bit=True).data == secret
    assert bench.port.dma_write(DEVICE.requester_id, 0x9000, secret, True) is CompletionStatus.SC
    assert bench.port.dma_read(DEVICE.requester_id, 0x9000, len(secret), True).data == secret
    assert sorted(above) == sorted(below)
    assert {frame[0] for frame in above} == {0x92}
    assert not any(secret[:8] in frame for frame in above)
    assert bench.misrouted() == [False, False]


@pytest.mark.parametrize("way", ["down", "up"])
def test_without_flow_through_they_are_misrouted(bench: SwitchBench, way: str) -> None:
    bench.secure()
    if way == "down":
        assert not bench.fabric.memory_read(HIGH_BAR, 4, t_bit=True).ok
    else:
        bench.port.dma_write(DEVICE.requester_id, 0x9000, b"1234", True)
        assert bench.host.memory[0x9000:0x9004] == bytes(4)
    assert bench.misrouted() == [way == "down", way == "up"]
    assert bench.state() == (True, True), "misrouting changes no stream's state"


def test_flow_through_is_software_s_to_enable_at_both_ports(bench: SwitchBench) -> None:
    bench.flow_through().secure()
    at = bench.switch.upstream.capability.base + SwitchIdeCapability.CONTROL.offset
    bench.fabric.config_write(DOWNSTREAM, at, 4, 0)
    assert not bench.fabric.memory_read(HIGH_BAR, 4, t_bit=True).ok
    assert bench.misrouted() == [False, True]


def test_an_ide_tlp_to_nowhere_is_misrouted(bench: SwitchBench) -> None:
    bench.flow_through().secure()
    frame = bytes.fromhex("92000705") + memory_write(DEVICE.requester_id, 0, HIGH_BAR, b"1234").encode() + bytes(12)
    bench.link.inject(frame, Way.UP)
    assert bench.misrouted() == [False, True]


@pytest.mark.parametrize("times", [0, 2])
def test_what_the_switch_loses_or_repeats_is_noticed(bench: SwitchBench, times: int) -> None:
    bench.flow_through().secure()
    bench.uplink.tamper = lambda frame, way: [frame] * times if way is Way.UP else frame
    bench.port.dma_write(DEVICE.requester_id, 0x9000, b"1234", True)
    bench.uplink.tamper = None
    assert not bench.port.dma_read(DEVICE.requester_id, 0x9000, 4, True).ok
    assert bench.state() == (False, False)
    assert bench.root_config.need(AerCapability).recorded(Uncorrectable.IDE_CHECK_FAILED)


def test_ide_fail_passes_the_switch(bench: SwitchBench) -> None:
    bench.flow_through().secure()
    bench.port.ide.make_insecure(STREAM)
    assert bench.state() == (False, False)
    bench.link.inject(ide_fail(DEVICE.requester_id, UPSTREAM.requester_id, LINK_STREAM).encode(), Way.UP)


# -- Link streams end at each port


def test_link_streams_are_sealed_anew_at_each_hop(bench: SwitchBench) -> None:
    bench.link_streams()
    above: list[bytes] = []
    below: list[bytes] = []
    bench.uplink.tamper = lambda frame, way: above.append(frame) or frame
    bench.link.tamper = lambda frame, way: below.append(frame) or frame
    secret = b"in the clear inside the switch only"
    assert bench.fabric.memory_write(HIGH_BAR, secret) is CompletionStatus.SC
    assert bench.fabric.memory_read(HIGH_BAR, len(secret)).data == secret
    assert bench.port.dma_read(DEVICE.requester_id, 0x100, 200, False).ok
    assert bench.fabric.config_read(DEVICE, 0, 4) == 0x56781234
    assert bench.fabric.config_read(DOWNSTREAM, 0, 4) == 0x5057_1AF4
    assert {frame[0] for frame in above + below} == {0x92}
    assert not any(secret[:8] in frame for frame in above + below)
    assert not set(above) & set(below), "each hop has its own keys"


def test_a_link_ide_tlp_does_not_go_on_in_the_clear(bench: SwitchBench) -> None:
    bench.link_streams(hops=1)
    assert not bench.fabric.memory_read(HIGH_BAR, 4).ok
    assert bench.misrouted() == [False, True]
    assert bench.device.asked == []


def test_selective_streams_pass_beside_link_streams(bench: SwitchBench) -> None:
    bench.flow_through().link_streams().secure()
    assert bench.fabric.memory_write(HIGH_BAR, b"1234", t_bit=True) is CompletionStatus.SC
    assert bench.fabric.memory_read(HIGH_BAR, 4, t_bit=True).data == b"1234"
    assert bench.device.asked[-1][2] == STREAM


def test_a_link_stream_of_the_switch_fails_alone(bench: SwitchBench) -> None:
    bench.flow_through().link_streams().secure()
    frame = bytes.fromhex(f"9200{LINK_STREAM:02x}04") + config_read(DEVICE.requester_id, 0, 0, 0).encode() + bytes(12)
    bench.link.inject(frame, Way.UP)
    assert not bench.switch.downstream[0].ide.is_secure(LINK_STREAM)
    assert bench.switch.upstream.ide.is_secure(LINK_STREAM)
    assert bench.state() == (True, True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.one_of(st.binary(max_size=40), st.binary(max_size=24).map(lambda b: b"\x92\0\x05\5" + b)), max_size=4)
)
def test_no_bytes_make_the_switch_raise(bench: SwitchBench, frames: list[bytes]) -> None:
    for port in (bench.switch.upstream, *bench.switch.downstream):
        assert isinstance(port, SwitchPort)
        for frame in frames:
            bench.switch.arrived(port, frame)


def test_configuration_requests_are_of_type_0_on_the_bus_of_their_target(bench: SwitchBench) -> None:
    above: list[int] = []
    below: list[int] = []
    bench.uplink.tamper = lambda frame, way: above.append(frame[0]) or frame if way is Way.DOWN else frame
    bench.link.tamper = lambda frame, way: below.append(frame[0]) or frame if way is Way.DOWN else frame
    bench.fabric.config_read(DEVICE, 0, 4)
    bench.fabric.config_write(DEVICE, 4, 2, 6)
    bench.fabric.config_read(Bdf.of(0x308), 0, 4)
    assert (above, below) == ([0x05, 0x45, 0x05], [0x04, 0x44, 0x04])
