"""A hostile VMM makes peer-to-peer calls at random, with real handles.

Nothing undeclared is answered, nothing is changed by a refusal, and no translation leads anywhere but to an interface of
the same TVM that runs and has bound the stream.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from host.tdx.peer_recipes import change, created
from host.tdx.tsm_state import state_of
from peer_scene import A, B, PeerHost, Tenant
from teeio.abi import CALLS, Boundary, Call
from teeio.abi import peer_calls as p
from teeio.abi.operands import DevifOperation, KmOperation
from teeio.abi.statuses import PENDING, Status
from teeio.host.vmm.peers import covering
from teeio.pcie.address import AddressRange
from teeio.tdisp.messages import InterfaceState

ID = 7
ROWS = [row for row in CALLS.values() if row.alias == p.OWN and row.boundary is not Boundary.HYPERCALL]
TAKES_AWAY = frozenset({"TDH.P2P.STREAM.BLOCK", "TDH.P2P.UNBIND", "TDG.P2P.REVOKE"})
"""Calls after which there is less to do: made more seldom than others."""


class Walk:
    """Two TVMs, each with a VF of both devices; the first has a stream with keys."""

    def __init__(self, host: PeerHost, seed: int) -> None:
        self.host, self.chooser = host, random.Random(seed)
        self.tenants = [Tenant(host), Tenant(host, vf=1)]
        self.spare = host.vmm.memory.allocate()
        for tenant in self.tenants:
            tenant.allow().require("ALLOW")
        ends = created(host, self.tenants[0])
        change(host, KmOperation.SETUP)
        for end in ends:
            end.enable()

    def operands(self, row: Call) -> Any:
        """Choose all operands of a call."""
        functions = [tenant.vfs[number].function_id for tenant in self.tenants for number in (A, B)]
        locks = [devif.bind_session_id for devif in self.host.module.records.devifs.values()]
        window = covering(self.tenants[0].binding(A).mapped)
        pools: dict[str, list[Any]] = {
            "function_id": [*functions, *functions, 0],
            "peer_function_id": [*functions, *functions, 0],
            "bind_session_id": [*locks, 0],
            "peer_bind_session_id": [*locks, 0],
            "spdm_id": [self.host.spdm_id(A), self.host.spdm_id(B), 99],
            "peer_spdm_id": [self.host.spdm_id(A), self.host.spdm_id(B)],
            "stream_id": [ID, ID, ID, 1, 9],
            "operation": [*KmOperation, 77],
            "memory": [window, AddressRange(0, 0)],
            "peer_memory": [covering(self.tenants[0].binding(B).mapped), window],
            "pages": [(self.spare,), ()],
            "response": [None, None, b"nobody asked"],
        }
        fields = dataclasses.fields(row.arguments)
        return row.arguments(**{one.name: self.chooser.choice(pools[one.name]) for one in fields})

    def step(self) -> None:
        """Make a call, carry what it wants carried, and look at everything."""
        row = self.chooser.choice(ROWS)
        if row.name in TAKES_AWAY and self.chooser.random() < 0.8:
            return
        module = self.host.module
        target = module if row.boundary is Boundary.SEAMCALL else self.chooser.choice(self.tenants).tsm
        method, call = getattr(target, row.method), self.operands(row)
        before = state_of(module)
        result = method(call, self.host.now()) if row.timed else method(call)
        assert result.status in row.refusals | PENDING | {Status.SUCCESS}, f"{row.name}: {result}"
        if result.status.is_error and not result.pending:
            after = state_of(module)
            assert [what for what in before if before[what] != after[what]] == [], f"{row.name} {call}: {result}"
        for _ in range(40):
            if not result.pending:
                break
            result = method(dataclasses.replace(call, response=self.carry(call, result.data_object)), self.host.now())
        assert not result.pending

    def carry(self, call: Any, data_object: bytes) -> bytes:
        """Take a data object to the device that a call is about."""
        number = A
        if hasattr(call, "spdm_id"):
            number = A if call.spdm_id == self.host.spdm_id(A) else B
        else:
            at_b = {tenant.vfs[B].function_id for tenant in self.tenants}
            number = B if call.function_id in at_b else A
        device = self.host.platform.devices[number]
        return device.responder.respond(data_object, self.host.now()) or b""

    def check(self) -> None:
        """See where translations lead now."""
        for tenant in self.tenants:
            for one, other in ((A, B), (B, A)):
                agent = next(iter(self.host.platform.root_complex.agents.values())).trusted
                assert agent.translator is not None
                stream_id = tenant.binding(one).connection.stream.stream_id
                port = self.host.pfs[one].root_port.requester_id
                gpa = tenant.interfaces[other].ranges[0].gpa
                found = agent.translator.translate(port, tenant.vfs[one].function_id, gpa, False, stream_id)
                if found is not None:
                    assert tenant.tdi(one).state is tenant.tdi(other).state is InterfaceState.RUN
                    assert tenant.tdi(one).interface.p2p_streams == tenant.tdi(other).interface.p2p_streams == {ID}
                    assert found.page * 4096 == tenant.vfs[other].bars[0].address


@pytest.mark.parametrize("seed", range(3))
def test_a_walk_leads_nowhere_else(seed: int) -> None:
    host = PeerHost()
    walk = Walk(host, seed)
    tenant = walk.tenants[0]
    for one, other in ((A, B), (B, A)):
        tenant.bind(one, other).require("BIND")
    walk.check()
    assert tenant.info().active
    for number in range(150):
        walk.step()
        walk.check()
        if number == 75:
            host.vmm.pci_tsm.guest_req(tenant.vfs[A], DevifOperation.STOP, host.now())
    host.check_declared()
