"""The certificate models: what tells them, and provisioning a device that signs its own alias leaf."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from cryptography import x509

from spdm.mutual_pair import edit
from spdm.provisioned_device import KEY_PAIRS, LATER, VALIDITY, VERSIONS, new_owner, refusal
from spdm_pair import Pair
from teeio.crypto.algorithms import P384_SUITE, BaseAsym, BaseHash
from teeio.crypto.certificates import (
    Authority,
    CertificateModel,
    DeviceIdentity,
    DeviceInfo,
    authenticate_chain,
    chain_structure,
    check_request,
    leaf_public_key,
    parse_chain,
)
from teeio.crypto.certificates.hierarchy import Hierarchy, Names, device_authority
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import SigningKey, public_key_der
from teeio.errors import PeerViolation
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, Version
from teeio.spdm.device_state import Identity, Slot
from teeio.spdm.provisioning import Provisioning
from teeio.spdm.state import RESPONDER_CAPABILITIES

ALIAS = RESPONDER_CAPABILITIES | Capability.CSR | Capability.SET_CERT | Capability.ALIAS_CERT
NAMES = Names(DeviceInfo("Acme", "Accelerator", "0001"))
each_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)


@cache
def made() -> DeviceIdentity:
    maker = Hierarchy.found("Acme", BaseAsym.ECDSA_P384, SeededEntropy(b"alias"), VALIDITY)
    return maker.alias(NAMES)


def device(version: Version, flags: Capability = ALIAS) -> Pair:
    store = Provisioning.of([Identity({0: Slot.of(made())})], trusted_environment=True)
    return Pair(version, P384_SUITE, {"versions": (version,), "capabilities": flags}, device={"provisioning": store})


def stored_chain(
    key: SigningKey | None = None, *, subject: str = "renamed device", extensions: Any = None, issuer: Any = None
) -> bytes:
    """Give a chain of a new owner's that ends in a certificate for the device key."""
    authority: Authority = issuer or new_owner()
    public = (key or made().device_key or made().key).public
    last = authority.certify(subject, public, extensions or device_authority(NAMES), SeededEntropy(b"new"), VALIDITY)
    return chain_structure(authority.path[0], [*authority.path[1:], last], BaseHash.SHA_384)


def chain_in(pair: Pair, slot: int) -> list[bytes]:
    return parse_chain(pair.run(flows.get_certificate(pair.requester, slot)), BaseHash.SHA_384)[1]


@each_version
def test_a_chain_of_the_alias_model_is_told_by_the_capability(version: Version) -> None:
    pair = device(version)
    pair.authenticate()
    assert flows.certificate_model(pair.requester, 0) is CertificateModel.ALIAS
    c, chain = pair.requester.connection, pair.requester.chains[0]
    model = flows.certificate_model(pair.requester, 0)
    authenticate_chain(chain, [made().root], c.base_hash, c.asym, 2e9, model=model, version=version)
    pair.run(flows.challenge(pair.requester))
    other = Pair(version, responder_changes={"versions": (version,)})
    other.authenticate()
    assert flows.certificate_model(other.requester, 0) is CertificateModel.DEVICE


@each_version
def test_a_csr_is_for_the_device_key(version: Version) -> None:
    pair = device(version)
    pair.authenticate()
    csr = pair.run(flows.get_csr(pair.requester))
    assert made().device_key is not None
    assert public_key_der(check_request(csr)) == public_key_der(made().device_key.public)
    asked = x509.load_der_x509_csr(csr)
    assert asked.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert asked.subject == x509.load_der_x509_certificate(made().path[-2]).subject


