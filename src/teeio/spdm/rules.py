"""What is legal when: one row per request, read by the responder, the requester's own checks, the tests and the docs.

DSP0274: "Request codes" (support by capability), "SPDM requests and responses inside a session", transcript rules of each message.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, Flag, IntEnum, auto

from teeio.spdm import messages as m
from teeio.spdm.constants import (
    EP_INFO_CAPABILITIES,
    MEAS_CAPABILITIES,
    PSK_CAPABILITIES,
    SESSION_CAPABILITIES,
    Version,
)
from teeio.spdm.constants import Capability as Cap


class Phase(IntEnum):
    """How far version, capability and algorithm negotiation has come."""

    START = 0
    VERSION_DONE = 1
    CAPABILITIES_DONE = 2
    NEGOTIATED = 3


class Place(Flag):
    """Where a request may travel.

    With HANDSHAKE_IN_THE_CLEAR the handshake of a session travels outside it: there a request is at OUTSIDE and CLEAR_HANDSHAKE both.
    """

    OUTSIDE = auto()
    CLEAR_HANDSHAKE = auto()
    HANDSHAKE = auto()
    ESTABLISHED = auto()


class Effect(Enum):
    """What an exchange does to the transcripts (see `transcript`)."""

    VCA = "enters VCA"
    IDENTITY = "enters B outside sessions"
    CHALLENGE = "completes M1"
    MEASUREMENT = "enters L"
    SESSION = "enters TH; forgets B before a completed CHALLENGE"
    NONE = "enters no transcript"


@dataclass(frozen=True, slots=True)
class Rule:
    """A row. `responder` and `requester`: at least one of these capability bits, none if empty.

    `phase` is the one that the request is legal in, START for any; with `onward` it is legal in the later ones as well.
    """

    request: type[m.Request[m.Response]]
    clause: str
    since: int = Version.V1_0
    phase: Phase = Phase.NEGOTIATED
    place: Place = Place.OUTSIDE
    responder: Cap = Cap(0)
    requester: Cap = Cap(0)
    effect: Effect = Effect.NONE
    onward: bool = False

    def legal_in(self, phase: Phase) -> bool:
        """Tell whether the request is legal in a phase of negotiation."""
        return self.phase in (Phase.START, phase) or (self.onward and self.phase < phase)


_BOTH = Place.OUTSIDE | Place.ESTABLISHED
_ANY = Place.OUTSIDE | Place.HANDSHAKE | Place.ESTABLISHED
V = Version

RULES: tuple[Rule, ...] = (
    Rule(m.GetVersion, "DSP0274 GET_VERSION", phase=Phase.START, effect=Effect.VCA),
    Rule(m.GetCapabilities, "DSP0274 GET_CAPABILITIES", phase=Phase.VERSION_DONE, effect=Effect.VCA),
    Rule(m.NegotiateAlgorithms, "DSP0274 NEGOTIATE_ALGORITHMS", phase=Phase.CAPABILITIES_DONE, effect=Effect.VCA),
    Rule(m.GetDigests, "DSP0274 GET_DIGESTS", place=_BOTH, responder=Cap.CERT, effect=Effect.IDENTITY),
    Rule(m.GetCertificate, "DSP0274 GET_CERTIFICATE", place=_BOTH, responder=Cap.CERT, effect=Effect.IDENTITY),
    Rule(m.Challenge, "DSP0274 CHALLENGE", responder=Cap.CHAL, effect=Effect.CHALLENGE),
    Rule(
        m.GetMeasurements,
        "DSP0274 GET_MEASUREMENTS",
        place=_BOTH,
        responder=MEAS_CAPABILITIES,
        effect=Effect.MEASUREMENT,
    ),
    Rule(
        m.KeyExchange, "DSP0274 KEY_EXCHANGE", V.V1_1, responder=Cap.KEY_EX, requester=Cap.KEY_EX, effect=Effect.SESSION
    ),
    Rule(
        m.Finish,
        "DSP0274 FINISH",
        V.V1_1,
        place=Place.CLEAR_HANDSHAKE | Place.HANDSHAKE,
        responder=Cap.KEY_EX,
        requester=Cap.KEY_EX,
        effect=Effect.SESSION,
    ),
    Rule(
        m.PskExchange,
        "DSP0274 PSK_EXCHANGE",
        V.V1_1,
        responder=PSK_CAPABILITIES,
        requester=Cap.PSK,
        effect=Effect.SESSION,
    ),
    Rule(
        m.PskFinish,
        "DSP0274 PSK_FINISH",
        V.V1_1,
        place=Place.HANDSHAKE,
        responder=Cap.PSK_WITH_CONTEXT,
        requester=Cap.PSK,
        effect=Effect.SESSION,
    ),
    Rule(
        m.Heartbeat,
        "DSP0274 HEARTBEAT",
        V.V1_1,
        place=Place.ESTABLISHED,
        responder=Cap.HBEAT,
        requester=Cap.HBEAT,
        effect=Effect.SESSION,
    ),
    Rule(
        m.KeyUpdate,
        "DSP0274 KEY_UPDATE",
        V.V1_1,
        place=Place.ESTABLISHED,
        responder=Cap.KEY_UPD,
        requester=Cap.KEY_UPD,
        effect=Effect.SESSION,
    ),
    Rule(
        m.EndSession,
        "DSP0274 END_SESSION",
        V.V1_1,
        place=Place.ESTABLISHED,
        responder=SESSION_CAPABILITIES,
        effect=Effect.SESSION,
    ),
    Rule(
        m.GetEncapsulatedRequest,
        "DSP0274 GET_ENCAPSULATED_REQUEST",
        V.V1_1,
        place=_ANY,
        responder=Cap.ENCAP,
        requester=Cap.ENCAP,
        effect=Effect.SESSION,
    ),
    Rule(
        m.DeliverEncapsulatedResponse,
        "DSP0274 DELIVER_ENCAPSULATED_RESPONSE",
        V.V1_1,
        place=_ANY,
        responder=Cap.ENCAP,
        requester=Cap.ENCAP,
        effect=Effect.SESSION,
    ),
    Rule(m.GetCsr, "DSP0274 GET_CSR", V.V1_2, place=_BOTH, responder=Cap.CSR),
    Rule(m.SetCertificate, "DSP0274 SET_CERTIFICATE", V.V1_2, place=_BOTH, responder=Cap.SET_CERT),
    *(
        Rule(request, clause, V.V1_2, Phase.CAPABILITIES_DONE, _ANY, Cap.CHUNK, Cap.CHUNK, onward=True)
        for request, clause in ((m.ChunkSend, "DSP0274 CHUNK_SEND"), (m.ChunkGet, "DSP0274 CHUNK_GET"))
    ),
    Rule(
        m.GetEndpointInfo,
        "DSP0274 GET_ENDPOINT_INFO",
        V.V1_3,
        place=_BOTH,
        responder=EP_INFO_CAPABILITIES,
    ),
    Rule(
        m.GetMeasurementExtensionLog,
        "DSP0274 GET_MEASUREMENT_EXTENSION_LOG",
        V.V1_3,
        place=_BOTH,
        responder=Cap.MEL,
        effect=Effect.SESSION,
    ),
    Rule(m.GetKeyPairInfo, "DSP0274 GET_KEY_PAIR_INFO", V.V1_3, place=_BOTH, responder=Cap.GET_KEY_PAIR_INFO),
    Rule(m.SetKeyPairInfo, "DSP0274 SET_KEY_PAIR_INFO", V.V1_3, place=_BOTH, responder=Cap.SET_KEY_PAIR_INFO),
    Rule(m.GetSupportedEventTypes, "DSP0274 events", V.V1_3, place=Place.ESTABLISHED, responder=Cap.EVENT),
    Rule(m.SubscribeEventTypes, "DSP0274 events", V.V1_3, place=Place.ESTABLISHED, responder=Cap.EVENT),
    Rule(m.SendEvent, "DSP0274 events", V.V1_3, place=Place.ESTABLISHED, requester=Cap.EVENT),
    # SLOT_MGMT_CAP lies in ExtFlags, which no side here offers: the request stays unsupported.
    Rule(m.SlotManagement, "DSP0274 SLOT_MANAGEMENT", V.V1_4, place=_BOTH),
    Rule(m.VendorDefinedRequest, "DSP0274 VENDOR_DEFINED_REQUEST", place=_BOTH),
    Rule(m.RespondIfReady, "DSP0274 RESPOND_IF_READY", place=_ANY),
)

BY_REQUEST: dict[int, Rule] = {rule.request.CODE: rule for rule in RULES}
"""The row of a request by its code."""


class Refusal(Enum):
    """Why a request is not legal now, in the order in which the reasons are looked at."""

    UNKNOWN = "the request code is not defined in the negotiated version"
    NO_CAPABILITY = "the capability for it is not negotiated"
    SESSION_REQUIRED = "it is only legal inside a session"
    PLACE = "it is not legal inside a session of this phase"
    PHASE = "negotiation has not come this far, or has passed it"


def refusal(code: int, version: int, phase: Phase, place: Place, responder: Cap, requester: Cap) -> Refusal | None:
    """Say why the request `code` is not legal here and now, or None if it is.

    `responder` and `requester` are the capability flags exchanged; they bind from the first phase that the request is legal in.
    """
    rule = BY_REQUEST.get(code)
    if rule is None or (phase is not Phase.START and version < rule.since):
        return Refusal.UNKNOWN
    if phase >= rule.phase:
        if rule.responder and not rule.responder & responder:
            return Refusal.NO_CAPABILITY
        if rule.requester and not rule.requester & requester:
            return Refusal.NO_CAPABILITY
    if not rule.place & place:
        return Refusal.SESSION_REQUIRED if place & Place.OUTSIDE else Refusal.PLACE
    if not rule.legal_in(phase):
        return Refusal.PHASE
    return None
