"""A responder with everything, brought to a stage of its life, and copied for every abuse."""

import copy
from dataclasses import dataclass
from enum import Enum
from functools import cache

from fuzz.samples import forked
from spdm_pair import Pair, PlainBinding, identity
from teeio.crypto.algorithms import P384_SUITE, BaseAsym
from teeio.crypto.entropy import SeededEntropy
from teeio.flow import Send
from teeio.spdm import flows, negotiation
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, Version
from teeio.spdm.events import Events
from teeio.spdm.provisioning import KeyPairCapability, Provisioning
from teeio.spdm.rules import Phase, Place
from teeio.spdm.state import MUTUAL_CAPABILITIES, REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, Session

P256 = BaseAsym.ECDSA_P256
HINT, PSK = b"hint", b"pre-shared key"
RESPONDER = RESPONDER_CAPABILITIES | MUTUAL_CAPABILITIES | Capability.CSR | Capability.SET_CERT | Capability.EVENT
RESPONDER |= Capability.MEL | Capability.EP_INFO_SIG | Capability.PSK_WITH_CONTEXT | Capability.LARGE_RESP
RESPONDER |= Capability.GET_KEY_PAIR_INFO | Capability.SET_KEY_PAIR_INFO
REQUESTER = REQUESTER_CAPABILITIES | MUTUAL_CAPABILITIES | Capability.PSK | Capability.LARGE_RESP | Capability.EVENT
CLEAR = Capability.HANDSHAKE_IN_THE_CLEAR
TRANSFER = 4608
LARGEST = 0x3000
MAX_SESSIONS = 4


class Stage(Enum):
    """How far a connection has come, and where its messages travel."""

    START = "nothing said"
    VERSION = "after VERSION"
    CAPABILITIES = "after CAPABILITIES"
    NEGOTIATED = "negotiated"
    CLEAR_HANDSHAKE = "handshake in the clear"
    HANDSHAKE = "handshake"
    PSK_HANDSHAKE = "handshake on a pre-shared key"
    ESTABLISHED = "established"


PHASES = {Stage.START: Phase.START, Stage.VERSION: Phase.VERSION_DONE, Stage.CAPABILITIES: Phase.CAPABILITIES_DONE}
"""Phase of negotiation by stage; `NEGOTIATED` for the others."""

PLACES = {
    Stage.CLEAR_HANDSHAKE: Place.OUTSIDE | Place.CLEAR_HANDSHAKE,
    Stage.HANDSHAKE: Place.HANDSHAKE,
    Stage.PSK_HANDSHAKE: Place.HANDSHAKE,
    Stage.ESTABLISHED: Place.ESTABLISHED,
}
"""Where messages of a stage travel; `OUTSIDE` in the others."""

INSIDE = (Stage.HANDSHAKE, Stage.PSK_HANDSHAKE, Stage.ESTABLISHED)


def phase_of(stage: Stage) -> Phase:
    return PHASES.get(stage, Phase.NEGOTIATED)


def place_of(stage: Stage) -> Place:
    return PLACES.get(stage, Place.OUTSIDE)


class TightBinding(PlainBinding):
    """A binding that pads nothing: each byte too many is one."""

    max_transport_padding = 0


class Echo:
    """A vendor protocol."""

    standard_id = 3
    vendor_id = b"\x01\x00"
    protocol_id = 7

    def respond(self, session_id: int, message: bytes, now: float) -> bytes | None:
        return message

    def session_ended(self, session_id: int) -> None:
        """Nothing hangs on the session."""


