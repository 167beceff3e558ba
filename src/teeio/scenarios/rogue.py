"""The attacker as an SPDM requester of its own: what the VMM, which serves the mailbox, can say to a device itself."""

from __future__ import annotations

from typing import TypeVar

from teeio.errors import Misuse, TransportError
from teeio.flow import Action, Done, Flow, Send, Wait
from teeio.host.tdx.tpa import TPA_SETTINGS
from teeio.host.vmm.mailbox import Mailbox
from teeio.host.vmm.stream_registers import DeviceStream
from teeio.ide_km import flows as ide_km
from teeio.ide_km.messages import KEY_SIZE, Direction, KeySet, KeySlot, key_slots
from teeio.pcie.doe import DoeBinding
from teeio.platform import forked
from teeio.scenarios.stage import STREAM_ID, Stage
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import ErrorCode
from teeio.spdm.requester import Requester
from teeio.spdm.state import Session, Settings
from teeio.tdisp import flows as tdisp
from teeio.tdisp.messages import LockFlags, LockParameters

T = TypeVar("T")

PORT_INDEX = 0
BINDING = DoeBinding()


def said(answer: bytes) -> str:
    """Say what a data object with a plain answer is: ERROR with its code, another message by its name, or nothing."""
    message, secured = BINDING.unwrap(answer) if answer else (b"", False)
    if secured or len(message) < 3:
        return "a protected answer" if secured else "no answer"
    if message[1] != m.Error.CODE:
        return m.name_of(message[1])
    return f"ERROR {ErrorCode(message[2]).name if message[2] in tuple(ErrorCode) else hex(message[2])}"


class Rogue:
    """A requester in the VMM's hands, toward the device of `stage`; each needs a `name` of its own, as its keys follow from it.

    `stream` is the device's end of the stream that it set up last.

    There is one mailbox and so one SPDM connection: what the TSM had set up over it ends when this one connects.
    """

    def __init__(self, stage: Stage, name: str = "rogue", settings: Settings = TPA_SETTINGS) -> None:
        self.stage = stage
        self.mailbox = Mailbox(stage.pf, stage.platform.observer)
        self.entropy = forked(stage.platform.entropy, name)
        observer = stage.platform.observer
        self.requester = Requester(BINDING, settings, self.entropy, observer, name="VMM", peer="device")
        self.session: Session | None = None
        self.stream: DeviceStream

    def run(self, flow: Flow[T], session: Session | None = None) -> T:
        """Run a flow to its end; what it raises comes out."""
        requester = self.requester
        try:
            action = requester.start(flow, self.stage.now(), session.session_id if session else None)
            while not isinstance(action, Done):
                action = self._next(action)
        finally:
            requester.cancel()
        return action.result  # type: ignore[no-any-return]

    def _next(self, action: Send | Wait) -> Action:
        if isinstance(action, Wait):
            return self.requester.wake(action.until)
        answer = self.say(action.frame)
        if not answer:
            self.requester.cancel()
            raise TransportError("the device gave no answer")
        return self.requester.receive(answer, self.stage.now())

    def say(self, data_object: bytes) -> bytes:
        """Put a data object into the mailbox and give the answer, empty if there is none."""
        try:
            return self.mailbox.carry(data_object, self.stage.now())
        except TransportError:
            return b""

    def connect(self) -> Requester:
        """Negotiate and read the certificates."""
        self.run(flows.connect(self.requester))
        digests = self.run(flows.get_digests())
        self.run(flows.get_certificate(self.requester))
        flows.check_digest(self.requester, digests)
        return self.requester

    def open_session(self) -> Session:
        """Connect and set up a session."""
        self.connect()
        self.session = self.run(flows.key_exchange(self.requester))
        return self.session

    def halfway(self, flow: Flow[Session]) -> Session:
        """Begin a session and stop at the answer to the first request: its handshake is not finished."""
        action = self.requester.start(flow, self.stage.now())
        if isinstance(action, Send):
            self.requester.receive(self.say(action.frame), self.stage.now())
        session = list(self.requester.sessions.values())[-1]
        self.requester.cancel()
        session.request_key.sequence = 0  # what the flow would have sent next never left
        return session

    def sealed(self, message: bytes, session: Session | None = None) -> bytes:
        """Protect a message of the session, or of another one; give the data object."""
        session = session or self.session
        if session is None:
            raise Misuse("there is no session", remedy="open_session first")
        record = session.request_key.seal(session.session_id, message, BINDING, self.entropy)
        return BINDING.wrap(record, secured=True)

    def told(self, message: bytes, session: Session | None = None) -> str:
        """Say a message in the session, or in another one; give what came back."""
        return self.understood(self.say(self.sealed(message, session)), session)

    def understood(self, answer: bytes, session: Session | None = None) -> str:
        """Say what an answer is, in the session, or in another one, or in the clear."""
        session = session or self.session
        if session is None or not answer or not BINDING.unwrap(answer)[1]:
            return said(answer)
        return said(BINDING.wrap(session.response_key.open(BINDING.unwrap(answer)[0], BINDING), secured=False))

    def inside(self, flow: Flow[T]) -> T:
        """Run a flow in the session."""
        return self.run(flow, self.session)

    # -- what the TSM would do

    def key_stream(self, slots: list[KeySlot] | None = None, traffic_class: int = 0) -> dict[KeySlot, bytes]:
        """Set up the device's stream registers and program keys, all six unless `slots` says otherwise; give them."""
        self.stream = DeviceStream.free(self.stage.pf, STREAM_ID)
        self.stream.associate(self.stage.pf.root_port, traffic_class=traffic_class)
        wanted = [slot for direction in Direction for slot in key_slots(KeySet.K0, direction)]
        keys = {slot: self.entropy(KEY_SIZE) for slot in (wanted if slots is None else slots)}
        self.inside(ide_km.query(PORT_INDEX))
        self.inside(ide_km.program_keys(PORT_INDEX, STREAM_ID, keys))
        return keys

    def lock(self, flags: LockFlags = LockFlags.NO_FW_UPDATE) -> bytes:
        """Lock the VF; give the nonce."""
        function_id = self.stage.vf.function_id
        self.inside(tdisp.get_version(function_id))
        self.inside(tdisp.get_capabilities(function_id))
        return self.inside(tdisp.lock_interface(function_id, LockParameters(flags=flags, default_stream_id=STREAM_ID)))
