"""The invalidation queue: descriptors as VT-d has them, in order, each forgetting what it names and no more."""

import pytest

from teeio.abi.operands import PAGE_SIZE
from teeio.crypto.entropy import SeededEntropy
from teeio.host.dmar_tables import ContextEntry, PasidEntry
from teeio.host.invalidation_queue import (
    DESCRIPTOR_SIZE,
    QUEUE_SLOTS,
    ContextGranularity,
    ContextInvalidate,
    Descriptor,
    InvalidationQueue,
    IotlbGranularity,
    IotlbInvalidate,
    PasidGranularity,
    PasidInvalidate,
    Wait,
)
from teeio.host.memory import TSM, PhysicalMemory
from teeio.host.trusted_remapping import TrustedRemapping

ONE, OTHER = 0x8003, 0x8004
"""Two domains."""
PAGES = (0x1000, 0x2000, 0x3000, 0x8000)


class Machine:
    """A queue, and full caches: requesters 8 to 11 of two domains."""

    def __init__(self) -> None:
        self.memory = PhysicalMemory(4 * PAGE_SIZE, SeededEntropy(b"queue"))
        self.base = self.memory.vmm.allocate()
        self.memory.assign(self.base, TSM)
        self.unit = TrustedRemapping("iommu0", self.memory)
        self.queue = InvalidationQueue(self.unit, self.memory, self.base)
        for requester_id in range(8, 12):
            domain = ONE if requester_id < 10 else OTHER
            self.unit.contexts[requester_id] = ContextEntry(present=1)
            for pasid in (0, 7):
                self.unit.pasids[requester_id, pasid] = PasidEntry(present=1, domain_id=domain)
        for domain in (ONE, OTHER):
            self.unit.iotlb.update({(domain, page): (page, 3) for page in PAGES})

    def run(self, *descriptors: Descriptor) -> None:
        for descriptor in descriptors:
            self.queue.post(descriptor)
        self.queue.work()
        assert self.queue.waiting == 0


@pytest.mark.parametrize(
    ("descriptor", "left"),
    [
        (ContextInvalidate(), []),
        (ContextInvalidate(granularity=ContextGranularity.DOMAIN), []),
        (ContextInvalidate(granularity=ContextGranularity.DEVICE, source_id=9), [8, 10, 11]),
        (ContextInvalidate(granularity=ContextGranularity.DEVICE, source_id=9, function_mask=1), [10, 11]),
        (ContextInvalidate(granularity=ContextGranularity.DEVICE, source_id=9, function_mask=2), []),
    ],
)
def test_the_context_cache_by_granularity(descriptor: ContextInvalidate, left: list[int]) -> None:
    machine = Machine()
    machine.run(descriptor)
    assert sorted(machine.unit.contexts) == left
    assert len(machine.unit.pasids) == 8
    assert len(machine.unit.iotlb) == 8


@pytest.mark.parametrize(
    ("granularity", "left"),
    [
        (PasidGranularity.GLOBAL, []),
        (PasidGranularity.DOMAIN, [(10, 0), (10, 7), (11, 0), (11, 7)]),
        (PasidGranularity.PASID_IN_DOMAIN, [(8, 0), (9, 0), (10, 0), (10, 7), (11, 0), (11, 7)]),
    ],
)
def test_the_pasid_cache_by_granularity(granularity: PasidGranularity, left: list[tuple[int, int]]) -> None:
    machine = Machine()
    machine.run(PasidInvalidate(granularity=granularity, domain_id=ONE, pasid=7))
    assert sorted(machine.unit.pasids) == left
    assert len(machine.unit.contexts) == 4
    assert len(machine.unit.iotlb) == 8


@pytest.mark.parametrize(
    ("granularity", "mask", "left"),
    [
        (IotlbGranularity.GLOBAL, 0, ()),
        (IotlbGranularity.DOMAIN, 0, ()),
        (IotlbGranularity.PAGES_IN_DOMAIN, 0, (0x1000, 0x2000, 0x8000)),
        (IotlbGranularity.PAGES_IN_DOMAIN, 1, (0x1000, 0x8000)),
        (IotlbGranularity.PAGES_IN_DOMAIN, 2, (0x8000,)),
        (IotlbGranularity.PAGES_IN_DOMAIN, 51, ()),
    ],
)
def test_the_iotlb_by_granularity(granularity: IotlbGranularity, mask: int, left: tuple[int, ...]) -> None:
    machine = Machine()
    machine.run(IotlbInvalidate(granularity=granularity, domain_id=ONE, page=3, address_mask=mask))
    assert tuple(page for domain, page in machine.unit.iotlb if domain == ONE) == left
    kept = () if granularity is IotlbGranularity.GLOBAL else PAGES
    assert tuple(page for domain, page in machine.unit.iotlb if domain == OTHER) == kept
    assert len(machine.unit.contexts) == 4
    assert len(machine.unit.pasids) == 8


def test_descriptors_are_bytes_of_the_queues_page() -> None:
    machine = Machine()
    machine.queue.post(IotlbInvalidate(domain_id=ONE))
    machine.queue.post(Wait())
    raw = machine.memory.view(TSM).read(machine.base, 2 * DESCRIPTOR_SIZE)
    assert raw[:8] == (2 | 2 << 4 | 1 << 6 | 1 << 7 | ONE << 16).to_bytes(8, "little")
    assert raw[DESCRIPTOR_SIZE : DESCRIPTOR_SIZE + 8] == (5 | 1 << 6).to_bytes(8, "little")
    assert b"\x80" not in machine.memory.vmm.read(machine.base, 4), "ciphertext to the VMM"


def test_what_is_queued_is_not_done_and_comes_in_order() -> None:
    machine = Machine()
    for descriptor in (PasidInvalidate(granularity=PasidGranularity.GLOBAL), IotlbInvalidate(domain_id=ONE), Wait()):
        machine.queue.post(descriptor)
    assert machine.queue.waiting == 3
    assert len(machine.unit.pasids) == 8
    machine.queue.work(1)
    assert not machine.unit.pasids
    assert len(machine.unit.iotlb) == 8
    machine.queue.work(1)
    assert len(machine.unit.iotlb) == 4
    assert machine.queue.waiting == 1
    machine.queue.work()
    assert machine.queue.waiting == 0


def test_the_queue_is_a_ring_with_room_for_one_less_than_its_slots() -> None:
    machine = Machine()
    for _ in range(3):
        for _ in range(QUEUE_SLOTS - 1):
            assert machine.queue.room
            machine.queue.post(Wait())
        assert not machine.queue.room
        machine.queue.work()
        assert machine.queue.room == QUEUE_SLOTS - 1
    assert machine.queue.head == machine.queue.tail == 3 * (QUEUE_SLOTS - 1) % QUEUE_SLOTS


@pytest.mark.parametrize("by_vmm", [True, False])
def test_the_iommu_stops_at_what_is_no_descriptor(by_vmm: bool) -> None:
    machine = Machine()
    machine.queue.post(Wait())
    machine.queue.post(IotlbInvalidate(domain_id=ONE))
    machine.queue.work(1)
    view = machine.memory.vmm if by_vmm else machine.memory.view(TSM)
    view.write(machine.base + DESCRIPTOR_SIZE, b"\x0f")
    machine.queue.work()
    assert machine.queue.error
    assert machine.queue.waiting == 1
    assert len(machine.unit.iotlb) == 8
