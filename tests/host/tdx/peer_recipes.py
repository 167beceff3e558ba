"""How to bring about the refusals of the peer-to-peer calls: each recipe gets a host with three connected devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from host.tdx.tsm_state import state_of
from peer_scene import A, B, C, PeerHost, Tenant
from teeio.abi import device_seamcalls as d
from teeio.abi import peer_calls as p
from teeio.abi import tdcalls as g
from teeio.abi.operands import DevifOperation, KmOperation, LockParameters, SpdmOperation
from teeio.abi.statuses import Status
from teeio.attestation import Profile
from teeio.device.models.model import DmaError
from teeio.errors import Misuse
from teeio.guest.attest import public_key_hash
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.vmm.peers import covering, requesters_of
from teeio.host.vmm.stream_registers import DeviceStream
from teeio.pcie.address import AddressRange
from teeio.pcie.ide_port import InsecureCause
from teeio.spdm.requester import Requester
from teeio.tdisp.messages import InterfaceState, LockFlags
from teeio.tdisp.states import Event

S = Status
SETUP, REFRESH = KmOperation.SETUP, KmOperation.REFRESH
ID = 7


def refused(host: PeerHost, status: Status, attempt: Callable[[], Any]) -> None:
    """See that a call is refused like this, and that nothing has changed."""
    before = state_of(host.module)
    result = attempt()
    assert result.status is status, f"{result.status.name}: {result.reason}"
    after = state_of(host.module)
    assert [what for what in before if before[what] != after[what]] == []


def registers(host: PeerHost, tenant: Tenant, one: int = A, other: int = B) -> list[DeviceStream]:
    """Write both ends' registers as an honest VMM does."""
    ends = [DeviceStream.free(host.pfs[number], ID) for number in (one, other)]
    for end, partner in zip(ends, (other, one), strict=True):
        end.associate_peer(requesters_of(host.pfs[partner]), covering(tenant.binding(partner).mapped))
    return ends


def created(host: PeerHost, tenant: Tenant, one: int = A, other: int = B) -> list[DeviceStream]:
    """Create a stream as an honest VMM does, up to the keys."""
    memory, peer_memory = (covering(tenant.binding(number).mapped) for number in (one, other))
    host.stream(ID, one, other, memory=memory, peer_memory=peer_memory).require("CREATE")
    return registers(host, tenant, one, other)


def keyed(host: PeerHost, tenant: Tenant, one: int = A, other: int = B) -> list[DeviceStream]:
    """Create a stream, key it and enable it."""
    ends = created(host, tenant, one, other)
    change(host, SETUP, one, other)
    assert all(end.enable() or end.secure for end in ends) or all(end.secure for end in ends)
    return ends


def change(host: PeerHost, operation: KmOperation, one: int = A, other: int = B) -> None:
    """Take all turns of an operation on keys."""
    numbers = {host.spdm_id(number): number for number in (one, other)}
    turn = host.spdm_id(one)
    while turn:
        turn = host.turn(numbers[turn], operation).require("KM").next_spdm_id


def gone(host: PeerHost, ends: list[DeviceStream], number: int = A) -> None:
    for end in ends:
        end.clear_peer()
    host.delete(ID, number)


# -- streams


def creating(host: PeerHost) -> None:
    private = next(leaf.hpa for _, leaf in host.module.records.tvms[tenant_of(host)].sept.leaves())
    window = host.vmm.bus.windows[host.pfs[A].bridge]
    for changes in (
        {"peer_spdm_id": host.spdm_id(A)},
        {"stream_id": 256},
        {"memory": AddressRange(window.start + 4096, 1 << 20)},
        {"memory": host.vmm.bus.windows[host.pfs[B].bridge]},
        {"memory": AddressRange(0, 1 << 20)},
        {"spdm_id": 99},
    ):
        refused(host, S.OPERAND_INVALID, lambda c=changes: host.stream(**c))  # type: ignore[misc]
    refused(host, S.PAGE_METADATA_INCORRECT, lambda: host.stream(ID, pages=(private,)))
    refused(host, S.OPERAND_BUSY, lambda: host.stream(1))
    host.stream(ID).require("CREATE")
    refused(host, S.OPERAND_BUSY, lambda: host.stream(ID + 1))
    refused(host, S.OPERAND_BUSY, lambda: host.stream(ID, A, C))


