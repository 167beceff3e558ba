"""Runs that are kept and resumed, the report's form, and how the command ends; the emulator here is a stand-in."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from teeio.cli.app import app
from teeio.errors import DecodeError, Misuse, TransportError
from teeio.interop import campaign
from teeio.interop.campaign import Plan, Results, missing_features, perform
from teeio.interop.cells import Cell, Feature, Grid, Role
from teeio.interop.grid import full, quick
from teeio.interop.peer import REQUESTER, RESPONDER, Peer
from teeio.interop.report import page
from teeio.interop.runs import Outcome, run

CELLS = tuple(cell for cell in quick() if cell.needs is None)[:4]
PLAN = Plan(CELLS, tuple(Role))
STAND_IN = "#!/bin/sh\n{}\n"


def _peer(folder: Path, requester: str = "exit 0", responder: str = "exit 0") -> Peer:
    for name, text in ((REQUESTER, requester), (RESPONDER, responder)):
        (folder / name).write_text(STAND_IN.format(text))
        (folder / name).chmod(0o755)
    return Peer.at(folder)


def _outcome(cell: Cell, role: Role, *, passed: bool) -> Outcome:
    told = () if passed else ("./emulator --ver 1.2",)
    return Outcome(cell.name, role.value, passed, 1.0, "" if passed else "it broke", told, told)


def test_a_folder_without_the_programs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="has no spdm_requester_emu"):
        Peer.at(tmp_path)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo '[--trans MCTP|PCI_DOE|TCP|NONE]'", "does not know one of its arguments"),
        ("echo 'ERROR: no' >&2; echo 'connect success!'", "wrote to its standard error: ERROR: no"),
        ("echo 'connect success!'; exit 3", "ended with exit code 3"),
        ("exit 0", "did not connect"),
    ],
    ids=["usage", "standard error", "exit code", "nothing"],
)
def test_the_emulators_exit_code_alone_is_no_success(tmp_path: Path, script: str, problem: str) -> None:
    peer = _peer(tmp_path, requester=script)
    with peer.workplace() as place, pytest.raises(TransportError, match=problem):
        place.request(1, [])


def test_a_responder_that_ends_at_once_fails_the_run(tmp_path: Path) -> None:
    outcome = run(CELLS[0], Role.REQUESTER, _peer(tmp_path, responder="echo said; exit 0"))
    assert not outcome.passed
    assert "ended before it listened" in outcome.problem
    assert outcome.commands[0].startswith("./spdm_responder_emu --port ")
    assert "said" in outcome.text


def test_features_are_those_that_the_emulators_sides_manage(tmp_path: Path) -> None:
    peer = _peer(tmp_path)
    assert missing_features(peer, full()) == frozenset(Feature)
    assert missing_features(peer, CELLS) == frozenset()
    plan = Plan(full(), (Role.REQUESTER,), frozenset(Feature))
    assert {cell.needs for cell in plan.left_out} == set(Feature)
    assert all(cell.needs is None for cell, _ in plan.runs())


def test_what_has_passed_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, str]] = []

    def fake(cell: Cell, role: Role, peer: Peer) -> Outcome:
        ran.append((cell.name, role.value))
        return _outcome(cell, role, passed=cell is not CELLS[1] or len(ran) > 8)

    monkeypatch.setattr(campaign, "run", fake)
    peer, file = _peer(tmp_path), tmp_path / "results.jsonl"
    told: list[Outcome] = []
    perform(PLAN, peer, 2, Results.load(file), told.append)
    assert len(ran) == len(told) == 8
    assert len(file.read_text().splitlines()) == 8
    again = Results.load(file)
    perform(PLAN, peer, 2, again, told.append)
    assert sorted(ran[8:]) == sorted((CELLS[1].name, role.value) for role in Role)
    assert all(outcome.passed for _, outcome in again.of(PLAN))
    assert Results.load(file).found == again.found


def test_a_file_that_is_none_of_results_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text("{}\n")
    with pytest.raises(DecodeError, match="line 1"):
        Results.load(file)


def _page(*, broken: bool) -> str:
    results = Results()
    for cell, role in PLAN.runs():
        results.add(_outcome(cell, role, passed=not broken or cell is not CELLS[0] or role is not Role.RESPONDER))
    left_out = tuple(cell for cell in full() if cell.needs is Feature.ED448)[:1]
    plan = Plan((*CELLS, *left_out), tuple(Role), frozenset({Feature.ED448}))
    return page(plan, results.of(PLAN), ["spdm-emu 85436d5", "cryptography openssl"], "2026-01-02")


def test_the_report() -> None:
    text = _page(broken=False)
    assert "Peer: spdm-emu 85436d5, cryptography openssl. Date: 2026-01-02." in text
    assert "| part | our requester, passed/run | our responder, passed/run |" in text
    assert "| main | 4/4 | 4/4 |" in text
    assert "The peer is built without: Ed448." in text
    assert "## Mutual authentication" not in text
    assert "1.0 s" not in text
    assert text.endswith("## Failures\n\nNone.\n")
    assert text == _page(broken=False)


def test_the_report_names_failures() -> None:
    text = _page(broken=True)
    assert "| main | 4/4 | 3/4 |" in text
    assert text.endswith(f"- our responder: {CELLS[0].name}: it broke\n")


def _interop(folder: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["interop", "--peer", str(folder), "--grid", "main", *options])
    return result.exit_code, result.output


def test_the_command_tells_of_failures(tmp_path: Path) -> None:
    _peer(tmp_path)
    report = tmp_path / "page.md"
    code, told = _interop(tmp_path, "--only", "1.0 tcp ECDSA_P256", "--role", "requester", "--report", str(report))
    assert code == 1
    assert "✗ main 1.0 tcp ECDSA_P256" in told
    assert "./spdm_responder_emu --port" in told
    assert "| main | 0/1 |" in report.read_text()


def test_the_command_as_json(tmp_path: Path) -> None:
    _peer(tmp_path)
    result = CliRunner().invoke(
        app, ["interop", "--peer", str(tmp_path), "--only", "1.0", "--role", "requester", "--json"]
    )
    told = json.loads(result.stdout)
    assert result.exit_code == 1
    assert {one["passed"] for one in told["runs"]} == {False}
    assert {one["role"] for one in told["runs"]} == {"requester"}


def test_the_command_line_is_checked(tmp_path: Path) -> None:
    assert _interop(tmp_path)[0] == 2
    _peer(tmp_path)
    code, told = _interop(tmp_path, "--only", "no such cell")
    assert code == 2
    assert "leaves no cell" in told


def test_every_part_has_its_cells() -> None:
    assert {cell.grid for cell in full()} == set(Grid)
