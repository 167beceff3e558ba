"""Abuses of the order: versions, codes, capabilities, phases, places. What is looked at first decides (see `Responder`).

The expectations are stated from the rows of `rules`, not by asking `rules.refusal`.
"""

from collections.abc import Iterator
from functools import cache

from spdm.abuse.examples import Example, examples
from spdm.abuse.scene import Scene, Stage, phase_of, place_of
from spdm.abuse.verdict import Abuse, E, Kind
from teeio.spdm import messages as m
from teeio.spdm.constants import Version
from teeio.spdm.rules import BY_REQUEST, Phase, Place, Rule

OF_ENCAPSULATION = (
    m.GetVersion.CODE,
    m.ChunkSend.CODE,
    m.ChunkGet.CODE,
    m.GetEncapsulatedRequest.CODE,
    m.DeliverEncapsulatedResponse.CODE,
)
"""What need not wait for an encapsulated request."""


def versions(example: Example, scene: Scene) -> Iterator[Abuse]:
    """Give a legal message every other version byte."""
    message = example.message(scene)
    for byte in (*Version, 0x00, 0x15, 0x20, 0xFF):
        if byte == message[0]:
            continue
        known = Kind.LOWER_VERSION if byte < message[0] else Kind.HIGHER_VERSION
        kind = known if byte in tuple(Version) else Kind.UNKNOWN_VERSION
        yield Abuse(kind, f"version {byte:#04x}", bytes([byte]) + message[1:], E.VERSION_MISMATCH)


def capabilities(example: Example, scene: Scene) -> Iterator[tuple[Scene, Abuse]]:
    """Take each side's capability for a request away, after it was negotiated for everything else."""
    rule, r = BY_REQUEST[example.code], scene.pair.responder
    if r.connection.phase is not Phase.NEGOTIATED:
        return
    message = example.message(scene)
    for side in ("responder", "requester"):
        bits = getattr(rule, side)
        if bits:
            without = example.scene()
            flags = getattr(without.pair.responder.connection, f"{side}_capabilities") & ~bits
            without.pair.responder.agreed(**{f"{side}_capabilities": flags})
            name = f"without {bits.name} of the {side}"
            yield without, Abuse(Kind.NO_CAPABILITY, name, message, E.UNSUPPORTED_REQUEST, example.code)


def codes(scene: Scene) -> Iterator[Abuse]:
    """Send every code that is no request in any version, responses among them."""
    version = scene.pair.responder.connection.version
    for code in sorted(set(range(256)) - BY_REQUEST.keys()):
        message = bytes([version, code, 0, 0])
        yield Abuse(Kind.UNDEFINED_CODE, f"code {code:#04x}", message, E.UNSUPPORTED_REQUEST, code)


@cache
def _bodies() -> dict[tuple[int, int], bytes]:
    """Give a valid message of each request in each version; the last version's where it has none of its own."""
    found: dict[tuple[int, int], bytes] = {}
    for example in sorted(examples(), key=lambda example: -example.version):
        body = example.message(example.scene())
        for version in Version:
            if version <= example.version:
                found[example.code, version] = body
    return found


def out_of_place(stage: Stage, scene: Scene) -> Iterator[Abuse]:
    """Send each request that is not legal at a stage."""
    for rule in BY_REQUEST.values():
        expected = _expected(rule, stage, scene.version)
        if expected is None:
            continue
        body = _bodies()[rule.request.CODE, scene.version]
        # Before GET_CAPABILITIES no version is in use; its own messages carry 1.0.
        byte = scene.pair.responder.connection.version
        if rule.request is m.GetVersion:
            byte = Version.V1_0
        elif rule.request is m.GetCapabilities:
            byte = scene.version
        error = expected.error(byte)
        assert error is not None
        data = rule.request.CODE if error is E.UNSUPPORTED_REQUEST else 0
        yield Abuse(expected, rule.request.NAME, bytes([byte]) + body[1:], error, data)


def _expected(rule: Rule, stage: Stage, version: int) -> Kind | None:
    """Give why a request is not legal at a stage, in the order in which a responder looks; None if it is legal."""
    in_use = {Phase.START: max(Version), Phase.VERSION_DONE: Version.V1_0}.get(phase_of(stage), version)
    if in_use < rule.since:
        return Kind.NOT_IN_VERSION
    if not rule.place & place_of(stage):
        return Kind.OUTSIDE if place_of(stage) & Place.OUTSIDE else Kind.INSIDE
    if rule.phase is not Phase.START and phase_of(stage) not in _phases(rule):
        return Kind.PHASE
    return None


def _phases(rule: Rule) -> list[Phase]:
    return [phase for phase in Phase if phase is rule.phase or (rule.onward and phase > rule.phase)]


def amid(kind: Kind, free: tuple[int, ...], scene: Scene) -> Iterator[Abuse]:
    """Send what is legal at a stage, but must wait for what is under way there."""
    error = kind.error(scene.version)
    assert error is not None
    for rule in BY_REQUEST.values():
        code = rule.request.CODE
        if code not in free and _expected(rule, scene.stage, scene.version) is None:
            body = _bodies()[code, scene.version]
            yield Abuse(kind, rule.request.NAME, bytes([scene.version]) + body[1:], error)
