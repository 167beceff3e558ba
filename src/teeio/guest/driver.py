"""The accelerator's driver in the TVM; registers and layouts are those of its datasheet, `accelerator_interface`.

The same driver works either way: trusted (interface accepted: T=1 register accesses, buffers in private memory) or as
today (T=0 accesses, bounce pool), or as in a VM without confidentiality (T=0 accesses, buffers in shared memory).
Interrupts are hints and completions are checked; a device that answers with all ones has left RUN or is gone: the
driver stops using it, for good, and says which state the interface is in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from teeio.abi.interfaces import EptViolation
from teeio.accelerator_interface import (
    BAR_SIZE,
    COMPLETION_SIZE,
    DESCRIPTOR_SIZE,
    MAGIC,
    MAX_LENGTH,
    MAX_RING,
    REGISTER_BAR,
    WORD,
    AcceleratorRegisters,
    Completion,
    Descriptor,
    DescriptorFlags,
    Direction,
    Operation,
    Result,
    protected_transfer,
)
from teeio.attestation import RegisterWindow
from teeio.errors import AuthenticationFailed, ErrorResponse, Incompatible, Misuse, PeerViolation, TransportError
from teeio.guest.accept import AssignedInterface, Phase
from teeio.guest.cost import CostMeter
from teeio.guest.device_memory import reached
from teeio.guest.dma import DmaInterface, Label, Mapping, PoolFull
from teeio.guest.mmio import MmioWindow
from teeio.guest.pci import PciFunction
from teeio.guest.tvm import MemoryRegion, Tvm
from teeio.pcie.registers import Register
from teeio.tdisp.messages import InterfaceState
from teeio.wire import NO_FACTS

NAME = "accelerator"
TRUSTED_REGISTERS = (RegisterWindow(REGISTER_BAR, 0, BAR_SIZE // 4096),)
"""What of the device the driver trusts: the registers and the device memory behind them."""
VECTOR = 0x40
"""Processor vector of completions."""
MAX_HALTS = 1000
"""Times that the driver gives the processor away while it waits for one completion."""
ALL_ONES = 0xFFFF_FFFF


class DeviceLost(TransportError):
    """The device does not answer any more; `state` is what the TVM could learn of its interface."""

    def __init__(self, name: str, state: InterfaceState | None) -> None:
        super().__init__(
            f"{name} does not answer" + (f": its interface is in {state.name}" if state is not None else ""),
            remedy="remove the driver, unlock the interface, then lock and attest it anew",
        )
        self.state = state


@dataclass(frozen=True, slots=True)
class Job:
    """A descriptor that the device has: its place in the ring, its mappings, the bytes of its result."""

    index: int
    source: Mapping
    destination: Mapping
    result_size: int


class AcceleratorDriver:
    """The driver of one accelerator; `interface` is None for one that is used as today."""

    def __init__(
        self,
        tvm: Tvm,
        function: PciFunction,
        dma: DmaInterface,
        meter: CostMeter,
        *,
        interface: AssignedInterface | None = None,
        vector: int = VECTOR,
        ring_size: int = 64,
    ) -> None:
        if not 2 <= ring_size <= MAX_RING:
            raise Misuse(f"a ring of {ring_size} descriptors", remedy=f"use 2 to {MAX_RING}")
        self.usable = False
        self.lost = False
        self._tvm = tvm
        self._function = function
        self._dma = dma
        self._meter = meter
        self._interface = interface
        self._vector = vector
        self._ring_size = ring_size
        self._registers: MmioWindow | None = None
        self._ring: MemoryRegion | None = None
        self._completions: MemoryRegion | None = None
        self._tail = 0
        self._jobs: deque[Job] = deque()

    # -- bind and remove --------------------------------------------------------------------------------------------

    def probe(self, now: float) -> None:
        """Bind to the device and set up its rings. Raises `Misuse`, `PeerViolation`, `Incompatible`, `DeviceLost`."""
        if self._registers is not None:
            raise Misuse(f"the driver of {self._function.address} is bound already")
        if self._dma.trusted and (self._interface is None or self._interface.phase is not Phase.ACCEPTED):
            raise Misuse("private DMA without an accepted interface", remedy="bring the interface up first")
        self._registers = self._window(now)
        if self._interface is not None:
            self._interface.bind_driver(NAME)
        self.lost = False
        try:
            self._set_up(now)
        except BaseException:
            self.remove(now)
            raise
        self.usable = True

    def remove(self, now: float) -> None:
        """Stop the device, unbind, give back the rings; memory that the device does not leave alone is not reused."""
        if self._registers is None:
            return
        quiet = self._stop(now)
        regions = [region for region in (self._ring, self._completions) if region is not None]
        self._registers = self._ring = self._completions = None
        if self._interface is not None:
            self._interface.release_driver()
        for region in regions if quiet else ():
            self._dma.free(region, now)

    def _set_up(self, now: float) -> None:
        magic = self._read(AcceleratorRegisters.IDENTITY, now)
        if magic != MAGIC:
            raise PeerViolation(f"the device identifies itself as {magic:#x}, not {MAGIC:#x}", "the device's datasheet")
        capability = self._read(AcceleratorRegisters.CAPABILITY, now)
        if self._dma.session and not AcceleratorRegisters.CAPABILITY.get(capability, "protected"):
            raise Incompatible("the device has no session key", remedy="agree one, or send the data in the clear")
        if AcceleratorRegisters.CAPABILITY.get(capability, "ring_limit") < self._ring_size:
            raise Incompatible(f"the device has no rings of {self._ring_size} descriptors")
        # Compiled on first use, which is no cost of a data path.
        _ = Descriptor.codec(NO_FACTS.version).encode, Completion.codec(NO_FACTS.version).decode
        self._ring = self._dma.allocate(self._ring_size * DESCRIPTOR_SIZE, now)
        self._completions = self._dma.allocate(self._ring_size * COMPLETION_SIZE, now)
        self._write(AcceleratorRegisters.RING_LOW, now, address=(self._ring.gpa & ALL_ONES) >> 6)
        self._write(AcceleratorRegisters.RING_HIGH, now, address=self._ring.gpa >> 32)
        self._write(AcceleratorRegisters.RING_SIZE, now, count=self._ring_size)
        self._function.enable_msix(self._tvm, {0: self._vector}, now)
        self._write(AcceleratorRegisters.CONTROL, now, enable=1, vector=0)
        status = self._read(AcceleratorRegisters.STATUS, now)
        self._tail = AcceleratorRegisters.STATUS.get(status, "consumed")
        if self._tail >= self._ring_size:
            raise PeerViolation(f"the device is at descriptor {self._tail} of {self._ring_size}", "its datasheet")

    def _window(self, now: float) -> MmioWindow:
        if self._dma.trusted and self._interface is not None:
            return self._interface.window(REGISTER_BAR, 0, BAR_SIZE)
        self._function.enable(now)
        bar = self._function.need_bar(REGISTER_BAR, BAR_SIZE)
        return MmioWindow(self._tvm, bar.gpa, BAR_SIZE, trusted=False)

    # -- work -------------------------------------------------------------------------------------------------------

    def run(
        self,
        operation: Operation,
        source: int,
        length: int,
        destination: int,
        now: float,
        *,
        scale: int = 0,
        addend: int = 0,
    ) -> None:
        """Let the device compute on `length` bytes of memory at `source`, the result to `destination`.

        Both are the TVM's private memory, or shared memory for a driver on `DirectDma`.

        Returns when the result is there. Raises `DeviceLost`, `ErrorResponse` for what the device refused,
        `AuthenticationFailed` for sealed data that were changed; after any of them the driver must be removed. `Misuse`
        harms nothing.
        """
        self._expect_usable()
        wanted = Descriptor(
            operation=operation,
            length=length,
            source=source,
            destination=destination,
            completion=0,
            scale=scale,
            addend=addend,
        )
        segments = deque(self._segments(wanted))
        self._dma.expect(source, length)
        self._dma.expect(destination, operation.result_size(length))
        exits = self._tvm.exits
        with self._stopped_on_failure(now):
            while segments or self._jobs:
                self._submit(segments, now)
                self._wait(now)
        self._meter.add(payload=length + operation.result_size(length), exits=self._tvm.exits - exits)

    def _segments(self, wanted: Descriptor) -> Iterator[Descriptor]:
        """Cut work into what one descriptor and one mapping can hold."""
        limit = min(self._dma.max_segment, MAX_LENGTH) // WORD * WORD
        whole = wanted.operation is Operation.SHA256
        ragged = wanted.operation is Operation.SCALE_ADD and wanted.length % WORD
        if wanted.length <= 0 or (whole and wanted.length > limit) or ragged:
            raise Misuse(
                f"{wanted.operation.name} of {wanted.length} bytes",
                remedy=f"give whole words for SCALE_ADD, at most {limit} bytes for SHA256",
            )
        for at in range(0, wanted.length, limit):
            length = min(limit, wanted.length - at)
            yield replace(wanted, length=length, source=wanted.source + at, destination=wanted.destination + at)

    def _submit(self, segments: deque[Descriptor], now: float) -> None:
        """Give the device as much as ring and pool hold, with one doorbell."""
        rung = self._tail
        while segments and len(self._jobs) < self._ring_size - 1:
            try:
                self._enter(segments[0])
            except PoolFull:
                if not self._jobs:
                    raise
                break
            segments.popleft()
        if rung != self._tail:
            self._write(AcceleratorRegisters.DOORBELL, now, index=self._tail)

    def _enter(self, segment: Descriptor) -> None:
        """Map the buffers of a segment and write its descriptor to the ring."""
        session, index = self._dma.session, self._tail
        flags = DescriptorFlags.INTERRUPT | (DescriptorFlags.PROTECTED if session else DescriptorFlags.NONE)
        descriptor = replace(
            segment,
            flags=flags,
            sequence=session.next_sequence() if session else 0,
            completion=_need(self._completions).gpa + index * COMPLETION_SIZE,
        )
        result_size = segment.operation.result_size(segment.length)
        outward = _label(descriptor, Direction.TO_DEVICE, segment.length)
        source = self._dma.to_device(segment.source, segment.length, outward)
        try:
            inward = _label(descriptor, Direction.FROM_DEVICE, result_size)
            destination = self._dma.from_device(segment.destination, result_size, inward)
        except BaseException:
            self._dma.release(source)
            raise
        with self._meter.busy():
            flags = flags | reached(source.place, destination.place)
            placed = replace(descriptor, source=source.address, destination=destination.address, flags=flags)
            _need(self._completions).write(index * COMPLETION_SIZE, bytes(COMPLETION_SIZE))
            _need(self._ring).write(index * DESCRIPTOR_SIZE, placed.encode())
        self._meter.add(descriptors=1)
        self._jobs.append(Job(index, source, destination, result_size))
        self._tail = (index + 1) % self._ring_size

    def _wait(self, now: float) -> None:
        """Wait until at least one job is done."""
        for _ in range(MAX_HALTS):
            if self._tvm.interrupts.take(self._vector):
                self._meter.add(interrupts=1)
                if self._reap():
                    return
            self._meter.add(halts=1)
            self._tvm.halt()
        if self._reap():
            return  # the VMM kept the interrupt to itself
        self._check_alive(now)
        raise TransportError(
            f"{self._function.address} does not complete its work", remedy="remove the driver and reset the device"
        )

    def _reap(self) -> bool:
        """Finish the jobs that are done; tell whether there were any."""
        found = False
        while self._jobs:
            job = self._jobs[0]
            with self._meter.busy():
                # One read: what is in shared memory can change between two.
                completion = Completion.decode(
                    _need(self._completions).read(job.index * COMPLETION_SIZE, COMPLETION_SIZE)
                )
            if completion.status == Result.PENDING:
                break
            self._judge(job, completion)
            self._jobs.popleft()
            self._dma.release(job.source)
            self._dma.finish(job.destination)
            found = True
        return found

    def _judge(self, job: Job, completion: Completion) -> None:
        if completion.status == Result.AUTHENTICATION_FAILED:
            raise AuthenticationFailed("the device could not open the source: somebody changed it on its way")
        if completion.status != Result.DONE:
            name = Result(completion.status).name if completion.status in set(Result) else hex(completion.status)
            raise ErrorResponse(f"the accelerator answers {name}", completion.status)
        if (completion.index, completion.length) != (job.index, job.result_size):
            raise PeerViolation(f"descriptor {job.index} has the completion {completion}", "the device's datasheet")

    # -- a device that is gone --------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Look whether the device still answers. Raises `DeviceLost`, `ErrorResponse` if it has stopped."""
        self._expect_usable()
        self._check_alive(now)

    def _check_alive(self, now: float) -> None:
        self._read(AcceleratorRegisters.STATUS, now)
        error = self._read(AcceleratorRegisters.ERROR, now)
        if error:
            code = AcceleratorRegisters.ERROR.get(error, "code")
            name = Result(code).name if code in set(Result) else hex(code)
            raise ErrorResponse(f"the accelerator has stopped: {name}", code)

    def _read(self, register: Register, now: float) -> int:
        """Read a register; no register of this device is ever all ones."""
        try:
            value = self._bound.read_register(register, now)
        except EptViolation:
            value = ALL_ONES
        if value == ALL_ONES:
            raise self._lose(now)
        return value

    def _write(self, register: Register, now: float, **fields: int) -> None:
        try:
            self._bound.write_register(register, now, **fields)
        except EptViolation:
            raise self._lose(now) from None

    @property
    def _bound(self) -> MmioWindow:
        if self._registers is None:
            raise Misuse("the driver is not bound", remedy="probe first")
        return self._registers

    def _lose(self, now: float) -> DeviceLost:
        self.lost, self.usable = True, False
        state = self._interface.check(now) if self._interface is not None and self._dma.trusted else None
        return DeviceLost(str(self._function.address), state)

    @contextmanager
    def _stopped_on_failure(self, now: float) -> Iterator[None]:
        """Let the device do no more with buffers that their owner gets back."""
        try:
            yield
        except BaseException:
            self._stop(now)
            raise

    def _stop(self, now: float) -> bool:
        """Disable the device and forget its jobs; tell whether it leaves memory alone from now on."""
        self.usable = False
        quiet = self.lost
        try:
            if not self.lost:
                self._write(AcceleratorRegisters.CONTROL, now)
                quiet = self._wait_idle(now)
        except DeviceLost:
            quiet = True  # neither can it reach anything
        while quiet and self._jobs:
            job = self._jobs.popleft()
            self._dma.release(job.source)
            self._dma.release(job.destination)
        return quiet

    def _wait_idle(self, now: float) -> bool:
        for _ in range(MAX_HALTS):
            if not AcceleratorRegisters.STATUS.get(self._read(AcceleratorRegisters.STATUS, now), "busy"):
                return True
            self._tvm.halt()
        return False

    def _expect_usable(self) -> None:
        if not self.usable:
            raise Misuse("the driver is not bound to a working device", remedy="probe, after remove if need be")


def _label(descriptor: Descriptor, direction: Direction, length: int) -> Label:
    transfer = protected_transfer(descriptor, direction, length)
    return Label(transfer.nonce, transfer.encode())


def _need(region: MemoryRegion | None) -> MemoryRegion:
    if region is None:
        raise Misuse("the driver has no rings", remedy="probe first")
    return region
