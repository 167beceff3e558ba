"""Pairs that come after one another, or at once, on one peer-to-peer stream: none gets what is another's.

The TSM gives an interface up when it blocks its stream to the root port. Its device may run on, bound to its peer stream, with
a peer's addresses in its cache: whoever comes to that place must be out of its reach.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from host.tdx.peer_recipes import ID, REFRESH, SETUP, S, change, created, gone, keyed, refused, registers
from peer_scene import A, B, PeerHost, Tenant
from teeio.abi import device_seamcalls as d
from teeio.abi import memory_seamcalls as m
from teeio.abi import peer_calls as p
from teeio.abi.operands import DevifOperation, DmarLevel
from teeio.device.bus import FunctionBus
from teeio.host.vmm.peers import covering
from teeio.pcie.address import AddressRange
from teeio.pcie.capabilities.ide import ADDRESS_ASSOCIATION_1, SELECTIVE_SIZE
from teeio.pcie.ide_tlp import message_code
from teeio.pcie.link import Way
from teeio.pcie.link_mode import NON_FLIT
from teeio.pcie.tlp import MessageCode
from teeio.tdisp.messages import InterfaceState

LATE = b"from a device that was given up"


def paired(host: PeerHost) -> tuple[Tenant, Any]:
    """Bring a pair about as an honest VMM does, but for its own books; give it with the stream's registers."""
    tenant = Tenant(host)
    tenant.allow().require("ALLOW")
    ends = keyed(host, tenant)
    for one, other in ((A, B), (B, A)):
        tenant.bind(one, other).require("BIND")
    return tenant, ends


def _without_ide_fail(frame: bytes, way: Way) -> bytes | None:
    """Sit on the link, and keep every IDE Fail from the device."""
    plain = NON_FLIT.stream_of(frame) is None
    return None if plain and message_code(NON_FLIT.decode(frame)) == MessageCode.IDE_FAIL else frame


def again(host: PeerHost, block: d.TdhIdeStreamBlock, stream_id: int) -> Callable[[], Any]:
    """Delete the blocked stream of a device to its root port; give a way to create it again, with that Stream ID."""
    stream = host.module.records.context(block.spdm_id).stream(block.stream_id)
    delete = d.TdhIdeStreamDelete(spdm_id=block.spdm_id, stream_id=block.stream_id)
    create = d.TdhIdeStreamCreate(
        spdm_id=block.spdm_id,
        stream_id=stream_id,
        requesters=(stream.requesters.start, stream.requesters.stop - 1),
        memory=stream.memory,
        pages=host.module.tdh_ide_stream_delete(delete).require("TDH.IDE.STREAM.DELETE").pages,
    )
    return lambda: host.module.tdh_ide_stream_create(create)


def blocked(host: PeerHost) -> d.TdhIdeStreamBlock:
    """Block the stream of A to its root port."""
    connection = host.vmm.pci_tsm.connections[host.pfs[A].address]
    block = d.TdhIdeStreamBlock(spdm_id=connection.spdm_id, stream_id=connection.stream.stream_id)
    host.module.tdh_ide_stream_block(block).require("TDH.IDE.STREAM.BLOCK")
    return block


def give_up(host: PeerHost, tenant: Tenant) -> None:
    """Block the stream of A to the root port, take A's interface from its TVM, and set the same stream up again."""
    pci_tsm, binding = host.vmm.pci_tsm, tenant.binding(A)
    connection, mapped = binding.connection, binding.mapped
    host.platform.links[A].tamper = _without_ide_fail
    pci_tsm.refresh_keys(
        host.pfs[A], host.now()
    )  # K1 is in use from now on: a set-up of K0 does not disturb the device
    block = blocked(host)
    tenant.invalidate(A).require("TDH.P2P.INVALIDATE")
    for step in (*pci_tsm.mappings.remove_dma(mapped), *pci_tsm.mappings.unmap_mmio(mapped)):
        step()
    pci_tsm._remove_interface(binding.function_id)
    del connection.bindings[tenant.vfs[A].address]
    again(host, block, block.stream_id)().require("TDH.IDE.STREAM.CREATE")
    pci_tsm._km(connection.mailbox, block.spdm_id, block.stream_id, SETUP, host.now()).require("TDH.IDE.STREAM.KM")


def successor(host: PeerHost, tenant: Tenant) -> Tenant:
    """Stop B's interface as it should be, and give it to another TVM, with another one of A's."""
    machine = tenant.guest.machine
    place = next(at for at, found in machine.functions.items() if found.function is tenant.vfs[B])
    host.vmm.kvm.remove_function(machine, place, host.now())
    second = Tenant(host, ())
    for number, vf in ((A, 1), (B, 0)):
        second._assign(number, vf)
        second.bring_up(number)
    second.allow().require("ALLOW")
    return second


