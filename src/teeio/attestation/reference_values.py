"""Reference values: what a device's measurements must be, and their JSON form.

A value belongs to an index, a type and a hash algorithm at once: a digest that is right for another index is wrong.
Blocks of type SVN and device mode are judged by rules of their own and need no entry. Leaves out signed manifests
(CoRIM).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from teeio.crypto.algorithms import MeasurementHash
from teeio.errors import Misuse
from teeio.spdm.messages import MeasurementBlock, MeasurementType

FORMAT = "teeio-reference-values/1"

JUDGED_ELSEWHERE = frozenset({MeasurementType.SECURE_VERSION_NUMBER, MeasurementType.DEVICE_MODE})
"""Types that have rules of their own instead of reference values."""


@dataclass(frozen=True, slots=True)
class ReferenceValue:
    """What one measurement may be.

    `algorithm` is that of the digests in `allowed`, or None if they are raw values. With `any_value` the block must be
    there but is not compared; with `optional` it may be missing. An index may have several entries, for several
    algorithms.
    """

    index: int
    type: MeasurementType
    algorithm: MeasurementHash | None
    allowed: tuple[bytes, ...] = ()
    any_value: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ReferenceValues:
    """All reference values of a kind of device; `minimum_svn` is the lowest acceptable security version number."""

    values: tuple[ReferenceValue, ...] = ()
    minimum_svn: int | None = None

    def __bool__(self) -> bool:
        """Tell whether anything would be compared."""
        return any(value.allowed for value in self.values)

    def at(self, index: int) -> tuple[ReferenceValue, ...]:
        """Give the entries of one index."""
        return tuple(value for value in self.values if value.index == index)

    @classmethod
    def of_blocks(
        cls, blocks: Iterable[MeasurementBlock], algorithm: MeasurementHash, *, minimum_svn: int | None = None
    ) -> ReferenceValues:
        """Take the blocks of a device known to be good as the reference."""
        values = tuple(
            ReferenceValue(block.index, MeasurementType(block.type), None if block.raw else algorithm, (block.value,))
            for block in blocks
            if block.type not in JUDGED_ELSEWHERE
        )
        return cls(values, minimum_svn)

    def to_json(self) -> str:
        """Write the JSON form."""
        document: dict[str, Any] = {"format": FORMAT, "values": [_to_object(value) for value in self.values]}
        if self.minimum_svn is not None:
            document["minimum_svn"] = self.minimum_svn
        return json.dumps(document, indent=2)

    @classmethod
    def from_json(cls, text: str) -> ReferenceValues:
        """Read the JSON form. Raises `Misuse` naming the place, also for unknown keys and keys given twice."""
        try:
            document = json.loads(text, object_pairs_hook=_no_duplicates)
        except (ValueError, RecursionError) as error:
            raise _bad("document", f"is not JSON: {error}") from None
        fields = _fields(document, "document", required={"format", "values"}, optional={"minimum_svn"})
        if fields["format"] != FORMAT:
            raise _bad("format", f"is {fields['format']!r}, must be {FORMAT!r}")
        values = tuple(_to_value(item, f"values[{at}]") for at, item in enumerate(_list(fields["values"], "values")))
        svn = fields.get("minimum_svn")
        return cls(values, None if svn is None else _integer(svn, "minimum_svn", 1 << 64))


def _to_object(value: ReferenceValue) -> dict[str, Any]:
    item: dict[str, Any] = {"index": value.index, "type": value.type.name}
    if value.algorithm is not None:
        item["algorithm"] = value.algorithm.name
    if value.allowed:
        item["allowed"] = [allowed.hex() for allowed in value.allowed]
    for flag in ("any_value", "optional"):
        if getattr(value, flag):
            item[flag] = True
    return item


def _to_value(item: object, place: str) -> ReferenceValue:
    fields = _fields(
        item, place, required={"index", "type"}, optional={"algorithm", "allowed", "any_value", "optional"}
    )
    kind = _member({member.name: member for member in MeasurementType}, fields["type"], f"{place}.type")
    algorithm = None
    if "algorithm" in fields:
        algorithm = _member(
            {str(member.name): member for member in MeasurementHash}, fields["algorithm"], f"{place}.algorithm"
        )
    allowed = tuple(_hex(one, f"{place}.allowed") for one in _list(fields.get("allowed", []), f"{place}.allowed"))
    any_value = _boolean(fields.get("any_value", False), f"{place}.any_value")
    if any_value == bool(allowed):
        raise _bad(place, "needs either allowed values or any_value")
    index = _integer(fields["index"], f"{place}.index", 0xFF)
    return ReferenceValue(
        index, kind, algorithm, allowed, any_value, _boolean(fields.get("optional", False), f"{place}.optional")
    )


def _bad(place: str, reason: str) -> Misuse:
    return Misuse(f"reference values: {place} {reason}", remedy=f"correct the file; its format is {FORMAT}")


def _no_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _fields(item: object, place: str, *, required: set[str], optional: set[str]) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        raise _bad(place, "is not an object")
    if missing := required - item.keys():
        raise _bad(place, f"lacks {', '.join(sorted(missing))}")
    if unknown := item.keys() - required - optional:
        raise _bad(place, f"has the unknown key {', '.join(sorted(unknown))}")
    return item


def _list(item: object, place: str) -> list[Any]:
    if not isinstance(item, list):
        raise _bad(place, "is not a list")
    return item


def _integer(item: object, place: str, limit: int) -> int:
    if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < limit:
        raise _bad(place, f"is {item!r}, must be a number from 0 to {limit - 1}")
    return item


def _boolean(item: object, place: str) -> bool:
    if not isinstance(item, bool):
        raise _bad(place, f"is {item!r}, must be true or false")
    return item


def _hex(item: object, place: str) -> bytes:
    try:
        return bytes.fromhex(item)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        raise _bad(place, f"holds {item!r}, which is no hexadecimal string") from None


def _member(members: Mapping[str, Any], item: object, place: str) -> Any:
    if not isinstance(item, str) or item not in members:
        raise _bad(place, f"is {item!r}, must be one of {', '.join(members)}")
    return members[item]
