"""The reference emulator's default flow against our responder, and the same exchanges of our requester with its responder.

Default means all it does by itself: identity, measurements and their log, endpoint information, key pairs, certificate requests,
writing of slots, sessions by certificate and by pre-shared key. Over MCTP its application phase speaks PLDM, which is left out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from interop.reference_emulator import INSTALLED, WHY_NOT, private_copy, reference_requester, reference_responder
from spdm_pair import measurements
from teeio.crypto.algorithms import P384_SUITE, BaseAsym
from teeio.crypto.certificates import chain_structure, check_request, split_certificates
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import SigningKey, public_key_der, signing_key_from_pem
from teeio.device.dsm import ConnectionProtocol
from teeio.device.profiles import emulator_device
from teeio.interop.our_end import serving
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, Version
from teeio.spdm.device_state import Identity, KeyUsage, Measured, Slot, extended
from teeio.spdm.events import Events
from teeio.spdm.provisioning import KeyPair, KeyPairCapability, Provisioning
from teeio.spdm.requester import Requester
from teeio.spdm.responder import Responder
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, Settings
from teeio.transport.carrier import Carrier
from teeio.transport.kinds import Transport
from teeio.transport.platform_port import PlatformPortClient

pytestmark = [pytest.mark.interop, pytest.mark.skipif(not INSTALLED, reason=WHY_NOT)]

PSK_HINT, PSK = b"TestPskHint\0", b"TestPskData\0"
VERSIONS = [Version.V1_2, Version.V1_3, Version.V1_4]
TRANSPORTS = [Transport.PCI_DOE, Transport.MCTP]
OPTIONS = (
    "--hash SHA_384 --asym ECDSA_P384 --dhe SECP_384_R1 --aead AES_256_GCM --meas_hash SHA_384 "
    "--mut_auth NO --basic_mut_auth NO --meas_op ALL"
)
WITHOUT_APP = (
    "--exe_session KEY_EX,PSK,KEY_UPDATE,HEARTBEAT,MEAS,MEL,GET_CSR,SET_CERT,GET_KEY_PAIR_INFO,SET_KEY_PAIR_INFO,"
    "DIGEST,CERT,EP_INFO"
)
CAPABILITIES = (
    RESPONDER_CAPABILITIES
    | Capability.PSK_WITH_CONTEXT
    | Capability.ENCAP
    | Capability.CSR
    | Capability.SET_CERT
    | Capability.MEL
    | Capability.EP_INFO_SIG
    | Capability.EVENT
    | Capability.GET_KEY_PAIR_INFO
    | Capability.LARGE_RESP
    | Capability.HANDSHAKE_IN_THE_CLEAR
)
HEM = 0x11
LOG = [
    m.LogEntry(mel_index=number, measurement_index=HEM, type=0x80 | m.MeasurementType.INFORMATIONAL, value=text)
    for number, text in enumerate((b"ROM", b"boot firmware", b"version 1"), 1)
]


def _slot(folder: Path, bundle: str, key: str) -> Slot:
    certificates = tuple(split_certificates((folder / "ecp384" / bundle).read_bytes()))
    return Slot(certificates, signing_key_from_pem((folder / "ecp384" / key).read_bytes(), BaseAsym.ECDSA_P384))


def _sample_slots(folder: Path) -> Identity:
    """Give the sample chain in slots 0 and 1: that is also what the reference requester writes into both."""
    slot = _slot(folder, "bundle_responder.certchain.der", "end_responder.key")
    return Identity({0: slot, 1: slot})


@contextmanager
def _serving(transport: Transport, version: Version, capabilities: Capability, store: Provisioning) -> Iterator[int]:
    measured = measurements()
    measured.measured.append(Measured(HEM, m.MeasurementType.HASH_EXTEND, b""))
    measured.log = list(LOG)
    protocols = emulator_device(SeededEntropy(b"device"), 0.0).dsm.protocols
    responder = Responder(
        transport.binding,
        store.identities,
        measured,
        SeededEntropy(b"responder"),
        Settings(versions=(version,), capabilities=capabilities, heartbeat_period=0xF0).with_suite(P384_SUITE),
        [ConnectionProtocol(protocol, 0) for protocol in protocols],
        psks={PSK_HINT: PSK},
        provisioning=store,
        events=Events(),
        device_classes=(m.DeviceClass(subordinates=(m.SubordinateId(identifier=b"\x12\x34\x56"),)),),
    )
    with serving(transport, responder.respond) as port:
        yield port


def _options(transport: Transport, version: Version) -> str:
    text = f"--trans {transport.name} --ver {version.text} {OPTIONS}"
    return text if transport is Transport.PCI_DOE else f"{text} {WITHOUT_APP}"


@pytest.mark.parametrize("transport", TRANSPORTS, ids=lambda t: t.value)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_the_default_flow_with_one_key(version: Version, transport: Transport, tmp_path: Path) -> None:
    """It changes and erases key pair 1, which here is a spare one."""
    folder = private_copy(tmp_path)
    spare = KeyPair(
        SigningKey.generate(BaseAsym.ECDSA_P256, SeededEntropy(b"spare")), capabilities=KeyPairCapability(0x3F)
    )
    store = Provisioning.of([_sample_slots(folder)], first=[spare], trusted_environment=True)
    with _serving(transport, version, CAPABILITIES | Capability.SET_KEY_PAIR_INFO, store) as port:
        reference_requester(folder, port, _options(transport, version))
    assert (spare.key is None) is (version >= Version.V1_3)


@pytest.mark.parametrize("transport", TRANSPORTS, ids=lambda t: t.value)
@pytest.mark.parametrize("version", VERSIONS[1:], ids=lambda v: v.text)
def test_the_default_flow_with_several_keys(version: Version, transport: Transport, tmp_path: Path) -> None:
    """It names key pair 1 wherever a key pair is named, so that one serves both slots and cannot be erased."""
    folder = private_copy(tmp_path)
    shared = KeyPairCapability.ASSOCIATE | KeyPairCapability.SHARE
    store = Provisioning.of([_sample_slots(folder)], capabilities=shared, trusted_environment=True)
    with _serving(transport, version, CAPABILITIES | Capability.MULTI_KEY_NEG, store) as port:
        reference_requester(folder, port, _options(transport, version))


@pytest.mark.parametrize("flag", [Capability.MULTI_KEY_NEG, Capability.MULTI_KEY_ONLY], ids=["negotiated", "only"])
@pytest.mark.parametrize("version", VERSIONS[1:], ids=lambda v: v.text)
def test_sessions_by_two_keys_of_one_algorithm(version: Version, flag: Capability, tmp_path: Path) -> None:
    folder = private_copy(tmp_path)
    other = _slot(folder, "bundle_responder.certchain4.der", "end_responder4.key")
    store = Provisioning.of([Identity({0: _sample_slots(folder).slots[0], 4: other})])
    options = (
        f"--trans PCI_DOE --ver {version.text} {OPTIONS} --exe_conn DIGEST,CERT,CHAL,MEAS,MEL,EP_INFO,GET_KEY_PAIR_INFO "
        "--exe_session KEY_EX,MEAS,HEARTBEAT"
    )
    with _serving(Transport.PCI_DOE, version, CAPABILITIES | flag, store) as port:
        reference_requester(folder, port, options)


@pytest.mark.parametrize("several", [False, True], ids=["one key", "several keys"])
@pytest.mark.parametrize("transport", TRANSPORTS, ids=lambda t: t.value)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_our_requester_and_their_responder(
    version: Version, transport: Transport, several: bool, tmp_path: Path
) -> None:
    folder = private_copy(tmp_path)
    slot = _sample_slots(folder).slots[0]
    capabilities = REQUESTER_CAPABILITIES | Capability.LARGE_RESP
    settings = Settings(versions=(version,), capabilities=capabilities, multi_key=several).with_suite(P384_SUITE)
    options = f"--trans {transport.name} --ver {version.text} {OPTIONS.replace(' --meas_op ALL', '')}"
    with (
        reference_responder(folder, options) as port,
        PlatformPortClient("127.0.0.1", port, transport.type) as client,
    ):
        requester = Requester(transport.binding, settings, SeededEntropy(b"requester"))
        run: Any = Carrier(requester, client.exchange).run
        connection = run(flows.connect(requester, list_algorithms=True))
        later = version >= Version.V1_3
        assert connection.multi_key is (several and later)
        assert (connection.offered_by_responder is not None) is later
        digests = run(flows.get_digests())
        for number in (0, 1):
            run(flows.get_certificate(requester, number))
            flows.check_digest(requester, digests, number)
        run(flows.challenge(requester))
        session = run(flows.key_exchange(requester))
        for at in (None, session.session_id):
            if later:
                _information(run, requester, at)
            number = digests.key_pair_ids[0] if connection.multi_key else 0
            csr = run(flows.get_csr(requester, key_pair_id=number, session=at))
            if not several:
                # On a multi-key connection the sample responder signs with the key pair asked for.
                assert public_key_der(check_request(csr)) == public_key_der(slot.key.public)
            chain = chain_structure(slot.certificates[0], slot.certificates[1:], P384_SUITE.base_hash)
            run(flows.set_certificate(requester, 1 if at else 0, chain, key_pair_id=number, session=at))
            run(flows.get_certificate(requester, 1 if at else 0, at))
        run(flows.heartbeat(session))
        run(flows.end_session(requester, session))


def _information(run: Any, requester: Requester, at: int | None) -> None:
    log = run(flows.get_measurement_extension_log(requester, at))
    found = run(flows.get_measurements(requester, HEM, session=at)).blocks[0]
    assert found.value == extended(log.entries, HEM, P384_SUITE.base_hash)
    for signed in (True, False):
        (found_class,) = run(flows.get_endpoint_info(requester, signed=signed, session=at))
        assert found_class.subordinates[0].identifier == b"\x12\x34\x56"
    assert run(flows.get_slot_size(requester, 1, at)) > 0
    total = run(flows.get_key_pair_info(requester, 1, at)).total
    infos = [run(flows.get_key_pair_info(requester, number, at)) for number in range(1, total + 1)]
    assert any(info.slots & 1 for info in infos)
    run(flows.change_key_pair(requester, 1, slots=0, session=at))
    run(flows.change_key_pair(requester, 1, slots=0, usage=KeyUsage.KEY_EXCHANGE, session=at))
    run(flows.erase_key_pair(requester, 1, at))
