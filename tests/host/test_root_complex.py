"""Who gets what through the root complex: T bits, interrupts, protected registers, errors as completions."""

import pytest

from teeio.abi.operands import GPA_SHARED_BIT, PAGE_SIZE, PageLevel
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import Misuse
from teeio.host.iommu import Domain, Iommu
from teeio.host.memory import PhysicalMemory
from teeio.host.mmio_metadata import MmioMetadata
from teeio.host.root_complex import INTERRUPTS, RESERVED, Interrupt, RootComplex
from teeio.host.secure_ept import SecureEpt, SharedEpt
from teeio.ide_km.messages import Direction, KeySet, key_slots
from teeio.observe import Event, Refused
from teeio.pcie.address import AddressRange, Bdf
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.capabilities.ide import IdeCapability
from teeio.pcie.seams import ABORTED, UNSUPPORTED
from teeio.pcie.tlp import CompletionStatus, memory_write
from trusted_dma_bench import TablesBench

ROOT = Bdf(0, 0, 1, 0)
RID = 0x0100
GPA = 0x4000
STREAM = 7
MMIO = AddressRange(1 << 40, 2 << 20)


class Bench:
    """A root port with one TVM's private page and one shared page behind its IOMMU."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.memory = PhysicalMemory(64 * PAGE_SIZE, SeededEntropy(b"rc"))
        self.iommu = Iommu("iommu0", self.memory)
        self.root_complex = RootComplex(self.memory, {0: self.iommu}, self.events.append)
        self.port = self.root_complex.add_root_port(ROOT, 0)
        self.ingress = self.port.host
        self.unit = self.root_complex.key_units[ROOT.requester_id]
        self.unit.claim(STREAM, range(RID, RID + 8), MMIO)
        self.private, self.shared = self.memory.vmm.allocate(), self.memory.vmm.allocate()
        owner = self.memory.create_owner()
        self.sept = SecureEpt(self.memory, owner, 0x7000, MmioMetadata(()))
        self.sept.augment(GPA, self.private, PageLevel.PAGE_4K)
        self.sept.accept(GPA, PageLevel.PAGE_4K)
        self.memory.view(owner).write(self.private, b"secret")
        trusted = TablesBench(self.iommu.trusted, self.memory)
        trusted.lead(RID, self.sept, SharedEpt())
        trusted.tables.accept(RID, self.sept.tdr)
        self.domain = Domain()
        self.domain.map(GPA, self.shared)
        self.iommu.legacy.attach(RID, self.domain)

    def refusals(self) -> list[Refused]:
        return [event for event in self.events if isinstance(event, Refused)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_t_bit_chooses_the_memory(bench: Bench) -> None:
    bench.memory.vmm.write(bench.shared, b"public")
    assert bench.ingress.dma_read(RID, GPA, 6, True, STREAM).data == b"secret"
    assert bench.ingress.dma_read(RID, GPA, 6, False).data == b"public"
    assert bench.ingress.dma_write(RID, GPA, b"SECRET", True, STREAM) is CompletionStatus.SC
    assert bench.ingress.dma_read(RID, GPA, 6, True, STREAM).data == b"SECRET"
    assert b"ecret" not in bench.memory.vmm.read(0, bench.memory.size)


def test_t_is_not_believed_without_a_stream(bench: Bench) -> None:
    assert bench.ingress.dma_read(RID, GPA, 6, True, None) == UNSUPPORTED
    assert bench.ingress.dma_write(RID, GPA, b"forged", True, None) is CompletionStatus.UR
    assert bench.ingress.dma_read(RID, GPA, 6, True, STREAM).data == b"secret"
    assert "T=1 counts only on a Secure Selective IDE stream" in bench.refusals()[-1].rule


def test_t_is_not_believed_on_a_stream_that_the_tsm_did_not_set_up(bench: Bench) -> None:
    for stream_id in (STREAM + 1, 0):
        assert bench.ingress.dma_read(RID, GPA, 6, True, stream_id) == UNSUPPORTED
        assert bench.ingress.dma_write(RID, GPA, b"forged", True, stream_id) is CompletionStatus.UR
        assert bench.ingress.dma_read(RID, GPA, 6, False, stream_id).ok
    bench.unit.release(STREAM)
    assert bench.ingress.dma_read(RID, GPA, 6, True, STREAM) == UNSUPPORTED


def test_without_t_private_memory_is_out_of_reach(bench: Bench) -> None:
    bench.domain.map(GPA, bench.private)
    assert bench.ingress.dma_read(RID, GPA, 6, False) == UNSUPPORTED
    assert bench.ingress.dma_write(RID, GPA, b"forged", False) is CompletionStatus.UR
    assert bench.ingress.dma_read(RID, GPA, 6, True, STREAM).data == b"secret"


@pytest.mark.parametrize("address", [GPA + PAGE_SIZE, GPA | GPA_SHARED_BIT, 1 << 60])
def test_what_has_no_translation_is_unsupported(bench: Bench, address: int) -> None:
    assert bench.ingress.dma_read(RID, address, 8, True, STREAM) == UNSUPPORTED
    assert bench.ingress.dma_write(RID + 1, address, b"8 bytes.", False) is CompletionStatus.UR


def test_tampered_memory_aborts(bench: Bench) -> None:
    bench.memory.vmm.write(bench.private, b"X")
    assert bench.ingress.dma_read(RID, GPA, 6, True, STREAM) == ABORTED
    assert bench.ingress.dma_write(RID, GPA, b"more", True, STREAM) is CompletionStatus.CA
    assert "integrity" in bench.refusals()[-1].rule


def test_zero_length_reads_are_answered_empty(bench: Bench) -> None:
    assert bench.ingress.dma_read(RID, GPA, 0, True, STREAM).data == b""


def test_interrupts_are_delivered_without_trust_only(bench: Bench) -> None:
    seen: list[Interrupt] = []
    bench.root_complex.vmm.deliver_interrupts(seen.append)
    message = (5).to_bytes(4, "little")
    assert bench.ingress.dma_write(RID, INTERRUPTS.start + 0x10, message, False) is CompletionStatus.SC
    assert seen == [Interrupt(RID, INTERRUPTS.start + 0x10, 5)]
    assert bench.ingress.dma_write(RID, INTERRUPTS.start, message, True, STREAM) is CompletionStatus.UR
    assert bench.ingress.dma_write(RID, INTERRUPTS.start, message * 2, False) is CompletionStatus.UR
    assert bench.ingress.dma_read(RID, INTERRUPTS.start, 4, False) == UNSUPPORTED
    assert len(seen) == 1


def test_the_vmm_cannot_write_the_ide_registers_of_a_root_port(bench: Bench) -> None:
    base = bench.port.config.need(IdeCapability).base
    bus = bench.root_complex.vmm
    before = bench.port.config.snapshot()
    for offset in range(base - 2, base + bench.port.config.need(IdeCapability).size, 4):
        bus.config_write(ROOT, max(offset, base), 4, 0xFFFF_FFFF)
        bus.config_write(ROOT, offset, 4, 0xFFFF_FFFF) if offset >= base else None
    assert bench.port.config.snapshot() == before
    bus.config_write(ROOT, 0x18, 4, 0x030201)
    assert bus.config_read(ROOT, 0x18, 4) == 0x030201


def test_what_nobody_answers_reads_as_all_ones(bench: Bench) -> None:
    bus = bench.root_complex.vmm
    assert bus.config_read(Bdf(0, 9, 0, 0), 0, 4) == 0xFFFF_FFFF
    assert bus.mmio_read(MMIO.start, 4) == b"\xff" * 4
    bus.mmio_write(MMIO.start, b"lost")
    assert bench.root_complex.mmio_read(MMIO.start, 8, t_bit=True) == b"\xff" * 8


def test_the_platform_describes_itself(bench: Bench) -> None:
    bus = bench.root_complex.vmm
    assert bus.root_ports == (ROOT,)
    assert bus.iommu_of(ROOT) == 0
    assert bus.legacy_tables(0) is bench.iommu.legacy
    assert bench.root_complex.forbidden_mmio() == (AddressRange(0, bench.memory.size), RESERVED)
    with pytest.raises(Misuse, match="no IOMMU 3"):
        bench.root_complex.add_root_port(Bdf(0, 0, 2, 0), 3)


def test_memory_ends_below_the_registers() -> None:
    memory = PhysicalMemory(RESERVED.start + PAGE_SIZE, SeededEntropy(b"large"))
    with pytest.raises(Misuse, match="memory of 0xe0001000 bytes"):
        RootComplex(memory, {})


def test_a_key_unit_hands_out_blocks_and_takes_them_back(bench: Bench) -> None:
    unit = bench.unit
    unit.release(STREAM)
    empty = bench.port.config.need(IdeCapability).copied_registers()
    for stream_id in range(1, 5):
        assert unit.claim(stream_id, range(stream_id << 8, (stream_id << 8) + 8), MMIO)
    assert not unit.claim(9, range(0x900, 0x908), MMIO), "all four blocks are in use"
    unit.release(3)
    assert not unit.claim(2, range(0x200, 0x208), MMIO), "the Stream ID is in use"
    assert unit.claim(9, range(0x900, 0x908), MMIO)
    for stream_id in (1, 2, 4, 9):
        unit.release(stream_id)
    assert bench.port.config.need(IdeCapability).copied_registers() == empty


def test_a_stream_is_secure_with_all_keys_ready_and_enabled(bench: Bench) -> None:
    unit = bench.unit
    keys = iter(range(1, 100))
    for direction in Direction:
        for slot in key_slots(KeySet.K0, direction):
            assert not unit.is_secure(STREAM)
            assert unit.program(STREAM, slot, bytes([next(keys)]) * 32) is None
    assert (
        unit.program(STREAM, key_slots(KeySet.K1, Direction.RX)[0], bytes([1]) * 32) == "the key was installed before"
    )
    assert unit.program(STREAM + 1, key_slots(KeySet.K0, Direction.RX)[0], bytes(32)) is not None
    assert unit.set_go(STREAM, KeySet.K0, Direction.RX)
    assert not unit.set_go(STREAM, KeySet.K1, Direction.RX)
    assert not unit.enable(STREAM)
    unit.disable(STREAM)
    for direction in Direction:
        for number, slot in enumerate(key_slots(KeySet.K0, direction)):
            assert unit.program(STREAM, slot, bytes([50 + 3 * direction + number]) * 32) is None
    assert all(unit.set_go(STREAM, KeySet.K0, direction) for direction in Direction)
    assert unit.enable(STREAM)
    unit.disable(STREAM)
    assert not unit.is_secure(STREAM)
    assert not unit.set_go(STREAM, KeySet.K0, Direction.RX), "clearing Enable erased the keys"


@pytest.mark.parametrize("address", [GPA, INTERRUPTS.start])
def test_a_poisoned_write_of_a_device_changes_nothing(bench: Bench, address: int) -> None:
    """Data that their sender calls bad become neither memory nor an interrupt (PCIe Base 2.7.2.2)."""
    heard: list[Interrupt] = []
    bench.root_complex.deliver_interrupts(heard.append)
    bench.memory.vmm.write(bench.shared, b"good")
    write = memory_write(RID, 0, address, b"bad!")
    poisoned = write._replace(header=write.header[:2] + bytes([write.header[2] | 0x40]) + write.header[3:])
    bench.port.receive_frame(poisoned.encode())
    assert (bench.memory.vmm.read(bench.shared, 4), heard) == (b"good", [])
    assert bench.port.config.need(AerCapability).recorded(Uncorrectable.POISONED_TLP)
    bench.port.receive_frame(write.encode())
    assert bench.memory.vmm.read(bench.shared, 4) == (b"bad!" if address == GPA else b"good")
    assert len(heard) == int(address != GPA)
