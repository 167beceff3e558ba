"""The accelerator by its datasheet alone."""

from __future__ import annotations

from typing import Any

from teeio.accelerator_interface import (
    BAR_SIZE,
    DESCRIPTOR_SIZE,
    MEMORY_OFFSET,
    AcceleratorRegisters,
    Completion,
    Descriptor,
    DescriptorFlags,
    Direction,
    Operation,
    compute,
    protected_transfer,
)
from teeio.accelerator_interface import (
    Result as Outcome,
)
from teeio.crypto.aead import TAG_SIZE, AeadKey
from teeio.crypto.algorithms import Aead
from teeio.errors import AuthenticationFailed
from teeio.pcie.registers import Register

SESSION_KEY = bytes(range(32))


class NoDma(Exception):
    """The device's request did not get through."""


class Model:
    """The accelerator by its datasheet alone, with protected transfers."""

    def __init__(self) -> None:
        self.key: bytes | None = None
        self.registers = AcceleratorRegisters()
        self.memory = bytearray(BAR_SIZE - MEMORY_OFFSET)
        self.consumed = self.produced = 0
        self.last_sequence = 0
        self.bus: Any = None
        self.registers.watch(AcceleratorRegisters.DOORBELL, self._rung)

    def use_session_key(self, key: bytes) -> None:
        self.key = key
        self.registers.set(AcceleratorRegisters.CAPABILITY, protected=1)

    def _rung(self, register: Register, old: int, new: int) -> None:
        self.produced = register.get(new, "index")

    def attach(self, bus: Any) -> None:
        self.bus = bus

    def read(self, bar: int, offset: int, size: int) -> bytes:
        return self.registers.read(offset, size).to_bytes(size, "little")

    def write(self, bar: int, offset: int, data: bytes) -> None:
        self.registers.write(offset, len(data), int.from_bytes(data, "little"))

    def work(self) -> bool:
        busy = self.consumed != self.produced
        while self.consumed != self.produced:
            try:
                self._step()
            except NoDma:
                self.registers.set(AcceleratorRegisters.ERROR, code=Outcome.DMA_FAILED)
                self.produced = self.consumed
        return busy

    def _step(self) -> None:
        base, count = self.registers.ring
        index = self.consumed
        descriptor = Descriptor.decode(self.bus.read(base + index * DESCRIPTOR_SIZE, DESCRIPTOR_SIZE))
        self.consumed = (index + 1) % count
        self.registers.set(AcceleratorRegisters.STATUS, consumed=self.consumed)
        status, length = self._perform(descriptor)
        completion = Completion(status=status, index=index, length=length)
        self.bus.write(descriptor.completion, completion.encode())
        if descriptor.flags & DescriptorFlags.INTERRUPT:
            self.bus.interrupt(self.registers.get(AcceleratorRegisters.CONTROL, "vector"))

    def _perform(self, descriptor: Descriptor) -> tuple[Outcome, int]:
        if descriptor.operation not in set(Operation):
            return Outcome.BAD_OPERATION, 0
        protected = bool(descriptor.flags & DescriptorFlags.PROTECTED)
        data = self.bus.read(descriptor.source, descriptor.length + (TAG_SIZE if protected else 0))
        if not protected:
            result = compute(descriptor, data)
            self.bus.write(descriptor.destination, result)
            return Outcome.DONE, len(result)
        if self.key is None:
            return Outcome.NO_KEY, 0
        if descriptor.sequence <= self.last_sequence:
            return Outcome.REPLAYED, 0
        self.last_sequence = descriptor.sequence
        key = AeadKey(Aead.AES_256_GCM, self.key)
        label = protected_transfer(descriptor, Direction.TO_DEVICE, descriptor.length)
        try:
            result = compute(descriptor, key.open(label.nonce, data, label.encode()))
        except AuthenticationFailed:
            return Outcome.AUTHENTICATION_FAILED, 0
        label = protected_transfer(descriptor, Direction.FROM_DEVICE, len(result))
        self.bus.write(descriptor.destination, key.seal(label.nonce, result, label.encode()))
        return Outcome.DONE, len(result)

    def scrub(self) -> None:
        """Forget everything."""
        self.registers.reset()
        self.registers.set(AcceleratorRegisters.STATUS, consumed=0, busy=0)
        self.consumed = self.produced = 0
