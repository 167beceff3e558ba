"""What is given out and must come back: everything that a life of a device takes, counted where it is kept.

Each row of `ACCOUNTS` is one thing that can leak, and the one place that knows how many there are. On a platform whose
functions are enumerated and on which nothing is connected every count is zero, and so it must be again after everything
is taken down.

Left out are what a platform never gets back: keys that the ports remember so as to refuse them, tags in quarantine until
the link is reset, the addresses of BARs, the log of the IOMMU's faults; the numbers of sessions, contexts and binds,
which only ever grow; the one SPDM connection of a mailbox, which GET_VERSION begins anew; and what is a TVM's own, such as
its verifier's nonces, as it ends with the TVM.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from teeio.abi.tdcalls import NO_BIND_SESSION
from teeio.device.device import Device
from teeio.errors import Misuse
from teeio.host.memory import FREE, SHARED, TSM
from teeio.host.tdx.tpa import Agent
from teeio.pcie.capabilities.doe import DoeCapability
from teeio.pcie.ide import Direction, KeySet
from teeio.pcie.ide_key import SlotState
from teeio.pcie.ide_port import IdePort
from teeio.pcie.port import Port
from teeio.pcie.tlp import SubStream
from teeio.platform import Platform
from teeio.spdm.responder import Responder
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


def _slots(port: IdePort) -> Iterator[SlotState]:
    """Give the state of each key slot of all streams that have a Stream ID."""
    named = {block.field("stream_id") for block in port.capability.streams} if port.capability else set()
    for stream_id, key_set, way, sub_stream in product(named, KeySet, Direction, SubStream):
        yield port.slot_state(stream_id, key_set, way, sub_stream)


def _keys(ports: Iterable[Port]) -> int:
    return sum(state is not SlotState.EMPTY for port in ports for state in _slots(port.ide))


def _unspent(ports: Iterable[Port]) -> int:
    return sum(state is SlotState.PROGRAMMED for port in ports for state in _slots(port.ide))


def _ports(platform: Platform) -> Iterator[Port]:
    """Give the ports at the devices' ends of their links."""
    return (device.port for device in platform.devices)


def _mailboxes(platform: Platform) -> Iterator[Responder]:
    return (one for device in platform.devices for one in device.connections.responders.values())


def _objects(device: Device) -> int:
    """Count the data objects in a DOE mailbox: one written, one to be read, or what has failed."""
    status = DoeCapability.STATUS
    return sum(device.mailbox.capability.get(status, field) for field in ("busy", "error", "ready"))


def _used_blocks(platform: Platform) -> int:
    blocks = (block for device in platform.devices for block in device.streams.streams)
    return sum(bool(block.field("enable")) or block.rid_range() is not None for block in blocks)


def _pages(platform: Platform, *owners: int) -> int:
    counts = platform.memory.accounting()
    return sum(counts.get(owner, 0) for owner in owners)


def _cached(platform: Platform) -> int:
    units = [iommu.trusted for iommu in platform.root_complex.iommus.values()]
    return sum(len(unit.contexts) + len(unit.pasids) + len(unit.iotlb) for unit in units)


_VMM, _TSM, _DEVICE = "VMM", "TSM", "device"

IN_ERROR = Account("TDIs in ERROR", _DEVICE, lambda p: sum(one.state is InterfaceState.ERROR for one in _interfaces(p)))
"""A TDI whose session is gone stays in ERROR, scrubbed, until the next owner says STOP over another session (PCIe Base 11.2)."""


def distinct(*accounts: Account) -> tuple[Account, ...]:
    """Give accounts as a table in which each can be told by its name. Raises `Misuse` if two have the same."""
    names = Counter(map(str, accounts))
    twice = [name for name, times in names.items() if times > 1]
    if twice:
        raise Misuse(f"more than one account is called {', '.join(twice)}", remedy="name what each of them counts")
    return accounts


