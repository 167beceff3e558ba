"""Two accepted interfaces of the TVM that exchange data directly (this model's own extension; calls in `abi.peer_calls`).

The TVM allows it for the two locks whose evidence it has verified; the VMM then sets up what is needed. The TSM's word, not
the VMM's, says whether it works.
"""

from __future__ import annotations

from contextlib import suppress

from teeio.abi.declaration import CallRefused
from teeio.abi.peer_calls import P2pInfo, TdcmP2pBind, TdcmP2pUnbind, TdgP2pAllow, TdgP2pRead, TdgP2pRevoke
from teeio.errors import Misuse, PeerViolation, TeeioError
from teeio.guest.accept import AssignedInterface, Phase


class PeerLink:
    """A pair of interfaces of one TVM."""

    def __init__(self, one: AssignedInterface, other: AssignedInterface) -> None:
        if one.tvm is not other.tvm or one is other:
            raise Misuse("peers are two interfaces of one TVM")
        self._tvm = one.tvm
        self._one, self._other = one, other

    def connect(self, now: float) -> None:
        """Allow direct access and let the VMM set it up. Raises `CallRefused`, `PeerViolation`; it is undone then."""
        for interface in (self._one, self._other):
            if interface.phase is not Phase.ACCEPTED:
                raise Misuse(f"{interface} is {interface.phase.value}", remedy="bring it up first")
        allow = TdgP2pAllow(
            function_id=self._one.function_id,
            bind_session_id=self._one.bind_session_id,
            peer_function_id=self._other.function_id,
            peer_bind_session_id=self._other.bind_session_id,
        )
        self._tvm.tdcall(allow, self._tvm.tsm.tdg_p2p_allow)
        try:
            bind = TdcmP2pBind(function_id=self._one.function_id, peer_function_id=self._other.function_id)
            self._tvm.ask(bind, self._tvm.vmm.tdcm_p2p_bind, now)
            if not self.info().active:
                raise PeerViolation("the VMM says that the peers are bound, the TSM that they are not", "TDG.P2P.READ")
        except TeeioError:
            with suppress(TeeioError):
                self.disconnect(now)
            raise

    def info(self) -> P2pInfo:
        """Read what the TSM knows. Raises `CallRefused`."""
        call = TdgP2pRead(function_id=self._one.function_id, peer_function_id=self._other.function_id)
        return self._tvm.tdcall(call, self._tvm.tsm.tdg_p2p_read)

    @property
    def active(self) -> bool:
        """Whether direct access works, by the TSM's word; not for an interface that the TVM has no more."""
        try:
            return self.info().active
        except CallRefused:
            return False

    def disconnect(self, now: float) -> None:
        """Take the permission back, and let the VMM take the stream down. Raises `CallRefused`, `PeerViolation`.

        An interface that was not released may go on writing to the other: stop using both.
        """
        revoke = TdgP2pRevoke(function_id=self._one.function_id, peer_function_id=self._other.function_id)
        self._tvm.tdcall(revoke, self._tvm.tsm.tdg_p2p_revoke)
        unbind = TdcmP2pUnbind(function_id=self._one.function_id, peer_function_id=self._other.function_id)
        self._tvm.ask(unbind, self._tvm.vmm.tdcm_p2p_unbind, now)
        if self.info().ends:
            raise PeerViolation(
                "the VMM says that the peers are released, the TSM that they may not be", "TDG.P2P.READ"
            )
