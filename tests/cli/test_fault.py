"""`teeio fault` from the outside: the list, one fault, and what does not exist."""

import json

from typer.testing import CliRunner

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
