"""Hypothesis strategies derived from the declared layouts."""

from typing import Any

from hypothesis import strategies as st

from teeio.wire import REST, Record


class _Names(dict[str, Any]):
    """Names of an expression: drawn fields first, then attributes of the facts."""

    def __init__(self, facts: Any, drawn: dict[str, Any]) -> None:
        super().__init__(drawn)
        self.facts = facts

    def __missing__(self, key: str) -> Any:
        return getattr(self.facts, key)


def _evaluate(text: int | str, facts: Any, drawn: dict[str, Any]) -> int:
    return text if isinstance(text, int) else int(eval(text, {}, _Names(facts, drawn)))


@st.composite
def records(draw: st.DrawFn, cls: type[Record], facts: Any, limit: int = 24) -> Any:
    """Draw a valid object of a layout, as its declaration says."""
    drawn: dict[str, Any] = {}
    derived = {f.name for f in cls.FIELDS if f.kind in ("length", "count", "total")}
    for f in cls.FIELDS:
        if not f.stored or not f.present(facts.version) or (f.when and not _evaluate(f.when, facts, drawn)):
            if f.stored:
                drawn[f.name] = f.default
            continue
        if f.kind == "int":
            bits = 8 * int(f.size)
            low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if f.signed else (0, (1 << bits) - 1)
            drawn[f.name] = draw(st.integers(low, high))
        elif f.kind == "bits":
            drawn[f.name] = draw(st.integers(0, (1 << int(f.size)) - 1))
        elif f.kind == "blob":
            free = f.size == REST or f.size in derived
            size = None if free else _evaluate(f.size, facts, drawn)
            drawn[f.name] = draw(st.binary(max_size=limit) if size is None else st.binary(min_size=size, max_size=size))
        elif f.kind == "record":
            drawn[f.name] = draw(records(f.item, facts))
        else:
            item = st.integers(0, (1 << 8 * f.item) - 1) if isinstance(f.item, int) else records(f.item, facts)
            free = (f.count or f.size) in derived or f.size == REST
            size = None if free else _evaluate(f.count, facts, drawn)
            low, high = (0, 3) if size is None else (size, size)
            drawn[f.name] = tuple(draw(st.lists(item, min_size=low, max_size=high)))
    return cls(**drawn)


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a damaged form of `data`: bytes changed, cut off, added or repeated."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(changed) - 1, 0)))
        match draw(st.sampled_from(("flip", "cut", "insert", "repeat"))):
            case "flip" if changed:
                changed[at] ^= draw(st.integers(1, 255))
            case "cut":
                del changed[at:]
            case "insert":
                changed[at:at] = draw(st.binary(min_size=1, max_size=8))
            case _:
                changed += changed[at:]
    return bytes(changed[:4096])
