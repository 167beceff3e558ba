"""The exploration: nothing breaks within its depth, and it notices the checks that are taken out."""

import pytest

from teeio.explorer import ACTIONS, REMOVALS, ROOTS, World, explore, replayed
from teeio.explorer.fingerprint import fingerprint
from teeio.explorer.search import at_root, named
from teeio.scenarios.scenario import Mutant

DEEP = ("lock-binding",)
"""Removals whose search takes minutes."""


@pytest.mark.parametrize("root", ["assigned", "running"])
def test_every_property_holds_after_any_one_action(root: str) -> None:
    report = explore(root, 1)
    assert report.found is None
    assert report.steps == len(ACTIONS)
    assert 0 < report.refused < report.steps
    assert report.states > 10


@pytest.mark.slow
@pytest.mark.parametrize("root", ROOTS)
def test_every_property_holds_after_any_two_actions(root: str) -> None:
    assert explore(root, 2).found is None


def _noticed(name: str) -> None:
    removal = REMOVALS[name]
    report = explore(removal.root, removal.depth, mutant=removal.mutant)
    assert report.found is not None
    assert len(report.found.trail) <= removal.depth
    again = replayed(removal.root, report.found.trail, removal.mutant)
    assert [step.title for step in again.steps] == list(report.found.trail)


@pytest.mark.parametrize("name", [name for name in REMOVALS if name not in DEEP])
def test_a_removed_check_is_noticed(name: str) -> None:
    _noticed(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEP)
def test_a_removed_check_is_noticed_deep_down(name: str) -> None:
    _noticed(name)


def test_the_counterexample_is_a_shortest_one() -> None:
    removal = REMOVALS["start-authority"]
    report = explore(removal.root, removal.depth + 1, mutant=removal.mutant)
    assert report.found is not None
    assert len(report.found.trail) == removal.depth


def test_what_raises_anything_unexpected_is_found() -> None:
    def crash(*_: object) -> None:
        raise KeyError("a fault of the platform")

    from teeio.scenarios.scenario import Removed
    from teeio.tdisp.interface import Interface

    report = explore("assigned", 1, mutant=Mutant("sense", (Removed(Interface, "admit", crash),)))
    assert report.found is not None
    assert report.found.name == "nothing but a TeeioError comes out"


def test_the_same_world_is_the_same_state() -> None:
    assert fingerprint(World.begin()) == fingerprint(at_root("assigned"))


def test_what_was_undone_is_the_same_state_again() -> None:
    world = at_root("assigned")
    before = fingerprint(world)
    assert not named("A: ask to bind and lock").happen(world)
    locked = fingerprint(world)
    assert not named("A: unbind").happen(world)
    assert locked != before
    assert fingerprint(world) == before


def test_a_refused_action_changes_nothing() -> None:
    world = at_root("attested")
    before = fingerprint(world)
    assert named("A: drive START").happen(world)
    assert fingerprint(world) == before
