"""Two ports on a link."""

from __future__ import annotations

import pytest

from pcie.link_bench import Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()
