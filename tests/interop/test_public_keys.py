"""Raw public keys (PUB_KEY_ID) against the reference emulator, in both roles, with its sample keys.

The emulator's sample responder names slot 0 in KEY_EXCHANGE_RSP where a requester's public key is 0xF, so it completes a mutually
authenticated session with no requester that follows DSP0274, itself included: its refusal by ours is what is tested of that.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from interop.reference_emulator import BIN, INSTALLED, WHY_NOT, private_copy, reference_requester, reference_responder
from spdm_pair import measurements
from teeio.crypto.algorithms import Aead, BaseAsym, BaseHash, Dhe, MeasurementHash
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import signing_key_from_pem
from teeio.errors import PeerViolation
from teeio.interop.our_end import serving
from teeio.spdm import flows
from teeio.spdm.constants import PUBLIC_KEY_SLOT, Capability, MutualAuth, Version
from teeio.spdm.device_state import Identity
from teeio.spdm.mutual import MutualAuthentication
from teeio.spdm.requester import Requester
from teeio.spdm.responder import Responder
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, SessionPhase, Settings
from teeio.transport.carrier import Carrier
from teeio.transport.kinds import Transport
from teeio.transport.platform_port import PlatformPortClient

pytestmark = [pytest.mark.interop, pytest.mark.skipif(not INSTALLED, reason=WHY_NOT)]

SAMPLES: dict[BaseAsym, tuple[str, str]] = {
    BaseAsym.RSAPSS_3072: ("RSAPSS_3072", "rsa3072"),
    BaseAsym.ECDSA_P256: ("ECDSA_P256", "ecp256"),
    BaseAsym.ECDSA_P384: ("ECDSA_P384", "ecp384"),
    BaseAsym.RSASSA_2048: ("RSASSA_2048", "rsa2048"),
    BaseAsym.ECDSA_P521: ("ECDSA_P521", "ecp521"),
}
VERSIONS = [Version.V1_1, Version.V1_2, Version.V1_3, Version.V1_4]
MUTUAL = Capability.CHAL | Capability.MUT_AUTH | Capability.ENCAP | Capability.PUB_KEY_ID
DEVICE = RESPONDER_CAPABILITIES & ~Capability.CERT | Capability.PUB_KEY_ID
CLEAR = Capability.HANDSHAKE_IN_THE_CLEAR
THEIR_DEVICE = "CACHE,CHAL,MEAS_SIG,MEAS_FRESH,ENCRYPT,MAC,KEY_EX,HBEAT,KEY_UPD,PUB_KEY_ID"
THEIR_REQUESTER = "CHAL,ENCRYPT,MAC,MUT_AUTH,KEY_EX,ENCAP,HBEAT,KEY_UPD,PUB_KEY_ID"


def _options(version: Version, asym: BaseAsym, req_asym: BaseAsym, flags: str, transport: Transport) -> str:
    return (
        f"--trans {transport.name} --ver {version.text} --hash SHA_384 --asym {SAMPLES[asym][0]} --cap {flags} "
        f"--req_asym {SAMPLES[req_asym][0]} --dhe SECP_384_R1 --aead AES_256_GCM --meas_hash SHA_384 --meas_op ALL"
    )


def _settings(version: Version, capabilities: Capability, asym: BaseAsym, req_asym: BaseAsym) -> Settings:
    return Settings(
        versions=(version,),
        capabilities=capabilities,
        base_hash=(BaseHash.SHA_384,),
        base_asym=(asym,),
        req_base_asym=(req_asym,),
        dhe=(Dhe.SECP384R1,),
        aead=(Aead.AES_256_GCM,),
        measurement_hash=(MeasurementHash.SHA_384,),
    )


def _public(asym: BaseAsym, who: str) -> Any:
    return load_der_public_key((BIN / SAMPLES[asym][1] / f"end_{who}.key.pub.der").read_bytes())


def _identity(asym: BaseAsym, who: str) -> Identity:
    pem = (BIN / SAMPLES[asym][1] / f"end_{who}.key").read_bytes()
    return Identity.of_public_key(signing_key_from_pem(pem, asym))


def _cell(version: Version) -> tuple[BaseAsym, BaseAsym, Transport, bool]:
    """Turn algorithms, transport and handshake with the version."""
    at, kinds = VERSIONS.index(version), list(SAMPLES)
    return kinds[at], kinds[(at + 2) % len(kinds)], (Transport.PCI_DOE, Transport.MCTP)[at % 2], at < 2


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_our_requester_knows_their_responder(version: Version, tmp_path: Path) -> None:
    asym, req_asym, transport, clear = _cell(version)
    flags = THEIR_DEVICE + (",HANDSHAKE_IN_CLEAR" if clear else "")
    with (
        reference_responder(private_copy(tmp_path), _options(version, asym, req_asym, flags, transport)) as port,
        PlatformPortClient("127.0.0.1", port, transport.type) as client,
    ):
        ours = REQUESTER_CAPABILITIES | (CLEAR if clear else Capability(0))
        requester = Requester(
            transport.binding,
            _settings(version, ours, asym, req_asym),
            SeededEntropy(b"requester"),
            peer_keys=(_public(asym, "responder"),),
        )
        run: Any = Carrier(requester, client.exchange).run
        run(flows.connect(requester))
        run(flows.challenge(requester, PUBLIC_KEY_SLOT))
        run(flows.get_measurements(requester, slot=PUBLIC_KEY_SLOT))
        session = run(flows.key_exchange(requester, PUBLIC_KEY_SLOT))
        run(flows.get_measurements(requester, slot=PUBLIC_KEY_SLOT, session=session.session_id))
        run(flows.key_update(requester, session))
        run(flows.end_session(requester, session))


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_their_responder_knows_our_requester(version: Version, tmp_path: Path) -> None:
    asym, req_asym, transport, _ = _cell(version)
    flags = THEIR_DEVICE + ",MUT_AUTH,ENCAP"
    options = _options(version, asym, req_asym, flags, transport) + " --req_slot_id 0xFF --basic_mut_auth BASIC"
    with (
        reference_responder(private_copy(tmp_path), options) as port,
        PlatformPortClient("127.0.0.1", port, transport.type) as client,
    ):
        requester = Requester(
            transport.binding,
            _settings(version, REQUESTER_CAPABILITIES | MUTUAL, asym, req_asym),
            SeededEntropy(b"requester"),
            identities=(_identity(req_asym, "requester"),),
            peer_keys=(_public(asym, "responder"),),
        )
        run: Any = Carrier(requester, client.exchange).run
        run(flows.connect(requester))
        assert run(flows.challenge(requester, PUBLIC_KEY_SLOT)).basic_mutual_auth
        with pytest.raises(PeerViolation, match="does not name our public key"):
            run(flows.key_exchange(requester, PUBLIC_KEY_SLOT))


@pytest.mark.parametrize("mode", [MutualAuth.NONE, MutualAuth.PLAIN], ids=["alone", "mutual"])
@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.text)
def test_their_requester_and_our_responder_know_each_other(version: Version, mode: MutualAuth, tmp_path: Path) -> None:
    asym, req_asym, transport, clear = _cell(version)
    proven = mode is not MutualAuth.NONE

    def authenticate(chain: bytes, now: float) -> None:
        raise AssertionError("there is no chain to read")

    ours = DEVICE | (MUTUAL & ~Capability.PUB_KEY_ID) | (CLEAR if clear else Capability(0))
    policy = MutualAuthentication(authenticate, mode, proven, public_keys=(_public(req_asym, "requester"),))
    responder = Responder(
        transport.binding,
        (_identity(asym, "responder"),),
        measurements(),
        SeededEntropy(b"responder"),
        replace(_settings(version, ours, asym, req_asym), heartbeat_period=0xF0),
        mutual=policy,
    )
    seen: set[int | None] = set()

    def respond(frame: bytes) -> bytes | None:
        answer = responder.respond(frame)
        established = [one for one in responder.sessions.values() if one.phase is SessionPhase.ESTABLISHED]
        seen.update(session.requester_slot for session in established)
        return answer

    flags = THEIR_REQUESTER + (",HANDSHAKE_IN_CLEAR" if clear else "")
    options = _options(version, asym, req_asym, flags, transport) + " --slot_id 0xFF --req_slot_id 0xFF"
    with serving(transport, respond) as port:
        reference_requester(
            private_copy(tmp_path),
            port,
            f"{options} --exe_conn CHAL,MEAS --exe_session KEY_EX,HEARTBEAT,KEY_UPDATE,MEAS",
        )
    assert seen == {PUBLIC_KEY_SLOT if proven else None}
    assert (responder.connection.requester_key is not None) is proven
