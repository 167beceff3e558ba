"""TDISP inside a session of the SPDM engines: the way there, and what the end of the session does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from spdm_pair import Pair
from teeio.spdm import flows as spdm_flows
from teeio.tdisp import flows
from teeio.tdisp.messages import GetDeviceInterfaceState, InterfaceState, LockParameters

Rig = Any
FUNCTION = 0xBEEF


def connected(rig: Rig) -> tuple[Pair, Any]:
    pair = Pair(vendor_protocols=(rig.responder,))
    session = pair.open_session()
    rig.device.streams[0] = replace(rig.device.streams[0], key_session=session.session_id)
    return pair, session


def test_an_interface_runs_until_its_session_ends(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    pair, session = connected(rig)
    nonce = pair.run(flows.lock_interface(FUNCTION, LockParameters()), session.session_id)
    report = pair.run(flows.get_device_interface_report(FUNCTION), session.session_id)
    assert report == rig.interface.report(session.session_id)
    pair.run(flows.start_interface(FUNCTION, nonce), session.session_id)
    assert pair.run(flows.get_state(FUNCTION), session.session_id) is InterfaceState.RUN
    pair.run(spdm_flows.end_session(pair.requester, session))
    assert rig.interface.state is InterfaceState.ERROR


def test_a_message_outside_a_session_has_no_effect(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    pair, session = connected(rig)
    pair.run(flows.lock_interface(FUNCTION, LockParameters()), session.session_id)
    before = len(rig.seen)
    message = GetDeviceInterfaceState(function_id=FUNCTION).encode()
    body = b"\x03\x00\x02\x01\x00" + (len(message) + 1).to_bytes(2, "little") + b"\x01" + message
    answer = pair.say(b"\x12\xfe\0\0" + body)
    assert answer is None or answer[1] == 0x7F
    assert rig.interface.state is InterfaceState.CONFIG_LOCKED
    assert len(rig.seen) == before