@dataclass
class Scene:
    """A pair at a stage; `session` is the requester's end of the session that messages travel in."""

    pair: Pair
    version: int
    stage: Stage
    session: Session | None = None

    @property
    def facts(self) -> m.Facts:
        negotiated = phase_of(self.stage) is Phase.NEGOTIATED
        return self.pair.requester.connection.facts if negotiated else m.Facts(version=self.version)

    def say(self, message: bytes) -> bytes | None:
        """Send a message where those of the stage travel; give the plain answer."""
        return self.pair.say(message, self.session if self.stage in INSIDE else None)

    def ask(self, request: m.Request[m.Response]) -> bytes:
        answer = self.say(request.encode(self.facts))
        assert answer is not None, "the responder stayed silent"
        return answer

    def fork(self) -> "Scene":
        """Copy both ends."""
        pair = copy.copy(self.pair)
        pair.requester, pair.responder = forked((self.pair.requester, self.pair.responder))
        pair.requester.entropy, pair.responder.entropy = SeededEntropy(b"requester"), SeededEntropy(b"responder")
        session = self.session and pair.requester.sessions[self.session.session_id]
        return Scene(pair, self.version, self.stage, session)


def _pair(version: int, extra: Capability) -> Pair:
    found = (identity(BaseAsym.ECDSA_P384), identity(P256))
    sizes = {"data_transfer_size": TRANSFER, "max_message_size": LARGEST}
    made = Pair(
        version,
        P384_SUITE,
        {"versions": (version,), "capabilities": RESPONDER | extra, "max_sessions": MAX_SESSIONS, **sizes},
        {"capabilities": REQUESTER | extra, "req_base_asym": (P256,)},
        vendor_protocols=(Echo(),),
        requester_identities=(P256,),
        device={
            "provisioning": Provisioning.of(found, capabilities=KeyPairCapability(0x3F), trusted_environment=True),
            "events": Events(),
            "device_classes": (m.DeviceClass(registry=3, vendor=b"\x01\x00"),),
        },
    )
    made.requester.binding = made.responder.binding = TightBinding()
    return made


def capabilities_of(version: int) -> m.GetCapabilities:
    """Make the GET_CAPABILITIES of the scenes."""
    return m.GetCapabilities(
        ct_exponent=20,
        flags=negotiation.known_flags(REQUESTER, version),
        data_transfer_size=TRANSFER,
        max_message_size=LARGEST,
    )


def _unfinished(pair: Pair, *, psk: bool = False) -> Session:
    """Go as far as the first response of a handshake; what would follow is never sent."""
    requester = pair.requester
    flow = flows.psk_exchange(requester, HINT, PSK) if psk else flows.key_exchange(requester)
    action = requester.start(flow)
    assert isinstance(action, Send)
    requester.receive(pair.carry(action.frame))
    (session,) = requester.sessions.values()
    session.request_key.sequence = 0
    return session


@cache
def _base(version: int, stage: Stage) -> Scene:
    """Make a scene, which is only ever copied."""
    pair = _pair(version, CLEAR if stage is Stage.CLEAR_HANDSHAKE else Capability(0))
    scene = Scene(pair, version, stage)
    if stage in (Stage.VERSION, Stage.CAPABILITIES):
        assert scene.ask(m.GetVersion())[1] == m.VersionResponse.CODE
    if stage is Stage.CAPABILITIES:
        assert scene.ask(capabilities_of(version))[1] == m.Capabilities.CODE
    if phase_of(stage) is Phase.NEGOTIATED:
        pair.authenticate()
    if stage in (Stage.HANDSHAKE, Stage.PSK_HANDSHAKE, Stage.CLEAR_HANDSHAKE):
        scene.session = _unfinished(pair, psk=stage is Stage.PSK_HANDSHAKE)
    elif stage is Stage.ESTABLISHED:
        scene.session = pair.run(flows.key_exchange(pair.requester))
    return scene


def scene_at(version: int, stage: Stage) -> Scene:
    """Give a fresh copy of the scene at a stage."""
    return _base(version, stage).fork()


def stages_of(version: int) -> list[Stage]:
    """List the stages that a version has."""
    return [stage for stage in Stage if version >= Version.V1_1 or stage not in (*INSIDE, Stage.CLEAR_HANDSHAKE)]
