"""Mutual authentication where the requester has several keys, against the reference emulator in both roles.

Mutual authentication with one key is a part of the grid (`teeio.interop.grid.mutual`).
"""

from dataclasses import replace
from typing import Any

import pytest

from interop.reference_emulator import BIN, INSTALLED, WHY_NOT
from teeio.crypto.algorithms import BaseAsym
from teeio.interop.cells import CONNECTION, MUTUAL_NAMES, Cell, Flags, Grid, KeyUpdates, Role, Step
from teeio.interop.emulator_options import options
from teeio.interop.our_end import LOOPBACK, OurResponder, make_requester, serving
from teeio.interop.peer import Peer
from teeio.spdm import flows
from teeio.spdm.constants import Capability, MutualAuth, Version
from teeio.spdm.device_state import Identity
from teeio.transport.carrier import Carrier
from teeio.transport.kinds import Transport
from teeio.transport.platform_port import Command, PlatformPortClient

pytestmark = [pytest.mark.interop, pytest.mark.skipif(not INSTALLED, reason=WHY_NOT)]

WITHOUT_CHUNKS = Capability.PSK | Capability.CHUNK | Capability.EP_INFO_SIG | Capability.LARGE_RESP
CELLS = [
    Cell(
        grid=Grid.MUTUAL,
        case="several keys",
        version=version,
        transport=Transport.MCTP,
        mode=mode,
        basic=True,
        clear=clear,
        req_asym=BaseAsym.ECDSA_P384,
        connection=CONNECTION[:3],
        session=(Step.KEY_EXCHANGE, Step.HEARTBEAT),
        key_updates=KeyUpdates.RESPONDER,
        slot_count=1,
    )
    for version in (Version.V1_3, Version.V1_4)
    for mode, clear in (
        (MutualAuth.PLAIN, False),
        (MutualAuth.ENCAPSULATED, True),
        (MutualAuth.IMPLICIT_DIGESTS, False),
    )
]


def _name(cell: Cell) -> str:
    return f"{cell.version.text}-{MUTUAL_NAMES[cell.mode]}"


@pytest.mark.parametrize("cell", CELLS, ids=_name)
def test_our_requester_with_several_keys_and_endpoint_information(cell: Cell) -> None:
    """The responder selects a multi-key connection for the requester, and asks for its endpoint information."""
    cell = replace(cell, requester=Flags(Capability.MULTI_KEY_NEG | Capability.EP_INFO_SIG))
    with (
        Peer.at(BIN).workplace() as place,
        place.responder(options(cell, Role.RESPONDER)) as port,
        PlatformPortClient(LOOPBACK, port, cell.transport.type) as client,
    ):
        requester = make_requester(cell, place.folder)
        (sample,) = requester.identities
        requester.identities = (Identity({0: replace(sample.slots[0], key_pair_id=1)}),)
        run: Any = Carrier(requester, client.exchange).run
        assert run(flows.connect(requester)).requester_multi_key
        run(flows.get_digests())
        run(flows.get_certificate(requester))
        run(flows.challenge(requester))
        client.tell(Command.OOB_ENCAP_ENDPOINT_INFO)
        assert run(flows.serve_pending(requester)) is True
        run(flows.heartbeat(run(flows.key_exchange(requester))))


@pytest.mark.parametrize("cell", CELLS, ids=_name)
def test_their_requester_with_several_keys(cell: Cell) -> None:
    cell = replace(cell, requester=Flags(Capability.MULTI_KEY_ONLY, Capability.MULTI_KEY_NEG | WITHOUT_CHUNKS))
    with Peer.at(BIN).workplace() as place:
        responder = OurResponder(cell, place.folder)
        with serving(cell.transport, responder.respond) as port:
            place.request(port, options(cell, Role.REQUESTER))
    assert responder.engine.connection.requester_multi_key
    assert responder.engine.connection.requester_chain
    assert responder.sessions
