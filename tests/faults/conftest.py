"""A life without faults, lived once, and faults that strike it where a test says."""

from __future__ import annotations

import pytest

from faults.striking import Struck
from teeio.faults import Point, points, sampled


@pytest.fixture(scope="session")
def passed() -> list[Point]:
    """Give the points of a life."""
    return sampled(points())


@pytest.fixture
def struck(passed: list[Point]) -> Struck:
    """Give what plays a fault."""
    return Struck(passed)
