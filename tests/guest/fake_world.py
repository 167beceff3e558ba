"""What lies around the TVM, small but faithful: pages with secure EPT states, a TSM, a VMM that tests make hostile, a device.

Bytes are real: memory, configuration space (from `pcie`), evidence (from `evidence_scene`), the device's rings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from evidence_scene import SHA_384, Scene, mmio
from teeio.abi import EptViolation, HypercallResult, Result
from teeio.abi import hypercalls as v
from teeio.abi import tdcalls as g
from teeio.abi.operands import GPA_SHARED_BIT, PAGE_SIZE, AddressRange, DevifOperation
from teeio.abi.statuses import HypercallError, Status, TdcmStatus
from teeio.accelerator_interface import (
    BAR_SIZE,
    DESCRIPTOR_SIZE,
    MEMORY_OFFSET,
    TAG_SIZE,
    VECTORS,
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
from teeio.attestation import Expectations, Policy
from teeio.crypto.aead import AeadKey
from teeio.crypto.algorithms import Aead
from teeio.crypto.certificates import leaf_public_key
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.kdf import digest
from teeio.crypto.keys import public_key_der
from teeio.errors import AuthenticationFailed
from teeio.guest.attest import Verifier
from teeio.guest.tvm import Tvm
from teeio.pcie.capabilities.bar import Bar
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.pcie.capabilities.header import Type0Header
from teeio.pcie.capabilities.msix import MsixCapability
from teeio.pcie.config_space import ConfigSpace
from teeio.pcie.registers import Register
from teeio.tdisp.messages import InterfaceState, LockFlags, RangeAttributes

RAM = AddressRange(0x10_0000, 0x90_0000)
INITIAL = AddressRange(0x10_0000, 0x11_0000)
ECAM = 0xE000_0000
REQUESTER_ID = 3 << 3
FUNCTION_ID = 0x0108
BAR0, BAR2, BAR4 = 0x10_0000_0000, 0x10_0010_0000, 0x10_0020_0000
BAR0_HPA = 0x38_0004_0000
REPORTING_OFFSET = -0x10_0000_0000 + 0x7000
SESSION_KEY = bytes(range(32))
SHARED = GPA_SHARED_BIT


class NoDma(Exception):
    """The device's request did not get through."""


@dataclass
class Page:
    """A page of guest memory or MMIO: `mmio` is its page of BAR 0."""

    state: str
    data: bytearray = field(default_factory=lambda: bytearray(PAGE_SIZE))
    mmio: int = 0


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


def done(values: Any = None) -> HypercallResult[Any]:
    return HypercallResult(TdcmStatus.DONE, values=values)


def failed(error: HypercallError) -> HypercallResult[Any]:
    return HypercallResult(TdcmStatus.ERROR, error)


