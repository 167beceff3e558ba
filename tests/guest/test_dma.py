"""Both DMA back ends: what they give to a device, what they cost, what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.fake_accelerator import SESSION_KEY
from guest.fake_world import World
from teeio.crypto.aead import TAG_SIZE
from teeio.errors import AuthenticationFailed, Misuse
from teeio.guest.accept import AssignedInterface
from teeio.guest.cost import Cost, CostMeter
from teeio.guest.dma import (
    SEGMENT_SLOTS,
    SLOT_SIZE,
    BounceDma,
    DirectDma,
    Label,
    PoolFull,
    PrivateDma,
    ProtectedSession,
    dma_for,
)
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.guest.pci import enumerate_functions

POOL = 64 * SLOT_SIZE


def ticking() -> Iterator[float]:
    at = 0.0
    while True:
        yield at
        at += 1.0


def meter() -> CostMeter:
    """A meter whose clock advances one second each time somebody looks at it."""
    clock = ticking()
    return CostMeter(lambda: next(clock))


def label(sequence: int) -> Label:
    return Label(sequence.to_bytes(12, "little"), b"associated")


def bounce(world: World, *, protected: bool = True, pool_size: int = POOL) -> tuple[BounceDma, CostMeter]:
    counted = meter()
    session = ProtectedSession(SESSION_KEY) if protected else None
    return BounceDma(world.tvm, counted, 0.0, session=session, pool_size=pool_size), counted


def shared_bytes(world: World, address: int, size: int) -> bytes:
    page = world.shared[address & -4096]
    return bytes(page[address % 4096 : address % 4096 + size])


# -- private ---------------------------------------------------------------------------------------------------------------


def test_private_memory_is_given_as_it_is(world: World) -> None:
    dma, region = PrivateDma(world.tvm), world.tvm.allocate(8192)
    before = world.tvm.exits
    for mapping in (dma.to_device(region.gpa + 5, 100, label(1)), dma.from_device(region.gpa + 5, 100, label(2))):
        assert (mapping.address, mapping.size) == (region.gpa + 5, 100)
        dma.finish(mapping)
    assert world.tvm.exits == before


def test_private_dma_takes_private_memory_in_use_only(world: World) -> None:
    dma, region = PrivateDma(world.tvm), world.tvm.allocate(4096)
    shared = world.tvm.allocate_shared(4096, 0.0)
    for gpa, size in ((region.gpa, 4097), (shared.gpa, 1), (0x10_0000_0000, 4), (region.gpa, 0)):
        with pytest.raises(Misuse, match="private memory"):
            dma.to_device(gpa, size, label(1))


# -- direct: shared memory, as in a VM without confidentiality ----------------------------------------------------------------


def test_shared_memory_is_given_as_it_is_and_private_memory_never(world: World) -> None:
    dma, region = DirectDma(world.tvm), world.tvm.allocate_shared(8192, 0.0)
    assert not dma.trusted
    mapping = dma.to_device(region.gpa + 5, 100, label(1))
    assert (mapping.address, mapping.size) == (region.gpa + 5, 100)
    private = world.tvm.allocate(4096)
    assert dma.allocate(64, 0.0).shared
    for gpa, size in ((private.gpa, 1), (region.gpa, 8193), (region.gpa, 0)):
        with pytest.raises(Misuse, match="not shared memory"):
            dma.from_device(gpa, size, label(2))


# -- bounce ----------------------------------------------------------------------------------------------------------------


def test_the_cost_of_a_round_trip_is_counted_exactly(world: World) -> None:
    dma, counted = bounce(world)
    source, target = world.tvm.allocate(4096), world.tvm.allocate(4096)
    source.write(0, b"plaintext" * 100)
    out = dma.to_device(source.gpa, 900, label(1))
    assert counted.total == Cost(copies=1, bytes_copied=916, bytes_encrypted=900, cpu_seconds=1.0)
    back = dma.from_device(target.gpa, 900, label(1))
    assert counted.total.copies == 1  # reserving slots moves nothing
    # The device sends back what it got, sealed with the same label.
    sealed = shared_bytes(world, out.address, 916)
    page = world.shared[back.address & -4096]
    page[back.address % 4096 : back.address % 4096 + 916] = sealed
    dma.finish(back)
    dma.release(out)
    assert target.read(0, 900) == b"plaintext" * 100
    assert counted.total == Cost(copies=2, bytes_copied=1832, bytes_encrypted=900, bytes_decrypted=900, cpu_seconds=2.0)
    assert dma.free_slots == 64


def test_only_ciphertext_is_seen_in_shared_memory(world: World) -> None:
    dma, _ = bounce(world)
    region = world.tvm.allocate(4096)
    region.write(0, b"the secret " * 20)
    dma.to_device(region.gpa, 220, label(1))
    assert not any(b"secret" in page for page in world.shared.values())


def test_without_a_session_data_are_copied_and_nothing_is_encrypted(world: World) -> None:
    dma, counted = bounce(world, protected=False)
    region = world.tvm.allocate(4096)
    region.write(0, b"payload that is ciphertext already")
    mapping = dma.to_device(region.gpa, 34, label(1))
    assert shared_bytes(world, mapping.address, 34) == b"payload that is ciphertext already"
    assert counted.total == Cost(copies=1, bytes_copied=34, cpu_seconds=1.0)


@pytest.mark.parametrize("at", [0, 50, 99, 100, 115])
def test_a_byte_changed_in_shared_memory_is_noticed(world: World, at: int) -> None:
    dma, _ = bounce(world)
    region = world.tvm.allocate(4096)
    region.write(0, bytes(100))
    mapping = dma.to_device(region.gpa, 100, label(1))
    page = world.shared[mapping.address & -4096]
    page[mapping.address % 4096 + at] ^= 1
    region.write(0, b"untouched")
    with pytest.raises(AuthenticationFailed):
        dma.finish(mapping)
    assert region.read(0, 9) == b"untouched"
    assert dma.free_slots == 64


def test_a_result_of_other_work_is_noticed(world: World) -> None:
    """The VMM puts the sealed result of one piece of work in the place of another's."""
    dma, _ = bounce(world)
    region = world.tvm.allocate(4096)
    one = dma.to_device(region.gpa, 100, label(1))
    other = dma.to_device(region.gpa, 100, label(2))
    data = shared_bytes(world, one.address, 116)
    page = world.shared[other.address & -4096]
    page[other.address % 4096 : other.address % 4096 + 116] = data
    with pytest.raises(AuthenticationFailed):
        dma.finish(other)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40 * SLOT_SIZE)), max_size=30))
