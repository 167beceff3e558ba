"""Answers that are malformed, of another version or code, or older ones: what a requester makes of them.

It raises `PeerViolation`, `DecodeError` or `AuthenticationFailed` and nothing else, learns nothing from such an answer, and can go on.
A session lives on if the answer was protected, except amid an operation that both sides must finish: KEY_UPDATE and END_SESSION. An
older record ends it.
"""

from collections.abc import Iterator

import pytest

from spdm.abuse.answers import Edit, Story, Way, layout_of, stories
from spdm.abuse.layout import LENGTHS, places
from spdm.abuse.scene import Scene, Stage, scene_at
from teeio.errors import AuthenticationFailed, DecodeError, PeerViolation
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Version
from teeio.wire import REST

STORIES = list(stories())
ALLOWED = (PeerViolation, DecodeError, AuthenticationFailed)
OTHERS = (m.VersionResponse, m.Digests, m.ChallengeAuth, m.HeartbeatAck, m.ChunkSendAck, m.VendorDefinedResponse)
ENDING = ("key_update", "end_session")
"""Flows after which the two sides may differ about the session."""
TOLERATED = {"public_key_info_length", "pqc_capabilities_length", "current_pqc_length"}
"""Lengths of KEY_PAIR_INFO that may be any in 1.4: the masks at its end are of no fixed size, and bytes may follow.

What the DMTF reference sends as PublicKeyInfo is not always DER, so that does not tell a wrong length either.
"""
Damage = tuple[str, bytes]


def honest(story: Story) -> Way:
    way = Way(scene_at(story.version, story.stage))
    way.run(story.start)
    return way


def cuts(answer: bytes, facts: m.Facts) -> Iterator[Damage]:
    cls, found = layout_of(answer, facts)
    for place in places(cls, answer, found):
        if place.field.size == REST:
            continue
        for at in {place.start, (place.start + place.end) // 2}:
            if at < len(answer):
                yield f"cut at byte {at}, in {place.path}", answer[:at]


def lengths(answer: bytes, facts: m.Facts) -> Iterator[Damage]:
    cls, found = layout_of(answer, facts)
    for place in places(cls, answer, found):
        if place.field.kind not in LENGTHS or not place.field.present(found.version) or place.path in TOLERATED:
            continue
        size = place.end - place.start
        value = int.from_bytes(answer[place.start : place.end], "little")
        for wrong in dict.fromkeys((0, value - 1, value + 1, (1 << 8 * size) - 1)):
            if wrong != value and 0 <= wrong < 1 << 8 * size:
                edited = answer[: place.start] + wrong.to_bytes(size, "little") + answer[place.end :]
                yield f"{place.path} is {wrong}, not {value}", edited


def heads(answer: bytes, facts: m.Facts) -> Iterator[Damage]:
    """Other versions and codes, and bytes behind the answer."""
    for version in (*Version, 0x00, 0xFF):
        if version != answer[0]:
            yield f"version {version:#04x}", bytes([version]) + answer[1:]
    for code in (answer[1] | 0x80, *(other.CODE for other in OTHERS)):
        if code != answer[1]:
            yield f"code {code:#04x}", answer[:1] + bytes([code]) + answer[2:]
    cls, _ = layout_of(answer, facts)
    if not any(field.size == REST for field in cls.FIELDS):
        yield "a byte more", answer + b"\0"


@pytest.mark.parametrize("make", [cuts, lengths, heads], ids=lambda make: make.__name__)
@pytest.mark.parametrize("story", STORIES, ids=str)
def test_a_bad_answer_is_refused_and_teaches_nothing(story: Story, make: object) -> None:
    way = honest(story)
    facts = way.scene.pair.requester.connection.facts
    found = []
    for at, answer in enumerate(way.seen):
        for name, bad in make(answer, facts):  # type: ignore[operator]
            complaint = _complaint(story, at, lambda _, bad=bad: bad)  # type: ignore[misc]
            found += [f"answer {at}, {name}: {complaint}"] if complaint else []
    assert not found


def _complaint(story: Story, at: int, edit: Edit) -> str:
    scene = scene_at(story.version, story.stage)
    requester = scene.pair.requester
    before = (requester.connection, dict(requester.chains), set(requester.sessions))
    way = Way(scene, at, edit)
    try:
        way.run(story.start)
    except ALLOWED:
        pass
    except Exception as error:
        return f"raised {error!r}"
    else:
        return "was accepted"
    after = (requester.connection, dict(requester.chains), set(requester.sessions))
    if story.stage is not Stage.START and (after[:2] != before[:2] or not after[2] <= before[2]):
        return "taught the requester something"
    if story.stage is Stage.ESTABLISHED and bool(after[2]) is (story.name in ENDING):
        return "ended the session" if not after[2] else "left the session alive"
    return _unfit(scene)


def _unfit(scene: Scene) -> str:
    """Go on with an honest responder; say what fails."""
    pair = scene.pair
    way = Way(scene)
    pair.carry = way.carry  # type: ignore[method-assign]
    try:
        if scene.session is not None and scene.session.session_id in pair.requester.sessions:
            pair.run(flows.heartbeat(scene.session))
        if scene.stage is not Stage.START:
            pair.run(flows.get_digests())
        pair.run(flows.connect(pair.requester))
    except Exception as error:
        return f"unfit afterwards: {error!r}"
    return ""


UNSIGNED = (
    "connect",
    "get_digests",
    "get_certificate",
    "get_csr",
    "get_key_pair_info",
    "get_measurement_extension_log",
)
"""Flows whose answers nothing signs outside a session: an older one counts until a later signature covers it, if any does."""


@pytest.mark.parametrize("story", [story for story in STORIES if story.stage is Stage.ESTABLISHED], ids=str)
def test_an_older_record_ends_the_session(story: Story) -> None:
    scene = scene_at(story.version, story.stage)
    assert scene.session is not None
    earlier = Way(scene)
    scene.pair.carry = earlier.carry  # type: ignore[method-assign]
    scene.pair.run(flows.heartbeat(scene.session))
    scene.pair.carry = lambda frame: scene.pair.responder.respond(frame) and earlier.frames[0]  # type: ignore[method-assign, assign, return-value]
    with pytest.raises(AuthenticationFailed):
        scene.pair.run(story.start(scene), scene.session.session_id)
    assert not scene.pair.requester.sessions


@pytest.mark.parametrize(
    "story",
    [story for story in STORIES if story.stage is not Stage.ESTABLISHED and story.name not in UNSIGNED],
    ids=str,
)
def test_an_older_answer_does_not_authenticate(story: Story) -> None:
    first = honest(story)
    scene = scene_at(story.version, story.stage)
    scene.pair.requester.entropy = lambda size: bytes(range(size % 251)).ljust(size, b"\1")  # type: ignore[assignment]
    way = Way(scene, 0, lambda _: first.seen[0])
    with pytest.raises(ALLOWED):
        way.run(story.start)
