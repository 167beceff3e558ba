"""Certificates: issued reproducibly, carried in the chain structure, and refused for each single defect."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519, rsa, x448
from hypothesis import given
from hypothesis import strategies as st

from crypto.issued import (
    DEVICE,
    ENTROPY,
    IDENTITY,
    ISSUER,
    LEAF_KEY,
    NOW,
    PCI,
    PROFILE,
    ROOT,
    SUITES,
    TCB,
    VALIDITY,
    chain_of,
    findings_of,
    issue,
    make_identity,
)
from teeio.crypto.algorithms import BaseAsym, BaseHash
from teeio.crypto.certificates import (
    MAX_CERTIFICATES,
    Authority,
    DeviceIdentity,
    DeviceInfo,
    Fwid,
    OperationalFlags,
    PciIdentity,
    Revocation,
    TcbInfo,
    Validity,
    authenticate_chain,
    chain_structure,
    device_info,
    errors,
    leaf_public_key,
    load_certificate,
    parse_chain,
    pci_identity,
    revocation_status,
    spdm_identifiers,
    split_certificates,
    tcb_info,
    validate_chain,
)
from teeio.crypto.certificates.extensions import (
    HARDWARE_IDENTITY,
    spdm_extension,
)
from teeio.crypto.keys import verify
from teeio.errors import AuthenticationFailed, DecodeError

# -- issuing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asym", "base_hash"), SUITES)
def test_an_issued_identity_validates_without_any_finding(asym: BaseAsym, base_hash: BaseHash) -> None:
    identity = make_identity(b"any", asym, base_hash)
    assert validate_chain(identity.chain, [identity.root], base_hash, asym, NOW) == []
    public = authenticate_chain(identity.chain, [identity.root], base_hash, asym, NOW)
    verify(public, asym, b"message", identity.key.sign(b"message", base_hash), base_hash)


def test_issuing_is_reproducible_and_depends_on_the_entropy() -> None:
    assert make_identity(b"a").path == make_identity(b"a").path
    assert not set(make_identity(b"a").path) & set(make_identity(b"b").path)


def test_leaf_says_what_spdm_cma_and_dice_ask() -> None:
    leaf = load_certificate(IDENTITY.leaf)
    assert device_info(leaf) == DEVICE
    assert pci_identity(leaf) == PCI
    assert tcb_info(leaf) == TCB
    assert spdm_identifiers(leaf) == [HARDWARE_IDENTITY]
    assert leaf.not_valid_before_utc.timestamp() == VALIDITY.not_before
    assert leaf.not_valid_after_utc.timestamp() == VALIDITY.not_after
    root = load_certificate(IDENTITY.root)
    assert (device_info(root), pci_identity(root), tcb_info(root), spdm_identifiers(root)) == (None, None, None, None)


def test_spdm_extension_has_the_bytes_that_a_reference_device_sends() -> None:
    assert spdm_extension([HARDWARE_IDENTITY]).value.hex() == "300e300c060a2b06010401831c821202"


def test_a_long_spdm_extension_is_read_back() -> None:
    listed = [x509.ObjectIdentifier(f"1.3.6.1.4.1.412.274.{n}") for n in range(40)]
    leaf = issue([(spdm_extension(listed), False)])
    assert spdm_identifiers(load_certificate(split_certificates(leaf)[-1])) == listed


def test_dice_flags_count_bits_from_the_top() -> None:
    value = TcbInfo(flags=OperationalFlags.DEBUG).extension().value
    assert value.hex() == "30048702" + "0410"


@given(
    st.sets(st.sampled_from(list(OperationalFlags))),
    st.one_of(st.none(), st.integers(0, 2**63)),
    st.binary(max_size=64),
)
def test_tcb_info_round_trip(flags: set[OperationalFlags], svn: int | None, digest: bytes) -> None:
    info = TcbInfo(fwids=(Fwid("1.2.3", digest),), svn=svn, flags=OperationalFlags(sum(flags)))
    assert tcb_info(load_certificate(split_certificates(issue([(info.extension(), False)]))[0])) == info


# -- names -------------------------------------------------------------------------------------------------------------

WORDS = st.integers(0, 0xFFFF)


@given(
    st.builds(
        PciIdentity,
        WORDS,
        WORDS,
        st.integers(0, 0xFFFFFF),
        st.integers(0, 255),
        st.integers(0, 0xFFFF),
        st.integers(0, 0xFFFF),
        st.integers(0, 2**64 - 1),
    )
)
def test_cma_name_round_trip(identity: PciIdentity) -> None:
    assert PciIdentity.parse(str(identity)) == identity
    assert PciIdentity.parse(str(identity).replace("a", "A")) == identity


def test_cma_name_without_subsystem() -> None:
    assert (
        str(PciIdentity(0x1B36, 0x10, 0x10802, 2, serial=5))
        == "Vendor=1b36:Device=0010:CC=010802:REV=02:0000000000000005"
    )


@pytest.mark.parametrize(
    "text", ["", "Vendor=1b36", "Vendor=1b36:Device=0010:CC=010802:REV=02:", "Vendor=1b36:Device=001٣:CC=010802:REV=02"]
)
def test_malformed_cma_names_are_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        PciIdentity.parse(text)


@pytest.mark.parametrize("text", ["", "a:b", "a:b:", "a:b:c:d"])
def test_malformed_device_names_are_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        DeviceInfo.parse(text)


# -- chain structure ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asym", "base_hash"), SUITES)
def test_chain_structure_round_trip(asym: BaseAsym, base_hash: BaseHash) -> None:
    identity = make_identity(b"chain", asym, base_hash)
    assert int.from_bytes(identity.chain[:4], "little") == len(identity.chain)
    root_hash, certificates = parse_chain(identity.chain, base_hash)
    assert root_hash == base_hash.new(identity.root).digest()
    assert tuple(certificates) == identity.path


@given(st.data())
def test_mutated_chain_gives_nothing_but_decode_error_and_is_never_accepted(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(IDENTITY.chain) - 1))
    flip = data.draw(st.integers(1, 255))
    mutated = IDENTITY.chain[:at] + bytes([IDENTITY.chain[at] ^ flip]) + IDENTITY.chain[at + 1 :]
    with suppress(DecodeError):
        parse_chain(mutated, BaseHash.SHA_384)
    assert errors(validate_chain(mutated, [IDENTITY.root], BaseHash.SHA_384, BaseAsym.ECDSA_P384, NOW))


@given(st.integers(0, 2000))
def test_truncated_chain_is_refused(size: int) -> None:
    cut = IDENTITY.chain[: min(size, len(IDENTITY.chain) - 1)]
    with pytest.raises(DecodeError):
        parse_chain(cut, BaseHash.SHA_384)


@given(st.binary(max_size=200))
def test_any_bytes_split_or_raise_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        assert b"".join(split_certificates(data)) == data


def test_number_of_certificates_is_bounded() -> None:
    assert len(split_certificates(b"\x30\x00" * MAX_CERTIFICATES)) == MAX_CERTIFICATES
    with pytest.raises(DecodeError, match="more than"):
        split_certificates(b"\x30\x00" * (MAX_CERTIFICATES + 1))


def test_leaf_public_key_refuses_what_is_no_certificate() -> None:
    with pytest.raises(DecodeError):
        leaf_public_key(b"\x30\x00")


def test_a_chain_without_certificates_is_refused() -> None:
    with pytest.raises(DecodeError, match="there is no certificate"):
        parse_chain(chain_structure(IDENTITY.root, [], BaseHash.SHA_384, include_root=False), BaseHash.SHA_384)


@pytest.mark.parametrize(
    ("make", "asym"),
    [
        (lambda: rsa.generate_private_key(65537, 2048), BaseAsym.RSAPSS_2048),
        (ed25519.Ed25519PrivateKey.generate, BaseAsym.ED25519),
        (ed448.Ed448PrivateKey.generate, BaseAsym.ED448),
    ],
    ids=["RSA", "Ed25519", "Ed448"],
)
def test_leaves_with_other_kinds_of_key(make: Callable[[], Any], asym: BaseAsym) -> None:
    leaf = ISSUER.certify("leaf", make().public_key(), PROFILE, ENTROPY, VALIDITY)
    assert validate_chain(chain_of(leaf), [ROOT.path[0]], BaseHash.SHA_384, asym, NOW) == []
    assert findings_of(chain_of(leaf), ROOT.path[0]) == {"key"}
    assert leaf_public_key(leaf) is not None


def test_a_leaf_whose_key_cannot_sign_is_refused() -> None:
    key: Any = x448.X448PrivateKey.generate().public_key()
    leaf = ISSUER.certify("leaf", key, PROFILE, ENTROPY, VALIDITY)
    assert findings_of(chain_of(leaf), ROOT.path[0]) == {"key"}
    with pytest.raises(AuthenticationFailed, match="no implemented algorithm uses"):
        leaf_public_key(leaf)


# -- the path ----------------------------------------------------------------------------------------------------------


def test_the_root_in_the_chain_is_not_trusted_by_itself() -> None:
    assert findings_of(IDENTITY.chain, make_identity(b"other vendor").root) == {"anchor"}
    assert {f.check for f in validate_chain(IDENTITY.chain, [], BaseHash.SHA_384, BaseAsym.ECDSA_P384, NOW)} == {
        "anchor"
    }


def test_a_self_made_chain_that_claims_the_anchors_hash_is_refused() -> None:
    forged = make_identity(b"forger")
    root_hash = BaseHash.SHA_384.new(IDENTITY.root).digest()
    assert findings_of(forged.chain[:4] + root_hash + forged.chain[52:], IDENTITY.root) == {"path"}


def test_a_chain_may_leave_out_the_root() -> None:
    chain = chain_structure(IDENTITY.root, IDENTITY.path[1:], BaseHash.SHA_384, include_root=False)
    assert findings_of(chain, IDENTITY.root) == set()


@pytest.mark.parametrize("at_time", [VALIDITY.not_before - 10, VALIDITY.not_after + 10])
def test_certificates_outside_their_validity_are_refused(at_time: float) -> None:
    assert findings_of(IDENTITY.chain, IDENTITY.root, at_time) == {"path"}


def test_only_the_leaf_has_expired() -> None:
    leaf = DeviceIdentity.issue(ISSUER, DEVICE, ENTROPY, Validity(1_700_000_000, 1_710_000_000), pci=PCI, tcb=TCB)
    assert findings_of(leaf.chain, ROOT.path[0]) == {"path"}


def test_chains_that_do_not_connect_are_refused() -> None:
    root, issuer, leaf = IDENTITY.path
    other = make_identity(b"other vendor").path
    for below in ([leaf], [leaf, issuer], [other[1], leaf], [issuer, other[2]], [issuer, leaf, leaf], []):
        assert "path" in findings_of(chain_structure(root, below, BaseHash.SHA_384), root)


def test_a_leaf_cannot_issue() -> None:
    rogue = Authority("rogue", IDENTITY.key, BaseHash.SHA_384, IDENTITY.path)
    identity = DeviceIdentity.issue(rogue, DEVICE, ENTROPY, VALIDITY, pci=PCI, tcb=TCB)
    assert "path" in findings_of(identity.chain, IDENTITY.root)


def test_authenticate_chain_names_what_is_wrong() -> None:
    with pytest.raises(AuthenticationFailed, match="none of the 1 trust anchors"):
        authenticate_chain(IDENTITY.chain, [make_identity(b"other").root], BaseHash.SHA_384, BaseAsym.ECDSA_P384, NOW)


# -- revocation --------------------------------------------------------------------------------------------------------

ISSUED = DeviceIdentity.issue(ISSUER, DEVICE, ENTROPY, VALIDITY, pci=PCI, tcb=TCB)
WINDOW = Validity(NOW - 1000, NOW + 1000)


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ([ROOT.revoke([], 1, WINDOW), ISSUER.revoke([], 1, WINDOW)], Revocation.GOOD),
        ([ROOT.revoke([], 1, WINDOW), ISSUER.revoke([ISSUED.leaf], 1, WINDOW)], Revocation.REVOKED),
        ([ROOT.revoke([ISSUED.path[1]], 1, WINDOW), ISSUER.revoke([], 1, WINDOW)], Revocation.REVOKED),
        ([ISSUER.revoke([], 1, WINDOW)], Revocation.UNKNOWN),
        ([ROOT.revoke([], 1, WINDOW), ISSUER.revoke([], 1, Validity(NOW - 2000, NOW - 1000))], Revocation.UNKNOWN),
        (
            [ROOT.revoke([], 1, WINDOW), Authority("ACME CA", LEAF_KEY, BaseHash.SHA_384, ()).revoke([], 1, WINDOW)],
            Revocation.UNKNOWN,
        ),
        ([], Revocation.UNKNOWN),
        ([b"not a list"], Revocation.UNKNOWN),
    ],
    ids=[
        "good",
        "leaf revoked",
        "issuer revoked",
        "root's list missing",
        "stale",
        "forged list",
        "no lists",
        "garbage",
    ],
)
def test_revocation(lists: list[bytes], expected: Revocation) -> None:
    status, reason = revocation_status(ISSUED.chain, [ROOT.path[0]], BaseHash.SHA_384, NOW, lists)
    assert status is expected, reason


def test_revocation_of_an_unanchored_chain_is_unknown() -> None:
    assert revocation_status(ISSUED.chain, [], BaseHash.SHA_384, NOW, [])[0] is Revocation.UNKNOWN
