"""Revocation of devices and authorities: what is said, what stays unknown, and what a list keeps."""

from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from pyhanko_certvalidator import sig_validate

from teeio.crypto.algorithms import BaseAsym, PqcAsym
from teeio.crypto.certificates import (
    Authority,
    DeviceInfo,
    PciIdentity,
    Revocation,
    Validity,
    errors,
    revocation_status,
    validate_chain,
)
from teeio.crypto.certificates.hierarchy import Hierarchy, Names
from teeio.crypto.certificates.issue import DeviceIdentity, Reason
from teeio.crypto.certificates.leaf import CertificateModel
from teeio.crypto.certificates.revocation import list_number, load_list, revocation_findings
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import BASE_SCHEMES, PQC_SCHEMES, Asym
from teeio.errors import DecodeError

NOW = 2e9
VALIDITY, WINDOW = Validity(1.7e9, 2.5e9), Validity(NOW - 1000, NOW + 1000)
NAMES = Names(DeviceInfo("Acme", "NIC", "7"), PciIdentity(0x8086, 0x10D3))
MADE = Hierarchy.found("Acme", BaseAsym.ECDSA_P256, SeededEntropy(b"maker"), VALIDITY, intermediates=2)
DEVICE, ALIAS = MADE.responder(NAMES), MADE.alias(NAMES)
SUBJECTS = ("CN=Acme root CA", "CN=Acme intermediate CA 1", "CN=Acme intermediate CA 2", "CN=Acme:NIC:7")


def lists_of(
    revoked: list[bytes], made: Hierarchy = MADE, reason: Reason = Reason.key_compromise, validity: Validity = WINDOW
) -> list[bytes]:
    return [authority.revoke(revoked, 1, validity, reason) for authority in made.authorities]


def status_of(identity: DeviceIdentity, lists: list[bytes], at: float = NOW) -> tuple[Revocation, str]:
    return revocation_status(identity.chain, [identity.root], identity.base_hash, at, lists)


@pytest.mark.parametrize("level", [1, 2, 3], ids=["intermediate 1", "intermediate 2", "device"])
def test_the_revoked_certificate_is_named_with_the_reason(level: int) -> None:
    status, reason = status_of(DEVICE, lists_of([DEVICE.path[level]]))
    assert status is Revocation.REVOKED
    assert reason == f"revoked keyCompromise: {SUBJECTS[level]} since 2033-05-18 03:16 UTC"


@pytest.mark.parametrize("reason", [one for one in Reason if one not in (Reason.unspecified, Reason.remove_from_crl)])
def test_every_reason_has_its_name(reason: Reason) -> None:
    status, text = status_of(DEVICE, lists_of([DEVICE.leaf], reason=reason))
    assert status is Revocation.REVOKED, "a certificate on hold is revoked as long as it is"
    assert text.startswith(f"revoked {reason.value}: CN=Acme:NIC:7")


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_unknown_is_not_good_and_says_whose_list_is_missing(missing: int) -> None:
    lists = lists_of([])
    assert status_of(DEVICE, lists)[0] is Revocation.GOOD
    status, reason = status_of(DEVICE, lists[:missing] + lists[missing + 1 :])
    assert status is Revocation.UNKNOWN
    assert reason.startswith(f"no current revocation list covers {SUBJECTS[missing + 1]}: ")


@pytest.mark.parametrize("validity", [Validity(NOW - 2000, NOW - 1000), Validity(NOW + 1000, NOW + 2000)])
def test_a_list_that_is_not_current_leaves_it_unknown(validity: Validity) -> None:
    assert status_of(DEVICE, lists_of([], validity=validity))[0] is Revocation.UNKNOWN


def test_findings_tell_revoked_from_unknown() -> None:
    def findings(lists: list[bytes]) -> list[str]:
        found = revocation_findings(DEVICE.chain, [DEVICE.root], DEVICE.base_hash, NOW, lists)
        assert all(one.check == "revocation" for one in errors(found))
        return [one.message.partition(":")[0] for one in found]

    assert findings(lists_of([])) == []
    assert findings(lists_of([DEVICE.leaf])) == ["revoked keyCompromise"]
    assert findings([]) == ["revocation could not be checked"]


