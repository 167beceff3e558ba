"""Certificate slots: written, erased, read back in the large form, and chains that are refused."""

from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from spdm.provisioned_device import (
    CAPABILITIES,
    KEY_PAIRS,
    LATER,
    VALIDITY,
    VERSIONS,
    device,
    device_key,
    new_chain,
    new_owner,
    open_session,
    refusal,
    store,
)
from spdm_pair import Pair, identity
from strategies import mutated
from teeio.crypto.algorithms import P384_SUITE, BaseAsym, BaseHash
from teeio.crypto.certificates import (
    chain_structure,
)
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import SigningKey
from teeio.errors import ErrorResponse, Misuse
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, Version
from teeio.spdm.device_state import Identity
from teeio.spdm.exchange import ask
from teeio.spdm.provisioning import (
    Provisioning,
)

# -- SET_CERTIFICATE ----------------------------------------------------------------------------------------------------

CAPABILITIES_OF_REQUESTER = Pair().requester.settings.capabilities


@pytest.mark.parametrize("in_session", [False, True], ids=["outside", "in session"])
@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_a_written_slot_authenticates_the_device(version: Version, in_session: bool) -> None:
    pair = device(version)
    session = open_session(pair, in_session)
    at = session.session_id if session else None
    chain = new_chain(device_key().public)
    pair.run(flows.set_certificate(pair.requester, 1, chain, session=at))
    digests = pair.run(flows.get_digests())
    assert digests.slots() == (0, 1, 3)
    assert digests.supported_slots == (0xFF if version >= Version.V1_3 else 0)
    assert pair.run(flows.get_certificate(pair.requester, 1)) == chain
    flows.check_digest(pair.requester, digests, 1)
    pair.run(flows.challenge(pair.requester, 1))
    pair.run(flows.heartbeat(pair.run(flows.key_exchange(pair.requester, 1))))


def test_what_is_written_lasts_for_the_next_connection() -> None:
    made = store()
    first, second = (device(Version.V1_3, made=made) for _ in range(2))
    first.authenticate()
    first.run(flows.set_certificate(first.requester, 5, new_chain(device_key().public)))
    second.authenticate()
    assert second.run(flows.get_digests()).slots() == (0, 3, 5)


@pytest.mark.parametrize("version", LATER, ids=lambda v: v.text)
def test_erasing_a_slot(version: Version) -> None:
    pair = device(version)
    pair.authenticate()
    pair.run(flows.erase_certificate(pair.requester, 3))
    assert pair.run(flows.get_digests()).slots() == (0,)
    for slot in (0, 3):
        refusal(pair, flows.erase_certificate(pair.requester, slot), ErrorCode.OPERATION_FAILED)
    refusal(pair, ask(m.SetCertificate(slot=0, erase=1, chain=b"123")), ErrorCode.INVALID_REQUEST)
    refusal(pair, ask(m.SetCertificate(slot=0, erase=1, certificate_model=1)), ErrorCode.INVALID_REQUEST)
    refusal(pair, ask(m.SetCertificate(slot=0, erase=1, key_pair_id=1)), ErrorCode.INVALID_REQUEST)


def test_erasing_comes_with_1_3() -> None:
    pair = device(Version.V1_2)
    pair.authenticate()
    with pytest.raises(Misuse, match=r"1\.3"):
        pair.run(flows.erase_certificate(pair.requester, 3))


def _foreign_key() -> bytes:
    return new_chain(SigningKey.generate(BaseAsym.ECDSA_P384, SeededEntropy(b"another")).public)


def _broken_signature() -> bytes:
    chain = bytearray(new_chain(device_key().public))
    chain[-1] ^= 1
    return bytes(chain)


def _wrong_root_hash() -> bytes:
    chain = bytearray(new_chain(device_key().public))
    chain[4] ^= 1
    return bytes(chain)


def _authority_as_leaf() -> bytes:
    sub = new_owner().subordinate("sub", SeededEntropy(b"sub"), VALIDITY)
    return chain_structure(sub.path[0], sub.path[1:], BaseHash.SHA_384)


def _leaf_without_profile() -> bytes:
    bare = new_owner().certify("device", device_key().public, [], SeededEntropy(b"bare"), VALIDITY)
    return chain_structure(new_owner().path[0], [bare], BaseHash.SHA_384)