def tenant_of(host: PeerHost) -> int:
    return Tenant(host, ()).guest.machine.tdr


def keying(host: PeerHost) -> None:
    host.stream(ID).require("CREATE")
    delete = p.TdhP2pStreamDelete(spdm_id=host.spdm_id(A), stream_id=ID)
    refused(host, S.OP_STATE_INCORRECT, lambda: host.module.tdh_p2p_stream_delete(delete))
    refused(host, S.OPERAND_INVALID, lambda: host.km(A, SETUP, ID + 1))
    unknown = {"spdm_id": host.spdm_id(A), "stream_id": ID + 1}
    refused(host, S.OPERAND_INVALID, lambda: host.module.tdh_p2p_stream_block(p.TdhP2pStreamBlock(**unknown)))
    refused(host, S.OPERAND_INVALID, lambda: host.module.tdh_p2p_stream_delete(p.TdhP2pStreamDelete(**unknown)))
    refused(host, S.OPERAND_INVALID, lambda: host.km(B, SETUP))
    refused(host, S.OPERAND_INVALID, lambda: host.km(A, REFRESH))
    refused(host, S.OPERAND_INVALID, lambda: host.km(A, SETUP, response=b"nobody asked"))
    beat = d.TdhSpdmMng(spdm_id=host.spdm_id(A), operation=SpdmOperation.HEARTBEAT)
    with mock.patch.object(Requester, "start", side_effect=Misuse("the connection cannot do this")):
        assert host.km(A, SETUP).status is S.SPDM_FAILED
    assert host.km(A, SETUP).status is S.IDE_STREAM_BLOCKED, "a set-up that fails half-way is not gone on with"
    host.delete()
    host.stream(ID).require("CREATE")
    mailbox = host.vmm.pci_tsm.connections[host.pfs[A].address].mailbox
    asked = host.module.tdh_spdm_mng(beat, host.now())
    refused(host, S.OPERAND_BUSY, lambda: host.km(A, SETUP))
    answer = dataclasses.replace(beat, response=mailbox.courier(asked.data_object, host.now()))
    host.module.tdh_spdm_mng(answer, host.now()).require("HEARTBEAT")
    # The device takes no key for a Stream ID that none of its register blocks has.
    assert host.turn(A, SETUP).status is S.IDE_KM_FAILED
    host.delete()
    host.stream(ID).require("CREATE")
    end = DeviceStream.free(host.pfs[A], ID)
    end.associate_peer(requesters_of(host.pfs[B]), host.vmm.bus.windows[host.pfs[B].bridge])
    with mock.patch.object(host.module.records, "entropy", return_value=b""):
        assert host.turn(A, SETUP).status is S.RND_NO_ENTROPY
    end.clear_peer()


def a_refresh_that_fails_before_it_changes_over(host: PeerHost) -> None:
    tenant = Tenant(host)
    ends = keyed(host, tenant)
    with mock.patch.object(host.module.records, "entropy", return_value=b""):
        assert host.turn(A, REFRESH).status is S.RND_NO_ENTROPY
    change(host, REFRESH)
    assert all(end.secure for end in ends)
    gone(host, ends)


# -- pairs


def allowing(host: PeerHost) -> None:
    one, other = Tenant(host, (A,)), Tenant(host, (B,))
    one.vfs[B], one.interfaces[B] = other.vfs[B], other.interfaces[B]
    refused(host, S.TDI_NOT_PRESENT, one.allow)
    pair = one.pair()
    refused(host, S.TDI_NOT_PRESENT, lambda: one.tsm.tdg_p2p_read(p.TdgP2pRead(**pair)))
    refused(host, S.TDI_NOT_PRESENT, lambda: one.tsm.tdg_p2p_revoke(p.TdgP2pRevoke(**pair)))
    itself = {"function_id": pair["function_id"], "peer_function_id": pair["function_id"]}
    refused(host, S.OPERAND_INVALID, lambda: one.tsm.tdg_p2p_read(p.TdgP2pRead(**itself)))
    refused(host, S.OPERAND_INVALID, lambda: one.tsm.tdg_p2p_revoke(p.TdgP2pRevoke(**itself)))
    # Both TVMs' devices mixed: the VMM wants to bind what nobody has allowed.
    host.stream(ID).require("CREATE")
    refused(host, S.P2P_NOT_ALLOWED, one.bind)
    refused(host, S.P2P_NOT_ALLOWED, one.unbind)


