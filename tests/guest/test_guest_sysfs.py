"""The TVM's sysfs tree: lock, accept, unlock by files; a bound driver makes every one of them busy."""

from __future__ import annotations

import errno

import pytest

from teeio.abi.operands import SpdmOperation
from teeio.errors import AuthenticationFailed, TeeioError
from teeio.guest.cost import CostMeter
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.guest.sysfs import GuestSysfs
from teeio.host.vmm.vfio import UnitKind
from teeio.platform import Platform
from teeio.sysfs import SysfsError
from teeio.tdisp.messages import InterfaceState


class Scene:
    def __init__(self) -> None:
        self.platform = Platform.assemble(seed=3)
        vmm = self.platform.vmm
        (self.pf,) = vmm.bus.enumerate()
        (self.vf,) = vmm.bus.enable_vfs(self.pf, 1)
        vmm.pci_tsm.connect(self.pf, self.platform.now())
        self.guest = self.platform.launch("TVM", vmm.vfio.unit(UnitKind.VF, self.vf.address), memory_size=2 << 20)
        self.tree = GuestSysfs(self.guest.tvm, self.guest.functions())
        ((self.address, self.interface),) = self.tree.interfaces.items()
        self.place = f"/sys/bus/pci/devices/{self.address}"

    def cat(self, name: str) -> str:
        return self.tree.read(f"{self.place}/{name}").removesuffix("\n")

    def echo(self, text: str, name: str) -> None:
        self.tree.write(f"{self.place}/tsm/{name}", text, self.platform.now())

    def failing(self, text: str, name: str) -> int:
        before = self.tree.snapshot()
        with pytest.raises(SysfsError) as raised:
            self.echo(text, name)
        assert self.tree.snapshot() == before
        return raised.value.errno

    def appraise(self) -> None:
        self.tree.appraise(self.address, self.guest.verifier, TRUSTED_REGISTERS, self.platform.now())


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_the_trusted_life_by_files(scene: Scene) -> None:
    assert scene.tree.read("/sys/class/tsm/tsm0/pci_mode") == "devsec\n"
    before = scene.tree.snapshot()
    assert (scene.cat("tsm/lock"), scene.cat("tsm/accept")) == ("", "0")
    assert scene.failing("1", "accept") == errno.EINVAL
    assert scene.failing("tsm0", "unlock") == errno.EINVAL
    assert scene.failing("1", "lock") == errno.EINVAL
    assert scene.failing("tsm7", "lock") == errno.ENXIO
    scene.echo("tsm0", "lock")
    assert (scene.cat("tsm/lock"), scene.cat("tsm/accept")) == ("tsm0", "0")
    assert scene.failing("tsm0", "lock") == errno.EBUSY
    assert scene.failing("1", "accept") == errno.EPERM
    scene.appraise()
    assert scene.failing("0", "accept") == errno.EINVAL
    scene.echo("1", "accept")
    assert (scene.cat("tsm/lock"), scene.cat("tsm/accept")) == ("tsm0", "1")
    assert scene.failing("1", "accept") == errno.EINVAL
    assert scene.failing("tsm1", "unlock") == errno.EINVAL
    scene.echo("tsm0", "unlock")
    assert scene.tree.snapshot() == before


def test_a_bound_driver_means_busy(scene: Scene) -> None:
    now, meter = scene.platform.now, CostMeter(lambda: 0.0)
    driver, dma = scene.guest.driver(scene.interface.function, meter, interface=scene.interface)
    assert not dma.trusted  # not accepted: today's bounce buffers
    assert scene.tree.resolve(f"{scene.place}/driver") == "/sys/bus/pci/drivers/accelerator"
    assert scene.failing("tsm0", "lock") == errno.EBUSY
    driver.remove(now())
    dma.close(now())
    scene.echo("tsm0", "lock")
    scene.interface.bind_driver("somebody's")
    assert scene.failing("1", "accept") == errno.EBUSY
    scene.interface.release_driver()
    scene.appraise()
    scene.echo("1", "accept")
    driver, dma = scene.guest.driver(scene.interface.function, meter, interface=scene.interface)
    assert dma.trusted
    assert scene.failing("tsm0", "unlock") == errno.EBUSY
    driver.remove(now())
    scene.echo("tsm0", "unlock")


