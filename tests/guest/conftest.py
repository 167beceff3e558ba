"""A world whose TVM has booted."""

from __future__ import annotations

import pytest

from guest.fake_world import World


@pytest.fixture
def world() -> World:
    world = World()
    world.tvm.boot()
    return world
