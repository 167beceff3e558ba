"""Every check that is declared as one that can be taken out: the exploration notices, by a shortest trail, and draws it."""

import pytest

from teeio.explorer import REMOVALS, explore, replayed
from teeio.explorer.actions import named
from teeio.explorer.ledger import Ledger
from teeio.explorer.properties import PROPERTIES, broken
from teeio.explorer.search import at_root

DEEP = ("lock-binding", "iommu-tracking", "late-answers", "blocked-stream")
"""Removals whose search takes longer than the others'."""


def _noticed(name: str) -> None:
    removal = REMOVALS[name]
    report = explore(removal.root, removal.depth, mutant=removal.mutant)
    assert report.found is not None
    assert report.found.root == removal.root
    assert report.found.name in {one.name for one in PROPERTIES}
    assert len(report.found.trail) == removal.depth > 0
    again = replayed(removal.root, report.found.trail, removal.mutant)
    assert [step.title for step in again.steps] == list(report.found.trail)
    _harmless(removal.root, report.found.trail)


def _harmless(root: str, trail: tuple[str, ...]) -> None:
    """With the check in its place the same trail breaks nothing."""
    with Ledger.watching():
        world = at_root(root)
        for step in trail:
            named(step).happen(world)
            assert broken(world) is None


@pytest.mark.parametrize("name", [name for name in REMOVALS if name not in DEEP])
def test_a_removed_check_is_noticed(name: str) -> None:
    _noticed(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEP)
def test_a_removed_check_is_noticed_deep_down(name: str) -> None:
    _noticed(name)


def test_the_counterexample_is_a_shortest_one() -> None:
    removal = REMOVALS["dma-owner"]
    report = explore(removal.root, removal.depth + 1, mutant=removal.mutant)
    assert report.found is not None
    assert len(report.found.trail) == removal.depth
