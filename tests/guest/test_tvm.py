"""The TVM's memory and calls: what it accepts, what it refuses, what it never does twice."""

from __future__ import annotations

import pytest

from guest.fake_memory import BAR0, INITIAL, RAM, SHARED, Page
from guest.fake_world import World
from teeio.abi import CallRefused, EptViolation, HypercallResult
from teeio.abi.operands import PAGE_SIZE
from teeio.abi.statuses import Status, TdcmStatus
from teeio.errors import AuthenticationFailed, Misuse, TransportError
from teeio.guest.tvm import POLLS, InterruptController, MemoryRegion


def test_boot_accepts_all_memory(world: World) -> None:
    assert {page.state for page in world.pages.values()} == {"mapped"}
    assert world.tvm.exits == (RAM.end - RAM.start) // PAGE_SIZE


def test_huge_pages_are_accepted_at_once_where_they_are() -> None:
    world = World()
    world.huge = {0x20_0000, 0x60_0000}
    with pytest.raises(CallRefused) as caught:
        world.tvm.boot()
    assert caught.value.status is Status.PAGE_SIZE_MISMATCH
    world = World()
    world.huge = {0x20_0000, 0x60_0000}
    world.tvm.huge_pages = True
    world.tvm.boot()
    assert {page.state for page in world.pages.values()} == {"mapped"}
    assert world.tvm.exits == (RAM.end - RAM.start) // PAGE_SIZE - 2 * 512 + 3  # 3 attempts, one of them in vain


def test_memory_is_not_there_before_boot() -> None:
    with pytest.raises(Misuse, match="free memory"):
        World().tvm.allocate(1)


def test_a_page_in_use_before_its_acceptance_is_refused() -> None:
    world = World()
    world.pages[INITIAL.end].state = "mapped"  # the VMM put a page with contents where none should be
    with pytest.raises(AuthenticationFailed, match="in use before"):
        world.tvm.boot()


def test_a_page_that_is_missing_is_refused() -> None:
    world = World()
    del world.pages[INITIAL.end]
    with pytest.raises(CallRefused) as caught:
        world.tvm.boot()
    assert caught.value.status is Status.EPT_WALK_FAILED


def test_the_initial_contents_are_not_allocated(world: World) -> None:
    assert world.tvm.allocate(PAGE_SIZE).gpa == INITIAL.end


def test_regions_are_read_and_written_in_bounds(world: World) -> None:
    region = world.tvm.allocate(PAGE_SIZE + 1)
    assert region.size == 2 * PAGE_SIZE
    region.write(PAGE_SIZE - 2, b"over")
    assert region.read(PAGE_SIZE - 2, 4) == b"over"
    for offset, size in ((-1, 1), (2 * PAGE_SIZE, 1), (0, 2 * PAGE_SIZE + 1)):
        with pytest.raises(Misuse):
            region.read(offset, size)


def test_freed_private_memory_is_wiped(world: World) -> None:
    region = world.tvm.allocate(PAGE_SIZE)
    region.write(0, b"secret")
    world.tvm.free(region, 0.0)
    assert not any(world.pages[region.gpa].data)
    with pytest.raises(Misuse, match="not in use"):
        world.tvm.free(region, 0.0)


def test_sharing_wipes_converts_and_takes_back(world: World) -> None:
    secret = world.tvm.allocate(PAGE_SIZE)
    secret.write(0, b"secret")
    world.tvm.free(secret, 0.0)
    shared = world.tvm.allocate_shared(PAGE_SIZE, 0.0)
    assert shared.gpa == secret.gpa
    assert not world.tvm.is_private(shared.gpa, 1)
    shared.write(0, b"hello")
    assert world.shared[shared.gpa][:5] == b"hello"
    world.tvm.free(shared, 0.0)
    assert world.pages[shared.gpa].state == "mapped"
    assert world.tvm.allocate(PAGE_SIZE).gpa == shared.gpa


def test_pages_whose_conversion_fails_are_never_used_again(world: World) -> None:
    world.refuse.add("tdvmcall_map_gpa")
    with pytest.raises(CallRefused):
        world.tvm.allocate_shared(PAGE_SIZE, 0.0)
    assert world.tvm.allocate(PAGE_SIZE).gpa == INITIAL.end + PAGE_SIZE


def test_a_page_that_the_vmm_takes_is_noticed_and_never_accepted_again(world: World) -> None:
    region = world.tvm.allocate(PAGE_SIZE)
    region.write(0, b"data")
    world.pages[region.gpa] = Page("pending")
    accepted = world.calls.count("tdg_mem_page_accept")
    with pytest.raises(EptViolation):
        region.read(0, 4)
    assert world.calls.count("tdg_mem_page_accept") == accepted


def test_only_memory_in_use_is_private(world: World) -> None:
    region = world.tvm.allocate(2 * PAGE_SIZE)
    assert world.tvm.is_private(region.gpa, 2 * PAGE_SIZE)
    for gpa, size in (
        (region.gpa, 0),
        (region.gpa, 2 * PAGE_SIZE + 1),
        (BAR0, 1),
        (RAM.end - 1, 2),
        (region.gpa | SHARED, 1),
    ):
        assert not world.tvm.is_private(gpa, size)


def test_a_hypercall_under_way_is_asked_again(world: World) -> None:
    world.waits["tdvmcall_map_gpa"] = 3
    world.tvm.allocate_shared(PAGE_SIZE, 0.0)
    assert world.calls.count("tdvmcall_map_gpa") == 4


def test_a_hypercall_that_never_ends_is_given_up(world: World) -> None:
    world.waits["tdvmcall_map_gpa"] = POLLS
    with pytest.raises(TransportError, match="10 s"):
        world.tvm.allocate_shared(PAGE_SIZE, 0.0)


@pytest.mark.parametrize("values", [None, "text", 3])
def test_an_answer_that_is_none_is_refused(world: World, values: object) -> None:
    from teeio.abi.hypercalls import TdcmGetTdiReport

    answer = HypercallResult(TdcmStatus.DONE, values=values)
    with pytest.raises(AuthenticationFailed, match="TdiReport"):
        world.tvm.ask(TdcmGetTdiReport(function_id=1), lambda call, now: answer, 0.0)


def test_interrupts_are_taken_once_and_bounded() -> None:
    controller = InterruptController()
    for vector in (7, 7, -1, 256, 1 << 40):
        controller.deliver(vector)
    assert controller.take(7)
    assert not controller.take(7)
    assert not controller.take(256)


def test_region_addresses_are_what_a_device_is_given(world: World) -> None:
    region = MemoryRegion(world.tvm.processor, INITIAL.start, PAGE_SIZE, shared=False)
    assert region.gpa == INITIAL.start
