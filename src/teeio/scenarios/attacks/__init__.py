"""The attacks on a TEE-I/O system that concern session, IDE keys, link, lock, accept and run, each as a scenario.

The numbers are those of the catalogue of attacks (docs/attacks.md); names say what the attacker does.
"""

from collections.abc import Mapping
from types import MappingProxyType

from teeio.scenarios.attacks.running import RUNNING
from teeio.scenarios.scenario import Scenario

ATTACKS: Mapping[str, Scenario] = MappingProxyType(
    {scenario.name: scenario for scenario in sorted(RUNNING, key=lambda scenario: scenario.number)}
)
"""Every attack by its name, in the order of the catalogue."""

__all__ = ["ATTACKS"]
