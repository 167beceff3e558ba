"""The accelerator as its datasheet, `accelerator_interface`, describes it: the model of one function.

A doorbell only accepts work; `work` does it, so that nothing happens inside a register access. The key of protected
transfers comes from outside. Left out: how that key is agreed.
"""

from __future__ import annotations

from teeio.accelerator_interface import (
    BAR_SIZE,
    DESCRIPTOR_SIZE,
    MAX_LENGTH,
    MAX_RING,
    MEMORY_OFFSET,
    MEMORY_SIZE,
    REGISTER_BAR,
    SESSION_KEY_SIZE,
    TELEMETRY_BAR,
    VECTORS,
    WORD,
    AcceleratorInformation,
    AcceleratorRegisters,
    Completion,
    Descriptor,
    DescriptorFlags,
    Direction,
    Operation,
    Result,
    Telemetry,
    compute,
    protected_transfer,
)
from teeio.crypto.aead import TAG_SIZE, AeadKey
from teeio.crypto.algorithms import Aead
from teeio.device.models.model import Bus, DmaError, Region
from teeio.errors import AuthenticationFailed, Misuse
from teeio.pcie.capabilities.bar import Bar
from teeio.pcie.registers import Register
from teeio.tdisp.messages import RangeAttributes


class _Refused(Exception):
    """A descriptor that is answered with an error."""

    def __init__(self, status: Result) -> None:
        super().__init__(status.name)
        self.status = status


