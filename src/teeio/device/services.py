"""What a DSM offers over SPDM besides proving its identity: provisioning, events, mutual authentication, endpoint information.

Whether it is offered at all is said by the capability flags of the settings and nowhere else; this file says how.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from teeio.crypto.keys import Asym
from teeio.spdm.constants import Capability
from teeio.spdm.device_state import Identity
from teeio.spdm.encapsulation import Wish
from teeio.spdm.events import Events
from teeio.spdm.messages import DeviceClass
from teeio.spdm.mutual import MutualAuthentication
from teeio.spdm.provisioning import KeyPair, KeyPairCapability, Provisioning
from teeio.spdm.wishes import report_events

PROVISIONS = Capability.SET_CERT | Capability.CSR | Capability.GET_KEY_PAIR_INFO
"""Any of these and slots and key pairs can be provisioned, or looked at."""

IN_USE = KeyPairCapability.ASSOCIATE | KeyPairCapability.USAGE | KeyPairCapability.SHARE
"""What can be done to a key pair that a slot uses."""

SPARE = IN_USE | KeyPairCapability.GENERATE | KeyPairCapability.ERASE | KeyPairCapability.ALGORITHM
"""What can be done to a spare key pair."""


@dataclass(frozen=True)
class Services:
    """How a device does what its capability flags offer.

    `spare_keys` counts key pairs, empty at first, besides those that certificates are for. `wishes` makes what the device wants of the
    requester of a connection; events that wait are reported in any case. `device_classes` of () are those of the PCI identifiers.
    """

    mutual: MutualAuthentication | None = field(default=None, repr=False)
    trusted_environment: bool = False
    spare_keys: int = 0
    device_classes: tuple[DeviceClass, ...] = ()
    wishes: Callable[[], Sequence[Wish]] = tuple

    def provisioning(self, flags: Capability, identities: Sequence[Identity]) -> Provisioning | None:
        """Make what can be provisioned of `identities`; None where nothing can."""
        if not flags & PROVISIONS:
            return None
        made = Provisioning.of(identities, capabilities=IN_USE, trusted_environment=self.trusted_environment)
        algorithms: tuple[Asym, ...] = tuple(identity.algorithm for identity in identities)
        made.key_pairs += [KeyPair(None, algorithms, capabilities=SPARE) for _ in range(self.spare_keys)]
        return made

    def events(self, flags: Capability) -> Events | None:
        """Make the events of a device; None where it raises none."""
        return Events() if flags & Capability.EVENT else None

    def wishes_of_a_connection(self) -> tuple[Wish, ...]:
        """Make what the device wants of one requester."""
        return (report_events, *self.wishes())
