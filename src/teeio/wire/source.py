"""Python source of a codec being written: what compiling a decoder and compiling an encoder have in common."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any

from teeio.wire.field import Field


class Source:
    """Python source being written, with the objects it refers to."""

    def __init__(self, layout: str, declared: tuple[Field, ...], version: int, scope: dict[str, Any]) -> None:
        self.layout = layout
        self.declared = declared
        self.fields = [f for f in declared if f.present(version) or f.held or f.kind == "bits"]
        self.version = version
        self.lines: list[str] = []
        self.scope = scope
        self.names = {f.name for f in declared}
        self.indent = 1

    def put(self, line: str) -> None:
        """Write a line at the current indent."""
        self.lines.append("    " * self.indent + line)

    def bind(self, prefix: str, value: Any) -> str:
        """Make `value` known to the source; give the name it has there."""
        name = f"{prefix}{len(self.scope)}"
        self.scope[name] = value
        return name

    def expression(self, text: int | str, local: Callable[[str], str]) -> str:
        """Rewrite names: a field's name by `local`, any other to an attribute of the facts."""
        if isinstance(text, int):
            return str(text)
        names = self.names
        here = {f.name for f in self.fields}
        absent = {f.name: f.fallback if f.stored else 0 for f in self.declared if f.name not in here}

        class Rename(ast.NodeTransformer):
            def visit_Name(self, node: ast.Name) -> ast.AST:
                source = local(node.id) if node.id in names else f"F.{node.id}"
                source = repr(absent[node.id]) if node.id in absent else source
                return ast.parse(source, mode="eval").body

        return ast.unparse(ast.fix_missing_locations(Rename().visit(ast.parse(text, mode="eval"))).body)

    def build(self, signature: str, name: str) -> Any:
        """Make a function of the lines written so far."""
        source = f"def {name}({signature}):\n" + "\n".join(self.lines) + "\n"
        code = compile(source, f"<{self.layout} {name} v{self.version:#x}>", "exec")
        exec(code, self.scope)  # noqa: S102 -- the source is written here, from declarations
        return self.scope[name]

    def unsuited(self, f: Field) -> bool:
        """Tell whether a held field's value has no meaning in this version: it is then zero on the wire."""
        return not f.present(self.version)

    def groups(self) -> Iterator[list[Field]]:
        """Yield bit groups as one list each, and every other field as a list of one."""
        group: list[Field] = []
        for f in self.fields:
            if f.kind != "bits":
                yield [f]
                continue
            group.append(f)
            if sum(int(member.size) for member in group) == 8 * group[0].container:
                yield group
                group = []
        if group:
            raise TypeError(f"{self.layout}: the bits from {group[0].name} on do not fill {group[0].container} bytes")
