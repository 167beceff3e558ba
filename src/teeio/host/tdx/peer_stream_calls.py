"""SEAMCALLs on streams between two devices (this model's own; declared in `abi.peer_calls`)."""

from __future__ import annotations

from teeio.abi import Result
from teeio.abi import peer_calls as p
from teeio.abi.operands import KmOperation, PagesReturned
from teeio.abi.statuses import Status
from teeio.errors import Reject
from teeio.flow import Done
from teeio.host.tdx.answering import answers, answers_in_time
from teeio.host.tdx.peer_keys import take_turn
from teeio.host.tdx.peer_records import KeyChange, PeerEnd, PeerStream
from teeio.host.tdx.records import SpdmContext, StreamPhase
from teeio.host.tdx.session_calls import KM_PHASES, LAST_STREAM, SessionCalls, pending
from teeio.host.tdx.tpa import Task
from teeio.ide_km.messages import KeySet
from teeio.pcie.address import AddressRange


class PeerStreamCalls(SessionCalls):
    """The module's answers to these calls."""

    @answers
    def tdh_p2p_stream_create(self, call: p.TdhP2pStreamCreate, /) -> None:
        """Create a stream; a pair of devices has one at most, so that each TLP between them belongs to one."""
        records, peers = self.records, self.records.peers
        peers.check_offered()
        one, other = records.context(call.spdm_id), records.context(call.peer_spdm_id)
        if one is other or not 0 <= call.stream_id <= LAST_STREAM:
            raise Reject(Status.OPERAND_INVALID, "a stream between two devices, with an ID of 8 bits")
        for context, memory in ((one, call.memory), (other, call.peer_memory)):
            context.agent.need_session()
            self._check_addressed(context, memory)
            used = {*context.streams, *(stream.stream_id for stream in peers.of(context))}
            if call.stream_id in used:
                raise Reject(Status.OPERAND_BUSY, f"Stream ID {call.stream_id} is in use at a device")
        if any(stream.joins(one, other) for stream in peers.streams):
            raise Reject(Status.OPERAND_BUSY, "there is a stream between these devices")
        records.give(call.pages)
        ends = PeerEnd(one, call.memory), PeerEnd(other, call.peer_memory)
        peers.streams.append(PeerStream(call.stream_id, ends, call.pages, records.observer))

    def _check_addressed(self, context: SpdmContext, memory: AddressRange) -> None:
        """Refuse what is not MMIO of the device. Raises `Reject`."""
        if not memory.size and not memory.start:
            return
        self.check_association(memory)
        if not any(stream.memory.holds(memory.start, memory.size) for stream in context.streams.values()):
            raise Reject(Status.OPERAND_INVALID, "a range that no stream of the device to the root port is for")

    @answers_in_time
    def tdh_p2p_stream_km(self, call: p.TdhP2pStreamKm, now: float, /) -> Result[p.P2pProgress]:
        """Take the next turn of a key change."""
        self.records.peers.check_offered()
        context = self.records.context(call.spdm_id)
        stream = self.records.peers.stream(context, call.stream_id)
        task: Task = "TDH.P2P.STREAM.KM", call.stream_id, call.operation
        if context.agent.task is None:
            self._admit_turn(stream, context, call)
        change, number = stream.change, stream.end_of(context)
        if change is None or change.turn[0] != number:
            raise Reject(Status.OPERAND_BUSY, "another exchange with the device is under way")
        turn = change.turn[1]
        try:
            action = self.exchange(
                context,
                task,
                lambda: take_turn(self.records, stream, number, turn),
                call.response,
                now,
                Status.IDE_KM_FAILED,
            )
        except Reject:
            if context.agent.task is None:
                _failed(stream, change)
            raise
        if not isinstance(action, Done):
            return pending(action)
        return Result(Status.SUCCESS, p.P2pProgress(_turned(stream, change)))

    def _admit_turn(self, stream: PeerStream, context: SpdmContext, call: p.TdhP2pStreamKm) -> None:
        """Check that it is this end's turn; begin the change if there is none."""
        if call.operation not in KM_PHASES or call.response is not None:
            raise Reject(Status.OPERAND_INVALID, "no operation on keys, or a response that nobody waits for")
        context.agent.need_session()
        stream.check_not_blocked()
        change = stream.change
        if change is None and stream.phase in KM_PHASES[call.operation]:
            setup = call.operation == KmOperation.SETUP
            change = KeyChange(call.operation, KeySet.K0 if setup else KeySet(1 - stream.key_set))
        if change is None or change.operation != call.operation:
            raise Reject(Status.OPERAND_INVALID, f"{call.operation.name} of a stream that is {stream.phase.name}")
        if stream.ends[change.turn[0]].context is not context:
            raise Reject(Status.OPERAND_INVALID, "it is the other device's turn")
        stream.change = change
        if call.operation == KmOperation.STOP:
            stream.move(StreamPhase.STOPPED, "keys on their way out")

    # -- the end of a stream

    @answers
    def tdh_p2p_stream_block(self, call: p.TdhP2pStreamBlock, /) -> None:
        """Give a stream up; an exchange about its keys that is under way is dropped."""
        records = self.records
        records.peers.check_offered()
        context = records.context(call.spdm_id)
        stream = records.peers.stream(context, call.stream_id)
        for end in stream.ends:
            task = end.context.agent.task
            if task is not None and task[:2] == ("TDH.P2P.STREAM.KM", stream.stream_id):
                records.abandon(end.context)
        stream.block("TDH.P2P.STREAM.BLOCK")

    @answers
    def tdh_p2p_stream_delete(self, call: p.TdhP2pStreamDelete, /) -> PagesReturned:
        """Delete a blocked stream that no locked interface is bound to."""
        peers = self.records.peers
        peers.check_offered()
        stream = peers.stream(self.records.context(call.spdm_id), call.stream_id)
        if stream.phase is not StreamPhase.BLOCKED:
            raise Reject(Status.OP_STATE_INCORRECT, f"the stream is {stream.phase.name}: TDH.P2P.STREAM.BLOCK first")
        if stream.user is not None and stream.user.in_use:
            raise Reject(Status.IDE_STREAM_IN_USE, "interfaces are bound to the stream: TDH.P2P.UNBIND first")
        peers.streams.remove(stream)
        return PagesReturned(self.records.give_back(stream.pages))


def _turned(stream: PeerStream, change: KeyChange) -> int:
    """Note that a turn is done; give the SPDM context whose turn is next, 0 if the change is done."""
    number = change.turn[0]
    if change.operation == KmOperation.SETUP:
        stream.ends[number].session = stream.ends[number].context.agent.session
    change.done += 1
    if not change.finished:
        return stream.ends[change.turn[0]].context.spdm_id
    stream.change = None
    if change.operation == KmOperation.STOP:
        return 0
    stream.key_set = change.key_set
    stream.move(StreamPhase.READY, "keys in use")
    if stream.user is not None and not stream.user.unreleased:
        stream.user = None
    return 0


def _failed(stream: PeerStream, change: KeyChange) -> None:
    """Give the stream up, unless only new keys were not taken while the old ones go on in use."""
    if stream.phase is StreamPhase.READY and change.operation == KmOperation.REFRESH and not change.changes_over:
        stream.change = None
    elif stream.phase is not StreamPhase.BLOCKED:
        stream.block(f"{change.operation.name} stopped half-way")