class Accelerator:
    """The model of one function."""

    bars = (
        Bar(REGISTER_BAR, BAR_SIZE, prefetchable=True),
        Bar(TELEMETRY_BAR, MEMORY_OFFSET, prefetchable=True),
    )
    regions = (
        Region("registers", REGISTER_BAR, 0, MEMORY_OFFSET),
        Region("device memory", REGISTER_BAR, MEMORY_OFFSET, MEMORY_SIZE, RangeAttributes.IS_MEM_ATTR_UPDATABLE),
        Region("telemetry", TELEMETRY_BAR, 0, MEMORY_OFFSET, RangeAttributes.IS_NON_TEE_MEM),
    )
    vectors = VECTORS

    def __init__(self) -> None:
        self.registers = AcceleratorRegisters()
        self.telemetry = Telemetry()
        self.memory = bytearray(MEMORY_SIZE)
        self._bus: Bus | None = None
        self._key: AeadKey | None = None
        self.opened = self.sealed = 0
        """Bytes of payload that its cipher has opened and sealed, ever: for whoever counts what data paths cost."""
        self._sequence = 0
        self._ring = (0, 1)
        self._consumed = self._produced = 0
        self._aborted = False
        self.registers.watch(AcceleratorRegisters.DOORBELL, self._rung)
        self.registers.watch(AcceleratorRegisters.CONTROL, self._controlled)

    def attach(self, bus: Bus) -> None:
        """Take the way to memory and interrupts."""
        self._bus = bus

    def describe(self) -> bytes:
        """Give the device specific part of the interface report: an `AcceleratorInformation`."""
        return AcceleratorInformation().encode()

    def use_session_key(self, key: bytes) -> None:
        """Take a fresh key for protected transfers, 32 bytes; one used before would let sequence numbers come twice."""
        if len(key) != SESSION_KEY_SIZE:
            raise Misuse(f"a session key has {SESSION_KEY_SIZE} bytes, not {len(key)}")
        self._key, self._sequence = AeadKey(Aead.AES_256_GCM, key), 0
        self.registers.set(AcceleratorRegisters.CAPABILITY, protected=1)

    # -- BARs

    def read(self, bar: int, offset: int, size: int) -> bytes:
        """Answer a read: registers, device memory, or counters."""
        if bar == TELEMETRY_BAR:
            return self.telemetry.read(offset, size).to_bytes(size, "little")
        page = (self.registers.read(offset, size) if offset < MEMORY_OFFSET else 0).to_bytes(size, "little")
        stored = bytes(self.memory[max(offset - MEMORY_OFFSET, 0) : max(offset + size - MEMORY_OFFSET, 0)])
        return page[: size - len(stored)] + stored

    def write(self, bar: int, offset: int, data: bytes) -> None:
        """Take a write to registers or device memory; counters cannot be written."""
        if bar != REGISTER_BAR:
            return
        head = data[: max(MEMORY_OFFSET - offset, 0)]
        if head:
            self.registers.write(offset, len(head), int.from_bytes(head, "little"))
        rest = data[len(head) :]
        if rest:
            start = offset + len(head) - MEMORY_OFFSET
            self.memory[start : start + len(rest)] = rest

    def _controlled(self, register: Register, old: int, new: int) -> None:
        if not register.get(new, "enable"):
            self.abort()
        elif not register.get(old, "enable"):
            # Whoever had the ring before leaves nothing behind that would stop or mislead the next one.
            self._consumed = self._produced = 0
            self.registers.set(AcceleratorRegisters.STATUS, consumed=0, busy=0)
            self.registers.set(AcceleratorRegisters.ERROR, code=0)

    def _rung(self, register: Register, old: int, new: int) -> None:
        r = self.registers
        base, count = r.ring
        index = register.get(new, "index")
        if not r.get(r.CONTROL, "enable") or count > MAX_RING or max(index, self._consumed) >= count:
            self._stop(Result.BAD_RING)
            return
        # What the ring was when the doorbell rang holds until it rings again.
        self._ring, self._produced = (base, count), index
        r.set(r.STATUS, busy=int(self._consumed != self._produced))

    # -- work

    def work(self) -> bool:
        """Do the descriptors that wait, up to a whole ring, unless DMA fails; False if there was none."""
        if self._bus is None or self._consumed == self._produced:
            return False
        self._aborted = False
        try:
            for _ in range(MAX_RING):
                if self._consumed == self._produced:
                    break
                self._step(self._bus)
        except DmaError:
            if not self._aborted:
                self._stop(Result.DMA_FAILED)
        return True

    def _read(self, bus: Bus, address: int, size: int) -> bytes:
        """Read memory. Raises `DmaError`, also if the work was aborted while the request was on its way."""
        data = bus.read(address, size)
        if self._aborted:
            raise DmaError("the work was aborted")
        return data

    def _write(self, bus: Bus, address: int, data: bytes) -> None:
        """Write memory. Raises `DmaError`, as `_read` does."""
        bus.write(address, data)
        if self._aborted:
            raise DmaError("the work was aborted")

    def _step(self, bus: Bus) -> None:
        """Do one descriptor."""
        base, count = self._ring
        index = self._consumed
        descriptor = Descriptor.decode(self._read(bus, base + index * DESCRIPTOR_SIZE, DESCRIPTOR_SIZE))
        self._consumed = (index + 1) % count
        try:
            status, length = Result.DONE, self._perform(bus, descriptor)
        except _Refused as refused:
            status, length = refused.status, 0
        self.telemetry.count(Telemetry.DESCRIPTORS if status is Result.DONE else Telemetry.FAILURES)
        entry = Completion(status=status, index=index, length=length)
        self._write(bus, descriptor.completion, entry.encode())
        r = self.registers
        r.set(r.STATUS, consumed=self._consumed, busy=int(self._consumed != self._produced))
        if descriptor.flags & DescriptorFlags.INTERRUPT:
            bus.interrupt(r.get(r.CONTROL, "vector"))

    def _perform(self, bus: Bus, descriptor: Descriptor) -> int:
        """Read, compute and write; give the bytes of the result. Raises `_Refused`."""
        if not isinstance(descriptor.operation, Operation):
            raise _Refused(Result.BAD_OPERATION)
        ragged = descriptor.operation is Operation.SCALE_ADD and descriptor.length % WORD
        if not 0 < descriptor.length <= MAX_LENGTH or ragged:
            raise _Refused(Result.BAD_LENGTH)
        if descriptor.flags & DescriptorFlags.PROTECTED:
            return self._perform_protected(bus, descriptor)
        result = compute(descriptor, self._fetch(bus, descriptor, descriptor.length))
        self._store(bus, descriptor, result)
        return len(result)

    def _perform_protected(self, bus: Bus, descriptor: Descriptor) -> int:
        key = self._key
        if key is None:
            raise _Refused(Result.NO_KEY)
        if descriptor.sequence <= self._sequence:
            raise _Refused(Result.REPLAYED)
        local = bool(descriptor.flags & DescriptorFlags.LOCAL_SOURCE)
        data = self._fetch(bus, descriptor, descriptor.length + (0 if local else TAG_SIZE))
        inward = protected_transfer(descriptor, Direction.TO_DEVICE, descriptor.length)
        try:
            data = data if local else key.open(inward.nonce, data, inward.encode())
            self.opened += 0 if local else len(data)
        except AuthenticationFailed:
            raise _Refused(Result.AUTHENTICATION_FAILED) from None
        # Used up before the result is sealed: whatever happens now, its nonce cannot come again.
        self._sequence = descriptor.sequence
        result = compute(descriptor, data)
        outward = protected_transfer(descriptor, Direction.FROM_DEVICE, len(result))
        local = bool(descriptor.flags & DescriptorFlags.LOCAL_DESTINATION)
        self._store(bus, descriptor, result if local else key.seal(outward.nonce, result, outward.encode()))
        self.sealed += 0 if local else len(result)
        return len(result)

    def _fetch(self, bus: Bus, descriptor: Descriptor, size: int) -> bytes:
        """Read the source: device memory, a peer's memory by translated address, or memory."""
        if descriptor.flags & DescriptorFlags.LOCAL_SOURCE:
            return bytes(self.memory[self._local(descriptor.source, size)])
        if descriptor.flags & DescriptorFlags.TRANSLATED_SOURCE:
            bus.translate(descriptor.source, size, write=False)
        return self._read(bus, descriptor.source, size)

    def _store(self, bus: Bus, descriptor: Descriptor, data: bytes) -> None:
        """Write the result, as `_fetch` reads the source."""
        if descriptor.flags & DescriptorFlags.LOCAL_DESTINATION:
            self.memory[self._local(descriptor.destination, len(data))] = data
            return
        if descriptor.flags & DescriptorFlags.TRANSLATED_DESTINATION:
            bus.translate(descriptor.destination, len(data), write=True)
        self._write(bus, descriptor.destination, data)

    def _local(self, offset: int, size: int) -> slice:
        if offset + size > len(self.memory):
            raise _Refused(Result.BAD_LENGTH)
        return slice(offset, offset + size)

    def _stop(self, why: Result) -> None:
        """Drop what waits and say why."""
        self.abort()
        self.registers.set(AcceleratorRegisters.ERROR, code=why)

    def abort(self) -> None:
        """Drop accepted work."""
        self._aborted = True
        self._produced = self._consumed
        self.registers.set(AcceleratorRegisters.STATUS, consumed=self._consumed, busy=0)

    def scrub(self) -> None:
        """Forget everything: the ring's address, all data, the session key, and how far the ring was read."""
        self.abort()
        self.registers.reset()
        self.registers.set(AcceleratorRegisters.STATUS, consumed=0)
        self.registers.set(AcceleratorRegisters.CAPABILITY, protected=0)
        self.memory[:] = bytes(MEMORY_SIZE)
        self._key, self._sequence = None, 0
        self._ring = (0, 1)
        self._consumed = self._produced = 0
