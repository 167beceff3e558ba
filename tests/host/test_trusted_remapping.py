"""The IOMMU's walk through the trusted tables: bytes in pages of the TSM, what can be wrong with them, and what is cached."""

from collections.abc import Callable

import pytest

from teeio.abi.operands import GPA_SHARED_BIT, PAGE_SIZE, DmarLevel, PageLevel
from teeio.crypto.entropy import SeededEntropy
from teeio.host.dmar_tables import TABLES, ContextEntry, PasidEntry, RootEntry, address, below
from teeio.host.iommu_faults import ENTRY_FAULTS, NUMBERS, FaultReason
from teeio.host.memory import TSM, PhysicalMemory
from teeio.host.mmio_metadata import MmioMetadata
from teeio.host.secure_ept import SecureEpt, SharedEpt
from teeio.host.trusted_remapping import ENTRY_CACHE_SIZE, IOTLB_SIZE, TrustedRemapping
from trusted_dma_bench import TablesBench, tdr_of

RID = 0x0185
"""Bus 1, device 16, function 5: in the upper half of the bus."""
GPA = 0x4000


class Machine:
    """One IOMMU in TDX mode; a requester whose TVM has a private page."""

    def __init__(self, *, lead: bool = True) -> None:
        self.memory = PhysicalMemory(32 * PAGE_SIZE, SeededEntropy(b"walk"))
        self.unit = TrustedRemapping("iommu0", self.memory)
        self.owner = self.memory.create_owner()
        self.sept = SecureEpt(self.memory, self.owner, tdr_of(1), MmioMetadata(()))
        self.shared = SharedEpt()
        self.page = self.memory.vmm.allocate()
        self.sept.augment(GPA, self.page, PageLevel.PAGE_4K)
        self.sept.accept(GPA, PageLevel.PAGE_4K)
        self.bench = TablesBench(self.unit, self.memory)
        if lead:
            self.bench.lead(RID, self.sept, self.shared)
            self.bench.tables.accept(RID, self.sept.tdr)

    @property
    def place(self) -> tuple[int, int]:
        return self.page, self.owner

    def where(self, level: DmarLevel) -> int:
        """Give the physical address of the requester's entry, as an independent reading of the bytes says."""
        at, table = DmarLevel.ROOT, self.bench.pages[0]
        index = {DmarLevel.ROOT: RID >> 8 << 1 | RID >> 7 & 1, DmarLevel.CONTEXT: RID & 0x7F}
        while True:
            hpa = table + index.get(at, 0) * TABLES[at].size
            if at is level:
                return hpa
            table = int.from_bytes(self.memory.view(TSM).read(hpa, 8), "little") & ((1 << 52) - 1) & -PAGE_SIZE
            at = below(at)

    def overwrite(self, level: DmarLevel, change: Callable[[bytes], bytes]) -> None:
        """Change an entry as only the TSM could."""
        view, at, size = self.memory.view(TSM), self.where(level), TABLES[level].size
        view.write(at, change(view.read(at, size)))


def test_the_tables_lie_in_pages_as_vt_d_has_them() -> None:
    machine = Machine()
    read = machine.memory.view(TSM).read
    root = int.from_bytes(read(machine.bench.pages[0] + 0x10 + 8, 8), "little")  # bus 1, upper half
    assert root & 0xFFF == 1
    context = read((root & -PAGE_SIZE) + 5 * 32, 32)
    assert context[0] & 0xF == 1, "present, no PASID, no device TLB, no page requests"
    assert context[8:] == bytes(24), "RID_PASID 0"
    directory = read(int.from_bytes(context[:8], "little") & -PAGE_SIZE, 8)
    entry = read(int.from_bytes(directory, "little") & -PAGE_SIZE, 64)
    first, second = (int.from_bytes(entry[at : at + 8], "little") for at in (0, 8))
    assert first & -PAGE_SIZE == machine.sept.tdr
    assert first & 0xFFF == 1 | 3 << 2 | 1 << 5 | 2 << 6, "P, AW 5 levels, SLEE, PGTT second stage"
    assert second == 0x8000 | machine.owner | 1 << 23 | 1 << 24 | 1 << 26 | 6 << 27, "DID, PWSNP, PGSNP, EMTE, EMT"
    assert entry[16:] == bytes(48)
    assert machine.unit.translate(RID, GPA) == machine.place


@pytest.mark.parametrize("level", DmarLevel)
def test_what_can_be_wrong_with_an_entry_has_its_fault(level: DmarLevel) -> None:
    faults = ENTRY_FAULTS[level]
    machine = Machine()
    machine.overwrite(level, lambda raw: bytes([raw[0] & ~1]) + raw[1:])
    assert machine.unit.translate(RID, GPA) is faults.not_present
    reserved = Machine()
    reserved.overwrite(
        level, lambda raw: raw[:1] + bytes([raw[1] | 8 if level is not DmarLevel.CONTEXT else raw[1] | 1]) + raw[2:]
    )
    assert reserved.unit.translate(RID, GPA) is faults.reserved
    tampered = Machine()
    tampered.memory.vmm.write(tampered.where(level), b"\x01")
    assert tampered.unit.translate(RID, GPA) is faults.unreadable
    assert {*faults} <= NUMBERS.keys()


