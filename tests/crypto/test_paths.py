"""What is remembered of certification paths: that a signature was good, and of nothing but its own bytes."""

from __future__ import annotations

import pytest
from cryptography import x509

from crypto.test_certificates import IDENTITY, NOW, VALIDITY, findings_of, make_identity
from teeio.crypto.algorithms import BaseHash
from teeio.crypto.certificates import chain_structure


def test_a_good_signature_is_checked_once_and_a_bad_one_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyhanko_certvalidator import sig_validate

    checked: list[bytes] = []
    genuine = sig_validate._validate_raw

    def counted(signature: bytes, *others: object) -> None:
        checked.append(signature)
        genuine(signature, *others)

    monkeypatch.setattr(sig_validate, "_validate_raw", counted)
    identity = make_identity(b"seen for the first time")
    for _ in range(3):
        assert findings_of(identity.chain, identity.root) == set()
    assert len(checked) == len(set(checked)) == len(identity.path) - 1
    forged = bytearray(identity.leaf)
    forged[-1] ^= 1
    chain = chain_structure(identity.root, [identity.path[1], bytes(forged)], BaseHash.SHA_384)
    del checked[:]
    for _ in range(2):
        assert findings_of(chain, identity.root) == {"path"}
    assert len(checked) == 2


def test_a_signature_that_was_good_says_nothing_of_other_bytes() -> None:
    assert findings_of(IDENTITY.chain, IDENTITY.root) == set()
    root, issuer, leaf = IDENTITY.path
    serial = x509.load_der_x509_certificate(leaf).serial_number
    digits = serial.to_bytes((serial.bit_length() + 7) // 8, "big")
    changed = leaf.replace(digits, digits[:-1] + bytes([digits[-1] ^ 1]), 1)
    assert changed != leaf
    assert findings_of(chain_structure(root, [issuer, changed], BaseHash.SHA_384), root) == {"path"}
    assert findings_of(IDENTITY.chain, IDENTITY.root) == set()


def test_dates_are_judged_anew() -> None:
    assert findings_of(IDENTITY.chain, IDENTITY.root, NOW) == set()
    assert findings_of(IDENTITY.chain, IDENTITY.root, VALIDITY.not_after + 10) == {"path"}
    assert findings_of(IDENTITY.chain, IDENTITY.root, NOW) == set()
