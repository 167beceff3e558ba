"""Where an attack begins: a platform brought as far as its story needs, one step of the trusted life after the other.

Attackers use what they have: the VMM its calls, its bus, its memory and the data objects that it carries; whoever sits on
the link the frames. Nothing here reaches past those, but for looking at the end what everybody's bytes have become.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

from teeio.accelerator_interface import Operation
from teeio.errors import Misuse, TeeioError
from teeio.guest.accept import AssignedInterface
from teeio.guest.cost import CostMeter
from teeio.guest.dma import DmaInterface
from teeio.guest.driver import TRUSTED_REGISTERS, AcceleratorDriver
from teeio.guest.tvm import MemoryRegion
from teeio.host.tdx.tpa import Agent
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.mailbox import Courier, Mailbox
from teeio.host.vmm.vfio import UnitKind
from teeio.pcie.link import Tamper
from teeio.platform import Guest, Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.trusted_life import connecting, enumerate_device, no_cpu_clock
from teeio.tdisp.messages import InterfaceState

T = TypeVar("T")

STREAM_ID = 1
"""The IDE stream of the first device that the VMM connects below a root port."""

SECRET = b"weights of a model that nobody else may see " * 64
"""What a TVM works on in stories of attacks."""


class Stage:
    """A platform under attack. The steps `connect` to `work` follow each other; each brings all before it about."""

    def __init__(self, platform: Platform, journal: Journal, vfs: int = 2) -> None:
        self.platform = platform
        self.journal = journal
        self.vmm = platform.vmm
        self.tsm = platform.module
        self.device = platform.device
        self.link = platform.link
        self.pf: PciFunction = enumerate_device(platform, journal, vfs)

    def now(self) -> float:
        """Read the clock."""
        return self.platform.now()

    @property
    def agent(self) -> Agent:
        """The TPA's end of the session with the device under attack."""
        return next(iter(self.tsm.records.contexts.values())).agent

    # -- the steps of the trusted life

    @cached_property
    def mailbox(self) -> Mailbox:
        """Connect the device; give the mailbox by which the VMM carries its data objects."""
        with connecting(self.platform, self.journal):
            return self.vmm.pci_tsm.connect(self.pf, self.now()).mailbox

    @property
    def vf(self) -> PciFunction:
        """The function that is attacked."""
        return self.pf.vfs[0]

    @cached_property
    def guest(self) -> Guest:
        """Launch a TVM with VF 0."""
        return self.launch("TVM", self.vf)

    def launch(self, name: str, function: PciFunction) -> Guest:
        """Launch a TVM with a VF of the connected device."""
        assert self.mailbox
        with self.journal.step("VMM", f"assign {function.address} to {name}"):
            return self.platform.launch(name, self.vmm.vfio.unit(UnitKind.VF, function.address))

    @cached_property
    def assigned(self) -> AssignedInterface:
        """The TVM's interface, before it is locked."""
        return self.guest.interface()

    @cached_property
    def locked(self) -> AssignedInterface:
        """The interface, locked."""
        interface = self.assigned
        with self.journal.step("TVM", "LOCK_INTERFACE"):
            interface.lock(self.now())
        return interface

    @cached_property
    def attested(self) -> AssignedInterface:
        """The interface, locked and attested."""
        interface = self.locked
        with self.journal.step("TVM", "attest"):
            interface.attest(self.guest.verifier, TRUSTED_REGISTERS, self.now())
        return interface

    @cached_property
    def running(self) -> AssignedInterface:
        """The interface, accepted and in RUN."""
        interface = self.attested
        with self.journal.step("TVM", "accept and START_INTERFACE: RUN"):
            interface.accept(self.now())
        return interface

    @cached_property
    def work(self) -> Work:
        """The TVM at work on SECRET in private memory."""
        return Work(self, self.guest, self.running)

    def begin_anew(self, interface: AssignedInterface, guest: Guest) -> None:
        """Give the interface back, connect the device anew, as its session may be gone, and bring the interface up."""
        interface.unlock(self.now())
        self.vmm.pci_tsm.disconnect(self.pf, self.now())
        self.vmm.vfio.reset(self.pf)
        self.vmm.pci_tsm.connect(self.pf, self.now())
        interface.bring_up(guest.verifier, TRUSTED_REGISTERS, self.now())

    # -- what the attacker does

    @contextmanager
    def attack(self, attacker: str, title: str) -> Iterator[None]:
        """File what happens inside as the attack."""
        with self.journal.step(attacker, f"attack: {title}"):
            yield

    @contextmanager
    def carried_by(self, courier: Courier) -> Iterator[None]:
        """Let the VMM carry data objects as `courier` does."""
        mailbox = self.mailbox
        honest, mailbox.courier = mailbox.courier, courier
        try:
            yield
        finally:
            mailbox.courier = honest

    @staticmethod
    @contextmanager
    def instead(actor: object, what: str, done: Callable[..., Any]) -> Iterator[None]:
        """Let the VMM's `actor` do `done` where an honest one has the method `what`."""
        setattr(actor, what, done)
        try:
            yield
        finally:
            delattr(actor, what)

    @contextmanager
    def on_the_link(self, tamper: Tamper) -> Iterator[None]:
        """Let somebody sit on the link."""
        before, self.link.tamper = self.link.tamper, tamper
        try:
            yield
        finally:
            self.link.tamper = before

    @staticmethod
    def refused(attempt: Callable[[], object]) -> str:
        """Try something that must be refused; give what the refusal says, of a verdict the first finding; empty if it was not."""
        try:
            attempt()
        except TeeioError as error:
            return ": ".join(line.strip() for line in str(error).splitlines()[:2])
        return ""

    # -- what is seen

    def state(self, function: PciFunction | None = None) -> InterfaceState:
        """Give the state of a function's TDI as the device has it."""
        return self.device.tdi((function or self.vf).address).state

    def tdi_states(self) -> list[str]:
        """Give the states that the TDI under attack was in."""
        return self.journal.states(f"TDI {self.vf.address}")

    def the_vmm_reads(self, secret: bytes) -> bool:
        """Tell whether `secret` is anywhere in what the VMM can read of memory."""
        return secret in self.vmm.memory.read(0, self.platform.memory.size)


