"""Where the loads and stores of a TVM go: its own pages, the VMM's, device memory with T=1 or T=0, or nowhere."""

import pytest

from teeio.abi import EptViolation
from teeio.abi.operands import GPA_SHARED_BIT, PAGE_SIZE, PageLevel
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import AuthenticationFailed, Misuse
from teeio.host.memory import PhysicalMemory
from teeio.host.mmio_metadata import MmioMetadata
from teeio.host.processor import MAX_ACCESS, TvmProcessor
from teeio.host.root_complex import RootComplex
from teeio.host.secure_ept import SecureEpt, SharedEpt

BAR = 1 << 40
K4 = PageLevel.PAGE_4K


class Recorder(RootComplex):
    """A root complex that answers device memory accesses with their T bit."""

    def __init__(self, memory: PhysicalMemory) -> None:
        super().__init__(memory, {})
        self.writes: list[tuple[int, bytes, bool]] = []

    def mmio_read(self, address: int, size: int, t_bit: bool = False) -> bytes:
        return (b"T" if t_bit else b"-") * size

    def mmio_write(self, address: int, data: bytes, t_bit: bool = False) -> None:
        self.writes.append((address, data, t_bit))


class Bench:
    """A TVM with two private pages at 0, two shared ones at 0x8000, private MMIO at BAR, shared MMIO at BAR + page."""

    def __init__(self) -> None:
        self.memory = PhysicalMemory(64 * PAGE_SIZE, SeededEntropy(b"cpu"))
        self.root_complex = Recorder(self.memory)
        metadata = MmioMetadata(())
        metadata.add(BAR, 0)
        metadata.set(BAR, 1, 0x100)
        self.sept = SecureEpt(self.memory, self.memory.create_owner(), 0, metadata)
        self.shared = SharedEpt()
        self.pages = [self.memory.vmm.allocate() for _ in range(5)]
        for index, page in enumerate(self.pages[:3]):
            self.sept.augment(index * PAGE_SIZE, page, K4)
        for index in range(2):
            self.sept.accept(index * PAGE_SIZE, K4)
        self.shared.map(0x8000, self.pages[4])
        self.shared.map(0x9000, self.pages[3])
        self.sept.map_mmio(BAR, BAR, K4)
        self.shared.map(BAR, BAR + PAGE_SIZE)
        self.processor = TvmProcessor(self.memory, self.root_complex, self.sept, self.shared)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_private_memory_is_the_tvms_own(bench: Bench) -> None:
    bench.processor.store(PAGE_SIZE - 3, b"across")
    assert bench.processor.load(PAGE_SIZE - 3, 6) == b"across"
    assert b"across" not in bench.memory.vmm.read(0, bench.memory.size)
    assert bench.processor.load(5, 0) == b""


def test_shared_memory_is_the_vmms(bench: Bench) -> None:
    bench.processor.store(0x9000 - 3 | GPA_SHARED_BIT, b"across")
    assert bench.memory.vmm.read(bench.pages[4] + PAGE_SIZE - 3, 3) == b"acr"
    assert bench.memory.vmm.read(bench.pages[3], 3) == b"oss"
    assert bench.processor.load(0x9000 - 3 | GPA_SHARED_BIT, 6) == b"across"


def test_the_shared_ept_reaches_only_what_the_vmm_can_read(bench: Bench) -> None:
    bench.processor.store(0, b"secret")
    bench.shared.map(0x8000, bench.pages[0])
    assert bench.processor.load(0x8000 | GPA_SHARED_BIT, 6) != b"secret"
    bench.processor.store(0x8000 | GPA_SHARED_BIT, b"change")
    with pytest.raises(AuthenticationFailed):
        bench.processor.load(0, 6)


def test_private_mmio_is_t_1_and_shared_mmio_t_0(bench: Bench) -> None:
    bench.sept.accept_mmio(BAR, K4)
    assert bench.processor.load(BAR + 8, 4) == b"TTTT"
    assert bench.processor.load(BAR + 8 | GPA_SHARED_BIT, 4) == b"----"
    bench.processor.store(BAR + 4, b"a")
    bench.processor.store(BAR + 4 | GPA_SHARED_BIT, b"b")
    assert bench.root_complex.writes == [(BAR + 4, b"a", True), (BAR + PAGE_SIZE + 4, b"b", False)]


@pytest.mark.parametrize(
    ("gpa", "why"),
    [
        (2 * PAGE_SIZE, "not accepted by the guest"),
        (5 * PAGE_SIZE, "nothing is mapped"),
        (2 * PAGE_SIZE - 1, "not accepted by the guest"),
        (BAR, "MMIO, not accepted"),
        (0x7000 | GPA_SHARED_BIT, "nothing is mapped in the shared EPT"),
    ],
)
def test_what_is_not_mapped_and_accepted_violates_the_ept(bench: Bench, gpa: int, why: str) -> None:
    with pytest.raises(EptViolation, match=why):
        bench.processor.load(gpa, 2)
    with pytest.raises(EptViolation, match=why):
        bench.processor.store(gpa, b"no")
    assert bench.processor.load(PAGE_SIZE, 8) == bytes(8), "no part of a store is done"


def test_blocked_pages_are_out_of_reach_at_once(bench: Bench) -> None:
    bench.sept.block(0, K4)
    with pytest.raises(EptViolation, match="on its way out"):
        bench.processor.load(0, 1)


@pytest.mark.parametrize(("gpa", "size"), [(0, MAX_ACCESS + 1), (-1, 4), (2 * GPA_SHARED_BIT, 1), (0, -1)])
def test_accesses_are_bounded(bench: Bench, gpa: int, size: int) -> None:
    with pytest.raises(Misuse, match="access of"):
        bench.processor.load(gpa, size)
