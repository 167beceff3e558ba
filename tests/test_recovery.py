"""After whatever reset, with the TVM kept: driver off, unlock, the device connected anew, and the interface works again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from teeio.device.configuration import Configuration
from teeio.errors import TeeioError
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.vmm.vfio import UnitKind
from teeio.pcie.seams import ResetKind
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.stage import Stage, Work
from teeio.tdisp.messages import InterfaceState


def conventional(stage: Stage) -> None:
    stage.device.reset(ResetKind.CONVENTIONAL)


def link_down_and_up(stage: Stage) -> None:
    stage.link.fail()
    stage.link.restore()


def pf_flr(stage: Stage) -> None:
    stage.vmm.vfio.reset(stage.pf)


def vf_flr(stage: Stage) -> None:
    stage.vmm.vfio.reset(stage.vf)


def connect_anew(stage: Stage) -> None:
    """What the VMM does about a device that was reset."""
    stage.vmm.pci_tsm.disconnect(stage.pf, stage.now())
    stage.vmm.bus.restore(stage.pf)
    stage.vmm.pci_tsm.connect(stage.pf, stage.now())


@pytest.fixture
def stage() -> Stage:
    return Stage(Platform.assemble(seed=5, configuration=Configuration(vfs=2)), Journal())


@pytest.mark.parametrize("reset", [conventional, link_down_and_up, pf_flr, vf_flr])
@pytest.mark.parametrize("times", [1, 2])
def test_the_whole_way_again_ends_in_work(stage: Stage, reset: Callable[[Stage], None], times: int) -> None:
    interface, work = stage.running, stage.work
    for _ in range(times):
        reset(stage)
        with pytest.raises(TeeioError):
            work.copy()
        work.leave()
        interface.unlock(stage.now())
        connect_anew(stage)
        assert stage.vf.config.read(4, 2) & 4, "Bus Master Enable, which a lock freezes"
        interface.bring_up(stage.guest.verifier, TRUSTED_REGISTERS, stage.now())
        work = Work(stage, stage.guest, interface)  # which lets the device copy a secret
        assert work.result.read(0, len(work.secret)) == work.secret
    work.leave()
    stage.platform.shut_down(stage.guest)
    assert not stage.vf.config.read(4, 2) & 4, "nobody has it"


def test_functions_that_nobody_has_stay_without_bus_master_enable(stage: Stage) -> None:
    assert stage.running.phase
    conventional(stage)
    stage.vmm.bus.restore(stage.pf)
    assert [bool(vf.config.read(4, 2) & 4) for vf in stage.pf.vfs] == [True, False]
    assert stage.state() is InterfaceState.CONFIG_UNLOCKED


@pytest.mark.parametrize("reset", [vf_flr, pf_flr])
def test_a_reset_by_the_vmm_itself_gives_bus_master_enable_back(stage: Stage, reset: Callable[[Stage], None]) -> None:
    assert stage.running.phase
    reset(stage)
    assert stage.vf.config.read(4, 2) & 4


def test_a_physical_function_gets_it_back_too(stage: Stage) -> None:
    unit = stage.vmm.vfio.unit(UnitKind.PF, stage.pf.address)
    stage.vmm.vfio.claim(unit)
    conventional(stage)
    assert not stage.pf.config.read(4, 2) & 4
    stage.vmm.bus.restore(stage.pf)
    assert stage.pf.config.read(4, 2) & 4
    stage.vmm.vfio.release(unit)
    stage.vmm.bus.restore(stage.pf)
    assert not stage.pf.config.read(4, 2) & 4, "nobody has it"