def test_slots_never_overlap_and_all_come_back(steps: list[tuple[bool, int]]) -> None:
    world = World()
    world.tvm.boot()
    dma, _ = bounce(world, pool_size=256 * SLOT_SIZE)
    region = world.tvm.allocate(40 * SLOT_SIZE)
    held = []
    for take, size in steps:
        if take:
            try:
                held.append(dma.from_device(region.gpa, size, label(1)))
            except PoolFull:
                assert dma.free_slots < 256
        elif held:
            dma.release(held.pop(size % len(held)))
        spans = sorted((m.address, m.address + m.size + TAG_SIZE) for m in held)
        assert all(left[1] <= right[0] for left, right in pairwise(spans))
        used = sum(-(-(m.size + TAG_SIZE) // SLOT_SIZE) for m in held)
        assert dma.free_slots == 256 - used
    for mapping in held:
        dma.release(mapping)
    assert dma.free_slots == 256


def test_a_mapping_is_at_most_a_segment(world: World) -> None:
    dma, _ = bounce(world, pool_size=2 * SEGMENT_SLOTS * SLOT_SIZE)
    assert dma.max_segment == SEGMENT_SLOTS * SLOT_SIZE - TAG_SIZE
    region = world.tvm.allocate(SEGMENT_SLOTS * SLOT_SIZE)
    dma.release(dma.to_device(region.gpa, dma.max_segment, label(1)))
    with pytest.raises(Misuse, match="a mapping of") as caught:
        dma.to_device(region.gpa, dma.max_segment + 1, label(2))
    assert str(dma.max_segment) in caught.value.remedy


def test_a_full_pool_says_so(world: World) -> None:
    dma, _ = bounce(world)
    region = world.tvm.allocate(64 * SLOT_SIZE)
    dma.to_device(region.gpa, dma.max_segment, label(1))
    dma.to_device(region.gpa, dma.max_segment, label(2))
    with pytest.raises(PoolFull):
        dma.to_device(region.gpa, 1, label(3))


def test_closing_makes_the_pool_private_again(world: World) -> None:
    dma, _ = bounce(world)
    assert world.shared
    dma.close(0.0)
    assert not world.shared


def test_the_back_end_is_chosen_by_device(world: World) -> None:
    interface = AssignedInterface(world.tvm, enumerate_functions(world.tvm, 0.0)[0])
    assert isinstance(dma_for(world.tvm, None, meter(), 0.0), BounceDma)
    interface.lock(1.0)
    assert isinstance(dma_for(world.tvm, interface, meter(), 0.0), BounceDma)  # locked is not trusted
    interface.attest(world.verifier(), TRUSTED_REGISTERS, 1.0)
    interface.accept(1.0)
    assert isinstance(dma_for(world.tvm, interface, meter(), 0.0), PrivateDma)
    world.fail()
    interface.check(2.0)
    assert isinstance(dma_for(world.tvm, interface, meter(), 0.0), BounceDma)


def test_costs_are_told_by_byte() -> None:
    cost = Cost(payload=200, bytes_copied=300, bytes_encrypted=50, bytes_decrypted=50, cpu_seconds=1e-6)
    assert cost.per_byte() == {"bytes_copied": 1.5, "bytes_encrypted": 0.5, "cpu_nanoseconds": pytest.approx(5.0)}
    assert cost - cost == Cost()
    assert Cost().per_byte()["bytes_copied"] == 0.0


def test_sequence_numbers_never_come_twice() -> None:
    session = ProtectedSession(SESSION_KEY)
    numbers = [session.next_sequence() for _ in range(100)]
    assert numbers == sorted(set(numbers))
    assert numbers[0] > 0
