"""Random hosts: whatever the VMM maps, converts, reads, writes and lets devices do, each TVM's memory stays its own.

Every private page holds its TVM's mark, written by that TVM alone. After each step the machine looks for marks in
wrong hands.
"""

from collections.abc import Callable
from contextlib import suppress

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from teeio.abi.operands import GPA_SHARED_BIT, PAGE_SIZE, DmarLevel, Invalidation, PageLevel
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import Reject
from teeio.host.iommu import Domain, Fault, Iommu
from teeio.host.memory import FREE, SHARED, TSM, MemoryPoisoned, PhysicalMemory
from teeio.host.mmio_metadata import MmioMetadata
from teeio.host.secure_ept import TRANSLATES, SecureEpt, SharedEpt
from teeio.host.trusted_remapping import SecondStage
from teeio.pcie.address import AddressRange
from trusted_dma_bench import SETUP_PAGES, TABLE_PAGES, TablesBench, tdr_of

PAGES = 5
TABLES = SETUP_PAGES + 2 * TABLE_PAGES - 1
GUEST_PAGES = 2
K4 = PageLevel.PAGE_4K

tvms = st.integers(0, 1)
gpas = st.integers(0, GUEST_PAGES - 1).map(lambda page: page * PAGE_SIZE)
hpas = st.integers(0, PAGES - 1).map(lambda page: page * PAGE_SIZE)


class Tvm:
    """A TVM with one device of its own."""

    def __init__(self, memory: PhysicalMemory, iommu: Iommu, index: int) -> None:
        self.owner = memory.create_owner()
        self.rid = 0x100 + index
        self.mark = bytes([0xA0 + index]) * 64
        self.tdr = tdr_of(index)
        self.sept = SecureEpt(memory, self.owner, self.tdr, MmioMetadata((AddressRange(0, memory.size),)))
        self.shared = SharedEpt()
        self.shared.trusted_dma = True
        self.domain = Domain()
        iommu.legacy.attach(self.rid, self.domain)