def _only_a_root() -> bytes:
    return chain_structure(new_owner().path[0], [], BaseHash.SHA_384)


@pytest.mark.parametrize(
    ("chain", "why"),
    [
        (_foreign_key, "another key"),
        (_broken_signature, "not issued by"),
        (_wrong_root_hash, "RootHash"),
        (_authority_as_leaf, "keyUsage"),
        (_leaf_without_profile, "keyUsage"),
        (_only_a_root, "leaf below"),
        (lambda: new_chain(device_key().public) + bytes(1), "behind the chain"),
        (lambda: new_chain(device_key().public)[:-1], "length"),
        (lambda: b"", "length"),
    ],
)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_a_chain_is_checked_before_it_is_stored(version: Version, chain: Any, why: str) -> None:
    pair = device(version)
    session = open_session(pair, in_session=True)
    before = pair.responder.identity
    told: list[Any] = []
    pair.responder.observer = told.append
    assert session is not None
    with pytest.raises(ErrorResponse):
        pair.run(flows.set_certificate(pair.requester, 1, chain(), session=session.session_id))
    assert why in "".join(str(event) for event in told)
    assert pair.responder.identity is before


def test_zero_padding_of_the_transport_is_no_part_of_a_chain() -> None:
    pair = device(Version.V1_3)
    pair.authenticate()
    chain = new_chain(device_key().public)
    pair.run(ask(m.SetCertificate(slot=1, chain=chain + bytes(3))))
    assert pair.run(flows.get_certificate(pair.requester, 1)) == chain
    for rest in (bytes(4), b"\1"):
        refusal(pair, ask(m.SetCertificate(slot=1, chain=chain + rest)), ErrorCode.INVALID_REQUEST)


def test_a_slot_holds_only_what_fits() -> None:
    made = store()
    made.slot_size = 64
    pair = device(Version.V1_3, made=made)
    pair.authenticate()
    flow = flows.set_certificate(pair.requester, 1, new_chain(device_key().public))
    assert "slot holds 64" in refusal(pair, flow, ErrorCode.OPERATION_FAILED)


def test_outside_a_trusted_environment_slot_0_is_closed_and_the_others_need_a_session() -> None:
    pair = device(Version.V1_3, made=store(trusted=False))
    session = open_session(pair, in_session=True)
    assert session is not None
    chain = new_chain(device_key().public)
    for slot, at in ((0, None), (0, session.session_id), (1, None)):
        flow = flows.set_certificate(pair.requester, slot, chain, session=at)
        refusal(pair, flow, ErrorCode.UNEXPECTED_REQUEST)
    pair.run(flows.set_certificate(pair.requester, 1, chain, session=session.session_id))


def test_a_slot_that_does_not_exist_is_refused() -> None:
    made = store()
    made.supported_slots = 0x0F
    pair = device(Version.V1_3, made=made)
    pair.authenticate()
    for slot in (4, 8, 15):
        flow = flows.set_certificate(pair.requester, slot, new_chain(device_key().public))
        refusal(pair, flow, ErrorCode.INVALID_REQUEST)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_a_slot_that_needs_a_reset_changes_at_the_reset(version: Version) -> None:
    made = store()
    pair = device(version, CAPABILITIES | Capability.CERT_INSTALL_RESET, made=made)
    pair.authenticate()
    chain = new_chain(device_key().public)
    refusal(pair, flows.set_certificate(pair.requester, 3, chain), ErrorCode.RESET_REQUIRED)
    refusal(pair, flows.get_certificate(pair.requester, 3), ErrorCode.RESET_REQUIRED)
    made.reset()
    assert pair.run(flows.get_certificate(pair.requester, 3)) == chain


@given(st.data())
@settings(max_examples=40)
def test_damaged_chains_change_nothing_and_never_raise(data: st.DataObject) -> None:
    pair = device(Version.V1_4)
    pair.run(flows.connect(pair.requester))
    before = pair.responder.identity
    chain = new_chain(device_key().public)
    damaged = data.draw(mutated(chain))
    if damaged.rstrip(b"\0") == chain.rstrip(b"\0"):
        return
    answer = pair.say(m.SetCertificate(slot=1, chain=damaged).encode(pair.requester.connection.facts))
    assert answer is not None
    assert answer[1] == m.Error.CODE
    assert pair.responder.identity is before


