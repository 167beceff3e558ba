"""Links in Flit Mode without IDE: how they come up, what travels, what registers say, and a switch between two modes."""

from __future__ import annotations

import pytest

from pcie import link_bench
from pcie.link_bench import HIGH_BAR, PF, RP, Bench
from pcie.switch_bench import DEVICE, DOWNSTREAM, SwitchBench
from teeio.observe import Refused, TlpMoved
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.pcie.flit_mode import FlitMode
from teeio.pcie.flit_types import FLIT_TYPES
from teeio.pcie.link import Way
from teeio.pcie.seams import ABORTED
from teeio.pcie.tlp import CompletionStatus, Routing, Tlp, memory_read, memory_write, message

BOTH = (True, True)
LINK_CONTROL, LINK_STATUS_2 = 0x10, 0x32


def flit_status(bench: Bench) -> list[int]:
    spaces = (bench.root_config, bench.device.config)
    return [space.need(ExpressCapability).get(ExpressCapability.LINK_STATUS_2, "flit_mode") for space in spaces]


@pytest.mark.parametrize("support", [(False, False), (True, False), (False, True), (True, True)])
def test_a_link_is_in_flit_mode_if_both_ports_support_it(support: tuple[bool, bool]) -> None:
    bench = Bench(flit_mode=support)
    assert bench.link.mode.is_flit is all(support)
    assert flit_status(bench) == [int(all(support))] * 2
    at = bench.device.config.need(ExpressCapability).base + LINK_STATUS_2
    assert bench.fabric.config_read(PF, at, 2) == int(all(support)) << 10


def test_flit_mode_disable_counts_when_the_link_comes_up_again() -> None:
    bench = Bench(flit_mode=BOTH)
    at = bench.root_config.need(ExpressCapability).base + LINK_CONTROL
    bench.fabric.config_write(RP, at, 2, 1 << 13)
    assert bench.link.mode.is_flit
    for disabled in (True, False):
        bench.fabric.config_write(RP, at, 2, disabled << 13)
        bench.link.fail()
        bench.link.restore()
        assert bench.link.mode.is_flit is not disabled
        assert flit_status(bench) == [int(not disabled)] * 2
        assert bench.fabric.config_read(PF, 0, 4) == 0x56781234


def test_memory_and_configuration_in_flit_mode() -> None:
    bench = Bench(flit_mode=BOTH)
    frames: list[bytes] = []
    bench.link.tamper = lambda frame, way: frames.append(frame) or frame
    data = bytes(range(1, 201))
    assert bench.fabric.memory_write(HIGH_BAR + 3, data) is CompletionStatus.SC
    assert bench.fabric.memory_read(HIGH_BAR + 3, 200).data == data
    assert bench.port.dma_write(PF.requester_id, 0x103, data, False) is CompletionStatus.SC
    assert bench.port.dma_read(PF.requester_id, 0x103, 200, False).data == data
    assert bench.fabric.config_read(PF, 2, 2) == 0x5678
    assert bench.fabric.config_write(PF, 4, 2, 6) is CompletionStatus.SC
    bench.device.refuse = ABORTED
    assert bench.fabric.memory_read(HIGH_BAR, 4).status is CompletionStatus.CA
    assert {frame[0] for frame in frames} == {0x60, 0x20, 0x40, 0x03, 0x4A, 0x0A, 0x04, 0x44}
    assert all(FLIT_TYPES[frame[0]] for frame in frames)
    moved = [event for event in bench.events if isinstance(event, TlpMoved)][-len(frames) :]
    assert {event.kind for event in moved} == {"MWr", "MRd", "CplD", "Cpl", "CfgRd0", "CfgWr0"}
    assert {event.protection for event in moved} == {"plain"}


