"""SEAMCALLs on a device's SPDM session and IDE streams (TDX Connect; declared in `abi.device_seamcalls`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from teeio.abi import Result
from teeio.abi import device_seamcalls as d
from teeio.abi.operands import KmOperation, PagesReturned, SpdmOperation
from teeio.abi.statuses import Status
from teeio.errors import Reject, TeeioError
from teeio.flow import Done, Flow, Send, Wait
from teeio.host.tdx import stream_keys
from teeio.host.tdx.answering import Answering, answers, answers_in_time
from teeio.host.tdx.records import IdeStream, Records, SpdmContext, StreamPhase, requester_id_of
from teeio.host.tdx.stream_keys import StreamEnds
from teeio.host.tdx.tpa import Agent, DeviceEvidence, Task
from teeio.ide_km.messages import KeySet
from teeio.pcie.address import AddressRange, Bdf
from teeio.pcie.capabilities.ide import MEGABYTE
from teeio.spdm.state import Settings

V = TypeVar("V")

LAST_REQUESTER = 0xFFFF
LAST_STREAM = 0xFF


def pending(action: Send | Wait) -> Result[V]:
    """Give the result that asks the VMM to carry a data object, or to come back later."""
    if isinstance(action, Send):
        return Result(Status.SPDM_REQUEST, data_object=action.frame)
    return Result(Status.INTERRUPTED_RESUMABLE, resume_at=action.until)


class SessionCalls(Answering):
    """The module's answers to these calls."""

    records: Records
    settings: Settings

    # -- SPDM session

    @answers
    def tdh_spdm_create(self, call: d.TdhSpdmCreate, /) -> d.SpdmCreated:
        """Create the context of a device behind a root port."""
        records = self.records
        records.iommu(call.iommu_id)
        function_id, unit = requester_id_of(call.function_id), records.units.get(call.root_port)
        if Bdf.of(function_id).function:
            raise Reject(Status.OPERAND_INVALID, f"function {call.function_id:#x} is not function 0 of a device")
        if unit is None or unit.iommu_id != call.iommu_id:
            raise Reject(Status.OPERAND_INVALID, f"{call.root_port:#06x} is no root port of IOMMU {call.iommu_id}")
        if any(context.function_id == function_id for context in records.contexts.values()):
            raise Reject(Status.OPERAND_BUSY, f"function {call.function_id:#x} has an SPDM context")
        records.give(call.pages)
        records.last_spdm_id += 1
        peer = f"device {Bdf.of(function_id)}"
        agent = Agent(self.settings, records.entropy, records.observer, peer)
        records.contexts[records.last_spdm_id] = SpdmContext(
            records.last_spdm_id, call.iommu_id, function_id, unit, agent, call.pages
        )
        return d.SpdmCreated(records.last_spdm_id)

    @answers_in_time
    def tdh_spdm_connect(self, call: d.TdhSpdmConnect, now: float, /) -> Result[d.SpdmConnected]:
        """Set up the session; one that exists is ended first, by its own call."""
        context = self.records.context(call.spdm_id)
        if context.agent.task is None and context.agent.session is not None:
            raise Reject(Status.OPERAND_BUSY, "there is a session: TDH.SPDM.DISCONNECT first")
        return self._evidence(
            context, ("TDH.SPDM.CONNECT", context.spdm_id, 0), context.agent.connect, call.response, now
        )

    @answers_in_time
    def tdh_spdm_mng(self, call: d.TdhSpdmMng, now: float, /) -> Result[d.SpdmConnected]:
        """Keep the session."""
        context = self.records.context(call.spdm_id)
        agent = context.agent
        if agent.task is None:
            agent.need_session()
        procedures: dict[SpdmOperation, Callable[[], Flow[DeviceEvidence]]] = {
            SpdmOperation.HEARTBEAT: agent.heartbeat,
            SpdmOperation.KEY_UPDATE: agent.key_update,
            SpdmOperation.RECOLLECT: agent.recollect,
        }
        begin = procedures.get(call.operation)
        if begin is None:
            raise Reject(Status.OPERAND_INVALID, f"{call.operation} is no operation of TDH.SPDM.MNG")
        result = self._evidence(context, ("TDH.SPDM.MNG", context.spdm_id, call.operation), begin, call.response, now)
        if call.operation == SpdmOperation.RECOLLECT and result.values is not None:
            for stream in context.streams.values():
                for devif in self.records.devifs_on(stream):
                    devif.measured(result.values.measurements)
        return result

    @answers_in_time
    def tdh_spdm_disconnect(self, call: d.TdhSpdmDisconnect, now: float, /) -> Result[None]:
        """End the session, whatever else is under way; the streams that live by it are blocked."""
        context = self.records.context(call.spdm_id)
        agent = context.agent
        task = ("TDH.SPDM.DISCONNECT", context.spdm_id, 0)
        if agent.task != task:
            agent.need_session()
            self.records.abandon(context)
            if agent.session is None:
                return Result(Status.SUCCESS)
        action = agent.advance(task, agent.disconnect, call.response, now)
        if not isinstance(action, Done):
            return pending(action)
        self.records.session_ended(context, "END_SESSION")
        return Result(Status.SUCCESS)

    @answers
    def tdh_spdm_delete(self, call: d.TdhSpdmDelete, /) -> PagesReturned:
        """Delete a context."""
        records = self.records
        context = records.context(call.spdm_id)
        if context.streams or any(self.records.peers.of(context)):
            raise Reject(Status.IDE_STREAM_IN_USE, "streams are left: TDH.IDE.STREAM.DELETE first")
        if context.agent.session is not None:
            raise Reject(Status.OPERAND_BUSY, "there is a session: TDH.SPDM.DISCONNECT first")
        context.agent.abandon()
        del records.contexts[call.spdm_id]
        return PagesReturned(records.give_back(context.pages))

    def _evidence(
        self,
        context: SpdmContext,
        task: Task,
        begin: Callable[[], Flow[DeviceEvidence]],
        response: bytes | None,
        now: float,
    ) -> Result[d.SpdmConnected]:
        action = self.exchange(context, task, begin, response, now, Status.SPDM_FAILED)
        if not isinstance(action, Done):
            return pending(action)
        found: DeviceEvidence = action.result
        session = context.agent.session
        period = session.heartbeat_period if session is not None else 0
        return Result(Status.SUCCESS, d.SpdmConnected(found.certificate_chain, found.vca, found.measurements, period))

    def exchange(
        self,
        context: SpdmContext,
        task: Task,
        begin: Callable[[], Flow[V]],
        response: bytes | None,
        now: float,
        failure: Status,
    ) -> Send | Wait | Done[V]:
        """Take an exchange one step on. Raises `Reject` with `failure` if the device has failed it.

        An exchange that cost the session (a request without a protected answer) costs its streams too.
        """
        had_session = context.agent.session is not None
        try:
            return context.agent.advance(task, begin, response, now)
        except TeeioError as error:
            raise Reject(failure, str(error)) from error
        finally:
            if had_session and context.agent.session is None:
                self.records.session_ended(context, "the SPDM session was lost")

    # -- IDE stream

    @answers
    def tdh_ide_stream_create(self, call: d.TdhIdeStreamCreate, /) -> None:
        """Create a stream whose requesters and addresses are no other stream's, so that each TLP belongs to one."""
        records = self.records
        context = records.context(call.spdm_id)
        context.agent.need_session()
        first, last = call.requesters
        requesters = range(first, last + 1)
        if not 0 < first <= last <= LAST_REQUESTER or context.function_id not in requesters:
            raise Reject(Status.OPERAND_INVALID, "the requester ids do not include the device's function 0")
        if not 0 <= call.stream_id <= LAST_STREAM:
            raise Reject(Status.OPERAND_INVALID, f"Stream ID {call.stream_id} does not fit in 8 bits")
        if any(stream.stream_id == call.stream_id for stream in records.peers.of(context)):
            raise Reject(Status.OPERAND_BUSY, f"Stream ID {call.stream_id} is that of a P2P stream of the device")
        self.check_association(call.memory)
        if not call.options.valid:
            raise Reject(Status.OPERAND_INVALID, f"{call.options} do not fit in a stream's registers")
        lacking = context.unit.lacks(call.options)
        if lacking:
            raise Reject(Status.IDE_OPTION_NOT_SUPPORTED, f"the root port does not support {' and '.join(lacking)}")
        for other in records.streams():
            same_requesters = first < other.requesters.stop and other.requesters.start <= last
            if same_requesters or call.memory.overlaps(other.memory):
                raise Reject(Status.OPERAND_BUSY, f"stream {other.stream_id} has some of these requesters or addresses")
        records.give(call.pages)
        if not context.unit.claim(call.stream_id, requesters, call.memory, call.options):
            records.give_back(call.pages)
            raise Reject(Status.OPERAND_BUSY, f"the root port has no free block, or uses Stream ID {call.stream_id}")
        context.streams[call.stream_id] = IdeStream(
            context, call.stream_id, requesters, call.memory, call.pages, call.options, records.observer
        )

    def check_association(self, memory: AddressRange) -> None:
        """Refuse a range that no address association can have, or that is the host's. Raises `Reject`."""
        aligned = not memory.start % MEGABYTE and not memory.end % MEGABYTE
        if not aligned or not 0 <= memory.start < memory.end <= 1 << 64:
            raise Reject(Status.OPERAND_INVALID, "an address association is whole MiB (PCIe Base 7.9.26)")
        if any(memory.overlaps(area) for area in self.records.not_device_memory):
            raise Reject(Status.OPERAND_INVALID, "the address association holds memory or registers of the host")

    @answers_in_time
    def tdh_ide_stream_km(self, call: d.TdhIdeStreamKm, now: float, /) -> Result[None]:
        """Program, refresh or stop a stream's keys."""
        context = self.records.context(call.spdm_id)
        stream = context.stream(call.stream_id)
        if call.operation not in KM_PHASES:
            raise Reject(Status.OPERAND_INVALID, f"{call.operation} is no operation of TDH.IDE.STREAM.KM")
        if context.agent.task is None:
            if call.response is not None:
                raise Reject(Status.OPERAND_INVALID, "a response came though nothing was asked of the device")
            context.agent.need_session()
            stream.check_not_blocked()
            if stream.phase not in KM_PHASES[call.operation]:
                raise Reject(Status.OPERAND_INVALID, f"{call.operation.name} of a stream that is {stream.phase.name}")
        try:
            action = self.exchange(
                context,
                _km_task(stream, call.operation),
                lambda: self._keys(stream, call.operation),
                call.response,
                now,
                Status.IDE_KM_FAILED,
            )
        except Reject:
            if context.agent.task is None:
                self._km_failed(stream, call.operation)
            raise
        if not isinstance(action, Done):
            return pending(action)
        self._km_done(stream, call.operation)
        return Result(Status.SUCCESS)

    def _keys(self, stream: IdeStream, operation: KmOperation) -> Flow[None]:
        context, records = stream.spdm, self.records
        ends = StreamEnds(stream.stream_id, context.function_id, context.unit, records.entropy, records.observer)
        if operation == KmOperation.SETUP:
            return stream_keys.set_up(ends, KeySet.K0, stream.options)
        if operation == KmOperation.REFRESH:
            return stream_keys.refresh(ends, stream.key_set, KeySet(1 - stream.key_set), stream.changes_over)
        return stream_keys.stop(ends, stream.key_set)

    def _km_done(self, stream: IdeStream, operation: KmOperation) -> None:
        if operation == KmOperation.SETUP:
            stream.key_set = KeySet.K0
            stream.renewed()
            stream.move(StreamPhase.READY, "keys in use")
        elif operation == KmOperation.REFRESH:
            stream.key_set = KeySet(1 - stream.key_set)
            stream.changing_over = False
            stream.renewed()
        else:
            self._stopped(stream)

    def _km_failed(self, stream: IdeStream, operation: KmOperation) -> None:
        """Undo a set-up at the root port; a stop has stopped the root port's end in any case.

        A refresh that failed leaves the old keys in use, if neither end has begun to change over; else which keys each
        end uses is no longer known, and the stream is blocked rather than left for the first TLP to fail on.
        """
        if stream.phase is StreamPhase.BLOCKED:
            return
        if operation == KmOperation.SETUP:
            stream.spdm.unit.disable(stream.stream_id)
            stream.spdm.unit.set_stop(stream.stream_id, KeySet.K0)
        elif operation == KmOperation.STOP:
            self._stopped(stream)
        elif stream.changing_over:
            self.records.block(stream, "a key refresh stopped half-way")

    def _stopped(self, stream: IdeStream) -> None:
        stream.spdm.unit.disable(stream.stream_id)
        stream.move(StreamPhase.STOPPED, "keys erased")
        for devif in self.records.devifs_on(stream):
            devif.fail("its stream was stopped")

    @answers
    def tdh_ide_stream_block(self, call: d.TdhIdeStreamBlock, /) -> None:
        """Block a stream; an exchange about its keys that is under way is dropped."""
        context = self.records.context(call.spdm_id)
        stream = context.stream(call.stream_id)
        if context.agent.task in [_km_task(stream, operation) for operation in KmOperation]:
            self.records.abandon(context)
        self.records.block(stream, "TDH.IDE.STREAM.BLOCK")

    @answers
    def tdh_ide_stream_delete(self, call: d.TdhIdeStreamDelete, /) -> PagesReturned:
        """Delete a blocked stream that nobody uses."""
        context = self.records.context(call.spdm_id)
        stream = context.stream(call.stream_id)
        if stream.phase is not StreamPhase.BLOCKED:
            raise Reject(Status.OP_STATE_INCORRECT, f"the stream is {stream.phase.name}: TDH.IDE.STREAM.BLOCK first")
        if self.records.devifs_on(stream):
            raise Reject(Status.IDE_STREAM_IN_USE, "device interfaces use the stream: TDH.DEVIF.REMOVE first")
        context.unit.release(call.stream_id)
        del context.streams[call.stream_id]
        return PagesReturned(self.records.give_back(stream.pages))


KM_PHASES = {
    KmOperation.SETUP: frozenset({StreamPhase.CREATED, StreamPhase.STOPPED}),
    KmOperation.REFRESH: frozenset({StreamPhase.READY}),
    KmOperation.STOP: frozenset({StreamPhase.READY}),
}
"""In which phases each operation on keys makes sense."""


def _km_task(stream: IdeStream, operation: KmOperation) -> Task:
    return "TDH.IDE.STREAM.KM", stream.stream_id, operation
