"""The VMM as a TVM sees it; `World` lets tests make it hostile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guest.fake_memory import (
    BAR0,
    BAR2,
    FUNCTION_ID,
    REQUESTER_ID,
    Page,
)
from teeio.abi import HypercallResult
from teeio.abi import hypercalls as v
from teeio.abi import tdcalls as g
from teeio.abi.operands import ECAM, PAGE_SIZE, DevifOperation
from teeio.abi.statuses import HypercallError, TdcmStatus
from teeio.accelerator_interface import (
    BAR_SIZE,
)
from teeio.tdisp.messages import InterfaceState

if TYPE_CHECKING:
    from guest.fake_world import World


def done(values: Any = None) -> HypercallResult[Any]:
    return HypercallResult(TdcmStatus.DONE, values=values)


def failed(error: HypercallError) -> HypercallResult[Any]:
    return HypercallResult(TdcmStatus.ERROR, error)


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
            (ECAM.start + (REQUESTER_ID << 12), PAGE_SIZE, world.config),
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
