"""What is given out and must come back: everything that a life of a device takes, counted where it is kept.

Each row of `ACCOUNTS` is one thing that can leak, and the one place that knows how many there are. On a platform whose
functions are enumerated and on which nothing is connected every count is zero, and so it must be again after everything
is taken down. Left out are what a platform never gets back: keys that the ports remember so as to refuse them, the
addresses of BARs, and the log of the IOMMU's faults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from teeio.host.memory import FREE, SHARED, TSM
from teeio.host.tdx.tpa import Agent
from teeio.pcie.ide import Direction, KeySet
from teeio.pcie.ide_key import SlotState
from teeio.pcie.ide_port import IdePort
from teeio.pcie.tlp import SubStream
from teeio.platform import Platform
from teeio.tdisp.interface import Interface
from teeio.tdisp.messages import InterfaceState


@dataclass(frozen=True, slots=True)
class Account:
    """One thing that can leak, where it is kept, and how it is counted."""

    what: str
    where: str
    count: Callable[[Platform], int]

    def __str__(self) -> str:
        return f"{self.what} ({self.where})"


def _agents(platform: Platform) -> Iterator[Agent]:
    return (context.agent for context in platform.module.records.contexts.values())


def _interfaces(platform: Platform) -> Iterator[Interface]:
    return (tdi.interface for device in platform.devices for tdi in device.tdis.values())


def _keys(port: IdePort) -> int:
    """Count the keys of all streams that have a Stream ID."""
    named = {block.field("stream_id") for block in port.capability.streams} if port.capability else set()
    slots = [(key_set, way, sub) for key_set in KeySet for way in Direction for sub in SubStream]
    return sum(port.slot_state(stream_id, *slot) is not SlotState.EMPTY for stream_id in named for slot in slots)


def _used_blocks(platform: Platform) -> int:
    blocks = (block for device in platform.devices for block in device.streams.streams)
    return sum(bool(block.field("enable")) or block.rid_range() is not None for block in blocks)


def _pages(platform: Platform, *owners: int) -> int:
    counts = platform.memory.accounting()
    return sum(counts.get(owner, 0) for owner in owners)


_VMM, _TSM, _DEVICE = "VMM", "TSM", "device"

IN_ERROR = Account("TDIs in ERROR", _DEVICE, lambda p: sum(one.state is InterfaceState.ERROR for one in _interfaces(p)))
"""A TDI whose session is gone stays in ERROR, scrubbed, until the next owner says STOP over another session (PCIe Base 11.2)."""

ACCOUNTS: tuple[Account, ...] = (
    Account("pages that the VMM uses or shares", "memory", lambda p: _pages(p, SHARED)),
    Account("pages of the TSM", "memory", lambda p: _pages(p, TSM)),
    Account("pages of TVMs", "memory", lambda p: sum(p.memory.accounting().values()) - _pages(p, FREE, SHARED, TSM)),
    Account("memory keys of TVMs", "memory", lambda p: len(p.memory.tvm_keys)),
    Account("TVMs", _TSM, lambda p: len(p.module.records.tvms)),
    Account("IOMMUs in TDX mode", _TSM, lambda p: len(p.module.records.iommu_pages)),
    Account("trusted entries", "IOMMU", lambda p: sum(len(i.trusted.entries) for i in p.root_complex.iommus.values())),
    Account("pages for trusted entries", _TSM, lambda p: len(p.module.records.dmar_pages)),
    Account(
        "cached trusted translations",
        "IOMMU",
        lambda p: sum(len(i.trusted.iotlb) for i in p.root_complex.iommus.values()),
    ),
    Account(
        "invalidations that wait", "IOMMU", lambda p: sum(len(i.trusted.queue) for i in p.root_complex.iommus.values())
    ),
    Account(
        "requesters in a domain",
        "IOMMU",
        lambda p: sum(len(i.legacy.requesters) for i in p.root_complex.iommus.values()),
    ),
    Account("MMIO regions with metadata", _TSM, lambda p: len(p.module.records.mmio.regions)),
    Account("MMIO pages of interfaces", _TSM, lambda p: len(p.module.records.mmio.entries)),
    Account("SPDM contexts", _TSM, lambda p: len(p.module.records.contexts)),
    Account("SPDM sessions", _TSM, lambda p: sum(agent.session is not None for agent in _agents(p))),
    Account("exchanges under way", _TSM, lambda p: sum(agent.task is not None for agent in _agents(p))),
    Account("IDE streams", _TSM, lambda p: len(list(p.module.records.streams()))),
    Account("interfaces of TVMs", _TSM, lambda p: len(p.module.records.devifs)),
    Account("nonces of locks", _TSM, lambda p: sum(devif.holds_nonce for devif in p.module.records.devifs.values())),
    Account(
        "stream blocks claimed", "root port", lambda p: sum(len(u.streams) for u in p.root_complex.key_units.values())
    ),
    Account("IDE keys", "root port", lambda p: sum(_keys(port.ide) for port in p.root_complex.fabric.ports)),
    Account("stream blocks set up", _DEVICE, _used_blocks),
    Account("IDE keys", _DEVICE, lambda p: sum(_keys(device.port.ide) for device in p.devices)),
    Account("SPDM sessions", _DEVICE, lambda p: sum(len(device.responder.sessions) for device in p.devices)),
    Account("nonces of locks", _DEVICE, lambda p: sum(one.holds_nonce for one in _interfaces(p))),
    Account("TDIs locked", _DEVICE, lambda p: sum(one.state.locked for one in _interfaces(p))),
    IN_ERROR,
    Account("connections", _VMM, lambda p: len(p.vmm.pci_tsm.connections)),
    Account("bindings", _VMM, lambda p: sum(len(c.bindings) for c in p.vmm.pci_tsm.connections.values())),
    Account("trusted mappings", _VMM, lambda p: p.vmm.pci_tsm.mappings.in_use),
    Account("claims of functions", _VMM, lambda p: len(p.vmm.vfio.claims)),
    Account("TVMs", _VMM, lambda p: len(p.vmm.kvm.machines)),
)
"""Everything that is counted."""


def counts(platform: Platform) -> dict[str, int]:
    """Count everything, by what it is and where it is kept."""
    return {str(account): account.count(platform) for account in ACCOUNTS}


def left(found: Mapping[str, int]) -> dict[str, int]:
    """Give what is not zero."""
    return {what: count for what, count in found.items() if count}
