"""Two devices of one TVM exchange data: directly over a bound peer-to-peer stream, and over shared memory as today."""

from __future__ import annotations

import pytest

from device.conftest import SESSION
from device.peers import ADDRESSES, DEFAULTS, P2P, Peers
from teeio.device.models.model import DmaError
from teeio.errors import Reject
from teeio.observe import TlpMoved
from teeio.pcie.capabilities.aer import Uncorrectable
from teeio.pcie.capabilities.ide import SwitchIdeCapability
from teeio.pcie.ide_port import InsecureCause
from teeio.pcie.link import Way
from teeio.tdisp.messages import InterfaceState, LockFlags

A, B = 0, 1
VIRTUAL = 0x7000
DATA = b"what one device tells the other " * 16
MEMORY = 0x1000
"""Offset of the device memory in BAR 0."""


@pytest.fixture
def peers() -> Peers:
    bench = Peers().protect()
    bench.run(A)
    bench.run(B)
    bench.translate(A, VIRTUAL, bench.target(B) + MEMORY)
    return bench


def held(peers: Peers) -> bytes:
    model = peers.tdi(B).function.model
    return bytes(model.memory[: len(DATA)])  # type: ignore[attr-defined]


def moved(peers: Peers) -> list[TlpMoved]:
    return [event for event in peers.events if isinstance(event, TlpMoved)]


def test_a_device_writes_and_reads_the_other_directly(peers: Peers) -> None:
    peers.events.clear()
    peers.bus(A).write(VIRTUAL, DATA)
    assert held(peers) == DATA
    assert peers.bus(A).read(VIRTUAL, len(DATA)) == DATA
    assert {event.protection for event in moved(peers)} == {"IDE T=1"}
    assert not any("root port" in (event.source, event.target) for event in moved(peers)), "it never leaves the switch"
    assert peers.host.asked == []


def test_nothing_of_it_can_be_read_on_the_way(peers: Peers) -> None:
    seen: list[bytes] = []
    for link in (*peers.links, peers.uplink):
        link.tamper = lambda frame, way: seen.append(frame) or frame  # type: ignore[func-returns-value]
    peers.bus(A).write(VIRTUAL, DATA)
    assert held(peers) == DATA
    assert not any(DATA[:16] in frame for frame in seen)
    assert {frame[2] for frame in seen} == {P2P}


def test_directly_against_over_memory(peers: Peers) -> None:
    """The same bytes by way of the TVM's memory go up and come down again, with requests and completions besides."""
    peers.events.clear()
    peers.bus(A).write(VIRTUAL, DATA)
    directly = moved(peers)
    peers.events.clear()
    peers.bus(A).write(0x9_0000, DATA)
    assert peers.bus(B).read(0x9_0000, len(DATA)) == DATA
    over_memory = moved(peers)

    def on_uplink(events: list[TlpMoved]) -> int:
        return sum(event.size for event in events if "root port" in (event.source, event.target))

    assert len(directly) * 2 < len(over_memory)
    assert on_uplink(directly) == 0
    assert on_uplink(over_memory) > 2 * len(DATA)
    assert {event.protection for event in over_memory} == {"IDE T=1"}


def test_untranslated_requests_stay_on_the_default_stream(peers: Peers) -> None:
    seen: list[bytes] = []
    peers.links[A].tamper = lambda frame, way: seen.append(frame) or frame  # type: ignore[func-returns-value]
    peers.bus(A).write(0x9_0000, b"1234")
    assert {frame[2] for frame in seen} == {DEFAULTS[A]}
    assert peers.host.asked == [(ADDRESSES[A].requester_id, 0x9_0000, True, DEFAULTS[A])]


@pytest.mark.parametrize("who", [A, B])
def test_a_stream_that_one_has_not_bound_does_not_serve(who: int) -> None:
    peers = Peers().protect()
    for number in (A, B):
        peers.run(number, bind=number != who)
    peers.translate(A, VIRTUAL, peers.target(B) + MEMORY)
    if who == A:
        with pytest.raises(DmaError):
            peers.bus(A).read(VIRTUAL, 4)
    else:
        peers.bus(A).write(VIRTUAL, DATA)
    assert held(peers) == bytes(len(DATA))


@pytest.mark.parametrize("state", [InterfaceState.CONFIG_UNLOCKED, InterfaceState.ERROR])
def test_a_peer_that_left_run_takes_nothing(peers: Peers, state: InterfaceState) -> None:
    if state is InterfaceState.ERROR:
        peers.devices[B].port.ide.make_insecure(DEFAULTS[B])
    else:
        peers.tdi(B).interface.stop(SESSION)
    assert peers.tdi(B).state is state
    peers.bus(A).write(VIRTUAL, DATA)
    assert held(peers) == bytes(len(DATA))


def test_an_unbound_stream_serves_no_more(peers: Peers) -> None:
    peers.tdi(B).interface.unbind_p2p_stream(SESSION, P2P)
    peers.bus(A).write(VIRTUAL, DATA)
    assert held(peers) == bytes(len(DATA))


def test_both_lose_trust_with_the_stream(peers: Peers) -> None:
    peers.devices[A].port.ide.make_insecure(P2P, InsecureCause.ORDERED)
    assert peers.tdi(A).state is peers.tdi(B).state is InterfaceState.ERROR
    assert not peers.devices[B].port.ide.is_secure(P2P), "IDE Fail goes from one to the other through the switch"


def test_a_flipped_bit_between_them_is_noticed(peers: Peers) -> None:
    peers.links[B].tamper = lambda frame, way: frame[:-1] + bytes([frame[-1] ^ 1]) if way is Way.DOWN else frame
    peers.bus(A).write(VIRTUAL, b"1234")
    assert peers.tdi(B).state is InterfaceState.ERROR
    assert held(peers) == bytes(len(DATA))


def test_the_switch_can_keep_them_apart(peers: Peers) -> None:
    peers.switch.downstream[B].capability.set(SwitchIdeCapability.CONTROL, flow_through=0)
    peers.bus(A).write(VIRTUAL, DATA)
    assert held(peers) == bytes(len(DATA))
    assert peers.switch.downstream[B].aer.recorded(Uncorrectable.MISROUTED_IDE_TLP)
    assert peers.devices[B].port.ide.is_secure(P2P)


def test_binding_needs_a_lock_that_allows_it() -> None:
    peers = Peers().protect()
    peers.run(A, LockFlags.NO_FW_UPDATE, bind=False)
    with pytest.raises(Reject, match="BIND_P2P"):
        peers.tdi(A).interface.bind_p2p_stream(SESSION, P2P)
