"""What a TVM's hypercalls bring about: the VMM's `TvmToVmm` (declared in `abi.hypercalls`).

TDCM operations drive `pci_tsm`; the guest's configuration space and MSI-X table are emulated. Every call is answered at
once, so none gives WAIT. Nothing that a guest passes makes a call raise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from teeio.abi import CALLS, CallRefused, HypercallResult
from teeio.abi import hypercalls as v
from teeio.abi import peer_calls as p
from teeio.abi.operands import ECAM, GPA_SHARED_BIT, DevifOperation, LockParameters
from teeio.abi.statuses import HypercallError, Status, TdcmStatus
from teeio.errors import Busy, Misuse, TeeioError, TransportError
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.guest_function import guest_shift
from teeio.host.vmm.kvm import GuestMachine, Kvm
from teeio.host.vmm.pci_tsm import Binding, PciTsm
from teeio.host.vmm.peers import enable_ats
from teeio.observe import BoundaryCalled, Observer, Refused, heard, ignore
from teeio.pcie.address import Bdf
from teeio.pcie.config_space import all_ones
from teeio.tdisp.messages import DeviceInterfaceReport, LockFlags, RangeAttributes

H = TypeVar("H", bound="Hypercalls")
C = TypeVar("C")
V = TypeVar("V")

_NAMES = {row.method: (row.caller.value, row.callee.value, row.name) for row in CALLS.values()}
"""Who calls whom, and the call's name, by the method that answers it."""
WIDTHS = (1, 2, 4, 8)

_ERRORS = {
    Status.SPDM_FAILED: HypercallError.SPDM,
    Status.SPDM_SESSION_NOT_PRESENT: HypercallError.SPDM,
    Status.IDE_KM_FAILED: HypercallError.IDE_KM,
    Status.IDE_STREAM_BLOCKED: HypercallError.INVALID_STATE,
    Status.IDE_STREAM_NOT_READY: HypercallError.INVALID_STATE,
    Status.IDE_STREAM_NEEDS_NEW_KEYS: HypercallError.INVALID_STATE,
    Status.DEVIF_TDISP_INVALID_STATE: HypercallError.INVALID_STATE,
    Status.DEVIF_TDISP_ERROR_STATE: HypercallError.INVALID_STATE,
    Status.DEVIF_TDISP_INVALID_REQ_STS: HypercallError.INVALID_STATE,
    Status.DEVIF_TDISP_FAILED: HypercallError.TDISP,
    Status.DEVIF_REPORT_UNACCEPTABLE: HypercallError.TDISP,
}
"""What a refusal of the TSM is to the guest; all others are MODULE."""


def _error(status: Status | HypercallError) -> HypercallError:
    return status if isinstance(status, HypercallError) else _ERRORS.get(status, HypercallError.MODULE)


class _Invalid(Exception):
    """An operand that makes no sense."""


def answers(handler: Callable[[H, C, float], V]) -> Callable[[H, C, float], HypercallResult[V]]:
    """Make a hypercall of a handler that gives its values."""

    @wraps(handler)
    def call(self: H, operands: C, now: float) -> HypercallResult[V]:
        return self.answer(handler.__name__, lambda: handler(self, operands, now))

    return call


