"""GET_CSR: what the device signs, what it refuses, and requests that need a reset."""

from typing import Any

import pytest
from cryptography import x509

from spdm.provisioned_device import CAPABILITIES, LATER, VERSIONS, device, device_key, open_session, refusal, store
from spdm_pair import Pair, identity
from teeio.crypto.algorithms import P384_SUITE, BaseAsym, PqcAsym
from teeio.crypto.certificates import (
    check_request,
)
from teeio.crypto.keys import public_key_der
from teeio.errors import ErrorResponse
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, Version
from teeio.spdm.exchange import ask
from teeio.spdm.provisioning import (
    MAX_TRACKING_TAG,
    Provisioning,
)


@pytest.mark.parametrize("in_session", [False, True], ids=["outside", "in session"])
@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_a_csr_is_signed_by_the_device_and_asks_for_what_the_leaf_has(version: Version, in_session: bool) -> None:
    pair = device(version)
    session = open_session(pair, in_session)
    at = session.session_id if session else None
    csr = pair.run(flows.get_csr(pair.requester, requester_info=bytes([0x30, 0]), session=at))
    assert public_key_der(check_request(csr)) == public_key_der(device_key().public)
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
    assert why in refusal(pair, ask(m.GetCsr(**request_fields)), ErrorCode.INVALID_REQUEST)


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
    refusal(pair, flows.get_csr(pair.requester, tracking_tag=2), ErrorCode.RESET_REQUIRED)
    made.reset()
    check_request(pair.run(flows.get_csr(pair.requester, tracking_tag=2)))
    refusal(pair, flows.get_csr(pair.requester, tracking_tag=2), ErrorCode.UNEXPECTED_REQUEST)
    other = flows.get_csr(pair.requester, tracking_tag=3, requester_info=bytes([0x30, 0]))
    refusal(pair, other, ErrorCode.UNEXPECTED_REQUEST)
    with pytest.raises(ErrorResponse, match="RESET_REQUIRED") as caught:
        pair.run(flows.get_csr(pair.requester, overwrite=True))
    assert (caught.value.data, list(made.orders)) == (1, [1])
    refusal(pair, flows.get_csr(pair.requester, overwrite=True, tracking_tag=1), ErrorCode.INVALID_REQUEST)


def test_in_1_2_the_same_request_after_the_reset_gets_the_csr() -> None:
    made = store()
    pair = device(Version.V1_2, CAPABILITIES | Capability.CERT_INSTALL_RESET, made=made)
    pair.authenticate()
    for _ in range(2):
        refusal(pair, flows.get_csr(pair.requester), ErrorCode.RESET_REQUIRED)
    assert len(made.orders) == 1
    made.reset()
    check_request(pair.run(flows.get_csr(pair.requester)))
