"""The page of what public sources do not settle: every text in the source that says UNCONFIRMED, with where it stands."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

from teeio.docs.parts import grid

MARK = "UNCONFIRMED"
_SOURCE = Path(__file__).parent.parent


def unconfirmed_page() -> Iterator[str]:
    """What is unconfirmed."""
    yield from (
        "# Unconfirmed",
        "",
        "What public sources do not settle, and what is done here. No security decision rests on any of it alone.",
        "",
    )
    yield from grid(("where", "what"), _rows())


def _rows() -> Iterator[tuple[str, str]]:
    for path in sorted(_SOURCE.rglob("*.py")):
        source = path.read_text()
        if path == Path(__file__) or MARK not in source:
            continue
        module, tree = path.relative_to(_SOURCE).as_posix(), ast.parse(source)
        for line, text in sorted((*_strings(tree), *_comments(source))):
            for words in marked(text):
                yield f"`{module}` {_owner(tree, line)}".rstrip(), words


def marked(text: str) -> Iterator[str]:
    """Give the words of each mark: from the beginning of its sentence to the end of its paragraph, or of the list that follows."""
    for paragraph in text.replace(":\n\n", ":\n").split("\n\n"):
        words = " ".join(paragraph.split())
        before, mark, after = words.partition(MARK)
        if mark:
            yield before.rpartition(". ")[2] + mark + after


def _strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and MARK in node.value:
            yield node.lineno, node.value


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Give the comments; those of consecutive lines are one."""
    found: list[tuple[int, str]] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, text = token.start[0], token.string.lstrip("# ")
            if found and line == last + 1:
                found[-1] = found[-1][0], f"{found[-1][1]} {text}"
            else:
                found.append((line, text))
            last = line
    yield from found


def _owner(tree: ast.Module, line: int) -> str:
    """Name the class or function around a line, or the constant or field whose text it is."""
    names: list[str] = []
    body: list[ast.stmt] = tree.body
    while True:
        before = [node for node in body if node.lineno <= line]
        if not before:
            return ".".join(names)
        node = before[-1]
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and line <= (node.end_lineno or line):
            names.append(node.name)
            body = node.body
            continue
        if isinstance(node, ast.Expr) and len(before) > 1:
            node = before[-2]  # the text below a constant
        if isinstance(node, ast.Assign | ast.AnnAssign):
            names.append(ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target))
        return ".".join(names)
