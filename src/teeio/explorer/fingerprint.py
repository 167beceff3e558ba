"""When two worlds count as one state: everything that what can happen next depends on, without what only numbers it.

Left out are sequence numbers, invocation counters, nonces and keys, whose values no decision depends on, and the absolute
numbers of locks and of TLB epochs: only which of them are equal, or later, matters. Of invocation counters it is whether
both ends of the link have the same.
"""

from __future__ import annotations

from collections.abc import Hashable
from hashlib import sha256
from typing import Any

from teeio.abi.operands import PAGE_SIZE
from teeio.explorer.world import Tenant, World
from teeio.host.dmar_tables import qwords
from teeio.host.secure_ept import SecureEpt
from teeio.host.tdx.interface import Devif
from teeio.pcie.ide import Direction, KeySet
from teeio.pcie.tlp import SubStream
from teeio.scenarios.stage import STREAM_ID
from teeio.spdm.state import SessionPhase


def fingerprint(world: World) -> bytes:
    """Give 16 bytes that are equal for equal states."""
    return sha256(repr(_state(world)).encode()).digest()[:16]


def _state(world: World) -> Hashable:
    locks = _Ranks(
        {devif.bind_session_id for devif in _devifs(world)}
        | {lock for one in world.tenants for lock in (one.attested, one.allowed)}
    )
    return (
        tuple(_tenant(world, tenant, locks) for tenant in world.tenants),
        _link(world),
        _iommu(world),
        _counters(world),
        world.tap.state(),
        world.courier.state(),
        tuple(world.held),
        tuple(sorted(world.witness.accepted)),
        tuple(sorted((page, entry.function_id) for page, entry in world.platform.module.records.mmio._pages.items())),
        world.iommu.legacy.requesters,
    )


class _Ranks:
    """Numbers by their order; 0 stays 0."""

    def __init__(self, numbers: set[int]) -> None:
        self._rank = {number: rank for rank, number in enumerate(sorted(numbers | {0}))}

    def __getitem__(self, number: int) -> int:
        return self._rank[number]


def _devifs(world: World) -> list[Devif]:
    return list(world.platform.module.records.devifs.values())


def _tenant(world: World, tenant: Tenant, locks: _Ranks) -> Hashable:
    records, tdi = world.platform.module.records, tenant.tdi
    tvm = records.tvms.get(tenant.tdr)
    interface = tdi.interface
    devif = records.devifs.get(tenant.function_id)
    connection = world.pci_tsm.connections.get(world.pf.address)
    binding = connection and connection.bindings.get(tenant.vf.address)
    return (
        interface.state.name,
        interface._nonce is not None,
        interface.session is not None,
        tdi.function.header.bus_master,
        sorted((bar, placed.start) for bar, placed in tdi.function.placed().items()),
        tdi._locked_at == tdi.function.placed(),
        locks[tenant.attested],
        locks[tenant.allowed],
        len(tenant.ranges),
        tuple(sorted(tenant.mmio.items())),
        tenant.shared is not None,
        tuple(sorted(tenant.guest.machine.domain._pages.items())),
        tuple(sorted(tenant.guest.machine.shared_ept._pages.items())),
        tuple(sorted(tenant.guest.machine.shared)),
        None if devif is None else _devif(devif, locks),
        None if binding is None else (binding.tdr, len(binding.mapped.pages), binding.teardown is not None),
        None if tvm is None else (tvm.phase.name, _sept(tvm.sept, world)),
        tenant.guest.machine.teardown is not None,
        tenant.vf.claimed_as is not None,
        tenant.vf.address in world.platform.device.present(),
        _wrote(world, tenant),
    )


def _wrote(world: World, tenant: Tenant) -> bool:
    """Tell whether the device holds what the TVM wrote."""
    model: Any = tenant.tdi.function.model
    return tenant.mark[:8] in bytes(model.memory)


def _devif(devif: Devif, locks: _Ranks) -> Hashable:
    request, answer = devif.request, devif.answer
    return (
        devif.tvm.tdr,
        devif.state.name,
        locks[devif.bind_session_id],
        devif.lock is not None,
        devif.validated,
        bool(devif.report_digest),
        (request.operation.name, request.bind_session_id == devif.bind_session_id) if request else None,
        (answer.operation.name, answer.bind_session_id == devif.bind_session_id) if answer else None,
        devif.failed,
        devif.had_traffic,
        devif._nonce is not None,
    )


def _sept(sept: SecureEpt, world: World) -> Hashable:
    memory = world.platform.memory
    leaves = []
    for gpa, leaf in sept.leaves():
        tracked = leaf.blocked_in >= 0 and sept._is_tracked(leaf)
        poisoned = memory.contains(leaf.hpa, 1) and leaf.hpa // PAGE_SIZE in memory._poisoned
        epoch = leaf.blocked_in >= 0 and sept.epoch > leaf.blocked_in
        leaves.append((gpa, leaf.hpa, leaf.state.name, tracked, epoch, poisoned))
    behind = sorted((name, epoch == sept.epoch) for name, epoch in sept._caches.items())
    return tuple(sorted(leaves)), tuple(behind)


def _link(world: World) -> Hashable:
    platform = world.platform
    port = platform.root_complex.fabric.ports[0]
    connection = world.pci_tsm.connections.get(world.pf.address)
    sessions = [session.phase is SessionPhase.ESTABLISHED for session in platform.device.responder.sessions.values()]
    streams = [
        (
            stream.phase.name,
            stream.key_set.name,
            stream.changing_over,
            tuple(sorted(stream.had_traffic)),
            tuple(sorted(stream.had_mmio.items())),
        )
        for stream in platform.module.records.streams()
    ]
    agents = [context.agent.session is not None for context in platform.module.records.contexts.values()]
    ends = [(end.ide.is_secure(STREAM_ID), end.ide.keyed(STREAM_ID)) for end in (port, platform.device.port)]
    registers = [
        block.block.read(register.offset, register.size)
        for block in platform.device.streams.streams
        for register in block.registers()
    ]
    (pf,) = platform.device.pfs
    placed = tuple(sorted((bar, at.start) for bar, at in pf.placed().items()))
    # How an SPDM connection stands decides what the next message of the session gets.
    return (
        tuple(sessions),
        tuple(streams),
        tuple(agents),
        tuple(ends),
        tuple(registers),
        placed,
        platform.link.up,
        connection and connection.teardown is not None,
        platform.device.dsm.ide_km.owner is None,
    )


def _counters(world: World) -> Hashable:
    """Tell by how much each sub-stream's receiver is behind its sender, as something was lost, held or made twice."""
    root = world.platform.root_complex.fabric.ports[0].ide._named(STREAM_ID)
    device = world.platform.device.port.ide._named(STREAM_ID)
    if root is None or device is None:
        return None
    return tuple(
        sender.stream.slot(key_set, Direction.TX, one)._invocation
        - receiver.stream.slot(key_set, Direction.RX, one)._invocation
        for sender, receiver in ((root, device), (device, root))
        for key_set in KeySet
        for one in SubStream
    )


def _iommu(world: World) -> Hashable:
    unit, tables = world.platform.root_complex.iommus[0].trusted, world.platform.module.records.dmar[0]
    entries = [(level.name, requester_id, qwords(entry)) for level, requester_id, entry in world.trusted_entries()]
    contexts = sorted((key, qwords(entry)) for key, entry in unit.contexts.items())
    pasids = sorted((key, qwords(entry)) for key, entry in unit.pasids.items())
    return tuple(entries), tuple(contexts), tuple(pasids), tuple(sorted(unit.iotlb.items())), tables.waiting