@pytest.mark.parametrize("slot", [0, 5])
@each_version
def test_the_device_signs_its_leaf_below_the_chain_that_is_stored(version: Version, slot: int) -> None:
    pair = device(version)
    pair.authenticate()
    chain = stored_chain()
    pair.run(flows.set_certificate(pair.requester, slot, chain))
    digests = pair.run(flows.get_digests())
    certificates = chain_in(pair, slot)
    assert certificates[:-1] == parse_chain(chain, BaseHash.SHA_384)[1]
    flows.check_digest(pair.requester, digests, slot)
    leaf, old = (x509.load_der_x509_certificate(der) for der in (certificates[-1], made().leaf))
    device_certificate = x509.load_der_x509_certificate(certificates[-2])
    leaf.verify_directly_issued_by(device_certificate)
    assert leaf.issuer == device_certificate.subject != old.issuer
    assert (leaf.subject, leaf.not_valid_after_utc) == (old.subject, old.not_valid_after_utc)
    assert leaf.serial_number != old.serial_number
    kept = [one for one in old.extensions if not isinstance(one.value, x509.AuthorityKeyIdentifier)]
    assert all(one in list(leaf.extensions) for one in kept)
    assert public_key_der(leaf_public_key(certificates[-1])) == public_key_der(made().key.public)
    c, model = pair.requester.connection, CertificateModel.ALIAS
    root = new_owner().path[0]
    authenticate_chain(pair.requester.chains[slot], [root], c.base_hash, c.asym, 2e9, model=model, version=version)
    pair.run(flows.challenge(pair.requester, slot))
    pair.run(flows.heartbeat(pair.run(flows.key_exchange(pair.requester, slot))))


@each_version
def test_the_chain_may_be_stored_again_and_a_request_names_the_new_subject(version: Version) -> None:
    pair = device(version)
    pair.authenticate()
    for subject in ("first", "second"):
        pair.run(flows.set_certificate(pair.requester, 0, stored_chain(subject=subject)))
        csr = x509.load_der_x509_csr(pair.run(flows.get_csr(pair.requester)))
        assert csr.subject.rfc4514_string() == f"CN={subject}"
        assert len(chain_in(pair, 0)) == 3


def _leaf_extensions() -> list[Any]:
    return [(x509.BasicConstraints(ca=False, path_length=None), True)]


def _without_signing() -> list[Any]:
    usage = {
        name: name == "digital_signature"
        for name in (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        )
    }
    return [(x509.BasicConstraints(ca=True, path_length=0), True), (x509.KeyUsage(**usage), True)]


@pytest.mark.parametrize(
    ("chain", "why"),
    [
        (lambda: stored_chain(made().key), "certifies another key"),
        (lambda: made().chain, "certifies another key"),
        (lambda: stored_chain(extensions=_leaf_extensions()), "cA FALSE"),
        (lambda: stored_chain(extensions=_without_signing()), "lacks keyCertSign"),
        (lambda: stored_chain(issuer=replace(new_owner(), key=made().key)), "is not issued by the one before"),
    ],
    ids=["alias key", "whole chain", "leaf", "no keyCertSign", "forged"],
)
@each_version
def test_below_what_is_stored_the_device_must_be_able_to_sign(version: Version, chain: Any, why: str) -> None:
    pair = device(version)
    pair.authenticate()
    code = ErrorCode.OPERATION_FAILED if version >= Version.V1_3 else ErrorCode.UNSPECIFIED
    assert why in refusal(pair, flows.set_certificate(pair.requester, 1, chain()), code)
    assert pair.run(flows.get_digests()).slots() == (0,)


def test_basic_constraints_are_mandatory_from_1_3_on() -> None:
    none = [(x509.SubjectAlternativeName([x509.DNSName("device")]), False)]
    for version in VERSIONS:
        pair = device(version)
        pair.authenticate()
        flow = flows.set_certificate(pair.requester, 1, stored_chain(extensions=none))
        if version < Version.V1_3:
            pair.run(flow)
        else:
            assert "lacks basicConstraints" in refusal(pair, flow, ErrorCode.OPERATION_FAILED)


def test_a_device_without_a_device_key_takes_no_alias_chain() -> None:
    pair = Pair(
        Version.V1_3,
        responder_changes={"versions": (Version.V1_3,), "capabilities": ALIAS},
        device={"provisioning": Provisioning.of([Identity({0: replace(Slot.of(made()), device_key=None)})], trusted_environment=True)},
    )  # fmt: skip
    pair.authenticate()
    told = refusal(pair, flows.set_certificate(pair.requester, 1, stored_chain()), ErrorCode.OPERATION_FAILED)
    assert "signs no alias certificates" in told


