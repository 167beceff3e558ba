"""What lies around the TVM, small but faithful: memory, a TSM, a VMM that tests make hostile, a device.

Bytes are real: memory, configuration space (from `pcie`), evidence (from `evidence_scene`), the device's rings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from evidence_scene import Scene, mmio
from guest.fake_accelerator import Model, NoDma
from guest.fake_memory import (
    BAR0,
    BAR0_HPA,
    BAR2,
    BAR4,
    INITIAL,
    RAM,
    REPORTING_OFFSET,
    FakeProcessor,
    Page,
)
from guest.fake_tsm import FakeTsm
from guest.fake_vmm import FakeVmm, failed
from teeio.abi import HypercallResult
from teeio.abi import tdcalls as g
from teeio.abi.operands import PAGE_SIZE
from teeio.abi.statuses import HypercallError, TdcmStatus
from teeio.accelerator_interface import (
    BAR_SIZE,
    VECTORS,
)
from teeio.attestation import Expectations, Policy
from teeio.crypto.entropy import SeededEntropy
from teeio.guest.attest import Verifier
from teeio.guest.tvm import Tvm
from teeio.pcie.capabilities.bar import Bar
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.pcie.capabilities.header import Type0Header
from teeio.pcie.capabilities.msix import MsixCapability
from teeio.pcie.config_space import ConfigSpace
from teeio.tdisp.messages import InterfaceState, LockFlags, RangeAttributes


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
        for gpa in range(INITIAL.start, INITIAL.end, PAGE_SIZE):
            self.pages[gpa] = Page("mapped")
        for gpa in range(INITIAL.end, RAM.end, PAGE_SIZE):
            self.pages[gpa] = Page("pending")
        self.tvm = Tvm(
            self.tsm(),
            self.vmm(),
            FakeProcessor(self),
            SeededEntropy(b"tvm"),
            RAM,
            initial=(INITIAL,),
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
