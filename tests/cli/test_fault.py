"""`teeio fault` from the outside: the list, one fault, and what does not exist."""

import json

import pytest
from typer.testing import CliRunner

from teeio.cli import fault
from teeio.cli.app import app
from teeio.cli.outcome import Exit
from teeio.faults import FAULTS


def test_the_list_names_every_fault() -> None:
    listed = json.loads(CliRunner().invoke(app, ["fault", "list", "--json"]).stdout)
    assert [one["name"] for one in listed] == list(FAULTS)


def test_one_fault_in_one_step() -> None:
    result = CliRunner().invoke(app, ["fault", "wait", "--at", "accept", "--jobs", "1", "--json"])
    assert result.exit_code == Exit.OK
    (played,) = json.loads(result.stdout)
    assert (played["fault"], played["step"], played["ending"], played["problems"]) == ("wait", "accept", "went_on", [])


def test_what_does_not_exist_is_a_usage_error() -> None:
    for arguments in (["nonsense"], ["wait", "--at", "nowhere"], ["wait", "--at", "connect"]):
        assert CliRunner().invoke(app, ["fault", *arguments]).exit_code == Exit.USAGE


def test_a_long_run_without_a_terminal_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault, "LINE_EACH", 2)
    result = CliRunner().invoke(app, ["fault", "not-ready", "--jobs", "1", "--json"])
    assert len(json.loads(result.stdout)) == 3
    assert result.stderr == "2 of 3 played, 0 not as they must be\n"


def test_a_slow_run_says_so_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault, "LINE_AFTER", 0.0)
    result = CliRunner().invoke(app, ["fault", "wait", "--at", "accept", "--jobs", "1"])
    assert result.stderr == "1 of 1 played, 0 not as they must be\n"
