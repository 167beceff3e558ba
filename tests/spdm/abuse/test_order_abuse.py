"""Requests in versions, with capabilities, in phases and at places where they are not legal."""

import pytest

from spdm.abuse.examples import ROWS, Example, Row, examples
from spdm.abuse.order import OF_ENCAPSULATION, amid, capabilities, codes, out_of_place, versions
from spdm.abuse.scene import Stage, scene_at, stages_of
from spdm.abuse.verdict import Kind, complaint, complaints
from teeio.spdm import messages as m
from teeio.spdm.constants import Version
from teeio.spdm.handlers import HANDLERS
from teeio.spdm.rules import BY_REQUEST, RULES

EXAMPLES = list(examples())
STAGES = [(version, stage) for version in Version for stage in stages_of(version)]


def row_of(request: type[m.Request[m.Response]]) -> Row:
    return next(row for row in ROWS if row.request is request)


def test_every_request_of_the_rules_has_an_example_in_every_version() -> None:
    for rule in RULES:
        rows = [row for row in ROWS if row.request is rule.request]
        assert rows, f"{rule.request.NAME} has no row in examples.py"
        assert {example.version for example in EXAMPLES if example.row in rows} >= {
            version for version in Version if version >= max(rule.since, Version.V1_1)
        }


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_another_version_byte_is_a_mismatch(example: Example) -> None:
    assert not complaints(example.scene, lambda scene: versions(example, scene))


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_without_the_capability_a_request_is_unsupported(example: Example) -> None:
    found = [complaint(scene, abuse) for scene, abuse in capabilities(example, example.scene())]
    assert not any(found), found


@pytest.mark.parametrize(("version", "stage"), STAGES)
def test_codes_that_are_no_requests(version: int, stage: Stage) -> None:
    assert not complaints(lambda: scene_at(version, stage), codes)


@pytest.mark.parametrize(("version", "stage"), STAGES)
def test_requests_that_are_not_legal_at_a_stage(version: int, stage: Stage) -> None:
    assert not complaints(lambda: scene_at(version, stage), lambda scene: out_of_place(stage, scene))


@pytest.mark.parametrize("version", [version for version in Version if version >= Version.V1_1])
@pytest.mark.parametrize("stage", [Stage.NEGOTIATED, Stage.ESTABLISHED])
def test_other_requests_wait_for_encapsulated_ones(version: int, stage: Stage) -> None:
    example = Example(row_of(m.DeliverEncapsulatedResponse), version, stage)
    assert not complaints(example.scene, lambda scene: amid(Kind.IN_FLIGHT, OF_ENCAPSULATION, scene))


@pytest.mark.parametrize("version", [version for version in Version if version >= Version.V1_2])
@pytest.mark.parametrize("stage", [Stage.NEGOTIATED, Stage.ESTABLISHED])
@pytest.mark.parametrize("variant", ["second", ""], ids=["CHUNK_SEND", "CHUNK_GET"])
def test_nothing_comes_between_chunks(version: int, stage: Stage, variant: str) -> None:
    codes_of = (m.ChunkSend, m.ChunkGet)
    row = next(row for row in ROWS if row.request in codes_of and row.variant == variant)
    example = Example(row, version, stage)
    free = (m.GetVersion.CODE, row.request.CODE)
    assert not complaints(example.scene, lambda scene: amid(Kind.MID_TRANSFER, free, scene))
    scene = example.scene()
    assert (scene.say(example.message(scene)) or b"")[1] == example.answer


def test_every_request_of_the_rules_has_a_handler() -> None:
    """RESPOND_IF_READY is answered by the handler of what it asks for."""
    assert HANDLERS.keys() == BY_REQUEST.keys() - {m.RespondIfReady.CODE}
