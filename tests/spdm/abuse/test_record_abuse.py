"""Records of sessions: whose they are, whether they are whole, whether they came before.

A record that does not verify ends the session that it names, and no other one (DSP0277): whoever carries the bytes can end a
session anyway. What cannot be told to belong to a session is dropped, or answered without protection.
"""

import pytest

from spdm.abuse.examples import Example, examples
from spdm.abuse.records import damaged, of_nobody, sealed, second_session, strike, unreadable
from spdm.abuse.scene import INSIDE, Stage, scene_at
from spdm.abuse.verdict import E
from teeio.spdm import messages as m
from teeio.spdm.constants import Version

IN_SESSION = [example for example in examples() if example.stage in INSIDE]
VERSIONS = [version for version in Version if version >= Version.V1_1]
PLACES = [(version, stage) for version in VERSIONS for stage in INSIDE]


@pytest.mark.parametrize("example", IN_SESSION, ids=str)
def test_a_record_that_comes_again_ends_the_session(example: Example) -> None:
    scene = example.scene()
    session = scene.session
    assert session is not None
    message = example.message(scene)
    record = sealed(session, message)
    first = strike(scene, record, session)
    assert first.answer is not None
    example.row.after(scene, message, first.answer)
    second = strike(scene, record, session)
    if first.ended:
        assert (second.error, second.protected, second.ended) == (E.INVALID_SESSION, False, set())
    else:
        assert (second.error, second.protected, second.ended) == (E.DECRYPT_ERROR, True, {session.session_id})


@pytest.mark.parametrize(("version", "stage"), PLACES)
def test_a_damaged_record_ends_the_session_that_it_names(version: int, stage: Stage) -> None:
    scene = scene_at(version, stage)
    assert scene.session is not None
    record = sealed(scene.session, m.Heartbeat().encode(scene.facts))
    for name, wrong in damaged(record):
        scene = scene_at(version, stage)
        other = second_session(scene) if stage is Stage.ESTABLISHED else None
        assert scene.session is not None
        found = strike(scene, wrong, scene.session)
        assert (found.error, found.protected) == (E.DECRYPT_ERROR, True), name
        assert found.ended == {scene.session.session_id}, name
        assert not found.changed, name
        assert other is None or other.session_id in scene.pair.responder.sessions


@pytest.mark.parametrize(("version", "stage"), PLACES)
def test_what_is_no_record_is_dropped(version: int, stage: Stage) -> None:
    scene = scene_at(version, stage)
    assert scene.session is not None
    record = sealed(scene.session, m.Heartbeat().encode(scene.facts))
    for name, wrong in unreadable(record):
        found = strike(scene, wrong, scene.session)
        assert found.answer is None, name
        assert not found.changed | found.ended, name


@pytest.mark.parametrize(("version", "stage"), PLACES)
def test_a_session_that_does_not_exist_is_told_unprotected(version: int, stage: Stage) -> None:
    scene = scene_at(version, stage)
    assert scene.session is not None
    record = sealed(scene.session, m.Heartbeat().encode(scene.facts))
    for wrong in of_nobody(record, set(scene.pair.responder.sessions)):
        found = strike(scene, wrong, None)
        assert (found.error, found.protected) == (E.INVALID_SESSION, False)
        assert not found.changed | found.ended


@pytest.mark.parametrize("version", VERSIONS)
def test_the_keys_of_one_session_open_nothing_in_another(version: int) -> None:
    scene = scene_at(version, Stage.ESTABLISHED)
    mine, other = scene.session, second_session(scene)
    assert mine is not None
    record = sealed(mine, m.Heartbeat().encode(scene.facts))
    found = strike(scene, other.session_id.to_bytes(4, "little") + record[4:], other)
    assert (found.error, found.ended) == (E.DECRYPT_ERROR, {other.session_id})
    assert not found.changed
    assert strike(scene, record, mine).error is None, "the session whose record it was lives on"


ELSEWHERE = {
    m.ChunkSend: E.UNEXPECTED_REQUEST,
    m.ChunkGet: E.INVALID_REQUEST,
    m.DeliverEncapsulatedResponse: E.UNEXPECTED_REQUEST,
    m.RespondIfReady: E.INVALID_REQUEST,
}
"""What goes on with something that another session has begun, and the error that it gets."""
BEGUN = [example for example in IN_SESSION if example.row.request in ELSEWHERE and example.row.variant != "first"]


@pytest.mark.parametrize("example", BEGUN, ids=str)
def test_what_one_session_has_begun_does_not_go_on_in_another(example: Example) -> None:
    scene = scene_at(example.version, example.stage)
    other = second_session(scene)
    example.row.before(scene)
    message = example.message(scene)
    found = strike(scene, sealed(other, message), other)
    assert found.error == ELSEWHERE[example.row.request]
    assert not found.changed | found.ended
    answer = scene.say(message)
    assert answer is not None
    assert answer[1] == example.answer
