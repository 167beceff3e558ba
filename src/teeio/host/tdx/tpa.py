"""The TPA: the architectural TD that speaks SPDM with devices for the TDX module (TDX Connect with a TPA).

One `Agent` holds one SPDM connection to one device, at most one session, and at most one procedure under way. It is
driven one data object at a time: the VMM carries what `Send` holds and brings the device's answer, and can do no more
than lose it. The procedures of the session are here; those of streams and interfaces are `stream_keys` and
`interface_calls`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from teeio.abi.statuses import Status
from teeio.attestation.evidence import STATEMENT_HASH, measurement_object
from teeio.crypto.algorithms import Aead
from teeio.crypto.entropy import Entropy
from teeio.crypto.kdf import digest
from teeio.crypto.keys import public_key_der
from teeio.errors import Incompatible, Misuse, Reject, TeeioError
from teeio.flow import Action, Done, Flow, Send, Wait
from teeio.host.tdx.vendor_messages import observed
from teeio.observe import Observer, ignore
from teeio.pcie.doe import DoeBinding
from teeio.spdm import flows
from teeio.spdm.constants import Capability
from teeio.spdm.requester import Requester
from teeio.spdm.state import Session, Settings

T = TypeVar("T")

Task: TypeAlias = tuple[str, int, int]
"""What is under way: a call, what it is about, and the operation."""

SLOT = 0
"""The certificate slot that the TPA uses."""

TPA_SETTINGS = Settings(aead=(Aead.AES_256_GCM,))
"""What the TPA offers: IDE_KM and TDISP need a session with AES-256-GCM (PCIe Base 11.2.2)."""


def drawn(entropy: Entropy, size: int) -> bytes:
    """Draw randomness. Raises `Reject` (RND_NO_ENTROPY) if there is not enough."""
    try:
        value = entropy(size)
    except (OSError, NotImplementedError) as error:
        raise Reject(Status.RND_NO_ENTROPY, "no randomness") from error
    if len(value) != size:
        raise Reject(Status.RND_NO_ENTROPY, f"{len(value)} random bytes came instead of {size}")
    return value


@dataclass(frozen=True, slots=True)
class DeviceEvidence:
    """What the session set-up has collected; `public_key_hash` is of the key that the session is authenticated by."""

    certificate_chain: bytes
    vca: bytes
    measurements: bytes
    public_key_hash: bytes


class Agent:
    """One SPDM connection of the TPA to the device called `peer`."""

    def __init__(self, settings: Settings, entropy: Entropy, observer: Observer = ignore, peer: str = "device") -> None:
        self.entropy = entropy
        self.observer = observer
        self.evidence: DeviceEvidence | None = None
        self.requester = Requester(DoeBinding(), settings, entropy, observer, name="TPA", peer=peer)
        self._session: Session | None = None
        self._task: Task | None = None
        self._action: Action | None = None

    @property
    def session(self) -> Session | None:
        """The session, if there is one."""
        session = self._session
        return session if session is not None and session.session_id in self.requester.sessions else None

    @property
    def task(self) -> Task | None:
        """What is under way; None if nothing."""
        return self._task

    def need_session(self) -> Session:
        """Give the session. Raises `Reject`."""
        if self.session is None:
            raise Reject(Status.SPDM_SESSION_NOT_PRESENT, "no SPDM session with the device: TDH.SPDM.CONNECT first")
        return self.session

    # -- one data object at a time

    def advance(
        self, task: Task, begin: Callable[[], Flow[T]], response: bytes | None, now: float
    ) -> Send | Wait | Done[T]:
        """Begin `task`, or go on with it. Raises `Reject`, and whatever `TeeioError` ends the procedure."""
        if self._task is None:
            if response is not None:
                raise Reject(Status.OPERAND_INVALID, "a response came though nothing was asked of the device")
            session = self.session
            session_id = session.session_id if session else None
            name, peer = self.requester.name, self.requester.peer
            flow = observed(begin(), self.observer, name, peer, session_id)
            return self._step(task, lambda: self.requester.start(flow, now, session_id))
        if self._task != task:
            raise Reject(Status.OPERAND_BUSY, f"another exchange with the device is under way: {self._task}")
        action = self._action
        if isinstance(action, Wait):
            if response is not None:
                raise Reject(Status.OPERAND_INVALID, "a response came though nothing was asked of the device")
            return action if now < action.until else self._step(task, lambda: self.requester.wake(now))
        if response is None and action is not None:
            return action
        return self._step(task, lambda: self.requester.receive(response or b"", now))

    def _step(self, task: Task, step: Callable[[], Action]) -> Action:
        self._task = self._action = None
        try:
            action = step()
        except Misuse as error:
            # The procedure asks for what this connection cannot do; there is nobody above who could be told.
            raise Reject(Status.SPDM_FAILED, str(error)) from error
        if not isinstance(action, Done):
            self._task, self._action = task, action
        return action

    def abandon(self) -> None:
        """Drop what is under way."""
        self.requester.cancel()
        self._task = self._action = None

    def forget_session(self, cause: str) -> None:
        """Drop the session without telling the device."""
        if self.session is not None:
            self.requester.drop_session(self.session.session_id, cause)
        self._session = None
        self.evidence = None

    # -- procedures of the session

    def connect(self) -> Flow[DeviceEvidence]:
        """Negotiate, authenticate, measure, and set up the session (DSP0274, CMA)."""
        requester = self.requester
        connection = yield from flows.connect(requester)
        if not connection.common_capabilities & Capability.ENCRYPT:
            # The keys of the link travel in the session (PCIe Base 6.33.3, 11.2.2).
            raise Incompatible(
                f"{requester.peer} does not encrypt its sessions", remedy="use a device with ENCRYPT_CAP"
            )
        digests = yield from flows.get_digests()
        chain = yield from flows.get_certificate(requester, SLOT)
        flows.check_digest(requester, digests, SLOT)
        yield from flows.challenge(requester, SLOT)
        measurements = yield from self.measure()
        session = yield from flows.key_exchange(requester, SLOT)
        self._session = session
        key = public_key_der(flows.leaf_key(requester, SLOT))
        self.evidence = DeviceEvidence(chain, requester.transcript.vca, measurements, digest(STATEMENT_HASH, key))
        return self.evidence

    def measure(self, nonce: bytes = b"") -> Flow[bytes]:
        """Get signed measurements under `nonce`, or one of our own; inside the session if there is one."""
        requester, session = self.requester, self.session
        taken = yield from flows.get_measurements(
            requester, slot=SLOT, nonce=nonce, session=session.session_id if session else None
        )
        vca, version = requester.transcript.vca, requester.connection.version
        return measurement_object(taken.transcript, vca, taken.signature, version)

    def recollect(self) -> Flow[DeviceEvidence]:
        """Get the measurements again."""
        measurements = yield from self.measure()
        self.evidence = replace(self._known(), measurements=measurements)
        return self.evidence

    def heartbeat(self) -> Flow[DeviceEvidence]:
        """Keep the session alive."""
        yield from flows.heartbeat(self.need_session())
        return self._known()

    def key_update(self) -> Flow[DeviceEvidence]:
        """Replace the session's data keys, both directions."""
        yield from flows.key_update(self.requester, self.need_session())
        return self._known()

    def disconnect(self) -> Flow[None]:
        """End the session; it ends here even if the device says nothing, or nonsense."""
        try:
            yield from flows.end_session(self.requester, self.need_session())
        except TeeioError:
            return
        finally:
            self.forget_session("END_SESSION")

    def _known(self) -> DeviceEvidence:
        if self.evidence is None:
            raise Reject(Status.SPDM_SESSION_NOT_PRESENT, "no SPDM session with the device")
        return self.evidence
