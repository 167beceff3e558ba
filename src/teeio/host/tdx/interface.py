"""A device interface as the TSM knows it: its TDISP state, the lock with its nonce, and the evidence it vouches for.

The TSM keeps the nonce of a lock to itself and forgets it when it is used, on STOP and on ERROR (PCIe Base 11.3.9).
What the TSM knows can only be behind the device for the worse: it takes the device for locked or running only after it
has itself seen the answer to LOCK or START.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from teeio.abi.operands import DevifOperation, LockParameters
from teeio.abi.statuses import Status
from teeio.abi.tdcalls import NO_BIND_SESSION, DevifAnswer, DevifInfo
from teeio.attestation.evidence import STATEMENT_HASH
from teeio.attestation.interface_rules import control_problems, interface_info_problems
from teeio.crypto.kdf import digest
from teeio.errors import Reject
from teeio.host.tdx.records import IdeStream, Tvm
from teeio.host.tdx.tpa import Task
from teeio.observe import Observer, StateChanged, ignore
from teeio.pcie.address import Bdf
from teeio.tdisp.messages import DeviceInterfaceReport, InterfaceState, LockFlags, MmioRange

OPERATION_STATES = {
    DevifOperation.LOCK: frozenset({InterfaceState.CONFIG_UNLOCKED}),
    DevifOperation.REPORT: frozenset({InterfaceState.CONFIG_LOCKED, InterfaceState.RUN}),
    DevifOperation.STATE: frozenset(InterfaceState),
    DevifOperation.START: frozenset({InterfaceState.CONFIG_LOCKED}),
    DevifOperation.STOP: frozenset(InterfaceState),
    DevifOperation.MEASUREMENTS: frozenset(InterfaceState),
}
"""In which states, as the TSM knows them, an operation makes sense (PCIe Base 11.3.1)."""

OF_ONE_LOCK = frozenset({DevifOperation.REPORT, DevifOperation.START})
"""What a TVM asks for under one lock is not done under another."""

_OF_AN_INTERFACE = frozenset({"TDH.DEVIF", "TDH.P2P.BIND", "TDH.P2P.UNBIND"})
"""Calls whose exchanges are about the interface that the task names."""

MAX_NONCES = 256
"""Verifier's nonces remembered for one interface and lock, each of which counts as used."""


def sha384(data: bytes) -> bytes:
    """Give the digest by which the TSM vouches for `data`; empty for nothing."""
    return digest(STATEMENT_HASH, data) if data else b""


@dataclass(slots=True)
class Request:
    """What a TVM has asked for and the VMM may drive, and the lock it was asked under; `nonce` is for MEASUREMENTS."""

    operation: DevifOperation
    bind_session_id: int = NO_BIND_SESSION
    nonce: bytes = b""


