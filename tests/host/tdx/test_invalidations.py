"""Invalidations: what is complete when, and what waits for that."""

from host.tdx.tables_machine import GPA, K4, RID, Machine, refused
from teeio.abi.operands import DmarLevel, Invalidation
from teeio.abi.statuses import Status
from teeio.host.dmar_tables import address
from teeio.host.invalidation_queue import QUEUE_SLOTS
from trusted_dma_bench import tdr_of


def test_the_context_cache_is_emptied_before_a_context_entry_goes() -> None:
    machine = Machine()
    machine.bind()
    assert machine.reaches()
    machine.bench.take_away(DmarLevel.PASID, RID)
    machine.bench.take_away(DmarLevel.PASID_DIRECTORY, RID)
    assert RID in machine.unit.contexts
    machine.tables.block(DmarLevel.CONTEXT, RID)
    machine.tables.request(Invalidation.CONTEXT, RID)
    assert RID in machine.unit.contexts, "queued is not done"
    machine.tables.process()
    assert RID not in machine.unit.contexts


def test_a_wait_is_complete_only_when_the_head_has_passed_it() -> None:
    """The PASID entry's three descriptors, one by one: the first two alone do not let it go."""
    machine = Machine()
    machine.bind()
    machine.tables.block(DmarLevel.PASID, RID)
    machine.tables.request(Invalidation.PASID, RID)
    for done in range(3):
        with refused(Status.DMAR_INVALID_INV_STATE):
            machine.tables.remove(DmarLevel.PASID, RID)
        assert machine.tables.process(1) == (int(done == 2), 2 - done)
    machine.tables.remove(DmarLevel.PASID, RID)


def test_the_queue_takes_no_more_than_fits() -> None:
    machine = Machine()
    machine.bind()
    fits = (QUEUE_SLOTS - 1) // 2
    for _ in range(fits):
        machine.tables.request(Invalidation.IOTLB, machine.sept.tdr, machine.sept.owner)
    before = machine.image()
    with refused(Status.IOMMU_QUEUE_FULL):
        machine.tables.request(Invalidation.IOTLB, machine.sept.tdr, machine.sept.owner)
    assert machine.image() == before
    assert machine.tables.process() == (fits, 0)


def test_a_page_leaves_only_after_the_iotlb_has_forgotten_it() -> None:
    machine = Machine()
    machine.bind()
    assert machine.reaches()
    machine.sept.block(GPA, K4)
    machine.sept.track()
    assert machine.reaches(), "stale, and still the TVM's own page"
    for target, owner in ((machine.sept.tdr, None), (tdr_of(9), machine.sept.owner + 1)):
        with refused(Status.TLB_TRACKING_NOT_DONE):
            machine.sept.remove(GPA, K4)
        if owner is not None:
            machine.bench.flush(Invalidation.IOTLB, target, owner)  # another TVM's
    machine.tables.request(Invalidation.IOTLB, machine.sept.tdr, machine.sept.owner)
    with refused(Status.TLB_TRACKING_NOT_DONE):
        machine.sept.remove(GPA, K4)
    machine.tables.process()
    machine.sept.remove(GPA, K4)
    assert not machine.reaches()


def test_an_invalidation_counts_from_when_it_was_asked_for() -> None:
    """The IOMMU is between the descriptors when the page is cached again, blocked and tracked: what is done came before that."""
    machine = Machine()
    machine.bind()
    machine.tables.request(Invalidation.IOTLB, machine.sept.tdr, machine.sept.owner)
    assert machine.tables.process(1) == (0, 1)
    expect_another_is_needed(machine)


def test_an_invalidation_of_a_tvm_that_has_ended_counts_for_no_other() -> None:
    """Attack: the invalidation waits, its TVM ends, and the next one has the root page and another key."""
    machine = Machine()
    ended = machine.memory.create_owner()
    machine.tables.request(Invalidation.IOTLB, machine.sept.tdr, ended)
    machine.memory.destroy_owner(ended)
    machine.bind()
    expect_another_is_needed(machine)


def expect_another_is_needed(machine: Machine) -> None:
    """What waits is completed, but the page that is cached and then blocked does not leave by that."""
    assert machine.reaches()
    machine.sept.block(GPA, K4)
    machine.sept.track()
    assert machine.tables.process() == (1, 0)
    assert machine.reaches(), "cached"
    with refused(Status.TLB_TRACKING_NOT_DONE):
        machine.sept.remove(GPA, K4)
    machine.bench.flush(Invalidation.IOTLB, machine.sept.tdr, machine.sept.owner)
    machine.sept.remove(GPA, K4)
    assert not machine.reaches()


def test_the_last_entry_takes_the_iommu_out_of_the_tracking() -> None:
    machine = Machine()
    machine.bind()
    machine.bench.lead(RID + 1, machine.sept, machine.second.shared)
    machine.sept.block(GPA, K4)
    machine.sept.track()
    machine.bench.take_away(DmarLevel.PASID, RID)
    with refused(Status.TLB_TRACKING_NOT_DONE):
        machine.sept.remove(GPA, K4)
    machine.bench.take_away(DmarLevel.PASID, RID + 1)
    machine.sept.remove(GPA, K4)


def test_a_queue_that_the_vmm_wrote_into_completes_nothing() -> None:
    for page in (1, 2):
        machine = Machine()
        machine.bind()
        machine.tables.block(DmarLevel.PASID, RID)
        machine.tables.request(Invalidation.PASID, RID)
        machine.memory.vmm.write(machine.bench.pages[page], bytes(8))
        if page == 1:
            assert machine.tables.process() == (0, 3)
        else:
            with refused(Status.DMAR_TABLE_POISONED):
                machine.tables.process()
        with refused(Status.DMAR_TABLE_POISONED):
            machine.tables.request(Invalidation.IOTLB, machine.sept.tdr, machine.sept.owner)
        with refused(Status.DMAR_INVALID_INV_STATE):
            machine.tables.remove(DmarLevel.PASID, RID)


def test_a_lost_page_does_not_stop_other_invalidations() -> None:
    machine = Machine()
    machine.bind()
    lost = address(machine.tables.read(DmarLevel.PASID_DIRECTORY, RID))
    machine.tables.block(DmarLevel.PASID, RID)
    machine.tables.request(Invalidation.PASID, RID)
    machine.memory.vmm.write(lost, b"X")
    machine.bench.flush(Invalidation.IOTLB, machine.sept.tdr, machine.sept.owner)
    assert machine.tables.waiting == 0


def test_only_blocked_entries_are_invalidated() -> None:
    machine = Machine()
    machine.bind()
    for kind in (Invalidation.ROOT, Invalidation.CONTEXT, Invalidation.PASID_DIRECTORY, Invalidation.PASID):
        with refused(Status.DMAR_INVALID_MAPPING_STATE):
            machine.tables.request(kind, RID)
    assert machine.tables.waiting == 0
