"""Peer-to-peer on the whole platform: two devices of one TVM exchange data directly, set up by TVM, VMM and TSM."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest

from large_accelerator import LARGE, LARGE_BAR, LargeAccelerator
from peer_scene import DATA, A, B, PeerHost, Tenant
from teeio.abi import memory_seamcalls as m
from teeio.abi import peer_calls as p
from teeio.abi.declaration import CallRefused
from teeio.abi.operands import KmOperation
from teeio.device.models.model import DmaError
from teeio.errors import Misuse, PeerViolation
from teeio.faults.accounts import counts
from teeio.guest.peers import PeerLink
from teeio.host.vmm.peers import PeerToPeer, requesters_of
from teeio.observe import TlpMoved
from teeio.pcie.address import Bdf
from teeio.pcie.ide_port import InsecureCause
from teeio.pcie.seams import ResetKind
from teeio.pcie.translation import InvalidationDone, Translation
from teeio.tdisp.messages import InterfaceState, LockFlags

ROOT = Bdf(0, 0, 1, 0).requester_id


@pytest.fixture(scope="module")
def _host() -> PeerHost:
    return PeerHost()


@pytest.fixture
def host(_host: PeerHost) -> Iterator[PeerHost]:
    """A host with both devices connected; afterwards all that a tenant had is back, and nothing undeclared has happened."""
    before = counts(_host.platform)
    yield _host
    for machine in list(_host.vmm.kvm.machines.values()):
        _host.vmm.kvm.destroy(machine, _host.now())
    after = counts(_host.platform)
    # A key slot that was stopped in a refresh is not counted as empty.
    changed = {what for what in after if after[what] != before[what] and "IDE keys" not in what}
    assert changed == set()
    _host.check_declared()
    _host.events.clear()


@pytest.fixture
def tenant(host: PeerHost) -> Tenant:
    made = Tenant(host)
    made.connect()
    return made


def test_devices_write_and_read_each_other_directly(tenant: Tenant) -> None:
    tenant.host.events.clear()
    tenant.send(A, B)
    assert tenant.held(B) == DATA
    assert tenant.bus(A).read(tenant.inbox(B), len(DATA)) == DATA
    tenant.send(B, A, DATA[::-1])
    assert tenant.held(A) == DATA[::-1]
    moved = [event for event in tenant.host.events if isinstance(event, TlpMoved)]
    assert {event.protection for event in moved} == {"IDE T=1"}
    ends = "root port", "switch, upstream port"
    up = [event for event in moved if event.source in ends and event.target in ends]
    # The two Translation Requests with their completions; nothing of the data.
    assert sorted(event.kind for event in up) == ["CplD", "CplD", "MRd", "MRd"]


def test_in_flit_mode_too() -> None:
    host = PeerHost(vfs=1, flit_mode=True)
    tenant = Tenant(host)
    tenant.connect()
    tenant.send(A, B)
    assert tenant.bus(A).read(tenant.inbox(B), len(DATA)) == DATA == tenant.held(B)
    host.platform.shut_down(tenant.guest)
    assert not host.module.records.peers.streams


def test_mmio_that_is_mapped_by_2_mib() -> None:
    """Translations are of 4 KiB each, wherever they lie in a larger mapping."""
    host = PeerHost(vfs=1, model=LargeAccelerator)
    tenant = Tenant(host)
    tenant.connect()
    bar = tenant.interfaces[B].function.bar(LARGE_BAR)
    assert bar is not None
    leaf = host.module.records.tvm(tenant.guest.machine.tdr).sept.leaf(bar.gpa)
    assert leaf is not None
    assert leaf.level is LARGE
    for offset in (0, 5 * 4096 + 12, LARGE.size + 4096):
        tenant.bus(A).translate(bar.gpa + offset, 8, write=True)
        tenant.bus(A).write(bar.gpa + offset, b"to there")
        assert bytes(tenant.tdi(B).function.model.large[offset : offset + 8]) == b"to there"  # type: ignore[attr-defined]


def test_the_tvm_sees_that_peer_to_peer_is_on(tenant: Tenant) -> None:
    evidence = tenant.interfaces[A].evidence
    assert evidence is not None
    assert evidence.statement.lock_flags == LockFlags.NO_FW_UPDATE | LockFlags.BIND_P2P
    verdict = tenant.interfaces[A].verdict
    assert verdict is not None
    rules = {result.rule.id for result in verdict.results}
    assert {"peers-lock-flags", "peers-interface-info", "peers-controls"} <= rules
    assert not any(rule.startswith("tdx-") for rule in rules)


def test_keys_are_refreshed_while_the_stream_is_in_use(tenant: Tenant) -> None:
    tenant.send(A, B)
    tenant.peers.refresh_keys(tenant.binding(A), tenant.host.now())
    tenant.send(A, B, DATA[::-1])
    assert tenant.held(B) == DATA[::-1]
    tenant.peers.refresh_keys(tenant.binding(B), tenant.host.now())
    assert tenant.info().active
    tenant.send(B, A)
    assert tenant.held(A) == DATA


def test_traffic_goes_on_between_the_turns_of_a_refresh(tenant: Tenant) -> None:
    host, (peering,) = tenant.host, tenant.peers.peerings
    numbers = {host.spdm_id(number): number for number in (A, B)}
    turn, turns = host.spdm_id(A), 0
    while turn:
        turn = host.turn(numbers[turn], KmOperation.REFRESH, peering.stream_id).require("KM").next_spdm_id
        turns += 1
        for one, other in ((A, B), (B, A)):
            data = f"{turns}, from {one} to {other}; ".encode() * 20
            tenant.send(one, other, data)
            assert tenant.bus(one).read(tenant.inbox(other), len(data)) == data
    assert turns == 8
    assert tenant.info().active


def test_the_guests_way_to_connect_and_to_disconnect(host: PeerHost) -> None:
    tenant = Tenant(host)
    link = PeerLink(tenant.interfaces[A], tenant.interfaces[B])
    link.connect(host.now())
    assert link.active
    tenant.send(A, B)
    link.disconnect(host.now())
    assert not link.active
    assert not tenant.peers.peerings
    assert len(tenant.tdi(A).function.translations) == 0
    link.connect(host.now())
    tenant.send(B, A)
    assert tenant.held(A) == DATA


def test_a_vmm_that_does_not_release_them_is_noticed(tenant: Tenant) -> None:
    link = PeerLink(tenant.interfaces[A], tenant.interfaces[B])
    with mock.patch.object(PeerToPeer, "release"), pytest.raises(PeerViolation, match="may not be"):
        link.disconnect(tenant.host.now())
    assert tenant.tdi(A).interface.p2p_streams
    link.disconnect(tenant.host.now())
    assert tenant.info() == p.P2pInfo(allowed=False, ends=0, active=False)


def test_a_pair_that_is_bound_is_bound_once(tenant: Tenant) -> None:
    (peering,) = tenant.peers.peerings
    tenant.ask(B, A).require("TDCM.P2P.BIND")
    assert tenant.peers.peerings == [peering]


def test_two_functions_of_one_device_are_no_peers(host: PeerHost) -> None:
    tenant = Tenant(host, (A,))
    other = Tenant(host, (A,), vf=1)
    tenant.vfs[B], tenant.interfaces[B] = other.vfs[A], other.interfaces[A]
    assert tenant.allow().status.name == "TDI_NOT_PRESENT"
    with pytest.raises(Misuse, match="one TVM"):
        PeerLink(tenant.interfaces[A], other.interfaces[A])


def test_a_device_without_an_address_association_has_no_peers() -> None:
    host = PeerHost(vfs=1, address_blocks=0)
    tenant = Tenant(host)
    with pytest.raises(CallRefused, match="no address association"):
        PeerLink(tenant.interfaces[A], tenant.interfaces[B]).connect(host.now())
    assert not host.module.records.peers.streams
    tenant.tsm.tdg_p2p_revoke(p.TdgP2pRevoke(**tenant.pair())).require("REVOKE")


# -- the end of it


def test_after_the_consumer_has_stopped_nothing_leads_there(tenant: Tenant) -> None:
    tenant.send(A, B)
    tenant.interfaces[B].unlock(tenant.host.now())
    assert len(tenant.tdi(A).function.translations) == 0
    assert tenant.tdi(A).state is InterfaceState.RUN, "the producer goes on"
    assert tenant.tdi(A).interface.p2p_streams == frozenset()
    with pytest.raises(DmaError):
        tenant.bus(A).translate(tenant.interfaces[B].function.bars[0].gpa + 0x1000, 4, write=True)
    assert tenant.held(B) == bytes(len(DATA)), "scrubbed, and not written since"


def test_after_the_producer_has_stopped_the_consumer_goes_on(tenant: Tenant) -> None:
    tenant.interfaces[A].unlock(tenant.host.now())
    assert tenant.tdi(B).state is InterfaceState.RUN
    assert tenant.tdi(B).interface.p2p_streams == frozenset()
    place = tenant.guest.tvm.allocate(4096)
    tenant.bus(B).write(place.gpa, b"goes on")
    assert place.read(0, 7) == b"goes on"


@pytest.mark.parametrize("who", [A, B])
def test_a_reset_midway_ends_it_for_both(tenant: Tenant, who: int) -> None:
    tenant.send(A, B, b"before")
    address = tenant.vfs[who].address
    tenant.host.platform.devices[who].reset(ResetKind.FUNCTION_LEVEL, address)
    if who == A:
        with pytest.raises(DmaError):
            tenant.send(A, B)
    else:
        tenant.bus(A).write(tenant.inbox(B), DATA)
    assert tenant.held(B)[:6] != DATA[:6]
    tenant.interfaces[who].check(tenant.host.now())
    assert not tenant.info().active


@pytest.mark.parametrize("who", [A, B])
def test_a_device_that_does_not_answer_any_more_takes_only_the_pair_along(who: int) -> None:
    host = PeerHost(vfs=1)
    tenant = Tenant(host)
    tenant.connect()
    tenant.send(A, B)
    host.platform.links[who].fail()
    tenant.interfaces[1 - who].unlock(host.now())
    host.platform.shut_down(tenant.guest)
    for pf in host.pfs:
        host.vmm.pci_tsm.disconnect(pf, host.now())
    after = counts(host.platform)
    left = {what for what, count in after.items() if count and "device" not in what}
    assert left == set()
    host.check_declared()


def test_both_lose_trust_with_the_stream(tenant: Tenant) -> None:
    (peering,) = tenant.peers.peerings
    tenant.host.platform.devices[A].port.ide.make_insecure(peering.stream_id, InsecureCause.ORDERED)
    assert tenant.tdi(A).state is tenant.tdi(B).state is InterfaceState.ERROR
    with pytest.raises(DmaError):
        tenant.bus(A).translate(tenant.inbox(B), 4, write=True)


def test_an_association_that_the_vmm_moves_ends_it(tenant: Tenant) -> None:
    """The registers of a bound stream are locked: the stream turns Insecure, both interfaces go to ERROR."""
    (peering,) = tenant.peers.peerings
    tenant.send(A, B, b"before")
    elsewhere = tenant.host.vmm.bus.windows[tenant.host.pfs[A].bridge]
    peering.ends[0].associate_peer(requesters_of(tenant.host.pfs[B]), elsewhere)
    assert tenant.tdi(A).state is tenant.tdi(B).state is InterfaceState.ERROR
    assert tenant.held(B)[:6] == b"before"
    with pytest.raises(DmaError):
        tenant.send(A, B)


def test_memory_leaves_only_when_the_devices_caches_are_empty(host: PeerHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The VMM does not empty them: a device could hold translations of before."""
    tenant = Tenant(host)
    tenant.connect()
    tenant.send(A, B)
    with monkeypatch.context() as patch:
        patch.setattr(PeerToPeer, "_empty_cache", lambda self, binding, now: None)
        with pytest.raises(CallRefused, match="TLB_TRACKING_NOT_DONE"):
            tenant.guest.tvm.allocate_shared(4096, host.now())
        # That of the peer's MMIO the TSM does itself, when it is blocked.
        assert len(tenant.tdi(A).function.translations) == 1
        host.vmm.pci_tsm.unbind(tenant.vfs[B], host.now())
        assert len(tenant.tdi(A).function.translations) == 0


