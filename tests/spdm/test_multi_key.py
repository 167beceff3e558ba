"""Multi-key connections: negotiation, what each key is for, and abuse."""

from dataclasses import replace

import pytest

from spdm.provisioned_device import (
    CAPABILITIES,
    EVERYTHING,
    KEY_PAIRS,
    LATER,
    device,
    device_key,
    new_chain,
    refusal,
)
from spdm_pair import identity
from teeio.crypto.algorithms import BaseAsym
from teeio.crypto.certificates import (
    CertificateModel,
    check_request,
)
from teeio.crypto.keys import public_key_der
from teeio.errors import ErrorResponse, Misuse
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, Version
from teeio.spdm.device_state import Identity, KeyUsage
from teeio.spdm.exchange import ask
from teeio.spdm.provisioning import (
    EVERY_USE,
    NO_CAPABILITY,
    Provisioning,
)

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
        assert "KeyUsageMask" in refusal(pair, flow, ErrorCode.INVALID_REQUEST)
    csr = pair.run(flows.get_csr(requester, key_pair_id=2))
    second = identity(BaseAsym.ECDSA_P384, b"second").slots[0].key
    assert public_key_der(check_request(csr)) == public_key_der(second.public)
    chain = new_chain(second.public)
    first = new_chain(device_key().public)
    for refused, why in ((chain, "another key"), (first, "shared")):
        flow = flows.set_certificate(requester, 5, refused, key_pair_id=1)
        assert why in refusal(pair, flow, ErrorCode.OPERATION_FAILED)
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
        m.SetCertificate(slot=0, key_pair_id=1, certificate_model=3, chain=new_chain(device_key().public)),
        m.SetCertificate(slot=3, erase=1, key_pair_id=0),
    ):
        refusal(pair, ask(request), ErrorCode.INVALID_REQUEST)
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
