"""Key pairs: their life, what they cannot do, and changes that need a reset."""

from dataclasses import replace
from typing import Any

import pytest

from spdm.provisioned_device import (
    CAPABILITIES,
    EVERYTHING,
    KEY_PAIRS,
    LATER,
    device,
    open_session,
    refusal,
    store,
)
from teeio.crypto.algorithms import BaseAsym
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import SigningKey
from teeio.errors import PeerViolation
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, Version
from teeio.spdm.device_state import KeyUsage
from teeio.spdm.exchange import ask
from teeio.spdm.provisioning import (
    EVERY_USE,
    KEY_PAIR_ASYM,
    NO_CAPABILITY,
    KeyPair,
    KeyPairCapability,
)


def spare_pair(capabilities: KeyPairCapability = EVERYTHING) -> KeyPair:
    key = SigningKey.generate(BaseAsym.ECDSA_P256, SeededEntropy(b"spare"))
    return KeyPair(key, (BaseAsym.ECDSA_P256, BaseAsym.ECDSA_P384), capabilities=capabilities)


@pytest.mark.parametrize("in_session", [False, True], ids=["outside", "in session"])
@pytest.mark.parametrize("version", LATER, ids=lambda v: v.text)
def test_the_life_of_a_key_pair(version: Version, in_session: bool) -> None:
    made = store(spare=(spare_pair(),), capabilities=NO_CAPABILITY)
    pair = device(version, CAPABILITIES | KEY_PAIRS, made=made)
    session = open_session(pair, in_session)
    at = session.session_id if session else None
    requester = pair.requester
    info = pair.run(flows.get_key_pair_info(requester, 1, at))
    assert (info.total, info.slots, info.capabilities) == (3, 0, 0x3F)
    assert info.asym_capabilities == 0b11000
    assert info.current_asym == KEY_PAIR_ASYM[BaseAsym.ECDSA_P256]
    assert info.public_key_info.hex() == "301306072a8648ce3d020106082a8648ce3d030107"
    assert len(info.current_pqc) == (4 if version >= Version.V1_4 else 0)
    pair.run(flows.change_key_pair(requester, 1, slots=1 << 6, usage=KeyUsage.CHALLENGE, session=at))
    info = pair.run(flows.get_key_pair_info(requester, 1, at))
    assert (info.slots, info.current_usage) == (1 << 6, KeyUsage.CHALLENGE)
    refusal(pair, flows.erase_key_pair(requester, 1, at), ErrorCode.OPERATION_FAILED)
    pair.run(flows.change_key_pair(requester, 1, slots=0, session=at))
    pair.run(flows.erase_key_pair(requester, 1, at))
    info = pair.run(flows.get_key_pair_info(requester, 1, at))
    assert (info.current_asym, info.public_key_info, info.current_usage) == (0, b"", 0)
    pair.run(flows.generate_key_pair(requester, 1, algorithm=BaseAsym.ECDSA_P384, usage=EVERY_USE, session=at))
    info = pair.run(flows.get_key_pair_info(requester, 1, at))
    assert info.current_asym == KEY_PAIR_ASYM[BaseAsym.ECDSA_P384]
    assert pair.responder.provisioning is made
    assert made.key_pairs[0].key is not None