# -- what is refused in use


def test_memory_is_not_translated(tenant: Tenant) -> None:
    """Trusted ATS is for a peer's MMIO alone: asking for anything else costs the device its state, as ever."""
    place = tenant.guest.tvm.allocate(4096)
    with pytest.raises(DmaError):
        tenant.bus(A).translating.request(place.gpa)
    assert tenant.tdi(A).state is InterfaceState.ERROR


def test_its_own_mmio_is_not_translated(tenant: Tenant) -> None:
    with pytest.raises(DmaError):
        tenant.bus(A).translating.request(tenant.inbox(A) & -4096)


def test_one_bad_page_refuses_all(tenant: Tenant) -> None:
    last = tenant.interfaces[B].ranges[-1]
    with pytest.raises(DmaError):
        tenant.bus(A).translating.request(last.gpa + (last.pages - 1) * 4096, 2)
    assert len(tenant.tdi(A).function.translations) == 0


def test_translated_addresses_lead_nowhere_but_to_the_peer(tenant: Tenant) -> None:
    """A device that makes up a translation does not get past the root port, which takes none with T=1."""
    place = tenant.guest.tvm.allocate(4096)
    place.write(0, b"private")
    leaf = tenant.host.module.records.tvm(tenant.guest.machine.tdr).sept.leaf(place.gpa)
    assert leaf is not None
    tenant.tdi(A).function.translations.keep(place.gpa, Translation(read=1, write=1, page=leaf.hpa // 4096))
    tenant.bus(A).write(place.gpa, b"forged!")
    assert place.read(0, 7) == b"private"
    with pytest.raises(DmaError, match="UR"):
        tenant.bus(A).read(place.gpa, 7)
    assert tenant.tdi(A).state is InterfaceState.ERROR


def test_nothing_leads_to_a_peer_that_is_not_accepted(tenant: Tenant) -> None:
    """B has an untrusted range too; the TVM's address of it leads nowhere with T=1."""
    bar = tenant.interfaces[B].function.bar(4)
    assert bar is not None
    with pytest.raises(DmaError):
        tenant.bus(A).translating.request(bar.gpa)


def test_a_permission_that_is_taken_back_gives_no_translation(tenant: Tenant) -> None:
    """The devices forget what they had; that they are still bound, as the VMM does nothing, the TVM can read."""
    tenant.send(A, B)
    tenant.send(B, A)
    tenant.tsm.tdg_p2p_revoke(p.TdgP2pRevoke(**tenant.pair())).require("TDG.P2P.REVOKE")
    assert tenant.info() == p.P2pInfo(allowed=False, ends=2, active=False)
    assert [len(tenant.tdi(number).function.translations) for number in (A, B)] == [0, 0]
    with pytest.raises(DmaError):
        tenant.bus(A).translate(tenant.inbox(B), 4, write=True)


def test_mmio_that_the_vmm_blocks_gives_no_translation(tenant: Tenant) -> None:
    """What A knew of it the TSM lets it forget at once."""
    gpa = tenant.inbox(B)
    tdr = tenant.guest.machine.tdr
    tenant.send(A, B)
    assert len(tenant.tdi(A).function.translations) == 1
    tenant.host.module.tdh_mmio_block(m.TdhMmioBlock(tdr=tdr, gpa=gpa)).require("TDH.MMIO.BLOCK")
    assert len(tenant.tdi(A).function.translations) == 0
    with pytest.raises(DmaError):
        tenant.bus(A).translate(gpa, 4, write=True)


def test_the_same_place_below_another_root_port_or_stream_is_somebody_else(tenant: Tenant) -> None:
    translator = tenant.host.platform.root_complex.agents[ROOT].trusted.translator
    assert translator is not None
    stream_id = tenant.binding(A).connection.stream.stream_id
    requester, page = tenant.vfs[A].function_id, tenant.inbox(B) & -4096
    good = ROOT, requester, page, False, stream_id
    assert translator.translate(*good) is not None
    for changed in ((0x77, *good[1:]), (good[0], 0x999, *good[2:]), (*good[:4], stream_id + 1), (*good[:4], None)):
        assert translator.translate(*changed) is None


def test_only_the_devices_own_completion_counts(tenant: Tenant) -> None:
    agent = tenant.host.platform.root_complex.agents[ROOT].trusted
    stream_id, requester = tenant.binding(A).connection.stream.stream_id, tenant.vfs[A].function_id
    every = (1 << 32) - 1
    found: list[bool] = []

    def answered(tlp: object, t_bit: bool, stream: int | None) -> bool:
        for who, done, on in (
            (requester, InvalidationDone(destination=ROOT, itags=every), stream_id + 1),
            (requester, InvalidationDone(destination=ROOT, itags=every), None),
            (requester, InvalidationDone(destination=ROOT + 8, itags=every), stream_id),
            (tenant.vfs[B].function_id, InvalidationDone(destination=ROOT, itags=every), stream_id),
            (requester, InvalidationDone(destination=ROOT, itags=every & ~(1 << agent._itag)), stream_id),
        ):
            found.append(agent.completed(who, done, on))
        return True

    with mock.patch.object(agent._port, "post", answered):
        assert not agent.invalidate(requester, stream_id)
    assert found == [False, False, False, False, True], "the last one completes another request"
    assert agent.invalidate(requester, stream_id)
    assert not agent.completed(requester, InvalidationDone(destination=ROOT, itags=every), stream_id), "not asked for"


def test_a_call_that_the_vmm_refuses_leaves_nothing() -> None:
    host = PeerHost(vfs=1)
    tenant = Tenant(host)
    host.vmm.pci_tsm.connections[host.pfs[B].address].mailbox.courier = lambda data, now: b"nonsense" * 4
    link = PeerLink(tenant.interfaces[A], tenant.interfaces[B])
    with pytest.raises(CallRefused, match=r"TDCM\.P2P\.BIND"):
        link.connect(host.now())
    assert not host.module.records.peers.streams
    assert not tenant.peers.peerings
