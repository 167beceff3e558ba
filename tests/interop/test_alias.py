"""The Alias certificate model against the reference emulator, in both roles; it does not complete these runs with itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interop.reference_emulator import INSTALLED, WHY_NOT, private_copy, reference_requester, reference_responder
from spdm_pair import measurements
from teeio.crypto.algorithms import Aead, BaseAsym, BaseHash, Dhe, MeasurementHash
from teeio.crypto.certificates import (
    Authority,
    CertificateModel,
    DeviceInfo,
    Validity,
    check_integrity,
    split_certificates,
)
from teeio.crypto.certificates.hierarchy import Hierarchy, Names, device_authority
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import signing_key_from_pem
from teeio.interop.our_end import serving
from teeio.spdm import flows
from teeio.spdm.alias import with_leaf
from teeio.spdm.constants import Capability, Version
from teeio.spdm.device_state import Identity, Slot
from teeio.spdm.provisioning import Provisioning
from teeio.spdm.requester import Requester
from teeio.spdm.responder import Responder
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, Settings
from teeio.transport.carrier import Carrier
from teeio.transport.kinds import Transport
from teeio.transport.platform_port import PlatformPortClient

pytestmark = [pytest.mark.interop, pytest.mark.skipif(not INSTALLED, reason=WHY_NOT)]
VERSIONS = [Version.V1_2, Version.V1_3, Version.V1_4]
TRANSPORT = Transport.MCTP
NAMES = Names(DeviceInfo("Acme", "Accelerator", "0001"))


def _options(version: Version) -> str:
    return (
        f"--trans MCTP --ver {version.text} --hash SHA_384 --asym ECDSA_P384 --dhe SECP_384_R1 --aead AES_256_GCM "
        "--meas_hash SHA_384 --meas_op ALL --mut_auth NO --basic_mut_auth NO --slot_count 1"
    )


def _settings(version: Version, capabilities: Capability) -> Settings:
    return Settings(
        versions=(version,),
        capabilities=capabilities,
        base_hash=(BaseHash.SHA_384,),
        base_asym=(BaseAsym.ECDSA_P384,),
        dhe=(Dhe.SECP384R1,),
        aead=(Aead.AES_256_GCM,),
        measurement_hash=(MeasurementHash.SHA_384,),
    )


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_their_requester_reads_our_alias_chain(version: Version, tmp_path: Path) -> None:
    maker = Hierarchy.found("Acme", BaseAsym.ECDSA_P384, SeededEntropy(b"alias"), Validity(1.7e9, 2.5e9))
    slot = Slot.of(maker.alias(NAMES))
    responder = Responder(
        TRANSPORT.binding,
        (Identity({0: slot}),),
        measurements(),
        SeededEntropy(b"responder"),
        replace(_settings(version, RESPONDER_CAPABILITIES | Capability.ALIAS_CERT), heartbeat_period=0xF0),
    )
    with serving(TRANSPORT, responder.respond) as port:
        reference_requester(
            private_copy(tmp_path),
            port,
            f"{_options(version)} --exe_conn DIGEST,CERT,CHAL,MEAS --exe_session KEY_EX,HEARTBEAT,KEY_UPDATE",
        )


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_our_requester_reads_their_alias_chain(version: Version, tmp_path: Path) -> None:
    flags = "CERT,CHAL,MEAS_SIG,MEAS_FRESH,ENCRYPT,MAC,KEY_EX,HBEAT,KEY_UPD,ALIAS_CERT"
    with (
        reference_responder(private_copy(tmp_path), f"{_options(version)} --cap {flags}") as port,
        PlatformPortClient("127.0.0.1", port, TRANSPORT.type) as client,
    ):
        requester = Requester(
            TRANSPORT.binding, _settings(version, REQUESTER_CAPABILITIES), SeededEntropy(b"requester")
        )
        run: Any = Carrier(requester, client.exchange).run
        run(flows.connect(requester))
        digests = run(flows.get_digests())
        run(flows.get_certificate(requester))
        flows.check_digest(requester, digests)
        assert flows.certificate_model(requester, 0).name == "ALIAS"
        run(flows.challenge(requester))
        run(flows.heartbeat(run(flows.key_exchange(requester))))


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_their_requester_provisions_our_alias_slot(version: Version, tmp_path: Path) -> None:
    """It stores its sample chain down to the device certificate; the next one believes the leaf that the device signs below."""
    folder = private_copy(tmp_path)
    samples = folder / "ecp384"
    chain = tuple(split_certificates((samples / "bundle_responder.certchain_alias.der").read_bytes()))
    stored = tuple(split_certificates((samples / "bundle_responder.certchain_alias_cert_partial_set.der").read_bytes()))
    alias_key, device_key = (
        signing_key_from_pem((samples / name).read_bytes(), BaseAsym.ECDSA_P384)
        for name in ("end_responder.key", "end_responder_alias_partial.key")
    )
    slot = Slot(chain, alias_key, model=CertificateModel.ALIAS, device_key=device_key)
    entropy, validity = SeededEntropy(b"before"), Validity(1.7e9, 2.5e9)
    before = Authority.root("Owner before", BaseAsym.ECDSA_P384, BaseHash.SHA_384, entropy, validity)
    owned = before.certify("device", device_key.public, device_authority(NAMES), entropy, validity)
    other = replace(slot, certificates=with_leaf((*before.path, owned), slot, BaseHash.SHA_384, entropy))
    store = Provisioning.of([Identity({0: other})], trusted_environment=True)
    flags = Capability.ALIAS_CERT | Capability.CSR | Capability.SET_CERT
    for steps in ("DIGEST,CERT,CHAL,GET_CSR,SET_CERT", "DIGEST,CERT,CHAL"):
        responder = Responder(
            TRANSPORT.binding,
            store.identities,
            measurements(),
            SeededEntropy(b"responder"),
            replace(_settings(version, RESPONDER_CAPABILITIES | flags), heartbeat_period=0xF0),
            provisioning=store,
        )
        with serving(TRANSPORT, responder.respond) as port:
            reference_requester(folder, port, f"{_options(version)} --exe_conn {steps} --exe_session KEY_EX,HEARTBEAT")
    written = store.identities[0].slots[0].certificates
    assert written[:-1] == stored
    assert written[-1] not in (other.certificates[-1], chain[-1])
    check_integrity(written)