class Work:
    """A driver at work on a secret in private memory of a TVM."""

    def __init__(self, stage: Stage, guest: Guest, interface: AssignedInterface, secret: bytes = SECRET) -> None:
        self.stage, self.guest, self.interface, self.secret = stage, guest, interface, secret
        self.driver: AcceleratorDriver
        self.dma: DmaInterface
        with stage.journal.step("TVM", "work on a secret in private memory"):
            self.driver, self.dma = guest.driver(interface.function, CostMeter(no_cpu_clock), interface=interface)
            self.source: MemoryRegion = guest.tvm.allocate(len(secret))
            self.result: MemoryRegion = guest.tvm.allocate(len(secret))
            self.source.write(0, secret)
            self.copy()

    def copy(self) -> None:
        """Let the device copy the secret from `source` to `result`. Raises as the driver does."""
        self.driver.run(Operation.COPY, self.source.gpa, len(self.secret), self.result.gpa, self.stage.now())

    def leave(self) -> None:
        """Take the driver off the interface, whatever has become of the device."""
        self.driver.remove(self.stage.now())
        self.dma.close(self.stage.now())

    def host_address(self) -> int:
        """Give where the secret lies in physical memory: the VMM knows, as it lent the page."""
        tdr = self.guest.machine.tdr
        leaf = self.stage.tsm.records.tvm(tdr).sept.translate(self.source.gpa)
        if leaf is None:
            raise Misuse(f"guest address {self.source.gpa:#x} is not mapped")
        return leaf.hpa
