"""For each request: where it is legal, a valid example of it, and what comes of sending it twice.

A row is (request, stages, example, more). A request of the rules without a row fails `test_table`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from spdm.abuse.scene import HINT, INSIDE, PSK, RESPONDER, Scene, Stage, capabilities_of, scene_at
from spdm_pair import identity
from teeio.crypto.algorithms import BaseAsym
from teeio.spdm import flows, negotiation
from teeio.spdm import messages as m
from teeio.spdm.constants import ErrorCode, KeyUpdateOperation, MutualAuth, SummaryType, Version
from teeio.spdm.encapsulation import ask_requester
from teeio.spdm.events import DMTF_EVENTS, DmtfEvent
from teeio.spdm.mutual import MutualAuthentication
from teeio.spdm.rules import BY_REQUEST

Make = Callable[[Scene], m.Request[Any]]
BOTH = (Stage.NEGOTIATED, Stage.ESTABLISHED)
SMALL = 64


def _nothing(scene: Scene) -> None:
    return None


def _as_it_is(scene: Scene, message: bytes) -> bytes:
    return message


def _no_more(scene: Scene, message: bytes, answer: bytes) -> None:
    return None


@dataclass(frozen=True)
class Row:
    """A valid request.

    `before` prepares the scene, `prove` makes the proof of an edited message good again, `after` brings the requester's end of the
    session in step. `again` is the error that the same message gets when it comes once more, None if it is answered anew. `refused`
    is the error that even the valid example gets; `silent` says that it is dropped. `answer` is the code of the response where it
    does not follow from the request's.
    """

    request: type[m.Request[Any]]
    stages: tuple[Stage, ...]
    make: Make
    variant: str = ""
    since: int = Version.V1_0
    before: Callable[[Scene], None] = _nothing
    prove: Callable[[Scene, bytes], bytes] = _as_it_is
    after: Callable[[Scene, bytes, bytes], None] = _no_more
    again: ErrorCode | None = None
    answer: int | None = None
    refused: ErrorCode | None = None
    silent: bool = False


@dataclass(frozen=True)
class Example:
    """A row in one version and at one stage."""

    row: Row
    version: int
    stage: Stage

    @property
    def code(self) -> int:
        return self.row.request.CODE

    @property
    def answer(self) -> int:
        """The code of the response to the valid request."""
        return self.row.answer or self.code & 0x7F

    def scene(self) -> Scene:
        made = scene_at(self.version, self.stage)
        self.row.before(made)
        return made

    def message(self, scene: Scene) -> bytes:
        return self.row.prove(scene, self.row.make(scene).encode(scene.facts))

    def __str__(self) -> str:
        variant = f" {self.row.variant}" if self.row.variant else ""
        return f"{self.row.request.NAME}{variant}, {Version(self.version).text}, {self.stage.value}"


# -- what a row needs --------------------------------------------------------------------------------------------------


def _first(flow: Any) -> m.Request[Any]:
    """Give the first request of a flow."""
    request: m.Request[Any] = next(flow).request
    return request


def _finished(scene: Scene, message: bytes) -> bytes:
    """Put RequesterVerifyData behind a FINISH or PSK_FINISH."""
    session, size = scene.session, scene.facts.hash_size
    assert session is not None
    covered = session.transcript + message[:-size]
    return message[:-size] + session.schedule.verify_data(session.handshake.request_finished, covered)


def _enter(scene: Scene, message: bytes, answer: bytes) -> None:
    assert scene.session is not None
    scene.session.transcript += message + answer
    scene.session.enter_data()


def _new_key(scene: Scene, message: bytes, answer: bytes) -> None:
    assert scene.session is not None
    scene.session.request_key = scene.session.request_key.updated()


def _challenged(scene: Scene) -> None:
    """Make an encapsulated request pending: basic mutual authentication outside, what the device asks for in a session."""
    r = scene.pair.responder
    if scene.session is not None:
        ask_requester(r, lambda side: flows.get_digests(), scene.session.session_id)
        return
    r.mutual = MutualAuthentication(lambda chain, now: None, MutualAuth.NONE, basic=True)
    assert scene.ask(m.Challenge(slot=0, summary_type=SummaryType.NONE, nonce=bytes(32)))[1] == m.ChallengeAuth.CODE


def _asked(scene: Scene) -> None:
    _challenged(scene)
    assert scene.ask(m.GetEncapsulatedRequest())[1] == m.EncapsulatedRequest.CODE


def _delivery(scene: Scene) -> m.Request[Any]:
    inner = m.Digests(provisioned_slots=1, digests=bytes(scene.facts.hash_size))
    return m.DeliverEncapsulatedResponse(request_id=1, inner=inner.encode(scene.facts))


def _measuring(scene: Scene) -> None:
    r = scene.pair.responder
    r.measurements.ready_at = scene.pair.now + 1
    asked = scene.ask(m.GetMeasurements(operation=0))
    assert asked[1:3] == bytes([m.Error.CODE, ErrorCode.RESPONSE_NOT_READY])
    scene.pair.now += 2


def _token(scene: Scene) -> m.Request[Any]:
    waits = scene.pair.responder._postponed
    assert waits is not None
    return m.RespondIfReady(original_request_code=m.GetMeasurements.CODE, token=waits.token)


def _large_answer(scene: Scene) -> None:
    r = scene.pair.responder
    r.agreed(peer_data_transfer_size=SMALL)
    asked = scene.ask(m.GetMeasurements(operation=0xFF))
    assert asked[1:3] == bytes([m.Error.CODE, ErrorCode.LARGE_RESPONSE])


def _chunk(number: int) -> Make:
    def make(scene: Scene) -> m.Request[Any]:
        field = {"large_sequence" if scene.version >= Version.V1_4 else "sequence": number}
        size = {} if number else {"large_message_size": 200}
        return m.ChunkSend(handle=1, chunk=bytes(60), **field, **size)

    return make


def _chunk_begun(scene: Scene) -> None:
    assert scene.ask(_chunk(0)(scene))[1] == m.ChunkSendAck.CODE


def _get_chunk(scene: Scene) -> m.Request[Any]:
    session = scene.session if scene.stage in INSIDE else None
    large = scene.pair.responder.sessions[session.session_id].large if session else scene.pair.responder.large
    assert large.outgoing is not None
    return m.ChunkGet(handle=large.outgoing.handle)


def _certificate(scene: Scene) -> m.Request[Any]:
    chain = identity(BaseAsym.ECDSA_P384).slots[0].chain(scene.pair.responder.connection.base_hash)
    return m.SetCertificate(slot=0, chain=chain)


def _offer(scene: Scene) -> m.Request[Any]:
    return negotiation.offer(
        scene.pair.requester.settings, scene.version, negotiation.known_flags(RESPONDER, scene.version)
    )


def _vendor(scene: Scene) -> m.Request[Any]:
    return m.VendorDefinedRequest(standard_id=3, vendor_id=b"\x01\x00", payload=b"\x07payload")


def _key_pair(scene: Scene) -> m.Request[Any]:
    return m.SetKeyPairInfo(operation=0, key_pair_id=1, slots=0b1001, pqc=bytes(4))


_EVENT = m.Event(instance_id=0, type_id=DmtfEvent.CERTIFICATE_CHANGED, detail=b"\1")
_AGAIN = ErrorCode.UNEXPECTED_REQUEST
_INVALID = ErrorCode.INVALID_REQUEST
_NEG, _EST = (Stage.NEGOTIATED,), (Stage.ESTABLISHED,)

ROWS: tuple[Row, ...] = (
    Row(m.GetVersion, _NEG, lambda s: m.GetVersion()),
    Row(m.GetCapabilities, (Stage.VERSION,), lambda s: capabilities_of(s.version), again=_AGAIN),
    Row(m.NegotiateAlgorithms, (Stage.CAPABILITIES,), _offer, again=_AGAIN),
    Row(m.GetDigests, BOTH, lambda s: m.GetDigests()),
    Row(m.GetCertificate, BOTH, lambda s: m.GetCertificate(slot=0, length=200)),
    Row(
        m.GetCertificate,
        BOTH,
        lambda s: m.GetCertificate(slot=0, large=1, large_length=200),
        "in the large form",
        Version.V1_4,
    ),
    Row(m.Challenge, _NEG, lambda s: m.Challenge(slot=0, summary_type=SummaryType.ALL, nonce=bytes(32))),
    Row(m.GetMeasurements, BOTH, lambda s: m.GetMeasurements(operation=1)),
    Row(
        m.GetMeasurements,
        BOTH,
        lambda s: m.GetMeasurements(signature_requested=1, operation=1, nonce=bytes(32)),
        "signed",
    ),
    Row(m.KeyExchange, _NEG, lambda s: _first(flows.key_exchange(s.pair.requester))),
    Row(
        m.Finish,
        (Stage.HANDSHAKE, Stage.CLEAR_HANDSHAKE),
        lambda s: m.Finish(verify_data=bytes(s.facts.hash_size)),
        prove=_finished,
        after=_enter,
        again=_AGAIN,
    ),
    Row(m.PskExchange, _NEG, lambda s: _first(flows.psk_exchange(s.pair.requester, HINT, PSK))),
    Row(
        m.PskFinish,
        (Stage.PSK_HANDSHAKE,),
        lambda s: m.PskFinish(verify_data=bytes(s.facts.hash_size)),
        prove=_finished,
        after=_enter,
        again=_AGAIN,
    ),
    Row(m.Heartbeat, _EST, lambda s: m.Heartbeat()),
    Row(
        m.KeyUpdate,
        _EST,
        lambda s: m.KeyUpdate(operation=KeyUpdateOperation.UPDATE_KEY, tag=7),
        after=_new_key,
        again=_INVALID,
    ),
    Row(m.EndSession, _EST, lambda s: m.EndSession(), again=ErrorCode.INVALID_SESSION),
    Row(m.GetEncapsulatedRequest, BOTH, lambda s: m.GetEncapsulatedRequest(), before=_challenged),
    Row(m.DeliverEncapsulatedResponse, _NEG, _delivery, before=_asked, again=_INVALID),
    Row(m.DeliverEncapsulatedResponse, _EST, _delivery, before=_asked, again=_AGAIN),
    Row(m.GetCsr, BOTH, lambda s: m.GetCsr(requester_info=b"\x30\x00")),
    Row(m.SetCertificate, BOTH, _certificate),
    Row(m.ChunkSend, BOTH, _chunk(0), "first", again=_INVALID),
    Row(m.ChunkSend, BOTH, _chunk(1), "second", before=_chunk_begun, again=_INVALID),
    Row(m.ChunkGet, BOTH, _get_chunk, before=_large_answer, again=_INVALID),
    Row(
        m.GetEndpointInfo,
        BOTH,
        lambda s: m.GetEndpointInfo(sub_code=1, slot=0, signature_requested=1, nonce=bytes(32)),
    ),
    Row(m.GetMeasurementExtensionLog, BOTH, lambda s: m.GetMeasurementExtensionLog(offset=0, length=64)),
    Row(m.GetKeyPairInfo, BOTH, lambda s: m.GetKeyPairInfo(key_pair_id=1)),
    Row(m.SetKeyPairInfo, BOTH, _key_pair),
    Row(m.GetSupportedEventTypes, _EST, lambda s: m.GetSupportedEventTypes()),
    Row(
        m.SubscribeEventTypes,
        _EST,
        lambda s: m.SubscribeEventTypes(group_count=1, groups=(DMTF_EVENTS,)),
    ),
    Row(m.SendEvent, _EST, lambda s: m.SendEvent(events=(_EVENT,))),
    Row(
        m.SlotManagement,
        BOTH,
        lambda s: m.SlotManagement(sub_code=0),
        again=ErrorCode.UNSUPPORTED_REQUEST,
        refused=ErrorCode.UNSUPPORTED_REQUEST,
    ),
    Row(m.VendorDefinedRequest, _NEG, _vendor, silent=True),
    Row(m.VendorDefinedRequest, _EST, _vendor),
    Row(
        m.VendorDefinedRequest,
        _EST,
        lambda s: m.VendorDefinedRequest(standard_id=3, vendor_id=b"\x01\x00", large=1, large_payload=b"\x07payload"),
        "in the large form",
        Version.V1_4,
    ),
    Row(m.RespondIfReady, BOTH, _token, before=_measuring, again=_INVALID, answer=m.Measurements.CODE),
)


def examples() -> Iterator[Example]:
    """Yield every row in every version and at every stage that it has."""
    for row in ROWS:
        for version in Version:
            if version < max(row.since, BY_REQUEST[row.request.CODE].since):
                continue
            for stage in row.stages:
                if version >= Version.V1_1 or stage is not Stage.ESTABLISHED:
                    yield Example(row, version, stage)
