"""What can happen next: one row for each thing that the VMM, a TVM, the link or a device can do, whether it makes sense or not.

A TVM's actions are those of an honest TVM, at the grain of its calls, and calls that name the other's interface; the VMM's
are the calls that it could make at any time, driven in any order.
"""

from __future__ import annotations

from collections.abc import Iterator

from teeio.errors import Misuse
from teeio.explorer.action import Action, Common, Own, Topic
from teeio.explorer.device_actions import DEVICE_ACTIONS, DEVICE_COMMON
from teeio.explorer.exchange_actions import EXCHANGE_ACTIONS, EXCHANGE_COMMON
from teeio.explorer.link_actions import LINK_ACTIONS, LINK_COMMON
from teeio.explorer.table_actions import TABLE_ACTIONS
from teeio.explorer.tvm_actions import TVM_ACTIONS
from teeio.explorer.vmm_actions import VMM_ACTIONS, VMM_COMMON
from teeio.explorer.world import NAMES

__all__ = ["ACTIONS", "Action", "Topic", "choices", "named"]

_OWN: tuple[Own, ...] = (
    *TVM_ACTIONS,
    *VMM_ACTIONS,
    *TABLE_ACTIONS,
    *LINK_ACTIONS,
    *DEVICE_ACTIONS,
    *EXCHANGE_ACTIONS,
)
_COMMON: tuple[Common, ...] = (*VMM_COMMON, *LINK_COMMON, *DEVICE_COMMON, *EXCHANGE_COMMON)


def _of(own: Own, index: int) -> Action:
    name = NAMES[index]
    actor = f"{own.actor} {name}" if own.actor == "TVM" else own.actor
    return Action(
        f"{name}: {own.name}", actor, own.topic, lambda world: own.do(world, world.tenants[index]), name, own.leaves
    )


def _all() -> Iterator[Action]:
    for index, name in enumerate(NAMES):
        yield from (_of(own, index) for own in _OWN if name in own.of)
    yield from (Action(one.name, one.actor, one.topic, one.do, leaves=one.leaves) for one in _COMMON)


ACTIONS: tuple[Action, ...] = tuple(_all())
"""Everything that can happen, in a fixed order."""

_BY_NAME = {action.name: action for action in ACTIONS}


def named(name: str) -> Action:
    """Find an action. Raises `Misuse`."""
    if name not in _BY_NAME:
        raise Misuse(f"there is no action {name!r}", remedy="see docs/generated/exploration.md")
    return _BY_NAME[name]


def choices(topics: Topic, tenants: str) -> tuple[int, ...]:
    """Give the indices of the actions about these topics, of these tenants and of nobody."""
    return tuple(
        index for index, one in enumerate(ACTIONS) if one.topic & topics and (not one.tenant or one.tenant in tenants)
    )
