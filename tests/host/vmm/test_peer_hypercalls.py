"""Every error that a peer-to-peer hypercall declares happens, and none that it does not declare."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import pytest

from peer_scene import A, B, PeerHost, Tenant
from teeio.abi import CALLS, Result
from teeio.abi import peer_calls as p
from teeio.abi.statuses import HypercallError, Status
from teeio.errors import ErrorResponse, Misuse, TransportError
from teeio.spdm.requester import Requester
from teeio.tdisp import flows
from teeio.tdisp.messages import ErrorCode

E = HypercallError


@pytest.fixture(scope="module")
def _host() -> PeerHost:
    return PeerHost(vfs=1)


@pytest.fixture
def tenant(_host: PeerHost) -> Tenant:
    for machine in list(_host.vmm.kvm.machines.values()):
        _host.vmm.kvm.destroy(machine, _host.now())
    for context in list(_host.module.records.contexts.values()):
        if context.agent.session is None:  # a test has lost it
            pf = next(one for one in _host.pfs if one.function_id == context.function_id)
            _host.vmm.pci_tsm.disconnect(pf, _host.now())
            _host.vmm.pci_tsm.connect(pf, _host.now())
    made = Tenant(_host)
    made.allow().require("TDG.P2P.ALLOW")
    return made


def not_allowed(tenant: Tenant) -> None:
    tenant.tsm.tdg_p2p_revoke(p.TdgP2pRevoke(**tenant.pair())).require("REVOKE")


def unwilling(tenant: Tenant) -> None:
    error = ErrorResponse("the device will not", ErrorCode.UNSPECIFIED)
    mock.patch.object(flows, "bind_p2p_stream", side_effect=error).start()


def without_entropy(tenant: Tenant) -> None:
    """The device is asked for nothing more: the stream has no keys."""
    mock.patch("teeio.ide_km.flows.program_keys", side_effect=ErrorResponse("no", 1)).start()


def impossible(tenant: Tenant) -> None:
    mock.patch.object(Requester, "start", side_effect=Misuse("the connection cannot do this")).start()


def unbound(tenant: Tenant) -> None:
    tenant.interfaces[B].unlock(tenant.host.now())


def lost(tenant: Tenant) -> None:
    def gone(data: bytes, now: float) -> bytes:
        raise TransportError("the link is down")

    tenant.binding(B).connection.mailbox.courier = gone


BINDING: list[tuple[Callable[[Tenant], None], HypercallError]] = [
    (not_allowed, E.MODULE),
    (unwilling, E.TDISP),
    (without_entropy, E.IDE_KM),
    (impossible, E.SPDM),
    (unbound, E.INVALID_STATE),
    (lost, E.DEVICE),
]


@pytest.mark.parametrize(("fault", "error"), BINDING, ids=lambda one: getattr(one, "__name__", one))
def test_what_goes_wrong_is_told_by_its_error(
    tenant: Tenant, fault: Callable[[Tenant], None], error: HypercallError
) -> None:
    mailboxes = [connection.mailbox for connection in tenant.host.vmm.pci_tsm.connections.values()]
    honest = [mailbox.courier for mailbox in mailboxes]
    fault(tenant)
    try:
        result = tenant.ask()
    finally:
        mock.patch.stopall()
        for mailbox, courier in zip(mailboxes, honest, strict=True):
            mailbox.courier = courier
    assert result.error is error, result.reason
    if fault is not lost:
        assert not tenant.host.module.records.peers.streams, "what was begun is undone"


def test_operands_that_name_no_pair(tenant: Tenant) -> None:
    own = tenant.vfs[A].function_id
    for function_id, peer in ((own, 0), (0, own), (own, own)):
        pair = {"function_id": function_id, "peer_function_id": peer}
        now = tenant.host.now()
        assert tenant.vmm.tdcm_p2p_bind(p.TdcmP2pBind(**pair), now).error is E.INVALID_OPERAND
        wanted = E.NONE if function_id == peer else E.INVALID_OPERAND
        assert tenant.vmm.tdcm_p2p_unbind(p.TdcmP2pUnbind(**pair), now).error is wanted


def test_a_stream_that_the_tsm_does_not_give_back(tenant: Tenant) -> None:
    """The VMM has taken the stream down by other ways before."""
    tenant.ask().require("TDCM.P2P.BIND")
    (peering,) = tenant.peers.peerings
    unbind = p.TdcmP2pUnbind(**tenant.pair())
    with mock.patch.object(tenant.host.module, "tdh_p2p_stream_delete") as delete:
        delete.return_value = Result(Status.IDE_STREAM_IN_USE)
        tenant.peers._tsm.__dict__.pop("tdh_p2p_stream_delete", None)
        assert tenant.vmm.tdcm_p2p_unbind(unbind, tenant.host.now()).error is E.MODULE
    assert tenant.peers.peerings == [peering]
    assert tenant.vmm.tdcm_p2p_unbind(unbind, tenant.host.now()).error is E.NONE
    assert tenant.peers.peerings == []


def test_the_cases_are_all_there_are() -> None:
    bind, unbind = CALLS["TDCM.P2P.BIND"], CALLS["TDCM.P2P.UNBIND"]
    assert bind.refusals == {E.INVALID_OPERAND} | {error for _, error in BINDING}
    assert unbind.refusals == {E.INVALID_OPERAND, E.MODULE}
