"""Everything that the TSM keeps, as one value that can be compared: what a refused call must leave as it was."""

from __future__ import annotations

import dataclasses
from typing import Any

from teeio.host.tdx.interface import Devif
from teeio.host.tdx.module import TdxModule
from teeio.host.tdx.peer_records import PeerRecords
from teeio.host.tdx.records import IdeStream, SpdmContext, Tvm
from teeio.pcie.capabilities.ide import IdeCapability


def state_of(module: TdxModule) -> dict[str, Any]:
    """Give pages with their owners, TVMs, tables, sessions, streams, interfaces, and the root ports' registers."""
    records = module.records
    return {
        "pages": bytes(records.memory._owners),
        "keys": sorted(records.memory._keys),
        "lent": dict(records.iommu_pages),
        "TVMs": {tdr: _tvm(tvm) for tdr, tvm in records.tvms.items()},
        "contexts": {number: _context(context) for number, context in records.contexts.items()},
        "interfaces": {number: _interface(devif) for number, devif in records.devifs.items()},
        "MMIO": (dict(records.mmio._regions), {at: dataclasses.astuple(e) for at, e in records.mmio._pages.items()}),
        "IOMMUs": {number: _tables(records, number) for number in records.iommus},
        "ports": {number: _registers(unit._port.config.need(IdeCapability)) for number, unit in records.units.items()},
        "peers": _peers(records.peers),
        "numbers": (records.last_spdm_id, records.last_bind_session_id),
    }


def _peers(peers: PeerRecords) -> Any:
    streams = [
        (one.stream_id, one.pages, one.phase, one.key_set, one.change and one.change.done, id(one.user))
        for one in peers.streams
    ]
    links = {
        pair: (one.locks, one.allowed, id(one.stream), *map(frozenset, (one.asked, one.bound)))
        for pair, one in peers.links.items()
    }
    return streams, links


def _tvm(tvm: Tvm) -> Any:
    sept = tvm.sept
    leaves = {(gpa, leaf.level): (leaf.hpa, leaf.state, leaf.blocked_in) for gpa, leaf in sept.leaves()}
    return tvm.phase, tvm.tdx_connect, sept.epoch, leaves, dict(sept._caches), tvm.shared.trusted_dma


def _context(context: SpdmContext) -> Any:
    agent = context.agent
    session = None if agent.session is None else agent.session.session_id
    streams = {number: _stream(stream) for number, stream in context.streams.items()}
    return context.function_id, context.pages, agent.task, session, agent.evidence, streams


def _stream(stream: IdeStream) -> Any:
    return (
        stream.phase,
        stream.key_set,
        stream.changing_over,
        stream.pages,
        frozenset(stream.had_traffic),
        frozenset(stream.had_mmio.items()),
    )


def _interface(devif: Devif) -> Any:
    fields = {field.name: getattr(devif, field.name) for field in dataclasses.fields(devif)}
    for linked in ("tvm", "stream", "observer"):
        del fields[linked]
    return {**fields, "tdr": devif.tvm.tdr, "used_nonces": frozenset(devif.used_nonces)}


def _tables(records: Any, number: int) -> Any:
    unit, tables = records.iommus[number].trusted, records.dmar[number]
    caches = (list(unit.contexts), list(unit.pasids), dict(unit.iotlb))
    return unit.root_table, dict(unit.second_stages), list(tables.entries()), tables.waiting, caches


def _registers(capability: Any) -> bytes:
    return b"".join(capability.read(at, 4).to_bytes(4, "little") for at in range(0, capability.size, 4))
