"""A pair in which one side or both are known by a provisioned public key."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

from spdm_pair import Pair
from teeio.crypto.algorithms import P384_SUITE, BaseAsym
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import Asym, SigningKey
from teeio.errors import AuthenticationFailed
from teeio.spdm.constants import Capability, MutualAuth, Version
from teeio.spdm.device_state import Identity
from teeio.spdm.mutual import MutualAuthentication
from teeio.spdm.state import MUTUAL_CAPABILITIES, REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES

P = TypeVar("P", bound=Pair)
VERSIONS = [Version.V1_1, Version.V1_2, Version.V1_3, Version.V1_4]
P384, P256 = BaseAsym.ECDSA_P384, BaseAsym.ECDSA_P256
PUB_KEY_ID, CERT = Capability.PUB_KEY_ID, Capability.CERT
MUTUAL = MUTUAL_CAPABILITIES & ~CERT | PUB_KEY_ID
DEVICE = RESPONDER_CAPABILITIES & ~CERT | PUB_KEY_ID
CLEAR = Capability.HANDSHAKE_IN_THE_CLEAR


@lru_cache(typed=True)  # flags of different kinds are equal as integers
def key(algorithm: Asym, seed: bytes = b"provisioned") -> SigningKey:
    return SigningKey.generate(algorithm, SeededEntropy(seed))


def nobody(chain: bytes, now: float) -> None:
    raise AuthenticationFailed("no chain is trusted here")


def known_device(
    version: Version = Version.V1_2, flags: Capability = DEVICE, *, make: Callable[..., P] = Pair, **changes: Any
) -> P:
    """Make a pair, by `make`, whose responder (P-384) is known by its public key."""
    made: dict[str, Any] = {
        "identities": (Identity.of_public_key(key(P384)),),
        "peer_keys": (key(P256).public, key(P384).public),
        "requester_changes": {},
        **changes,
    }
    return make(version, P384_SUITE, {"versions": (version,), "capabilities": flags}, **made)


def known_requester(
    version: Version = Version.V1_2,
    mode: MutualAuth = MutualAuth.ENCAPSULATED,
    *,
    basic: bool = False,
    clear: bool = False,
    device: Capability = DEVICE,
    requester: Capability = REQUESTER_CAPABILITIES | MUTUAL,
    signer: SigningKey | None = None,
    make: Callable[..., P] = Pair,
    **policy: Any,
) -> P:
    """Make a pair whose sides both are known by public keys; the requester (P-256) signs with `signer`."""
    extra = CLEAR if clear else Capability(0)
    trust = MutualAuthentication(nobody, mode, basic, public_keys=(key(P384).public, key(P256).public))
    both = MUTUAL & ~PUB_KEY_ID
    return known_device(
        version,
        device | both | extra,
        make=make,
        requester_changes={"capabilities": requester | extra, "req_base_asym": (P256,)},
        requester_identities=(Identity.of_public_key(signer or key(P256)),),
        mutual=replace(trust, **policy),
    )
