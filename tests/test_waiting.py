"""Who waits on a platform lets its time pass, for every device and whatever its clock is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from teeio.abi import HypercallResult
from teeio.abi.hypercalls import TdvmcallMapGpa
from teeio.abi.statuses import TdcmStatus
from teeio.device.configuration import Configuration
from teeio.guest.tvm import POLL_INTERVAL
from teeio.platform import Platform

SECONDS = 3.0
MEMORY = 1 << 20


@pytest.mark.parametrize("clock", [None, lambda: 1.8e9], ids=["its own clock", "a clock that stands"])
def test_a_device_that_is_not_ready_is_waited_for(clock: Callable[[], float] | None) -> None:
    platform = Platform.assemble(seed=1, clock=clock, memory_size=MEMORY, others=[Configuration().another(1)])
    pf, _ = platform.vmm.bus.enumerate()
    began = platform.now()
    platform.device.measurements.ready_at = began + SECONDS
    platform.vmm.pci_tsm.connect(pf, began)
    assert SECONDS <= platform.now() - began < 2 * SECONDS
    assert {device.now for device in platform.devices} == {platform.device.now}
    assert platform.device.now >= began + SECONDS
    platform.vmm.pci_tsm.disconnect(pf, platform.now())


def test_a_hypercall_that_takes_its_time_takes_the_platforms() -> None:
    platform = Platform.assemble(seed=1, clock=lambda: 1.8e9, memory_size=MEMORY)
    tvm = platform.launch(memory_size=16 << 12).tvm
    began = platform.now()
    asked: list[float] = []

    def slow(call: TdvmcallMapGpa, now: float) -> HypercallResult[None]:
        asked.append(now - began)
        return HypercallResult(TdcmStatus.DONE if len(asked) > 3 else TdcmStatus.WAIT)

    tvm.ask(TdvmcallMapGpa(gpa=0, size=4096, shared=True), slow, began)
    assert asked == pytest.approx([0, POLL_INTERVAL, 2 * POLL_INTERVAL, 3 * POLL_INTERVAL], abs=1e-6)
    assert platform.now() - began == pytest.approx(3 * POLL_INTERVAL, abs=1e-6)


def test_what_is_past_is_not_waited_for() -> None:
    platform = Platform.assemble(seed=1, clock=lambda: 1.8e9, memory_size=MEMORY)
    assert platform.wait(1.0) == 1.8e9
    assert platform.waited == 0
