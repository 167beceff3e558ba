"""The whole system assembled: a device on a link, the host with its TSM and VMM, and the TVMs that run on it.

device, host and guest meet only here. Randomness and time come from outside: `Platform.assemble(seed=N)` gives a platform whose
every byte repeats, `Platform.assemble()` one with the system's randomness and clock handed in by the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from teeio.abi.operands import PAGE_SIZE
from teeio.attestation import Expectations, NonceRegistry, Policy, Profile, ReferenceValues
from teeio.crypto.algorithms import MeasurementHash
from teeio.crypto.entropy import Entropy, SeededEntropy, system_entropy
from teeio.device.configuration import Configuration
from teeio.device.device import Device
from teeio.device.identity import Manufacturer, measured
from teeio.device.models.accelerator import Accelerator
from teeio.errors import Misuse
from teeio.guest.accept import AssignedInterface
from teeio.guest.attest import Verifier
from teeio.guest.cost import CostMeter
from teeio.guest.dma import BounceDma, PrivateDma, ProtectedSession, dma_for
from teeio.guest.driver import AcceleratorDriver
from teeio.guest.pci import PciFunction, enumerate_functions
from teeio.guest.tvm import Tvm
from teeio.host.iommu import Iommu
from teeio.host.memory import PhysicalMemory
from teeio.host.root_complex import RootComplex
from teeio.host.tdx.module import TdxModule
from teeio.host.vmm.kvm import GuestMachine
from teeio.host.vmm.vfio import Unit
from teeio.host.vmm.vmm import Vmm
from teeio.observe import Event, MessageMoved, Observer, SecretDerived, StateChanged, fan_out, ignore
from teeio.pcie.address import AddressRange, Bdf
from teeio.pcie.link import Link
from teeio.spdm.device_state import DeviceMeasurements

SEEDED_EPOCH = 1_767_225_600.0
"""The time at which seeded platforms begin: 2026-01-01 00:00 UTC."""

TICK = 1e-3
"""Seconds between two readings of a seeded platform's clock."""

MEMORY_SIZE = 64 << 20
TVM_MEMORY_SIZE = 16 << 20
ROOT_PORT = Bdf(0, 0, 1, 0)
KERNEL = b"the TVM's kernel image"


class VirtualClock:
    """A clock that moves by `TICK` whenever it is read: the same run reads the same times."""

    def __init__(self, start: float = SEEDED_EPOCH) -> None:
        self._now = start

    def __call__(self) -> float:
        """Give the time in seconds since 1970 UTC."""
        self._now += TICK
        return self._now


def forked(entropy: Entropy, name: str) -> Entropy:
    """Give one actor its own stream of a seeded entropy, so that no actor's draws shift another's."""
    return entropy.fork(name) if isinstance(entropy, SeededEntropy) else entropy


@dataclass(slots=True)
class Guest:
    """A TVM with what its owner knows: how to reach it from outside, and what it accepts of devices."""

    tvm: Tvm
    machine: GuestMachine
    verifier: Verifier
    clock: Callable[[], float]
    unit: Unit | None = None

    def functions(self) -> list[PciFunction]:
        """Enumerate the PCI functions that the VMM shows the TVM."""
        return enumerate_functions(self.tvm, self.clock())

    def interface(self) -> AssignedInterface:
        """Give the one function that is assigned to the TVM, not accepted yet. Raises `Misuse` if there is not one."""
        found = self.functions()
        if len(found) != 1:
            raise Misuse(f"the TVM sees {len(found)} functions", remedy="assign it one")
        return AssignedInterface(self.tvm, found[0])

    def driver(
        self,
        function: PciFunction,
        meter: CostMeter,
        *,
        interface: AssignedInterface | None = None,
        session: ProtectedSession | None = None,
    ) -> tuple[AcceleratorDriver, PrivateDma | BounceDma]:
        """Probe the accelerator's driver: on private memory for an accepted interface, else on bounce buffers."""
        dma = dma_for(self.tvm, interface, meter, self.clock(), session=session)
        driver = AcceleratorDriver(self.tvm, function, dma, meter, interface=interface)
        driver.probe(self.clock())
        return driver, dma


