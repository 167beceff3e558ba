"""`teeio bench io` end to end."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from teeio.cli import bench_plot
from teeio.cli.bench import bench

runner = CliRunner()
SMALL = ["io", "--sizes", "64,4K,64k"]


def test_the_tables_show_counts_virtual_times_and_where_the_shapes_hold() -> None:
    result = runner.invoke(bench, SMALL)
    assert result.exit_code == 0, result.output
    for text in (
        "Counted on real bytes",
        "Virtual throughput",
        "12.69 to 33.53",
        "(0.981)",
        "0.946",
        "assumed:",
        "simulator",
    ):
        assert text in result.stdout
    counted = [line.split() for line in result.stdout.splitlines() if line.startswith("64 KiB   bounce-encrypted")]
    assert counted[0][3:7] == ["1.000", "1.000", "1.000", "0.000"]


def test_json_is_one_document_whose_counts_and_virtual_times_repeat() -> None:
    documents = []
    for _ in range(2):
        result = runner.invoke(bench, ["io", "--sizes", "4096", "--paths", "tdisp,direct", "--seed", "5", "--json"])
        assert result.exit_code == 0, result.output
        documents.append(json.loads(result.stdout))
    first, again = (
        {name: path["messages"]["4096"] for name, path in document["paths"].items()} for document in documents
    )
    assert list(first) == ["tdisp", "direct"]
    for name, message in first.items():
        assert message["virtual"] == again[name]["virtual"]
        assert message["link"] == again[name]["link"]
        assert message["guest"]["bytes_copied"] == 0
        assert message["device"] == {"bytes_opened": 0, "bytes_sealed": 0}
        assert {"device_bytes_ciphered", "exits"} <= message["per_payload_byte"].keys()
        assert message["guest"]["cpu_seconds"] > 0
    assert {row["name"] for row in documents[0]["constants"]}
    assert all(claim["published"] for claim in documents[0]["shapes"])


def test_figures_are_drawn_in_both_formats(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    png, svg = tmp_path / "io.png", tmp_path / "io.svg"
    result = runner.invoke(bench, ["io", "--sizes", "64,4K", "--plot", str(png), "--plot", str(svg)])
    assert result.exit_code == 0, result.output
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "FASTRACK" in svg.read_text()


def test_without_matplotlib_a_plot_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench_plot, "find_spec", lambda name: None)
    result = runner.invoke(bench, [*SMALL, "--plot", str(tmp_path / "io.png")])
    assert result.exit_code == 2
    assert "pip install 'teeio[bench]'" in result.stderr
    assert "Counted" not in result.stdout


def test_a_plot_that_cannot_be_written_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("teeio.costs.report.compare", None)
    (tmp_path / "folder.png").mkdir()
    for path, why in ((tmp_path / "none" / "io.png", "there is no folder"), (tmp_path / "folder.png", "cannot be")):
        result = runner.invoke(bench, ["io", "--plot", str(path)])
        assert result.exit_code == 2
        assert why in result.stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--sizes", "4Q"], "is no size"),
        (["--sizes", "16M"], "message of 16777216 bytes"),
        (["--sizes", "66"], "multiples of 4"),
        (["--paths", "tdisp,carrier-pigeon"], "the paths are"),
        (["--plot", "io.pdf"], "neither .png nor .svg"),
        (["--plot", "no/such/folder/io.png"], "there is no folder"),
    ],
)
def test_bad_options_are_explained(options: list[str], why: str) -> None:
    result = runner.invoke(bench, ["io", *options])
    assert result.exit_code == 2
    assert why in result.output + result.stderr
