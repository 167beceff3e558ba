"""Named stories on the platform: the trusted life of a device, and the attacks on it."""

from teeio.scenarios.attacks import ATTACKS
from teeio.scenarios.journal import Journal, Step
from teeio.scenarios.playing import Played, play, play_mutants
from teeio.scenarios.scenario import Mutant, Outcome, Scenario
from teeio.scenarios.trusted_life import DataPath, Life, live

__all__ = [
    "ATTACKS",
    "DataPath",
    "Journal",
    "Life",
    "Mutant",
    "Outcome",
    "Played",
    "Scenario",
    "Step",
    "live",
    "play",
    "play_mutants",
]
