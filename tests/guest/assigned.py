"""The interface that a TVM has been assigned, and what must be left of it when it was refused."""

from __future__ import annotations

from typing import Any

import pytest

from guest.fake_world import World
from teeio.errors import Misuse
from teeio.guest.accept import AssignedInterface, Phase
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.guest.pci import enumerate_functions
from teeio.tdisp.messages import InterfaceState


def interface_of(world: World) -> AssignedInterface:
    return AssignedInterface(world.tvm, enumerate_functions(world.tvm, 0.0)[0])


def bring_up(world: World, **expectations: Any) -> AssignedInterface:
    interface = interface_of(world)
    interface.bring_up(world.verifier(**expectations), TRUSTED_REGISTERS, 1.0)
    return interface


def assert_undone(world: World, interface: AssignedInterface) -> None:
    """Nothing may be left of what was begun."""
    assert interface.phase is Phase.UNLOCKED
    assert (interface.bind_session_id, interface.evidence, interface.ranges) == (0, None, ())
    assert world.state is InterfaceState.CONFIG_UNLOCKED
    assert not any("mmio" in page.state for page in world.pages.values())
    assert not world.dmar
    with pytest.raises(Misuse):
        interface.window(0, 0, 4)