def test_errors_log_the_header_as_it_was_on_the_link() -> None:
    bench = Bench(flit_mode=BOTH)
    aer = bench.device.config.need(AerCapability)
    header = bytes.fromhex("03010001 00080000 70000000 00000006")
    bench.link.inject(header, Way.DOWN)  # to no BAR
    assert aer.recorded(Uncorrectable.UNSUPPORTED_REQUEST)
    assert b"".join(aer.value(register).to_bytes(4, "big") for register in aer.HEADER_LOG) == header
    assert aer.get(aer.CONTROL, "flit") == 1
    assert aer.get(aer.CONTROL, "logged_size") == 4
    bench.link.inject(bytes(12), Way.DOWN)
    assert aer.recorded(Uncorrectable.MALFORMED_TLP)
    base, left_over = bytes.fromhex("03000001 00080000 70000000"), b"payload."
    for support, tlp, size in ((BOTH, base, 3), ((False, False), memory_read(8, 0, 0x7000_0000, 4).encode(), 0)):
        bench = Bench(flit_mode=support)
        aer = bench.device.config.need(AerCapability)
        bench.link.inject(tlp + left_over, Way.DOWN)
        assert aer.recorded(Uncorrectable.MALFORMED_TLP)
        assert [aer.value(register) for register in aer.HEADER_LOG[2:]] == [0x7000_0000, 0], "no payload in the log"
        assert aer.get(aer.CONTROL, "logged_size") == size
    plain = Bench()
    plain.link.inject(memory_read(RP.requester_id, 0, 0x7000_0000, 4).encode(), Way.DOWN)
    assert plain.device.config.need(AerCapability).get(aer.CONTROL, "flit") == 0


def test_what_is_of_the_other_mode_is_malformed() -> None:
    tlp = memory_read(RP.requester_id, 0, 0x1000, 4)
    for support, frame in ((BOTH, tlp.encode()), ((False, False), FlitMode().encode(tlp))):
        bench = Bench(flit_mode=support)
        bench.link.inject(frame, Way.DOWN)
        assert bench.device.config.need(AerCapability).recorded(Uncorrectable.MALFORMED_TLP)


# -- a switch between two modes


@pytest.fixture(params=["above", "below", "both"])
def switched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SwitchBench:
    monkeypatch.setattr(link_bench, "PF", DEVICE)
    monkeypatch.setattr(SwitchBench, "switch_flit_mode", True)
    return SwitchBench(flit_mode=(request.param != "below", request.param != "above"))


def test_a_switch_puts_plain_tlps_into_the_mode_of_the_next_link(switched: SwitchBench) -> None:
    assert switched.uplink.mode.is_flit or switched.link.mode.is_flit
    data = bytes(range(1, 201))
    assert switched.fabric.memory_write(HIGH_BAR + 1, data) is CompletionStatus.SC
    assert switched.fabric.memory_read(HIGH_BAR + 1, 200).data == data
    assert switched.port.dma_write(DEVICE.requester_id, 0x101, data, False) is CompletionStatus.SC
    assert switched.port.dma_read(DEVICE.requester_id, 0x101, 200, False).data == data
    assert switched.fabric.config_read(DEVICE, 0, 4) == 0x56781234
    assert switched.fabric.config_read(DOWNSTREAM, 0, 4) == 0x5057_1AF4
    by_id = message(RP.requester_id, 0x7F, Routing.BY_ID, DEVICE.requester_id.to_bytes(2, "big") + bytes(6))
    switched.events.clear()
    switched.uplink.inject(switched.uplink.mode.encode(by_id), Way.DOWN)
    assert [event.target for event in switched.events if isinstance(event, TlpMoved)][-1] == "endpoint"


def test_a_prefix_without_a_place_in_flit_mode_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_bench, "PF", DEVICE)
    monkeypatch.setattr(SwitchBench, "switch_flit_mode", True)
    bench = SwitchBench(flit_mode=(False, True))
    tlp: Tlp = memory_read(RP.requester_id, 0, HIGH_BAR, 4)._replace(prefixes=bytes.fromhex("93000000"))
    bench.uplink.inject(tlp.encode(), Way.DOWN)
    assert bench.switch.upstream.aer.recorded(Uncorrectable.TLP_PREFIX_BLOCKED)
    assert bench.device.asked == []
    assert [event.rule for event in bench.events if isinstance(event, Refused)] == ["TLP_PREFIX_BLOCKED"]


def test_a_tlp_with_more_prefixes_than_non_flit_mode_has_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_bench, "PF", DEVICE)
    monkeypatch.setattr(SwitchBench, "switch_flit_mode", True)
    bench = SwitchBench(flit_mode=(True, False))
    for vendor_prefixes, rules in ((3, []), (4, ["TLP_PREFIX_BLOCKED"])):
        prefixes = bytes.fromhex("91000001") + vendor_prefixes * bytes.fromhex("9e000000")
        tlp: Tlp = memory_write(RP.requester_id, 0, HIGH_BAR, b"1234")._replace(prefixes=prefixes)
        bench.uplink.inject(bench.uplink.mode.encode(tlp), Way.DOWN)
        assert [event.rule for event in bench.events if isinstance(event, Refused)] == rules
    assert len(bench.device.asked) == 1
