"""Decoders, compiled from the fields of a layout in one version.

A decoder is `(data, start, end, facts) -> (object, where it ended)`. A tracer also takes a list, to which it adds the span of each
field, and a prefix for the names in them. Nothing but `DecodeError` comes out of either, whatever the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag
from typing import Any

from teeio.errors import DecodeError
from teeio.wire.field import REST, Field, Span
from teeio.wire.flags import flags_of
from teeio.wire.source import Source

Decode = Callable[[bytes, int, int, Any], tuple[Any, int]]
Trace = Callable[[bytes, int, int, Any, list[Span], str], tuple[Any, int]]


def compile_decoder(cls: type[Any], declared: tuple[Field, ...], version: int) -> Decode:
    """Compile the decoder of the `declared` fields of `cls`."""
    decode: Decode = _Decoder(cls, declared, version, traced=False).compile()
    return decode


def compile_tracer(cls: type[Any], declared: tuple[Field, ...], version: int) -> Trace:
    """Compile the decoder that also says where each field lies."""
    trace: Trace = _Decoder(cls, declared, version, traced=True).compile()
    return trace


class _Decoder(Source):
    def __init__(self, cls: type[Any], declared: tuple[Field, ...], version: int, *, traced: bool) -> None:
        scope = {"CLS": cls, "ERR": DecodeError, "NEW": object.__new__, "SPAN": Span}
        super().__init__(cls.__name__, declared, version, scope)
        self.traced = traced

    def local(self, name: str) -> str:
        return f"v_{name}"

    def compile(self) -> Any:
        for group in self.groups():
            self.group(group)
        self.put("R = NEW(CLS)")
        for f in self.declared:
            if not f.stored:
                continue
            if f in self.fields:
                self.put(f"R.{f.name} = v_{f.name}")
            else:
                self.put(f"R.{f.name} = {self.bind('K', f.fallback)}")
        self.put("return R, O")
        self.lines.insert(0, "    B = O")
        signature = "D, O, E, F, S, P" if self.traced else "D, O, E, F"
        return self.build(signature, "trace" if self.traced else "decode")

    def group(self, group: list[Field]) -> None:
        f = group[0]
        if self.traced:
            self.put("A = O")
        if f.when:
            self.put(f"if {self.expression(f.when, self.local)}:")
            self.indent += 1
        getattr(self, f"read_{f.kind}")(f if f.kind != "bits" else group)
        if self.traced and f.kind not in ("record", "repeat"):
            label = f.name if f.kind != "bits" else "/".join(member.name for member in group)
            self.put(f"S.append(SPAN(P + {label!r}, A, O))")
        if f.when:
            self.indent -= 1
            self.put(f"else: v_{f.name} = {self.bind('K', f.fallback if f.stored else 0)}")

    def fail(self, f: Field, reason: str, at: str = "O") -> str:
        return f"raise ERR({self.layout!r}, {f.name!r}, {at}, {reason})"

    def need(self, f: Field, size: str) -> None:
        message = f"f'needs {{{size}}} bytes, {{E - O}} are left'"
        self.put(f"if {'' if size.isdigit() else f'{size} < 0 or '}E - O < {size}: {self.fail(f, message)}")

    def read_number(self, f: Field, size: int, target: str, signed: bool = False) -> None:
        self.need(f, str(size))
        if size == 1 and not signed:
            self.put(f"{target} = D[O]")
        else:
            self.put(f"{target} = int.from_bytes(D[O:O + {size}], {f.byte_order!r}, signed={signed})")
        self.put(f"O += {size}")

    def read_int(self, f: Field) -> None:
        self.read_number(f, int(f.size), f"v_{f.name}", f.signed)
        if self.unsuited(f):
            self.put(f"v_{f.name} = {self.bind('K', f.fallback)}")
        elif f.enum is not None:
            self.put(f"v_{f.name} = {self.enumerated(f, f'v_{f.name}')}")

    def enumerated(self, f: Field, value: str) -> str:
        assert f.enum is not None
        if issubclass(f.enum, IntFlag):
            return f"{self.bind('ENUM', flags_of(f.enum))}({value})"
        return f"{self.bind('ENUM', {int(m): m for m in f.enum})}.get({value}, {value})"

    def read_bits(self, group: list[Field]) -> None:
        first = group[0]
        self.read_number(first, first.container, "W")
        shift = 0
        for f in group:
            value = f"W >> {shift} & {(1 << int(f.size)) - 1}"
            shift += int(f.size)
            if self.unsuited(f):
                value = self.bind("K", f.fallback)
            elif f.enum is not None:
                value = self.enumerated(f, f"({value})")
            self.put(f"v_{f.name} = {value}")

    def read_reserved(self, f: Field) -> None:
        self.need(f, str(f.size))
        self.put(f"O += {f.size}")

    def read_const(self, f: Field) -> None:
        self.read_number(f, int(f.size), f"v_{f.name}")
        expected = self.expression(f.count, self.local)
        reason = f"f'is {{v_{f.name}:#x}}, must be {{{expected}:#x}}'"
        self.put(f"if v_{f.name} != {expected}: {self.fail(f, reason, f'O - {f.size}')}")

    def read_length(self, f: Field) -> None:
        self.read_number(f, int(f.size), f"v_{f.name}")
        if f.unit != 1 or f.bias:
            self.put(f"v_{f.name} = (v_{f.name} - {f.bias}) * {f.unit}")

    read_count = read_length

    def read_total(self, f: Field) -> None:
        self.read_number(f, int(f.size), f"v_{f.name}")
        self.put(f"v_{f.name} *= {f.unit}")
        reason = f"f'says {{v_{f.name}}} bytes, {{E - B}} are there'"
        self.put(f"if not O - B <= v_{f.name} <= E - B: {self.fail(f, reason, f'O - {f.size}')}")
        self.put(f"E = B + v_{f.name}")

    def read_blob(self, f: Field) -> None:
        if f.size == REST:
            self.put(f"v_{f.name} = D[O:E]; O = E")
            return
        self.put(f"N = {self.expression(f.size, self.local)}")
        self.need(f, "N")
        self.put(f"v_{f.name} = D[O:O + N]; O += N")

    def read_record(self, f: Field) -> None:
        self.put(f"v_{f.name}, O = {self.nested(f, f.name)}")

    def nested(self, f: Field, label: str, end: str = "E") -> str:
        cls = self.bind("ITEM", f.item)
        if self.traced:
            return f"{cls}.codec(F.version).trace(D, O, {end}, F, S, P + f'{label}.')"
        return f"{cls}.codec(F.version).decode(D, O, {end}, F)"

    def read_repeat(self, f: Field) -> None:
        self.put(f"v_{f.name} = []")
        if f.count:
            self.put(f"N = {self.expression(f.count, self.local)}")
            reason = "f'{N} items cannot fit in {E - O} bytes'"
            self.put(f"if N < 0 or N > E - O: {self.fail(f, reason)}")
            self.put("for I in range(N):")
            self.read_item(f, "E")
        else:
            if f.size == REST:
                self.put("L = E")
            else:
                self.put(f"N = {self.expression(f.size, self.local)}")
                self.need(f, "N")
                self.put("L = O + N")
            self.put("I = 0")
            self.put("while O < L:")
            self.read_item(f, "L")
            self.put("    I += 1")
        self.put(f"v_{f.name} = tuple(v_{f.name})")

    def read_item(self, f: Field, end: str) -> None:
        self.indent += 1
        if isinstance(f.item, int):
            reason = "'the list is cut short'"
            self.put(f"if {end} - O < {f.item}: {self.fail(f, reason)}")
            self.put(f"v_{f.name}.append(int.from_bytes(D[O:O + {f.item}], 'little')); O += {f.item}")
            if self.traced:
                self.put(f"S.append(SPAN(P + f'{f.name}[{{I}}]', O - {f.item}, O))")
        else:
            self.put("C = O")
            self.put(f"X, O = {self.nested(f, f.name + '[{I}]', end)}")
            empty = "'an item without bytes'"
            self.put(f"if O == C: {self.fail(f, empty)}")
            self.put(f"v_{f.name}.append(X)")
        self.indent -= 1