class Hypercalls:
    """The VMM's answers to one TVM."""

    def __init__(
        self, machine: GuestMachine, kvm: Kvm, pci_tsm: PciTsm, *, lock_flags: LockFlags, observer: Observer = ignore
    ) -> None:
        self._machine = machine
        self._kvm = kvm
        self._pci_tsm = pci_tsm
        self._lock_flags = lock_flags
        self._observer = observer

    def answer(self, method: str, handle: Callable[[], V]) -> HypercallResult[V]:
        """Count a call and answer it; what goes wrong becomes an error code in this one place.

        The TVM is told to ask again while something else is under way.
        """
        caller, callee, name = _NAMES[method]
        self._machine.exits[name] += 1
        error, reason = HypercallError.NONE, ""
        values: V | None = None
        try:
            values = handle()
        except CallRefused as refused:
            error, reason = _error(refused.status), str(refused)
        except Busy as busy:
            return HypercallResult(TdcmStatus.WAIT, reason=str(busy))
        except (_Invalid, Misuse) as invalid:
            error, reason = HypercallError.INVALID_OPERAND, str(invalid)
        except TeeioError as failed:  # lost on the way, or nonsense of the device
            error, reason = HypercallError.DEVICE, str(failed)
        status = TdcmStatus.DONE if error is HypercallError.NONE else TdcmStatus.ERROR
        if heard(self._observer):
            self._observer(BoundaryCalled(caller, callee, name, status.name))
        if status is TdcmStatus.ERROR:
            self._observer(Refused(callee, name, f"{error.name}: {reason}"))
        return HypercallResult(status, error, values, reason)

    # -- memory and MMIO

    @answers
    def tdvmcall_map_gpa(self, call: v.TdvmcallMapGpa, now: float, /) -> None:
        """Convert memory."""
        gpa = call.gpa & ~GPA_SHARED_BIT
        (self._kvm.share if call.shared else self._kvm.unshare)(self._machine, gpa, call.size)

    @answers
    def tdvmcall_request_mmio(self, call: v.TdvmcallRequestMmio, now: float, /) -> v.MmioValue:
        """Carry out an access to emulated configuration space, or with T=0 to a BAR."""
        gpa = call.gpa & ~GPA_SHARED_BIT
        if call.size not in WIDTHS or gpa < 0 or gpa % call.size or not 0 <= (call.value or 0) < 1 << 8 * call.size:
            raise _Invalid(f"access of {call.size} bytes at {call.gpa:#x}")
        if ECAM.holds(gpa):
            return v.MmioValue(self._config(gpa - ECAM.start, call.size, call.value))
        return v.MmioValue(self._bar(gpa, call.size, call.value))

    def _config(self, at: int, size: int, value: int | None) -> int:
        function = self._machine.functions.get(Bdf.of(at >> 12))
        if function is None or size == WIDTHS[-1]:
            return all_ones(size) if value is None else 0
        if value is None:
            return function.config_read(at & 0xFFF, size)
        function.config_write(at & 0xFFF, size, value)
        return 0

    def _bar(self, gpa: int, size: int, value: int | None) -> int:
        for function in self._machine.functions.values():
            found = function.find_bar(gpa, size)
            if found is None:
                continue
            bar, offset = found
            data = None if value is None else value.to_bytes(size, "little")
            if function.holds_msix(bar):
                if data is None:
                    return int.from_bytes(function.msix_read(offset, size), "little")
                function.msix_write(offset, data)
            elif data is None:
                return int.from_bytes(function.function.config.bus.mmio_read(bar.address + offset, size), "little")
            else:
                function.function.config.bus.mmio_write(bar.address + offset, data)
            return 0
        raise _Invalid(f"there is no device at guest address {gpa:#x}")

    # -- TDCM

    def tdcm_check_teeio_supp(self, call: v.TdcmCheckTeeioSupp, /) -> HypercallResult[v.TdiSupport]:
        """Tell whether a function can be a TDI, and what the TSM calls it."""
        return self.answer("tdcm_check_teeio_supp", lambda: self._support(call.requester_id))

    def _support(self, requester_id: int) -> v.TdiSupport:
        found = self._machine.functions.get(Bdf.of(requester_id & 0xFFFF))
        if found is None:
            raise _Invalid(f"there is no function {requester_id:#06x} in this guest")
        if not found.function.tee_io:
            raise TransportError(f"{found.function.address} has no TEE-IO bit")
        return v.TdiSupport(found.function.function_id)

    @answers
    def tdcm_bind(self, call: v.TdcmBind, now: float, /) -> None:
        """Bind and lock; a lock that fails leaves nothing bound."""
        function = self._function(call.function_id)
        shifts = {guest_shift(bar) for bar in function.bars.values()}
        # One MMIO_REPORTING_OFFSET serves all BARs; where they differ the report shows physical addresses.
        offset = shifts.pop() if len(shifts) == 1 else 0
        if self._lock_flags & LockFlags.BIND_P2P:
            enable_ats(function)
        lock = LockParameters(int(self._lock_flags), offset)
        bound_before = self._pci_tsm.is_bound(function)
        try:
            self._pci_tsm.bind(function, self._machine.tdr, now)
        except Busy:
            raise
        except Misuse as unfit:  # the operand is fine: the device is not connected, or the interface half unbound
            raise CallRefused("TDCM", HypercallError.INVALID_STATE, str(unfit)) from unfit
        try:
            self._lock(function, lock, now, fresh=not bound_before)
        except TeeioError:
            if not bound_before:
                self._pci_tsm.unbind(function, now)
            raise

    def _lock(self, function: PciFunction, lock: LockParameters, now: float, *, fresh: bool) -> None:
        try:
            self._pci_tsm.guest_req(function, DevifOperation.LOCK, now, lock)
        except CallRefused as refused:
            if not fresh or refused.status is not Status.DEVIF_TDISP_INVALID_STATE:
                raise
            # An earlier user's STOP never came: STOP clears that up in any state (PCIe Base 11.3.18).
            self._pci_tsm.guest_req(function, DevifOperation.STOP, now)
            self._pci_tsm.guest_req(function, DevifOperation.LOCK, now, lock)

    @answers
    def tdcm_get_dev_info(self, call: v.TdcmGetDevInfo, now: float, /) -> v.DeviceInfo:
        """Carry the device's evidence, with new measurements if the guest has asked the TSM for them."""
        binding = self._binding(call.function_id)
        evidence = binding.connection.evidence
        measurements = evidence.measurements
        try:
            measurements = self._pci_tsm.guest_req(binding.function, DevifOperation.MEASUREMENTS, now).data
        except CallRefused as refused:
            if refused.status is not Status.DEVIF_NOT_AUTHORISED:
                raise
        return v.DeviceInfo(evidence.certificate_chain, evidence.vca, measurements)

    @answers
    def tdcm_get_tdi_report(self, call: v.TdcmGetTdiReport, now: float, /) -> v.TdiReport:
        """Carry the report, and map what it calls TEE memory privately where the guest expects it."""
        binding = self._binding(call.function_id)
        data = self._pci_tsm.guest_req(binding.function, DevifOperation.REPORT, now).data
        self._map_report(binding, DeviceInterfaceReport.decode(data), now)
        return v.TdiReport(data)

    def _map_report(self, binding: Binding, report: DeviceInterfaceReport, now: float) -> None:
        for part in report.ranges:
            bar = binding.function.bars.get(part.range_id)
            if bar is None or part.attributes & RangeAttributes.IS_NON_TEE_MEM:
                continue
            # BARs are aligned to their size, so the low bits of a reported address are the offset in the BAR.
            offset = part.first_address() % bar.size
            size = min(part.pages * 4096, bar.size - offset)
            mmio = bar.address + offset
            self._pci_tsm.map_mmio(binding, mmio + guest_shift(bar), mmio, size, now)

    @answers
    def tdcm_start_tdi(self, call: v.TdcmStartTdi, now: float, /) -> None:
        """Drive the start."""
        self._pci_tsm.guest_req(self._binding(call.function_id).function, DevifOperation.START, now)

    @answers
    def tdcm_get_tdi_state(self, call: v.TdcmGetTdiState, now: float, /) -> v.TdiState:
        """Drive a look at the state."""
        done = self._pci_tsm.guest_req(self._binding(call.function_id).function, DevifOperation.STATE, now)
        return v.TdiState(done.state)

    @answers
    def tdcm_unbind(self, call: v.TdcmUnbind, now: float, /) -> None:
        """Stop and unbind; what is not bound is so already."""
        function = self._function(call.function_id)
        if self._pci_tsm.is_bound(function):
            self._pci_tsm.unbind(function, now)

    @answers
    def tdcm_p2p_bind(self, call: p.TdcmP2pBind, now: float, /) -> None:
        """Let two bound interfaces exchange data directly."""
        self._pci_tsm.peers.bind(self._binding(call.function_id), self._binding(call.peer_function_id), now)

    @answers
    def tdcm_p2p_unbind(self, call: p.TdcmP2pUnbind, now: float, /) -> None:
        """Take their stream down; what has none is so already."""
        functions = self._function(call.function_id), self._function(call.peer_function_id)
        if all(self._pci_tsm.is_bound(function) for function in functions):
            one, other = map(self._pci_tsm.binding, functions)
            self._pci_tsm.peers.release(one, now, other)

    def _function(self, function_id: int) -> PciFunction:
        found = self._machine.function_named(function_id)
        if found is None:
            raise _Invalid(f"function {function_id:#x} is not assigned to this guest")
        return found.function

    def _binding(self, function_id: int) -> Binding:
        function = self._function(function_id)
        if not self._pci_tsm.is_bound(function):
            raise CallRefused("TDCM", HypercallError.INVALID_STATE, "the interface is not bound: TDCM.BIND first")
        return self._pci_tsm.binding(function)