@pytest.mark.parametrize("algorithm", [*BASE_SCHEMES, *PQC_SCHEMES], ids=lambda one: one.name)
def test_lists_of_every_algorithm(algorithm: Asym) -> None:
    if isinstance(algorithm, BaseAsym) and algorithm.name.startswith("RSA") and "2048" not in algorithm.name:
        pytest.skip("the same as with 2048 bits, and slow")
    made = Hierarchy.found("Acme", algorithm, SeededEntropy(b"maker"), VALIDITY)
    identity = made.responder(NAMES)
    assert status_of(identity, lists_of([], made))[0] is Revocation.GOOD
    assert status_of(identity, lists_of([identity.leaf], made))[0] is Revocation.REVOKED


def test_an_alias_leaf_stands_and_falls_with_its_device() -> None:
    found = validate_chain(
        ALIAS.chain, [ALIAS.root], ALIAS.base_hash, BaseAsym.ECDSA_P256, NOW, model=CertificateModel.ALIAS
    )
    assert found == []
    assert status_of(ALIAS, lists_of([]))[0] is Revocation.GOOD
    status, reason = status_of(ALIAS, lists_of([ALIAS.path[-2]]))
    assert (status, reason.partition(" since")[0]) == (Revocation.REVOKED, "revoked keyCompromise: CN=Acme:NIC:7")
    assert status_of(ALIAS, lists_of([])[:-1])[0] is Revocation.UNKNOWN


def test_a_list_signed_by_somebody_else_proves_nothing() -> None:
    other = Hierarchy.found("Acme", BaseAsym.ECDSA_P256, SeededEntropy(b"other"), VALIDITY, intermediates=2)
    lists = lists_of([])
    assert status_of(DEVICE, [*lists[:2], other.issuer.revoke([], 1, WINDOW)])[0] is Revocation.UNKNOWN


def test_a_namesakes_list_is_told_by_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    namesake = Hierarchy.found("Acme", BaseAsym.ECDSA_P384, SeededEntropy(b"namesake"), VALIDITY, intermediates=2)
    failed: list[bytes] = []
    genuine = sig_validate._validate_raw

    def counted(signature: bytes, *others: Any, **options: Any) -> None:
        try:
            genuine(signature, *others, **options)
        except InvalidSignature:
            failed.append(signature)
            raise

    monkeypatch.setattr(sig_validate, "_validate_raw", counted)
    assert status_of(DEVICE, [*lists_of([DEVICE.leaf], namesake), *lists_of([])])[0] is Revocation.GOOD
    assert status_of(DEVICE, [*lists_of([], namesake), *lists_of([DEVICE.leaf])])[0] is Revocation.REVOKED
    assert status_of(DEVICE, lists_of([], namesake))[0] is Revocation.UNKNOWN
    assert failed == []


def test_a_new_list_keeps_what_was_on_the_last_one() -> None:
    issuer = MADE.issuer
    first = issuer.revoke([DEVICE.leaf], 1, WINDOW, Reason.superseded)
    second = issuer.revoke([DEVICE.leaf, ALIAS.path[-2]], 2, WINDOW, earlier=first)
    entries = {entry.serial_number: entry for entry in x509.load_der_x509_crl(second)}
    assert len(entries) == 2
    reasons = [one.extensions.get_extension_for_class(x509.CRLReason).value.reason for one in entries.values()]
    assert sorted(one.value for one in reasons) == ["keyCompromise", "superseded"]
    assert (list_number(first), list_number(second)) == (1, 2)
    assert status_of(DEVICE, [*lists_of([])[:2], second])[1].startswith("revoked superseded")


def test_lists_are_read_in_both_forms() -> None:
    der = MADE.issuer.revoke([], 7, WINDOW)
    pem = x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)
    assert load_list(der, "list") == load_list(pem, "list") == der
    for bad in (b"", b"hello", b"-----BEGIN X509 CRL-----\n", DEVICE.leaf):
        with pytest.raises(DecodeError, match="list"):
            load_list(bad, "list")


def test_post_quantum_authorities_sign_lists() -> None:
    root = Authority.root("root", PqcAsym.ML_DSA_44, MADE.issuer.base_hash, SeededEntropy(b"r"), VALIDITY)
    assert x509.load_der_x509_crl(root.revoke([], 1, WINDOW)).issuer.rfc4514_string() == "CN=root"
