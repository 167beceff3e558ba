"""The life that faults strike: one VF from connect to disconnect, on every kind of step, with a secret that must stay one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from teeio.abi.operands import PAGE_SIZE, SpdmOperation
from teeio.accelerator_interface import Operation
from teeio.errors import Misuse
from teeio.faults.accounts import counts
from teeio.faults.scene import Scene
from teeio.guest.accept import AssignedInterface
from teeio.guest.cost import CostMeter
from teeio.guest.dma import DmaInterface
from teeio.guest.driver import TRUSTED_REGISTERS, AcceleratorDriver
from teeio.guest.tvm import MemoryRegion
from teeio.host.vmm.vfio import UnitKind
from teeio.platform import Guest
from teeio.tdisp.messages import InterfaceState

T = TypeVar("T")

MARK = b"nobody else reads this; "
SECRET = MARK * 40
TVM_MEMORY = 16 << 12


class Broken(Exception):
    """What must never be: the TVM was given a wrong result, or worked on with a device that it can trust no longer."""


class Life:
    """One TVM and its interface. `began` is what was given out when `step`, the one under way, began, if it is `counted`."""

    def __init__(self, scene: Scene, name: str = "TVM", *, counted: bool = True) -> None:
        self.scene, self.name, self.counted = scene, name, counted
        self.platform = scene.platform
        self.step = ""
        self.began: dict[str, int] = {}
        self.guest: Guest | None = None
        self.interface: AssignedInterface | None = None
        self.driver: AcceleratorDriver | None = None
        self.dma: DmaInterface | None = None
        self.regions: tuple[MemoryRegion, MemoryRegion] | None = None
        scene.secret = MARK

    def live(self) -> None:
        """Take every step. Raises as the step that goes wrong does."""
        for name, step in STEPS.items():
            self.scene.step = ""
            if self.counted:
                self.began = counts(self.platform)
            self.scene.step = self.step = name
            step(self)

    # -- the steps

    def connect(self) -> None:
        """Set up session and stream."""
        self.platform.vmm.pci_tsm.connect(self.scene.pf, self.scene.now())

    def launch(self) -> None:
        """Create a TVM with the VF, and boot it."""
        unit = self.platform.vmm.vfio.unit(UnitKind.VF, self.scene.vf.address)
        self.guest = self.platform.launch(self.name, unit, memory_size=TVM_MEMORY)

    def lock(self) -> None:
        """LOCK_INTERFACE."""
        interface = need(self.guest).interface()
        self.interface = interface
        interface.lock(self.scene.now())

    def attest(self) -> None:
        """Collect and judge the evidence."""
        need(self.interface).attest(need(self.guest).verifier, TRUSTED_REGISTERS, self.scene.now())

    def accept(self) -> None:
        """Accept MMIO and DMA, START_INTERFACE."""
        need(self.interface).accept(self.scene.now())

    def probe(self) -> None:
        """Bind the driver."""
        guest, interface = need(self.guest), need(self.interface)
        self.driver, self.dma = guest.driver(interface.function, CostMeter(lambda: 0.0), interface=interface)

    def begin_work(self) -> None:
        """Work on a secret in private memory."""
        tvm = need(self.guest).tvm
        self.regions = tvm.allocate(len(SECRET)), tvm.allocate(len(SECRET))
        self.regions[0].write(0, SECRET)
        self.work()

    def work(self) -> None:
        """Let the device copy the secret. Raises `Broken` if the TVM is told that it is done and it is not."""
        source, result = need(self.regions)
        trusted = self.trusted()
        result.write(0, bytes(len(SECRET)))
        need(self.driver).run(Operation.COPY, source.gpa, len(SECRET), result.gpa, self.scene.now())
        if result.read(0, len(SECRET)) != SECRET:
            raise Broken("the TVM was told that the work is done, and the result is wrong")
        if not trusted:
            raise Broken("the TVM worked on with an interface that is not in RUN at TSM and device")

    def share(self) -> None:
        """Share a page with the VMM, and make it private again."""
        tvm = need(self.guest).tvm
        region = tvm.allocate_shared(PAGE_SIZE, self.scene.now())
        region.write(0, b"in the clear")
        tvm.free(region, self.scene.now())

    def refresh(self) -> None:
        """Give the stream new keys."""
        self.platform.vmm.pci_tsm.refresh_keys(self.scene.pf, self.scene.now())

    def keep(self) -> None:
        """Keep the session: heartbeat, new keys, measurements; look at the state."""
        for operation in SpdmOperation:
            self.platform.vmm.pci_tsm.manage(self.scene.pf, operation, self.scene.now())
        need(self.interface).check(self.scene.now())

    def remove(self) -> None:
        """Take the driver off."""
        if self.driver is not None and self.dma is not None:
            self.driver.remove(self.scene.now())
            self.dma.close(self.scene.now())
        self.driver = self.dma = None

    def unlock(self) -> None:
        """STOP_INTERFACE."""
        need(self.interface).unlock(self.scene.now())

    def shut_down(self) -> None:
        """End the TVM."""
        self.platform.shut_down(need(self.guest))

    def disconnect(self) -> None:
        """End stream and session."""
        self.platform.vmm.pci_tsm.disconnect(self.scene.pf, self.scene.now())

    # -- what is known of it

    def trusted(self) -> bool:
        """Tell whether the interface is in RUN as the device and as the TSM know it, on a Secure stream at both ends."""
        records, vf = self.platform.module.records, self.scene.vf
        devif = records.devifs.get(vf.function_id)
        function = self.platform.device.present().get(vf.address)
        run = InterfaceState.RUN
        if (
            devif is None
            or function is None
            or devif.state is not run
            or self.platform.device.tdis[function].state is not run
        ):
            return False
        stream_id = devif.stream.stream_id
        return devif.stream.spdm.unit.is_secure(stream_id) and self.platform.device.port.ide.is_secure(stream_id)


STEPS: Mapping[str, Callable[[Life], None]] = {
    "connect": Life.connect,
    "launch": Life.launch,
    "lock": Life.lock,
    "attest": Life.attest,
    "accept": Life.accept,
    "probe": Life.probe,
    "work": Life.begin_work,
    "share": Life.share,
    "refresh": Life.refresh,
    "keep": Life.keep,
    "work on": Life.work,
    "remove": Life.remove,
    "unlock": Life.unlock,
    "shut down": Life.shut_down,
    "disconnect": Life.disconnect,
}
"""The steps of a life by name, in order."""


def need(value: T | None) -> T:
    """Give what an earlier step has made. Raises `Misuse`."""
    if value is None:
        raise Misuse("a step of the life before this one has failed")
    return value