@dataclass(slots=True)
class Devif:
    """One interface given to one TVM. `function_id` is a plain requester id, as the one segment has number 0."""

    function_id: int
    tvm: Tvm
    stream: IdeStream
    pages: tuple[int, ...]
    observer: Observer = ignore
    state: InterfaceState = InterfaceState.CONFIG_UNLOCKED
    bind_session_id: int = NO_BIND_SESSION
    lock: LockParameters | None = None
    validated: bool = False
    generation: int = 0
    report_digest: bytes = b""
    ranges: tuple[MmioRange, ...] = ()
    measurements_digest: bytes = b""
    request: Request | None = None
    answer: DevifAnswer | None = None
    failed: bool = False
    had_traffic: bool = False
    """Whether T=1 may have gone either way: down once MMIO is accepted, up once the interface may run."""
    used_nonces: set[bytes] = field(default_factory=set)
    _nonce: bytes | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The interface's name for observers."""
        return f"TDI {Bdf.of(self.function_id)} as the TSM knows it"

    @property
    def holds_nonce(self) -> bool:
        """Whether the nonce of a lock is kept."""
        return self._nonce is not None

    # -- checks, all raising `Reject`

    def check_state(self, operation: DevifOperation) -> None:
        """Refuse an operation that makes no sense in this state."""
        if self.state in OPERATION_STATES[operation]:
            return
        error = self.state is InterfaceState.ERROR
        status = Status.DEVIF_TDISP_ERROR_STATE if error else Status.DEVIF_TDISP_INVALID_STATE
        raise Reject(status, f"{operation.name} while the interface is {self.state.name} (PCIe Base 11.3.1)")

    def check_bind_session(self, bind_session_id: int) -> None:
        """Refuse what was meant for another lock."""
        if bind_session_id != self.bind_session_id:
            raise Reject(
                Status.DEVIF_BIND_SESSION_MISMATCH,
                f"lock {bind_session_id:#x} is named, {self.bind_session_id:#x} holds (0: none): evidence of one lock "
                "does not start another",
            )

    def check_locked(self, bind_session_id: int) -> None:
        """Refuse what needs a lock, and exactly this one."""
        self.check_bind_session(bind_session_id)
        if self.bind_session_id == NO_BIND_SESSION:
            raise Reject(Status.DEVIF_BIND_SESSION_MISMATCH, "the interface is not locked")

    def check_fresh(self, nonce: bytes) -> None:
        """Refuse a verifier's nonce that came before; remember it."""
        if nonce in self.used_nonces:
            raise Reject(Status.OPERAND_INVALID, "the nonce was used before: evidence would not be fresh")
        if len(self.used_nonces) >= MAX_NONCES:
            raise Reject(Status.OPERAND_BUSY, f"{MAX_NONCES} measurements were taken under this lock: lock again")
        self.used_nonces.add(nonce)

    # -- what exchanges with the device bring

    def locked(self, nonce: bytes, parameters: LockParameters, bind_session_id: int) -> None:
        """Take the nonce of a new lock."""
        self._nonce = nonce
        self.bind_session_id = bind_session_id
        self.lock = parameters
        self.used_nonces.clear()
        self._enter(InterfaceState.CONFIG_LOCKED, "LOCK_INTERFACE_RESPONSE")

    def take_nonce(self) -> bytes:
        """Give the nonce for its one use."""
        nonce, self._nonce = self._nonce, None
        if nonce is None:
            raise Reject(Status.DEVIF_TDISP_INVALID_STATE, "the lock's nonce was used: STOP and LOCK again")
        self.had_traffic = True  # it may run from now on, whether or not the device's answer comes
        return nonce

    def started(self) -> None:
        """Know that the interface runs."""
        self._enter(InterfaceState.RUN, "START_INTERFACE_RESPONSE")

    def reported(self, data: bytes, report: DeviceInterfaceReport) -> None:
        """Take the report of this lock."""
        self.report_digest, self.ranges = sha384(data), report.ranges
        self.generation += 1

    def measured(self, data: bytes) -> None:
        """Take measurements."""
        self.measurements_digest = sha384(data)
        self.generation += 1

    def end_lock(self, state: InterfaceState, cause: str) -> None:
        """Forget the lock: on STOP, in ERROR, or when trust in the state is lost."""
        self._nonce = None
        self.bind_session_id = NO_BIND_SESSION
        self.lock = None
        self.validated = False
        self.report_digest, self.ranges = b"", ()
        if self.request is not None and self.request.operation in OF_ONE_LOCK:
            self.request, self.answer, self.failed = None, None, True
        self._enter(state, cause)

    def fail(self, cause: str) -> None:
        """Take a locked interface for lost."""
        if self.state.locked:
            self.end_lock(InterfaceState.ERROR, cause)

    def told(self, state: InterfaceState) -> None:
        """Compare with what the device says of its state; what differs for the better is not believed."""
        if state is self.state:
            return
        if state in (InterfaceState.CONFIG_UNLOCKED, InterfaceState.ERROR):
            self.end_lock(state, "DEVICE_INTERFACE_STATE")
        else:
            self.end_lock(InterfaceState.ERROR, f"the device says {state.name} though the TSM did not bring it there")

    def validate(self) -> None:
        """Know that the TVM has verified the device's key."""
        self.validated = True
        self.generation += 1

    def _enter(self, state: InterfaceState, cause: str) -> None:
        old, self.state = self.state, state
        self.generation += 1
        if old is not state:
            self.observer(StateChanged(self.name, old.name, state.name, cause))

    # -- what the TVM asked for, and what is under way

    def task(self, operation: DevifOperation) -> Task:
        """Name an exchange with this interface."""
        return "TDH.DEVIF", self.function_id, operation

    @property
    def in_exchange(self) -> bool:
        """Whether an exchange with this interface is under way, of whatever call."""
        task = self.stream.spdm.agent.task
        return task is not None and task[0] in _OF_AN_INTERFACE and task[1] == self.function_id

    @property
    def operation_under_way(self) -> DevifOperation | None:
        """The operation whose exchange with this interface is under way."""
        task = self.stream.spdm.agent.task
        return next((operation for operation in DevifOperation if task == self.task(operation)), None)

    def ask(self, request: Request) -> None:
        """Take note of what the TVM wants; a request that was not driven yet is replaced."""
        self.request, self.answer, self.failed = request, None, False

    def asked_for(self, operation: DevifOperation) -> Request | None:
        """Give what the TVM has asked for if it is this, and under the lock that holds now."""
        request = self.request
        if request is None or request.operation is not operation:
            return None
        return request if request.bind_session_id == self.bind_session_id or operation not in OF_ONE_LOCK else None

    def finish(self, operation: DevifOperation, evidence: bytes = b"", *, failed: bool = False) -> None:
        """Note how the exchange that the TVM asked for has ended; one that it did not ask for is nothing to it."""
        if self.request is None or self.request.operation is not operation:
            return
        self.request = None
        self.failed = failed
        self.answer = None if failed else DevifAnswer(operation, self.state, self.bind_session_id, sha384(evidence))

    def info(self) -> DevifInfo:
        """Say what the TSM vouches for now."""
        evidence = self.stream.spdm.agent.evidence
        return DevifInfo(
            state=self.state,
            bind_session_id=self.bind_session_id,
            stream_id=self.stream.stream_id,
            lock_flags=self.lock.flags if self.lock else 0,
            mmio_reporting_offset=self.lock.mmio_reporting_offset if self.lock else 0,
            validated=self.validated,
            generation=self.generation,
            public_key_hash=evidence.public_key_hash if evidence else b"",
            certificate_chain_digest=sha384(evidence.certificate_chain) if evidence else b"",
            vca_digest=sha384(evidence.vca) if evidence else b"",
            measurements_digest=self.measurements_digest if evidence else b"",
            report_digest=self.report_digest,
        )


def unacceptable(report: DeviceInterfaceReport, lock: LockParameters | None) -> str | None:
    """Say why TDX Connect, or with BIND_P2P the peer-to-peer profile, takes no such report, or None."""
    peer_to_peer = lock is not None and bool(lock.flags & LockFlags.BIND_P2P)
    problems = interface_info_problems(report, peer_to_peer=peer_to_peer) + control_problems(report)
    return "; ".join(problems) or None
