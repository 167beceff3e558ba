"""What a peer can make a responder hold: sessions, transcripts, large messages, events. Every one of them is bounded."""

import pytest

from spdm.abuse.examples import Example, examples
from spdm.abuse.records import second_session
from spdm.abuse.scene import LARGEST, MAX_SESSIONS, TRANSFER, Stage, scene_at
from spdm.abuse.snapshot import size, snapshot
from spdm.abuse.verdict import E, error_of
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Version
from teeio.spdm.events import MAX_RECEIVED
from teeio.spdm.transcript import MAX_TRANSCRIPT

TIMES = 12
LATEST = [example for example in examples() if example.version == Version.V1_4]
GROWS = (m.GetCertificate, m.GetMeasurements, m.KeyExchange, m.PskExchange, m.SendEvent)
"""Requests whose exchanges are remembered; the bounds of what holds them are tested one by one."""


@pytest.mark.parametrize("example", LATEST, ids=str)
def test_repetition_holds_no_more(example: Example) -> None:
    scene = example.scene()
    message, held = example.message(scene), []
    if example.row.again is not None:
        return
    for _ in range(TIMES):
        scene.say(message)
        held.append(size(snapshot(scene.pair.responder)))
    if example.row.request not in GROWS:
        assert held[-1] == held[1]
    assert held[-1] <= held[0] + TIMES * (len(message) + TRANSFER)


@pytest.mark.parametrize("version", [version for version in Version if version >= Version.V1_1])
def test_sessions_are_counted(version: int) -> None:
    scene = scene_at(version, Stage.NEGOTIATED)
    r = scene.pair.responder
    for flow in (flows.key_exchange(scene.pair.requester), flows.psk_exchange(scene.pair.requester, b"hint", b"")):
        message = next(flow).request.encode(scene.facts)
        answers = [error_of(scene.say(message)) for _ in range(MAX_SESSIONS + 3)]
        assert len(r.sessions) == MAX_SESSIONS
        assert answers[-1] == (E.SESSION_LIMIT_EXCEEDED, 0)
    assert not any(session.transcript == b"" for session in r.sessions.values())


@pytest.mark.parametrize("code", ["identity", "measurements"])
def test_transcripts_have_a_bound(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_at(Version.V1_3, Stage.NEGOTIATED)
    bound = 4096
    assert bound < MAX_TRANSCRIPT
    monkeypatch.setattr("teeio.spdm.transcript.MAX_TRANSCRIPT", bound)
    request = m.GetCertificate(slot=0, length=0x300) if code == "identity" else m.GetMeasurements(operation=0xFF)
    t = scene.pair.responder.transcript
    for _ in range(32):
        scene.ask(request)
    held = t._b if code == "identity" else t._l[None]
    assert len(held) == bound


@pytest.mark.parametrize("version", [version for version in Version if version >= Version.V1_2])
def test_a_large_request_is_bounded_before_it_is_held(version: int) -> None:
    scene = scene_at(version, Stage.NEGOTIATED)
    large = scene.pair.responder.large
    field = "large_sequence" if version >= Version.V1_4 else "sequence"
    for announced in (LARGEST + 1, 0xFFFF_FFFF):
        answer = scene.ask(m.ChunkSend(handle=1, large_message_size=announced, chunk=bytes(2000)))
        assert error_of(answer) == (E.INVALID_REQUEST, 0)
        assert large.incoming is None
    scene.ask(m.ChunkSend(handle=1, large_message_size=LARGEST, chunk=bytes(2000)))
    for number in range(1, 100):
        scene.ask(m.ChunkSend(handle=1, chunk=bytes(2000), **{field: number}))
        held = large.incoming
        if held is None:
            break
        assert len(held.data) <= LARGEST
    assert number == LARGEST // 2000
    assert large.incoming is None


def test_each_session_holds_one_large_request() -> None:
    scene = scene_at(Version.V1_3, Stage.ESTABLISHED)
    other = second_session(scene)
    for handle in range(8):
        chunk = m.ChunkSend(handle=handle, large_message_size=LARGEST, chunk=bytes(2000)).encode(scene.facts)
        for session in (scene.session, other, None):
            scene.pair.say(chunk, session)
    held = [session.large.incoming for session in scene.pair.responder.sessions.values()]
    assert all(
        incoming is None or len(incoming.data) <= 2000 for incoming in [*held, scene.pair.responder.large.incoming]
    )


def test_received_events_are_bounded() -> None:
    scene = scene_at(Version.V1_3, Stage.ESTABLISHED)
    events = tuple(m.Event(instance_id=number, type_id=4, detail=b"\1") for number in range(100))
    for _ in range(4):
        assert scene.ask(m.SendEvent(events=events))[1] == m.EventAck.CODE
    store = scene.pair.responder.events
    assert store is not None
    assert len(store.received) == MAX_RECEIVED
