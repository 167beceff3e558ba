"""The invalidation queue of an IOMMU in TDX mode: descriptors in a ring of one page, worked off in order (VT-d 6.5.2).

Whoever owns the queue writes descriptors at the tail; the IOMMU takes them from the head, and what is behind the head has
been done. A wait descriptor is done when all before it are, which is how the end of an invalidation is known. Descriptors
are of 32 bytes. The IOMMU of this model works when it is polled, so what is queued is not yet done.

Left out: descriptors for device TLBs, interrupt entries and PASID-based IOTLB; interrupts and status writes of wait
descriptors (their owner reads the head).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import TypeAlias

from teeio.abi.operands import PAGE_SIZE
from teeio.host.memory import TSM, MemoryPoisoned, PhysicalMemory
from teeio.host.trusted_remapping import TrustedRemapping
from teeio.wire import Record, bits, record, reserved, reserved_bits

DESCRIPTOR_SIZE = 32
QUEUE_SLOTS = PAGE_SIZE // DESCRIPTOR_SIZE
"""Slots of the ring; one stays free, so that full and empty differ."""


class DescriptorType(IntEnum):
    """Type of a descriptor."""

    CONTEXT_CACHE = 1
    IOTLB = 2
    WAIT = 5
    PASID_CACHE = 7


class ContextGranularity(IntEnum):
    """How much of the context cache; scalable-mode entries have no domain, so DOMAIN is as much as GLOBAL."""

    GLOBAL = 1
    DOMAIN = 2
    DEVICE = 3


class PasidGranularity(IntEnum):
    """How much of the PASID cache."""

    DOMAIN = 0
    PASID_IN_DOMAIN = 1
    GLOBAL = 3


class IotlbGranularity(IntEnum):
    """How much of the IOTLB."""

    GLOBAL = 1
    DOMAIN = 2
    PAGES_IN_DOMAIN = 3


@record
class ContextInvalidate(Record):
    """Context-cache Invalidate Descriptor (VT-d 6.5.2.1)."""

    type: int = bits(4, "Type", of=8, enum=DescriptorType, default=DescriptorType.CONTEXT_CACHE)
    granularity: int = bits(2, "G", enum=ContextGranularity, default=ContextGranularity.GLOBAL)
    _reserved: None = reserved_bits(10)
    domain_id: int = bits(16, "DID", default=0)
    source_id: int = bits(16, "SID: requester id", default=0)
    function_mask: int = bits(2, "FM: low bits of the function number that do not count", default=0)
    _rest: None = reserved_bits(14)
    _upper: None = reserved(24)


@record
class PasidInvalidate(Record):
    """PASID-cache Invalidate Descriptor (VT-d 6.5.2.2)."""

    type: int = bits(4, "Type", of=8, enum=DescriptorType, default=DescriptorType.PASID_CACHE)
    granularity: int = bits(2, "G", enum=PasidGranularity, default=PasidGranularity.PASID_IN_DOMAIN)
    _reserved: None = reserved_bits(10)
    domain_id: int = bits(16, "DID", default=0)
    pasid: int = bits(20, "PASID", default=0)
    _rest: None = reserved_bits(12)
    _upper: None = reserved(24)


@record
class IotlbInvalidate(Record):
    """IOTLB Invalidate Descriptor (VT-d 6.5.2.3)."""

    type: int = bits(4, "Type", of=8, enum=DescriptorType, default=DescriptorType.IOTLB)
    granularity: int = bits(2, "G", enum=IotlbGranularity, default=IotlbGranularity.DOMAIN)
    drain_writes: int = bits(1, "DW", default=1)
    drain_reads: int = bits(1, "DR", default=1)
    _reserved: None = reserved_bits(8)
    domain_id: int = bits(16, "DID", default=0)
    _rest: None = reserved_bits(32)
    address_mask: int = bits(6, "AM: 2^(this) pages", of=8, default=0)
    invalidation_hint: int = bits(1, "IH", default=0)
    _hint: None = reserved_bits(5)
    page: int = bits(52, "ADDR, in pages", default=0)
    _upper: None = reserved(16)


@record
class Wait(Record):
    """Invalidation Wait Descriptor (VT-d 6.5.2.8)."""

    type: int = bits(4, "Type", of=8, enum=DescriptorType, default=DescriptorType.WAIT)
    interrupt: int = bits(1, "IF", default=0)
    status_write: int = bits(1, "SW", default=0)
    fence: int = bits(1, "FN: nothing after it begins before it", default=1)
    page_request_drain: int = bits(1, "PD", default=0)
    _reserved: None = reserved_bits(24)
    status_data: int = bits(32, "Status Data", default=0)
    _upper: None = reserved(24)


Descriptor: TypeAlias = ContextInvalidate | PasidInvalidate | IotlbInvalidate | Wait
DESCRIPTORS: tuple[type[Descriptor], ...] = (ContextInvalidate, PasidInvalidate, IotlbInvalidate, Wait)


def _contexts(unit: TrustedRemapping, one: ContextInvalidate) -> None:
    if one.granularity != ContextGranularity.DEVICE:
        unit.forget_contexts()
        return
    for function in range(1 << one.function_mask):
        unit.forget_contexts(one.source_id & -(1 << one.function_mask) | function)


def _pasids(unit: TrustedRemapping, one: PasidInvalidate) -> None:
    whole = one.granularity == PasidGranularity.GLOBAL
    selective = one.granularity == PasidGranularity.PASID_IN_DOMAIN
    unit.forget_pasids(None if whole else one.domain_id, one.pasid if selective else None)


def _translations(unit: TrustedRemapping, one: IotlbInvalidate) -> None:
    size = PAGE_SIZE << one.address_mask
    first = one.page * PAGE_SIZE & -size
    selective = one.granularity == IotlbGranularity.PAGES_IN_DOMAIN
    unit.forget_translations(
        None if one.granularity == IotlbGranularity.GLOBAL else one.domain_id,
        range(first, first + size) if selective else None,
    )


def _wait(unit: TrustedRemapping, one: Wait) -> None:
    """Do nothing: all before it has been done."""


_KINDS: Mapping[int, tuple[type[Descriptor], Callable[..., None]]] = MappingProxyType(
    {
        DescriptorType.CONTEXT_CACHE: (ContextInvalidate, _contexts),
        DescriptorType.PASID_CACHE: (PasidInvalidate, _pasids),
        DescriptorType.IOTLB: (IotlbInvalidate, _translations),
        DescriptorType.WAIT: (Wait, _wait),
    }
)
"""What each type of descriptor looks like, and what the IOMMU does on it."""


class InvalidationQueue:
    """The queue at the page `base`, which is the TSM's; `head` and `tail` count slots.

    `error` is set, and nothing is done any more, if a descriptor cannot be read or is none (VT-d 6.5.2.10, IQE).
    """

    def __init__(self, unit: TrustedRemapping, memory: PhysicalMemory, base: int) -> None:
        self.head = self.tail = 0
        self.error = False
        self._unit = unit
        self._memory = memory.view(TSM)
        self.base = base

    @property
    def waiting(self) -> int:
        """Descriptors that are not done."""
        return (self.tail - self.head) % QUEUE_SLOTS

    @property
    def room(self) -> int:
        """Descriptors that may be posted now."""
        return QUEUE_SLOTS - 1 - self.waiting

    def post(self, descriptor: Descriptor) -> int:
        """Write a descriptor at the tail; gives its slot. That there is room is the caller's check. Raises `MemoryPoisoned`."""
        slot = self.tail
        self._memory.write(self.base + slot * DESCRIPTOR_SIZE, descriptor.encode())
        self.tail = (slot + 1) % QUEUE_SLOTS
        return slot

    def work(self, limit: int = QUEUE_SLOTS) -> None:
        """Be the IOMMU: carry out up to `limit` descriptors."""
        for _ in range(min(limit, self.waiting)):
            try:
                raw = self._memory.read(self.base + self.head * DESCRIPTOR_SIZE, DESCRIPTOR_SIZE)
            except MemoryPoisoned:
                self.error = True
                return
            kind = _KINDS.get(raw[0] & 0xF)
            if kind is None:
                self.error = True
                return
            layout, act = kind
            act(self._unit, layout.decode(raw))
            self.head = (self.head + 1) % QUEUE_SLOTS