def allowing_what_does_not_run(host: PeerHost) -> None:
    tenant = Tenant(host, run=False)
    now = host.now
    for number in (A, B):
        tenant.interfaces[number].lock(now())
    refused(host, S.DEVIF_TDISP_INVALID_STATE, tenant.allow)
    refused(host, S.DEVIF_BIND_SESSION_MISMATCH, lambda: tenant.allow(peer_bind_session_id=1 << 20))
    refused(host, S.OPERAND_INVALID, lambda: tenant.allow(function_id=0))
    refused(host, S.OPERAND_INVALID, lambda: tenant.invalidate_at(0))
    refused(host, S.TDI_NOT_PRESENT, lambda: tenant.invalidate_at(host.pfs[C].function_id))
    unknown = {"function_id": host.pfs[C].function_id, "peer_function_id": tenant.vfs[A].function_id}
    refused(host, S.TDI_NOT_PRESENT, lambda: host.module.tdh_p2p_unbind(p.TdhP2pUnbind(**unknown), now()))
    refused(host, S.TDI_NOT_PRESENT, lambda: host.module.tdh_p2p_bind(p.TdhP2pBind(**unknown, stream_id=ID), now()))
    unknown["function_id"] = 0
    refused(host, S.OPERAND_INVALID, lambda: host.module.tdh_p2p_unbind(p.TdhP2pUnbind(**unknown), now()))


def locked_without_peer_to_peer(host: PeerHost) -> None:
    """The VMM locks without BIND_P2P: the TVM's policy does not accept that, and the TSM allows no pair."""
    tenant = Tenant(host, run=False)
    for number in (A, B):
        host.vmm.pci_tsm.bind(tenant.vfs[number], tenant.guest.machine.tdr, host.now())
        function = tenant.vfs[number]
        host.vmm.pci_tsm.guest_req(function, DevifOperation.LOCK, host.now(), LockParameters(1))
    locks = [host.module.records.devifs[tenant.vfs[number].function_id].bind_session_id for number in (A, B)]
    refused(
        host,
        S.DEVIF_TDISP_INVALID_STATE,
        lambda: tenant.allow(bind_session_id=locks[A], peer_bind_session_id=locks[B]),
    )
    for number, wrong in ((A, LockParameters(1, 0, 5)), (B, LockParameters(1 << 2))):
        call = d.TdhDevifRequest(function_id=tenant.vfs[number].function_id, operation=DevifOperation.LOCK, lock=wrong)
        host.vmm.pci_tsm.guest_req(tenant.vfs[number], DevifOperation.STOP, host.now())
        refused(host, S.OPERAND_INVALID, lambda c=call: host.module.tdh_devif_request(c, host.now()))  # type: ignore[misc]


def validated_but_not_started(host: PeerHost) -> None:
    tenant = Tenant(host, run=False)
    for number, interface in tenant.interfaces.items():
        platform = host.platform
        interface.lock(host.now())
        verifier = platform.verifier(tenant.guest.tvm.entropy, platform.devices[number])
        interface.attest(verifier, TRUSTED_REGISTERS, host.now())
        assert interface.evidence is not None
        lock, key = interface.bind_session_id, public_key_hash(interface.evidence)
        validate = g.TdgDevifValidate(function_id=interface.function_id, bind_session_id=lock, public_key_hash=key)
        tenant.tsm.tdg_devif_validate(validate).require("VALIDATE")
    refused(host, S.DEVIF_TDISP_INVALID_STATE, tenant.allow)


