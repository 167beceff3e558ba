"""Several SPDM connections through the device's one mailbox: each on its own, the TDIs and the keys the device's."""

from __future__ import annotations

from typing import Any

import pytest

from device.test_doe import STREAM, Host
from teeio.device.doe_connections import MAX_CONNECTIONS, DoeConnections
from teeio.errors import ErrorResponse, Misuse, TransportError
from teeio.observe import Refused
from teeio.pcie.doe import OF_A_CONNECTION, SECURED_SPDM, SPDM, DoeBinding, discover, exchange
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.state import Session
from teeio.tdisp import flows as tdisp
from teeio.tdisp.messages import InterfaceState, LockFlags, LockParameters

LOCK = LockParameters(flags=LockFlags.NO_FW_UPDATE, default_stream_id=STREAM)


def host_of(rig: Any, connection_id: int | None) -> Host:
    host = Host(rig)
    host.requester.binding = DoeBinding(connection_id)
    return host


def opened(rig: Any, *ids: int | None) -> list[tuple[Host, Session]]:
    """Open a session on each connection, step by step through the same mailbox."""
    hosts = [host_of(rig, one) for one in ids]
    for host in hosts:
        host.run(flows.connect(host.requester))
    for host in hosts:
        host.run(flows.get_digests())
        host.run(flows.get_certificate(host.requester))
    return [(host, host.run(flows.key_exchange(host.requester))) for host in hosts]


@pytest.fixture
def many(make_rig: Any) -> Any:
    rig = make_rig(doe_connections=(0, 77))
    rig.associate()
    return rig


def test_discovery_lists_what_carries_an_id_only_where_there_is_one(many: Any, make_rig: Any) -> None:
    for rig, listed in ((many, [SPDM, SECURED_SPDM, *OF_A_CONNECTION]), (make_rig(), [SPDM, SECURED_SPDM])):
        host = Host(rig)
        assert discover(host.read, host.write, host.base)[1:] == listed


def test_connections_share_nothing_but_the_device(many: Any) -> None:
    (bare, first), (zero, second), (other, third) = opened(many, None, 0, 77)
    assert first.session_id == second.session_id == third.session_id, "they may be, on connections of their own"
    for host, session in ((bare, first), (other, third), (zero, second)):
        host.run(flows.heartbeat(session))
    # GET_VERSION on one ends its sessions and no others.
    zero.run(flows.connect(zero.requester))
    assert [len(one.sessions) for one in many.device.connections.responders.values()] == [1, 0, 1]
    bare.run(flows.heartbeat(first))
    other.run(flows.heartbeat(third))


def test_a_lock_belongs_to_the_session_of_its_connection(many: Any) -> None:
    """Session identifiers are the same, so only the connection tells whose TDI it is."""
    (owner, session), (other, same_id) = opened(many, 0, 77)
    owner.keys(session)
    many.enable()
    tdi = many.vf(1)
    function_id = many.address(tdi).requester_id
    nonce = owner.run(tdisp.lock_interface(function_id, LOCK), session)
    with pytest.raises(ErrorResponse):
        other.run(tdisp.start_interface(function_id, nonce), same_id)
    other.run(flows.end_session(other.requester, same_id))
    assert tdi.state is InterfaceState.CONFIG_LOCKED
    owner.run(flows.end_session(owner.requester, session))
    assert tdi.state is InterfaceState.ERROR


@pytest.mark.parametrize("served", [(), (0, 77)], ids=["no ids", "others"])
def test_an_id_that_is_not_served_has_no_answer(make_rig: Any, served: tuple[int, ...]) -> None:
    rig = make_rig(doe_connections=served)
    stranger = host_of(rig, 5)
    hello = stranger.requester.binding.wrap(m.GetVersion().encode(m.Facts()), secured=False)
    with pytest.raises(TransportError, match="has no answer"):
        exchange(stranger.read, stranger.write, stranger.base, hello, polls=5)
    refused = [event.rule for event in rig.events if isinstance(event, Refused)]
    assert any("connection id 5 is not served, 0, 77 is" in rule for rule in refused) is bool(served)


def test_a_reset_ends_the_sessions_of_all_connections(many: Any) -> None:
    opened(many, None, 0, 77)
    many.device.dsm.reset("reset")
    assert not any(one.sessions for one in many.device.connections.responders.values())


def test_ids_are_bounded_and_different(make_rig: Any) -> None:
    for ids, why in (((1, 1), "twice"), ((4096,), "0 to 4095"), (tuple(range(MAX_CONNECTIONS + 1)), "17 DOE")):
        with pytest.raises(Misuse, match=why):
            make_rig(doe_connections=ids)
    assert len(make_rig(doe_connections=tuple(range(MAX_CONNECTIONS))).device.connections.responders) == 17


def test_broken_data_objects_are_refused_and_told(many: Any) -> None:
    told: list[Any] = []
    connections = DoeConnections(many.device.dsm, (3,), lambda: 0.0, observer=told.append)
    for broken in (b"", b"\1\0\3\0\3\0\0\0", bytes(12)):
        assert connections.respond(broken) is None
    assert [event.what for event in told] == ["a frame"] * 3
