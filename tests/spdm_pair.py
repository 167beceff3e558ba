"""A requester and a responder joined by function calls, for tests."""

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar

from teeio.crypto.algorithms import P384_SUITE, BaseAsym, BaseHash, Suite
from teeio.crypto.certificates import DeviceIdentity, DeviceInfo, Validity
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import Asym, PublicKey
from teeio.flow import Done, Flow, Send
from teeio.observe import Event
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Version
from teeio.spdm.device_state import DeviceMeasurements, Identity, Measured, Slot
from teeio.spdm.mutual import MutualAuthentication
from teeio.spdm.requester import Requester
from teeio.spdm.responder import Responder
from teeio.spdm.state import RESPONDER_CAPABILITIES, Session, Settings

T = TypeVar("T")


class PlainBinding:
    """A binding for tests: one byte says whether the rest is secured."""

    name = "plain"
    sequence_number_size = 2
    max_random_padding = 8
    max_transport_padding = 3
    max_message = 1 << 32

    def wrap(self, message: bytes, secured: bool) -> bytes:
        return bytes([secured]) + message

    def unwrap(self, frame: bytes) -> tuple[bytes, bool]:
        return frame[1:], frame[:1] == b"\1"

    def wrap_application(self, message: bytes) -> bytes:
        return message

    def unwrap_application(self, data: bytes) -> bytes:
        return data


@cache
def _identity(kind: type, value: int, seed: bytes) -> Identity:
    algorithm: Asym = kind(value)
    base_hash = BaseHash.SHA_256 if algorithm is BaseAsym.ECDSA_P256 else BaseHash.SHA_384
    made = DeviceIdentity.generate(
        DeviceInfo("Acme", "Accelerator", "0001"),
        SeededEntropy(seed),
        Validity(1.7e9, 2.5e9),
        base_asym=algorithm,
        base_hash=base_hash,
    )
    return Identity({0: Slot(made.path, made.key), 3: Slot(made.path, made.key)})


def identity(algorithm: Asym = BaseAsym.ECDSA_P384, seed: bytes = b"identity") -> Identity:
    return _identity(type(algorithm), int(algorithm), seed)


def _identities(wanted: tuple[Asym | Identity, ...]) -> tuple[Identity, ...]:
    return tuple(one if isinstance(one, Identity) else identity(one) for one in wanted)


def measurements() -> DeviceMeasurements:
    return DeviceMeasurements(
        [
            Measured(1, m.MeasurementType.MUTABLE_FIRMWARE, b"firmware 1"),
            Measured(2, m.MeasurementType.HARDWARE_CONFIGURATION, b"straps", in_tcb=False),
            Measured(0x10, m.MeasurementType.SECURE_VERSION_NUMBER, (7).to_bytes(8, "little"), always_raw=True),
        ]
    )


@dataclass
class Pair:
    """Both ends. `tamper` may change what travels: it is given ("req" or "rsp", frame)."""

    version: int = Version.V1_2
    suite: Suite = P384_SUITE
    responder_changes: dict[str, Any] = field(default_factory=dict)
    requester_changes: dict[str, Any] = field(default_factory=dict)
    vendor_protocols: tuple[Any, ...] = ()
    identities: tuple[Asym | Identity, ...] = (BaseAsym.ECDSA_P384, BaseAsym.ECDSA_P256)
    requester_identities: tuple[Asym | Identity, ...] = ()
    peer_keys: tuple[PublicKey, ...] = ()
    mutual: MutualAuthentication | None = None
    device: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    frames: list[tuple[str, bytes]] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self) -> None:
        offered = Settings(versions=(self.version,)).with_suite(self.suite)
        self.requester = Requester(
            PlainBinding(),
            replace(offered, **self.requester_changes),
            SeededEntropy(b"requester"),
            self.events.append,
            identities=_identities(self.requester_identities),
            peer_keys=self.peer_keys,
        )
        serving = replace(Settings(capabilities=RESPONDER_CAPABILITIES, heartbeat_period=10), **self.responder_changes)
        self.responder = Responder(
            PlainBinding(),
            _identities(self.identities),
            measurements(),
            SeededEntropy(b"responder"),
            serving,
            self.vendor_protocols,
            psks={b"hint": b"pre-shared key"},
            mutual=self.mutual,
            **self.device,
        )

    def tamper(self, direction: str, frame: bytes) -> bytes:
        return frame

    def carry(self, frame: bytes) -> bytes:
        frame = self.tamper("req", frame)
        self.frames.append(("req", frame))
        answer = self.responder.respond(frame, self.now)
        assert answer is not None, "the responder stayed silent"
        answer = self.tamper("rsp", answer)
        self.frames.append(("rsp", answer))
        return answer

    def run(self, flow: Flow[T], session: int | None = None) -> T:
        action = self.requester.start(flow, self.now, session)
        while not isinstance(action, Done):
            if isinstance(action, Send):
                action = self.requester.receive(self.carry(action.frame), self.now)
            else:
                self.now = action.until
                action = self.requester.wake(self.now)
        return action.result  # type: ignore[no-any-return]

    def authenticate(self) -> None:
        self.run(flows.connect(self.requester))
        self.run(flows.get_digests())
        self.run(flows.get_certificate(self.requester))

    def open_session(self) -> Session:
        self.authenticate()
        return self.run(flows.key_exchange(self.requester))

    def say(self, message: bytes, session: Session | None = None) -> bytes | None:
        """Send raw bytes as a plain or as a secured message; give the plain answer."""
        binding = PlainBinding()
        if session is None:
            answer = self.responder.respond(binding.wrap(message, secured=False), self.now)
            return None if answer is None else answer[1:]
        record = session.request_key.seal(session.session_id, message, binding, SeededEntropy(b"raw"))
        answer = self.responder.respond(binding.wrap(record, secured=True), self.now)
        if answer is None:
            return None
        return session.response_key.open(answer[1:], binding) if answer[0] else answer[1:]
