"""`teeio explore`: counts, counterexamples and JSON."""

import json

from typer.testing import CliRunner

from teeio.cli.app import app
from teeio.cli.outcome import Exit
from teeio.explorer import REMOVALS


def _explore(*arguments: str, expected: Exit = Exit.OK) -> str:
    result = CliRunner().invoke(app, ["explore", *arguments])
    assert result.exit_code == expected, result.output
    return result.stdout


def test_counts_are_told() -> None:
    assert "bound, depth 1: 3 states, 10 actions taken" in _explore("--root", "bound", "--depth", "1")


def test_json_is_one_document() -> None:
    (report,) = json.loads(_explore("--root", "bound", "--depth", "1", "--json"))
    assert (report["root"], report["depth"], report["found"]) == ("bound", 1, None)
    assert 0 < report["refused"] < report["steps"]
    assert report["states"] > 1


def test_a_counterexample_is_drawn() -> None:
    """It has steps: its trail begins before what breaks."""
    output = _explore("--without", "state-rules")
    assert "from attested by: A: validate, accept MMIO > A: write to the device" in output
    assert "MWr IDE T=1" in output


def test_a_counterexample_is_in_the_json() -> None:
    (report,) = json.loads(_explore("--without", "counters", "--json"))
    assert (report["found"]["property"], report["found"]["from"]) == ("no key and IV twice", "allowed")
    assert len(report["found"]["trail"]) == REMOVALS["counters"].depth


def test_the_checks_are_listed() -> None:
    output = _explore("--without", "list")
    assert all(f"{name}: without" in output for name in REMOVALS)


def test_an_unknown_check_is_refused() -> None:
    _explore("--without", "everything", expected=Exit.USAGE)
