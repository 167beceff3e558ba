"""A pair whose responder can be provisioned, chains for its slots, and what it refuses."""

from functools import cache
from typing import Any

import pytest

from spdm_pair import Pair, identity
from teeio.crypto.algorithms import P384_SUITE, BaseAsym, BaseHash
from teeio.crypto.certificates import (
    Authority,
    DeviceInfo,
    Validity,
    chain_structure,
    leaf_extensions,
)
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import SigningKey
from teeio.errors import ErrorResponse
from teeio.spdm import flows
from teeio.spdm.constants import Capability, ErrorCode, Version
from teeio.spdm.provisioning import (
    NO_CAPABILITY,
    KeyPair,
    KeyPairCapability,
    Provisioning,
)
from teeio.spdm.state import RESPONDER_CAPABILITIES, Session

CAPABILITIES = RESPONDER_CAPABILITIES | Capability.CSR | Capability.SET_CERT
KEY_PAIRS = Capability.GET_KEY_PAIR_INFO | Capability.SET_KEY_PAIR_INFO
VERSIONS = [Version.V1_2, Version.V1_3, Version.V1_4]
LATER = [Version.V1_3, Version.V1_4]
EVERYTHING = KeyPairCapability(0x3F)
VALIDITY = Validity(1.7e9, 2.5e9)


def store(
    *, spare: tuple[KeyPair, ...] = (), capabilities: KeyPairCapability = NO_CAPABILITY, trusted: bool = True
) -> Provisioning:
    found = (identity(BaseAsym.ECDSA_P384), identity(BaseAsym.ECDSA_P256))
    return Provisioning.of(found, first=spare, capabilities=capabilities, trusted_environment=trusted)


def device(version: Version, flags: Capability = CAPABILITIES, *, made: Provisioning | None = None) -> Pair:
    return Pair(
        version,
        P384_SUITE,
        {"versions": (version,), "capabilities": flags},
        {"multi_key": bool(flags & Capability.MULTI_KEY_NEG)},
        device={"provisioning": made or store()},
    )


@cache
def new_owner() -> Authority:
    return Authority.root("New owner", BaseAsym.ECDSA_P384, BaseHash.SHA_384, SeededEntropy(b"owner"), VALIDITY)


def new_chain(public: Any, *, issuer: Authority | None = None) -> bytes:
    authority = issuer or new_owner()
    info = DeviceInfo("Acme", "Accelerator", "0002")
    leaf = authority.certify("device", public, leaf_extensions(info), SeededEntropy(b"leaf"), VALIDITY)
    return chain_structure(authority.path[0], [*authority.path[1:], leaf], BaseHash.SHA_384)


def device_key() -> SigningKey:
    return identity(BaseAsym.ECDSA_P384).slots[0].key


def open_session(pair: Pair, in_session: bool) -> Session | None:
    pair.authenticate()
    return pair.run(flows.key_exchange(pair.requester)) if in_session else None


def refusal(pair: Pair, flow: Any, code: ErrorCode) -> str:
    """Run a flow that the responder must refuse with `code`; give the reason that it told its observer."""
    told: list[Any] = []
    pair.responder.observer = told.append
    with pytest.raises(ErrorResponse) as caught:
        pair.run(flow)
    assert caught.value.code == code
    return "".join(str(event) for event in told)