@dataclass(slots=True)
class Platform:
    """One host with one device below its root port. `listeners` may be added to at any time."""

    entropy: Entropy
    clock: Callable[[], float]
    configuration: Configuration
    manufacturer: Manufacturer
    memory: PhysicalMemory
    root_complex: RootComplex
    device: Device
    link: Link
    module: TdxModule
    vmm: Vmm
    observer: Observer
    listeners: list[Observer]

    @classmethod
    def assemble(
        cls,
        *,
        seed: int | None = None,
        clock: Callable[[], float] | None = None,
        configuration: Configuration | None = None,
        observer: Observer = ignore,
    ) -> Platform:
        """Build a platform that is powered on and does nothing yet.

        With `seed` all randomness and the clock repeat; without it `clock` (seconds since 1970 UTC) must be given.
        """
        if seed is None and clock is None:
            raise Misuse("a platform without a seed needs a clock", remedy="give seed=1 or clock=time.time")
        entropy: Entropy = system_entropy if seed is None else SeededEntropy(str(seed).encode())
        clock = clock or VirtualClock()
        listeners: list[Observer] = [observer]

        def told(event: Event) -> None:
            fan_out(listeners)(event)

        def told_by_device(event: Event) -> None:
            # The TPA tells of the session, its messages and secrets; the DSM would tell of each again.
            session = isinstance(event, StateChanged) and event.subject.startswith("session")
            if not session and not isinstance(event, MessageMoved | SecretDerived):
                told(event)

        configuration = configuration or Configuration()
        manufacturer = Manufacturer.found(configuration.manufacture.info, forked(entropy, "manufacturer"), clock())
        memory = PhysicalMemory(MEMORY_SIZE, forked(entropy, "memory"), told)
        root_complex = RootComplex(memory, {0: Iommu("IOMMU 0", memory, told)}, told)
        port = root_complex.add_root_port(ROOT_PORT, 0)
        device = Device(
            configuration, forked(entropy, "device"), clock(), manufacturer=manufacturer, observer=told_by_device
        )
        link = root_complex.fabric.attach(port, device.port, observer=told)
        module = TdxModule(memory, root_complex, forked(entropy, "TSM"), observer=told)
        vmm = Vmm(module, root_complex.vmm, memory.vmm, module.shared_ept, observer=told)
        return cls(
            entropy, clock, configuration, manufacturer, memory, root_complex, device, link, module, vmm, told, listeners
        )

    def now(self) -> float:
        """Read the clock; the device's time goes on with it."""
        at = self.clock()
        self.device.advance(at)
        return at

    def launch(self, name: str = "TVM", unit: Unit | None = None, *, memory_size: int = TVM_MEMORY_SIZE) -> Guest:
        """Create a TVM, assign it a unit of the device if one is given, and boot it."""
        machine = self.vmm.kvm.create(name, memory_size, {0: KERNEL})
        if unit is not None:
            self.vmm.kvm.assign(machine, unit)
        tvm = Tvm(
            self.module.guest(machine.tdr),
            self.vmm.hypercalls(machine),
            self.module.processor(machine.tdr),
            forked(self.entropy, name),
            AddressRange(0, memory_size),
            initial=[AddressRange(0, PAGE_SIZE)],
            halt=self.device.work,
            observer=self.observer,
        )
        machine.on_interrupt = tvm.interrupts.deliver
        tvm.boot()
        return Guest(tvm, machine, self.verifier(tvm.entropy), self.now, unit)

    def shut_down(self, guest: Guest) -> None:
        """End a TVM; its memory and what was assigned to it go back to the VMM."""
        self.vmm.kvm.destroy(guest.machine, self.now())

    def use_session_key(self, function: Bdf, key: bytes) -> None:
        """Give an accelerator function the key that it shares with its driver for protected transfers.

        How driver and device agree on it (in practice in an SPDM session of their own) is outside the model.
        """
        model = next(found.model for found in self.device.tdis if self.device.address_of(found) == function)
        if not isinstance(model, Accelerator):
            raise Misuse(f"{function} is no accelerator")
        model.use_session_key(key)

    def verifier(self, entropy: Entropy) -> Verifier:
        """Give what the owner of a TVM accepts: this manufacturer's device with this firmware, locked as TDX wants it.

        Anchors, revocation lists and reference values are the manufacturer's publications, not the device's word.
        """
        manufacture = self.configuration.manufacture
        blocks = DeviceMeasurements(measured(manufacture)).blocks(MeasurementHash.SHA_384)
        return Verifier(
            Policy(Profile.TDX),
            ReferenceValues.of_blocks(blocks, MeasurementHash.SHA_384, minimum_svn=manufacture.firmware.svn),
            Expectations(
                anchors=self.manufacturer.roots,
                # The verifier's `now` is seconds since 1970 already.
                at_time=0.0,
                nonces=NonceRegistry(entropy),
                bind_session_id=0,
                device=manufacture.info,
                pci=manufacture.pci,
                revocation_lists=self.manufacturer.revocation_lists(self.now()),
            ),
        )
