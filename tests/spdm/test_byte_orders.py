"""What SPDM 1.0 and 1.1 leave open: the byte order of signatures, and of sequence numbers in nonces."""

from typing import Any

import pytest

from spdm_pair import Pair, PlainBinding, identity
from teeio.crypto.algorithms import P384_SUITE, Aead, BaseAsym, BaseHash
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import AuthenticationFailed, ErrorResponse, TeeioError
from teeio.spdm import flows
from teeio.spdm.byte_order import ByteOrder, swapped
from teeio.spdm.constants import Version
from teeio.spdm.key_schedule import KeySchedule
from teeio.spdm.mutual import MutualAuthentication
from teeio.spdm.record import RecordKey, RecordTerms
from teeio.spdm.state import MUTUAL_CAPABILITIES, REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES

BIG, LITTLE, EITHER = ByteOrder
KINDS = [BaseAsym.RSASSA_2048, BaseAsym.RSAPSS_2048, BaseAsym.ECDSA_P256, BaseAsym.ECDSA_P521]
AGREE = [(BIG, BIG), (LITTLE, LITTLE), (EITHER, BIG), (EITHER, LITTLE), (BIG, EITHER)]


def signing_pair(version: Version, asym: BaseAsym, ours: ByteOrder, theirs: ByteOrder) -> Pair:
    """A pair that authenticates both ways where the version has sessions."""
    algorithms: dict[str, Any] = {"base_asym": (asym,), "req_base_asym": (asym,)}
    mutual = version > Version.V1_0
    more = MUTUAL_CAPABILITIES if mutual else 0
    return Pair(
        version,
        P384_SUITE,
        {
            "versions": (version,),
            "capabilities": RESPONDER_CAPABILITIES | more,
            "signature_order": theirs,
            **algorithms,
        },
        {"capabilities": REQUESTER_CAPABILITIES | more, "signature_order": ours, **algorithms},
        identities=(asym,),
        requester_identities=(asym,) if mutual else (),
        mutual=MutualAuthentication(lambda chain, now: None, basic=True) if mutual else None,
    )


def everything_signed(pair: Pair) -> None:
    """Exchange every kind of signature, in both directions."""
    pair.authenticate()
    pair.run(flows.challenge(pair.requester))
    pair.run(flows.get_measurements(pair.requester))
    if pair.mutual is not None:
        session = pair.run(flows.key_exchange(pair.requester))
        assert pair.responder.sessions[session.session_id].requester_slot == 0


@pytest.mark.parametrize(("ours", "theirs"), AGREE, ids=lambda order: order.value)
@pytest.mark.parametrize("asym", KINDS, ids=lambda one: one.name)
@pytest.mark.parametrize("version", [Version.V1_0, Version.V1_1], ids=lambda v: v.text)
def test_sides_that_agree_verify_each_other(
    version: Version, asym: BaseAsym, ours: ByteOrder, theirs: ByteOrder
) -> None:
    pair = signing_pair(version, asym, ours, theirs)
    if ours is EITHER and theirs is LITTLE and pair.mutual is not None:
        # EITHER signs big-endian itself: what it takes of its peer is not what its peer takes.
        with pytest.raises(TeeioError):
            everything_signed(pair)
        pair = signing_pair(version, asym, ours, theirs)
        pair.mutual = pair.responder.mutual = None
    everything_signed(pair)


@pytest.mark.parametrize("asym", KINDS, ids=lambda one: one.name)
@pytest.mark.parametrize(("ours", "theirs"), [(BIG, LITTLE), (LITTLE, BIG)], ids=lambda order: order.value)
@pytest.mark.parametrize("version", [Version.V1_0, Version.V1_1], ids=lambda v: v.text)
def test_sides_that_do_not_agree_refuse_each_other(
    version: Version, asym: BaseAsym, ours: ByteOrder, theirs: ByteOrder
) -> None:
    pair = signing_pair(version, asym, ours, theirs)
    pair.authenticate()
    with pytest.raises(AuthenticationFailed, match="does not verify"):
        pair.run(flows.challenge(pair.requester))


@pytest.mark.parametrize("version", [Version.V1_2, Version.V1_3, Version.V1_4], ids=lambda v: v.text)
def test_from_1_2_on_the_switch_counts_no_more(version: Version) -> None:
    everything_signed(signing_pair(version, BaseAsym.ECDSA_P256, LITTLE, BIG))


