"""Messages that are malformed by their layout, and messages whose reserved bits are set."""

import pytest

from spdm.abuse.examples import Example, examples
from spdm.abuse.layout import lengths, oversized, reserved, trailing, truncated
from spdm.abuse.values import UNDEFINED, undefined
from spdm.abuse.verdict import complaints, error_of

EXAMPLES = list(examples())
MAKES = (truncated, lengths, trailing, oversized, undefined)


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_malformed_messages_are_refused_and_change_nothing(example: Example, make: object) -> None:
    assert not complaints(example.scene, lambda scene: make(example, scene))  # type: ignore[operator]


def test_every_row_of_undefined_values_meets_an_example() -> None:
    made = {
        (example.row.request, abuse.name.split(" ")[0])
        for example in EXAMPLES
        for abuse in undefined(example, example.scene())
    }
    assert made == {(row.request, row.field) for row in UNDEFINED}


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_the_valid_message_is_answered_after_all_abuses(example: Example) -> None:
    scene = example.scene()
    for make in MAKES:
        for abuse in list(make(example, scene)):
            if not abuse.changes:
                scene.say(abuse.message)
    assert answered(example, scene.say(example.message(scene)))


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_reserved_fields_and_bits_are_ignored(example: Example) -> None:
    answers = {name: example.scene().say(message) for name, message in list(reserved(example, example.scene()))}
    assert [name for name, answer in answers.items() if not answered(example, answer)] == []


def answered(example: Example, answer: bytes | None) -> bool:
    """Tell whether that is the answer to the valid message."""
    if example.row.silent or answer is None:
        return example.row.silent and answer is None
    if example.row.refused is not None:
        return error_of(answer) == (example.row.refused, example.code)
    return answer[1] == example.answer and error_of(answer) is None
