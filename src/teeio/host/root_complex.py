"""The root complex: root ports, and the way of requests between processors, devices and memory (PCIe Base 1.3.1).

A device's request enters at a root port, which knows whether it came over a Secure IDE stream and with which T bit. It
then meets the IOMMU, which decides where it may go, and memory, which it reaches with the key of whoever owns the
page. T=1 is believed only of a TLP that arrived on a stream that the TSM set up. Writes to the interrupt range become interrupts.

Who gets what: the VMM a `HostBus` (configuration space, T=0 access to device memory, interrupts); the TSM the root
ports' `KeyUnit`s; processors the whole, since the EPT decides with which T bit an access leaves.

The IDE registers of root ports are the TSM's: writes by the VMM have no effect (TDX Connect: TDH.IDE.STREAM.CREATE
writes them). Left out: the register interface of the key configuration unit (KCBAR), peer-to-peer between root ports,
INTx and MSI remapping, trusted interrupts (TDX Connect has no trusted MSI-X), memory-mapped configuration accesses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import NamedTuple, TypeAlias

from teeio.abi.operands import ECAM, MESSAGE_ADDRESS
from teeio.errors import Misuse
from teeio.host.iommu import Fault, Iommu, LegacyTables, Segment
from teeio.host.key_unit import KeyUnit
from teeio.host.memory import MemoryPoisoned, MemoryView, OwnerId, PhysicalMemory
from teeio.host.translation_agent import HostTranslationAgent, TranslatedMemory
from teeio.observe import Observer, Refused, ignore
from teeio.pcie.address import AddressRange, Bdf
from teeio.pcie.capabilities.aer import AerCapability
from teeio.pcie.capabilities.express import ExpressCapability, PortType
from teeio.pcie.capabilities.header import Type1Header
from teeio.pcie.capabilities.ide import IdeCapability
from teeio.pcie.config_space import ConfigSpace
from teeio.pcie.fabric import Fabric
from teeio.pcie.link_rules import CLOSED, LinkRules
from teeio.pcie.ports import RootPort
from teeio.pcie.registers import RegisterAccess
from teeio.pcie.seams import ABORTED, UNSUPPORTED, Reply
from teeio.pcie.tlp import CompletionStatus

LOW_DEVICE_MEMORY = AddressRange(ECAM.end, 0x0E00_0000)
"""Where 32-bit BARs may lie."""

INTERRUPTS = AddressRange(MESSAGE_ADDRESS, 1 << 20)
"""Memory writes of devices to these addresses are interrupts."""

DEVICE_MEMORY = AddressRange(1 << 40, 1 << 40)
"""Where 64-bit BARs may lie."""

RESERVED = AddressRange(ECAM.start, (1 << 32) - ECAM.start)
"""Configuration space, the registers of IOMMUs and root complex, interrupts: memory ends below it."""

ROOT_PORT_VENDOR, ROOT_PORT_DEVICE = 0x8086, 0x0DB0

TDX_CONNECT_STREAMS = 4
"""Selective streams of a root port (TDX Connect Device Guide, appendix A: at most 4 per root complex at x16)."""


class Interrupt(NamedTuple):
    """A message-signalled interrupt as it reaches the host."""

    requester_id: int
    address: int
    data: int


InterruptSink: TypeAlias = Callable[[Interrupt], None]


def _nobody(interrupt: Interrupt) -> None:
    return None


class Ingress:
    """What requests from below one root port meet: the IOMMU, then memory or the interrupt controller.

    It is the root port's `HostBridge`. `trusts` tells which of the port's streams are the TSM's.
    """

    def __init__(
        self,
        iommu: Iommu,
        memory: PhysicalMemory,
        interrupts: InterruptSink,
        trusts: Callable[[int], bool],
        observer: Observer = ignore,
    ) -> None:
        self.iommu = iommu
        self._trusts = trusts
        self._interrupts = interrupts
        self._memory = memory
        self._views: dict[OwnerId, MemoryView] = {}
        self._observer = observer
        self._pasid: int | None = None

    def with_pasid(self, pasid: int) -> Ingress:
        """Give this as requests with a PASID meet it: nothing here is an interrupt, and the IOMMU looks the PASID up."""
        meant = copy(self)
        meant._pasid = pasid
        return meant

    def dma_read(self, requester_id: int, address: int, size: int, t_bit: bool, stream_id: int | None = None) -> Reply:
        """Read memory for a device: UR without a translation, CA if the page was tampered with."""
        if not self._trustworthy(requester_id, t_bit, stream_id) or INTERRUPTS.holds(address):
            return UNSUPPORTED
        found = self.iommu.translate(requester_id, address, size, write=False, t_bit=t_bit, pasid=self._pasid)
        return self.read_found(requester_id, found, size)

    def read_found(self, requester_id: int, found: Fault | list[Segment], size: int) -> Reply:
        """Read what the IOMMU let through."""
        if isinstance(found, Fault):
            return UNSUPPORTED
        try:
            data = [self._view(segment.owner).read(segment.hpa, segment.size) for segment in found]
        except MemoryPoisoned as error:
            return self._aborted(requester_id, error)
        return Reply(CompletionStatus.SC, b"".join(data)[:size])

    def dma_write(
        self, requester_id: int, address: int, data: bytes, t_bit: bool, stream_id: int | None = None
    ) -> CompletionStatus:
        """Write memory for a device, or raise an interrupt; the status is for error logs, writes are posted."""
        if not self._trustworthy(requester_id, t_bit, stream_id):
            return CompletionStatus.UR
        if INTERRUPTS.holds(address) and self._pasid is None:
            return self._interrupt(requester_id, address, data, t_bit)
        found = self.iommu.translate(requester_id, address, len(data), write=True, t_bit=t_bit, pasid=self._pasid)
        return self.write_found(requester_id, found, data)

    def write_found(self, requester_id: int, found: Fault | list[Segment], data: bytes) -> CompletionStatus:
        """Write where the IOMMU let through."""
        if isinstance(found, Fault):
            return CompletionStatus.UR
        at = 0
        try:
            for segment in found:
                self._view(segment.owner).write(segment.hpa, data[at : at + segment.size])
                at += segment.size
        except MemoryPoisoned as error:
            return self._aborted(requester_id, error).status
        return CompletionStatus.SC

    def _trustworthy(self, requester_id: int, t_bit: bool, stream_id: int | None) -> bool:
        if t_bit and (stream_id is None or not self._trusts(stream_id)):
            where = "without IDE" if stream_id is None else f"on IDE stream {stream_id}"
            rule = "T=1 counts only on a Secure Selective IDE stream that the TSM set up"
            self._refuse(f"T=1 {where} by {Bdf.of(requester_id)}", rule)
            return False
        return True

    def _interrupt(self, requester_id: int, address: int, data: bytes, t_bit: bool) -> CompletionStatus:
        if t_bit or len(data) != 4:
            self._refuse(f"interrupt with T={int(t_bit)} by {Bdf.of(requester_id)}", "TDX Connect: no trusted MSI-X")
            return CompletionStatus.UR
        self._interrupts(Interrupt(requester_id, address, int.from_bytes(data, "little")))
        return CompletionStatus.SC

    def _aborted(self, requester_id: int, error: MemoryPoisoned) -> Reply:
        self._refuse(f"DMA by {Bdf.of(requester_id)}", str(error))
        return ABORTED

    def _refuse(self, what: str, rule: str) -> None:
        self._observer(Refused(f"root complex, {self.iommu.name}", what, rule))

    def _view(self, owner: OwnerId) -> MemoryView:
        if owner not in self._views:
            self._views[owner] = self._memory.view(owner)
        return self._views[owner]


class RootComplex:
    """One segment of root ports above memory; `iommus` by the id that calls use."""

    def __init__(self, memory: PhysicalMemory, iommus: Mapping[int, Iommu], observer: Observer = ignore) -> None:
        if memory.size > RESERVED.start:
            raise Misuse(f"memory of {memory.size:#x} bytes", remedy=f"{RESERVED.start:#x} fit below the registers")
        self.fabric = Fabric()
        self.iommus = dict(iommus)
        self.key_units: dict[int, KeyUnit] = {}
        self.agents: dict[int, HostTranslationAgent] = {}
        self._memory = memory
        self._observer = observer
        self._sink: InterruptSink = _nobody
        self.vmm = HostBus(self)

    def add_root_port(
        self,
        function: Bdf,
        iommu_id: int,
        *,
        streams: int = TDX_CONNECT_STREAMS,
        name: str = "root port",
        rules: LinkRules = CLOSED,
        flit_mode: bool = False,
        pcrc: bool = True,
        aggregation: bool = True,
    ) -> RootPort:
        """Add a root port whose requests from below go through that IOMMU, with `streams` Selective IDE streams.

        `flit_mode`, `pcrc` and `aggregation` say whether it supports them.
        """
        if iommu_id not in self.iommus:
            raise Misuse(f"there is no IOMMU {iommu_id}", remedy=f"use one of {sorted(self.iommus)}")
        config = ConfigSpace(
            Type1Header(ROOT_PORT_VENDOR, ROOT_PORT_DEVICE),
            [ExpressCapability(PortType.ROOT_PORT, flit_mode=flit_mode)],
            [AerCapability(), IdeCapability(streams, 1, pcrc=pcrc, aggregation=aggregation)],
        )
        ingress = Ingress(
            self.iommus[iommu_id],
            self._memory,
            lambda one: self._sink(one),
            lambda stream_id: unit.has(stream_id),
            self._observer,
        )
        port = RootPort(ingress, function, config, name=name, observer=self._observer, rules=rules)
        port.agent = HostTranslationAgent(
            port,
            self.iommus[iommu_id],
            TranslatedMemory(self.iommus[iommu_id], ingress.read_found, ingress.write_found),
            self._observer,
        )
        self.agents[function.requester_id] = port.agent
        self.fabric.add(port)
        unit = self.key_units[function.requester_id] = KeyUnit(port, iommu_id)
        return port

    def forbidden_mmio(self) -> tuple[AddressRange, ...]:
        """Give what can never be private MMIO: memory, configuration space, registers (for `MmioMetadata`)."""
        return AddressRange(0, self._memory.size), RESERVED

    def mmio_read(self, address: int, size: int, t_bit: bool = False) -> bytes:
        """Read device memory on behalf of a processor; all ones if nobody answers or the answer is an error."""
        reply = self.fabric.memory_read(address, size, t_bit)
        return reply.data if reply.ok and len(reply.data) == size else b"\xff" * size

    def mmio_write(self, address: int, data: bytes, t_bit: bool = False) -> None:
        """Write device memory on behalf of a processor; writes are posted, so nothing comes back."""
        self.fabric.memory_write(address, data, t_bit)

    def deliver_interrupts(self, sink: InterruptSink) -> None:
        """Send all interrupts to `sink` from now on."""
        self._sink = sink


class HostBus:
    """The root complex as the VMM reaches it: configuration space, T=0 device memory, interrupts."""

    def __init__(self, root_complex: RootComplex) -> None:
        self._root_complex = root_complex

    @property
    def root_ports(self) -> tuple[Bdf, ...]:
        """The root ports, from the platform's description (ACPI)."""
        return tuple(port.function for port in self._root_complex.fabric.ports)

    def iommu_of(self, root_port: Bdf) -> int:
        """Give the id of a root port's IOMMU (ACPI DMAR)."""
        return self._root_complex.key_units[root_port.requester_id].iommu_id

    def legacy_tables(self, iommu_id: int) -> LegacyTables:
        """Give the tables for T=0 of an IOMMU."""
        return self._root_complex.iommus[iommu_id].legacy

    def translation_agent(self, root_port: Bdf) -> HostTranslationAgent:
        """Give the agent for ATS and page requests of a root port."""
        return self._root_complex.agents[root_port.requester_id]

    def config_read(self, function: Bdf, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes of configuration space; all ones if there is no such function."""
        return self._root_complex.fabric.config_read(function, offset, size)

    def config_write(self, function: Bdf, offset: int, size: int, value: int) -> None:
        """Write 1, 2 or 4 bytes of configuration space."""
        unit = self._root_complex.key_units.get(function.requester_id)
        if unit is None or not unit.holds(offset, size):
            self._root_complex.fabric.config_write(function, offset, size, value)

    def config_register(self, function: Bdf, offset: int) -> RegisterAccess:
        """Give access to one DW of configuration space that is read and written again and again."""
        if function.requester_id not in self._root_complex.key_units:
            return self._root_complex.fabric.config_register(function, offset)
        return RegisterAccess(
            partial(self.config_read, function, offset, 4), partial(self.config_write, function, offset, 4)
        )

    def mmio_read(self, address: int, size: int) -> bytes:
        """Read device memory with T=0; all ones if nobody answers."""
        return self._root_complex.mmio_read(address, size)

    def mmio_write(self, address: int, data: bytes) -> None:
        """Write device memory with T=0."""
        self._root_complex.mmio_write(address, data)

    def deliver_interrupts(self, sink: InterruptSink) -> None:
        """Send all interrupts to `sink` from now on."""
        self._root_complex.deliver_interrupts(sink)
