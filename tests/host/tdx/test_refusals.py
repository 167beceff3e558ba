"""Every refusal that a call declares happens, none that it does not declare, and what is refused is as if never asked."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from host.tdx.exchanges import bring_to
from host.tdx.operand_pools import Operands
from host.tdx.refusal_recipes import RECIPES
from host.tdx.tsm_state import state_of
from host_machine import NOW, Guest, Host
from teeio.abi import CALLS, Boundary
from teeio.abi.peer_calls import OWN
from teeio.abi.statuses import PENDING, Status
from teeio.observe import BoundaryCalled
from teeio.tdisp.messages import InterfaceState

ROWS = [row for row in CALLS.values() if row.boundary is not Boundary.HYPERCALL]
TAKES_AWAY = frozenset(
    {
        "TDH.SPDM.DISCONNECT",
        "TDH.IDE.STREAM.BLOCK",
        "TDH.IDE.STREAM.KM",
        "TDH.IOMMU.CLEAR",
        "TDH.DMAR.BLOCK",
        "TDH.MEM.RANGE.BLOCK",
        "TDH.MEM.TRACK",
        "TDH.MMIO.BLOCK",
    }
)
"""Calls after which there is less to do: made more seldom than others."""


def unconnected() -> tuple[Host, list[Guest]]:
    host = Host(connect=False)
    return host, [Guest(host, "a", 0), Guest(host, "b", 1)]


def in_state(state: InterfaceState) -> Callable[[], tuple[Host, list[Guest]]]:
    def stage() -> tuple[Host, list[Guest]]:
        host = Host()
        guests = [Guest(host, "a", 0), Guest(host, "b", 1)]
        bring_to(guests[0], state)
        return host, guests

    return stage


STAGES = {"unconnected": unconnected, **{state.name: in_state(state) for state in InterfaceState}}


def walk(host: Host, guests: list[Guest], chooser: random.Random, steps: int) -> None:
    """Make calls at random, and hold each against its declaration and against what it may change."""
    operands = Operands(host, guests, chooser)
    before = state_of(host.module)
    for _ in range(steps):
        row = chooser.choice(ROWS)
        if row.name in TAKES_AWAY and chooser.random() < 0.9:
            continue
        call = operands.of(row)
        target = host.module if row.boundary is Boundary.SEAMCALL else chooser.choice(guests).tsm
        under_way = any(context.agent.task for context in host.module.records.contexts.values())
        method = getattr(target, row.method)
        result = method(call, NOW) if row.timed else method(call)
        after = state_of(host.module)
        assert result.status in row.refusals | PENDING | {Status.SUCCESS}, f"{row.name}: {result}"
        # An answer that ends an exchange has ended it, whatever the status.
        if result.status.is_error and not result.pending and not (row.resumable and under_way):
            changed = [name for name in before if before[name] != after[name]]
            assert not changed, f"{row.name} {call} was refused with {result.status.name} and changed {changed}"
        before = after


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("stage", STAGES)
def test_a_refused_call_changes_nothing(stage: str, seed: int) -> None:
    host, guests = STAGES[stage]()
    walk(host, guests, random.Random(f"{stage} {seed}"), 700)


def reached_on(host: Host) -> set[tuple[str, str]]:
    return {(event.name, event.status) for event in host.events if isinstance(event, BoundaryCalled)}


def test_every_declared_refusal_happens() -> None:
    """Those of the peer-to-peer profile are `test_peer_refusals`'."""
    declared = {(row.name, status.name) for row in ROWS if row.alias != OWN for status in row.refusals}
    reached: set[tuple[str, str]] = set()
    for recipe in RECIPES:
        host = recipe()
        host.check_declared()
        reached |= reached_on(host)
    for number, stage in enumerate(itertools.islice(itertools.cycle(STAGES), 20)):
        if declared <= reached:
            break
        host, guests = STAGES[stage]()
        walk(host, guests, random.Random(number), 1000)
        reached |= reached_on(host)
    assert sorted(declared - reached) == []
