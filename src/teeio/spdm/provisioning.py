"""What of a device's identity lasts and can be changed through SPDM: certificate slots, key pairs, pending requests.

DSP0274 1.2 GET_CSR and SET_CERTIFICATE, 1.3 KEY_PAIR_INFO. One object serves all connections of a device. With
CERT_INSTALL_RESET, changes wait here until `reset`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntFlag

from teeio.crypto.algorithms import BaseAsym, BaseHash, PqcAsym
from teeio.crypto.certificates import CertificateModel, certificate_request
from teeio.crypto.keys import Asym, SigningKey, scheme
from teeio.errors import Misuse, Reject
from teeio.spdm.alias import certified
from teeio.spdm.constants import ErrorCode
from teeio.spdm.device_state import Identity, KeyUsage, Slot

SLOTS = 8
"""Number of certificate slots that SPDM can name."""

MAX_TRACKING_TAG = 7
"""CSRTrackingTag is 1 to 7; 0 asks for a new one (DSP0274 1.3 GET_CSR)."""


class KeyPairCapability(IntFlag):
    """Capabilities of KEY_PAIR_INFO: what SET_KEY_PAIR_INFO may do."""

    GENERATE = 1 << 0
    ERASE = 1 << 1
    ASSOCIATE = 1 << 2
    USAGE = 1 << 3
    ALGORITHM = 1 << 4
    SHARE = 1 << 5


class KeyPairAsym(IntFlag):
    """AsymAlgoCapabilities and CurrentAsymAlgo of KEY_PAIR_INFO; other bits than in NEGOTIATE_ALGORITHMS."""

    RSA_2048 = 1 << 0
    RSA_3072 = 1 << 1
    RSA_4096 = 1 << 2
    ECC_P256 = 1 << 3
    ECC_P384 = 1 << 4
    ECC_P521 = 1 << 5
    SM2 = 1 << 6
    ED25519 = 1 << 7
    ED448 = 1 << 8


KEY_PAIR_ASYM = {
    BaseAsym.RSASSA_2048: KeyPairAsym.RSA_2048,
    BaseAsym.RSAPSS_2048: KeyPairAsym.RSA_2048,
    BaseAsym.RSASSA_3072: KeyPairAsym.RSA_3072,
    BaseAsym.RSAPSS_3072: KeyPairAsym.RSA_3072,
    BaseAsym.RSASSA_4096: KeyPairAsym.RSA_4096,
    BaseAsym.RSAPSS_4096: KeyPairAsym.RSA_4096,
    BaseAsym.ECDSA_P256: KeyPairAsym.ECC_P256,
    BaseAsym.ECDSA_P384: KeyPairAsym.ECC_P384,
    BaseAsym.ECDSA_P521: KeyPairAsym.ECC_P521,
    BaseAsym.SM2: KeyPairAsym.SM2,
    BaseAsym.ED25519: KeyPairAsym.ED25519,
    BaseAsym.ED448: KeyPairAsym.ED448,
}
"""The key pair bit that serves a negotiated algorithm."""


def asym_bits(algorithms: Sequence[Asym]) -> tuple[KeyPairAsym, PqcAsym]:
    """Give the traditional and the post-quantum bits of KEY_PAIR_INFO for `algorithms`."""
    traditional, post_quantum = KeyPairAsym(0), PqcAsym(0)
    for algorithm in algorithms:
        if isinstance(algorithm, PqcAsym):
            post_quantum |= algorithm
        else:
            traditional |= KEY_PAIR_ASYM[algorithm]
    return traditional, post_quantum


NO_CAPABILITY = KeyPairCapability(0)
"""What a key pair that SET_KEY_PAIR_INFO cannot change has."""

EVERY_USE = KeyUsage.KEY_EXCHANGE | KeyUsage.CHALLENGE | KeyUsage.MEASUREMENT | KeyUsage.ENDPOINT_INFO
"""The uses of a key that SPDM itself has."""


@dataclass(slots=True)
class KeyPair:
    """A key pair: `key` is None while it is erased; `algorithms` are those that it may be generated for.

    `slots` is the mask of the certificate slots it is associated with, `selected` the algorithm of the next generation.
    """

    key: SigningKey | None
    algorithms: tuple[Asym, ...] = ()
    slots: int = 0
    capabilities: KeyPairCapability = NO_CAPABILITY
    usage_capabilities: KeyUsage = EVERY_USE
    usage: KeyUsage = EVERY_USE
    selected: Asym | None = None

    def __post_init__(self) -> None:
        if self.key is not None:
            self.selected = self.key.algorithm
            self.algorithms = self.algorithms or (self.key.algorithm,)
        if not self.algorithms or not self.usage_capabilities:
            raise Misuse("a key pair has at least one algorithm and one use", remedy="give algorithms and usage")
        for algorithm in self.algorithms:
            scheme(algorithm)  # one that is not implemented could never be generated: better told now than to a peer
        if self.capabilities & KeyPairCapability.SHARE and not self.capabilities & KeyPairCapability.ASSOCIATE:
            raise Misuse("a key pair that slots share can be associated", remedy="give ASSOCIATE with SHARE")

    def may_serve(self, slot: int) -> bool:
        """Tell whether the pair may be associated with `slot` besides the slots it has."""
        return not self.slots & ~(1 << slot) or bool(self.capabilities & KeyPairCapability.SHARE)


@dataclass(frozen=True, slots=True)
class CsrOrder:
    """A certificate request that is made at the next reset; `request` is the message that asked for it."""

    request: bytes
    key: SigningKey
    certificate: bytes
    base_hash: BaseHash
    made: bytes = b""


def _nobody(slots: int) -> None:
    """Tell nobody."""


@dataclass(slots=True)
class Provisioning:
    """Slots and key pairs of a device; give it to every `Responder` of the device.

    KeyPairID n is `key_pairs[n - 1]`. `trusted_environment` says that whoever reaches the device may provision it (a factory):
    only then slot 0 can be written, and the other slots outside a session. `slot_size` is the room of a slot in bytes. What waits for
    a reset is kept once for each slot, key pair and tracking tag, so that a peer cannot make it grow.
    """

    identities: list[Identity]
    key_pairs: list[KeyPair]
    supported_slots: int = 0xFF
    slot_size: int = 0x4000
    trusted_environment: bool = False
    staged: dict[tuple[int, int], Slot | None] = field(default_factory=dict)
    orders: dict[int, CsrOrder] = field(default_factory=dict)
    key_changes: dict[int, Callable[[], None]] = field(default_factory=dict)
    changed: Callable[[int], None] = field(default=_nobody, repr=False)
    """Told the mask of a slot that has been written or erased."""

    @classmethod
    def of(
        cls,
        identities: Sequence[Identity],
        *,
        first: Sequence[KeyPair] = (),
        capabilities: KeyPairCapability = NO_CAPABILITY,
        trusted_environment: bool = False,
    ) -> Provisioning:
        """Take the key pairs from `identities`, after those of `first`; each distinct key is one pair."""
        made = cls([], list(first), trusted_environment=trusted_environment)
        numbers: dict[int, int] = {}
        for identity in identities:
            slots = {}
            for number, slot in identity.slots.items():
                if not slot.certificates:
                    raise Misuse("a public key has no certificate slots to provision", remedy="give certificate chains")
                key, _ = certified(slot)
                at = numbers.get(id(key.key))
                if at is None:
                    made.key_pairs.append(KeyPair(key, capabilities=capabilities))
                    at = numbers[id(key.key)] = len(made.key_pairs)
                made.key_pairs[at - 1].slots |= 1 << number
                slots[number] = replace(slot, key_pair_id=at)
            made.identities.append(Identity(slots))
        return made

    def pair(self, number: int) -> KeyPair:
        """Give the key pair with KeyPairID `number`, or refuse."""
        if not 1 <= number <= len(self.key_pairs):
            raise Reject(
                ErrorCode.INVALID_REQUEST, f"KeyPairID {number} of {len(self.key_pairs)} (DSP0274 KEY_PAIR_INFO)"
            )
        return self.key_pairs[number - 1]

    def usage(self, slot: Slot) -> KeyUsage:
        """Give KeyUsageMask of a slot."""
        return self.pair(slot.key_pair_id).usage

    # -- slots ----------------------------------------------------------------------------------------------------------

    def _index(self, identity: Identity) -> int:
        return next(at for at, mine in enumerate(self.identities) if mine is identity)

    def is_staged(self, identity: Identity, slot: int) -> bool:
        """Tell whether `slot` waits for a reset to change."""
        return (self._index(identity), slot) in self.staged

    def waits_for(self, key_pair_id: int) -> bool:
        """Tell whether a slot or a certificate request that waits for a reset needs a key pair."""
        key = self.pair(key_pair_id).key
        staged = any(slot is not None and slot.key_pair_id == key_pair_id for slot in self.staged.values())
        return staged or any(order.key.key is key.key and not order.made for order in self.orders.values() if key)

    def stage(self, identity: Identity, number: int, slot: Slot | None) -> None:
        """Keep a write (or, with None, an erasure) of a slot until the reset."""
        self.staged[self._index(identity), number] = slot

    def put(self, identity: Identity, number: int, slot: Slot | None) -> None:
        """Write a slot, or erase it with None; the key pairs' associations follow."""
        self._put(self._index(identity), number, slot)
        self.changed(1 << number)

    def _put(self, at: int, number: int, slot: Slot | None) -> None:
        slots = dict(self.identities[at].slots)
        old = slots.pop(number, None)
        if slot is not None:
            slots[number] = slot
            if slot.key_pair_id:
                self.pair(slot.key_pair_id).slots |= 1 << number
        self.identities[at] = Identity(slots)
        if old is not None and old.key_pair_id and not self._served(old.key_pair_id, number):
            self.pair(old.key_pair_id).slots &= ~(1 << number)

    def _served(self, key_pair_id: int, number: int) -> bool:
        found = (identity.slots.get(number) for identity in self.identities)
        return any(slot is not None and slot.key_pair_id == key_pair_id for slot in found)

    # -- reset ----------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Do what had to wait for a reset of the device: slots, then key pairs, then the certificate requests."""
        for (at, number), slot in self.staged.items():
            self._put(at, number, slot)
        self.staged.clear()
        while self.key_changes:
            self.key_changes.pop(next(iter(self.key_changes)))()
        for tag, order in self.orders.items():
            if not order.made:
                made = certificate_request(order.key, order.certificate, order.base_hash)
                self.orders[tag] = replace(order, made=made)

    def order(self, order: CsrOrder) -> int:
        """Order a request for the next reset; give its tracking tag. Refuses with Busy when all tags are taken."""
        free = [tag for tag in range(1, MAX_TRACKING_TAG + 1) if tag not in self.orders]
        if not free:
            raise Reject(ErrorCode.BUSY, f"all {MAX_TRACKING_TAG} CSR tracking tags are in use (DSP0274 GET_CSR)")
        self.orders[free[0]] = order
        return free[0]


def model_of(number: int) -> CertificateModel:
    """Give the certificate model of a message field, or refuse."""
    try:
        return CertificateModel(number)
    except ValueError:
        raise Reject(ErrorCode.INVALID_REQUEST, f"certificate model {number} (DSP0274 CertificateInfo)") from None
