"""The benchmarks run and give ratios; how fast anything is they say themselves (docs/benchmarks.md)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ide", "lifecycle", "spdm"])
def test_a_benchmark_gives_ratios(name: str) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}", "TEEIO_SPDM_EMU": ""}
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / f"{name}.py"), "--json", "--seconds", "0.05"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ratios"]
    assert all(row["ratio"] > 0 for row in found["ratios"])
