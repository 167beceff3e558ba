"""Who keeps a session alive in which nobody has anything to say: the VMM, as time passes."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest

from teeio.device.configuration import Configuration
from teeio.errors import TeeioError
from teeio.observe import Event, MessageMoved
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.stage import Stage
from teeio.spdm.state import RESPONDER_CAPABILITIES, Settings
from teeio.tdisp.messages import InterfaceState

PERIOD = 10
IDLE = 3600.0


def stage_with(period: int, seen: list[Event] | None = None, clock: Callable[[], float] | None = None) -> Stage:
    settings = Settings(capabilities=RESPONDER_CAPABILITIES, heartbeat_period=period)
    platform = Platform.assemble(
        seed=5,
        clock=clock,
        configuration=Configuration(vfs=2, settings=settings),
        observer=(seen if seen is not None else []).append,
    )
    return Stage(platform, Journal())


def heartbeats(seen: list[Event]) -> int:
    return sum(isinstance(event, MessageMoved) and event.name == "HEARTBEAT" for event in seen)


@pytest.mark.parametrize("clock", [None, lambda: 1.8e9 + 0.1], ids=["its own clock", "a clock that stands"])
def test_an_idle_tvm_keeps_its_interface(clock: Callable[[], float] | None) -> None:
    stage = stage_with(PERIOD, clock=clock)
    work = stage.work
    stage.platform.wait(stage.now() + IDLE)
    assert stage.state() is InterfaceState.RUN
    work.copy()
    assert stage.running.check(stage.now()) is InterfaceState.RUN


def test_a_vmm_that_sends_no_heartbeats_loses_it() -> None:
    stage = stage_with(PERIOD)
    work = stage.work
    stage.platform.wait(stage.now() + 2 * PERIOD + 1, heartbeats=False)
    assert stage.state() is InterfaceState.ERROR
    with pytest.raises(TeeioError):
        work.copy()


def test_heartbeats_are_sent_as_they_are_due_and_no_more() -> None:
    seen: list[Event] = []
    stage = stage_with(PERIOD, seen)
    assert stage.running.phase
    assert heartbeats(seen) == 0
    stage.platform.wait(stage.now() + 10.1 * PERIOD)
    assert heartbeats(seen) in (20, 21)
    assert stage.vmm.keep_alive(stage.now()) > stage.now()


def test_without_a_period_none_is_sent() -> None:
    seen: list[Event] = []
    stage = stage_with(0, seen)
    assert stage.running.phase
    stage.platform.wait(stage.now() + IDLE)
    assert heartbeats(seen) == 0
    assert stage.vmm.keep_alive(stage.now()) == inf
    assert stage.state() is InterfaceState.RUN


def test_a_session_that_cannot_be_kept_does_no_harm() -> None:
    stage = stage_with(PERIOD)
    assert stage.running.phase
    stage.link.fail()
    stage.platform.wait(stage.now() + 10 * PERIOD)
    assert stage.running.check(stage.now()) is not InterfaceState.RUN
    stage.vmm.pci_tsm.disconnect(stage.pf, stage.now())
    assert stage.vmm.keep_alive(stage.now()) == inf
