"""Two interfaces of a TVM that exchange data directly: the VMM's part of it (this model's own; calls in `abi.peer_calls`).

Each pair gets a stream of its own between the two devices, made when the TVM asks for it and taken down with it. The TSM
keys it; the VMM writes both ends' registers, carries the exchanges, and sees that translation caches are empty before what
they lead to goes away. A device that does not let itself be unbound is stopped, or its stream to the root port blocked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from teeio.abi import Result, VmmToTsm
from teeio.abi import peer_calls as p
from teeio.abi.operands import KmOperation
from teeio.errors import Incompatible, Misuse, TeeioError
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.page_lender import PageLender
from teeio.host.vmm.stream_registers import DeviceStream
from teeio.host.vmm.teardown import Teardown
from teeio.host.vmm.trusted_mappings import MappedInterface
from teeio.pcie.address import AddressRange
from teeio.pcie.capabilities.ats import AtsCapability
from teeio.pcie.capabilities.ide import MEGABYTE

if TYPE_CHECKING:
    from teeio.host.vmm.pci_tsm import Binding, Connection

MAX_TURNS = 16
"""Turns that a key operation can take at most before the VMM gives it up."""

Quieten = Callable[["Binding", float], None]
"""Stops an interface, or blocks its stream if it cannot be stopped."""


@dataclass(slots=True, eq=False)
class Peering:
    """Two interfaces with the stream between their devices since a time; `ends` are its registers."""

    bindings: tuple[Binding, Binding]
    stream_id: int
    ends: tuple[DeviceStream, DeviceStream]
    since: float
    teardown: Teardown | None = None

    @property
    def connections(self) -> tuple[Connection, Connection]:
        """The two devices."""
        return self.bindings[0].connection, self.bindings[1].connection


class PeerToPeer:
    """All pairs of one host. Public verbs raise `TeeioError`; `bind` undoes what it did before it raises."""

    def __init__(self, tsm: VmmToTsm, lender: PageLender, quieten: Quieten) -> None:
        self._tsm = tsm
        self._lender = lender
        self._quieten = quieten
        self.peerings: list[Peering] = []

    def bind(self, one: Binding, other: Binding, now: float) -> None:
        """Set up a stream and bind both interfaces to it. A pair that has one keeps it."""
        if one.connection is other.connection:
            raise Misuse(f"{one.function.address} and {other.function.address} are of one device")
        if any(set(peering.bindings) == {one, other} for peering in self.peerings):
            return
        stream_id = self._free_stream_id(one.connection, other.connection)
        first = DeviceStream.free(one.connection.dsm, stream_id)
        second = DeviceStream.free(other.connection.dsm, stream_id)
        peering = Peering((one, other), stream_id, (first, second), now)
        with ExitStack() as undo:
            memory = covering(one.mapped), covering(other.mapped)
            self._create(peering, memory)
            undo.callback(self._delete, peering)
            for number, end in enumerate(peering.ends):
                partner = peering.connections[1 - number].dsm
                end.associate_peer(requesters_of(partner), memory[1 - number])
                undo.callback(end.clear_peer)
            self._keys(peering, KmOperation.SETUP, now)
            for end in peering.ends:
                end.enable()
            if not all(end.secure for end in peering.ends):
                raise Incompatible(f"P2P stream {stream_id} did not become Secure at both ends")
            for bound, peer in ((one, other), (other, one)):
                undo.callback(self._unbind, bound, peer, now)
                self._bind(bound, peer, stream_id, now)
            undo.pop_all()
        self.peerings.append(peering)

    def release(self, binding: Binding, now: float, other: Binding | None = None) -> None:
        """Take down the streams of an interface, or only that to `other`. Done again, it goes on where it stopped."""
        for peering in [one for one in self.peerings if binding in one.bindings]:
            if other is None or other in peering.bindings:
                peering.teardown = peering.teardown or Teardown(self._steps(peering, now))
                peering.teardown.run()
                self.peerings.remove(peering)

    def empty_caches(self, tdr: int) -> None:
        """Let the devices of a TVM's pairs forget all translations."""
        for peering in self.peerings:
            for binding in peering.bindings if peering.bindings[0].tdr == tdr else ():
                self._empty_cache(binding, peering.since)

    def refresh_keys(self, binding: Binding, now: float) -> None:
        """Give the streams of an interface new keys while they are in use."""
        for peering in [one for one in self.peerings if binding in one.bindings]:
            self._keys(peering, KmOperation.REFRESH, now)

    # -- the stream

    def _free_stream_id(self, *connections: Connection) -> int:
        """Give a Stream ID that neither device uses; 0 is what registers reset to."""
        used = {connection.stream.stream_id for connection in connections}
        for peering in self.peerings:
            if set(map(id, peering.connections)) & set(map(id, connections)):
                used.add(peering.stream_id)
        return next(stream_id for stream_id in range(1, 256) if stream_id not in used)

    def _create(self, peering: Peering, memory: tuple[AddressRange, AddressRange]) -> None:
        one, other = peering.connections
        self._lender.give(
            lambda pages: self._tsm.tdh_p2p_stream_create(
                p.TdhP2pStreamCreate(
                    spdm_id=one.spdm_id,
                    peer_spdm_id=other.spdm_id,
                    stream_id=peering.stream_id,
                    memory=memory[0],
                    peer_memory=memory[1],
                    pages=pages,
                )
            )
        ).require("TDH.P2P.STREAM.CREATE")

    def _keys(self, peering: Peering, operation: KmOperation, now: float) -> None:
        """Let both ends take their turns until the operation is done."""
        mailboxes = {one.spdm_id: one.mailbox for one in peering.connections}
        turn = peering.connections[0].spdm_id

        def step(response: bytes | None, at: float) -> Result[p.P2pProgress]:
            call = p.TdhP2pStreamKm(spdm_id=turn, stream_id=peering.stream_id, operation=operation, response=response)
            return self._tsm.tdh_p2p_stream_km(call, at)

        for _ in range(MAX_TURNS):
            turn = mailboxes[turn].pump(step, now).require("TDH.P2P.STREAM.KM").next_spdm_id
            if not turn:
                return
        raise Incompatible(f"the keys of P2P stream {peering.stream_id} take more than {MAX_TURNS} turns")

    def _delete(self, peering: Peering) -> None:
        spdm_id, stream_id = peering.connections[0].spdm_id, peering.stream_id
        block = p.TdhP2pStreamBlock(spdm_id=spdm_id, stream_id=stream_id)
        self._tsm.tdh_p2p_stream_block(block).require("TDH.P2P.STREAM.BLOCK")
        deleted = self._tsm.tdh_p2p_stream_delete(p.TdhP2pStreamDelete(spdm_id=spdm_id, stream_id=stream_id))
        deleted.require("TDH.P2P.STREAM.DELETE")
        self._lender.take_back(deleted)

    # -- the pair

    def _bind(self, binding: Binding, peer: Binding, stream_id: int, now: float) -> None:
        def step(response: bytes | None, at: float) -> Result[None]:
            call = p.TdhP2pBind(
                function_id=binding.function_id,
                peer_function_id=peer.function_id,
                stream_id=stream_id,
                response=response,
            )
            return self._tsm.tdh_p2p_bind(call, at)

        binding.connection.mailbox.pump(step, now).require("TDH.P2P.BIND")

    def _unbind(self, binding: Binding, peer: Binding, now: float) -> None:
        """Release the stream from an interface; one whose device does not is stopped for it."""

        def step(response: bytes | None, at: float) -> Result[None]:
            call = p.TdhP2pUnbind(function_id=binding.function_id, peer_function_id=peer.function_id, response=response)
            return self._tsm.tdh_p2p_unbind(call, at)

        try:
            binding.connection.mailbox.pump(step, now).require("TDH.P2P.UNBIND")
        except TeeioError:
            self._quieten(binding, now)
            binding.connection.mailbox.pump(step, now).require("TDH.P2P.UNBIND")

    def _empty_cache(self, binding: Binding, now: float) -> None:
        call = p.TdhP2pInvalidate(function_id=binding.function_id)
        if self._tsm.tdh_p2p_invalidate(call).status.is_error:
            self._quieten(binding, now)
            self._tsm.tdh_p2p_invalidate(call).require("TDH.P2P.INVALIDATE")

    def _steps(self, peering: Peering, now: float) -> Iterator[Callable[[], object]]:
        one, other = peering.bindings
        yield partial(self._unbind, one, other, now)
        yield partial(self._unbind, other, one, now)
        yield partial(self._empty_cache, one, now)
        yield partial(self._empty_cache, other, now)
        yield partial(self._stop_keys, peering, now)
        for end in peering.ends:
            yield end.clear_peer
        yield partial(self._delete, peering)

    def _stop_keys(self, peering: Peering, now: float) -> None:
        """Erase the keys at both ends; a device that cannot be asked loses them with the registers, or its session."""
        with suppress(TeeioError):
            self._keys(peering, KmOperation.STOP, now)


def covering(mapped: MappedInterface) -> AddressRange:
    """Give the whole MiB that hold an interface's private MMIO. Raises `Misuse` if it has none."""
    if not mapped.pages:
        raise Misuse(f"interface {mapped.function_id:#x} has no private MMIO", remedy="let the TVM accept it first")
    start = min(page.mmio for page in mapped.pages.values()) // MEGABYTE * MEGABYTE
    end = max(page.mmio + page.level.size for page in mapped.pages.values())
    return AddressRange(start, -(-end // MEGABYTE) * MEGABYTE - start)


def requesters_of(dsm: PciFunction) -> range:
    """Give the requester ids of a device."""
    return range(dsm.function_id, dsm.last_requester + 1)


def enable_ats(function: PciFunction) -> None:
    """Turn on ATS, which an interface needs before it is locked for peer-to-peer (PCIe Base 11.3.18)."""
    at = function.extended.get(AtsCapability.ID)
    if at is None:
        raise Incompatible(f"{function.address} has no ATS, which peer-to-peer needs")
    function.config.set(AtsCapability.CONTROL, at, enable=1)