class World:
    """The state that TSM, VMM, processor and device share, and what tests change.

    `before` holds what the VMM does just before it serves a call, by the call's method name; `carry` what it does to
    evidence in transit, by the name of the object.
    """

    def __init__(self, model: Any = None) -> None:
        self.pages: dict[int, Page] = {}
        self.shared: dict[int, bytearray] = {}
        self.config = self._config_space()
        self.msix = self.config.need(MsixCapability)
        self.model = model or Model()
        self.model.attach(self)
        self.state = InterfaceState.CONFIG_UNLOCKED
        self.bind_session_id = 0
        self.locks = 0
        self.flags = LockFlags.NO_FW_UPDATE
        self.validated = self.dmar = self.allowed = False
        self.request: g.TdgDevifRequest | None = None
        self.answer: g.DevifAnswer | None = None
        self.scene = Scene()
        self.objects: dict[str, bytes] = {}
        self.ranges: tuple[Any, ...] = (
            mmio(0, self.reported(0), 1),
            mmio(0, self.reported(0) + 1, 15, RangeAttributes.IS_MEM_ATTR_UPDATABLE),
            mmio(2, 0x9000, 2, RangeAttributes.IS_NON_TEE_MEM),
            mmio(4, 0x9002, 1, RangeAttributes.IS_NON_TEE_MEM),
        )
        self.before: dict[str, Callable[[], None]] = {}
        self.carry: dict[str, Callable[[bytes], bytes]] = {}
        self.refuse: set[str] = set()
        self.waits: dict[str, int] = defaultdict(int)
        self.calls: list[str] = []
        self.huge: set[int] = set()
        self.shift = 0
        self.direct_mmio = False
        self.interrupts_reach = True
        self.dma_log: list[tuple[str, int, bytes]] = []
        for gpa in range(INITIAL.base, INITIAL.limit, PAGE_SIZE):
            self.pages[gpa] = Page("mapped")
        for gpa in range(INITIAL.limit, RAM.limit, PAGE_SIZE):
            self.pages[gpa] = Page("pending")
        self.tvm = Tvm(
            self.tsm(),
            self.vmm(),
            FakeProcessor(self),
            SeededEntropy(b"tvm"),
            RAM,
            initial=(INITIAL,),
            ecam=ECAM,
            halt=self.halt,
        )

    @staticmethod
    def reported(bar_page: int) -> int:
        return (BAR0_HPA + REPORTING_OFFSET) // PAGE_SIZE + bar_page

    @staticmethod
    def _config_space() -> ConfigSpace:
        bars = [Bar(0, BAR_SIZE, prefetchable=True), Bar(2, 2 * PAGE_SIZE), Bar(4, PAGE_SIZE)]
        header = Type0Header(0x7EE0, 0x10A0, 0x120000, bars)
        space = ConfigSpace(header, [ExpressCapability(tee_io=True), MsixCapability(VECTORS, 2, 0, PAGE_SIZE)])
        for number, gpa in ((0, BAR0), (2, BAR2), (4, BAR4)):
            space.write(0x10 + 4 * number, 4, gpa & 0xFFFF_FFFF)
            space.write(0x14 + 4 * number, 4, gpa >> 32)
        return space

    def tsm(self) -> FakeTsm:
        return FakeTsm(self)

    def vmm(self) -> FakeVmm:
        return FakeVmm(self)

    def verifier(self, **changes: Any) -> Verifier:
        expected = {**self.scene.expected(), "mapped": None, "registers": None, "bind_session_id": 0, **changes}
        return Verifier(Policy(), self.scene.reference, Expectations(**expected))

    def halt(self) -> None:
        self.model.work()

    def hooked(self, name: str, served: Callable[..., Any]) -> Callable[..., Any]:
        """Let the VMM do at a call what the test wants it to do."""

        def call(*operands: Any) -> Any:
            self.calls.append(name)
            if self.waits[name] > 0:
                self.waits[name] -= 1
                return HypercallResult(TdcmStatus.WAIT)
            if action := self.before.pop(name, None):
                action()
            return failed(HypercallError.MODULE) if name in self.refuse else served(*operands)

        return call

    # -- the device's way to memory, as the T bit of its TDI's state has it

    def _cells(self, address: int, size: int) -> Iterable[tuple[bytearray, int, int]]:
        while size:
            page, offset = address & -PAGE_SIZE, address % PAGE_SIZE
            part = min(size, PAGE_SIZE - offset)
            if self.state is InterfaceState.RUN and self.dmar:
                found = self.pages.get(page)
                cell = found.data if found and found.state == "mapped" else None
            elif self.state is InterfaceState.CONFIG_UNLOCKED:
                cell = self.shared.get(page)
            else:
                cell = None
            if cell is None:
                raise NoDma(hex(address))
            yield cell, offset, part
            address, size = address + part, size - part

    def read(self, address: int, size: int) -> bytes:
        data = b"".join(bytes(cell[at : at + part]) for cell, at, part in self._cells(address, size))
        self.dma_log.append(("read", address, data))
        return data

    def write(self, address: int, data: bytes) -> None:
        self.dma_log.append(("write", address, data))
        done = 0
        for cell, at, part in self._cells(address, len(data)):
            cell[at : at + part] = data[done : done + part]
            done += part

    def interrupt(self, vector: int) -> None:
        message = self.msix.raise_vector(vector)
        if message is not None and self.interrupts_reach:
            self.tvm.interrupts.deliver(message.data & 0xFF)

    # -- what happens to the interface

    def lock(self) -> None:
        self.locks += 1
        self.bind_session_id = 0x5500 + self.locks
        self.state = InterfaceState.CONFIG_LOCKED
        self.validated = self.dmar = self.allowed = False
        for page in range(BAR_SIZE // PAGE_SIZE):
            self.pages[BAR0 + page * PAGE_SIZE] = Page("mmio pending", mmio=(page + self.shift) % 16)

    def stop(self) -> None:
        self.state, self.bind_session_id = InterfaceState.CONFIG_UNLOCKED, 0
        self.objects = {}
        self.validated = self.dmar = self.allowed = False
        self.pages = {gpa: page for gpa, page in self.pages.items() if "mmio" not in page.state}
        self.model.scrub()

    def fail(self) -> None:
        """Somebody moved a BAR of the locked device."""
        self.state, self.bind_session_id = InterfaceState.ERROR, 0
        self.model.scrub()

    def mmio_access(self, t_bit: bool) -> bool:
        """Tell whether the device handles a memory request to its BAR 0."""
        if t_bit:
            return self.state is InterfaceState.RUN
        return self.state is InterfaceState.CONFIG_UNLOCKED


class FakeProcessor:
    """Loads and stores by the state of each page."""

    def __init__(self, world: World) -> None:
        self.world = world

    def load(self, gpa: int, size: int) -> bytes:
        found = b""
        while len(found) < size:
            at = gpa + len(found)
            found += self._page(at, min(size - len(found), PAGE_SIZE - at % PAGE_SIZE), None)
        return found

    def store(self, gpa: int, data: bytes) -> None:
        written = 0
        while written < len(data):
            at = gpa + written
            part = data[written : written + PAGE_SIZE - at % PAGE_SIZE]
            self._page(at, len(part), part)
            written += len(part)

    def _page(self, gpa: int, size: int, data: bytes | None) -> bytes:
        world, page, offset = self.world, gpa & -PAGE_SIZE, gpa % PAGE_SIZE
        if gpa & SHARED:
            if world.direct_mmio and BAR0 <= page - SHARED < BAR0 + BAR_SIZE:
                return self._mmio(page - SHARED - BAR0 + offset, size, data, t_bit=False)
            cell = world.shared.get(page - SHARED)
            if cell is None:
                raise EptViolation(gpa, "nothing is mapped")
        else:
            found = world.pages.get(page)
            if found is None or "pending" in found.state:
                raise EptViolation(gpa, found.state if found else "nothing is mapped")
            if found.state == "mmio mapped":
                return self._mmio(found.mmio * PAGE_SIZE + offset, size, data, t_bit=True)
            cell = found.data
        if data is None:
            return bytes(cell[offset : offset + size])
        cell[offset : offset + size] = data
        return b""

    def _mmio(self, offset: int, size: int, data: bytes | None, t_bit: bool) -> bytes:
        answers = self.world.mmio_access(t_bit)
        if data is None:
            return self.world.model.read(0, offset, size) if answers else b"\xff" * size
        if answers:
            self.world.model.write(0, offset, data)
        return b""


class FakeTsm:
    """TDCALLs."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        return object.__getattribute__(self, "world").hooked(name, found) if name.startswith("tdg_") else found

    def tdg_mem_page_accept(self, call: g.TdgMemPageAccept) -> Result[None]:
        huge = call.gpa & -call.level.PAGE_2M.size in self.world.huge
        if bool(call.level) != huge:
            return Result(Status.PAGE_SIZE_MISMATCH)
        if huge:
            for gpa in range(call.gpa, call.gpa + call.level.size, PAGE_SIZE):
                self.world.pages[gpa].state = "mapped"
            return Result(Status.SUCCESS)
        page = self.world.pages.get(call.gpa)
        if page is None:
            return Result(Status.EPT_WALK_FAILED)
        if page.state == "mapped":
            return Result(Status.PAGE_ALREADY_ACCEPTED)
        page.state = "mapped"
        return Result(Status.SUCCESS)

    def tdg_devif_read(self, call: g.TdgDevifRead) -> Result[g.DevifInfo]:
        world = self.world
        if call.function_id != FUNCTION_ID:
            return Result(Status.TDI_NOT_PRESENT)
        assert world.scene.identity is not None
        digests = {f"{name}_digest": digest(SHA_384, data) for name, data in world.objects.items()}
        info = g.DevifInfo(
            state=world.state,
            bind_session_id=world.bind_session_id,
            stream_id=1,
            lock_flags=world.flags,
            mmio_reporting_offset=REPORTING_OFFSET,
            validated=world.validated,
            generation=0,
            public_key_hash=self.key_hash(),
            **{f"{name}_digest": b"" for name in ("certificate_chain", "vca", "measurements", "report")} | digests,
        )
        return Result(Status.SUCCESS, info)

    def key_hash(self) -> bytes:
        assert self.world.scene.identity is not None
        return digest(SHA_384, public_key_der(leaf_public_key(self.world.scene.identity.leaf)))

    def tdg_devif_validate(self, call: g.TdgDevifValidate) -> Result[None]:
        if problem := self._lock(call.bind_session_id):
            return problem
        if call.public_key_hash != self.key_hash():
            return Result(Status.DEVIF_PUBLIC_KEY_MISMATCH)
        self.world.validated = True
        return Result(Status.SUCCESS)

    def tdg_devif_request(self, call: g.TdgDevifRequest) -> Result[None]:
        if problem := self._lock(call.bind_session_id):
            return problem
        self.world.request, self.world.answer = call, None
        return Result(Status.SUCCESS)

    def tdg_devif_response(self, call: g.TdgDevifResponse) -> Result[g.DevifAnswer]:
        if self.world.answer is None:
            return Result(Status.DEVIF_TDISP_INVALID_REQ_STS)
        return Result(Status.SUCCESS, self.world.answer)

    def tdg_mmio_accept(self, call: g.TdgMmioAccept) -> Result[None]:
        if problem := self._lock(call.bind_session_id):
            return problem
        part = self.world.ranges[call.range_index]
        first = part.first_page - World.reported(0) + call.page_offset
        pages = [self.world.pages.get(call.gpa + at * PAGE_SIZE) for at in range(call.count)]
        if any(page is None or page.state != "mmio pending" for page in pages):
            return Result(Status.EPT_ENTRY_STATE_INCORRECT)
        if [page.mmio for page in pages if page] != list(range(first, first + call.count)):
            return Result(Status.MMIO_REPORT_MISMATCH)
        for page in pages:
            assert page is not None
            page.state = "mmio mapped"
        return Result(Status.SUCCESS)

    def tdg_dmar_accept(self, call: g.TdgDmarAccept) -> Result[None]:
        if problem := self._lock(call.bind_session_id):
            return problem
        self.world.dmar = True
        return Result(Status.SUCCESS)

    def tdg_tdi_start(self, call: g.TdgTdiStart) -> Result[None]:
        if problem := self._lock(call.bind_session_id):
            return problem
        if not self.world.validated:
            return Result(Status.DEVIF_NOT_VALIDATED)
        self.world.allowed = True
        return Result(Status.SUCCESS)

    def _lock(self, bind_session_id: int) -> Result[Any] | None:
        world = self.world
        # The TSM learns of ERROR only by asking, so it still takes the old lock for good here.
        if world.state is InterfaceState.ERROR:
            return None
        return None if bind_session_id == world.bind_session_id else Result(Status.DEVIF_BIND_SESSION_MISMATCH)


class FakeVmm:
    """Hypercalls."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        return object.__getattribute__(self, "world").hooked(name, found) if name.startswith("td") else found

    def tdvmcall_map_gpa(self, call: v.TdvmcallMapGpa, now: float) -> HypercallResult[None]:
        for gpa in range(call.gpa, call.gpa + call.size, PAGE_SIZE):
            if call.shared:
                del self.world.pages[gpa]
                self.world.shared[gpa] = bytearray(PAGE_SIZE)
            else:
                del self.world.shared[gpa]
                self.world.pages[gpa] = Page("pending")
        return done()

    def tdvmcall_request_mmio(self, call: v.TdvmcallRequestMmio, now: float) -> HypercallResult[v.MmioValue]:
        world, gpa = self.world, call.gpa
        for base, size, access in (
            (ECAM + (REQUESTER_ID << 12), PAGE_SIZE, world.config),
            (BAR2, PAGE_SIZE, world.msix.table),
            (BAR0, BAR_SIZE, UntrustedBar(world)),
        ):
            if base <= gpa < base + size:
                if call.value is None:
                    return done(v.MmioValue(access.read(gpa - base, call.size)))
                access.write(gpa - base, call.size, call.value)
                return done(v.MmioValue(0))
        return done(v.MmioValue((1 << 8 * call.size) - 1 if call.value is None else 0))

    def tdcm_check_teeio_supp(self, call: v.TdcmCheckTeeioSupp) -> HypercallResult[v.TdiSupport]:
        return done(v.TdiSupport(FUNCTION_ID)) if call.requester_id == REQUESTER_ID else failed(HypercallError.DEVICE)

    def tdcm_bind(self, call: v.TdcmBind, now: float) -> HypercallResult[None]:
        self.world.lock()
        return done()

    def tdcm_get_dev_info(self, call: v.TdcmGetDevInfo, now: float) -> HypercallResult[v.DeviceInfo]:
        self._finish(DevifOperation.MEASUREMENTS)
        return done(v.DeviceInfo(*(self._carried(name) for name in ("certificate_chain", "vca", "measurements"))))

    def tdcm_get_tdi_report(self, call: v.TdcmGetTdiReport, now: float) -> HypercallResult[v.TdiReport]:
        self._finish(DevifOperation.REPORT)
        return done(v.TdiReport(self._carried("report")))

    def tdcm_start_tdi(self, call: v.TdcmStartTdi, now: float) -> HypercallResult[None]:
        if not self.world.allowed:
            return failed(HypercallError.INVALID_STATE)
        self.world.state = InterfaceState.RUN
        return done()

    def tdcm_get_tdi_state(self, call: v.TdcmGetTdiState, now: float) -> HypercallResult[v.TdiState]:
        self._finish(DevifOperation.STATE)
        return done(v.TdiState(InterfaceState.RUN))  # the VMM's word, and a lie at times

    def tdcm_unbind(self, call: v.TdcmUnbind, now: float) -> HypercallResult[None]:
        self.world.stop()
        return done()

    def _finish(self, operation: DevifOperation) -> None:
        """Drive what the TVM asked the TSM for: the device makes its evidence, the TSM takes digests."""
        world = self.world
        if world.request is None or world.request.operation is not operation:
            return
        if operation is DevifOperation.REPORT:
            world.scene.report["ranges"] = world.ranges
            world.objects["report"] = world.scene.interface_report()
        elif operation is DevifOperation.MEASUREMENTS:
            assert world.scene.identity is not None
            world.scene.nonce = world.request.nonce
            vca = world.scene.vca()
            measurements = world.scene.measurements(vca)
            chain = world.scene.identity.chain
            world.objects |= {"certificate_chain": chain, "vca": vca, "measurements": measurements}
        world.answer = g.DevifAnswer(operation, world.state, world.bind_session_id, b"")
        world.request = None

    def _carried(self, name: str) -> bytes:
        data = self.world.objects.get(name, b"")
        return self.world.carry.get(name, bytes)(data)


class UntrustedBar:
    """BAR 0 as T=0 accesses of the VMM reach it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def read(self, offset: int, size: int) -> int:
        if not self.world.mmio_access(t_bit=False):
            return (1 << 8 * size) - 1
        return int.from_bytes(self.world.model.read(0, offset, size), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        if self.world.mmio_access(t_bit=False):
            self.world.model.write(0, offset, value.to_bytes(size, "little"))
