"""The TSM's moves on the trusted tables: every state and move at every level, and pages that come back only at the end."""

import itertools

import pytest

from teeio.abi.operands import PAGE_SIZE, DmarLevel, DmarState, Invalidation, InvalidationState, PageLevel
from teeio.abi.statuses import Status
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import Misuse, Reject
from teeio.host.dmar_tables import address, offered, qwords, state_of
from teeio.host.invalidation_queue import QUEUE_SLOTS
from teeio.host.memory import TSM, PhysicalMemory
from teeio.host.mmio_metadata import MmioMetadata
from teeio.host.secure_ept import SecureEpt, SharedEpt
from teeio.host.tdx.trusted_tables import PASID_TRANSITIONS, TRANSITIONS, DmarMove
from teeio.host.trusted_remapping import SecondStage, TrustedRemapping
from trusted_dma_bench import TABLE_PAGES, TablesBench, tdr_of

RID = 0x0100
GPA = 0x10_0000
K4 = PageLevel.PAGE_4K
TO_TABLES = (DmarLevel.ROOT, DmarLevel.CONTEXT, DmarLevel.PASID_DIRECTORY)


class Machine:
    """One IOMMU in TDX mode, and a TVM with a private page at GPA."""

    def __init__(self) -> None:
        self.memory = PhysicalMemory(32 * PAGE_SIZE, SeededEntropy(b"tables"))
        self.unit = TrustedRemapping("iommu0", self.memory)
        self.bench = TablesBench(self.unit, self.memory)
        self.tables = self.bench.tables
        self.sept = SecureEpt(self.memory, self.memory.create_owner(), tdr_of(1), MmioMetadata(()))
        self.second = SecondStage(self.sept, SharedEpt())
        self.private = self.memory.vmm.allocate()
        self.sept.augment(GPA, self.private, K4)
        self.sept.accept(GPA, K4)

    def above(self, level: DmarLevel) -> None:
        """Add the tables above an entry of this level."""
        for one in TO_TABLES[: DmarLevel.ROOT - level]:
            self.bench.add(one, RID, self.memory.vmm.allocate())

    def bind(self) -> None:
        self.bench.lead(RID, self.sept, self.second.shared)
        self.tables.accept(RID, self.sept.tdr)

    def reaches(self) -> bool:
        return self.unit.translate(RID, GPA) == (self.private, self.sept.owner)

    def state(self, level: DmarLevel) -> DmarState:
        return state_of(self.tables.read(level, RID))

    def make(self, move: DmarMove, level: DmarLevel) -> None:
        if move is DmarMove.ADD:
            leaf = level is DmarLevel.PASID
            self.bench.add(level, RID, 0 if leaf else self.memory.vmm.allocate(), self.second if leaf else None)
        elif move is DmarMove.ACCEPT:
            self.tables.accept(RID, self.sept.tdr)
        elif move is DmarMove.BLOCK:
            self.tables.block(level, RID)
        else:
            self.tables.remove(level, RID)

    def image(self) -> object:
        """Everything that a refused move must leave as it was."""
        view = self.memory.view(TSM)
        owners = bytes(self.memory._owners)
        tables = [view.read(page * PAGE_SIZE, PAGE_SIZE) for page, owner in enumerate(owners) if owner == TSM]
        return tables, dict(self.unit.second_stages), self.tables.waiting, dict(self.sept._caches)


def refused(*statuses: Status) -> pytest.RaisesExc[Reject]:
    return pytest.RaisesExc(Reject, check=lambda error: error.code in statuses)


def path_to(state: DmarState, level: DmarLevel) -> list[DmarMove]:
    """Give the moves from FREE to a state."""
    moves = [DmarMove.ADD, *([DmarMove.ACCEPT] if level is DmarLevel.PASID else []), DmarMove.BLOCK]
    reached = {
        DmarState.FREE: 0,
        DmarState.PENDING: 1,
        DmarState.PRESENT: len(moves) - 1,
        DmarState.BLOCKED: len(moves),
    }
    return moves[: reached[state]]


CASES = [
    (level, state, move)
    for level, state, move in itertools.product(DmarLevel, DmarState, DmarMove)
    if level is DmarLevel.PASID or (state is not DmarState.PENDING and move is not DmarMove.ACCEPT)
]


