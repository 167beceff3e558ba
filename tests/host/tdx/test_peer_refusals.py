"""Every refusal that a peer-to-peer call declares happens, none that it does not declare, and what is refused changes nothing."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from host.tdx.peer_recipes import (
    ID,
    REFRESH,
    SCENARIOS,
    SETUP,
    S,
    change,
    created,
    gone,
    keyed,
    refused,
    sessions_that_are_over,
)
from peer_scene import A, B, PeerHost, Tenant
from teeio.abi import CALLS, Boundary, Call
from teeio.abi import device_seamcalls as d
from teeio.abi import memory_seamcalls as m
from teeio.abi import peer_calls as p
from teeio.abi.operands import DevifOperation, Invalidation, KmOperation, LockParameters, SpdmOperation
from teeio.errors import Misuse
from teeio.host.vmm.peers import covering, requesters_of
from teeio.host.vmm.stream_registers import DeviceStream
from teeio.observe import BoundaryCalled
from teeio.pcie.address import AddressRange
from teeio.pcie.capabilities.ide import RID_ASSOCIATION_2, SELECTIVE_CONTROL
from teeio.pcie.link import Way
from teeio.pcie.translation import InvalidationDone, invalidate_completion
from teeio.spdm.requester import Requester

ROWS = [row for row in CALLS.values() if row.alias == p.OWN and row.boundary is not Boundary.HYPERCALL]


@pytest.fixture(scope="module")
def host() -> PeerHost:
    return PeerHost(3)


@pytest.fixture(autouse=True)
def _tidy(request: pytest.FixtureRequest) -> Any:
    yield
    if "host" in request.fixturenames:
        host = request.getfixturevalue("host")
        for machine in list(host.vmm.kvm.machines.values()):
            host.vmm.kvm.destroy(machine, host.now())
        assert not host.module.records.peers.streams
        assert not host.module.records.peers.links
        host.check_declared()


@pytest.mark.parametrize("what", ["address", "partner", "default", "segment", "id"])
def test_registers_that_are_not_as_created(host: PeerHost, what: str) -> None:
    """The VMM writes other registers than it has told the TSM; the device says so over the session."""
    tenant = Tenant(host)
    tenant.allow().require("ALLOW")
    ends = created(host, tenant)
    other, window = requesters_of(host.pfs[B]), covering(tenant.binding(B).mapped)
    if what == "address":
        ends[A].associate_peer(other, covering(tenant.binding(A).mapped))
    elif what == "partner":
        ends[A].associate_peer(range(other.start, other.stop + 8), window)
    elif what == "default":
        host.pfs[A].config.set(SELECTIVE_CONTROL, ends[A].base, default=1)
    elif what == "segment":
        host.pfs[A].config.set(RID_ASSOCIATION_2, ends[A].base, segment=1)
    else:
        DeviceStream.free(host.pfs[A], ID + 1).associate_peer(other, window)
    if what == "id":
        assert host.turn(A, SETUP).status is S.IDE_KM_FAILED
    else:
        change(host, SETUP)
        for end in ends:
            end.enable()
        assert tenant.bind().status is S.P2P_STREAM_MISMATCH
        assert tenant.info().ends == 0
        assert tenant.tdi(A).interface.p2p_streams == frozenset()
    gone(host, ends)


def test_a_refresh_that_fails_while_it_changes_over(host: PeerHost) -> None:
    """Which keys each end uses is not known any more: the stream is given up."""
    tenant = Tenant(host)
    ends = keyed(host, tenant)
    for number in (A, B):
        host.turn(number, REFRESH).require("KM")
    with mock.patch.object(Requester, "start", side_effect=Misuse("the connection cannot do this")):
        assert host.km(A, REFRESH).status is S.SPDM_FAILED
    refused(host, S.IDE_STREAM_BLOCKED, lambda: host.km(A, REFRESH))
    gone(host, ends)


def test_an_association_of_mmio_that_is_on_its_way_out() -> None:
    host = PeerHost(vfs=1)
    tenant = Tenant(host)
    tenant.allow().require("ALLOW")
    keyed(host, tenant)
    for gpa, page in tenant.binding(B).mapped.pages.items():
        block = m.TdhMmioBlock(tdr=tenant.guest.machine.tdr, gpa=gpa, level=page.level)
        host.module.tdh_mmio_block(block).require("TDH.MMIO.BLOCK")
    refused(host, S.P2P_STREAM_MISMATCH, tenant.bind)
    # The VMM may associate all addresses there are with a device: that takes no longer.
    host.module.records.peers.streams[0].ends[A].memory = AddressRange(0, 1 << 63)
    refused(host, S.P2P_STREAM_MISMATCH, tenant.bind)


def test_a_release_that_is_refused_leaves_the_binding() -> None:
    host = PeerHost(vfs=1)
    tenant = Tenant(host)
    tenant.connect()
    beat = d.TdhSpdmMng(spdm_id=host.spdm_id(A), operation=SpdmOperation.HEARTBEAT)
    assert host.module.tdh_spdm_mng(beat, host.now()).pending
    refused(host, S.OPERAND_BUSY, tenant.unbind)
    assert tenant.info().active


def test_a_context_with_a_stream_to_a_peer_is_not_deleted() -> None:
    host = PeerHost(vfs=1)
    host.stream(ID).require("CREATE")
    connection = host.vmm.pci_tsm.connections[host.pfs[A].address]
    stream = {"spdm_id": connection.spdm_id, "stream_id": connection.stream.stream_id}
    host.module.tdh_ide_stream_block(d.TdhIdeStreamBlock(**stream)).require("BLOCK")
    host.module.tdh_ide_stream_delete(d.TdhIdeStreamDelete(**stream)).require("DELETE")
    host.vmm.pci_tsm._end_session(connection.mailbox, connection.spdm_id, host.now())
    delete = d.TdhSpdmDelete(spdm_id=connection.spdm_id)
    refused(host, S.IDE_STREAM_IN_USE, lambda: host.module.tdh_spdm_delete(delete))
    host.delete(ID)
    host.module.tdh_spdm_delete(delete).require("TDH.SPDM.DELETE")


# -- translation caches


def empty_before_unmapped(host: PeerHost) -> None:
    """A hostile VMM, with somebody on the link who lets no Invalidate Completion through, or forges them."""
    tenant = Tenant(host)
    tenant.connect()
    tenant.send(A, B)
    function, tdr = tenant.vfs[B], tenant.guest.machine.tdr
    host.vmm.pci_tsm.guest_req(function, DevifOperation.STOP, host.now())
    mapped = tenant.binding(B).mapped.pages
    gpa, level = next((gpa, page.level) for gpa, page in mapped.items())
    host.platform.links[A].tamper = lambda frame, way: None if way is Way.UP else frame
    host.module.tdh_mmio_block(m.TdhMmioBlock(tdr=tdr, gpa=gpa, level=level)).require("TDH.MMIO.BLOCK")
    host.module.tdh_mem_track(m.TdhMemTrack(tdr=tdr)).require("TDH.MEM.TRACK")
    scope = next(one for one in Invalidation if one.name in ("IOTLB", "DOMAIN"))
    request = m.TdhIqinvReq(iommu_id=0, scope=scope, target=tdr)
    host.module.tdh_iqinv_req(request).require("TDH.IQINV.REQ")
    host.module.tdh_iqinv_proc(m.TdhIqinvProc(iommu_id=0)).require("TDH.IQINV.PROC")
    unmap = m.TdhMmioUnmap(tdr=tdr, gpa=gpa, level=level)
    refused(host, S.TLB_TRACKING_NOT_DONE, lambda: host.module.tdh_mmio_unmap(unmap))
    refused(host, S.DEVICE_TLB_NOT_INVALIDATED, tenant.invalidate)
    host.platform.links[A].tamper = _forging(host)
    refused(host, S.DEVICE_TLB_NOT_INVALIDATED, tenant.invalidate)
    refused(host, S.TLB_TRACKING_NOT_DONE, lambda: host.module.tdh_mmio_unmap(unmap))
    host.platform.links[A].tamper = None
    # What was lost on the way is noticed with the next TLP: A's stream is over, so A is quiet once it is blocked.
    if tenant.invalidate().status is not S.SUCCESS:
        stream_id = tenant.binding(A).connection.stream.stream_id
        block = d.TdhIdeStreamBlock(spdm_id=host.spdm_id(A), stream_id=stream_id)
        host.module.tdh_ide_stream_block(block).require("BLOCK")
        tenant.invalidate().require("INVALIDATE")
    host.module.tdh_mmio_unmap(unmap).require("TDH.MMIO.UNMAP")


def _forging(host: PeerHost) -> Callable[[bytes, Way], bytes | None]:
    """Put an Invalidate Completion without IDE for every ITag in the place of what the device sends."""
    root = host.pfs[A].root_port.requester_id
    done = InvalidationDone(destination=root, itags=(1 << 32) - 1)
    forged = invalidate_completion(host.pfs[A].vfs[0].function_id, done).encode()
    return lambda frame, way: forged if way is Way.UP else frame


def sample(row: Call) -> Any:
    """Give a call with plain operands."""
    plain = {int: 1, tuple[int, ...]: (1,), AddressRange: AddressRange(0, 0), KmOperation: SETUP, bytes | None: None}
    hints = typing.get_type_hints(row.arguments)
    return row.arguments(**{one.name: plain[hints[one.name]] for one in dataclasses.fields(row.arguments)})


def without_the_profile() -> PeerHost:
    """TDX Connect as it is: every call is refused, and so is a lock for peer-to-peer."""
    host = PeerHost(1, peer_to_peer=False)
    tenant = Tenant(host, (A,), run=False)
    for row in ROWS:
        target = host.module if row.boundary is Boundary.SEAMCALL else tenant.tsm
        method = getattr(target, row.method)
        call = sample(row)
        refused(host, S.P2P_NOT_SUPPORTED, lambda f=method, r=row, c=call: f(c, 0.0) if r.timed else f(c))  # type: ignore[misc]
    host.vmm.pci_tsm.bind(tenant.vfs[A], tenant.guest.machine.tdr, host.now())
    lock = d.TdhDevifRequest(
        function_id=tenant.vfs[A].function_id, operation=DevifOperation.LOCK, lock=LockParameters(1 | 1 << 3)
    )
    refused(host, S.OPERAND_INVALID, lambda: host.module.tdh_devif_request(lock, host.now()))
    return host


def test_every_declared_refusal_happens(host: PeerHost) -> None:
    hosts = [host]
    for scenario in SCENARIOS:
        scenario(host)
        for machine in list(host.vmm.kvm.machines.values()):
            host.vmm.kvm.destroy(machine, host.now())
        for stream in list(host.module.records.peers.streams):
            host.delete(stream.stream_id)
    hosts += [without_the_profile(), sessions_that_are_over()]
    last = PeerHost(vfs=1)
    empty_before_unmapped(last)
    hosts.append(last)
    for one in hosts:
        one.check_declared()
    calls = [event for one in hosts for event in one.events if isinstance(event, BoundaryCalled)]
    reached = {(event.name, event.status) for event in calls}
    declared = {(row.name, status.name) for row in ROWS for status in row.refusals}
    assert sorted(declared - reached) == []
