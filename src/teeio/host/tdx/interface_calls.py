"""SEAMCALLs on device interfaces (TDX Connect; declared in `abi.device_seamcalls`), and the exchanges behind them."""

from __future__ import annotations

from teeio.abi import Result
from teeio.abi import device_seamcalls as d
from teeio.abi.operands import AUTHORITY, Actor, DevifOperation, DmarState, LockParameters, PagesReturned
from teeio.abi.statuses import Status
from teeio.errors import DecodeError, ErrorResponse, Incompatible, Reject
from teeio.flow import Done, Flow
from teeio.host.secure_ept import SeptState
from teeio.host.tdx.answering import answers, answers_in_time
from teeio.host.tdx.dma_mmio_calls import check_quiet, check_unmapped
from teeio.host.tdx.interface import Devif, Request, unacceptable
from teeio.host.tdx.records import TvmPhase, requester_id_of
from teeio.host.tdx.session_calls import SessionCalls, pending
from teeio.tdisp import flows
from teeio.tdisp.messages import DeviceInterfaceReport, ErrorCode, InterfaceState, LockFlags
from teeio.tdisp.messages import LockParameters as TdispLockParameters

MIN_ADDRESS_WIDTH = 52
"""DEV_ADDR_WIDTH that TDX Connect needs at least (Device Guide, appendix A)."""

CHANGE_STATE = frozenset({DevifOperation.LOCK, DevifOperation.START, DevifOperation.STOP})
"""Operations after which the state is not known if the device's answer is lost."""

LOCK_FLAGS = LockFlags.NO_FW_UPDATE
"""The only LOCK flag that TDX Connect uses (TDX module, tdisp.c); the peer-to-peer profile has BIND_P2P besides."""


