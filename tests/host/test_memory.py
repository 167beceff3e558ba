"""Page ownership, what outsiders see, poison, accounting."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teeio.abi.operands import PAGE_SIZE
from teeio.abi.statuses import Status
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.memory_encryption import MemoryKey
from teeio.errors import Misuse, Reject
from teeio.host.memory import FREE, LAST_TVM, SHARED, TSM, MemoryPoisoned, OwnerId, PhysicalMemory
from teeio.observe import Event, Refused

SECRET = b"the guest's secret " * 50


def make(pages: int = 8) -> tuple[PhysicalMemory, list[Event]]:
    events: list[Event] = []
    return PhysicalMemory(pages * PAGE_SIZE, SeededEntropy(b"memory"), events.append), events


def private(memory: PhysicalMemory, data: bytes = SECRET) -> tuple[OwnerId, int]:
    owner = memory.create_owner()
    hpa = memory.vmm.allocate()
    memory.assign(hpa, owner)
    memory.view(owner).write(hpa + 100, data)
    return owner, hpa


def refused(status: Status) -> pytest.RaisesExc[Reject]:
    return pytest.RaisesExc(Reject, check=lambda error: error.code == status)


def test_shared_memory_is_plain_and_bytes_stay() -> None:
    memory, _ = make()
    hpa = memory.vmm.allocate(3 * PAGE_SIZE)
    memory.vmm.write(hpa + PAGE_SIZE - 5, b"across pages")
    assert memory.vmm.read(hpa + PAGE_SIZE - 5, 12) == b"across pages" == memory.at_rest(hpa + PAGE_SIZE - 5, 12)


def test_the_vmm_reads_ciphertext_of_private_memory() -> None:
    memory, _ = make()
    owner, hpa = private(memory)
    seen = memory.vmm.read(hpa, PAGE_SIZE)
    assert SECRET[:16] not in seen
    assert seen.count(0) < 100
    assert memory.view(owner).read(hpa + 100, len(SECRET)) == SECRET
    target = bytearray(64)
    memory.vmm.read_into(hpa + 100, memoryview(target))
    assert target == seen[100:164]
    memory.view(owner).read_into(hpa + 100, memoryview(target))
    assert target == SECRET[:64]


def test_equal_pages_differ_at_rest_by_address_and_by_owner() -> None:
    memory, _ = make()
    seen = {memory.vmm.read(private(memory)[1], PAGE_SIZE) for _ in range(3)}
    assert len(seen) == 3


def test_a_write_without_the_key_poisons_and_is_reported() -> None:
    memory, events = make()
    owner, hpa = private(memory)
    memory.vmm.write(hpa + 7, b"x")
    assert isinstance(events[-1], Refused)
    for access in (lambda: memory.view(owner).read(hpa, 1), lambda: memory.view(owner).write(hpa, b"y")):
        with pytest.raises(MemoryPoisoned):
            access()
    memory.reclaim(hpa, owner)
    memory.assign(hpa, owner)
    assert memory.view(owner).read(hpa, PAGE_SIZE) == bytes(PAGE_SIZE)


def test_a_write_across_a_border_lands_where_it_may_and_poisons_the_rest() -> None:
    memory, _ = make()
    hpa = memory.vmm.allocate(2 * PAGE_SIZE)
    owner = memory.create_owner()
    memory.assign(hpa + PAGE_SIZE, owner)
    memory.vmm.write(hpa + PAGE_SIZE - 2, b"abcd")
    assert memory.vmm.read(hpa + PAGE_SIZE - 2, 2) == b"ab"
    with pytest.raises(MemoryPoisoned):
        memory.view(owner).read(hpa + PAGE_SIZE, 1)


@pytest.mark.parametrize("other", ["tvm", "tsm", "vmm"])
def test_trusted_owners_get_nothing_under_another_key(other: str) -> None:
    memory, _ = make()
    owner, hpa = private(memory)
    place = {"tvm": private(memory)[1], "tsm": memory.vmm.allocate(), "vmm": memory.vmm.allocate()}[other]
    if other == "tsm":
        memory.assign(place, TSM)
    with pytest.raises(MemoryPoisoned):
        memory.view(owner).read(place, 1)
    with pytest.raises(MemoryPoisoned):
        memory.view(owner).write(place, b"x")
    with pytest.raises(MemoryPoisoned):
        memory.view(TSM).read(hpa, 1)


def test_every_change_of_owner_scrubs() -> None:
    memory, _ = make()
    owner, hpa = private(memory)
    memory.reclaim(hpa, owner)
    assert memory.vmm.read(hpa, PAGE_SIZE) == bytes(PAGE_SIZE)
    memory.vmm.write(hpa, SECRET)
    memory.assign(hpa, owner)
    assert memory.view(owner).read(hpa, PAGE_SIZE) == bytes(PAGE_SIZE)
    memory.reclaim(hpa, owner)
    memory.vmm.write(hpa, SECRET)
    memory.vmm.free(hpa)
    assert memory.vmm.read(memory.vmm.allocate(), PAGE_SIZE) == bytes(PAGE_SIZE)


@given(st.integers(0, 3 * PAGE_SIZE - 1), st.integers(1, PAGE_SIZE + 1))
def test_whatever_was_written_is_scrubbed(at: int, size: int) -> None:
    memory, _ = make()
    hpa = memory.vmm.allocate(4 * PAGE_SIZE)
    memory.vmm.write(hpa + at, b"x" * size)
    owner = memory.create_owner()
    for page in range(hpa, hpa + 4 * PAGE_SIZE, PAGE_SIZE):
        memory.assign(page, owner)
    assert memory.view(owner).read(hpa, 4 * PAGE_SIZE) == bytes(4 * PAGE_SIZE)
    memory.view(owner).write(hpa + at, b"y" * size)
    memory.reclaim(hpa, owner, 4 * PAGE_SIZE)
    assert memory.vmm.read(hpa, 4 * PAGE_SIZE) == bytes(4 * PAGE_SIZE)


def test_only_the_right_owner_can_be_moved_from() -> None:
    memory, _ = make()
    owner, hpa = private(memory)
    rival = memory.create_owner()
    with refused(Status.PAGE_METADATA_INCORRECT):
        memory.assign(hpa, rival)
    with refused(Status.PAGE_METADATA_INCORRECT):
        memory.reclaim(hpa, rival)
    with pytest.raises(Misuse, match="another owner"):
        memory.vmm.free(hpa)
    with refused(Status.PAGE_METADATA_INCORRECT):
        memory.assign(memory.size - PAGE_SIZE, owner)  # free: the VMM has not taken it
    for bad in (1, -PAGE_SIZE, memory.size):
        with refused(Status.OPERAND_INVALID):
            memory.assign(bad, owner)
    assert memory.owner_of(hpa) == owner


def test_keys_run_out_and_come_back() -> None:
    memory, _ = make()
    owners = [memory.create_owner() for _ in range(3, LAST_TVM + 1)]
    with refused(Status.HKID_NOT_FREE):
        memory.create_owner()
    memory.destroy_owner(owners[4])
    assert memory.create_owner() == owners[4]


def test_a_key_with_pages_cannot_be_destroyed() -> None:
    memory, _ = make()
    owner, hpa = private(memory)
    with refused(Status.TD_ASSOCIATED_PAGES_EXIST):
        memory.destroy_owner(owner)
    memory.reclaim(hpa, owner)
    memory.destroy_owner(owner)
    for gone in (owner, TSM, SHARED, 999):
        with pytest.raises(Misuse):
            memory.destroy_owner(gone)
    with pytest.raises(Misuse):
        memory.assign(hpa, owner)


def test_allocation_aligns_and_ends() -> None:
    memory, _ = make(8)
    memory.vmm.allocate()
    assert memory.vmm.allocate(2 * PAGE_SIZE, align=4 * PAGE_SIZE) == 4 * PAGE_SIZE
    assert memory.accounting() == {FREE: 5, SHARED: 3}
    with pytest.raises(Misuse):
        memory.vmm.allocate(4 * PAGE_SIZE)
    with pytest.raises(Misuse):
        memory.vmm.allocate(0)


@pytest.mark.parametrize(("hpa", "size"), [(-1, 1), (8 * PAGE_SIZE, 1), (0, 8 * PAGE_SIZE + 1), (0, -1)])
def test_outside_the_memory_is_misuse(hpa: int, size: int) -> None:
    memory, _ = make(8)
    with pytest.raises(Misuse):
        memory.vmm.read(hpa, size)
    assert not memory.contains(hpa, size)


@pytest.mark.parametrize("size", [0, -4096, 100])
def test_memory_is_whole_pages(size: int) -> None:
    with pytest.raises(Misuse):
        PhysicalMemory(size, SeededEntropy(b""))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["allocate", "free", "assign", "reclaim"]), st.integers(0, 7)), max_size=30))
def test_accounting_always_adds_up(steps: list[tuple[str, int]]) -> None:
    memory, _ = make(8)
    owner = memory.create_owner()
    for step, page in steps:
        try:
            match step:
                case "allocate":
                    memory.vmm.allocate()
                case "free":
                    memory.vmm.free(page * PAGE_SIZE)
                case "assign":
                    memory.assign(page * PAGE_SIZE, owner)
                case "reclaim":
                    memory.reclaim(page * PAGE_SIZE, owner)
        except (Reject, Misuse):
            pass
        owners = [memory.owner_of(hpa) for hpa in range(0, memory.size, PAGE_SIZE)]
        assert memory.accounting() == {one: owners.count(one) for one in sorted(set(owners))}


@given(st.binary(min_size=16, max_size=200), st.integers(0, 1 << 52))
def test_memory_key_round_trip(data: bytes, address: int) -> None:
    key = MemoryKey(SeededEntropy(b"key"))
    assert key.decrypt(address, key.encrypt(address, data)) == data
    assert "***" in repr(key)


def test_memory_key_is_aes_128_xts() -> None:
    # IEEE 1619-2007 appendix B, vector 2: keys 11.. and 22.., sequence number 0x3333333333, plaintext 44..
    stream = iter([bytes(32), bytes.fromhex("11" * 16 + "22" * 16)])  # equal halves are drawn again
    key = MemoryKey(lambda size: next(stream))
    expected = "c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0"
    assert key.encrypt(0x3333333333, b"\x44" * 32).hex() == expected
