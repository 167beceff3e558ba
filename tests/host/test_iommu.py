"""Which DMA goes where: the T bit, private and shared memory, PASID, faults."""

import pytest

from teeio.abi.operands import GPA_SHARED_BIT, PAGE_SIZE, Invalidation, PageLevel
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import Misuse
from teeio.host.iommu import FAULT_LOG_SIZE, Domain, Fault, Iommu, Segment
from teeio.host.iommu_faults import RULES, FaultReason
from teeio.host.memory import SHARED, TSM, PhysicalMemory
from teeio.host.mmio_metadata import MmioMetadata
from teeio.host.secure_ept import SecureEpt, SharedEpt
from teeio.observe import Event, Refused
from teeio.pcie.address import AddressRange
from trusted_dma_bench import TablesBench

RID = 0x0100
GPA = 0x10_0000
BAR = 0x40_0000_0000
K4 = PageLevel.PAGE_4K


class Machine:
    """One IOMMU and its device, one TVM with a private page at GPA and a shared one behind it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.memory = PhysicalMemory(32 * PAGE_SIZE, SeededEntropy(b"iommu"))
        self.iommu = Iommu("iommu0", self.memory, self.events.append)
        self.bench = TablesBench(self.iommu.trusted, self.memory)
        self.mmio = MmioMetadata((AddressRange(0, self.memory.size),))
        self.owner = self.memory.create_owner()
        self.sept = SecureEpt(self.memory, self.owner, 0x7000, self.mmio)
        self.shared = SharedEpt()
        self.shared.trusted_dma = True
        self.private_page = self.memory.vmm.allocate()
        self.shared_page = self.memory.vmm.allocate()
        self.sept.augment(GPA, self.private_page, K4)
        self.sept.accept(GPA, K4)
        self.shared.map(GPA + PAGE_SIZE, self.shared_page)
        self.domain = Domain()
        self.iommu.legacy.attach(RID, self.domain)

    def bind(self) -> None:
        self.bench.lead(RID, self.sept, self.shared)
        self.bench.tables.accept(RID, self.sept.tdr)

    def dma(
        self, address: int, size: int = 16, *, write: bool = False, t_bit: bool = True, pasid: int | None = None
    ) -> list[Segment] | Fault:
        return self.iommu.translate(RID, address, size, write=write, t_bit=t_bit, pasid=pasid)

    def reason(self, address: int, *, write: bool = False, t_bit: bool = True, pasid: int | None = None) -> FaultReason:
        found = self.dma(address, write=write, t_bit=t_bit, pasid=pasid)
        assert isinstance(found, Fault)
        event = self.events[-1]
        assert isinstance(event, Refused)
        assert event.by == "iommu0"
        assert event.rule == RULES[found.reason]
        return found.reason

    def flush(self) -> None:
        self.bench.flush(Invalidation.IOTLB, self.sept.tdr, self.owner)


def test_trusted_dma_reaches_private_and_shared_memory_of_its_tvm() -> None:
    machine = Machine()
    machine.bind()
    assert machine.dma(GPA + 8) == [Segment(machine.private_page + 8, 16, machine.owner)]
    assert machine.dma((GPA + PAGE_SIZE) | GPA_SHARED_BIT) == [Segment(machine.shared_page, 16, SHARED)]
    machine.shared.trusted_dma = False
    machine.flush()
    assert machine.reason((GPA + PAGE_SIZE) | GPA_SHARED_BIT) is FaultReason.NOT_MAPPED


def test_untrusted_dma_reaches_shared_memory_only() -> None:
    machine = Machine()
    machine.bind()
    tsm_page = machine.memory.vmm.allocate()
    machine.memory.assign(tsm_page, TSM)
    machine.domain.map(0, machine.shared_page)
    machine.domain.map(PAGE_SIZE, machine.private_page)
    machine.domain.map(2 * PAGE_SIZE, tsm_page)
    machine.domain.map(3 * PAGE_SIZE, BAR)
    machine.domain.map(4 * PAGE_SIZE, machine.shared_page, writable=False)
    assert machine.dma(4, t_bit=False) == [Segment(machine.shared_page + 4, 16, SHARED)]
    assert machine.reason(PAGE_SIZE, t_bit=False) is FaultReason.PRIVATE_MEMORY
    assert machine.reason(2 * PAGE_SIZE, t_bit=False, write=True) is FaultReason.PRIVATE_MEMORY
    assert machine.reason(3 * PAGE_SIZE, t_bit=False) is FaultReason.NOT_MEMORY
    assert machine.reason(4 * PAGE_SIZE, t_bit=False, write=True) is FaultReason.READ_ONLY
    assert machine.reason(GPA, t_bit=False) is FaultReason.NOT_MAPPED
    machine.domain.unmap(0)
    assert machine.reason(0, t_bit=False) is FaultReason.NOT_MAPPED
    machine.iommu.legacy.detach(RID)
    assert machine.reason(4, t_bit=False) is FaultReason.NO_DOMAIN


def test_a_request_with_pasid_is_blocked() -> None:
    """TDX Connect has no PASID: no context entry enables it, not even for the PASID that requests without one get."""
    machine = Machine()
    assert machine.reason(GPA, pasid=0) is FaultReason.ROOT_ENTRY_NOT_PRESENT
    machine.bind()
    machine.domain.map(0, machine.shared_page)
    for pasid in (0, 5):
        assert machine.reason(GPA, pasid=pasid) is FaultReason.PASID_NOT_ENABLED
        assert machine.reason(0, t_bit=False, pasid=pasid) is FaultReason.PASID_NOT_ENABLED
    assert isinstance(machine.dma(GPA), list)
    assert isinstance(machine.dma(0, t_bit=False), list)


def test_the_shared_ept_cannot_lead_trusted_dma_to_private_memory() -> None:
    machine = Machine()
    machine.bind()
    machine.shared.map(0, machine.private_page)
    assert machine.reason(GPA_SHARED_BIT) is FaultReason.PRIVATE_MEMORY


def test_a_page_that_became_private_is_out_of_reach_even_if_cached() -> None:
    machine = Machine()
    machine.bind()
    address = (GPA + PAGE_SIZE) | GPA_SHARED_BIT
    assert isinstance(machine.dma(address), list)
    machine.memory.assign(machine.shared_page, machine.memory.create_owner())
    assert machine.reason(address) is FaultReason.PRIVATE_MEMORY


def test_trusted_dma_to_mmio_or_to_pending_pages_is_blocked() -> None:
    machine = Machine()
    machine.bind()
    machine.mmio.add(BAR, 0)
    machine.mmio.set(BAR, 1, RID)
    machine.sept.map_mmio(GPA + 0x8000, BAR, K4)
    assert machine.reason(GPA + 0x8000) is FaultReason.NOT_MAPPED
    machine.sept.accept_mmio(GPA + 0x8000, K4)
    assert machine.reason(GPA + 0x8000) is FaultReason.NOT_MEMORY
    machine.sept.augment(GPA + 0x9000, machine.memory.vmm.allocate(), K4)
    assert machine.reason(GPA + 0x9000) is FaultReason.NOT_MAPPED


def test_contiguous_pages_become_one_segment_and_one_bad_page_blocks_all() -> None:
    machine = Machine()
    machine.bind()
    pages = machine.memory.vmm.allocate(3 * PAGE_SIZE)
    far = machine.memory.vmm.allocate(2 * PAGE_SIZE) + PAGE_SIZE
    for index, hpa in enumerate([pages, pages + PAGE_SIZE, pages + 2 * PAGE_SIZE, far]):
        machine.sept.augment(0x4000 + index * PAGE_SIZE, hpa, K4)
        machine.sept.accept(0x4000 + index * PAGE_SIZE, K4)
    assert machine.dma(0x4010, 4 * PAGE_SIZE - 0x20) == [
        Segment(pages + 0x10, 3 * PAGE_SIZE - 0x10, machine.owner),
        Segment(far, PAGE_SIZE - 0x10, machine.owner),
    ]
    assert isinstance(machine.dma(0x4000, 5 * PAGE_SIZE), Fault)
    assert machine.iommu.faults[-1] == Fault(RID, 0x8000, False, True, FaultReason.NOT_MAPPED)


@pytest.mark.parametrize(("address", "size"), [(-1, 4), ((1 << 64) - 2, 4), (1 << 64, 0)])
def test_absurd_addresses_fault(address: int, size: int) -> None:
    machine = Machine()
    machine.bind()
    assert isinstance(machine.dma(address, size), Fault)


def test_zero_length_requests_are_checked() -> None:
    machine = Machine()
    machine.bind()
    assert isinstance(machine.dma(GPA, 0), list)
    assert isinstance(machine.dma(0, 0), Fault)


def test_the_fault_log_is_bounded() -> None:
    machine = Machine()
    for address in range(FAULT_LOG_SIZE + 5):
        machine.dma(address, t_bit=False)
    assert len(machine.iommu.faults) == FAULT_LOG_SIZE
    assert machine.iommu.faults_dropped == 5
    assert machine.iommu.faults[-1].address == FAULT_LOG_SIZE + 4


def test_legacy_mappings_are_whole_pages() -> None:
    for iova, hpa, size in [(1, 0, PAGE_SIZE), (0, 1, PAGE_SIZE), (0, 0, 5), (0, 0, 0), (-PAGE_SIZE, 0, PAGE_SIZE)]:
        with pytest.raises(Misuse):
            Domain().map(iova, hpa, size)