class InterfaceCalls(SessionCalls):
    """The module's answers to these calls."""

    @answers
    def tdh_devif_create(self, call: d.TdhDevifCreate, /) -> None:
        """Give an interface to a TVM."""
        records = self.records
        tvm = records.tvm(call.tdr)
        tvm.need(TvmPhase.RUNNING)
        if not tvm.tdx_connect:
            raise Reject(Status.OP_STATE_INCORRECT, "the TVM was set up without TDX Connect")
        function_id = requester_id_of(call.function_id)
        if function_id in records.devifs:
            raise Reject(Status.OPERAND_BUSY, f"interface {call.function_id:#x} is a TVM's")
        context = records.context(call.spdm_id)
        context.agent.need_session()
        stream = context.stream(call.stream_id)
        if function_id not in stream.requesters:
            raise Reject(Status.OPERAND_INVALID, f"stream {call.stream_id} is not for function {call.function_id:#x}")
        stream.check_ready()
        stream.check_flushed(function_id)
        records.give(call.pages)
        devif = Devif(function_id, tvm, stream, call.pages, records.observer)
        if context.agent.evidence is not None:
            devif.measured(context.agent.evidence.measurements)
        records.devifs[function_id] = devif

    @answers
    def tdh_devif_remove(self, call: d.TdhDevifRemove, /) -> PagesReturned:
        """Take an interface from its TVM."""
        records = self.records
        devif = records.devif(call.function_id)
        check_quiet(devif)
        check_unmapped(records, devif)
        del records.devifs[devif.function_id]
        records.peers.forget(devif)
        if devif.had_traffic and records.rules.rekeys_between_bindings:
            devif.stream.had_traffic.add(devif.function_id)
        if devif.in_exchange:
            records.abandon(devif.stream.spdm)
        return PagesReturned(records.give_back(devif.pages))

    @answers_in_time
    def tdh_devif_request(self, call: d.TdhDevifRequest, now: float, /) -> Result[d.DevifCompleted]:
        """Begin an exchange, or go on with the same one after a pause."""
        devif = self.records.devif(call.function_id)
        agent = devif.stream.spdm.agent
        if call.operation not in AUTHORITY:
            raise Reject(Status.OPERAND_INVALID, f"{call.operation} is no operation on an interface")
        operation = DevifOperation(call.operation)
        request = self._admit(devif, operation, call.lock) if agent.task is None else Request(operation)
        return self._exchange_with(devif, request, call.lock, None, now)

    @answers_in_time
    def tdh_devif_response(self, call: d.TdhDevifResponse, now: float, /) -> Result[d.DevifCompleted]:
        """Hand over the device's answer."""
        devif = self.records.devif(call.function_id)
        operation = devif.operation_under_way
        if operation is None:
            raise Reject(Status.DEVIF_TDISP_INVALID_REQ_STS, "no exchange with this interface is under way")
        return self._exchange_with(devif, Request(operation), None, call.response, now)

    # -- what may begin

    def _admit(self, devif: Devif, operation: DevifOperation, lock: LockParameters | None) -> Request:
        """Check who asks for what, in which state."""
        asked = devif.asked_for(operation)
        if asked is None and Actor.VMM not in AUTHORITY[operation]:
            raise Reject(Status.DEVIF_NOT_AUTHORISED, f"{operation.name} is the TVM's to ask for, and it has not")
        if (lock is not None) != (operation is DevifOperation.LOCK):
            raise Reject(Status.OPERAND_INVALID, "LOCK has lock parameters, and nothing else has")
        devif.stream.spdm.agent.need_session()
        devif.check_state(operation)
        if lock is not None:
            self._check_lock(devif, lock)
        if operation is DevifOperation.START:
            devif.stream.check_ready()
        return asked or Request(operation, devif.bind_session_id)

    def _check_lock(self, devif: Devif, lock: LockParameters) -> None:
        allowed = LOCK_FLAGS | LockFlags.BIND_P2P if self.records.peers.offered else LOCK_FLAGS
        if lock.flags & ~int(allowed):
            raise Reject(Status.OPERAND_INVALID, f"LOCK flags {lock.flags:#x}: TDX Connect uses NO_FW_UPDATE only")
        if lock.bind_p2p_address_mask and not lock.flags & LockFlags.BIND_P2P:
            raise Reject(Status.OPERAND_INVALID, "BIND_P2P_ADDRESS_MASK without BIND_P2P")
        fits = -(1 << 63) <= lock.mmio_reporting_offset < 1 << 63
        if not fits or not 0 <= lock.bind_p2p_address_mask < 1 << 64:
            raise Reject(Status.OPERAND_INVALID, "MMIO_REPORTING_OFFSET or the mask does not fit in 64 bits")
        devif.stream.check_ready()
        accepted = any(leaf.state is SeptState.MMIO_MAPPED for leaf in self.records.mmio_mappings(devif))
        # A blocked entry may be in the IOMMU's caches as it was accepted, until it is invalidated and removed.
        if accepted or self.records.dmar_state(devif) in (DmarState.PRESENT, DmarState.BLOCKED):
            raise Reject(Status.OPERAND_BUSY, "what the TVM accepted under an earlier lock must be removed first")

    # -- the exchange

    def _exchange_with(
        self, devif: Devif, request: Request, lock: LockParameters | None, response: bytes | None, now: float
    ) -> Result[d.DevifCompleted]:
        context, operation = devif.stream.spdm, request.operation
        try:
            action = self.exchange(
                context,
                devif.task(operation),
                lambda: self._procedure(devif, request, lock),
                response,
                now,
                Status.SPDM_FAILED,
            )
        except Reject:
            if context.agent.task is None:
                devif.finish(operation, failed=True)
            raise
        if not isinstance(action, Done):
            return pending(action)
        devif.finish(operation, action.result.data)
        return Result(Status.SUCCESS, action.result)

    def _procedure(self, devif: Devif, request: Request, lock: LockParameters | None) -> Flow[d.DevifCompleted]:
        operation = request.operation
        data = b""
        try:
            if operation is DevifOperation.LOCK and lock is not None:
                yield from self._lock(devif, lock)
            elif operation is DevifOperation.REPORT:
                data = yield from self._report(devif)
            elif operation is DevifOperation.START:
                yield from self._start(devif)
            elif operation is DevifOperation.STOP:
                yield from flows.stop_interface(devif.function_id)
                devif.end_lock(InterfaceState.CONFIG_UNLOCKED, "STOP_INTERFACE_RESPONSE")
            elif operation is DevifOperation.STATE:
                devif.told((yield from flows.get_state(devif.function_id)))
            else:
                data = yield from devif.stream.spdm.agent.measure(request.nonce)
                devif.measured(data)
        except ErrorResponse as error:
            raise _refused_by_device(devif, operation, error) from error
        except Incompatible as error:
            raise Reject(Status.DEVIF_TDISP_FAILED, str(error)) from error
        except BaseException:
            if operation in CHANGE_STATE:
                devif.end_lock(InterfaceState.ERROR, f"{operation.name} was cut off: the state is not known")
            raise
        return d.DevifCompleted(operation, int(devif.state), data)

    def _lock(self, devif: Devif, lock: LockParameters) -> Flow[None]:
        yield from flows.get_version(devif.function_id)
        capabilities = yield from flows.get_capabilities(devif.function_id)
        if capabilities.dev_addr_width < MIN_ADDRESS_WIDTH:
            raise Incompatible(
                f"the device has {capabilities.dev_addr_width} address bits, TDX Connect needs {MIN_ADDRESS_WIDTH}"
            )
        parameters = TdispLockParameters(
            flags=LockFlags(lock.flags),
            default_stream_id=devif.stream.stream_id,
            mmio_reporting_offset=lock.mmio_reporting_offset,
            bind_p2p_address_mask=lock.bind_p2p_address_mask,
        )
        nonce = yield from flows.lock_interface(devif.function_id, parameters)
        devif.stream.check_not_blocked()
        self.records.last_bind_session_id += 1
        devif.locked(nonce, lock, self.records.last_bind_session_id)

    def _start(self, devif: Devif) -> Flow[None]:
        lock = devif.bind_session_id
        yield from flows.start_interface(devif.function_id, devif.take_nonce())
        _expect_unchanged(devif, lock)
        devif.started()

    def _report(self, devif: Devif) -> Flow[bytes]:
        lock = devif.bind_session_id
        data = yield from flows.get_device_interface_report_bytes(devif.function_id)
        _expect_unchanged(devif, lock)
        try:
            report = DeviceInterfaceReport.decode(data)
        except DecodeError as error:
            raise Reject(Status.DEVIF_REPORT_UNACCEPTABLE, str(error)) from error
        problem = unacceptable(report, devif.lock)
        if problem is not None:
            raise Reject(Status.DEVIF_REPORT_UNACCEPTABLE, problem)
        devif.reported(data, report)
        return data


def _expect_unchanged(devif: Devif, lock: int) -> None:
    """Refuse an answer that came after what it is about was lost: it must not bring the interface back."""
    devif.stream.check_not_blocked()
    devif.check_locked(lock)


def _refused_by_device(devif: Devif, operation: DevifOperation, error: ErrorResponse) -> Reject:
    """Draw conclusions from a TDISP_ERROR: what the device refuses in this state is not as the TSM thought.

    A device that knows no such interface, or cannot tell its state, has lost it.
    """
    wrong_state = error.code == ErrorCode.INVALID_INTERFACE_STATE
    unknown = error.code == ErrorCode.INVALID_INTERFACE
    untold = operation is DevifOperation.STATE and error.code != ErrorCode.BUSY
    if wrong_state or unknown or untold or operation in (DevifOperation.START, DevifOperation.STOP):
        devif.fail(str(error))
    return Reject(Status.DEVIF_TDISP_INVALID_STATE if wrong_state else Status.DEVIF_TDISP_FAILED, str(error))
