"""Abuses made from the declared layouts, by editing encoded bytes by field: truncation, lengths, trailing bytes, reserved bits."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from spdm.abuse.examples import Example
from spdm.abuse.scene import TRANSFER, Scene
from spdm.abuse.verdict import Abuse, E, Kind
from teeio.spdm import messages as m
from teeio.spdm.constants import ErrorCode, Version
from teeio.spdm.messages.base import HEADER_SIZE
from teeio.wire import REST, Field, Record

LENGTHS = ("length", "count", "total")


MALFORMED_CHANGES = {m.GetMeasurements: frozenset({"{l}"})}
"""Any ERROR to GET_MEASUREMENTS starts L anew, as in the DMTF reference; a malformed request changes nothing else."""

CONTENT = {m.DeliverEncapsulatedResponse: {"inner": (ErrorCode.INVALID_RESPONSE_CODE, frozenset({"pending"}))}}
"""Fields that are messages of their own: what a bad one gets, and what it may change (the flow that asked for it is over)."""

RESERVED_IN_FORM = {("in the large form", "payload_length")}
"""(variant, field) of lengths that mean nothing in a form of the message."""


class Place(NamedTuple):
    """A declared field in encoded bytes, by its path."""

    path: str
    field: Field
    start: int
    end: int


def places(cls: type[Record], message: bytes, facts: Any) -> list[Place]:
    """Find every field of a message, nested ones too."""
    return [
        Place(span.field, field, span.start, span.end)
        for span in cls.spans(message, facts)
        for field in (_field(cls, span.field),)
        if field is not None
    ]


def _field(cls: type[Record], path: str) -> Field | None:
    first, _, rest = path.partition(".")
    name = first.split("[")[0].split("/")[0]
    field = next((field for field in cls.FIELDS if field.name == name), None)
    if rest and field is not None and isinstance(field.item, type):
        return _field(field.item, rest)
    return field


def truncated(example: Example, scene: Scene) -> Iterator[Abuse]:
    """Cut a message off before and within each field."""
    cls, message = example.row.request, example.message(scene)
    cuts: dict[int, str] = {}
    for place in places(cls, message, scene.facts):
        for at in (place.start, (place.start + place.end) // 2, place.end - 1):
            if place.start <= at < len(message):
                cuts.setdefault(at, place.path)
    for at, path in cuts.items():
        yield _malformed(example, Kind.TRUNCATED, path, message[:at], f"cut at byte {at}, in {path}")


def lengths(example: Example, scene: Scene) -> Iterator[Abuse]:
    """Set each length and count to 0, one less, one more and the most."""
    cls, message = example.row.request, example.message(scene)
    for place in places(cls, message, scene.facts):
        if place.field.kind not in LENGTHS or _reserved_mask(example, place):
            continue
        size = place.end - place.start
        value = int.from_bytes(message[place.start : place.end], "little")
        for wrong in dict.fromkeys((0, value - 1, value + 1, (1 << 8 * size) - 1)):
            if wrong == value or not 0 <= wrong < 1 << 8 * size:
                continue
            edited = message[: place.start] + wrong.to_bytes(size, "little") + message[place.end :]
            text = f"{place.path} is {wrong}, not {value}"
            yield _malformed(example, Kind.LENGTH, place.path, edited, text)


def trailing(example: Example, scene: Scene) -> Iterator[Abuse]:
    """Put bytes behind a message whose end its layout knows."""
    cls, message = example.row.request, example.message(scene)
    if any(field.size == REST for field in cls.FIELDS):
        return
    for size in (1, 4, 300):
        yield _malformed(example, Kind.TRAILING, "(end)", message + bytes(size), f"{size} bytes more")


def oversized(example: Example, scene: Scene) -> Iterator[Abuse]:
    """Send more than DataTransferSize (1.2) in one piece."""
    if scene.pair.responder.connection.version < Version.V1_2:
        return
    message = example.message(scene)
    for size in (TRANSFER + 1, 0xF000):
        yield _malformed(example, Kind.OVERSIZED, "(size)", message.ljust(size, b"\0"), f"{size} bytes in all")


def reserved(example: Example, scene: Scene) -> Iterator[tuple[str, bytes]]:
    """Set reserved fields and bits, each by itself: give what was set, and the message with its proof made good."""
    cls, message = example.row.request, example.message(scene)
    for place in places(cls, message, scene.facts):
        mask = _reserved_mask(example, place)
        if not mask:
            continue
        old = int.from_bytes(message[place.start : place.end], "little")
        edited = (old | mask).to_bytes(place.end - place.start, "little")
        yield place.path, example.row.prove(scene, message[: place.start] + edited + message[place.end :])


def _reserved_mask(example: Example, place: Place) -> int:
    """Give the bits of a field that mean nothing in the example's version and form."""
    cls, version = example.row.request, example.version
    whole = (1 << 8 * (place.end - place.start)) - 1
    if place.field.kind == "reserved" or (example.row.variant, place.path) in RESERVED_IN_FORM:
        return whole
    if place.field.kind != "bits":
        return whole if place.field.held and not place.field.present(version) else 0
    mask = shift = 0
    for name in place.path.rpartition(".")[2].split("/"):
        member = _field(cls, f"{place.path.rpartition('.')[0]}.{name}".lstrip("."))
        assert member is not None
        if not member.stored or not member.present(version):
            mask |= ((1 << int(member.size)) - 1) << shift
        shift += int(member.size)
    return mask


def _malformed(example: Example, kind: Kind, path: str, message: bytes, text: str) -> Abuse:
    request = example.row.request
    code = kind.error(example.version)
    changes = MALFORMED_CHANGES.get(request, frozenset())
    if kind is Kind.OVERSIZED and request is m.ChunkSend:
        code = E.INVALID_REQUEST  # it tells what is wrong in its own terms
    if kind is Kind.TRUNCATED and len(message) >= 2 * HEADER_SIZE:
        code, changes = CONTENT.get(request, {}).get(path, (code, changes))
    assert code is not None
    return Abuse(kind, text, message, code, 0, changes)
