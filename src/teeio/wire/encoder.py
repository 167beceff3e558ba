"""Encoders, compiled from the fields of a layout in one version.

An encoder is `(object, facts) -> bytes`. Lengths and counts are derived here, from what they count.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from teeio.errors import Misuse
from teeio.wire.field import REST, Field
from teeio.wire.source import Source

Encode = Callable[[Any, Any], bytes]


def compile_encoder(layout: str, declared: tuple[Field, ...], version: int) -> Encode:
    """Compile the encoder of the `declared` fields of the layout named `layout`."""
    encode: Encode = _Encoder(layout, declared, version).compile()
    return encode


class _Encoder(Source):
    def __init__(self, layout: str, declared: tuple[Field, ...], version: int) -> None:
        super().__init__(layout, declared, version, {"MISUSE": Misuse})
        self.totals: list[Field] = []

    def local(self, name: str) -> str:
        f = next(other for other in self.declared if other.name == name)
        return self.derived(f) if f.kind in ("length", "count") else f"M.{name}"

    def derived(self, f: Field) -> str:
        """Give the expression of a length or count field: what it counts, not its wire form."""
        target = next(other for other in self.declared if other.name == f.item)
        return f"len(M.{target.name})" if f.kind == "count" or target.kind == "blob" else f"len({self.joined(target)})"

    def compile(self) -> Any:
        self.lines.append("    T = []")
        for group in self.groups():
            f = group[0]
            if f.when:
                self.put(f"if {self.expression(f.when, self.local)}:")
                self.indent += 1
            getattr(self, f"write_{f.kind}")(f if f.kind != "bits" else group)
            if f.when:
                self.indent -= 1
        self.put("T = b''.join(T)")
        for f in self.totals:
            self.put(f"if len(T) % {f.unit}: raise MISUSE('{self.layout}: length is not a multiple of {f.unit}')")
            self.put(
                f"T = T[:{self.offset(f)}] + (len(T) // {f.unit}).to_bytes({f.size}, {f.byte_order!r}) + T[{self.offset(f)} + {f.size}:]"
            )
        self.put("return T")
        return self.build("M, F", "encode")

    def offset(self, total: Field) -> int:
        offset = 0
        for group in self.groups():
            if group[0].name == total.name:
                return offset
            offset += group[0].container if group[0].kind == "bits" else int(group[0].size)
        raise TypeError(f"{self.layout}.{total.name} must follow fixed-size fields only")

    def number(self, f: Field, value: str) -> None:
        self.put(f"V = {value}")
        low, high = (-(1 << 8 * int(f.size) - 1), 1 << 8 * int(f.size) - 1) if f.signed else (0, 1 << 8 * int(f.size))
        self.put(
            f"if not {low} <= V < {high}: raise MISUSE(f'{self.layout}.{f.name}: {{V}} does not fit in {f.size} bytes')"
        )
        self.put(f"T.append(V.to_bytes({f.size}, {f.byte_order!r}, signed={f.signed}))")

    def write_int(self, f: Field) -> None:
        self.number(f, "0" if self.unsuited(f) else f"M.{f.name}")

    def write_bits(self, group: list[Field]) -> None:
        self.put("W = 0")
        shift = 0
        for f in group:
            if f.stored and not self.unsuited(f):
                self.put(f"V = M.{f.name}")
                self.put(
                    f"if not 0 <= V < {1 << int(f.size)}: "
                    f"raise MISUSE(f'{self.layout}.{f.name}: {{V}} does not fit in {f.size} bits')"
                )
                self.put(f"W |= V << {shift}")
            shift += int(f.size)
        self.put(f"T.append(W.to_bytes({group[0].container}, {group[0].byte_order!r}))")

    def write_reserved(self, f: Field) -> None:
        self.put(f"T.append({bytes(int(f.size))!r})")

    def write_const(self, f: Field) -> None:
        self.number(f, self.expression(f.count, self.local))

    def write_total(self, f: Field) -> None:
        self.totals.append(f)
        self.put(f"T.append({bytes(int(f.size))!r})")

    def write_length(self, f: Field) -> None:
        self.number(f, f"{self.derived(f)} // {f.unit} + {f.bias}")

    write_count = write_length

    def joined(self, f: Field) -> str:
        if f.kind == "record":
            return f"M.{f.name}.encode(F)"
        if isinstance(f.item, int):
            return f"b''.join([X.to_bytes({f.item}, 'little') for X in M.{f.name}])"
        return f"b''.join([X.encode(F) for X in M.{f.name}])"

    def write_blob(self, f: Field) -> None:
        lengths = {other.name for other in self.declared if other.kind in ("length", "count", "total")}
        free = f.size == REST or (
            isinstance(f.size, str)
            and any(isinstance(n, ast.Name) and n.id in lengths for n in ast.walk(ast.parse(f.size)))
        )
        if not free:
            self.put(f"N = {self.expression(f.size, self.local)}")
            self.put(
                f"if len(M.{f.name}) != N: raise MISUSE(f'{self.layout}.{f.name}: has {{len(M.{f.name})}} bytes, needs {{N}}')"
            )
        self.put(f"T.append(M.{f.name})")

    def write_record(self, f: Field) -> None:
        self.put(f"T.append({self.joined(f)})")

    write_repeat = write_record
