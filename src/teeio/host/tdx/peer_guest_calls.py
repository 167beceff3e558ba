"""TDCALLs on pairs of interfaces (this model's own; declared in `abi.peer_calls`)."""

from __future__ import annotations

from teeio.abi import peer_calls as p
from teeio.abi.operands import FunctionId
from teeio.abi.statuses import Status
from teeio.errors import Reject
from teeio.host.tdx.answering import Answering, answers
from teeio.host.tdx.interface import Devif
from teeio.host.tdx.peer_caches import cut_off
from teeio.host.tdx.peer_records import PeerLink, runs_for_peers
from teeio.host.tdx.records import Records, Tvm


class PeerGuestCalls(Answering):
    """The module's answers to one TVM."""

    def __init__(self, records: Records, tvm: Tvm) -> None:
        self.records = records
        self.observer = records.observer
        self._tvm = tvm

    def _devif(self, function_id: FunctionId) -> Devif:
        devif = self.records.devif(function_id)
        if devif.tvm is not self._tvm:
            raise Reject(Status.TDI_NOT_PRESENT, f"interface {function_id:#x} is not this TVM's")
        return devif

    def _pair(self, function_id: FunctionId, peer_function_id: FunctionId) -> tuple[Devif, Devif]:
        self.records.peers.check_offered()
        devif, peer = self._devif(function_id), self._devif(peer_function_id)
        if devif.stream.spdm is peer.stream.spdm:
            raise Reject(Status.OPERAND_INVALID, "both interfaces are of one device, which needs no stream for that")
        return devif, peer

    @answers
    def tdg_p2p_allow(self, call: p.TdgP2pAllow, /) -> None:
        """Take note of a pair; an earlier permission for another lock is void."""
        devifs = self._pair(call.function_id, call.peer_function_id)
        locks = call.bind_session_id, call.peer_bind_session_id
        for devif, lock in zip(devifs, locks, strict=True):
            devif.check_locked(lock)
        if not all(runs_for_peers(devif, lock) for devif, lock in zip(devifs, locks, strict=True)):
            raise Reject(Status.DEVIF_TDISP_INVALID_STATE, "not both are in RUN and locked with BIND_P2P")
        by_function = {devif.function_id: lock for devif, lock in zip(devifs, locks, strict=True)}
        known = self.records.peers.link(*devifs)
        if known is not None and known.is_for(by_function):
            known.allowed = True
        else:
            self.records.peers.links[frozenset(by_function)] = PeerLink(devifs, locks)

    @answers
    def tdg_p2p_revoke(self, call: p.TdgP2pRevoke, /) -> None:
        """End the permission, and let the devices forget where the other one is; to release the bindings is the VMM's part."""
        devifs = self._pair(call.function_id, call.peer_function_id)
        link = self.records.peers.link(*devifs)
        if link is not None:
            link.allowed = False
            for devif in devifs:
                cut_off(self.records, devif)

    @answers
    def tdg_p2p_read(self, call: p.TdgP2pRead, /) -> p.P2pInfo:
        """Say what the TSM vouches for."""
        link = self.records.peers.link(*self._pair(call.function_id, call.peer_function_id))
        if link is None:
            return p.P2pInfo(allowed=False, ends=0, active=False)
        return p.P2pInfo(allowed=link.holds(), ends=len(link.unreleased), active=link.active)
