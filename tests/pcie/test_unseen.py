"""Configuration requests where nobody sees the link: nothing but the frames is missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcie.link_bench import PF, RP, Bench
from teeio.errors import Misuse
from teeio.observe import Audience, Event, TlpMoved, heard, ignore
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.ide import IdeCapability
from teeio.pcie.capabilities.sriov import SriovCapability
from teeio.pcie.link import Way
from teeio.pcie.tlp import CompletionStatus

FUNCTIONS = (RP, PF, Bdf(0, 1, 0, 1), Bdf(0, 1, 0, 7), Bdf(0, 2, 0, 0))
ACCESSES = st.lists(
    st.tuples(
        st.sampled_from(FUNCTIONS),
        st.one_of(st.integers(0, 0x180), st.integers(0, 0x1004)),
        st.sampled_from((1, 2, 4, 3)),
        st.none() | st.integers(0, 0xFFFFFFFF),
    ),
    max_size=30,
)


def played(bench: Bench, accesses: list[tuple[Bdf, int, int, int | None]]) -> list[object]:
    results: list[object] = []
    for function, offset, size, value in accesses:
        try:
            if value is None:
                results.append(bench.fabric.config_read(function, offset, size))
            else:
                results.append(bench.fabric.config_write(function, offset, size, value & (1 << 8 * size) - 1))
        except Misuse:
            results.append(Misuse)
    spaces = (bench.root_config, bench.device.config)
    return [*results, *(space.snapshot() for space in spaces), bench.insecure]


def quiet_bench() -> tuple[Bench, list[bytes]]:
    """Give a bench on whose link nobody is, and the frames that come to the device all the same."""
    bench, frames = Bench(), []
    bench.link.observer = ignore
    receive = bench.link.bottom.receiver
    assert receive is not None

    def arrived(frame: bytes) -> None:
        frames.append(frame)
        receive(frame)

    bench.link.bottom.receiver = arrived
    return bench, frames


@given(ACCESSES)
def test_what_nobody_sees_does_the_same(accesses: list[tuple[Bdf, int, int, int | None]]) -> None:
    seen = Bench()
    seen.link.tamper = lambda frame, way: frame
    assert played(quiet_bench()[0], accesses) == played(seen, accesses)


def test_a_frame_is_made_only_for_somebody() -> None:
    bench, frames = quiet_bench()
    assert bench.fabric.config_read(PF, 0, 4) == 0x56781234
    assert bench.fabric.config_write(PF, 4, 2, 6) is CompletionStatus.SC
    assert frames == []
    told: list[Event] = []
    bench.link.observer = told.append
    assert bench.fabric.config_read(PF, 0, 4) == 0x56781234
    assert len(frames) == 1
    assert [type(event) for event in told] == [TlpMoved, TlpMoved]
    bench.link.observer = ignore
    ways: list[Way] = []

    def pass_on(frame: bytes, way: Way) -> bytes:
        ways.append(way)
        return frame

    bench.link.tamper = pass_on
    assert bench.fabric.config_read(PF, 0, 4) == 0x56781234
    assert ways == [Way.DOWN, Way.UP]


def test_what_is_refused_goes_as_a_tlp() -> None:
    bench, frames = quiet_bench()
    assert bench.fabric.config_read(Bdf(0, 1, 0, 7), 0, 4) == 0xFFFFFFFF
    assert len(frames) == 1
    with pytest.raises(Misuse):
        bench.fabric.config_read(PF, 2, 4)


def test_a_request_that_belongs_to_a_link_stream_is_not_served_past_it() -> None:
    bench, frames = quiet_bench()
    block = bench.root_config.need(IdeCapability).streams[0]
    assert not block.selective
    block.block.write(block.control.offset, 4, block.control.put(0, enable=1, stream_id=1))
    assert bench.fabric.config_read(PF, 0, 4) == 0xFFFFFFFF
    assert frames == []


def test_a_device_is_told_its_bus_by_a_tlp() -> None:
    bench, frames = quiet_bench()
    bench.open_bridge(RP, 0x00_05_05_00)
    assert bench.fabric.config_read(Bdf(0, 5, 0, 0), 0, 4) == 0x56781234
    assert len(frames) == 1


def test_a_link_that_is_down_answers_nothing() -> None:
    bench, _ = quiet_bench()
    bench.link.fail()
    assert bench.fabric.config_read(PF, 0, 4) == 0xFFFFFFFF
    assert bench.fabric.config_write(PF, 4, 2, 0) is CompletionStatus.TIMEOUT


def test_bars_are_looked_up_anew_when_registers_change() -> None:
    bench, _ = quiet_bench()
    sriov, functions = bench.device.config.need(SriovCapability), bench.device.functions
    before = list(functions.decoded())
    bench.fabric.config_write(PF, 4, 2, 0)
    assert functions.decoded() == []
    bench.fabric.config_write(PF, 4, 2, 6)
    assert functions.decoded() == before
    bench.fabric.config_write(PF, sriov.base + 0x10, 2, 2)
    bench.fabric.config_write(PF, sriov.base + 0x08, 2, 9)
    assert len(functions.decoded()) > len(before)
    sriov.reset()
    assert functions.decoded() == before


def test_an_audience_is_heard_while_somebody_listens() -> None:
    audience, told = Audience(ignore), list[Event]()
    assert not heard(audience)
    assert not heard(ignore)
    audience.listeners.append(told.append)
    assert heard(audience)
    event = TlpMoved("a", "b", "MRd", "plain", 12)
    audience(event)
    assert told == [event]


REGISTERS = st.lists(
    st.tuples(st.sampled_from(FUNCTIONS), st.integers(0, 0x404), st.none() | st.integers(0, 0xFFFFFFFF)), max_size=20
)


def moved(bench: Bench, accesses: list[tuple[Bdf, int, int | None]], *, by_register: bool) -> list[object]:
    """Read DWs, written before where there is a value; give what came, the registers, and the next tag."""
    fabric, results = bench.fabric, list[object]()
    for function, dw, value in accesses:
        register = fabric.config_register(function, 4 * dw)
        try:
            if value is not None:
                register.write(value) if by_register else fabric.config_write(function, 4 * dw, 4, value)
            results.append(register.read() if by_register else fabric.config_read(function, 4 * dw, 4))
        except Misuse:
            results.append(Misuse)
    spaces = (bench.root_config, bench.device.config)
    tag = bench.root.requester._fresh(RP.requester_id)
    return [*results, *(space.snapshot() for space in spaces), bench.insecure, tag]


@given(REGISTERS)
def test_a_register_gives_what_its_accesses_give(accesses: list[tuple[Bdf, int, int | None]]) -> None:
    seen = Bench()
    seen.link.tamper = lambda frame, way: frame
    one_by_one = moved(seen, accesses, by_register=False)
    assert moved(quiet_bench()[0], accesses, by_register=True) == one_by_one
    assert moved(quiet_bench()[0], accesses, by_register=False) == one_by_one
    heard_of = Bench()
    heard_of.link.tamper = lambda frame, way: frame
    assert moved(heard_of, accesses, by_register=True) == one_by_one


def test_a_register_is_reached_by_tlps_where_somebody_listens() -> None:
    bench, frames = quiet_bench()
    quiet = bench.fabric.config_register(PF, 0)
    assert (quiet.read(), frames) == (0x56781234, [])
    bench.link.observer = lambda event: None
    assert bench.fabric.config_register(PF, 0).read() == 0x56781234
    assert len(frames) == 1
