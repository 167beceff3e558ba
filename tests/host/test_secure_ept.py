"""The secure EPT does exactly what its transition table says; MMIO metadata; the shared EPT."""

import itertools
from collections.abc import Callable

import pytest

from teeio.abi.operands import GPA_SHARED_BIT, PAGE_SIZE, PageLevel
from teeio.abi.statuses import Status
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import Misuse, Reject
from teeio.host.memory import SHARED, PhysicalMemory
from teeio.host.mmio_metadata import MmioMetadata
from teeio.host.secure_ept import (
    NEEDS_TRACKING,
    TRANSITIONS,
    TRANSLATES,
    SecureEpt,
    SeptMove,
    SeptState,
    SharedEpt,
)
from teeio.pcie.address import AddressRange

BAR = 0x40_0000_0000
GPA = 0x20_0000
K4, M2 = PageLevel.PAGE_4K, PageLevel.PAGE_2M
TDI = 0x100


class Table:
    """A secure EPT over a small machine, with one page of memory and one of MMIO to map, of the size `level`."""

    def __init__(self, size: int = 8 * PAGE_SIZE, level: PageLevel = K4) -> None:
        self.level = level
        self.memory = PhysicalMemory(max(size, 2 * level.size), SeededEntropy(b"sept"))
        self.mmio = MmioMetadata((AddressRange(0, self.memory.size),))
        self.mmio.add(BAR, 0)
        self.mmio.set(BAR, max(4, level.size // PAGE_SIZE), TDI)
        self.owner = self.memory.create_owner()
        self.sept = SecureEpt(self.memory, self.owner, 0x1000, self.mmio)
        self.hpa = self.memory.vmm.allocate(level.size, level.size)

    def do(self, move: SeptMove) -> None:
        """Try a move on the page at GPA."""
        sept, level = self.sept, self.level
        moves: dict[SeptMove, Callable[[], object]] = {
            SeptMove.ADD: lambda: sept.add(GPA, self.hpa, b"\1" * PAGE_SIZE),
            SeptMove.AUG: lambda: sept.augment(GPA, self.hpa, level),
            SeptMove.ACCEPT: lambda: sept.accept(GPA, level),
            SeptMove.BLOCK: lambda: sept.block(GPA, level),
            SeptMove.REMOVE: lambda: sept.remove(GPA, level),
            SeptMove.DEMOTE: lambda: sept.demote(GPA),
            SeptMove.MMIO_MAP: lambda: sept.map_mmio(GPA, BAR, level),
            SeptMove.MMIO_ACCEPT: lambda: sept.accept_mmio(GPA, level),
            SeptMove.MMIO_BLOCK: lambda: sept.block_mmio(GPA, level),
            SeptMove.MMIO_UNMAP: lambda: sept.unmap_mmio(GPA, level),
        }
        moves[move]()

    def next(self, state: SeptState, move: SeptMove) -> SeptState | None:
        """Give what a move must lead to at this size: first contents come by 4 KiB, and only 2 MiB can be split."""
        if move is (SeptMove.DEMOTE if self.level is K4 else SeptMove.ADD):
            return None
        return TRANSITIONS.get((state, move))

    def state(self) -> SeptState:
        leaf = self.sept.leaf(GPA)
        return SeptState.FREE if leaf is None else leaf.state

    def reach(self, goal: SeptState) -> None:
        """Walk the transition table from FREE to `goal`."""
        paths: list[tuple[SeptMove, ...]] = [()]
        for path in paths:  # grows while it is walked: breadth first
            state = SeptState.FREE
            for move in path:
                state = TRANSITIONS[state, move]
            if state is goal and SeptMove.DEMOTE not in path:
                for move in path:
                    self.do(move)
                return
            paths += [(*path, move) for (source, move) in TRANSITIONS if source is state and self.next(state, move)]
        raise AssertionError(goal)


def refused(status: Status) -> pytest.RaisesExc[Reject]:
    return pytest.RaisesExc(Reject, check=lambda error: error.code == status)


@pytest.mark.parametrize("level", PageLevel, ids=lambda level: level.name)
@pytest.mark.parametrize(("state", "move"), list(itertools.product(SeptState, SeptMove)), ids=lambda value: value.name)
def test_every_state_and_move(state: SeptState, move: SeptMove, level: PageLevel) -> None:
    table = Table(level=level)
    table.reach(state)
    table.sept.track()
    expected = table.next(state, move)
    if move is SeptMove.ADD and level is not K4:
        return  # there is no such call
    if expected is None:
        with pytest.raises(Reject):
            table.do(move)
        assert table.state() is state
    else:
        table.do(move)
        assert table.state() is expected
    # The owner of every page and the leaf that it is in never disagree.
    memory = (SeptState.PENDING, SeptState.MAPPED, SeptState.BLOCKED, SeptState.PENDING_BLOCKED)
    for offset in range(0, level.size, PAGE_SIZE):
        assert table.memory.owner_of(table.hpa + offset) == (table.owner if table.state() in memory else SHARED)
        entry = table.mmio.entry(BAR + offset)
        assert entry is not None
        assert entry.mapped == table.state().name.startswith("MMIO")
        assert (leaf := table.sept.leaf(GPA + offset)) is None or leaf.state is table.state()


@pytest.mark.parametrize("accepted", [True, False])
def test_splitting_keeps_what_was_accepted(accepted: bool) -> None:
    table = Table(level=M2)
    table.do(SeptMove.AUG)
    if accepted:
        table.do(SeptMove.ACCEPT)
        table.memory.view(table.owner).write(table.hpa + M2.size - 4, b"kept")
    with refused(Status.EPT_ENTRY_STATE_INCORRECT):
        table.sept.demote(GPA)
    table.do(SeptMove.BLOCK)
    table.sept.track()
    table.sept.demote(GPA)
    assert len(list(table.sept.leaves())) == 512
    last = table.sept.translate(GPA + M2.size - 4)
    if accepted:
        assert last is not None
        assert table.memory.view(table.owner).read(last.hpa, 4) == b"kept"
    else:
        assert last is None
        table.sept.accept(GPA + PAGE_SIZE, K4)
    with refused(Status.PAGE_SIZE_MISMATCH):
        table.sept.block(GPA, M2)
    table.sept.block(GPA, K4)
    table.sept.track()
    assert table.sept.remove(GPA, K4) == table.hpa


@pytest.mark.parametrize("state", SeptState, ids=lambda state: state.name)
def test_only_accepted_leaves_translate(state: SeptState) -> None:
    table = Table()
    table.reach(state)
    found = table.sept.translate(GPA + 5)
    if state in TRANSLATES:
        base = BAR if state is SeptState.MMIO_MAPPED else table.hpa
        assert found == (base + 5, table.owner, state is SeptState.MMIO_MAPPED)
    else:
        assert found is None


@pytest.mark.parametrize("move", [move for move in SeptMove if move in NEEDS_TRACKING], ids=lambda move: move.name)
def test_removal_waits_for_every_translation_cache(move: SeptMove) -> None:
    table = Table(level=M2 if move is SeptMove.DEMOTE else K4)
    before = next(source for (source, one) in TRANSITIONS if one is move)
    table.sept.join_cache("iommu0")
    table.reach(before)
    with refused(Status.TLB_TRACKING_NOT_DONE):
        table.do(move)
    table.sept.invalidated("iommu0", table.sept.epoch)  # too early: before the epoch moved
    asked_too_early = table.sept.epoch
    table.sept.track()
    with refused(Status.TLB_TRACKING_NOT_DONE):
        table.do(move)
    table.sept.invalidated("iommu0", asked_too_early)
    with refused(Status.TLB_TRACKING_NOT_DONE):
        table.do(move)
    table.sept.invalidated("iommu0", table.sept.epoch)
    table.do(move)
    assert table.state() is TRANSITIONS[before, move]


def test_a_cache_that_left_is_not_waited_for() -> None:
    table = Table()
    table.sept.join_cache("iommu0")
    table.reach(SeptState.BLOCKED)
    table.sept.track()
    table.sept.leave_cache("iommu0")
    table.do(SeptMove.REMOVE)


def test_a_page_accepted_twice_is_reported() -> None:
    table = Table()
    table.reach(SeptState.MAPPED)
    with refused(Status.PAGE_ALREADY_ACCEPTED):
        table.do(SeptMove.ACCEPT)


def test_one_physical_page_has_one_place() -> None:
    table = Table()
    table.do(SeptMove.AUG)
    with refused(Status.PAGE_METADATA_INCORRECT):
        table.sept.augment(GPA + PAGE_SIZE, table.hpa, K4)
    rival = SecureEpt(table.memory, table.memory.create_owner(), 0x2000, table.mmio)
    with refused(Status.PAGE_METADATA_INCORRECT):
        rival.augment(GPA, table.hpa, K4)
    table.sept.map_mmio(GPA + PAGE_SIZE, BAR, K4)
    with refused(Status.MMIO_INVALID_PAGE_METADATA):
        rival.map_mmio(GPA, BAR, K4)
    with refused(Status.MMIO_INVALID_PAGE_METADATA):
        table.sept.map_mmio(GPA + 2 * PAGE_SIZE, BAR, K4)


def test_large_leaves() -> None:
    table = Table(8 << 20)
    large = table.memory.vmm.allocate(M2.size, align=M2.size)
    table.sept.augment(GPA, large, M2)
    with refused(Status.PAGE_SIZE_MISMATCH):
        table.sept.accept(GPA, K4)
    table.sept.accept(GPA, M2)
    assert table.sept.translate(GPA + 0x12345) == (large + 0x12345, table.owner, False)
    with refused(Status.EPT_ENTRY_NOT_FREE):
        table.sept.augment(GPA + PAGE_SIZE, table.hpa, K4)
    table.sept.augment(GPA + M2.size + PAGE_SIZE, table.hpa, K4)
    other = table.memory.vmm.allocate(M2.size, align=M2.size)
    with refused(Status.EPT_ENTRY_NOT_FREE):
        table.sept.augment(GPA + M2.size, other, M2)
    table.sept.block(GPA, M2)
    table.sept.track()
    assert table.sept.remove(GPA, M2) == large
    assert [gpa for gpa, _ in table.sept.leaves()] == [GPA + M2.size + PAGE_SIZE]


@pytest.mark.parametrize("gpa", [1, GPA + 1, GPA_SHARED_BIT, GPA_SHARED_BIT | GPA, -PAGE_SIZE])
def test_private_addresses_are_checked(gpa: int) -> None:
    table = Table()
    with refused(Status.OPERAND_INVALID):
        table.sept.augment(gpa, table.hpa, K4)
    with refused(Status.OPERAND_INVALID):
        table.sept.accept(gpa, K4)
    assert table.sept.translate(gpa) is None


def test_unaligned_physical_addresses_and_short_contents_are_refused() -> None:
    table = Table()
    with refused(Status.OPERAND_INVALID):
        table.sept.augment(GPA, table.hpa + 1, K4)
    with pytest.raises(Misuse):
        table.sept.add(GPA, table.hpa, b"short")
    assert table.state() is SeptState.FREE


def test_mmio_metadata_stays_out_of_memory_and_below_nothing() -> None:
    mmio = MmioMetadata((AddressRange(BAR + 0x1000, 0x1000),))
    with refused(Status.OPERAND_ADDR_RANGE_ERROR):
        mmio.add(BAR, 0)
    for bad in (0xFEE0_0000, BAR + PAGE_SIZE):
        with refused(Status.OPERAND_INVALID):
            mmio.add(bad, 0)
    mmio.add(BAR + M2.size, 0x7000)
    with refused(Status.MMIO_INVALID_PAGE_METADATA):
        mmio.add(BAR + M2.size, 0x8000)
    assert mmio.remove(BAR + M2.size) == 0x7000
    with refused(Status.MMIO_INVALID_PAGE_METADATA):
        mmio.remove(BAR + M2.size)


def test_mmio_pages_have_one_interface_and_are_not_taken_while_mapped() -> None:
    table = Table()
    mmio = table.mmio
    with refused(Status.MMIO_INVALID_PAGE_METADATA):
        mmio.set(BAR + 3 * PAGE_SIZE, 2, TDI + 1)  # the first of them is taken
    assert mmio.entry(BAR + 4 * PAGE_SIZE) is None
    mmio.set(BAR + 4 * PAGE_SIZE, 1, TDI + 1)
    assert mmio.owner(BAR, 4 * PAGE_SIZE) == TDI
    with refused(Status.MMIO_INVALID_PAGE_METADATA):
        mmio.owner(BAR, 5 * PAGE_SIZE)
    with refused(Status.MMIO_INVALID_PAGE_METADATA):
        mmio.owner(BAR + 5 * PAGE_SIZE, PAGE_SIZE)
    table.do(SeptMove.MMIO_MAP)
    with refused(Status.MMIO_INVALID_PAGE_METADATA):
        mmio.set(BAR, 1, 0)
    with refused(Status.MMIO_INVALID_PAGE_METADATA):
        mmio.remove(BAR)
    table.do(SeptMove.MMIO_BLOCK)
    table.sept.track()
    table.do(SeptMove.MMIO_UNMAP)
    mmio.set(BAR, 5 - 1, 0)
    mmio.set(BAR + 4 * PAGE_SIZE, 1, 0)
    mmio.remove(BAR)


@pytest.mark.parametrize(("mmio", "count"), [(BAR + 1, 1), (BAR, 0), (BAR, -1)])
def test_mmio_ranges_are_whole_pages(mmio: int, count: int) -> None:
    with refused(Status.OPERAND_INVALID):
        Table().mmio.set(mmio, count, TDI)


@pytest.mark.parametrize(("mmio", "count"), [(BAR, 1 << 60), (BAR + M2.size - PAGE_SIZE, 2), (BAR + M2.size, 1)])
def test_mmio_without_metadata_is_refused(mmio: int, count: int) -> None:
    with refused(Status.MMIO_INVALID_PAGE_METADATA):
        Table().mmio.set(mmio, count, TDI + 1)


def test_shared_ept() -> None:
    shared = SharedEpt()
    shared.map(0x1000, 0x5000, 2 * PAGE_SIZE)
    assert shared.translate(0x2004) == 0x6004
    shared.unmap(0x2000)
    assert shared.translate(0x2004) is None
    for gpa, hpa, size in [(1, 0, PAGE_SIZE), (0, 1, PAGE_SIZE), (0, 0, 1), (0, 0, 0), (GPA_SHARED_BIT, 0, PAGE_SIZE)]:
        with pytest.raises(Misuse):
            shared.map(gpa, hpa, size)
