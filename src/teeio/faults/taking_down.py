"""Taking everything down after a fault, as the owners of a platform would: try, try again, wait for the device, reset it."""

from __future__ import annotations

from contextlib import suppress
from enum import Enum

from teeio.errors import TeeioError
from teeio.faults.accounts import IN_ERROR, counts, left
from teeio.faults.life import Life
from teeio.faults.scene import HEARTBEAT, Scene
from teeio.guest.accept import Phase
from teeio.pcie.seams import ResetKind


class Returned(Enum):
    """What it took until everything was back.

    The heartbeat is that of a session which the device alone still has; the next STOP is the next owner's, which finds the
    TDI in ERROR.
    """

    AT_ONCE = "at once"
    AGAIN = "at the second try"
    AFTER_LAPSE = "after a heartbeat lapse"
    BY_NEXT_STOP = "with the next STOP"
    AFTER_RESET = "after a device reset"
    NEVER = "never"


def take_down(scene: Scene, life: Life) -> Returned:
    """End what is left of a life, at first while a fault that lasts still does. Gives what it took."""
    scene.late = None
    for attempt in (Returned.AT_ONCE, Returned.AGAIN, Returned.AFTER_LAPSE, Returned.AFTER_RESET):
        if attempt is Returned.AFTER_LAPSE:
            scene.platform.wait(scene.now() + 3 * HEARTBEAT, heartbeats=False)
        if attempt is Returned.AFTER_RESET:
            scene.platform.device.reset(ResetKind.CONVENTIONAL)
        _leave(scene, life)
        _end(scene)
        scene.healing.close()
        scene.platform.vmm.bus.restore(scene.pf)
        remaining = set(left(counts(scene.platform)))
        if not remaining:
            return attempt
        if remaining == {str(IN_ERROR)}:
            return Returned.BY_NEXT_STOP
    return Returned.NEVER


def _leave(scene: Scene, life: Life) -> None:
    """Let the TVM give back what it has, if it still does anything."""
    if scene.halted:
        return
    now, interface = scene.now(), life.interface
    if life.driver is not None and life.dma is not None:
        with suppress(TeeioError):
            life.driver.remove(now)
            life.dma.close(now)
    if interface is not None and interface.phase is not Phase.UNLOCKED:
        with suppress(TeeioError):
            interface.release_driver()
            interface.unlock(now)


def _end(scene: Scene) -> None:
    """Let the VMM end all TVMs and disconnect the device."""
    vmm = scene.platform.vmm
    for machine in list(vmm.kvm.machines.values()):
        with suppress(TeeioError):
            vmm.kvm.destroy(machine, scene.now())
    if scene.pf.address in vmm.pci_tsm.connections:
        with suppress(TeeioError):
            vmm.pci_tsm.disconnect(scene.pf, scene.now())
