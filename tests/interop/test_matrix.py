"""A quick grid against the reference emulator: versions, signature algorithms, groups, ciphers and transports, in both roles.

Every value of every dimension occurs with every version; the combinations rotate.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from interop.our_end import serving
from interop.reference_emulator import INSTALLED, WHY_NOT, private_copy, reference_requester, reference_responder
from spdm_pair import identity, measurements
from teeio.cli.transports import Transport
from teeio.crypto.algorithms import Aead, BaseAsym, BaseHash, Dhe, MeasurementHash
from teeio.crypto.entropy import SeededEntropy
from teeio.spdm import flows
from teeio.spdm.constants import Capability, Version
from teeio.spdm.requester import Requester
from teeio.spdm.responder import Responder
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, Settings
from teeio.transport.carrier import Carrier
from teeio.transport.platform_port import PlatformPortClient

pytestmark = [pytest.mark.interop, pytest.mark.skipif(not INSTALLED, reason=WHY_NOT)]

ASYM = {
    BaseAsym.ECDSA_P256: "ECDSA_P256",
    BaseAsym.ECDSA_P384: "ECDSA_P384",
    BaseAsym.ECDSA_P521: "ECDSA_P521",
    BaseAsym.RSASSA_2048: "RSASSA_2048",
    BaseAsym.RSASSA_3072: "RSASSA_3072",
    BaseAsym.RSAPSS_2048: "RSAPSS_2048",
    BaseAsym.RSAPSS_3072: "RSAPSS_3072",
}
DHE = {
    Dhe.SECP256R1: "SECP_256_R1",
    Dhe.SECP384R1: "SECP_384_R1",
    Dhe.SECP521R1: "SECP_521_R1",
    Dhe.FFDHE_2048: "FFDHE_2048",
    Dhe.FFDHE_3072: "FFDHE_3072",
}
AEAD = {Aead.AES_128_GCM: "AES_128_GCM", Aead.AES_256_GCM: "AES_256_GCM", Aead.CHACHA20_POLY1305: "CHACHA20_POLY1305"}
HASH = {BaseHash.SHA_256: "SHA_256", BaseHash.SHA_384: "SHA_384", BaseHash.SHA_512: "SHA_512"}
PSK_HINT, PSK = b"TestPskHint\0", b"TestPskData\0"


class Cell(NamedTuple):
    version: Version
    transport: Transport
    asym: BaseAsym
    dhe: Dhe
    aead: Aead
    base_hash: BaseHash
    clear: bool

    @property
    def options(self) -> str:
        text = (
            f"--trans {self.transport.name} --ver {self.version.text} --hash {HASH[self.base_hash]} "
            f"--asym {ASYM[self.asym]} --mut_auth NO --basic_mut_auth NO --meas_op ALL --meas_hash {HASH[self.base_hash]}"
        )
        if self.version > Version.V1_0:
            text += f" --dhe {DHE[self.dhe]} --aead {AEAD[self.aead]}"
        return text

    def settings(self, capabilities: Capability) -> Settings:
        extra = Capability.HANDSHAKE_IN_THE_CLEAR if self.clear else Capability(0)
        return Settings(
            versions=(self.version,),
            capabilities=capabilities | extra,
            base_hash=(self.base_hash,),
            base_asym=(self.asym,),
            dhe=(self.dhe,),
            aead=(self.aead,),
            measurement_hash=(MeasurementHash[str(self.base_hash.name)],),
        )


def _cells() -> list[Cell]:
    transports = (Transport.MCTP, Transport.PCI_DOE)
    cells = []
    for step, version in enumerate(Version):
        for at, asym in enumerate(ASYM):
            turn = at + step
            cells.append(
                Cell(
                    version,
                    transports[turn % 2],
                    asym,
                    list(DHE)[turn % 5],
                    list(AEAD)[turn % 3],
                    list(HASH)[turn % 3],
                    clear=bool(at % 3 == 0) and version > Version.V1_0,
                )
            )
    return cells


def _name(cell: Cell) -> str:
    clear = "-clear" if cell.clear else ""
    return f"{cell.version.text}-{cell.transport.value}-{cell.asym.name}-{cell.dhe.name}-{cell.aead.name}{clear}"


@contextmanager
def our_responder(cell: Cell) -> Iterator[int]:
    """Serve one connection in a thread; what the responder raises comes out at the end."""
    settings = cell.settings(RESPONDER_CAPABILITIES | Capability.PSK_WITH_CONTEXT)
    responder = Responder(
        cell.transport.binding,
        (identity(cell.asym),),
        measurements(),
        SeededEntropy(b"responder"),
        replace(settings, heartbeat_period=0xF0),
        psks={PSK_HINT: PSK},
    )
    with serving(cell.transport, responder.respond) as port:
        yield port


@pytest.mark.parametrize("cell", _cells(), ids=_name)
def test_their_requester_and_our_responder(cell: Cell, tmp_path: Path) -> None:
    session = "--exe_session KEY_EX,PSK,MEAS,HEARTBEAT,KEY_UPDATE" if cell.version > Version.V1_0 else ""
    with our_responder(cell) as port:
        reference_requester(private_copy(tmp_path), port, f"{cell.options} --exe_conn DIGEST,CERT,CHAL,MEAS {session}")


@pytest.mark.parametrize("cell", _cells(), ids=_name)
def test_our_requester_and_their_responder(cell: Cell, tmp_path: Path) -> None:
    settings = cell.settings(REQUESTER_CAPABILITIES | Capability.PSK)
    with (
        reference_responder(private_copy(tmp_path), cell.options) as port,
        PlatformPortClient("127.0.0.1", port, cell.transport.type) as client,
    ):
        requester = Requester(cell.transport.binding, settings, SeededEntropy(b"requester"))
        run: Any = Carrier(requester, client.exchange).run
        connection = run(flows.connect(requester))
        assert (connection.version, connection.base_asym, connection.base_hash) == (
            cell.version,
            cell.asym,
            cell.base_hash,
        )
        digests = run(flows.get_digests())
        run(flows.get_certificate(requester))
        flows.check_digest(requester, digests)
        run(flows.challenge(requester))
        assert len(run(flows.get_measurements(requester)).blocks) == 8
        if cell.version == Version.V1_0:
            return
        for make in (lambda: flows.key_exchange(requester), lambda: flows.psk_exchange(requester, PSK_HINT, PSK)):
            session = run(make())
            run(flows.heartbeat(session))
            run(flows.key_update(requester, session))
            run(flows.key_update(requester, session, both=False))
            run(flows.get_measurements(requester, session=session.session_id))
            run(flows.end_session(requester, session))
