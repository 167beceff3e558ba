"""Mutual authentication and encapsulated key updates against the reference emulator, in both roles.

Our requester uses the emulator's sample identities, which its responder trusts; our responder trusts exactly those chains.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from interop.our_end import serving
from interop.reference_emulator import BIN, INSTALLED, WHY_NOT, private_copy, reference_requester, reference_responder
from spdm_pair import identity, measurements
from teeio.cli.transports import Transport
from teeio.crypto.algorithms import Aead, BaseAsym, BaseHash, Dhe, MeasurementHash
from teeio.crypto.certificates import chain_structure, split_certificates
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import signing_key_from_pem
from teeio.errors import AuthenticationFailed
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, MutualAuth, Version
from teeio.spdm.device_state import Identity, Slot
from teeio.spdm.mutual import MutualAuthentication
from teeio.spdm.requester import Requester
from teeio.spdm.responder import Responder
from teeio.spdm.response_key_update import renew_response_key
from teeio.spdm.state import MUTUAL_CAPABILITIES, REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, SessionPhase, Settings
from teeio.transport.carrier import Carrier
from teeio.transport.platform_port import Command, Packet, PlatformPortClient

pytestmark = [pytest.mark.interop, pytest.mark.skipif(not INSTALLED, reason=WHY_NOT)]

REQUESTERS: dict[BaseAsym, tuple[str, str]] = {
    BaseAsym.RSAPSS_3072: ("RSAPSS_3072", "rsa3072"),
    BaseAsym.ECDSA_P256: ("ECDSA_P256", "ecp256"),
    BaseAsym.ECDSA_P384: ("ECDSA_P384", "ecp384"),
    BaseAsym.RSASSA_2048: ("RSASSA_2048", "rsa2048"),
    BaseAsym.ECDSA_P521: ("ECDSA_P521", "ecp521"),
}
MODES = {
    MutualAuth.NONE: "NO",
    MutualAuth.PLAIN: "WO_ENCAP",
    MutualAuth.ENCAPSULATED: "W_ENCAP",
    MutualAuth.IMPLICIT_DIGESTS: "DIGESTS",
}


class Cell(NamedTuple):
    version: Version
    mode: MutualAuth
    basic: bool
    clear: bool
    asym: BaseAsym
    transport: Transport

    @property
    def options(self) -> str:
        return (
            f"--trans {self.transport.name} --ver {self.version.text} --hash SHA_384 --asym ECDSA_P384 "
            f"--req_asym {REQUESTERS[self.asym][0]} --dhe SECP_384_R1 --aead AES_256_GCM --meas_hash SHA_384 --meas_op ALL "
            f"--mut_auth {MODES[self.mode]} --basic_mut_auth {'BASIC' if self.basic else 'NO'}"
        )

    def settings(self, capabilities: Capability) -> Settings:
        extra = Capability.HANDSHAKE_IN_THE_CLEAR if self.clear else Capability(0)
        return Settings(
            versions=(self.version,),
            capabilities=capabilities | MUTUAL_CAPABILITIES | extra,
            base_hash=(BaseHash.SHA_384,),
            base_asym=(BaseAsym.ECDSA_P384,),
            req_base_asym=(self.asym,),
            dhe=(Dhe.SECP384R1,),
            aead=(Aead.AES_256_GCM,),
            measurement_hash=(MeasurementHash.SHA_384,),
        )

    @property
    def sample(self) -> Identity:
        """The requester's identity among the emulator's samples."""
        folder = BIN / REQUESTERS[self.asym][1]
        certificates = tuple(split_certificates((folder / "bundle_requester.certchain.der").read_bytes()))
        key = signing_key_from_pem((folder / "end_requester.key").read_bytes(), self.asym)
        return Identity({0: Slot(certificates, key)})


def _cells() -> list[Cell]:
    cells = []
    for step, version in enumerate([Version.V1_1, Version.V1_2, Version.V1_3, Version.V1_4]):
        for at, mode in enumerate(MODES):
            turn = step + at
            basic = mode is MutualAuth.NONE or turn % 2 == 0
            transport = (Transport.PCI_DOE, Transport.MCTP)[(turn + at // 2) % 2]
            cells.append(
                Cell(
                    version, mode, basic, (step + at // 2) % 2 == 0, list(REQUESTERS)[turn % len(REQUESTERS)], transport
                )
            )
    return cells


def _name(cell: Cell) -> str:
    basic, clear = "-basic" if cell.basic else "", "-clear" if cell.clear else ""
    return f"{cell.version.text}-{MODES[cell.mode]}{basic}{clear}-{cell.asym.name}-{cell.transport.value}"


def _responder(cell: Cell, trusted: list[bytes]) -> Responder:
    sample = cell.sample.slots[0].certificates
    known = chain_structure(sample[0], list(sample[1:]), BaseHash.SHA_384)

    def authenticate(chain: bytes, now: float) -> None:
        if chain != known:
            raise AuthenticationFailed("not the emulator's requester")
        trusted.append(chain)

    return Responder(
        cell.transport.binding,
        (identity(BaseAsym.ECDSA_P384),),
        measurements(),
        SeededEntropy(b"responder"),
        replace(cell.settings(RESPONDER_CAPABILITIES), heartbeat_period=0xF0),
        mutual=MutualAuthentication(authenticate, cell.mode, cell.basic, provisioned={0: sample}),
    )


@contextmanager
def _served(cell: Cell, responder: Responder) -> Iterator[int]:
    """Serve one connection in a thread; the responder asks for a key update in every session that is established."""
    asked: set[int] = set()

    def respond(frame: bytes) -> bytes | None:
        answer = responder.respond(frame)
        for session in responder.sessions.values():
            if session.phase is SessionPhase.ESTABLISHED and session.session_id not in asked:
                asked.add(session.session_id)
                renew_response_key(responder, session.session_id)
        return answer

    with serving(cell.transport, respond) as port:
        yield port
    assert asked


@pytest.mark.parametrize("cell", _cells(), ids=_name)
def test_their_requester_proves_itself_to_our_responder(cell: Cell, tmp_path: Path) -> None:
    trusted: list[bytes] = []
    responder = _responder(cell, trusted)
    with _served(cell, responder) as port:
        reference_requester(
            private_copy(tmp_path),
            port,
            f"{cell.options} --slot_count 1 --exe_conn DIGEST,CERT,CHAL --exe_session KEY_EX,HEARTBEAT,KEY_UPDATE "
            f"--key_upd RSP",
        )
    assert responder.pending is None
    assert bool(responder.connection.requester_chain) is cell.basic
    read = cell.mode in (MutualAuth.ENCAPSULATED, MutualAuth.IMPLICIT_DIGESTS)
    assert bool(trusted) is (read or cell.basic)


class _Alerting(PlatformPortClient):
    """A client that can tell the emulator to ask for a key update."""

    def ask_for_key_update(self, session_id: int) -> None:
        self._tell(Command.OOB_ENCAP_KEY_UPDATE, struct.pack("<I", session_id))

    def ask_for_endpoint_info(self) -> None:
        self._tell(Command.OOB_ENCAP_ENDPOINT_INFO, b"")

    def _tell(self, command: Command, payload: bytes) -> None:
        self._send(Packet(command, self._transport, payload))
        assert self._receive().command == command


@pytest.mark.parametrize("cell", _cells(), ids=_name)
def test_our_requester_proves_itself_to_their_responder(cell: Cell, tmp_path: Path) -> None:
    with (
        reference_responder(private_copy(tmp_path), f"{cell.options} --slot_count 1") as port,
        _Alerting("127.0.0.1", port, cell.transport.type) as client,
    ):
        requester = Requester(
            cell.transport.binding,
            cell.settings(REQUESTER_CAPABILITIES),
            SeededEntropy(b"requester"),
            identities=(cell.sample,),
        )
        run: Any = Carrier(requester, client.exchange).run
        connection = run(flows.connect(requester))
        assert connection.req_asym == cell.asym
        run(flows.get_digests())
        run(flows.get_certificate(requester))
        response = run(flows.challenge(requester))
        assert bool(response.basic_mutual_auth) is cell.basic
        assert run(flows.serve_pending(requester)) is False
        session = run(flows.key_exchange(requester))
        assert (session.requester_slot is not None) is (cell.mode is not MutualAuth.NONE)
        run(flows.heartbeat(session))
        client.ask_for_key_update(session.session_id)
        before = session.response_key.secret
        assert run(flows.serve_pending(requester, session)) is True
        assert session.response_key.secret != before
        run(flows.heartbeat(session))
        run(flows.key_update(requester, session))
        run(flows.end_session(requester, session))


SEVERAL = [
    Cell(version, mode, True, clear, BaseAsym.ECDSA_P384, Transport.MCTP)
    for version in (Version.V1_3, Version.V1_4)
    for mode, clear in (
        (MutualAuth.PLAIN, False),
        (MutualAuth.ENCAPSULATED, True),
        (MutualAuth.IMPLICIT_DIGESTS, False),
    )
]


@pytest.mark.parametrize("cell", SEVERAL, ids=_name)
def test_our_requester_with_several_keys_and_endpoint_information(cell: Cell, tmp_path: Path) -> None:
    """The responder selects a multi-key connection for the requester, and asks for its endpoint information."""
    capabilities = REQUESTER_CAPABILITIES | Capability.MULTI_KEY_NEG | Capability.EP_INFO_SIG
    slots = {0: replace(cell.sample.slots[0], key_pair_id=1)}
    with (
        reference_responder(private_copy(tmp_path), f"{cell.options} --slot_count 1") as port,
        _Alerting("127.0.0.1", port, cell.transport.type) as client,
    ):
        requester = Requester(
            cell.transport.binding,
            cell.settings(capabilities),
            SeededEntropy(b"requester"),
            identities=(Identity(slots),),
            device_classes=(m.DeviceClass(subordinates=(m.SubordinateId(identifier=b"1234"),)),),
        )
        run: Any = Carrier(requester, client.exchange).run
        assert run(flows.connect(requester)).requester_multi_key
        run(flows.get_digests())
        run(flows.get_certificate(requester))
        run(flows.challenge(requester))
        client.ask_for_endpoint_info()
        assert run(flows.serve_pending(requester)) is True
        run(flows.heartbeat(run(flows.key_exchange(requester))))


@pytest.mark.parametrize("cell", SEVERAL, ids=_name)
def test_their_requester_with_several_keys(cell: Cell, tmp_path: Path) -> None:
    trusted: list[bytes] = []
    responder = _responder(cell, trusted)
    flags = "CERT,CHAL,ENCRYPT,MAC,MUT_AUTH,KEY_EX,ENCAP,HBEAT,KEY_UPD,MULTI_KEY_ONLY"
    flags += ",HANDSHAKE_IN_CLEAR" if cell.clear else ""
    with _served(cell, responder) as port:
        reference_requester(
            private_copy(tmp_path),
            port,
            f"{cell.options} --cap {flags} --slot_count 1 --exe_conn DIGEST,CERT,CHAL --exe_session KEY_EX,HEARTBEAT",
        )
    assert responder.connection.requester_multi_key
    assert responder.connection.requester_chain