class GivenUp:
    """A's interface of the first TVM, which runs on though the TSM has given it up, and a second TVM at the place of its peer."""

    def __init__(self) -> None:
        self.host = PeerHost()
        self.first, self.ends = paired(self.host)
        change(self.host, REFRESH)
        self.first.send(A, B)
        self.bus: FunctionBus = self.first.bus(A)
        self.target = self.first.inbox(B)
        give_up(self.host, self.first)
        self.second = successor(self.host, self.first)
        assert self.first.tdi(A).state is InterfaceState.RUN
        assert self.first.tdi(A).interface.p2p_streams == {ID}
        assert len(self.first.tdi(A).function.translations) == 1

    def strike(self) -> None:
        """Let it write where its peer was; nothing must come of it."""
        self.bus.write(self.target, LATE)
        assert self.second.held(B)[: len(LATE)] == bytes(len(LATE))


@pytest.fixture
def given_up() -> GivenUp:
    return GivenUp()


def test_the_next_pair_does_not_get_the_stream(given_up: GivenUp) -> None:
    """New keys are no help: the device that was given up has them as well."""
    host, second = given_up.host, given_up.second
    refused(host, S.OPERAND_BUSY, second.bind)
    change(host, REFRESH)
    for one, other in ((A, B), (B, A)):
        refused(host, S.OPERAND_BUSY, lambda o=one, q=other: second.bind(o, q))  # type: ignore[misc]
    given_up.strike()


def test_a_new_stream_gets_no_keys_while_the_device_has_the_old_one(given_up: GivenUp) -> None:
    host, second = given_up.host, given_up.second
    host.delete(ID)
    memory, peer_memory = (covering(second.binding(number).mapped) for number in (A, B))
    host.stream(ID, memory=memory, peer_memory=peer_memory).require("CREATE")
    assert host.turn(A, SETUP).status is S.IDE_KM_FAILED
    given_up.strike()
    for end in given_up.ends:
        end.clear_peer()
    assert given_up.first.tdi(A).state is InterfaceState.ERROR
    host.delete(ID)
    created(host, second)
    change(host, SETUP)


def test_interfaces_that_were_stopped_have_released_the_stream() -> None:
    """STOP is as good as UNBIND: the next pair needs new keys, and nothing else."""
    host = PeerHost()
    tenant, ends = paired(host)
    for number in (A, B):
        host.vmm.pci_tsm.guest_req(tenant.vfs[number], DevifOperation.STOP, host.now())
    second = Tenant(host, vf=1)
    second.allow().require("ALLOW")
    refused(host, S.IDE_STREAM_NEEDS_NEW_KEYS, second.bind)
    change(host, REFRESH)
    second.bind().require("BIND")
    second.unbind().require("UNBIND")
    gone(host, ends)


def translation(host: PeerHost, tenant: Tenant) -> Any:
    """Ask for B's memory as the root port does for A."""
    agent = next(iter(host.platform.root_complex.agents.values())).trusted
    assert agent.translator is not None
    port, stream_id = host.pfs[A].root_port.requester_id, tenant.binding(A).connection.stream.stream_id
    return agent.translator.translate(port, tenant.vfs[A].function_id, tenant.inbox(B), False, stream_id)


def test_accepted_mmio_outside_the_association_is_not_translated() -> None:
    host = PeerHost(vfs=1)
    tenant = Tenant(host)
    tenant.allow().require("ALLOW")
    nothing = AddressRange(0, 0)
    memory = covering(tenant.binding(A).mapped)
    host.stream(ID, memory=memory, peer_memory=nothing).require("CREATE")
    ends = registers(host, tenant)
    host.pfs[A].config.set(ADDRESS_ASSOCIATION_1, ends[A].base + SELECTIVE_SIZE, valid=0)
    change(host, SETUP)
    for end in ends:
        assert end.enable()
    for one, other in ((A, B), (B, A)):
        tenant.bind(one, other).require("BIND")
    assert tenant.info().active
    assert translation(host, tenant) is None
    tenant.send(B, A)
    for one, other in ((A, B), (B, A)):
        tenant.unbind(one, other).require("UNBIND")
    gone(host, ends)


def test_without_a_trusted_dma_entry_there_is_no_translation() -> None:
    host = PeerHost(vfs=1)
    tenant, _ = paired(host)
    assert translation(host, tenant) is not None
    block = m.TdhDmarBlock(iommu_id=0, level=DmarLevel.PASID, function_id=tenant.vfs[A].function_id)
    host.module.tdh_dmar_block(block).require("TDH.DMAR.BLOCK")
    assert translation(host, tenant) is None


def test_the_tvm_can_read_that_an_interface_was_given_up() -> None:
    host = PeerHost(vfs=1)
    tenant, _ = paired(host)
    host.platform.links[A].tamper = _without_ide_fail
    blocked(host)
    for one, other in ((A, B), (B, A)):
        tenant.unbind(one, other).require("UNBIND")
    assert tenant.info() == p.P2pInfo(allowed=False, ends=1, active=False)


