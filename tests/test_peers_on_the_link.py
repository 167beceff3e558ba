"""What the devices, the links and the switch make of a bound peer-to-peer stream, whatever the TSM knows of it."""

from __future__ import annotations

import pytest

from peer_scene import DATA, A, B, PeerHost, Tenant
from teeio.device.models.model import DmaError
from teeio.pcie.capabilities.aer import Uncorrectable
from teeio.pcie.capabilities.ide import SwitchIdeCapability
from teeio.pcie.link import Way
from teeio.pcie.link_mode import NON_FLIT
from teeio.tdisp.messages import InterfaceState

NOTHING = bytes(len(DATA))


@pytest.fixture
def tenant() -> Tenant:
    """A pair that is bound; A has the translation of B's memory, where nothing is yet."""
    made = Tenant(PeerHost(vfs=1))
    made.connect()
    made.bus(A).translate(made.inbox(B), len(DATA), write=True)
    return made


def write(tenant: Tenant) -> None:
    """Let A write by the translation that it has."""
    tenant.bus(A).write(tenant.inbox(B), DATA)


def peer_stream(tenant: Tenant) -> int:
    return tenant.peers.peerings[0].stream_id


def overheard(tenant: Tenant) -> list[bytes]:
    """Listen on all links."""
    platform, seen = tenant.host.platform, list[bytes]()
    assert platform.uplink is not None
    for link in (*platform.links, platform.uplink):
        link.tamper = lambda frame, way: seen.append(frame) or frame  # type: ignore[func-returns-value]
    return seen


def test_nothing_of_it_can_be_read_on_the_way(tenant: Tenant) -> None:
    seen = overheard(tenant)
    write(tenant)
    assert tenant.held(B) == DATA
    assert not any(DATA[:16] in frame for frame in seen)
    assert {NON_FLIT.stream_of(frame) for frame in seen} == {peer_stream(tenant)}


def test_untranslated_requests_stay_on_the_default_stream(tenant: Tenant) -> None:
    place = tenant.guest.tvm.allocate(4096)
    seen = overheard(tenant)
    tenant.bus(A).write(place.gpa, b"1234")
    assert place.read(0, 4) == b"1234"
    assert {NON_FLIT.stream_of(frame) for frame in seen} == {tenant.binding(A).connection.stream.stream_id}


def test_a_producer_that_has_not_bound_it_reaches_nobody(tenant: Tenant) -> None:
    session = tenant.host.platform.devices[A].responder.sessions
    tenant.tdi(A).interface.unbind_p2p_stream(next(iter(session)), peer_stream(tenant))
    write(tenant)
    assert tenant.held(B) == NOTHING
    with pytest.raises(DmaError):
        tenant.bus(A).read(tenant.inbox(B), 4)


def test_a_consumer_that_has_not_bound_it_takes_nothing(tenant: Tenant) -> None:
    session = tenant.host.platform.devices[B].responder.sessions
    tenant.tdi(B).interface.unbind_p2p_stream(next(iter(session)), peer_stream(tenant))
    write(tenant)
    assert tenant.held(B) == NOTHING


@pytest.mark.parametrize("state", [InterfaceState.CONFIG_UNLOCKED, InterfaceState.ERROR])
def test_a_consumer_that_left_run_takes_nothing(tenant: Tenant, state: InterfaceState) -> None:
    device = tenant.host.platform.devices[B]
    if state is InterfaceState.ERROR:
        device.port.ide.make_insecure(tenant.binding(B).connection.stream.stream_id)
    else:
        tenant.tdi(B).interface.stop(next(iter(device.responder.sessions)))
    assert tenant.tdi(B).state is state
    write(tenant)
    assert tenant.held(B) == NOTHING


def test_a_flipped_bit_between_them_is_noticed(tenant: Tenant) -> None:
    flipped = lambda frame, way: frame[:-1] + bytes([frame[-1] ^ 1]) if way is Way.DOWN else frame  # noqa: E731
    tenant.host.platform.links[B].tamper = flipped
    tenant.bus(A).write(tenant.inbox(B), b"1234")
    assert tenant.tdi(B).state is InterfaceState.ERROR
    assert tenant.held(B) == NOTHING


def test_the_switch_can_keep_them_apart(tenant: Tenant) -> None:
    switch = tenant.host.platform.switch
    assert switch is not None
    switch.downstream[B].capability.set(SwitchIdeCapability.CONTROL, flow_through=0)
    write(tenant)
    assert tenant.held(B) == NOTHING
    assert switch.downstream[B].aer.recorded(Uncorrectable.MISROUTED_IDE_TLP)
    assert tenant.host.platform.devices[B].port.ide.is_secure(peer_stream(tenant))
