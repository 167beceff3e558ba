"""The exploration: nothing breaks within its depth, and what counts as one state."""

import pytest

from teeio.explorer import ROOTS, World, explore, replayed
from teeio.explorer.actions import ACTIONS, named
from teeio.explorer.fingerprint import fingerprint
from teeio.explorer.properties import broken
from teeio.explorer.search import at_root
from teeio.pcie.link import Way
from teeio.scenarios.mutants import NO_STATE_RULES
from teeio.scenarios.scenario import Mutant, Removed
from teeio.scenarios.stage import STREAM_ID
from teeio.tdisp.interface import Interface
from teeio.tdisp.messages import InterfaceState


@pytest.mark.parametrize("root", ["allowed", "both bound"])
def test_every_property_holds_after_any_one_action(root: str) -> None:
    report = explore(root, 1)
    assert report.found is None
    assert report.steps == len(ROOTS[root].choices)
    assert 0 < report.refused < report.steps
    assert report.states > 2


@pytest.mark.parametrize("root", [one.name for one in ROOTS.values() if one.near])
def test_every_root_is_reached_and_every_property_holds_there(root: str) -> None:
    assert broken(at_root(root)) is None


@pytest.mark.slow
@pytest.mark.parametrize("root", ROOTS)
def test_every_property_holds_after_any_two_actions(root: str) -> None:
    assert explore(root, 2).found is None


def test_every_action_is_taken_from_some_root() -> None:
    """What leads nowhere from anywhere would be a row for show."""
    tried = {index for root in ROOTS.values() for index in root.choices}
    assert tried == set(range(len(ACTIONS)))
    assert len({action.name for action in ACTIONS}) == len(ACTIONS)


def test_calls_that_name_the_others_interface_are_refused_as_it_does_not_exist() -> None:
    world = at_root("both running")
    naming = [action for action in ACTIONS if action.name.endswith("the other's interface")]
    assert len(naming) == 10
    for action in naming:
        assert "TDI_NOT_PRESENT: interface" in action.happen(world)


def test_what_breaks_on_the_way_to_a_root_is_found_on_the_way() -> None:
    """Without its state rules the device gives the secret away before `running` is reached: the trail is the way up to there."""
    report = explore("running", 1, mutant=NO_STATE_RULES)
    assert report.found is not None
    assert report.found.root == "assigned"
    assert report.found.trail == ROOTS["running"].trail[: len(report.found.trail)]
    assert report.found.trail[-1] == "A: write to the device"
    again = replayed(report.found.root, report.found.trail, NO_STATE_RULES)
    assert [step.title for step in again.steps] == list(report.found.trail)


def test_what_raises_anything_unexpected_is_found() -> None:
    def crash(*_: object) -> None:
        raise KeyError("a fault of the platform")

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


@pytest.mark.parametrize(
    ("root", "does", "undoes"),
    [
        ("running", ("A: share a page",), ("A: make the shared page private",)),
        (
            "entry gone",
            ("A: add the DMA entry",),
            ("A: block the DMA entry", "A: invalidate the DMA entry", "A: remove the DMA entry"),
        ),
    ],
)
def test_tables_that_are_as_they_were_are_the_same_state(
    root: str, does: tuple[str, ...], undoes: tuple[str, ...]
) -> None:
    world = at_root(root)
    for name in (*does, *undoes):  # once, as caches and epochs are another state than none
        assert not named(name).happen(world)
    before = fingerprint(world)
    for name in does:
        assert not named(name).happen(world)
    between = fingerprint(world)
    for name in undoes:
        assert not named(name).happen(world)
    assert between != before
    assert fingerprint(world) == before


@pytest.mark.parametrize(
    "name",
    [
        "A: lead a legacy address to its own secret",
        "A: lead a shared address to a trusted table",
        "A: block the DMA entry",
        "A: block the MMIO page",
    ],
)
def test_what_the_tables_say_is_part_of_the_state(name: str) -> None:
    world = at_root("running")
    before = fingerprint(world)
    assert not named(name).happen(world)
    assert fingerprint(world) != before


def test_a_secret_without_ide_on_the_link_is_seen() -> None:
    world = at_root("running")
    assert broken(world) is None
    world.tap._pass(bytes(16) + world.tenants[0].mark, Way.UP)
    assert broken(world) == ("no secret is in the clear on the link", "a TLP of 84 bytes shows a secret")


def test_a_refused_action_changes_nothing() -> None:
    world = at_root("attested")
    before = fingerprint(world)
    assert named("A: drive START").happen(world)
    assert fingerprint(world) == before


def test_looking_at_a_world_does_not_change_it() -> None:
    """A property that sent a TLP would meet whoever sits on the link, and hide what the next action would have met."""
    world = at_root("holding")
    before = fingerprint(world)
    assert broken(world) is None
    assert fingerprint(world) == before


def test_what_the_link_does_is_one_state_each() -> None:
    """Losing, altering and holding a TLP differ from each other and from nothing; what is let go in time leaves no trace."""
    seen = set()
    for name in (
        "lose the next IDE TLP",
        "flip a bit of the next IDE TLP",
        "hold the next IDE TLP",
        "refresh the IDE keys",
    ):
        world = at_root("altering")
        assert not named(name).happen(world)
        assert not named("A: write to the page").happen(world)
        seen.add(fingerprint(world))
    assert len(seen) == 4
    world = at_root("holding")
    port = world.platform.root_complex.fabric.ports[0].ide
    assert not named("let the held IDE TLP go").happen(world)
    assert port.is_secure(STREAM_ID), "nothing overtook it"
    assert not named("replay the last IDE TLP").happen(world)
    assert not port.is_secure(STREAM_ID)
    assert world.platform.device.tdi(world.tenants[0].vf.address).state is InterfaceState.ERROR
