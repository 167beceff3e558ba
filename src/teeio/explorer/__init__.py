"""Exhaustive exploration: the real TSM, DSM and IOMMU driven through all interleavings of what VMM, TVMs and link can do."""

from teeio.explorer.action import Action
from teeio.explorer.actions import ACTIONS
from teeio.explorer.properties import OF_STEPS, PROPERTIES
from teeio.explorer.removals import REMOVALS, Removal
from teeio.explorer.roots import ROOTS
from teeio.explorer.search import Found, Report, explore, replayed
from teeio.explorer.world import World

__all__ = [
    "ACTIONS",
    "OF_STEPS",
    "PROPERTIES",
    "REMOVALS",
    "ROOTS",
    "Action",
    "Found",
    "Removal",
    "Report",
    "World",
    "explore",
    "replayed",
]
