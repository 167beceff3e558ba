"""The list of what is unconfirmed: nothing that the source marks is left out."""

from __future__ import annotations

from pathlib import Path

from teeio.docs.unconfirmed import MARK, marked, unconfirmed_page

SOURCE = Path(__file__).parent.parent / "src" / "teeio"


def test_every_module_with_a_mark_is_listed() -> None:
    rows = list(unconfirmed_page())
    for path in SOURCE.rglob("*.py"):
        if path.name == "unconfirmed.py":
            continue
        marks = sum(MARK in line and f"_{MARK}" not in line for line in path.read_text().splitlines())
        module = path.relative_to(SOURCE).as_posix()
        assert sum(f"`{module}`" in row for row in rows) == marks, module


def test_a_mark_is_told_from_its_sentence_on() -> None:
    text = f"""Summary. More.

    One thing. Another is {MARK}: we say so,
    and why.

    Last."""
    assert list(marked(text)) == [f"Another is {MARK}: we say so, and why."]
    assert list(marked(f"{MARK}, as read:\n\n* one;\n* two.\n\nElse")) == [f"{MARK}, as read: * one; * two."]
    assert not list(marked("Nothing."))