def test_rsa_is_one_number_and_ecdsa_two() -> None:
    assert swapped(b"abcd", BaseAsym.RSAPSS_4096) == b"dcba"
    assert swapped(b"abcd", BaseAsym.ECDSA_P384) == b"badc"
    assert swapped(b"abcd", BaseAsym.ED25519) == b"abcd"


def test_the_signature_on_the_wire_is_little_endian() -> None:
    frames = []
    for order in (BIG, LITTLE):
        pair = signing_pair(Version.V1_0, BaseAsym.ECDSA_P256, order, order)
        pair.authenticate()
        pair.run(flows.challenge(pair.requester))
        frames.append(pair.frames[-1][1])
    big, little = frames
    assert big[:-64] == little[:-64]
    assert little[-64:] == big[-33:-65:-1] + big[:-33:-1]
    assert identity(BaseAsym.ECDSA_P256).slots[0].key.algorithm.signature_size == 64


# -- nonces ------------------------------------------------------------------------------------------------------------


def record_key(order: ByteOrder) -> RecordKey:
    return RecordKey(KeySchedule(0x11, BaseHash.SHA_256, Aead.AES_128_GCM), bytes(32), RecordTerms(order))


def test_nonces_differ_in_the_half_that_the_number_meets() -> None:
    little, big = (record_key(order) for order in (LITTLE, BIG))
    first = little._nonce()
    assert first == big._nonce(big=True), "the number 0 is the same in both"
    little.sequence = big.sequence = 0x0102
    assert little._nonce() == bytes([first[0] ^ 2, first[1] ^ 1]) + first[2:]
    assert big._nonce(big=True) == first[:10] + bytes([first[10] ^ 1, first[11] ^ 2])


@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "mac"])
@pytest.mark.parametrize("sends", [BIG, LITTLE], ids=lambda order: order.value)
def test_either_becomes_what_the_peer_sends(sends: ByteOrder, encrypted: bool) -> None:
    binding, peer, ours = PlainBinding(), record_key(sends), record_key(EITHER)
    opened = []
    for count in range(3):
        record = peer.seal(1, b"x", binding, SeededEntropy(b""), encrypted=encrypted)
        opened.append(ours.open(record, binding, encrypted=encrypted))
        assert ours._terms.order is (sends if count else EITHER), "0 is the same in both and tells nothing"
    assert opened == [b"x"] * 3


def pair_with_nonces(secured: int, requester: ByteOrder, responder: ByteOrder) -> Pair:
    return Pair(
        Version.V1_1,
        P384_SUITE,
        {"versions": (Version.V1_1,), "secured_versions": (secured,), "nonce_order": responder},
        {"nonce_order": requester},
    )


@pytest.mark.parametrize("secured", [0x1000, 0x1100, 0x1200], ids=hex)
@pytest.mark.parametrize(
    ("requester", "responder"), [(BIG, BIG), (LITTLE, LITTLE), (BIG, EITHER), (LITTLE, EITHER), (EITHER, LITTLE)]
)
def test_sessions_with_agreed_nonces(secured: int, requester: ByteOrder, responder: ByteOrder) -> None:
    pair = pair_with_nonces(secured, requester, responder)
    session = pair.open_session()
    for _ in range(3):
        pair.run(flows.heartbeat(session))
    pair.run(flows.key_update(pair.requester, session))
    for _ in range(3):
        pair.run(flows.heartbeat(session))
    settled = pair.responder.sessions[session.session_id].terms.order
    assert settled is (LITTLE if secured == 0x1200 or requester is EITHER else requester)


@pytest.mark.parametrize("secured", [0x1000, 0x1100], ids=hex)
@pytest.mark.parametrize(("requester", "responder"), [(BIG, LITTLE), (LITTLE, BIG)])
def test_sessions_without_agreed_nonces_end_at_the_second_record(
    secured: int, requester: ByteOrder, responder: ByteOrder
) -> None:
    pair = pair_with_nonces(secured, requester, responder)
    session = pair.open_session()
    pair.run(flows.heartbeat(session))
    with pytest.raises((AuthenticationFailed, ErrorResponse)):
        pair.run(flows.heartbeat(session))
    assert not pair.responder.sessions


def test_secured_messages_1_2_have_one_order() -> None:
    pair = pair_with_nonces(0x1200, BIG, LITTLE)
    session = pair.open_session()
    for _ in range(3):
        pair.run(flows.heartbeat(session))
