import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from teeio.cli.app import app
from teeio.cli.ladder import ACTORS, WIDE, arrows, column_width, heading, ladder
from teeio.observe import BoundaryCalled, MessageMoved, StateChanged

runner = CliRunner()


def test_run_shows_the_whole_story(tmp_path: Path) -> None:
    pcap, keys = tmp_path / "run.pcap", tmp_path / "run.keys"
    result = runner.invoke(app, ["run", "--pcap", str(pcap), "--keylog", str(keys)])
    assert result.exit_code == 0, result.output
    for text in (
        "KEY_EXCHANGE_RSP",
        "CONFIG_UNLOCKED > CONFIG_LOCKED > RUN > CONFIG_UNLOCKED",
        "Attestation verdict: accept",
        "CPU time of the TVM",
        "stopped",
    ):
        assert text in result.stdout
    decoded = runner.invoke(app, ["decode", str(pcap), "--keys", str(keys), "--json"])
    assert decoded.exit_code == 0
    names = [json.loads(line)["name"] for line in decoded.stdout.splitlines()[:-1]]
    assert names[0] == "SPDM_GET_VERSION"
    assert names[-1] == "SPDM_END_SESSION_ACK"
    assert "ide_key" in keys.read_text()


def test_json_is_one_document_and_repeats_with_a_seed() -> None:
    first, again = (runner.invoke(app, ["run", "--seed", "4", "--json"]) for _ in range(2))
    assert first.exit_code == 0
    assert first.stdout == again.stdout
    document = json.loads(first.stdout)
    assert {"steps", "tdi_states", "verdict", "data_paths", "scenarios"} <= set(document)
    assert document["tdi_states"] == ["CONFIG_UNLOCKED", "CONFIG_LOCKED", "RUN", "CONFIG_UNLOCKED"]
    assert document["verdict"]["decision"] == "accept"
    assert document["data_paths"]["trusted"]["per_payload_byte"]["cpu_nanoseconds"] is None
    assert document["scenarios"][0]["tdi_states"][-1] == "ERROR"


def test_a_file_that_cannot_be_written_is_told_before_the_work() -> None:
    result = runner.invoke(app, ["run", "--pcap", "/nonexistent/run.pcap"])
    assert result.exit_code == 3
    assert "/nonexistent/run.pcap" in result.stderr
    assert "✓" not in result.stdout


def test_the_ladder_folds_repeats_and_keeps_its_rails() -> None:
    pair = [
        MessageMoved("TPA", "device 1", "IDE_KM", "KEY_PROG", 1, 1),
        MessageMoved("device 1", "TPA", "IDE_KM", "KP_ACK", 1, 1),
    ]
    carried = BoundaryCalled("VMM", "TSM", "TDH.X", "SPDM_REQUEST")
    events = [
        *pair * 6,
        carried,
        BoundaryCalled("VMM", "TSM", "TDH.X", "SUCCESS"),
        StateChanged("TDI 1", "A", "RUN", "x"),
    ]
    lines = [line for _, line in ladder(events)]
    assert [line.count("x6") for line in lines] == [1, 1, 0, 0]
    assert "TDH.X (1 carried)" in lines[2]
    rails = [index * WIDE for index in range(len(ACTORS))]
    for line in lines[:3]:
        assert all(line[at] in "│├┤►◄" for at in (rails[0], rails[1], rails[2], rails[4]))
    assert "● TDI 1: RUN" in lines[3]
    assert [heading().index(actor) for actor in ACTORS] == rails
    assert column_width(80) == 19
    assert len(list(arrows(events))) == 14


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "told"), [("--flit-mode", "link in Flit Mode"), ("--pcrc --aggregate 8", "PCRC, up to 8 TLPs a MAC")]
)
def test_the_story_is_the_same_in_other_forms(options: str, told: str) -> None:
    result = runner.invoke(app, ["run", "--seed", "4", *options.split(), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["verdict"]["decision"] == "accept"
    assert document["scenarios"][0]["tdi_states"][-1] == "ERROR"
    assert any(told in step["note"] for step in document["steps"])
