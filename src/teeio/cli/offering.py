"""What the options of `teeio device` mean: what it offers, and how it differs from the default device."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from teeio.cli.choices import NO_CAPABILITIES, Choices, parse_device_classes, parse_psks
from teeio.cli.device_options import (
    EndpointInfo,
    MultiKey,
    Mutual,
    MutualOptions,
    PresentedOptions,
    Provisioned,
    ProvisioningOptions,
    SessionOptions,
    TellingOptions,
    Wanted,
)
from teeio.crypto.certificates import Validity, authenticate_chain
from teeio.crypto.certificates.chain import load_anchor
from teeio.crypto.certificates.describe import algorithm_of, certificates_of
from teeio.crypto.certificates.hierarchy import Hierarchy, Names
from teeio.crypto.entropy import Entropy
from teeio.crypto.keys import Asym
from teeio.crypto.public_key_files import load_public_keys, public_keys_pem
from teeio.device.identity import DAY, LIFETIME, Manufacture
from teeio.device.profiles import EMULATOR_HEARTBEAT, EMULATOR_PSKS
from teeio.device.services import Services
from teeio.errors import AuthenticationFailed, Misuse
from teeio.identity_files import read
from teeio.spdm.constants import Capability, MutualAuth
from teeio.spdm.device_state import Identity, Slot
from teeio.spdm.encapsulation import Wish
from teeio.spdm.messages import DeviceClass
from teeio.spdm.mutual import MutualAuthentication
from teeio.spdm.negotiation import check_responder_flags
from teeio.spdm.state import MUTUAL_CAPABILITIES, RESPONDER_CAPABILITIES, Settings
from teeio.spdm.wishes import Acquaintance, KeyRenewal
from teeio.transport.kinds import Transport

PRESENTED = PresentedOptions()
SESSIONS = SessionOptions()
MUTUAL = MutualOptions()
PROVISIONING = ProvisioningOptions()
TELLING = TellingOptions()
"""What is offered without options."""

_MODES = {
    Mutual.NONE: MutualAuth.NONE,
    Mutual.PLAIN: MutualAuth.PLAIN,
    Mutual.ENCAPSULATED: MutualAuth.ENCAPSULATED,
    Mutual.DIGESTS: MutualAuth.IMPLICIT_DIGESTS,
}

_PROVISIONS = Capability.CSR | Capability.SET_CERT | Capability.GET_KEY_PAIR_INFO | Capability.SET_KEY_PAIR_INFO
_AT_RESET = Capability.CERT_INSTALL_RESET | Capability.SET_KEY_PAIR_RESET


@dataclass(frozen=True, slots=True)
class Offer:
    """How a device differs from the default one; None and () mean that it does not.

    `telling` and `reset_on_disconnect` are what happens to the device meanwhile.
    """

    settings: Settings | None = None
    identities: tuple[Identity, ...] = ()
    psks: Mapping[bytes, bytes] | None = field(default=None, repr=False)
    services: Services = field(default_factory=Services)
    telling: TellingOptions = TELLING
    reset_on_disconnect: bool = False


def _silently(text: str) -> None:
    """Say nothing."""


def make_offer(
    choices: Choices,
    transport: Transport,
    entropy: Entropy,
    now: float,
    *,
    presented: PresentedOptions = PRESENTED,
    sessions: SessionOptions = SESSIONS,
    mutual: MutualOptions = MUTUAL,
    provisioning: ProvisioningOptions = PROVISIONING,
    telling: TellingOptions = TELLING,
    say: Callable[[str], None] = _silently,
) -> Offer:
    """Give what a device offers with these options; `say` is told what it learns of its requesters. Raises `Misuse`.

    For algorithms that were named without a folder of identities, identities are made: those of a plain start are the
    device's own.
    """
    extra = Capability.PSK_WITH_CONTEXT if sessions.psk else NO_CAPABILITIES
    extra |= _mutual_flags(mutual) | _provisioning_flags(provisioning) | _telling_flags(telling)
    period = EMULATOR_HEARTBEAT if sessions.heartbeat is None else sessions.heartbeat
    known_by = Capability.PUB_KEY_ID if presented.public_key else Capability.CERT
    flags = RESPONDER_CAPABILITIES & ~Capability.CERT | known_by
    base = Settings(capabilities=flags, heartbeat_period=period, max_sessions=sessions.max_sessions)
    settings = transport.limited(choices.applied(base, extra))
    check_responder_flags(settings)
    services = Services(
        mutual=_authentication(mutual),
        trusted_environment=provisioning.trusted_environment,
        spare_keys=provisioning.spare_keys,
        device_classes=parse_device_classes(telling.device_class or []),
        wishes=lambda: _wishes(telling, say),
    )
    identities = _identities(choices, settings, presented, entropy, now)
    psks = {**EMULATOR_PSKS, **parse_psks(sessions.psk or [])}
    return Offer(settings, identities, psks, services, telling, provisioning.reset_on_disconnect)


# -- identities --------------------------------------------------------------------------------------------------------


def _identities(
    choices: Choices, settings: Settings, presented: PresentedOptions, entropy: Entropy, now: float
) -> tuple[Identity, ...]:
    algorithms: tuple[Asym, ...] = (*settings.base_asym, *settings.pqc_asym)
    if not algorithms:
        raise Misuse("no signature algorithm is left to offer", remedy="name one with --asym or --pqc-asym")
    alias = bool(settings.capabilities & Capability.ALIAS_CERT)
    if presented.identity is not None:
        made = read(presented.identity, algorithms, alias=alias)
    elif choices.asym is None and choices.pqc_asym is None and presented.public_key is None and not alias:
        return ()
    else:
        made = tuple(_identity(algorithm, entropy, now, alias=alias) for algorithm in algorithms)
    if presented.public_key is None:
        return made
    keys = [identity.slots[0].key for identity in made]
    presented.public_key.write_bytes(public_keys_pem(key.public for key in keys))
    return tuple(Identity.of_public_key(key) for key in keys)


def _identity(algorithm: Asym, entropy: Entropy, now: float, *, alias: bool) -> Identity:
    manufacture = Manufacture()
    validity = Validity(int(now) - DAY, int(now) + LIFETIME)
    hierarchy = Hierarchy.found(manufacture.info.manufacturer, algorithm, entropy, validity)
    names = Names(manufacture.info, manufacture.pci, manufacture.tcb(hierarchy.issuer.base_hash))
    return Identity({0: Slot.of(hierarchy.alias(names) if alias else hierarchy.responder(names))})


# -- mutual authentication ---------------------------------------------------------------------------------------------


def _mutual_flags(options: MutualOptions) -> Capability:
    wanted = options.mutual is not Mutual.NONE or options.basic_mutual
    # Whether we have chains or a public key is said elsewhere.
    return MUTUAL_CAPABILITIES & ~Capability.CERT if wanted else NO_CAPABILITIES


def _authentication(options: MutualOptions) -> MutualAuthentication | None:
    if not _mutual_flags(options):
        if options.refuse_psk:
            raise Misuse(
                "--refuse-psk asks for another proof of identity, and none is asked for",
                remedy="give --mutual or --basic-mutual",
            )
        return None
    reads = options.basic_mutual or options.mutual in (Mutual.ENCAPSULATED, Mutual.DIGESTS)
    trusted = [load_anchor(file.read_bytes(), file.name) for file in options.requester_anchor or []]
    keys = tuple(key for file in options.requester_key or [] for key in load_public_keys(file.read_bytes(), file.name))
    if reads and not trusted and not keys:
        raise Misuse(
            "mutual authentication without a root certificate that is trusted for requesters",
            remedy="give one with --requester-anchor, for example the ca.cert.der of teeio identity make",
        )
    provisioned = {}
    if options.requester_chain is not None:
        data = options.requester_chain.read_bytes()
        provisioned[options.requester_slot] = tuple(certificates_of(data, str(options.requester_chain))[0])
    elif options.mutual is Mutual.PLAIN and not keys:
        raise Misuse(
            "--mutual plain reads no chain, so it must be known beforehand",
            remedy="give --requester-chain or --requester-key",
        )
    return MutualAuthentication(
        _Trust(tuple(trusted)),
        _MODES[options.mutual],
        basic=options.basic_mutual,
        slot=options.requester_slot,
        required=not options.optional,
        accept_pre_shared_keys=not options.refuse_psk,
        provisioned=provisioned,
        public_keys=keys,
    )


@dataclass(frozen=True, slots=True)
class _Trust:
    """Trusts the requesters whose chains lead to one of the `anchors`, by the clock on the wall."""

    anchors: tuple[bytes, ...]

    def __call__(self, chain: bytes, now: float) -> None:
        """Examine a chain structure. Raises `AuthenticationFailed` or `DecodeError`."""
        certificates, base_hash = certificates_of(chain, "the requester's chain")
        if base_hash is None:
            raise AuthenticationFailed("the requester's chain is no SPDM certificate chain")
        algorithm = algorithm_of(certificates[-1])
        # `now` is the clock of sessions; certificates have days.
        authenticate_chain(chain, self.anchors, base_hash, algorithm, time.time(), requester=True)


# -- the rest ----------------------------------------------------------------------------------------------------------


def _provisioning_flags(options: ProvisioningOptions) -> Capability:
    flags = NO_CAPABILITIES
    if options.provisioning is not None:
        flags |= _PROVISIONS | (_AT_RESET if options.provisioning is Provisioned.RESET else NO_CAPABILITIES)
    if options.multi_key is not None:
        only = options.multi_key is MultiKey.ONLY
        flags |= Capability.GET_KEY_PAIR_INFO | (Capability.MULTI_KEY_ONLY if only else Capability.MULTI_KEY_NEG)
    return flags


def _telling_flags(options: TellingOptions) -> Capability:
    flags = Capability.ENCAP if options.events or options.ask else NO_CAPABILITIES
    if options.events:
        flags |= Capability.EVENT
    if options.mel:
        flags |= Capability.MEL
    if options.endpoint_info is not None or options.device_class:
        signed = options.endpoint_info is EndpointInfo.SIGNED
        flags |= Capability.EP_INFO_SIG if signed else Capability.EP_INFO_NO_SIG
    return flags


def _wishes(options: TellingOptions, say: Callable[[str], None]) -> Sequence[Wish]:
    def learned(classes: tuple[DeviceClass, ...]) -> None:
        named = ", ".join(f"registry {one.registry}, vendor {one.vendor.hex() or '-'}" for one in classes)
        say(f"the requester is of {len(classes)} device classes: {named}")

    made: dict[Wanted, Callable[[], Wish]] = {
        Wanted.KEY_UPDATE: KeyRenewal,
        Wanted.ENDPOINT_INFO: lambda: Acquaintance(learned),
    }
    return [made[wanted]() for wanted in dict.fromkeys(options.ask or [])]
