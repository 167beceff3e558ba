"""SEAMCALLs that bind a stream between two devices to two interfaces (this model's own; declared in `abi.peer_calls`).

TDISP's BIND_P2P_STREAM and UNBIND_P2P_STREAM go over the session of each interface's device. The checks are all made
before: a binding is asked of a device only if nothing about the pair, the stream or its registers is amiss.
"""

from __future__ import annotations

from collections.abc import Callable

from teeio.abi import Result
from teeio.abi import peer_calls as p
from teeio.abi.operands import FunctionId
from teeio.abi.statuses import Status
from teeio.errors import Reject
from teeio.flow import Done, Flow
from teeio.host.tdx.answering import answers, answers_in_time
from teeio.host.tdx.interface import Devif
from teeio.host.tdx.peer_caches import empty_cache
from teeio.host.tdx.peer_keys import check_registers
from teeio.host.tdx.peer_records import PeerLink, PeerStream, addressable, megabytes
from teeio.host.tdx.peer_stream_calls import PeerStreamCalls
from teeio.host.tdx.session_calls import pending
from teeio.host.tdx.tpa import Task
from teeio.tdisp import flows
from teeio.tdisp.messages import InterfaceState


class PeerBindCalls(PeerStreamCalls):
    """The module's answers to these calls."""

    @answers_in_time
    def tdh_p2p_bind(self, call: p.TdhP2pBind, now: float, /) -> Result[None]:
        """Bind the stream to one interface of a pair."""
        link, number = self._pair(call.function_id, call.peer_function_id)
        devif = link.devifs[number]
        task: Task = "TDH.P2P.BIND", devif.function_id, call.stream_id
        context = devif.stream.spdm
        if context.agent.task is None:
            self._check_bindable(link, number, call.stream_id)

        def bind() -> Flow[None]:
            stream = self.records.peers.stream(context, call.stream_id)
            yield from check_registers(stream, stream.end_of(context))
            self._check_bindable(link, number, call.stream_id)  # the VMM has made other calls meanwhile
            # From here on the device may have bound it, whether or not its answer comes.
            link.stream, stream.user = stream, link
            link.asked.add(devif.function_id)
            yield from flows.bind_p2p_stream(devif.function_id, stream.stream_id)
            link.bound.add(devif.function_id)

        return self._tdisp(devif, task, bind, call.response, now)

    @answers_in_time
    def tdh_p2p_unbind(self, call: p.TdhP2pUnbind, now: float, /) -> Result[None]:
        """Release the stream from one interface of a pair; from then on the pair has no direct access."""
        link, number = self._pair(call.function_id, call.peer_function_id)
        devif, lock = link.devifs[number], link.locks[number]
        task: Task = "TDH.P2P.UNBIND", devif.function_id, link.stream.stream_id if link.stream else 0
        runs = devif.bind_session_id == lock and devif.state is InterfaceState.RUN
        asked = runs and devif.stream.spdm.agent.session is not None and devif.function_id in link.asked
        if devif.stream.spdm.agent.task is None and not asked:
            link.bound.discard(devif.function_id)
            link.asked &= link.unreleased
            return Result(Status.SUCCESS)

        def unbind() -> Flow[None]:
            link.bound.discard(devif.function_id)
            yield from flows.unbind_p2p_stream(devif.function_id, task[2])
            link.asked.discard(devif.function_id)

        return self._tdisp(devif, task, unbind, call.response, now)

    @answers
    def tdh_p2p_invalidate(self, call: p.TdhP2pInvalidate, /) -> None:
        """Empty an interface's translation cache."""
        self.records.peers.check_offered()
        devif = self.records.devif(call.function_id)
        if not empty_cache(self.records, devif):
            raise Reject(
                Status.DEVICE_TLB_NOT_INVALIDATED,
                "no Invalidate Completion came with T=1: STOP the interface, or block its stream",
            )

    # -- checks

    def _pair(self, function_id: FunctionId, peer_function_id: FunctionId) -> tuple[PeerLink, int]:
        """Look up a pair that a TVM has allowed, and which of the two comes first. Raises `Reject`."""
        records = self.records
        records.peers.check_offered()
        devif, peer = records.devif(function_id), records.devif(peer_function_id)
        link = records.peers.link(devif, peer)
        if link is None or devif is peer:
            raise Reject(Status.P2P_NOT_ALLOWED, "no TVM has allowed these interfaces to exchange data: TDG.P2P.ALLOW")
        return link, link.devifs.index(devif)

    def _check_bindable(self, link: PeerLink, number: int, stream_id: int) -> PeerStream:
        """Check the pair, the stream and where it leads."""
        devif = link.devifs[number]
        devif.stream.spdm.agent.need_session()
        if not link.holds():
            raise Reject(Status.P2P_NOT_ALLOWED, "not both run under the locks for which their TVM has allowed it")
        stream = self.records.peers.stream(devif.stream.spdm, stream_id)
        if not stream.joins(*(one.stream.spdm for one in link.devifs)):
            raise Reject(Status.P2P_STREAM_MISMATCH, f"P2P stream {stream_id} is between other devices")
        stream.check_not_blocked()
        if stream.change is not None or devif.function_id in link.asked:
            raise Reject(Status.OPERAND_BUSY, "the stream's keys are being changed, or the interface is bound to it")
        if not stream.keyed:
            raise Reject(Status.IDE_STREAM_NOT_READY, f"P2P stream {stream_id} has no keys in use")
        if stream.user is not None and stream.user is not link:
            if stream.user.unreleased:
                raise Reject(
                    Status.OPERAND_BUSY,
                    "another pair of interfaces uses the stream, or its device has not said that it does not: "
                    "TDH.P2P.UNBIND or STOP, else TDH.P2P.STREAM.BLOCK and a new stream",
                )
            raise Reject(
                Status.IDE_STREAM_NEEDS_NEW_KEYS,
                "another pair had traffic under these keys (CVE-2025-9614): TDH.P2P.STREAM.KM REFRESH first",
            )
        for one in link.devifs:
            end = stream.ends[stream.end_of(one.stream.spdm)]
            accepted = addressable(self.records, one)
            if not all(number in accepted for number in megabytes(end.memory)):
                raise Reject(
                    Status.P2P_STREAM_MISMATCH,
                    f"the address association {end.memory} goes beyond the accepted MMIO of {one.name}",
                )
        return stream

    def _tdisp(
        self,
        devif: Devif,
        task: Task,
        begin: Callable[[], Flow[None]],
        response: bytes | None,
        now: float,
    ) -> Result[None]:
        """Take an exchange with an interface's device one step on."""
        action = self.exchange(devif.stream.spdm, task, begin, response, now, Status.DEVIF_TDISP_FAILED)
        return Result(Status.SUCCESS) if isinstance(action, Done) else pending(action)
