"""What a port's IDE capability lacks: its control fields are reserved, and what comes all the same is a failed check."""

from __future__ import annotations

import pytest

from pcie.link_bench import HIGH_BAR, PF, RP, STREAM, Bench
from pcie.test_traffic_options import AGGREGATED, frames_of
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.capabilities.ide import FEATURE_OF, IdeCapability
from teeio.pcie.flit_decoding import take
from teeio.pcie.flit_types import Trailer
from teeio.pcie.ide_tlp import M_FLAG, P_FLAG
from teeio.pcie.tlp import CompletionStatus, config_read, memory_write

FLIT = pytest.mark.parametrize("flit", [False, True], ids=["Non-Flit", "Flit"])
FEATURES = sorted(set(FEATURE_OF.values()))
ALL = {"pcrc": 1, **AGGREGATED}
NONE = dict.fromkeys(FEATURES, False)


def made(flit: bool, root: dict[str, bool], device: dict[str, bool]) -> Bench:
    return Bench(flit_mode=(flit, flit), features=(root, device))


def options_of(frame: bytes, flit: bool) -> tuple[bool, bool]:
    """Tell whether a frame has a MAC, and a PCRC."""
    if flit:
        trailer = take(frame).trailer
        return trailer is not Trailer.NONE, trailer is Trailer.PCRC_AND_MAC
    return bool(frame[3] & M_FLAG), bool(frame[3] & P_FLAG)


def send(bench: Bench, way: str, size: int = 1024) -> None:
    if way == "up":
        bench.port.dma_write(PF.requester_id, 0x9000, b"\xa5" * size, True)
    else:
        bench.fabric.memory_write(HIGH_BAR, b"\xa5" * size, t_bit=True)


@FLIT
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize(("feature", "control"), [("aggregation", AGGREGATED), ("pcrc", {"pcrc": 1})])
def test_what_the_receiver_does_not_support_is_a_failed_check(
    flit: bool, way: str, feature: str, control: dict[str, int]
) -> None:
    lacks: dict[str, bool] = {feature: False}
    bench = made(flit, lacks if way == "up" else {}, lacks if way == "down" else {}).secure(**control)
    send(bench, way)
    assert bench.state() == (False, False)
    receiver, memory = (
        (bench.root_config, bench.host.memory) if way == "up" else (bench.device.config, bench.device.memory)
    )
    assert receiver.need(AerCapability).recorded(Uncorrectable.IDE_CHECK_FAILED)
    assert 0xA5 not in memory
    rule = "support aggregation" if feature == "aggregation" else "PCRC is off"
    assert any(rule in event.what for event in bench.events if hasattr(event, "what"))


@FLIT
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_port_without_aggregation_sends_to_one_with_it(flit: bool, way: str) -> None:
    """Its own register says one TLP to a unit, whatever was written; the other may not send it units."""
    lacks = {"aggregation": False}
    bench = made(flit, lacks if way == "up" else {}, lacks if way == "down" else {}).secure(**AGGREGATED)
    frames = frames_of(bench)
    send(bench, "down" if way == "up" else "up")
    assert len(frames) >= 4
    assert {options_of(frame, flit)[0] for frame in frames} == {True}
    assert bench.state() == (True, True)


@FLIT
def test_two_ports_that_lack_the_same_are_as_if_nothing_had_been_written(flit: bool) -> None:
    bench = made(flit, NONE, NONE).secure(**ALL, tee_limited=1, configuration=1)
    frames = frames_of(bench)
    data = bytes(range(256)) * 4
    assert bench.fabric.memory_write(HIGH_BAR, data) is CompletionStatus.SC
    assert bench.fabric.memory_read(HIGH_BAR, len(data)).data == data
    assert bench.port.dma_write(PF.requester_id, 0x1000, data, True) is CompletionStatus.SC
    assert {options_of(frame, flit) for frame in frames} == {(True, False)}
    assert bench.root.ide.select(memory_write(RP.requester_id, 0, HIGH_BAR, b"1234")) == STREAM, "not TEE-Limited"
    assert bench.root.ide.select(config_read(8, 0, PF.requester_id, 0, type_1=True)) is None
    assert bench.state() == (True, True)


@pytest.mark.parametrize("feature", FEATURES)
def test_control_fields_of_an_absent_feature_are_reserved(feature: str) -> None:
    there = dict.fromkeys(FEATURES, True)
    capability = IdeCapability(1, 0, link=1, **{**there, feature: False})
    assert {name: bool(capability.get(IdeCapability.CAPABILITY, name)) for name in FEATURES} == {
        **there,
        feature: False,
    }
    for stream in capability.streams:
        names = {field.name for field in stream.control.fields}
        capability.write(stream.control.offset, 4, 0x00FF_FFFF & ~1)
        for field, needed in FEATURE_OF.items():
            if field in names:
                assert bool(capability.get(stream.control, field)) is (needed != feature), field
        assert capability.read(stream.control.offset, 4) == sum(
            field.mask
            for field in stream.control.fields
            if field.mask & 0x00FF_FFFE and FEATURE_OF.get(field.name) != feature
        )
