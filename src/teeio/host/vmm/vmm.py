"""The VMM as a whole: bus, TSM driver, assignment, TVMs, put together from what the platform gives it.

It gets the TSM's SEAMCALLs, the untrusted side of the root complex, its own view of memory, and the shared EPTs.
Nothing here is trusted by the TSM or by a TVM.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import inf

from teeio.abi import TvmToVmm, VmmToTsm
from teeio.abi.operands import SpdmOperation
from teeio.errors import TeeioError
from teeio.host.memory import VmmMemory
from teeio.host.root_complex import HostBus
from teeio.host.secure_ept import SharedEpt
from teeio.host.vmm.bus import PciBus
from teeio.host.vmm.hypercalls import Hypercalls
from teeio.host.vmm.kvm import GuestMachine, Kvm
from teeio.host.vmm.patience import patient
from teeio.host.vmm.pci_tsm import PciTsm
from teeio.host.vmm.vfio import Vfio
from teeio.observe import Observer, ignore
from teeio.tdisp.messages import LockFlags


class Vmm:
    """The virtual machine monitor. `lock_flags` is what it asks of LOCK_INTERFACE."""

    def __init__(
        self,
        tsm: VmmToTsm,
        bus: HostBus,
        memory: VmmMemory,
        shared_ept: Callable[[int], SharedEpt],
        *,
        lock_flags: LockFlags = LockFlags.NO_FW_UPDATE,
        observer: Observer = ignore,
    ) -> None:
        tsm = patient(tsm)
        self.memory = memory
        self.bus = PciBus(bus)
        self.pci_tsm = PciTsm(tsm, self.bus, memory, observer)
        self.vfio = Vfio(self.bus)
        self.kvm = Kvm(tsm, memory, shared_ept, self.pci_tsm, self.vfio)
        self.lock_flags = lock_flags
        self._observer = observer
        bus.deliver_interrupts(self.kvm.interrupt)

    def keep_alive(self, now: float) -> float:
        """Send the heartbeats that are due; give when to do it again. Never raises: a session that cannot be kept is lost.

        They are sent at half of the period, as the device ends a session in which nothing came for two.
        """
        for connection in list(self.pci_tsm.connections.values()):
            if connection.keep_at <= now:
                with suppress(TeeioError):
                    self.pci_tsm.manage(connection.dsm, SpdmOperation.HEARTBEAT, now)
        return min((connection.keep_at for connection in self.pci_tsm.connections.values()), default=inf)

    def hypercalls(self, machine: GuestMachine) -> TvmToVmm:
        """Give the hypercalls of a TVM, for the TVM alone."""
        return Hypercalls(machine, self.kvm, self.pci_tsm, lock_flags=self.lock_flags, observer=self._observer)