def running_without_peer_to_peer(host: PeerHost) -> None:
    """Both run, and their TVM wants it so: but the VMM has locked them as TDX Connect does."""
    flags, profile = host.vmm.lock_flags, host.platform.profile
    host.vmm.lock_flags, host.platform.profile = LockFlags.NO_FW_UPDATE, Profile.TDX
    try:
        refused(host, S.DEVIF_TDISP_INVALID_STATE, Tenant(host).allow)
    finally:
        host.vmm.lock_flags, host.platform.profile = flags, profile


def binding(host: PeerHost) -> None:
    tenant = Tenant(host, (A, B, C))
    refused(host, S.P2P_NOT_ALLOWED, tenant.bind)
    tenant.allow().require("ALLOW")
    refused(host, S.OPERAND_INVALID, tenant.bind)
    ends = created(host, tenant)
    refused(host, S.IDE_STREAM_NOT_READY, tenant.bind)
    host.turn(A, SETUP).require("KM")
    refused(host, S.OPERAND_BUSY, tenant.bind)
    for number in (B, A, B, A, B):
        host.turn(number, SETUP).require("KM")
    # The keys are there, but the VMM has not enabled the ends.
    assert tenant.bind().status is S.P2P_STREAM_MISMATCH
    for end in ends:
        end.enable()
    tenant.bind().require("BIND")
    refused(host, S.OPERAND_BUSY, tenant.bind)
    assert tenant.info() == p.P2pInfo(allowed=True, ends=1, active=False)
    with pytest.raises(DmaError):
        tenant.bus(A).translate(tenant.inbox(B), 4, write=True)
    assert tenant.tdi(A).state is InterfaceState.ERROR, "one bound end is not enough"
    # Another stream of the same devices is not theirs either.
    block = p.TdhP2pStreamBlock(spdm_id=host.spdm_id(A), stream_id=ID)
    host.module.tdh_p2p_stream_block(block).require("BLOCK")
    refused(host, S.IDE_STREAM_BLOCKED, lambda: tenant.bind(B, A))
    delete = p.TdhP2pStreamDelete(spdm_id=host.spdm_id(A), stream_id=ID)
    refused(host, S.IDE_STREAM_IN_USE, lambda: host.module.tdh_p2p_stream_delete(delete))
    tenant.unbind().status  # noqa: B018
    host.vmm.pci_tsm.guest_req(tenant.vfs[A], DevifOperation.STATE, host.now())
    gone(host, ends)


def a_stream_between_others(host: PeerHost) -> None:
    tenant = Tenant(host)
    tenant.allow().require("ALLOW")
    nothing = AddressRange(0, 0)
    host.stream(ID, A, C, memory=nothing, peer_memory=nothing).require("CREATE")
    refused(host, S.P2P_STREAM_MISMATCH, tenant.bind)


def an_association_beyond_what_is_accepted(host: PeerHost) -> None:
    tenant = Tenant(host)
    tenant.allow().require("ALLOW")
    host.stream(ID).require("CREATE")
    ends = registers(host, tenant)
    for end, partner in zip(ends, (B, A), strict=True):
        pf = host.pfs[partner]
        end.associate_peer(requesters_of(pf), host.vmm.bus.windows[pf.bridge])
    change(host, SETUP)
    for end in ends:
        end.enable()
    refused(host, S.P2P_STREAM_MISMATCH, tenant.bind)
    gone(host, ends)


def streams_that_fail(host: PeerHost) -> None:
    tenant = Tenant(host)
    tenant.allow().require("ALLOW")
    ends = keyed(host, tenant)
    host.platform.devices[B].port.ide.make_insecure(ID, InsecureCause.ORDERED)
    assert tenant.bind().status is S.P2P_STREAM_MISMATCH, "the device says that it is not Secure"
    gone(host, ends)


