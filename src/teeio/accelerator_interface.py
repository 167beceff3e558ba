"""The accelerator's datasheet: what its driver and its model must both know, and nothing else.

A ring of descriptors lies in memory, each one operation on buffers in memory. The driver writes the ring's address and
size, enables the ring, and rings the doorbell with the index after the last descriptor. The accelerator fetches each
descriptor by DMA, reads its source, computes, writes the result and a completion entry, and raises MSI-X if asked to.
BAR 0 page 0 holds the registers and the rest device memory; BAR 4 shows counters that are nobody's secret.

Protected transfers are for a device outside the trust domain (as GPUs do today): with the flag PROTECTED, source and
destination hold AES-256-GCM ciphertext and tag under a key that driver and device share. `ProtectedTransfer`
says with what nonce and associated data; sequence numbers only grow, and the device refuses one that
is not above the last. How the key is agreed is not said here.

Source and destination are addresses in memory unless a flag says otherwise. With LOCAL they are offsets in the device
memory; nothing crosses the link then, and nothing there is sealed. With TRANSLATED the accelerator has the addresses
translated (ATS) before it uses them; so it reaches the memory of a peer directly.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from enum import IntEnum, IntFlag

from teeio.pcie.registers import Access, Block, Register, bit, bits
from teeio.wire import Record, record, reserved, u16, u32, u64

CLASS_CODE = 0x120000
"""Processing accelerator."""

REGISTER_BAR = 0
TELEMETRY_BAR = 4
BAR_SIZE = 0x10000
MEMORY_OFFSET = 0x1000
MEMORY_SIZE = BAR_SIZE - MEMORY_OFFSET
VECTORS = 4
MAX_RING = 1024
MAX_LENGTH = 1 << 20
WORD = 4
MODEL_VERSION = 1
MAGIC = 0x31434341
"""Value of IDENTITY ("ACC1"); not all ones, so that a device that does not answer is noticed."""

SESSION_KEY_SIZE = 32


class Operation(IntEnum):
    """What a descriptor asks for."""

    COPY = 1
    SCALE_ADD = 2
    SHA256 = 3

    def result_size(self, length: int) -> int:
        """Give the bytes of the result for `length` bytes of source."""
        return 32 if self is Operation.SHA256 else length


class DescriptorFlags(IntFlag):
    """Flags of a descriptor."""

    NONE = 0
    INTERRUPT = 1 << 0
    PROTECTED = 1 << 1
    TRANSLATED_SOURCE = 1 << 2
    TRANSLATED_DESTINATION = 1 << 3
    LOCAL_SOURCE = 1 << 4
    LOCAL_DESTINATION = 1 << 5


class Result(IntEnum):
    """Status of a completion entry, and of the error register."""

    PENDING = 0
    DONE = 1
    BAD_OPERATION = 2
    BAD_LENGTH = 3
    DMA_FAILED = 4
    BAD_RING = 5
    NO_KEY = 6
    REPLAYED = 7
    AUTHENTICATION_FAILED = 8


@record
class Descriptor(Record):
    """One entry of the ring: `length` bytes from `source`, the result to `destination`, then the `completion` entry.

    SCALE_ADD gives `word * scale + addend` modulo 2^32 for each little-endian 32-bit word. `length` is without tag.
    """

    operation: Operation = u16("Operation", enum=Operation)
    flags: DescriptorFlags = u16("Flags", enum=DescriptorFlags, default=DescriptorFlags.NONE)
    length: int = u32("Bytes to read")
    source: int = u64("Address of the source")
    destination: int = u64("Address of the result")
    completion: int = u64("Address of the completion entry")
    scale: int = u32("Factor of SCALE_ADD", default=0)
    addend: int = u32("Addend of SCALE_ADD", default=0)
    sequence: int = u64("Number of a protected transfer", default=0)
    _reserved: None = reserved(16)


DESCRIPTOR_SIZE = 64


@record
class Completion(Record):
    """What the accelerator writes when a descriptor is done; `length` is without tag."""

    status: Result = u32("Status", enum=Result)
    index: int = u32("Index of the descriptor in the ring")
    length: int = u32("Bytes of the result")
    _reserved: None = reserved(4)


COMPLETION_SIZE = 16


class Direction(IntEnum):
    """Which way a protected transfer goes."""

    TO_DEVICE = 1
    FROM_DEVICE = 2


@record
class ProtectedTransfer(Record):
    """Associated data of a protected transfer: it ties the ciphertext to its work, so that it fits no other."""

    direction: Direction = u16("Which way", enum=Direction)
    operation: Operation = u16("Operation", enum=Operation)
    length: int = u32("Bytes in the clear")
    scale: int = u32("Factor of SCALE_ADD")
    addend: int = u32("Addend of SCALE_ADD")
    sequence: int = u64("Number of the transfer")

    @property
    def nonce(self) -> bytes:
        """The 12-byte nonce; a sequence number must never come twice under one key."""
        return int(self.direction).to_bytes(4, "little") + self.sequence.to_bytes(8, "little")


def protected_transfer(descriptor: Descriptor, direction: Direction, length: int) -> ProtectedTransfer:
    """Give what a descriptor's source (`length` is the descriptor's) or result (of `length` bytes) is sealed with."""
    return ProtectedTransfer(
        direction=direction,
        operation=descriptor.operation,
        length=length,
        scale=descriptor.scale,
        addend=descriptor.addend,
        sequence=descriptor.sequence,
    )


@record
class AcceleratorInformation(Record):
    """Device specific part of the interface report."""

    version: int = u16("Version of the register model", default=MODEL_VERSION)
    vectors: int = u16("MSI-X vectors", default=VECTORS)
    operations: int = u32("Bit n: operation n is there", default=sum(1 << operation for operation in Operation))
    ring_limit: int = u32("Most descriptors in a ring", default=MAX_RING)
    length_limit: int = u32("Most bytes of a source", default=MAX_LENGTH)


class AcceleratorRegisters(Block):
    """Page 0 of BAR 0."""

    NAME = "Accelerator registers"
    IDENTITY = Register(0x00, 4, "Identity", (bits("magic", 31, 0, Access.RO, "ACC1", reset=MAGIC),))
    CAPABILITY = Register(
        0x04,
        4,
        "Capability",
        (
            bits("ring_limit", 15, 0, Access.RO, "Most descriptors in a ring", reset=MAX_RING),
            bit("protected", 16, Access.RO, "Protected transfers: a session key is there"),
        ),
    )
    CONTROL = Register(
        0x08,
        4,
        "Control",
        (
            bit("enable", 0, Access.RW, "Take doorbells; setting it starts over at descriptor 0, without error"),
            bits("vector", 9, 8, Access.RW, "MSI-X vector of completions"),
        ),
    )
    STATUS = Register(
        0x0C,
        4,
        "Status",
        (
            bit("busy", 0, Access.RO, "Descriptors wait"),
            bits("consumed", 31, 16, Access.RO, "Index of the next descriptor"),
        ),
    )
    RING_LOW = Register(0x10, 4, "Ring base", (bits("address", 31, 6, Access.RW, "Bits 31:6"),))
    RING_HIGH = Register(0x14, 4, "Ring base upper", (bits("address", 31, 0, Access.RW, "Bits 63:32"),))
    RING_SIZE = Register(0x18, 4, "Ring size", (bits("count", 15, 0, Access.RW, "Descriptors in the ring"),))
    DOORBELL = Register(0x1C, 4, "Doorbell", (bits("index", 15, 0, Access.ACT, "Index after the last descriptor"),))
    ERROR = Register(0x20, 4, "Error", (bits("code", 7, 0, Access.RW1C, "What stopped the ring: a Result"),))

    def __init__(self) -> None:
        super().__init__(MEMORY_OFFSET)

    @property
    def ring(self) -> tuple[int, int]:
        """Address and number of descriptors of the ring."""
        return self.value(self.RING_HIGH) << 32 | self.value(self.RING_LOW), self.value(self.RING_SIZE)


class Telemetry(Block):
    """BAR 4: counters for whoever manages the device; they tell how much was done, not what."""

    NAME = "Accelerator telemetry"
    DESCRIPTORS = Register(0x00, 4, "Descriptors", (bits("count", 31, 0, Access.RO, "Descriptors done"),))
    FAILURES = Register(0x04, 4, "Failures", (bits("count", 31, 0, Access.RO, "Descriptors refused or failed"),))

    def __init__(self) -> None:
        super().__init__(MEMORY_OFFSET)

    def count(self, register: Register) -> None:
        """Add one."""
        self.set(register, count=self.value(register) + 1 & 0xFFFFFFFF)


def compute(descriptor: Descriptor, data: bytes) -> bytes:
    """Give the result of a descriptor's operation on `data`, the whole source."""
    if descriptor.operation is Operation.COPY:
        return data
    if descriptor.operation is Operation.SHA256:
        return hashlib.sha256(data).digest()
    words = array("I", data)
    if sys.byteorder == "big":
        words.byteswap()
    scaled = array("I", [word * descriptor.scale + descriptor.addend & 0xFFFFFFFF for word in words])
    if sys.byteorder == "big":
        scaled.byteswap()
    return scaled.tobytes()
