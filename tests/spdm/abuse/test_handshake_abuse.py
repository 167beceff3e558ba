"""Attacks on the end of a handshake: the wrong FINISH, a wrong or borrowed proof, data before it.

A handshake that was tampered with is over: the ERROR comes, and the session is gone.
"""

import pytest

from spdm.abuse.examples import ROWS, Example
from spdm.abuse.records import sealed, strike
from spdm.abuse.scene import Stage, scene_at
from spdm.abuse.verdict import E
from teeio.spdm import messages as m
from teeio.spdm.binding import OtherApplication
from teeio.spdm.constants import Version

VERSIONS = [version for version in Version if version >= Version.V1_1]
STAGES = {m.Finish: Stage.HANDSHAKE, m.PskFinish: Stage.PSK_HANDSHAKE}


def example_of(request: type[m.Request[m.Response]], version: int, stage: Stage) -> Example:
    return Example(next(row for row in ROWS if row.request is request), version, stage)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("request_", "stage"), [(m.Finish, Stage.PSK_HANDSHAKE), (m.PskFinish, Stage.HANDSHAKE)])
def test_the_finish_of_the_other_kind(version: int, request_: type[m.Request[m.Response]], stage: Stage) -> None:
    """Its proof is even right for the session."""
    example = example_of(request_, version, stage)
    scene = example.scene()
    assert scene.session is not None
    found = strike(scene, sealed(scene.session, example.message(scene)), scene.session)
    assert (found.error, found.ended) == (E.UNEXPECTED_REQUEST, {scene.session.session_id})
    assert not found.changed


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("request_", STAGES)
def test_a_proof_that_does_not_verify(version: int, request_: type[m.Request[m.Response]]) -> None:
    example = example_of(request_, version, STAGES[request_])
    message = example.message(example.scene())
    size = example.scene().facts.hash_size
    for at in (-size, -size // 2, -1):
        scene = example.scene()
        assert scene.session is not None
        wrong = bytearray(message)
        wrong[at] ^= 1
        found = strike(scene, sealed(scene.session, bytes(wrong)), scene.session)
        assert (found.error, found.ended) == (E.DECRYPT_ERROR, {scene.session.session_id})
        assert not found.changed


@pytest.mark.parametrize("version", VERSIONS)
def test_the_proof_of_another_handshake(version: int) -> None:
    scene = scene_at(version, Stage.HANDSHAKE)
    other = scene_at(version, Stage.PSK_HANDSHAKE)
    borrowed = example_of(m.PskFinish, version, Stage.PSK_HANDSHAKE).message(other)
    proof = borrowed[-scene.facts.hash_size :]
    assert scene.session is not None
    message = m.Finish(verify_data=proof).encode(scene.facts)
    found = strike(scene, sealed(scene.session, message), scene.session)
    assert (found.error, found.ended) == (E.DECRYPT_ERROR, {scene.session.session_id})


@pytest.mark.parametrize("version", VERSIONS)
def test_a_signature_that_nobody_asked_for(version: int) -> None:
    scene = scene_at(version, Stage.HANDSHAKE)
    facts = scene.facts
    assert scene.session is not None
    request = m.Finish(
        signature_included=1, signature=bytes(facts.req_signature_size), verify_data=bytes(facts.hash_size)
    )
    found = strike(scene, sealed(scene.session, request.encode(facts)), scene.session)
    assert (found.error, found.ended) == (E.INVALID_REQUEST, {scene.session.session_id})
    assert not found.changed


@pytest.mark.parametrize("stage", STAGES.values())
def test_data_of_other_protocols_before_the_proof_is_dropped(stage: Stage) -> None:
    scene = scene_at(Version.V1_3, stage)
    taken: list[bytes] = []

    def other(data: bytes) -> bytes:
        raise OtherApplication("Test", "type", "another protocol", data)

    binding = scene.pair.responder.binding
    binding.unwrap_application = other  # type: ignore[method-assign]
    scene.pair.responder.application = lambda data: taken.append(data) or data  # type: ignore[func-returns-value]
    try:
        assert scene.session is not None
        found = strike(scene, sealed(scene.session, b"not SPDM"), scene.session)
    finally:
        del binding.unwrap_application
    assert found.answer is None
    assert not taken
    assert not found.changed | found.ended
