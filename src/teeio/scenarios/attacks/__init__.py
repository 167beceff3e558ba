"""The attacks on a TEE-I/O system that concern session, IDE keys, link, lock, accept and run, each as a scenario.

The numbers are those of the catalogue of attacks (docs/attacks.md); names say what the attacker does.
"""

from collections.abc import Mapping
from types import MappingProxyType

from teeio.scenarios.attacks.configuration import CONFIGURATION
from teeio.scenarios.attacks.endless import ENDLESS
from teeio.scenarios.attacks.evidence import EVIDENCE
from teeio.scenarios.attacks.keys import KEYS
from teeio.scenarios.attacks.link import LINK
from teeio.scenarios.attacks.locking import LOCKING
from teeio.scenarios.attacks.peers import PEERS
from teeio.scenarios.attacks.published import PUBLISHED
from teeio.scenarios.attacks.records import RECORDS
from teeio.scenarios.attacks.resets import RESETS
from teeio.scenarios.attacks.running import RUNNING
from teeio.scenarios.attacks.session import SESSION
from teeio.scenarios.attacks.starting import STARTING
from teeio.scenarios.scenario import Scenario

ATTACKS: Mapping[str, Scenario] = MappingProxyType(
    {
        one.name: one
        for one in sorted(
            (
                *SESSION,
                *RECORDS,
                *ENDLESS,
                *KEYS,
                *LINK,
                *PUBLISHED,
                *LOCKING,
                *CONFIGURATION,
                *STARTING,
                *EVIDENCE,
                *RUNNING,
                *RESETS,
                *PEERS,
            ),
            key=lambda one: one.number,
        )
    }
)
"""Every attack by its name, in the order of the catalogue."""

__all__ = ["ATTACKS"]