def test_without_anything_to_provision_the_requests_are_unsupported() -> None:
    pair = Pair(Version.V1_3, P384_SUITE, {"versions": (Version.V1_3,), "capabilities": CAPABILITIES | KEY_PAIRS})
    pair.authenticate()
    for flow in (
        flows.get_csr(pair.requester),
        flows.set_certificate(pair.requester, 1, b""),
        flows.get_key_pair_info(pair.requester, 1),
        flows.erase_key_pair(pair.requester, 1),
    ):
        refusal(pair, flow, ErrorCode.UNSUPPORTED_REQUEST)


# -- slot size and the large form ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [Capability(0), Capability.LARGE_RESP], ids=["small", "large"])
@pytest.mark.parametrize("version", LATER, ids=lambda v: v.text)
def test_the_size_of_a_slot(version: Version, large: Capability) -> None:
    pair = Pair(
        version,
        P384_SUITE,
        {"versions": (version,), "capabilities": CAPABILITIES | large},
        {"capabilities": CAPABILITIES_OF_REQUESTER | large},
        device={"provisioning": store()},
    )
    pair.authenticate()
    assert pair.run(flows.get_slot_size(pair.requester)) == 0x4000
    codes = [frame[3] & 0x80 for way, frame in pair.frames if way == "req" and frame[2] == m.GetCertificate.CODE]
    assert all(codes) is bool(large and version >= Version.V1_4)


def _long_identity() -> Identity:
    """Make a chain beyond 64 KiB."""
    slot = identity(BaseAsym.ECDSA_P384).slots[0]
    padding = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.412.274.99"), bytes(70_000)), False)
    leaf = new_owner().certify("device", slot.key.public, [padding], SeededEntropy(b"long"), VALIDITY)
    return Identity({0: replace(slot, certificates=(*new_owner().path, leaf))})


@pytest.mark.parametrize("large", [True, False], ids=["large", "small"])
def test_a_chain_beyond_64_kib_needs_the_large_form(large: bool) -> None:
    flag = Capability.LARGE_RESP if large else Capability(0)
    pair = Pair(
        Version.V1_4,
        P384_SUITE,
        {"versions": (Version.V1_4,), "capabilities": CAPABILITIES | Capability.LARGE_RESP},
        {"capabilities": CAPABILITIES_OF_REQUESTER | flag},
        device={"provisioning": Provisioning.of([_long_identity()])},
    )
    pair.run(flows.connect(pair.requester))
    if large:
        assert len(pair.run(flows.get_certificate(pair.requester))) > 70_000
        pair.run(flows.challenge(pair.requester))
    else:
        refusal(pair, flows.get_certificate(pair.requester), ErrorCode.DATA_TOO_LARGE)


def test_the_large_form_needs_its_capability() -> None:
    pair = device(Version.V1_4)
    pair.authenticate()
    request = m.GetCertificate(slot=0, large=1, large_length=1000)
    refusal(pair, ask(request), ErrorCode.UNSUPPORTED_REQUEST)


@pytest.mark.parametrize("chunks", [True, False], ids=["chunks", "no chunks"])
def test_all_of_a_chain_comes_at_once_where_chunks_carry_it(chunks: bool) -> None:
    """A requester that asks for 0xFFFF bytes takes part of the chain for a violation if there are chunks (DSP0274 1.2)."""
    flags = CAPABILITIES_OF_REQUESTER | Capability.CHUNK if chunks else CAPABILITIES_OF_REQUESTER & ~Capability.CHUNK
    offered = {"capabilities": flags, "data_transfer_size": 0x200}
    if not chunks:
        offered["max_message_size"] = 0x200
    pair = Pair(Version.V1_2, requester_changes=offered)
    pair.run(flows.connect(pair.requester))
    chain = pair.responder.identity.slots[0].chain(BaseHash.SHA_384)
    assert len(chain) > 0x200
    answer = pair.run(ask(m.GetCertificate(slot=0, offset=0, length=0xFFFF)))
    assert answer.portion == (chain if chunks else chain[: 0x200 - 8])
    assert len(answer.portion) + answer.remainder_length == len(chain)
