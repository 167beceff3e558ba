"""The same message a second time, sent as a new message: answered anew, or refused as the table of examples says."""

import pytest

from spdm.abuse.examples import Example, examples
from spdm.abuse.snapshot import changed, snapshot
from spdm.abuse.verdict import E, error_of
from teeio.spdm import messages as m

CHANGES = {m.ChunkSend: "large.incoming", m.ChunkGet: "large.outgoing", m.KeyUpdate: "previous_key"}
"""What a refused repetition may still change: a chunk out of order ends the transfer, and the first record under a new key proves it."""

FRESH = (m.Challenge, m.GetMeasurements, m.KeyExchange, m.PskExchange, m.GetEndpointInfo)
"""Requests whose response has random bytes of the responder's own: it never comes twice."""


@pytest.mark.parametrize("example", list(examples()), ids=str)
def test_a_message_that_comes_again(example: Example) -> None:
    scene = example.scene()
    r = scene.pair.responder
    message = example.message(scene)
    first = scene.say(message)
    if first is not None and not example.row.refused:
        example.row.after(scene, message, first)
    before = snapshot(r)
    second = scene.say(message)
    again = example.row.again
    if again is None:
        assert example.row.silent or (second is not None and second[1] == example.answer)
        assert example.row.request not in FRESH or first != second
        return
    data = example.code if again is E.UNSUPPORTED_REQUEST else 0
    assert error_of(second) == (again, data)
    touched = changed(before, snapshot(r))
    assert {name.rpartition(".")[2] for name in touched} <= {CHANGES.get(example.row.request, "").rpartition(".")[2]}
