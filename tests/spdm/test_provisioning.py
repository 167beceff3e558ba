"""Certificate requests, slots and key pairs: both ends ours, in and out of sessions, and abuse."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from spdm_pair import Pair, identity
from strategies import mutated
from teeio.crypto.algorithms import P384_SUITE, BaseAsym, BaseHash, PqcAsym
from teeio.crypto.certificates import (
    Authority,
    CertificateModel,
    DeviceInfo,
    Validity,
    chain_structure,
    check_request,
    leaf_extensions,
)
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import SigningKey, public_key_der
from teeio.errors import ErrorResponse, Misuse, PeerViolation
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, Version
from teeio.spdm.device_state import Identity, KeyUsage
from teeio.spdm.exchange import ask
from teeio.spdm.provisioning import (
    EVERY_USE,
    KEY_PAIR_ASYM,
    MAX_TRACKING_TAG,
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
_TIME = Validity(1.7e9, 2.5e9)


def store(
    *, spare: tuple[KeyPair, ...] = (), capabilities: KeyPairCapability = NO_CAPABILITY, trusted: bool = True
) -> Provisioning:
    found = (identity(BaseAsym.ECDSA_P384), identity(BaseAsym.ECDSA_P256))
    return Provisioning.of(found, first=spare, capabilities=capabilities, trusted_environment=trusted)


def spare_pair(capabilities: KeyPairCapability = EVERYTHING) -> KeyPair:
    key = SigningKey.generate(BaseAsym.ECDSA_P256, SeededEntropy(b"spare"))
    return KeyPair(key, (BaseAsym.ECDSA_P256, BaseAsym.ECDSA_P384), capabilities=capabilities)


def device(version: Version, flags: Capability = CAPABILITIES, *, made: Provisioning | None = None) -> Pair:
    return Pair(
        version,
        P384_SUITE,
        {"versions": (version,), "capabilities": flags},
        {"multi_key": bool(flags & Capability.MULTI_KEY_NEG)},
        device={"provisioning": made or store()},
    )


@cache
def _authority() -> Authority:
    return Authority.root("New owner", BaseAsym.ECDSA_P384, BaseHash.SHA_384, SeededEntropy(b"owner"), _TIME)


def new_chain(public: Any, *, issuer: Authority | None = None) -> bytes:
    authority = issuer or _authority()
    info = DeviceInfo("Acme", "Accelerator", "0002")
    leaf = authority.certify("device", public, leaf_extensions(info), SeededEntropy(b"leaf"), _TIME)
    return chain_structure(authority.path[0], [*authority.path[1:], leaf], BaseHash.SHA_384)


def _key() -> SigningKey:
    return identity(BaseAsym.ECDSA_P384).slots[0].key


def _session(pair: Pair, in_session: bool) -> Session | None:
    pair.authenticate()
    return pair.run(flows.key_exchange(pair.requester)) if in_session else None


def _refused(pair: Pair, flow: Any, code: ErrorCode) -> str:
    """Run a flow that the responder must refuse with `code`; give the reason that it told its observer."""
    told: list[Any] = []
    pair.responder.observer = told.append
    with pytest.raises(ErrorResponse) as caught:
        pair.run(flow)
    assert caught.value.code == code
    return "".join(str(event) for event in told)


# -- GET_CSR ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_session", [False, True], ids=["outside", "in session"])
@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_a_csr_is_signed_by_the_device_and_asks_for_what_the_leaf_has(version: Version, in_session: bool) -> None:
    pair = device(version)
    session = _session(pair, in_session)
    at = session.session_id if session else None
    csr = pair.run(flows.get_csr(pair.requester, requester_info=bytes([0x30, 0]), session=at))
    assert public_key_der(check_request(csr)) == public_key_der(_key().public)
    request = x509.load_der_x509_csr(csr)
    leaf = x509.load_der_x509_certificate(identity(BaseAsym.ECDSA_P384).slots[0].certificates[-1])
    assert request.subject == leaf.subject
    asked = {extension.oid for extension in request.extensions}
    own = {x509.SubjectKeyIdentifier.oid, x509.AuthorityKeyIdentifier.oid}
    assert asked == {extension.oid for extension in leaf.extensions} - own


@pytest.mark.parametrize("algorithm", [BaseAsym.RSAPSS_2048, BaseAsym.ED25519, PqcAsym.ML_DSA_65], ids=lambda a: a.name)
def test_every_kind_of_key_can_ask_for_a_certificate(algorithm: Any) -> None:
    kind = "pqc_asym" if isinstance(algorithm, PqcAsym) else "base_asym"
    chosen: dict[str, Any] = {"base_asym": (), "pqc_asym": (), kind: (algorithm,)}
    pair = Pair(
        Version.V1_4,
        P384_SUITE,
        {"versions": (Version.V1_4,), "capabilities": CAPABILITIES, **chosen},
        chosen,
        device={"provisioning": Provisioning.of([identity(algorithm)], trusted_environment=True)},
    )
    pair.run(flows.connect(pair.requester))
    csr = pair.run(flows.get_csr(pair.requester))
    assert public_key_der(check_request(csr)) == public_key_der(identity(algorithm).slots[0].key.public)


@pytest.mark.parametrize(
    ("request_fields", "why"),
    [
        ({"requester_info": b"no DER"}, "RequesterInfo"),
        ({"requester_info": bytes([0x30, 1])}, "RequesterInfo"),
        ({"opaque": bytes(1025)}, "opaque"),
        ({"tracking_tag": 1}, "tracking tag"),
        ({"key_pair_id": 1}, "KeyPairID"),
        ({"certificate_model": 1}, "certificate model"),
    ],
)
def test_a_csr_that_makes_no_sense_is_refused(request_fields: dict[str, Any], why: str) -> None:
    pair = device(Version.V1_3)
    pair.authenticate()
    assert why in _refused(pair, ask(m.GetCsr(**request_fields)), ErrorCode.INVALID_REQUEST)


@pytest.mark.parametrize("version", LATER, ids=lambda v: v.text)
def test_a_csr_that_needs_a_reset_is_asked_for_again_by_its_tag(version: Version) -> None:
    made = store()
    pair = device(version, CAPABILITIES | Capability.CERT_INSTALL_RESET, made=made)
    pair.authenticate()
    for tag in range(1, MAX_TRACKING_TAG + 1):
        with pytest.raises(ErrorResponse, match="RESET_REQUIRED") as caught:
            pair.run(flows.get_csr(pair.requester))
        assert caught.value.data == tag
    with pytest.raises(ErrorResponse, match="not ready"):
        pair.run(flows.get_csr(pair.requester))
    _refused(pair, flows.get_csr(pair.requester, tracking_tag=2), ErrorCode.RESET_REQUIRED)
    made.reset()
    check_request(pair.run(flows.get_csr(pair.requester, tracking_tag=2)))
    _refused(pair, flows.get_csr(pair.requester, tracking_tag=2), ErrorCode.UNEXPECTED_REQUEST)
    other = flows.get_csr(pair.requester, tracking_tag=3, requester_info=bytes([0x30, 0]))
    _refused(pair, other, ErrorCode.UNEXPECTED_REQUEST)
    with pytest.raises(ErrorResponse, match="RESET_REQUIRED") as caught:
        pair.run(flows.get_csr(pair.requester, overwrite=True))
    assert (caught.value.data, list(made.orders)) == (1, [1])
    _refused(pair, flows.get_csr(pair.requester, overwrite=True, tracking_tag=1), ErrorCode.INVALID_REQUEST)


def test_in_1_2_the_same_request_after_the_reset_gets_the_csr() -> None:
    made = store()
    pair = device(Version.V1_2, CAPABILITIES | Capability.CERT_INSTALL_RESET, made=made)
    pair.authenticate()
    for _ in range(2):
        _refused(pair, flows.get_csr(pair.requester), ErrorCode.RESET_REQUIRED)
    assert len(made.orders) == 1
    made.reset()
    check_request(pair.run(flows.get_csr(pair.requester)))


# -- SET_CERTIFICATE ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_session", [False, True], ids=["outside", "in session"])
@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_a_written_slot_authenticates_the_device(version: Version, in_session: bool) -> None:
    pair = device(version)
    session = _session(pair, in_session)
    at = session.session_id if session else None
    chain = new_chain(_key().public)
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
    first.run(flows.set_certificate(first.requester, 5, new_chain(_key().public)))
    second.authenticate()
    assert second.run(flows.get_digests()).slots() == (0, 3, 5)


@pytest.mark.parametrize("version", LATER, ids=lambda v: v.text)
def test_erasing_a_slot(version: Version) -> None:
    pair = device(version)
    pair.authenticate()
    pair.run(flows.erase_certificate(pair.requester, 3))
    assert pair.run(flows.get_digests()).slots() == (0,)
    for slot in (0, 3):
        _refused(pair, flows.erase_certificate(pair.requester, slot), ErrorCode.OPERATION_FAILED)
    _refused(pair, ask(m.SetCertificate(slot=0, erase=1, chain=b"123")), ErrorCode.INVALID_REQUEST)
    _refused(pair, ask(m.SetCertificate(slot=0, erase=1, certificate_model=1)), ErrorCode.INVALID_REQUEST)
    _refused(pair, ask(m.SetCertificate(slot=0, erase=1, key_pair_id=1)), ErrorCode.INVALID_REQUEST)


def test_erasing_comes_with_1_3() -> None:
    pair = device(Version.V1_2)
    pair.authenticate()
    with pytest.raises(Misuse, match=r"1\.3"):
        pair.run(flows.erase_certificate(pair.requester, 3))


def _foreign_key() -> bytes:
    return new_chain(SigningKey.generate(BaseAsym.ECDSA_P384, SeededEntropy(b"another")).public)


def _broken_signature() -> bytes:
    chain = bytearray(new_chain(_key().public))
    chain[-1] ^= 1
    return bytes(chain)


def _wrong_root_hash() -> bytes:
    chain = bytearray(new_chain(_key().public))
    chain[4] ^= 1
    return bytes(chain)


def _authority_as_leaf() -> bytes:
    sub = _authority().subordinate("sub", SeededEntropy(b"sub"), _TIME)
    return chain_structure(sub.path[0], sub.path[1:], BaseHash.SHA_384)


def _leaf_without_profile() -> bytes:
    bare = _authority().certify("device", _key().public, [], SeededEntropy(b"bare"), _TIME)
    return chain_structure(_authority().path[0], [bare], BaseHash.SHA_384)


def _only_a_root() -> bytes:
    return chain_structure(_authority().path[0], [], BaseHash.SHA_384)


@pytest.mark.parametrize(
    ("chain", "why"),
    [
        (_foreign_key, "another key"),
        (_broken_signature, "not issued by"),
        (_wrong_root_hash, "RootHash"),
        (_authority_as_leaf, "keyUsage"),
        (_leaf_without_profile, "keyUsage"),
        (_only_a_root, "leaf below"),
        (lambda: new_chain(_key().public) + bytes(1), "behind the chain"),
        (lambda: new_chain(_key().public)[:-1], "length"),
        (lambda: b"", "length"),
    ],
)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_a_chain_is_checked_before_it_is_stored(version: Version, chain: Any, why: str) -> None:
    pair = device(version)
    session = _session(pair, in_session=True)
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
    chain = new_chain(_key().public)
    pair.run(ask(m.SetCertificate(slot=1, chain=chain + bytes(3))))
    assert pair.run(flows.get_certificate(pair.requester, 1)) == chain
    for rest in (bytes(4), b"\1"):
        _refused(pair, ask(m.SetCertificate(slot=1, chain=chain + rest)), ErrorCode.INVALID_REQUEST)


def test_a_slot_holds_only_what_fits() -> None:
    made = store()
    made.slot_size = 64
    pair = device(Version.V1_3, made=made)
    pair.authenticate()
    flow = flows.set_certificate(pair.requester, 1, new_chain(_key().public))
    assert "slot holds 64" in _refused(pair, flow, ErrorCode.OPERATION_FAILED)


def test_outside_a_trusted_environment_slot_0_is_closed_and_the_others_need_a_session() -> None:
    pair = device(Version.V1_3, made=store(trusted=False))
    session = _session(pair, in_session=True)
    assert session is not None
    chain = new_chain(_key().public)
    for slot, at in ((0, None), (0, session.session_id), (1, None)):
        flow = flows.set_certificate(pair.requester, slot, chain, session=at)
        _refused(pair, flow, ErrorCode.UNEXPECTED_REQUEST)
    pair.run(flows.set_certificate(pair.requester, 1, chain, session=session.session_id))


def test_a_slot_that_does_not_exist_is_refused() -> None:
    made = store()
    made.supported_slots = 0x0F
    pair = device(Version.V1_3, made=made)
    pair.authenticate()
    for slot in (4, 8, 15):
        flow = flows.set_certificate(pair.requester, slot, new_chain(_key().public))
        _refused(pair, flow, ErrorCode.INVALID_REQUEST)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_a_slot_that_needs_a_reset_changes_at_the_reset(version: Version) -> None:
    made = store()
    pair = device(version, CAPABILITIES | Capability.CERT_INSTALL_RESET, made=made)
    pair.authenticate()
    chain = new_chain(_key().public)
    _refused(pair, flows.set_certificate(pair.requester, 3, chain), ErrorCode.RESET_REQUIRED)
    _refused(pair, flows.get_certificate(pair.requester, 3), ErrorCode.RESET_REQUIRED)
    made.reset()
    assert pair.run(flows.get_certificate(pair.requester, 3)) == chain


@given(st.data())
@settings(max_examples=40)
def test_damaged_chains_change_nothing_and_never_raise(data: st.DataObject) -> None:
    pair = device(Version.V1_4)
    pair.run(flows.connect(pair.requester))
    before = pair.responder.identity
    chain = new_chain(_key().public)
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
        _refused(pair, flow, ErrorCode.UNSUPPORTED_REQUEST)


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


CAPABILITIES_OF_REQUESTER = Pair().requester.settings.capabilities


def _long_identity() -> Identity:
    """Make a chain beyond 64 KiB."""
    slot = identity(BaseAsym.ECDSA_P384).slots[0]
    padding = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.412.274.99"), bytes(70_000)), False)
    leaf = _authority().certify("device", slot.key.public, [padding], SeededEntropy(b"long"), _TIME)
    return Identity({0: replace(slot, certificates=(*_authority().path, leaf))})


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
        _refused(pair, flows.get_certificate(pair.requester), ErrorCode.DATA_TOO_LARGE)


def test_the_large_form_needs_its_capability() -> None:
    pair = device(Version.V1_4)
    pair.authenticate()
    request = m.GetCertificate(slot=0, large=1, large_length=1000)
    _refused(pair, ask(request), ErrorCode.UNSUPPORTED_REQUEST)


# -- key pairs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_session", [False, True], ids=["outside", "in session"])
@pytest.mark.parametrize("version", LATER, ids=lambda v: v.text)
def test_the_life_of_a_key_pair(version: Version, in_session: bool) -> None:
    made = store(spare=(spare_pair(),), capabilities=NO_CAPABILITY)
    pair = device(version, CAPABILITIES | KEY_PAIRS, made=made)
    session = _session(pair, in_session)
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
    _refused(pair, flows.erase_key_pair(requester, 1, at), ErrorCode.OPERATION_FAILED)
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
    assert why in _refused(pair, ask(request), ErrorCode.INVALID_REQUEST)
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
        _refused(pair, flow, ErrorCode.OPERATION_FAILED)
    pair.run(flows.challenge(pair.requester))


def test_a_key_is_erased_before_its_algorithm_changes() -> None:
    made = store(spare=(spare_pair(),))
    pair = device(Version.V1_3, CAPABILITIES | KEY_PAIRS, made=made)
    pair.authenticate()
    change = {"slots": 0, "algorithm": BaseAsym.ECDSA_P384}
    _refused(pair, flows.change_key_pair(pair.requester, 1, **change), ErrorCode.OPERATION_FAILED)  # type: ignore[arg-type]
    pair.run(flows.erase_key_pair(pair.requester, 1))
    _refused(pair, flows.generate_key_pair(pair.requester, 1), ErrorCode.INVALID_REQUEST)
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
    _refused(pair, flow, ErrorCode.RESET_REQUIRED)
    assert made.key_pairs[0].key is before
    made.reset()
    assert made.key_pairs[0].selected is BaseAsym.ECDSA_P384
    _refused(pair, flows.erase_key_pair(pair.requester, 1), ErrorCode.RESET_REQUIRED)
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


# -- multi-key connections ----------------------------------------------------------------------------------------------

SEVERAL = CAPABILITIES | KEY_PAIRS


def _two_keys() -> Provisioning:
    """Give a device whose slots 0 and 3 have different keys of one algorithm."""
    first, second = (identity(BaseAsym.ECDSA_P384, seed).slots[0] for seed in (b"identity", b"second"))
    made = Provisioning.of([Identity({0: first, 3: second})], capabilities=EVERYTHING, trusted_environment=True)
    made.key_pairs[0].capabilities = NO_CAPABILITY
    made.key_pairs[1].usage = KeyUsage.CHALLENGE
    return made


@pytest.mark.parametrize("flag", [Capability.MULTI_KEY_ONLY, Capability.MULTI_KEY_NEG], ids=["only", "negotiated"])
@pytest.mark.parametrize("version", LATER, ids=lambda v: v.text)
def test_a_multi_key_connection(version: Version, flag: Capability) -> None:
    pair = device(version, SEVERAL | flag, made=_two_keys())
    requester = pair.requester
    assert pair.run(flows.connect(requester)).multi_key
    digests = pair.run(flows.get_digests())
    assert digests.key_pair_ids == (1, 2)
    assert digests.certificate_info == (CertificateModel.DEVICE.value,) * 2
    assert digests.key_usage == (EVERY_USE, KeyUsage.CHALLENGE)
    for slot in (0, 3):
        pair.run(flows.get_certificate(requester, slot))
        flows.check_digest(requester, digests, slot)
        pair.run(flows.challenge(requester, slot))
    assert requester.transcript.first_digests == pair.responder.transcript.first_digests != b""
    pair.run(flows.heartbeat(pair.run(flows.key_exchange(requester, 0))))
    for flow in (flows.key_exchange(requester, 3), flows.get_measurements(requester, slot=3)):
        assert "KeyUsageMask" in _refused(pair, flow, ErrorCode.INVALID_REQUEST)
    csr = pair.run(flows.get_csr(requester, key_pair_id=2))
    second = identity(BaseAsym.ECDSA_P384, b"second").slots[0].key
    assert public_key_der(check_request(csr)) == public_key_der(second.public)
    chain = new_chain(second.public)
    first = new_chain(_key().public)
    for refused, why in ((chain, "another key"), (first, "shared")):
        flow = flows.set_certificate(requester, 5, refused, key_pair_id=1)
        assert why in _refused(pair, flow, ErrorCode.OPERATION_FAILED)
    pair.run(flows.set_certificate(requester, 5, chain, key_pair_id=2, model=CertificateModel.GENERIC))
    digests = pair.run(flows.get_digests())
    assert (digests.key_pair_ids, digests.certificate_info) == ((1, 2, 2), (1, 1, 3))
    assert pair.run(flows.get_key_pair_info(requester, 2)).slots == 0b101000
    pair.run(flows.erase_certificate(requester, 3, key_pair_id=2))
    assert pair.run(flows.get_key_pair_info(requester, 2)).slots == 0b100000


def test_the_choice_is_the_requesters_where_the_responder_leaves_it() -> None:
    pair = device(Version.V1_3, SEVERAL | Capability.MULTI_KEY_NEG)
    pair.requester.settings = replace(pair.requester.settings, multi_key=False)
    assert not pair.run(flows.connect(pair.requester)).multi_key
    assert pair.run(flows.get_digests()).key_pair_ids == ()
    with pytest.raises(Misuse, match="multi-key"):
        pair.run(flows.get_csr(pair.requester, key_pair_id=1))


def test_multi_key_abuse() -> None:
    pair = device(Version.V1_3, SEVERAL | Capability.MULTI_KEY_ONLY, made=_two_keys())
    pair.authenticate()
    for request in (
        m.GetCsr(key_pair_id=0, certificate_model=1),
        m.GetCsr(key_pair_id=1, certificate_model=0),
        m.GetCsr(key_pair_id=1, certificate_model=4),
        m.GetCsr(key_pair_id=9, certificate_model=1),
        m.SetCertificate(slot=0, key_pair_id=1, certificate_model=3, chain=new_chain(_key().public)),
        m.SetCertificate(slot=3, erase=1, key_pair_id=0),
    ):
        _refused(pair, ask(request), ErrorCode.INVALID_REQUEST)
    with pytest.raises(Misuse, match="KeyPairID"):
        pair.run(flows.get_csr(pair.requester))


@pytest.mark.parametrize(("flag", "wanted"), [(Capability.MULTI_KEY_ONLY, 0), (Capability(0), 1)])
def test_multi_key_is_negotiated_as_the_capability_says(flag: Capability, wanted: int) -> None:
    pair = device(Version.V1_3, SEVERAL | flag, made=_two_keys())
    pair.tamper = (  # type: ignore[method-assign]
        lambda way, frame: (
            frame[:8] + bytes([frame[8] & ~0x10 | wanted << 4]) + frame[9:]
            if frame[2] == m.NegotiateAlgorithms.CODE
            else frame
        )
    )
    with pytest.raises(ErrorResponse, match="INVALID_REQUEST"):
        pair.run(flows.connect(pair.requester))


def test_a_session_on_a_multi_key_connection_notices_changed_digests() -> None:
    """The D transcript: what the first DIGESTS said of keys is bound into the session."""
    pair = device(Version.V1_3, SEVERAL | Capability.MULTI_KEY_ONLY, made=_two_keys())
    pair.tamper = lambda way, frame: frame[:-1] + b"\x7f" if way == "rsp" and frame[2] == m.Digests.CODE else frame  # type: ignore[method-assign]
    pair.authenticate()
    with pytest.raises(Exception, match="does not verify"):
        pair.run(flows.key_exchange(pair.requester))
