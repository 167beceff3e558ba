"""DMA in the TVM: one interface, three ways to reach a device's data.

`PrivateDma` is for an interface in RUN: the device reads and writes private memory itself, with T=1, over the trusted
IOMMU tables that reuse the secure EPT; a bus address is the guest address, nothing is copied. `BounceDma` is today's
way for all others: a pool of shared memory with slots as in Linux's swiotlb; with a session the TVM seals what goes out
and opens what comes in, without one the data are in the clear for the VMM. `DirectDma` is what a VM without
confidentiality does: the data themselves lie in shared memory; it is there to compare with, and is never chosen by
itself. T=0 bus addresses of shared memory are guest addresses without `GPA_SHARED_BIT`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from teeio.crypto.aead import TAG_SIZE, AeadKey
from teeio.crypto.algorithms import Aead
from teeio.errors import Misuse
from teeio.guest.accept import AssignedInterface, Phase
from teeio.guest.cost import CostMeter
from teeio.guest.tvm import MemoryRegion, Tvm

SLOT_SIZE = 2048
"""Bytes of a slot (Linux, IO_TLB_SIZE)."""
SEGMENT_SLOTS = 128
"""Most slots of one mapping (Linux, IO_TLB_SEGSIZE): 256 KiB."""
DEFAULT_POOL = 1 << 20


class PoolFull(Misuse):
    """No run of free slots is long enough now."""


class Label(NamedTuple):
    """What ties a sealed transfer to its work: the nonce, never used twice, and the associated data."""

    nonce: bytes
    associated: bytes


class Place(Enum):
    """Where a buffer lies for a device."""

    MEMORY = "memory, by DMA"
    OWN_DEVICE = "its own memory, by offset"
    PEER_DEVICE = "a peer's memory, by translated address"


class Mapping(NamedTuple):
    """A buffer that a device may use: its bus address, and for the back end where its data are or go."""

    address: int
    size: int
    gpa: int
    label: Label
    place: Place = Place.MEMORY


class ProtectedSession:
    """The AES-256-GCM key that driver and device share, and its sequence numbers: one object for the key's lifetime."""

    def __init__(self, key: bytes) -> None:
        self.key = AeadKey(Aead.AES_256_GCM, key)
        self._sequence = 0

    def next_sequence(self) -> int:
        """Give a number that never came before."""
        self._sequence += 1
        return self._sequence


class DmaInterface(Protocol):
    """What a driver needs to give memory to a device."""

    @property
    def trusted(self) -> bool:
        """Whether the device reaches private memory."""

    @property
    def session(self) -> ProtectedSession | None:
        """The session under which payload is sealed, if it is."""

    @property
    def max_segment(self) -> int:
        """Bytes of payload that one mapping can hold."""

    def allocate(self, size: int, now: float) -> MemoryRegion:
        """Take memory that both sides use all the time (rings)."""

    def free(self, region: MemoryRegion, now: float) -> None:
        """Give such memory back."""

    def expect(self, gpa: int, size: int) -> None:
        """Raises `Misuse` unless these bytes lie in memory of the kind that this back end maps."""

    def to_device(self, gpa: int, size: int, label: Label) -> Mapping:
        """Map private data for the device to read. Raises `PoolFull`, `Misuse`."""

    def from_device(self, gpa: int, size: int, label: Label) -> Mapping:
        """Map private memory for the device to write. Raises `PoolFull`, `Misuse`."""

    def finish(self, mapping: Mapping) -> None:
        """Put what the device wrote into private memory, and unmap. Raises `AuthenticationFailed`, unmapped too."""

    def release(self, mapping: Mapping) -> None:
        """Unmap without looking at the data."""

    def close(self, now: float) -> None:
        """Give back everything."""


def dma_for(
    tvm: Tvm,
    interface: AssignedInterface | None,
    meter: CostMeter,
    now: float,
    *,
    session: ProtectedSession | None = None,
    pool_size: int = DEFAULT_POOL,
) -> PrivateDma | BounceDma:
    """Choose the back end: private memory for an accepted interface, else the bounce pool."""
    if interface is not None and interface.phase is Phase.ACCEPTED:
        return PrivateDma(tvm)
    return BounceDma(tvm, meter, now, session=session, pool_size=pool_size)


def expect_private(tvm: Tvm, gpa: int, size: int) -> None:
    """Raises `Misuse` unless these bytes are accepted private memory in use."""
    if not tvm.is_private(gpa, size):
        raise Misuse(f"{size} bytes at {gpa:#x} are not the TVM's private memory", remedy="allocate them first")