def exchanges_that_fail(host: PeerHost) -> None:
    tenant = Tenant(host)
    tenant.allow().require("ALLOW")
    ends = keyed(host, tenant)
    start = mock.patch.object(Requester, "start", side_effect=Misuse("the connection cannot do this"))
    with start:
        assert tenant.bind().status is S.SPDM_FAILED
    tenant.bind().require("BIND")
    with start:
        assert tenant.unbind().status is S.SPDM_FAILED
    pair = tenant.pair()
    asked = host.module.tdh_p2p_unbind(p.TdhP2pUnbind(**pair), host.now())
    assert asked.pending
    other = d.TdhSpdmMng(spdm_id=host.spdm_id(A), operation=SpdmOperation.HEARTBEAT)
    refused(host, S.OPERAND_BUSY, lambda: host.module.tdh_spdm_mng(other, host.now()))
    tenant.unbind().require("UNBIND")
    tenant.tdi(B).interface.happen(Event.CONFIG_CHANGED)
    assert tenant.bind(B, A).status is S.DEVIF_TDISP_FAILED, "the device is in ERROR, which the TSM does not know yet"
    assert tenant.unbind(B, A).status is S.DEVIF_TDISP_FAILED
    beat = host.module.tdh_spdm_mng(dataclasses.replace(other, spdm_id=host.spdm_id(B)), host.now())
    refused(host, S.OPERAND_BUSY, lambda: host.module.tdh_p2p_unbind(p.TdhP2pUnbind(**tenant.pair(B, A)), host.now()))
    mailbox = host.vmm.pci_tsm.connections[host.pfs[B].address].mailbox
    answer = mailbox.courier(beat.data_object, host.now())
    done = dataclasses.replace(other, spdm_id=host.spdm_id(B), response=answer)
    host.module.tdh_spdm_mng(done, host.now()).require("HEARTBEAT")
    host.vmm.pci_tsm.guest_req(tenant.vfs[B], DevifOperation.STATE, host.now())
    gone(host, ends)


def another_pair_under_the_same_keys(host: PeerHost) -> None:
    tenant = Tenant(host)
    tenant.allow().require("ALLOW")
    ends = keyed(host, tenant)
    for one, other in ((A, B), (B, A)):
        tenant.bind(one, other).require("BIND")
    tenant.send(A, B)
    second = Tenant(host, vf=1)
    second.allow().require("ALLOW")
    refused(host, S.OPERAND_BUSY, second.bind)
    for one, other in ((A, B), (B, A)):
        tenant.unbind(one, other).require("UNBIND")
    tenant.invalidate().require("INVALIDATE")
    refused(host, S.IDE_STREAM_NEEDS_NEW_KEYS, second.bind)
    change(host, REFRESH)
    second.bind().require("BIND")
    second.unbind().require("UNBIND")
    gone(host, ends)


def sessions_that_are_over() -> PeerHost:
    host = PeerHost(vfs=1)
    tenant = Tenant(host)
    tenant.allow().require("ALLOW")
    ends = keyed(host, tenant)
    spdm_id = host.spdm_id(A)
    over = host.pump(
        A,
        lambda response, at: host.module.tdh_spdm_disconnect(
            d.TdhSpdmDisconnect(spdm_id=spdm_id, response=response), at
        ),
    )
    over.require("TDH.SPDM.DISCONNECT")
    assert not tenant.info().allowed
    assert not host.module.records.peers.streams[0].keyed, "keys die with the session that they came over"
    refused(host, S.SPDM_SESSION_NOT_PRESENT, tenant.bind)
    refused(host, S.SPDM_SESSION_NOT_PRESENT, lambda: host.km(A, REFRESH))
    refused(host, S.IDE_STREAM_IN_USE, lambda: host.module.tdh_spdm_delete(d.TdhSpdmDelete(spdm_id=spdm_id)))
    gone(host, ends)
    refused(host, S.SPDM_SESSION_NOT_PRESENT, lambda: host.stream(ID))
    return host


SCENARIOS: tuple[Callable[[PeerHost], None], ...] = (
    creating,
    keying,
    a_refresh_that_fails_before_it_changes_over,
    allowing,
    allowing_what_does_not_run,
    locked_without_peer_to_peer,
    validated_but_not_started,
    running_without_peer_to_peer,
    binding,
    a_stream_between_others,
    an_association_beyond_what_is_accepted,
    streams_that_fail,
    exchanges_that_fail,
    another_pair_under_the_same_keys,
)
