"""The state machine of one TDI: state, nonce, lock, session, peer-to-peer streams, MMIO attributes (PCIe Base 11.2).

Legal states and transitions come from `states.py`, the conditions of locking and binding from `preconditions.py`; the
device behind is an `InterfaceBackend`. Methods that answer a request raise `Reject`, which the responder turns into
TDISP_ERROR. Not here: messages and portions (`responder.py`), TLPs (`tlp_rules.py`).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace

from teeio.crypto.entropy import Entropy
from teeio.errors import Reject
from teeio.observe import Observer, StateChanged, ignore
from teeio.tdisp.backend import InterfaceBackend
from teeio.tdisp.messages import (
    NONCE_SIZE,
    PAGE_SIZE,
    DeviceInterfaceReport,
    ErrorCode,
    InterfaceState,
    LockFlags,
    LockParameters,
    MessageType,
    MmioRange,
    RangeAttributes,
)
from teeio.tdisp.preconditions import BindAttempt, LockAttempt, check_bind, check_lock
from teeio.tdisp.states import REQUEST_RULES, Event, next_state


@dataclass(frozen=True, slots=True)
class InterfacePolicy:
    """Choices where sources disagree; the functions that read them say what is known."""

    reset_to_unlocked: bool = True
    secure_stream_at_lock: bool = False
    non_tee_ignores_state: bool = True


class Interface:
    """One TEE Device Interface. `name` is what observers see; `lock_flags` are the LOCK flags that it supports."""

    def __init__(
        self,
        name: str,
        backend: InterfaceBackend,
        *,
        lock_flags: LockFlags = LockFlags.NO_FW_UPDATE,
        policy: InterfacePolicy | None = None,
        observer: Observer = ignore,
    ) -> None:
        self.name = name
        self.backend = backend
        self.lock_flags = lock_flags
        self.policy = policy or InterfacePolicy()
        self._observer = observer
        self._state = InterfaceState.CONFIG_UNLOCKED
        self._forget()

    def _forget(self) -> None:
        self._nonce: bytes | None = None
        self._session: int | None = None
        self._parameters: LockParameters | None = None
        self._physical: tuple[MmioRange, ...] = ()
        self._report: DeviceInterfaceReport | None = None
        self._non_tee: dict[int, bool] = {}
        self._p2p: frozenset[int] = frozenset()

    # -- what the device may ask -------------------------------------------------------------------------------------

    @property
    def state(self) -> InterfaceState:
        """The TDI's state."""
        return self._state

    @property
    def session(self) -> int | None:
        """The SPDM session that locked the TDI; None if it is not locked, or that session ended."""
        return self._session

    @property
    def holds_nonce(self) -> bool:
        """Whether a nonce waits for START."""
        return self._nonce is not None

    @property
    def parameters(self) -> LockParameters | None:
        """What the TDI was locked with; None in CONFIG_UNLOCKED."""
        return self._parameters

    @property
    def p2p_streams(self) -> frozenset[int]:
        """The Stream IDs of bound peer-to-peer streams."""
        return self._p2p

    @property
    def bound_streams(self) -> frozenset[int]:
        """All Stream IDs bound to the TDI: the default stream and the peer-to-peer streams."""
        if self._parameters is None:
            return frozenset()
        return self._p2p | {self._parameters.default_stream_id}

    def range_at(self, address: int) -> MmioRange | None:
        """Give the locked MMIO range that holds the physical `address`, with its attributes as they are now."""
        page = address // PAGE_SIZE
        for index, item in enumerate(self._physical):
            if item.first_page <= page < item.first_page + item.pages:
                return replace(item, attributes=self._attributes(index, item))
        return None

    def _attributes(self, index: int, item: MmioRange) -> RangeAttributes:
        non_tee = self._non_tee.get(index, bool(item.attributes & RangeAttributes.IS_NON_TEE_MEM))
        rest = item.attributes & ~RangeAttributes.IS_NON_TEE_MEM
        return rest | RangeAttributes.IS_NON_TEE_MEM if non_tee else rest

    # -- requests ----------------------------------------------------------------------------------------------------

    def admit(self, request: MessageType, session_id: int) -> None:
        """Check a request against the state table, then against the session that locked the TDI. Raises `Reject`."""
        rule = REQUEST_RULES[request]
        if self._state not in rule.legal:
            raise Reject(
                ErrorCode.INVALID_INTERFACE_STATE,
                f"{request.name} is illegal in {self._state.name} (PCIe Base {rule.clause})",
            )
        if rule.session_bound and self._session not in (None, session_id):
            raise Reject(
                ErrorCode.INVALID_REQUEST,
                f"{request.name} from a session that did not lock the TDI (PCIe Base 11.4.5)",
            )

    def lock(self, session_id: int, parameters: LockParameters, entropy: Entropy) -> bytes:
        """Move to CONFIG_LOCKED; give the nonce that START needs (11.3.8, 11.3.9)."""
        self.admit(MessageType.LOCK_INTERFACE_REQUEST, session_id)
        physical = self.backend.report(parameters)
        stream = self.backend.stream_status(parameters.default_stream_id)
        check_lock(
            LockAttempt(
                session_id=session_id,
                parameters=parameters,
                supported=self.lock_flags,
                backend=self.backend,
                report=physical,
                stream=stream,
                secure_stream_needed=self.policy.secure_stream_at_lock,
            )
        )
        nonce = draw_nonce(entropy)
        self.backend.quiesce()
        self.backend.arm(parameters)
        self._nonce = nonce
        self._session = session_id
        self._parameters = parameters
        self._physical = physical.ranges
        self._report = _as_reported(physical, parameters.mmio_reporting_offset)
        self._enter(InterfaceState.CONFIG_LOCKED, "LOCK_INTERFACE_REQUEST")
        return nonce

    def report(self, session_id: int) -> DeviceInterfaceReport:
        """Give the report as it was when the TDI was locked, MMIO_REPORTING_OFFSET applied (11.3.11)."""
        self.admit(MessageType.GET_DEVICE_INTERFACE_REPORT, session_id)
        if self._report is None:
            raise Reject(ErrorCode.UNSPECIFIED, "a locked TDI has no report")
        return self._report

    def start(self, session_id: int, nonce: bytes) -> None:
        """Move to RUN if `nonce` is the one of the lock; a used nonce is dead before RUN is entered (11.3.14)."""
        self.admit(MessageType.START_INTERFACE_REQUEST, session_id)
        self.check_nonce(nonce)
        self._nonce = None
        self._enter(InterfaceState.RUN, "START_INTERFACE_REQUEST")

    def check_nonce(self, nonce: bytes) -> None:
        """Check that `nonce` is the lock's, not used yet. Raises `Reject`."""
        if self._nonce is None or not hmac.compare_digest(self._nonce, nonce):
            raise Reject(ErrorCode.INVALID_NONCE, "START_INTERFACE_NONCE does not match the lock's (PCIe Base 11.3.14)")

    def stop(self, session_id: int) -> None:
        """Move to CONFIG_UNLOCKED with nothing of the TVM left; legal in every state (11.3.16)."""
        self.admit(MessageType.STOP_INTERFACE_REQUEST, session_id)
        self._unlock("STOP_INTERFACE_REQUEST")

    def bind_p2p_stream(self, session_id: int, stream_id: int) -> None:
        """Bind a peer-to-peer stream (11.3.18)."""
        self.admit(MessageType.BIND_P2P_STREAM_REQUEST, session_id)
        if self._parameters is None or self._report is None:
            raise Reject(ErrorCode.UNSPECIFIED, "a running TDI has no lock parameters")
        stream = self.backend.stream_status(stream_id)
        check_bind(BindAttempt(session_id, self._parameters, self._report, self._p2p, stream))
        self._p2p |= {stream_id}

    def unbind_p2p_stream(self, session_id: int, stream_id: int) -> None:
        """Release a bound peer-to-peer stream (11.3.20)."""
        self.admit(MessageType.UNBIND_P2P_STREAM_REQUEST, session_id)
        if stream_id not in self._p2p:
            raise Reject(ErrorCode.INVALID_REQUEST, f"stream {stream_id} is not bound to the TDI (PCIe Base 11.3.20)")
        self._p2p -= {stream_id}

    def set_mmio_attribute(self, session_id: int, wanted: MmioRange) -> None:
        """Set IS_NON_TEE_MEM of one reported range; the report itself keeps the value at lock time (11.3.11, 11.3.22).

        UNCONFIRMED: whether a part of a reported range may be changed. It is refused here: the range must be the
        reported one.
        """
        self.admit(MessageType.SET_MMIO_ATTRIBUTE_REQUEST, session_id)
        if wanted.attributes & (RangeAttributes.MSIX_TABLE | RangeAttributes.MSIX_PBA):
            raise Reject(ErrorCode.INVALID_REQUEST, "attribute bits 1:0 must be zero (PCIe Base 11.3.22)")
        index = self._reported_index(wanted)
        if not self._physical[index].attributes & RangeAttributes.IS_MEM_ATTR_UPDATABLE:
            raise Reject(ErrorCode.INVALID_REQUEST, f"range {wanted.range_id} is not updatable (PCIe Base 11.3.22)")
        self._non_tee[index] = bool(wanted.attributes & RangeAttributes.IS_NON_TEE_MEM)

    def _reported_index(self, wanted: MmioRange) -> int:
        reported = self._report.ranges if self._report is not None else ()
        for index, item in enumerate(reported):
            if (item.first_page, item.pages, item.range_id) == (wanted.first_page, wanted.pages, wanted.range_id):
                return index
        raise Reject(ErrorCode.INVALID_REQUEST, "the range is not one of the report's (PCIe Base 11.3.22)")

    # -- events ------------------------------------------------------------------------------------------------------

    def happen(self, event: Event) -> None:
        """Move as the event table says; tell the device to fall silent on the way to ERROR."""
        target = next_state(event, self._state, reset_to_unlocked=self.policy.reset_to_unlocked)
        if event is Event.CONVENTIONAL_RESET and target is InterfaceState.CONFIG_UNLOCKED:
            self._unlock(event.value)
        elif target is not self._state:
            self._nonce = None
            self.backend.quiesce()
            self._enter(target, event.value)

    def session_ended(self, session_id: int) -> None:
        """Learn that a session ended: a TDI that it locked goes to ERROR, and any session may then stop it (11.4.5)."""
        if self._session != session_id:
            return
        self.happen(Event.SESSION_ENDED)
        self._session = None

    # -- transitions -------------------------------------------------------------------------------------------------

    def _unlock(self, cause: str) -> None:
        if self._state is not InterfaceState.CONFIG_UNLOCKED:
            self.backend.quiesce()
            self.backend.scrub()
        self._forget()
        self._enter(InterfaceState.CONFIG_UNLOCKED, cause)

    def _enter(self, state: InterfaceState, cause: str) -> None:
        old, self._state = self._state, state
        if old is not state:
            self._observer(StateChanged(self.name, old.name, state.name, cause))


def draw_nonce(entropy: Entropy) -> bytes:
    """Draw a START_INTERFACE_NONCE. Raises `Reject` if there is not enough randomness (11.3.9)."""
    try:
        nonce = entropy(NONCE_SIZE)
    except (OSError, NotImplementedError) as error:
        raise Reject(ErrorCode.INSUFFICIENT_ENTROPY, "no randomness for the nonce (PCIe Base 11.3.9)") from error
    if len(nonce) != NONCE_SIZE:
        raise Reject(
            ErrorCode.INSUFFICIENT_ENTROPY, f"{len(nonce)} bytes of randomness, {NONCE_SIZE} needed (PCIe Base 11.3.9)"
        )
    return nonce


def _as_reported(physical: DeviceInterfaceReport, offset: int) -> DeviceInterfaceReport:
    shift = offset // PAGE_SIZE
    return replace(
        physical, ranges=tuple(replace(item, first_page=item.first_page + shift) for item in physical.ranges)
    )