ACCOUNTS = distinct(
    Account("pages that the VMM uses or shares", "memory", lambda p: _pages(p, SHARED)),
    Account("pages of the TSM", "memory", lambda p: _pages(p, TSM)),
    Account("pages of TVMs", "memory", lambda p: sum(p.memory.accounting().values()) - _pages(p, FREE, SHARED, TSM)),
    Account("memory keys of TVMs", "memory", lambda p: len(p.memory.tvm_keys)),
    Account("TVMs", _TSM, lambda p: len(p.module.records.tvms)),
    Account("IOMMUs in TDX mode", _TSM, lambda p: len(p.module.records.iommu_pages)),
    Account(
        "entries of trusted tables", _TSM, lambda p: sum(len(list(t.entries())) for t in p.module.records.dmar.values())
    ),
    Account("cached trusted entries and translations", "IOMMU", _cached),
    Account("invalidations that wait", "IOMMU", lambda p: sum(t.waiting for t in p.module.records.dmar.values())),
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
    Account(
        "leaves of secure EPTs", _TSM, lambda p: sum(len(list(t.sept.leaves())) for t in p.module.records.tvms.values())
    ),
    Account("pages in shared EPTs", _VMM, lambda p: sum(t.shared.mapped for t in p.module.records.tvms.values())),
    Account("P2P streams", _TSM, lambda p: len(p.module.records.peers.streams)),
    Account("pairs that TVMs have allowed", _TSM, lambda p: len(p.module.records.peers.links)),
    Account("interfaces of TVMs", _TSM, lambda p: len(p.module.records.devifs)),
    Account("nonces of locks", _TSM, lambda p: sum(devif.holds_nonce for devif in p.module.records.devifs.values())),
    Account(
        "nonces of verifiers, remembered as used",
        _TSM,
        lambda p: sum(len(d.used_nonces) for d in p.module.records.devifs.values()),
    ),
    Account(
        "bind session ids in force",
        _TSM,
        lambda p: sum(d.bind_session_id != NO_BIND_SESSION for d in p.module.records.devifs.values()),
    ),
    Account(
        "stream blocks claimed", "root port", lambda p: sum(len(u.streams) for u in p.root_complex.key_units.values())
    ),
    Account("IDE keys", "root port", lambda p: _keys(p.root_complex.fabric.ports)),
    Account("IDE keys that wait for K_SET_GO", "root port", lambda p: _unspent(p.root_complex.fabric.ports)),
    Account(
        "requests without completion",
        "root port",
        lambda p: sum(port.requester.outstanding for port in p.root_complex.fabric.ports),
    ),
    Account("stream blocks set up", _DEVICE, _used_blocks),
    Account("IDE keys", _DEVICE, lambda p: _keys(_ports(p))),
    Account("IDE keys that wait for K_SET_GO", _DEVICE, lambda p: _unspent(_ports(p))),
    Account(
        "sessions that own key slots",
        _DEVICE,
        lambda p: sum(device.dsm.ide_km.owner is not None for device in p.devices),
    ),
    Account("requests without completion", _DEVICE, lambda p: sum(port.requester.outstanding for port in _ports(p))),
    Account("data objects in a DOE mailbox", _DEVICE, lambda p: sum(_objects(device) for device in p.devices)),
    Account(
        "messages in chunks under way",
        _DEVICE,
        lambda p: sum(one.large.incoming is not None or one.large.outgoing is not None for one in _mailboxes(p)),
    ),
    Account("peer-to-peer streams bound", _DEVICE, lambda p: sum(len(one.p2p_streams) for one in _interfaces(p))),
    Account(
        "cached translations", _DEVICE, lambda p: sum(len(f.translations) for device in p.devices for f in device.tdis)
    ),
    Account("SPDM sessions", _DEVICE, lambda p: sum(len(one.sessions) for one in _mailboxes(p))),
    Account("nonces of locks", _DEVICE, lambda p: sum(one.holds_nonce for one in _interfaces(p))),
    Account("TDIs locked", _DEVICE, lambda p: sum(one.state.locked for one in _interfaces(p))),
    IN_ERROR,
    Account("connections", _VMM, lambda p: len(p.vmm.pci_tsm.connections)),
    Account("bindings", _VMM, lambda p: sum(len(c.bindings) for c in p.vmm.pci_tsm.connections.values())),
    Account("pairs of interfaces", _VMM, lambda p: len(p.vmm.pci_tsm.peers.peerings)),
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
