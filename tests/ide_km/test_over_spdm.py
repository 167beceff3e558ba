"""IDE_KM inside a session of the SPDM engines: keys arrive as they were sent, and die with the session."""

from __future__ import annotations

from typing import Any

from spdm_pair import Pair
from teeio.ide_km import flows
from teeio.ide_km.messages import Direction, KeySet, key_slots
from teeio.ide_km.slots import SlotState
from teeio.spdm import flows as spdm_flows

Rig = Any


def test_keys_live_as_long_as_their_session(rig: Rig) -> None:
    pair = Pair(vendor_protocols=(rig.responder,))
    session = pair.open_session()
    keys = {slot: bytes([number]) * 32 for number, slot in enumerate(key_slots(KeySet.K0, Direction.RX))}
    assert pair.run(flows.query(1), session.session_id).max_port_index == 1
    pair.run(flows.program_keys(1, 7, keys), session.session_id)
    pair.run(flows.set_go(1, 7, KeySet.K0, Direction.RX), session.session_id)
    assert rig.ports[1].keys == {(7, slot): key for slot, key in keys.items()}
    assert set(rig.ports[1].states.values()) == {SlotState.ACTIVE}
    pair.run(spdm_flows.end_session(pair.requester, session))
    assert rig.ports[1].keys == {}
    assert rig.responder.owner is None