class Host(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.memory = PhysicalMemory((PAGES + TABLES) * PAGE_SIZE, SeededEntropy(b"isolation"))
        self.iommu = Iommu("iommu0", self.memory)
        self.tvms = [Tvm(self.memory, self.iommu, index) for index in range(2)]
        self.memory.vmm.allocate(PAGES * PAGE_SIZE)
        self.memory.assign(0, TSM)
        self.memory.view(TSM).write(0, b"\xcc" * PAGE_SIZE)
        self.trusted = TablesBench(self.iommu.trusted, self.memory)
        for guest in self.tvms:
            self.trusted.prepare(guest.rid)

    def attempt(self, step: Callable[..., object], *arguments: object) -> bool:
        """Do what the TSM may refuse; tell whether it was done."""
        try:
            step(*arguments)
        except Reject:
            return False
        return True

    @initialize(running=st.booleans(), bound=st.booleans())
    def start(self, running: bool, bound: bool) -> None:
        """Start with both TVMs at work, with or without their devices, or with nothing."""
        for index in range(len(self.tvms)):
            if running:
                self.augment(index, 0, (1 + index) * PAGE_SIZE)
                self.accept(index, 0)
            if bound:
                self.add_trusted_entry(index, index, 0)
                self.accept_trusted_entry(index)

    @rule(tvm=tvms, gpa=gpas, hpa=hpas)
    def augment(self, tvm: int, gpa: int, hpa: int) -> None:
        self.attempt(self.tvms[tvm].sept.augment, gpa, hpa, K4)

    @rule(tvm=tvms, gpa=gpas)
    def accept(self, tvm: int, gpa: int) -> None:
        guest = self.tvms[tvm]
        if self.attempt(guest.sept.accept, gpa, K4):
            place = guest.sept.translate(gpa)
            assert place is not None
            assert place.owner == guest.owner
            with suppress(MemoryPoisoned):
                assert self.memory.view(guest.owner).read(place.hpa, PAGE_SIZE) == bytes(PAGE_SIZE)
                self.memory.view(guest.owner).write(place.hpa, guest.mark * (PAGE_SIZE // len(guest.mark)))

    @rule(tvm=tvms, gpa=gpas)
    def block(self, tvm: int, gpa: int) -> None:
        self.attempt(self.tvms[tvm].sept.block, gpa, K4)

    @rule(tvm=tvms)
    def track(self, tvm: int) -> None:
        self.tvms[tvm].sept.track()

    @rule(tvm=tvms, gpa=gpas)
    def remove(self, tvm: int, gpa: int) -> None:
        self.attempt(self.tvms[tvm].sept.remove, gpa, K4)

    @rule(tvm=tvms, gpa=gpas, rival=tvms, orderly=st.booleans())
    def take_away(self, tvm: int, gpa: int, rival: int, orderly: bool) -> None:
        """Take a page from a TVM whose device is using it, orderly or in a hurry, and give it to a rival at once."""
        guest = self.tvms[tvm]
        leaf = guest.sept.leaf(gpa)
        self.dma(tvm, gpa, 0, True, False)
        self.attempt(guest.sept.block, gpa, K4)
        guest.sept.track()
        if orderly:
            self.invalidate(tvm, True)
        if leaf is not None and self.attempt(guest.sept.remove, gpa, K4):
            self.augment(rival, gpa, leaf.hpa)
            self.accept(rival, gpa)
        self.dma(tvm, gpa, 0, True, False)

    @rule(tvm=tvms, gpa=gpas, hpa=hpas)
    def map_shared(self, tvm: int, gpa: int, hpa: int) -> None:
        self.tvms[tvm].shared.map(gpa, hpa)

    @rule(tvm=tvms, gpa=gpas, hpa=hpas)
    def map_legacy(self, tvm: int, gpa: int, hpa: int) -> None:
        self.tvms[tvm].domain.map(gpa, hpa)

    @rule(device=tvms, tvm=tvms, gpa=gpas)
    def add_trusted_entry(self, device: int, tvm: int, gpa: int) -> None:
        guest = self.tvms[tvm]
        second = SecondStage(guest.sept, guest.shared)
        self.attempt(self.trusted.add, DmarLevel.PASID, self.tvms[device].rid, 0, second)
        self.dma(device, gpa, 0, True, False)

    @rule(device=tvms)
    def accept_trusted_entry(self, device: int) -> None:
        self.attempt(self.trusted.tables.accept, self.tvms[device].rid, self.tvms[device].tdr)

    @rule(device=tvms)
    def block_trusted_entry(self, device: int) -> None:
        self.attempt(self.trusted.tables.block, DmarLevel.PASID, self.tvms[device].rid)

    @rule(device=tvms)
    def remove_trusted_entry(self, device: int) -> None:
        self.attempt(self.trusted.tables.remove, DmarLevel.PASID, self.tvms[device].rid)

    @rule(tvm=tvms, domain=st.booleans())
    def invalidate(self, tvm: int, domain: bool) -> None:
        guest = self.tvms[tvm]
        kind, target = (Invalidation.IOTLB, guest.tdr) if domain else (Invalidation.PASID, guest.rid)
        self.attempt(self.trusted.flush, kind, target, guest.owner)

    @rule(hpa=hpas)
    def vmm_writes(self, hpa: int) -> None:
        self.memory.vmm.write(hpa + 8, b"VMM")

    @rule(
        device=tvms, gpa=gpas, offset=st.sampled_from([0, 8, PAGE_SIZE - 8]), t_bit=st.booleans(), shared=st.booleans()
    )
    def dma(self, device: int, gpa: int, offset: int, t_bit: bool, shared: bool) -> None:
        guest = self.tvms[device]
        address = gpa + offset | (GPA_SHARED_BIT if shared and t_bit else 0)
        found = self.iommu.translate(guest.rid, address, 64, write=True, t_bit=t_bit)
        if isinstance(found, Fault):
            return
        for segment in found:
            assert segment.owner == SHARED or (t_bit and segment.owner == guest.owner)
            for page in range(segment.hpa & -PAGE_SIZE, segment.hpa + segment.size, PAGE_SIZE):
                owners = (FREE, SHARED) if segment.owner == SHARED else (guest.owner,)
                assert self.memory.owner_of(page) in owners
            try:  # a device writes its own TVM's mark where trusted, a neutral value elsewhere
                data = guest.mark if segment.owner == guest.owner else b"device"
                self.memory.view(segment.owner).write(segment.hpa, data[: segment.size])
            except MemoryPoisoned:
                assert segment.owner == guest.owner

    @invariant()
    def the_vmm_sees_no_mark(self) -> None:
        everything = self.memory.vmm.read(0, self.memory.size)
        for guest in self.tvms:
            assert guest.mark not in everything
        assert b"\xcc" * 64 not in everything

    @invariant()
    def each_tvm_reads_only_what_it_wrote(self) -> None:
        for guest in self.tvms:
            for _, leaf in guest.sept.leaves():
                assert self.memory.owner_of(leaf.hpa) == guest.owner
                if leaf.state in TRANSLATES:
                    with suppress(MemoryPoisoned):
                        assert set(self.memory.view(guest.owner).read(leaf.hpa, PAGE_SIZE)) <= {guest.mark[0]}

    @invariant()
    def every_page_is_accounted_for(self) -> None:
        accounting = self.memory.accounting()
        assert sum(accounting.values()) == PAGES + TABLES
        for guest in self.tvms:
            assert accounting.get(guest.owner, 0) == len(list(guest.sept.leaves()))


Host.TestCase.settings = settings(max_examples=60, stateful_step_count=50)
TestIsolation = Host.TestCase