@pytest.mark.parametrize(
    ("lacking", "request_fields", "why"),
    [
        (KeyPairCapability.GENERATE, {"operation": 2}, "generated"),
        (KeyPairCapability.ERASE, {"operation": 1}, "erased"),
        (KeyPairCapability.ASSOCIATE | KeyPairCapability.SHARE, {"operation": 0, "slots": 2}, "slots"),
        (KeyPairCapability.USAGE, {"operation": 0, "usage": 1}, "usage"),
        (KeyPairCapability.ALGORITHM, {"operation": 0, "asym": 8}, "algorithm"),
        (KeyPairCapability.SHARE, {"operation": 0, "slots": 6}, "one slot"),
        (NO_CAPABILITY, {"operation": 3}, "operation"),
        (NO_CAPABILITY, {"operation": 0, "usage": 0x8000}, "use"),
        (NO_CAPABILITY, {"operation": 0, "asym": 1}, "algorithm"),
        (NO_CAPABILITY, {"operation": 0, "asym": 0x18}, "more than one"),
        (NO_CAPABILITY, {"operation": 0, "pqc": b"\1"}, "algorithm"),
        (NO_CAPABILITY, {"operation": 0, "key_pair_id": 9}, "KeyPairID"),
        (NO_CAPABILITY, {"operation": 0, "key_pair_id": 0}, "KeyPairID"),
    ],
)
def test_what_a_key_pair_cannot_do_is_refused(
    lacking: KeyPairCapability, request_fields: dict[str, Any], why: str
) -> None:
    made = store(spare=(spare_pair(EVERYTHING & ~lacking),))
    pair = device(Version.V1_4, CAPABILITIES | KEY_PAIRS, made=made)
    pair.authenticate()
    before = replace(made.key_pairs[0])
    request = m.SetKeyPairInfo(**{"key_pair_id": 1, **request_fields})
    assert why in refusal(pair, ask(request), ErrorCode.INVALID_REQUEST)
    assert made.key_pairs[0] == before


def test_a_slot_with_a_chain_keeps_its_key_pair() -> None:
    made = store(spare=(), capabilities=EVERYTHING)
    pair = device(Version.V1_3, CAPABILITIES | KEY_PAIRS, made=made)
    pair.authenticate()
    for flow in (
        flows.change_key_pair(pair.requester, 1, slots=0),
        flows.erase_key_pair(pair.requester, 1),
        flows.generate_key_pair(pair.requester, 1),
    ):
        refusal(pair, flow, ErrorCode.OPERATION_FAILED)
    pair.run(flows.challenge(pair.requester))


def test_a_key_is_erased_before_its_algorithm_changes() -> None:
    made = store(spare=(spare_pair(),))
    pair = device(Version.V1_3, CAPABILITIES | KEY_PAIRS, made=made)
    pair.authenticate()
    change = {"slots": 0, "algorithm": BaseAsym.ECDSA_P384}
    refusal(pair, flows.change_key_pair(pair.requester, 1, **change), ErrorCode.OPERATION_FAILED)  # type: ignore[arg-type]
    pair.run(flows.erase_key_pair(pair.requester, 1))
    refusal(pair, flows.generate_key_pair(pair.requester, 1), ErrorCode.INVALID_REQUEST)
    pair.run(flows.change_key_pair(pair.requester, 1, **change))  # type: ignore[arg-type]
    pair.run(flows.generate_key_pair(pair.requester, 1))
    key = made.key_pairs[0].key
    assert key is not None
    assert key.algorithm is BaseAsym.ECDSA_P384


def test_a_key_pair_that_needs_a_reset_changes_at_the_reset() -> None:
    made = store(spare=(spare_pair(),))
    flags = CAPABILITIES | KEY_PAIRS | Capability.SET_KEY_PAIR_RESET
    pair = device(Version.V1_4, flags, made=made)
    pair.authenticate()
    before = made.key_pairs[0].key
    flow = flows.generate_key_pair(pair.requester, 1, algorithm=BaseAsym.ECDSA_P384)
    refusal(pair, flow, ErrorCode.RESET_REQUIRED)
    assert made.key_pairs[0].key is before
    made.reset()
    assert made.key_pairs[0].selected is BaseAsym.ECDSA_P384
    refusal(pair, flows.erase_key_pair(pair.requester, 1), ErrorCode.RESET_REQUIRED)
    made.key_pairs[0].slots = 1
    made.reset()
    assert made.key_pairs[0].key is not None


def test_the_requester_notices_contradictions_in_key_pair_info() -> None:
    made = store(spare=(spare_pair(),))
    made.key_pairs[0].usage = KeyUsage.VENDOR
    pair = device(Version.V1_4, CAPABILITIES | KEY_PAIRS, made=made)
    pair.authenticate()
    with pytest.raises(PeerViolation, match="a use it does not have"):
        pair.run(flows.get_key_pair_info(pair.requester, 1))