@pytest.mark.parametrize(("level", "state", "move"), CASES, ids=lambda value: value.name)
def test_every_state_and_move(level: DmarLevel, state: DmarState, move: DmarMove) -> None:
    machine = Machine()
    machine.above(level)
    for step in path_to(state, level):
        machine.make(step, level)
    assert machine.state(level) is state
    expected = (PASID_TRANSITIONS if level is DmarLevel.PASID else TRANSITIONS).get((state, move))
    if move is DmarMove.REMOVE and expected is not None:
        machine.bench.flush(Invalidation[level.name], RID)
    before = None if expected is not None or move is DmarMove.ADD else machine.image()
    if expected is None:
        with refused(Status.DMAR_INVALID_MAPPING_STATE):
            machine.make(move, level)
        assert before in (None, machine.image())
    else:
        machine.make(move, level)
    assert machine.state(level) is (expected if expected is not None else state)
    assert machine.reaches() == (level is DmarLevel.PASID and machine.state(level) is DmarState.PRESENT)


@pytest.mark.parametrize("level", TO_TABLES)
def test_what_has_something_below_it_stays(level: DmarLevel) -> None:
    machine = Machine()
    machine.bind()
    with refused(Status.DMAR_INVALID_MAPPING_STATE):
        machine.tables.block(level, RID)
    assert machine.reaches()


@pytest.mark.parametrize("level", [DmarLevel.CONTEXT, DmarLevel.PASID_DIRECTORY, DmarLevel.PASID])
def test_without_the_entry_above_there_is_nothing_to_act_on(level: DmarLevel) -> None:
    machine = Machine()
    machine.above(DmarLevel(level + 1))
    page = machine.memory.vmm.allocate()
    for act in (
        lambda: machine.bench.add(level, RID, 0 if level is DmarLevel.PASID else page, machine.second),
        lambda: machine.tables.block(level, RID),
        lambda: machine.tables.read(level, RID),
        lambda: machine.tables.remove(level, RID),
        lambda: machine.tables.request(Invalidation[level.name], RID),
    ):
        with refused(Status.DMAR_ENTRY_NOT_PRESENT):
            act()
    assert machine.tables.state(RID) is DmarState.FREE
    assert machine.memory.owner_of(page) != TSM


def test_pages_come_back_level_by_level_and_only_after_completion() -> None:
    machine = Machine()
    machine.bind()
    assert machine.reaches()
    assert machine.memory.accounting()[TSM] == len(machine.bench.pages) + TABLE_PAGES
    for count, level in enumerate([DmarLevel.PASID, DmarLevel.PASID_DIRECTORY, DmarLevel.CONTEXT, DmarLevel.ROOT]):
        led_to = address(machine.tables.read(level, RID))
        machine.tables.block(level, RID)
        with refused(Status.DMAR_INVALID_INV_STATE):
            machine.tables.remove(level, RID)  # not asked for
        if level is DmarLevel.PASID:
            assert machine.reaches(), "still cached"
        machine.tables.request(Invalidation[level.name], RID)
        with refused(Status.DMAR_INVALID_INV_STATE):
            machine.tables.request(Invalidation[level.name], RID)  # asked for before
        with refused(Status.DMAR_INVALID_INV_STATE):
            machine.tables.remove(level, RID)  # asked for, not complete
        if level is not DmarLevel.PASID:
            assert machine.memory.owner_of(led_to) == TSM
        machine.tables.process()
        assert not machine.unit.iotlb, "nor may what was cached of the TVM outlive its last entry"
        assert not machine.unit.pasids
        assert not machine.reaches()
        assert machine.tables.remove(level, RID) == (() if level is DmarLevel.PASID else (led_to,))
        assert machine.memory.accounting()[TSM] == len(machine.bench.pages) + TABLE_PAGES - count
    machine.tables.take_down()
    assert not machine.unit.contexts
    assert not machine.unit.second_stages


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


def test_an_entry_is_accepted_by_the_tvm_that_it_leads_to() -> None:
    machine = Machine()
    machine.bench.lead(RID, machine.sept, machine.second.shared)
    with refused(Status.DMAR_INVALID_MAPPING_STATE):
        machine.tables.accept(RID, tdr_of(2))
    assert not machine.reaches()
    machine.tables.accept(RID, machine.sept.tdr)
    assert machine.reaches()


