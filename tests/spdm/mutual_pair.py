"""A pair whose responder authenticates its requester, and how to look into what they exchange."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from spdm_pair import Pair, identity
from teeio.crypto.algorithms import P384_SUITE, BaseAsym
from teeio.errors import (
    AuthenticationFailed,
)
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, MutualAuth, Version
from teeio.spdm.mutual import MutualAuthentication
from teeio.spdm.state import MUTUAL_CAPABILITIES, REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES

VERSIONS = [Version.V1_1, Version.V1_2, Version.V1_3, Version.V1_4]
CLEAR = Capability.HANDSHAKE_IN_THE_CLEAR
P256 = BaseAsym.ECDSA_P256


@dataclass
class Trust:
    """Remembers what it was asked to trust."""

    refuse: bool = False
    asked: int = 0

    def __call__(self, chain: bytes, now: float) -> None:
        self.asked += 1
        if self.refuse or chain != identity(P256).slots[0].chain(P384_SUITE.base_hash):
            raise AuthenticationFailed("not a requester we know")


def mutual_pair(
    version: Version = Version.V1_2,
    mode: MutualAuth = MutualAuth.ENCAPSULATED,
    *,
    basic: bool = False,
    clear: bool = False,
    requester: Capability = REQUESTER_CAPABILITIES | MUTUAL_CAPABILITIES,
    **changes: Any,
) -> Pair:
    """Make a pair whose responder (P-384) authenticates its requester (P-256)."""
    extra = CLEAR if clear else Capability(0)
    policy = MutualAuthentication(Trust(), mode, basic, provisioned={0: identity(P256).slots[0].certificates})
    return Pair(
        version,
        P384_SUITE,
        {"versions": (version,), "capabilities": RESPONDER_CAPABILITIES | MUTUAL_CAPABILITIES | extra},
        {"capabilities": requester | extra, "req_base_asym": (P256,)},
        requester_identities=(P256,),
        mutual=replace(policy, **changes),
    )


def codes(pair: Pair) -> list[int]:
    """Give the codes of the plain requests that travelled."""
    return [frame[2] for way, frame in pair.frames if way == "req" and frame[0] == 0]


def inner(pair: Pair, way: str, code: int, offset: int) -> list[bytes]:
    """Give what the plain messages `code` carried."""
    return [frame[1 + offset :] for sent, frame in pair.frames if sent == way and frame[0] == 0 and frame[2] == code]


def edit(code: int, change: Callable[[bytes], bytes], way: str = "req") -> Callable[[str, bytes], bytes]:
    """Make a `tamper` that changes the plain messages with a code."""
    return lambda going, frame: change(frame) if going == way and frame[:1] == b"\0" and frame[2] == code else frame


def error_head(code: ErrorCode) -> bytes:
    return bytes([m.Error.CODE, code])


def challenged_pair() -> tuple[Pair, m.Facts]:
    """Give a pair whose responder awaits GET_ENCAPSULATED_REQUEST."""
    pair = mutual_pair(basic=True)
    pair.authenticate()
    pair.run(flows.prove_possession(pair.requester))
    return pair, pair.requester.connection.facts
