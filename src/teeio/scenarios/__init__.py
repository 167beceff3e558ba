"""Named stories on the platform: the trusted life of a device, and the attacks on it."""

from collections.abc import Mapping
from types import MappingProxyType

from teeio.scenarios.bar_move import BAR_MOVE
from teeio.scenarios.journal import Journal, Step
from teeio.scenarios.scenario import Outcome, Scenario
from teeio.scenarios.trusted_life import DataPath, Life, live

SCENARIOS: Mapping[str, Scenario] = MappingProxyType({scenario.name: scenario for scenario in (BAR_MOVE,)})
"""Every scenario by its name."""

__all__ = ["SCENARIOS", "DataPath", "Journal", "Life", "Outcome", "Scenario", "Step", "live"]
