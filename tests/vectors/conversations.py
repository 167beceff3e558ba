"""The seeded conversations of our two engines that the vectors lay open."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from teeio.capture.dissect import Dissection, dissect
from teeio.capture.keylog import KeyLogWriter, parse_key_log
from teeio.capture.pcap import LinkType, PcapWriter, read_pcap
from teeio.crypto.algorithms import Suite
from teeio.crypto.certificates import DeviceIdentity, DeviceInfo, Validity
from teeio.crypto.entropy import SeededEntropy
from teeio.flow import Done, Flow, Send
from teeio.observe import Event
from teeio.pcie.doe import DoeBinding
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, SummaryType, Version
from teeio.spdm.device_state import DeviceMeasurements, Identity, Measured, Slot
from teeio.spdm.requester import Requester
from teeio.spdm.responder import Responder
from teeio.spdm.state import Session, Settings

PSK_HINT, PSK = b"vector hint", b"a pre-shared key for vectors"

REQUESTER = Capability.ENCRYPT | Capability.MAC | Capability.KEY_EX | Capability.PSK | Capability.HBEAT
REQUESTER |= Capability.KEY_UPD
RESPONDER = Capability.CERT | Capability.CHAL | Capability.MEAS_SIG | Capability.ENCRYPT | Capability.MAC
RESPONDER |= Capability.KEY_EX | Capability.PSK_WITH_CONTEXT | Capability.HBEAT | Capability.KEY_UPD
CLEAR = Capability.HANDSHAKE_IN_THE_CLEAR


class Noted:
    """Randomness that remembers what it gave, so that private ephemeral keys can be published."""

    def __init__(self, seed: str) -> None:
        self._draw = SeededEntropy(seed.encode())
        self.given: list[bytes] = []

    def __call__(self, size: int) -> bytes:
        value = self._draw(size)
        self.given.append(value)
        return value


@dataclass
class Conversation:
    """Our two engines on a DOE mailbox, with everything that they tell."""

    version: Version
    suite: Suite
    extra: Capability = Capability(0)
    events: list[Event] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)

    def __post_init__(self) -> None:
        seed = f"{self.version.text} {self.suite.base_hash.name} {int(self.extra)}"
        self.binding = DoeBinding()
        self.identity = identity(self.suite)
        offered = replace(Settings(versions=(self.version,)).with_suite(self.suite), data_transfer_size=0x1200)
        offered = replace(offered, max_message_size=0x1200)
        self.entropy = {side: Noted(f"{seed} {side}") for side in ("requester", "responder")}
        self.requester = Requester(
            self.binding,
            replace(offered, capabilities=REQUESTER | self.extra),
            self.entropy["requester"],
            self.events.append,
        )
        self.responder = Responder(
            self.binding,
            (Identity({0: Slot(self.identity.path, self.identity.key)}),),
            DeviceMeasurements(
                [
                    Measured(1, m.MeasurementType.MUTABLE_FIRMWARE, b"firmware 1"),
                    Measured(2, m.MeasurementType.HARDWARE_CONFIGURATION, b"straps", in_tcb=False),
                    Measured(0x10, m.MeasurementType.SECURE_VERSION_NUMBER, bytes([7, *bytes(7)]), always_raw=True),
                ]
            ),
            self.entropy["responder"],
            replace(offered, capabilities=RESPONDER | self.extra, heartbeat_period=10),
            psks={PSK_HINT: PSK},
        )
        self.pcap = PcapWriter(LinkType.PCI_DOE)

    def run(self, flow: Flow[Any]) -> Any:
        action = self.requester.start(flow)
        while not isinstance(action, Done):
            assert isinstance(action, Send)
            answer = self.responder.respond(action.frame)
            assert answer is not None
            self.pcap.add(action.frame, 0.0)
            self.pcap.add(answer, 0.0)
            action = self.requester.receive(answer)
        return action.result

    def keep(self, flow: Flow[Session]) -> Session:
        session = self.run(flow)
        self.sessions.append(session)
        return session  # type: ignore[no-any-return]

    def dissection(self) -> Dissection:
        keys = KeyLogWriter()
        for event in self.events:
            keys(event)
        found = dissect(read_pcap(self.pcap.data()), parse_key_log(keys.text()))
        assert not found.problems, found.problems
        assert not found.wrong(), found.wrong()
        return found


def identity(suite: Suite) -> DeviceIdentity:
    """Make the device identity of all vectors with one suite."""
    return DeviceIdentity.generate(
        DeviceInfo("teeio", "vectors", "0001"),
        SeededEntropy(b"vectors " + suite.base_asym.name.encode()),
        Validity(1.7e9, 4.0e9),
        base_asym=suite.base_asym,
        base_hash=suite.base_hash,
    )


def main_conversation(version: Version, suite: Suite) -> Conversation:
    """Authenticate, measure, and from 1.1 on one session of each kind side by side, with key updates of both kinds."""
    c = Conversation(version, suite)
    requester = c.requester
    c.run(flows.connect(requester))
    c.run(flows.get_digests())
    c.run(flows.get_certificate(requester))
    c.run(flows.challenge(requester, 0, SummaryType.ALL))
    c.run(flows.get_measurements(requester, 1, signed=False))
    c.run(flows.get_measurements(requester))
    if version >= Version.V1_1:
        session = c.keep(flows.key_exchange(requester, 0, SummaryType.TCB))
        c.run(flows.heartbeat(session))
        c.run(flows.key_update(requester, session))
        c.run(flows.get_measurements(requester, 1, session=session.session_id))
        c.run(flows.key_update(requester, session, both=False))
        beside = c.keep(flows.psk_exchange(requester, PSK_HINT, PSK, SummaryType.ALL))
        c.run(flows.heartbeat(beside))
        c.run(flows.end_session(requester, session))
        c.run(flows.end_session(requester, beside))
    return c


def clear_conversation(version: Version, suite: Suite) -> Conversation:
    """Set up a session whose handshake is in the clear, with a chain that is known from before."""
    c = Conversation(version, suite, CLEAR)
    c.run(flows.connect(c.requester))
    c.requester.chains[0] = c.responder.slot(0).chain(suite.base_hash)
    session = c.keep(flows.key_exchange(c.requester))
    c.run(flows.heartbeat(session))
    c.run(flows.end_session(c.requester, session))
    return c