@pytest.mark.parametrize("level", [DmarLevel.ROOT, DmarLevel.CONTEXT, DmarLevel.PASID_DIRECTORY])
def test_a_pointer_to_memory_that_is_not_the_tsms_ends_the_walk(level: DmarLevel) -> None:
    """Even if the VMM brought one in, what it lays there is not read: neither in its own memory nor beyond it."""
    machine = Machine()
    mine = machine.memory.vmm.allocate()
    machine.memory.vmm.write(mine, b"\x01" + bytes(PAGE_SIZE - 1))
    for target in (mine, machine.memory.size):
        machine.overwrite(level, lambda raw, to=target: (to | raw[0]).to_bytes(8, "little") + raw[8:])
        machine.unit.forget()
        assert machine.unit.translate(RID, GPA) is ENTRY_FAULTS[below(level)].unreadable


def test_outside_tdx_mode_nothing_is_trusted() -> None:
    machine = Machine(lead=False)
    assert machine.unit.translate(RID, GPA) is FaultReason.ROOT_ENTRY_NOT_PRESENT
    machine.bench.tables.take_down()
    assert machine.unit.translate(RID, GPA) is FaultReason.ROOT_TABLE_INVALID


def test_a_pasid_entry_that_leads_nowhere_is_invalid() -> None:
    machine = Machine()
    machine.unit.second_stages.clear()
    assert machine.unit.translate(RID, GPA) is FaultReason.PASID_ENTRY_INVALID


def test_what_is_removed_without_invalidation_stays_reachable() -> None:
    """Each cache by itself: the IOTLB, the PASID cache, the context cache."""
    machine = Machine()
    machine.sept.augment(GPA + PAGE_SIZE, machine.memory.vmm.allocate(), PageLevel.PAGE_4K)
    machine.sept.accept(GPA + PAGE_SIZE, PageLevel.PAGE_4K)
    assert machine.unit.translate(RID, GPA) == machine.place
    for level in (DmarLevel.PASID, DmarLevel.PASID_DIRECTORY, DmarLevel.CONTEXT, DmarLevel.ROOT):
        machine.overwrite(level, lambda raw: bytes(len(raw)))
        assert machine.unit.translate(RID, GPA) == machine.place
        assert isinstance(machine.unit.translate(RID, GPA + PAGE_SIZE), tuple), "a new page by the cached entries"
    machine.unit.forget_translations()
    assert machine.unit.translate(RID, GPA) == machine.place, "the PASID cache still knows the second stage"
    machine.unit.forget_pasids()
    assert machine.unit.translate(RID, GPA) is FaultReason.DIRECTORY_ENTRY_NOT_PRESENT, "behind the cached context"
    machine.unit.forget_contexts()
    assert machine.unit.translate(RID, GPA) is FaultReason.ROOT_ENTRY_NOT_PRESENT


def test_what_is_not_present_is_not_cached() -> None:
    machine = Machine(lead=False)
    for level in (DmarLevel.ROOT, DmarLevel.CONTEXT, DmarLevel.PASID_DIRECTORY):
        assert machine.unit.translate(RID, GPA) is ENTRY_FAULTS[level].not_present
        machine.bench.add(level, RID, machine.memory.vmm.allocate())
    machine.bench.lead(RID, machine.sept, machine.shared)
    assert machine.unit.translate(RID, GPA) is FaultReason.PASID_ENTRY_NOT_PRESENT, "pending"
    machine.bench.tables.accept(RID, machine.sept.tdr)
    assert machine.unit.translate(RID, GPA) == machine.place


def test_functions_of_one_tvm_share_translations_and_of_others_do_not() -> None:
    machine = Machine()
    other = SecureEpt(machine.memory, machine.memory.create_owner(), tdr_of(2), MmioMetadata(()))
    for requester_id, sept in ((RID + 1, machine.sept), (RID + 2, other)):
        machine.bench.lead(requester_id, sept, machine.shared)
        machine.bench.tables.accept(requester_id, sept.tdr)
    assert machine.unit.translate(RID, GPA) == machine.place
    assert machine.unit.translate(RID + 1, GPA) == machine.place
    assert machine.unit.translate(RID + 2, GPA) is FaultReason.NOT_MAPPED
    assert list(machine.unit.iotlb) == [(0x8000 | machine.owner, GPA)]
    machine.unit.forget_translations(0x8000 | other.owner)
    assert machine.unit.iotlb
    machine.unit.forget_translations(0x8000 | machine.owner)
    assert not machine.unit.iotlb


def test_the_caches_are_bounded() -> None:
    machine = Machine()
    machine.shared.trusted_dma = True
    for index in range(IOTLB_SIZE + 10):
        machine.shared.map(index * PAGE_SIZE, machine.page)
        machine.unit.translate(RID, index * PAGE_SIZE | GPA_SHARED_BIT)
    assert len(machine.unit.iotlb) == IOTLB_SIZE
    machine.unit.forget()
    for index in range(ENTRY_CACHE_SIZE):
        machine.unit.contexts[1 << 16 | index] = ContextEntry()
        machine.unit.pasids[1 << 16 | index, 0] = PasidEntry()
    machine.unit.translate(RID, GPA)
    assert len(machine.unit.contexts) == len(machine.unit.pasids) == ENTRY_CACHE_SIZE
    assert RID in machine.unit.contexts


def test_entries_are_of_the_declared_size() -> None:
    for table in TABLES.values():
        assert len(table.entry().encode()) == table.size
        assert PAGE_SIZE % table.size == 0
    assert address(RootEntry(pointer=3)) == 3 * PAGE_SIZE
