"""Editing of encoded bytes by field name: how malformed messages are made, since message objects are always valid."""

from __future__ import annotations

from typing import Any

from teeio.errors import Misuse
from teeio.wire.layout import NO_FACTS, Record


def edit(data: bytes, cls: type[Record], field: str, value: bytes, facts: Any = NO_FACTS) -> bytes:
    """Make a malformed message: replace the bytes of `field` in the encoded `data`, whatever follows from it."""
    for span in cls.spans(data, facts):
        if span.field == field or field in span.field.split("/"):
            return data[: span.start] + value + data[span.end :]
    raise Misuse(f"{cls.__name__} has no field {field!r} in these bytes")