@dataclass(frozen=True)
class InPlaceDma:
    """No copies: the device works on the pages where the data are, private or `shared`."""

    tvm: Tvm
    shared: bool
    session: ProtectedSession | None = None
    max_segment: int = 1 << 31

    @property
    def trusted(self) -> bool:
        """Whether the device reaches private memory."""
        return not self.shared

    def expect(self, gpa: int, size: int) -> None:
        """Raises `Misuse` unless these bytes lie in memory of the kind that this back end maps."""
        if not self.shared:
            expect_private(self.tvm, gpa, size)
        elif not self.tvm.is_shared(gpa, size):
            raise Misuse(f"{size} bytes at {gpa:#x} are not shared memory", remedy="allocate them with allocate_shared")

    def allocate(self, size: int, now: float) -> MemoryRegion:
        """Take pages of this kind."""
        return self.tvm.allocate_shared(size, now) if self.shared else self.tvm.allocate(size)

    def free(self, region: MemoryRegion, now: float) -> None:
        """Give memory for both sides back."""
        self.tvm.free(region, now)

    def to_device(self, gpa: int, size: int, label: Label) -> Mapping:
        """Give the guest address. Raises as `expect` does."""
        self.expect(gpa, size)
        return Mapping(gpa, size, gpa, label)

    def from_device(self, gpa: int, size: int, label: Label) -> Mapping:
        """Give the guest address. Raises as `expect` does."""
        return self.to_device(gpa, size, label)

    def finish(self, mapping: Mapping) -> None:
        """Nothing to do: the data are where they belong."""

    def release(self, mapping: Mapping) -> None:
        """Nothing to do. The IOMMU entry is the whole TVM's, not the mapping's."""

    def close(self, now: float) -> None:
        """Nothing to do."""


class PrivateDma(InPlaceDma):
    """The device works on the TVM's own private pages."""

    def __init__(self, tvm: Tvm) -> None:
        super().__init__(tvm, shared=False)


class DirectDma(InPlaceDma):
    """The device works on shared pages where the data lie in the clear for everybody: no confidentiality at all."""

    def __init__(self, tvm: Tvm) -> None:
        super().__init__(tvm, shared=True)


class BounceDma:
    """Every byte goes through a shared pool of `pool_size` bytes, sealed under `session` if there is one."""

    trusted = False

    def __init__(
        self,
        tvm: Tvm,
        meter: CostMeter,
        now: float,
        *,
        session: ProtectedSession | None = None,
        pool_size: int = DEFAULT_POOL,
    ) -> None:
        self.session = session
        self._tvm = tvm
        self._meter = meter
        self._pool = tvm.allocate_shared(pool_size, now)
        self._slots = bytearray(self._pool.size // SLOT_SIZE)
        self._overhead = TAG_SIZE if session else 0
        self.max_segment = min(SEGMENT_SLOTS, len(self._slots) // 2) * SLOT_SIZE - self._overhead

    @property
    def free_slots(self) -> int:
        """Number of slots that are free."""
        return self._slots.count(0)

    def allocate(self, size: int, now: float) -> MemoryRegion:
        """Take shared pages."""
        return self._tvm.allocate_shared(size, now)

    def free(self, region: MemoryRegion, now: float) -> None:
        """Make them private again."""
        self._tvm.free(region, now)

    def expect(self, gpa: int, size: int) -> None:
        """Raises `Misuse` unless these bytes are accepted private memory in use."""
        expect_private(self._tvm, gpa, size)

    def to_device(self, gpa: int, size: int, label: Label) -> Mapping:
        """Seal private data and copy them out."""
        mapping = self.from_device(gpa, size, label)
        plain = self._tvm.processor.load(gpa, size)
        with self._meter.busy():
            data = self.session.key.seal(label.nonce, plain, label.associated) if self.session else plain
            self._pool.write(mapping.address - self._pool.gpa, data)
        self._meter.add(copied=len(data), encrypted=size if self.session else 0)
        return mapping

    def from_device(self, gpa: int, size: int, label: Label) -> Mapping:
        """Take slots."""
        self.expect(gpa, size)
        if size > self.max_segment:
            raise Misuse(f"a mapping of {size} bytes", remedy=f"map at most {self.max_segment} bytes at once")
        count = self._count(size)
        first = self._slots.find(bytes(count))
        if first < 0:
            raise PoolFull(f"no {count} free slots in a row", remedy="finish mappings, or make the pool larger")
        self._slots[first : first + count] = b"\x01" * count
        return Mapping(self._pool.gpa + first * SLOT_SIZE, size, gpa, label)

    def finish(self, mapping: Mapping) -> None:
        """Copy in and open what the device wrote. Raises `AuthenticationFailed`; private memory is not touched then."""
        try:
            with self._meter.busy():
                # One read: the VMM can change shared memory between two.
                data = self._pool.read(mapping.address - self._pool.gpa, mapping.size + self._overhead)
                plain = data
                if self.session:
                    plain = self.session.key.open(mapping.label.nonce, data, mapping.label.associated)
            self._meter.add(copied=len(data), decrypted=mapping.size if self.session else 0)
            self._tvm.processor.store(mapping.gpa, plain)
        finally:
            self.release(mapping)

    def release(self, mapping: Mapping) -> None:
        """Free the slots."""
        first, count = (mapping.address - self._pool.gpa) // SLOT_SIZE, self._count(mapping.size)
        self._slots[first : first + count] = bytes(count)

    def close(self, now: float) -> None:
        """Make the pool private memory again."""
        self._tvm.free(self._pool, now)

    def _count(self, size: int) -> int:
        return -(-(size + self._overhead) // SLOT_SIZE)
