"""The TSM's moves on the trusted tables: every state and move at every level, and pages that come back only at the end."""

import itertools

import pytest

from host.tdx.tables_machine import RID, TO_TABLES, Machine, refused
from teeio.abi.operands import PAGE_SIZE, DmarLevel, DmarState, Invalidation, InvalidationState
from teeio.abi.statuses import Status
from teeio.errors import Misuse
from teeio.host.dmar_tables import address, offered, qwords
from teeio.host.memory import TSM
from teeio.host.tdx.trusted_tables import PASID_TRANSITIONS, TRANSITIONS, DmarMove
from trusted_dma_bench import TABLE_PAGES, tdr_of


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