@each_version
def test_an_alias_slot_may_wait_for_a_reset(version: Version) -> None:
    pair = device(version, ALIAS | Capability.CERT_INSTALL_RESET)
    pair.authenticate()
    refusal(pair, flows.set_certificate(pair.requester, 2, stored_chain()), ErrorCode.RESET_REQUIRED)
    assert pair.responder.provisioning is not None
    pair.responder.provisioning.reset()
    pair.authenticate()
    assert len(chain_in(pair, 2)) == 3
    pair.run(flows.challenge(pair.requester, 2))


# -- several keys ------------------------------------------------------------------------------------------------------


def several(version: Version, slots: dict[int, Slot]) -> Pair:
    flags = ALIAS | KEY_PAIRS | Capability.MULTI_KEY_ONLY
    store = Provisioning.of([Identity(slots)], trusted_environment=True)
    for pair in store.key_pairs:
        pair.capabilities |= 0x28  # ASSOCIATE and SHARE: one key serves several slots
    return Pair(
        version,
        P384_SUITE,
        {"versions": (version,), "capabilities": flags & ~Capability.SET_KEY_PAIR_INFO},
        device={"provisioning": store},
    )


@pytest.mark.parametrize("version", LATER, ids=lambda v: v.text)
def test_each_slot_tells_its_model(version: Version) -> None:
    maker = Hierarchy.found("Acme", BaseAsym.ECDSA_P384, SeededEntropy(b"several"), VALIDITY)
    plain = Slot.of(maker.responder(NAMES))
    generic = replace(Slot.of(maker.responder(NAMES)), model=CertificateModel.GENERIC)
    pair = several(version, {0: Slot.of(made()), 1: plain, 2: generic})
    pair.authenticate()
    digests = pair.run(flows.get_digests())
    assert digests.certificate_info == (2, 1, 3)
    for slot, model in enumerate((CertificateModel.ALIAS, CertificateModel.DEVICE, CertificateModel.GENERIC)):
        pair.run(flows.get_certificate(pair.requester, slot))
        assert flows.certificate_model(pair.requester, slot) is model
        flows.check_digest(pair.requester, digests, slot)
    alias, device_model = CertificateModel.ALIAS, CertificateModel.DEVICE
    pair.run(flows.set_certificate(pair.requester, 5, stored_chain(), key_pair_id=1, model=alias))
    pair.run(flows.get_certificate(pair.requester, 5))
    assert flows.certificate_model(pair.requester, 5) is alias
    pair.run(flows.challenge(pair.requester, 5))
    told = refusal(
        pair,
        flows.set_certificate(pair.requester, 6, stored_chain(plain.key), key_pair_id=2, model=alias),
        ErrorCode.OPERATION_FAILED,
    )
    assert "signs no alias certificates with this key" in told
    told = refusal(
        pair,
        flows.set_certificate(pair.requester, 6, stored_chain(), key_pair_id=1, model=device_model),
        ErrorCode.OPERATION_FAILED,
    )
    assert "cA TRUE" in told
    csr = pair.run(flows.get_csr(pair.requester, key_pair_id=2, model=device_model))
    assert public_key_der(check_request(csr)) == public_key_der(plain.key.public)


@pytest.mark.parametrize(
    ("model", "why"), [(0, "model 0 of a chain"), (3, "generic"), (5, "model 5"), (1, "different")]
)
def test_a_model_that_cannot_be_is_a_violation(model: int, why: str) -> None:
    pair = several(Version.V1_3, {0: Slot.of(made())})
    pair.tamper = edit(  # type: ignore[method-assign]
        m.Certificate.CODE, lambda frame: frame[:4] + bytes([model]) + frame[5:], "rsp"
    )
    pair.run(flows.connect(pair.requester))
    digests = pair.run(flows.get_digests())
    with pytest.raises(PeerViolation, match=why):
        pair.run(flows.get_certificate(pair.requester))
        flows.check_digest(pair.requester, digests)


def test_no_model_is_told_without_several_keys() -> None:
    pair = device(Version.V1_3)
    pair.tamper = edit(m.Certificate.CODE, lambda frame: frame[:4] + b"\2" + frame[5:], "rsp")  # type: ignore
    with pytest.raises(PeerViolation, match="model 2 without"):
        pair.authenticate()