def test_two_pairs_that_bind_at_once() -> None:
    """Each passes the checks, each at another device, before either has the stream."""
    host = PeerHost()
    first, second = Tenant(host), Tenant(host, vf=1)
    for tenant in (first, second):
        tenant.allow().require("ALLOW")
    ends = keyed(host, first)
    assert host.module.tdh_p2p_bind(p.TdhP2pBind(**first.pair(), stream_id=ID), host.now()).pending
    second.bind(B, A).require("BIND")
    assert first.bind().status is S.OPERAND_BUSY
    assert first.tdi(A).interface.p2p_streams == frozenset()
    second.unbind(B, A).require("UNBIND")
    gone(host, ends)


def test_an_interface_that_is_removed_while_it_is_bound_leaves_its_device_free() -> None:
    host = PeerHost(vfs=1)
    tenant = Tenant(host)
    tenant.allow().require("ALLOW")
    keyed(host, tenant)
    assert host.module.tdh_p2p_bind(p.TdhP2pBind(**tenant.pair(), stream_id=ID), host.now()).pending
    mappings, binding = host.vmm.pci_tsm.mappings, tenant.binding(A)
    blocked(host)
    for step in (*mappings.remove_dma(binding.mapped), *mappings.unmap_mmio(binding.mapped)):
        step()
    host.vmm.pci_tsm._remove_interface(binding.function_id)
    assert host.module.records.contexts[host.spdm_id(A)].agent.task is None


def test_a_binding_is_of_the_pair_for_which_it_was_begun() -> None:
    """The VMM begins it for one peer and goes on for another one of the same device."""
    host, other = PeerHost(), 2
    tenant = Tenant(host)
    of_b = tenant.vfs[B], tenant.interfaces[B]
    tenant._assign(B, 1)
    tenant.bring_up(B)
    tenant.vfs[other], tenant.interfaces[other] = tenant.vfs[B], tenant.interfaces[B]
    tenant.vfs[B], tenant.interfaces[B] = of_b
    ends = keyed(host, tenant)
    for peer in (B, other):
        tenant.allow(A, peer).require("ALLOW")
    assert host.module.tdh_p2p_bind(p.TdhP2pBind(**tenant.pair(), stream_id=ID), host.now()).pending
    tenant.bind(A, other).require("BIND")
    links = host.module.records.peers.links
    bound = {pair: len(link.bound) for pair, link in links.items()}
    ours = frozenset({tenant.vfs[A].function_id, tenant.vfs[B].function_id})
    assert bound == {pair: int(pair == ours) for pair in links}
    assert [tenant.info(A, peer).ends for peer in (B, other)] == [1, 0]
    tenant.unbind(A, B).require("UNBIND")
    gone(host, ends)


def test_a_stream_to_the_root_port_gets_no_id_of_a_peer_stream() -> None:
    """A device has each Stream ID once, or keys for one stream would be another's."""
    host = PeerHost(vfs=1)
    host.stream(ID).require("CREATE")
    attempt = again(host, blocked(host), ID)
    refused(host, S.OPERAND_BUSY, attempt)
    host.delete(ID)
    attempt().require("TDH.IDE.STREAM.CREATE")


def _revoked(tenant: Tenant, ends: Any) -> None:
    tenant.tsm.tdg_p2p_revoke(p.TdgP2pRevoke(**tenant.pair())).require("TDG.P2P.REVOKE")


def _blocked(tenant: Tenant, ends: Any) -> None:
    block = p.TdhP2pStreamBlock(spdm_id=tenant.host.spdm_id(A), stream_id=ID)
    tenant.host.module.tdh_p2p_stream_block(block).require("TDH.P2P.STREAM.BLOCK")


def _deleted(tenant: Tenant, ends: Any) -> None:
    tenant.host.delete(ID)


@pytest.mark.parametrize(
    ("what", "status"),
    [(_revoked, S.P2P_NOT_ALLOWED), (_blocked, S.IDE_STREAM_BLOCKED), (_deleted, S.OPERAND_INVALID)],
)
def test_what_is_lost_while_the_device_is_asked_is_not_bound(what: Any, status: Any) -> None:
    host = PeerHost(vfs=1)
    tenant = Tenant(host)
    tenant.allow().require("ALLOW")
    ends = keyed(host, tenant)
    step = p.TdhP2pBind(**tenant.pair(), stream_id=ID)
    assert host.module.tdh_p2p_bind(step, host.now()).pending
    what(tenant, ends)
    assert tenant.bind().status is status
    assert tenant.tdi(A).interface.p2p_streams == frozenset()
    assert tenant.binding(A).connection.stream.secure, "the session goes on"
    assert host.module.records.contexts[host.spdm_id(A)].agent.task is None
