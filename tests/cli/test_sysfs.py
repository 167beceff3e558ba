"""`teeio sysfs`."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from teeio.cli.app import app
from teeio.guest.accept import AssignedInterface


def test_the_tour_as_a_document_and_as_text() -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["sysfs", "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.output)
    assert document["went_well"]
    assert document["before"] == document["after"]
    errors = [(step["side"], step["error"]) for step in document["steps"] if step["error"]]
    assert errors == [("VMM", "EBUSY"), ("TVM", "EPERM"), ("TVM", "EBUSY"), ("VMM", "EINVAL")]
    (locked,) = [step for step in document["steps"] if step["command"].endswith("/lock")]
    assert {(change["side"], change["path"].rpartition("/")[2], change["after"]) for change in locked["changes"]} == {
        ("TVM", "lock", "tsm0"),
        ("VMM", "bound", "tsm0"),
    }
    text = runner.invoke(app, ["sysfs", "--no-tree"])
    assert text.exit_code == 0
    assert "TVM# echo tsm0 > /sys/bus/pci/devices/0000:00:01.0/tsm/unlock  EBUSY" in text.output
    assert text.output.rstrip().endswith("as it was before.")


def test_a_step_that_ends_otherwise_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AssignedInterface, "bind_driver", lambda self, name: None)
    done = CliRunner().invoke(app, ["sysfs", "--no-tree"])
    assert done.exit_code == 1
    assert "expected EBUSY" in done.output