def test_every_tree_of_a_tvm_shows_the_same(scene: Scene) -> None:
    """The interface was brought up and its driver bound elsewhere; whoever opens a tree then finds it so, and busy."""
    scene.guest.interface().bring_up(scene.guest.verifier, TRUSTED_REGISTERS, scene.platform.now())
    driver, _ = scene.guest.driver(scene.interface.function, CostMeter(lambda: 0.0), interface=scene.guest.interface())
    scene.tree = GuestSysfs(scene.guest.tvm, scene.guest.functions())
    assert (scene.cat("tsm/lock"), scene.cat("tsm/accept")) == ("tsm0", "1")
    assert scene.tree.resolve(f"{scene.place}/driver") == "/sys/bus/pci/drivers/accelerator"
    assert scene.failing("tsm0", "lock") == errno.EBUSY
    assert scene.failing("tsm0", "unlock") == errno.EBUSY
    assert scene.platform.device.tdi(scene.vf.address).state is InterfaceState.RUN
    assert driver.usable


def test_a_function_that_the_tsm_has_in_use_is_busy_and_stays_as_it_is(scene: Scene) -> None:
    """The TVM was started anew and knows nothing of what it had."""
    scene.guest.interface().bring_up(scene.guest.verifier, TRUSTED_REGISTERS, scene.platform.now())
    scene.guest.tvm.interfaces.clear()
    scene.tree = GuestSysfs(scene.guest.tvm, scene.guest.functions())
    with pytest.raises(SysfsError) as raised:
        scene.echo("tsm0", "lock")
    assert raised.value.errno == errno.EBUSY
    assert scene.platform.device.tdi(scene.vf.address).state is InterfaceState.RUN
    assert scene.cat("tsm/lock") == "tsm0", "somebody has it locked"
    scene.echo("tsm0", "unlock")
    scene.echo("tsm0", "lock")


def test_measurements_that_the_vmm_takes_again_must_be_attested_again(scene: Scene) -> None:
    now = scene.platform.now
    interface = scene.guest.interface()
    interface.lock(now())
    interface.attest(scene.guest.verifier, TRUSTED_REGISTERS, now())
    scene.platform.vmm.pci_tsm.manage(scene.pf, SpdmOperation.RECOLLECT, now())
    with pytest.raises(AuthenticationFailed, match="other evidence"):
        interface.accept(now())
    assert scene.platform.device.tdi(scene.vf.address).state is InterfaceState.CONFIG_UNLOCKED
    interface.bring_up(scene.guest.verifier, TRUSTED_REGISTERS, now())


def test_a_lost_interface_stays_locked_until_it_is_unlocked(scene: Scene) -> None:
    """Recovery after ERROR: reset, unlock, and the whole way again; nothing shorter leads back."""
    scene.echo("tsm0", "lock")
    scene.appraise()
    scene.echo("1", "accept")
    scene.platform.vmm.vfio.reset(scene.vf)
    scene.interface.check(scene.platform.now())
    assert (scene.cat("tsm/lock"), scene.cat("tsm/accept")) == ("tsm0", "0")
    assert scene.failing("1", "accept") == errno.EINVAL
    assert scene.failing("tsm0", "lock") == errno.EBUSY
    scene.echo("tsm0", "unlock")
    scene.echo("tsm0", "lock")
    assert scene.failing("1", "accept") == errno.EPERM  # the verdict on another lock counts for nothing
    scene.appraise()
    scene.echo("1", "accept")
    assert scene.cat("tsm/accept") == "1"


def test_a_lock_that_the_device_refuses_is_undone(scene: Scene) -> None:
    scene.platform.link.tamper = lambda frame, way: None
    assert scene.failing("tsm0", "lock") in (errno.EIO, errno.EACCES)
    scene.platform.link.tamper = None
    with pytest.raises(TeeioError):
        scene.appraise()