def test_the_vmm_offers_where_the_next_table_is_and_nothing_else() -> None:
    """Each bit of each entry, on its own: pointers aside, one that is changed makes the TSM refuse."""
    for level in DmarLevel:
        machine = Machine()
        machine.above(level)
        page = machine.memory.vmm.allocate()
        good = qwords(offered(level, 0 if level is DmarLevel.PASID else page))
        pointer = () if level is DmarLevel.PASID else range(12, 64)
        for number in range(64 * len(good)):
            if number in pointer:
                continue
            bad = tuple(word ^ (1 << number % 64 if index == number // 64 else 0) for index, word in enumerate(good))
            with refused(Status.OPERAND_INVALID):
                machine.tables.add(level, RID, bad, machine.second)
        for bad in (good[1:], (*good, 0), (-1, *good[1:]), (1 << 64, *good[1:])):
            with refused(Status.OPERAND_INVALID):
                machine.tables.add(level, RID, bad, machine.second)
        machine.tables.add(level, RID, good, machine.second)


@pytest.mark.parametrize("level", TO_TABLES)
def test_a_table_is_made_of_a_page_of_the_vmms_only(level: DmarLevel) -> None:
    """Attack: a table that the VMM prepared, or can still write, or that is somebody else's."""
    machine = Machine()
    machine.above(level)
    for taken in (machine.private, machine.bench.pages[0], machine.memory.size - PAGE_SIZE):
        with refused(Status.PAGE_METADATA_INCORRECT):
            machine.bench.add(level, RID, taken)
    with refused(Status.OPERAND_INVALID):
        machine.bench.add(level, RID, machine.memory.size)
    page = machine.memory.vmm.allocate()
    machine.memory.vmm.write(page, b"\x01" + b"prepared" * 8)
    machine.bench.add(level, RID, page)
    assert machine.memory.view(TSM).read(page, PAGE_SIZE) == bytes(PAGE_SIZE)
    assert b"prepared" not in machine.memory.vmm.read(page, PAGE_SIZE)


def test_the_vmm_cannot_read_a_table_and_what_it_writes_there_ends_it() -> None:
    machine = Machine()
    machine.bind()
    clear = machine.memory.view(TSM).read(machine.bench.pages[0], PAGE_SIZE)
    assert machine.memory.vmm.read(machine.bench.pages[0], PAGE_SIZE) != clear
    mine = machine.memory.vmm.allocate()
    machine.memory.vmm.write(machine.bench.pages[0] + 0x10, (mine | 1).to_bytes(8, "little"))
    assert not machine.reaches(), "not cached before, and no walk gets past the root"
    with refused(Status.DMAR_TABLE_POISONED):
        machine.tables.read(DmarLevel.PASID, RID)
    with refused(Status.DMAR_TABLE_POISONED):
        machine.tables.take_down()
    assert machine.tables.state(RID) is DmarState.BLOCKED, "what cannot be told is not free"


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


def test_the_states_are_in_the_bits_that_the_published_module_uses() -> None:
    machine = Machine()
    machine.bench.lead(RID, machine.sept, machine.second.shared)
    assert qwords(machine.tables.read(DmarLevel.PASID, RID))[0] == 1 << 63 | machine.sept.tdr | 3 << 2 | 1 << 5 | 2 << 6
    machine.tables.block(DmarLevel.PASID, RID)
    machine.tables.request(Invalidation.PASID, RID)
    entry = qwords(machine.tables.read(DmarLevel.PASID, RID))
    assert entry[0] & (1 << 63 | 1 << 10 | 1) == 1 << 10
    assert entry[1] >> 16 & 3 == InvalidationState.QUEUED
    machine.tables.process()
    assert qwords(machine.tables.read(DmarLevel.PASID, RID))[1] >> 16 & 3 == InvalidationState.DONE
    machine.tables.remove(DmarLevel.PASID, RID)
    blocked = {DmarLevel.PASID_DIRECTORY: (0, 10, 8), DmarLevel.CONTEXT: (1, 7, 21), DmarLevel.ROOT: (0, 10, 8)}
    for level, (word, bit, at) in blocked.items():
        machine.tables.block(level, RID)
        machine.tables.request(Invalidation[level.name], RID)
        entry = qwords(machine.tables.read(level, RID))
        assert entry[0] & (1 << bit | 1) == 1 << bit
        assert entry[word] >> at & 3 == InvalidationState.QUEUED
        machine.tables.process()
        machine.tables.remove(level, RID)


def test_our_own_mistakes_are_told() -> None:
    machine = Machine()
    machine.above(DmarLevel.PASID)
    with pytest.raises(Misuse):
        machine.bench.add(DmarLevel.PASID, RID)
    fresh = Machine()
    fresh.tables.take_down()
    with pytest.raises(Misuse):
        fresh.tables.process()
