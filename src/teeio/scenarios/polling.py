"""A program in a TVM that drives the accelerator by its datasheet and polls: it relies on the order of PCI Express.

When a read of the STATUS register says that the device is idle, what the device wrote before is in memory: no completion
passes Posted TLPs (PCIe Base 2.4.1). No interrupt is needed, and no look at completion entries.
"""

from __future__ import annotations

from teeio.accelerator_interface import (
    BAR_SIZE,
    COMPLETION_SIZE,
    DESCRIPTOR_SIZE,
    MEMORY_OFFSET,
    REGISTER_BAR,
    AcceleratorRegisters,
    Descriptor,
    Operation,
)
from teeio.guest.accept import AssignedInterface
from teeio.guest.tvm import MemoryRegion, Tvm

RING = 4


class PollingProgram:
    """The program on an accepted interface of `tvm`, with a buffer of `size` bytes for source and result each."""

    def __init__(self, tvm: Tvm, interface: AssignedInterface, size: int, now: float) -> None:
        self._tvm = tvm
        self.window = interface.window(REGISTER_BAR, 0, BAR_SIZE)
        self.source: MemoryRegion = tvm.allocate(size)
        self.result: MemoryRegion = tvm.allocate(size)
        self._ring = tvm.allocate(RING * DESCRIPTOR_SIZE)
        self._completion = tvm.allocate(COMPLETION_SIZE)
        self._size = size
        registers = AcceleratorRegisters
        self.window.write_register(registers.RING_LOW, now, address=(self._ring.gpa & 0xFFFF_FFFF) >> 6)
        self.window.write_register(registers.RING_HIGH, now, address=self._ring.gpa >> 32)
        self.window.write_register(registers.RING_SIZE, now, count=RING)
        self.window.write_register(registers.CONTROL, now, enable=1, vector=0)

    def start(self, now: float) -> None:
        """Let the device copy `source` to `result`, and give it the time to."""
        descriptor = Descriptor(
            operation=Operation.COPY,
            length=self._size,
            source=self.source.gpa,
            destination=self.result.gpa,
            completion=self._completion.gpa,
        )
        self._ring.write(0, descriptor.encode())
        self.window.write_register(AcceleratorRegisters.DOORBELL, now, index=1)
        self._tvm.halt()

    def status(self, now: float) -> int:
        """Read the STATUS register; all ones if nobody answers."""
        return self.window.read_register(AcceleratorRegisters.STATUS, now)

    def idle(self, now: float) -> bool:
        """Tell whether the device says that all is done and written."""
        status = self.status(now)
        answered = status != 0xFFFF_FFFF
        return answered and not AcceleratorRegisters.STATUS.get(status, "busy")

    def keep(self, word: bytes, now: float) -> None:
        """Put 8 bytes into the device's memory."""
        self.window.store(MEMORY_OFFSET, word, now)

    def kept(self, now: float) -> bytes:
        """Read them back; all ones if nobody answers."""
        return self.window.load(MEMORY_OFFSET, 8, now)
