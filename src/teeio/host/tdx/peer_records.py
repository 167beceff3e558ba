"""What the module keeps of peer-to-peer: streams between two devices, and pairs of interfaces that a TVM has allowed.

This model's own extension, off unless the TSM has the profile. Nothing here is told of events: whether a pair may exchange
data is worked out anew each time from what holds now - states, locks, sessions, keys - so that whatever is lost, is lost
for the pair in the same moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from teeio.abi.operands import KmOperation
from teeio.abi.statuses import Status
from teeio.abi.tdcalls import NO_BIND_SESSION
from teeio.errors import Reject
from teeio.host.secure_ept import SeptState
from teeio.host.tdx.interface import Devif
from teeio.host.tdx.records import SpdmContext, StreamPhase
from teeio.ide_km.messages import KeySet, KeySlot
from teeio.observe import Observer, StateChanged, ignore
from teeio.pcie.address import AddressRange, Bdf
from teeio.pcie.capabilities.ide import MEGABYTE
from teeio.spdm.state import Session
from teeio.tdisp.messages import InterfaceState, LockFlags

if TYPE_CHECKING:
    from teeio.host.tdx.records import Records


class Turn(Enum):
    """What an operation on keys does at one end in one turn."""

    PROGRAM = "program the new keys"
    RECEIVE = "ready for reception"
    TRANSMIT = "ready for transmission"
    STOP = "erase the old keys"


def _both(*turns: Turn) -> tuple[tuple[int, Turn], ...]:
    return tuple((end, turn) for turn in turns for end in (0, 1))


TURNS: dict[KmOperation, tuple[tuple[int, Turn], ...]] = {
    KmOperation.SETUP: _both(Turn.PROGRAM, Turn.RECEIVE, Turn.TRANSMIT),
    KmOperation.REFRESH: _both(Turn.PROGRAM, Turn.RECEIVE, Turn.TRANSMIT, Turn.STOP),
    KmOperation.STOP: _both(Turn.STOP),
}
"""Who does what in which order: both receive before one transmits under new keys (PCIe Base 6.33.3)."""


@dataclass(slots=True)
class PeerEnd:
    """One end: its device, the MMIO of it that the other end addresses, and the session that brought its keys."""

    context: SpdmContext
    memory: AddressRange
    session: Session | None = None


@dataclass(slots=True)
class KeyChange:
    """An operation on keys under way: how many turns are done, and the keys of `key_set` as the first end has them."""

    operation: KmOperation
    key_set: KeySet
    keys: dict[KeySlot, bytes] = field(default_factory=dict, repr=False)
    done: int = 0

    @property
    def turn(self) -> tuple[int, Turn]:
        """Whose turn it is, and for what."""
        return TURNS[self.operation][self.done]

    @property
    def finished(self) -> bool:
        """Whether all turns are done."""
        return self.done == len(TURNS[self.operation])

    @property
    def changes_over(self) -> bool:
        """Whether some end may use other keys than before."""
        return any(turn is not Turn.PROGRAM for _, turn in TURNS[self.operation][: self.done + 1])


@dataclass(slots=True)
class PeerStream:
    """A stream between two devices. `user` is the pair that was bound last under the keys in use."""

    stream_id: int
    ends: tuple[PeerEnd, PeerEnd]
    pages: tuple[int, ...]
    observer: Observer = ignore
    phase: StreamPhase = StreamPhase.CREATED
    key_set: KeySet = KeySet.K0
    change: KeyChange | None = None
    user: PeerLink | None = None

    def end_of(self, context: SpdmContext) -> int:
        """Give the number of a device's end."""
        return 0 if self.ends[0].context is context else 1

    def joins(self, one: SpdmContext, other: SpdmContext) -> bool:
        """Tell whether these are the two devices."""
        return {id(end.context) for end in self.ends} == {id(one), id(other)}

    def move(self, phase: StreamPhase, cause: str) -> None:
        """Change phase and tell the observer."""
        old, self.phase = self.phase, phase
        if old is not phase:
            self.observer(StateChanged(f"P2P stream {self.stream_id} of the TSM", old.name, phase.name, cause))

    def block(self, cause: str) -> None:
        """Give the stream up, with what is under way."""
        self.change = None
        self.move(StreamPhase.BLOCKED, cause)

    def check_not_blocked(self) -> None:
        """Refuse a blocked stream. Raises `Reject`."""
        if self.phase is StreamPhase.BLOCKED:
            raise Reject(Status.IDE_STREAM_BLOCKED, f"P2P stream {self.stream_id} is blocked")

    @property
    def keyed(self) -> bool:
        """Whether both ends have keys in use, and the sessions that these came over still last (PCIe Base 11.4.5)."""
        lasting = all(end.session is not None and end.context.agent.session is end.session for end in self.ends)
        return self.phase is StreamPhase.READY and lasting


@dataclass(slots=True, eq=False)
class PeerLink:
    """A pair of interfaces that their TVM has allowed, for these two locks.

    `asked` are those whose device was asked to bind the stream and not seen to release it, `bound` those whose device has
    confirmed it.
    """

    devifs: tuple[Devif, Devif]
    locks: tuple[int, int]
    allowed: bool = True
    stream: PeerStream | None = None
    asked: set[int] = field(default_factory=set)
    bound: set[int] = field(default_factory=set)

    def holds(self) -> bool:
        """Tell whether the TVM allows it, and both interfaces run under the locks that it has named."""
        locks = zip(self.devifs, self.locks, strict=True)
        return self.allowed and all(runs_for_peers(devif, lock) for devif, lock in locks)

    def is_for(self, locks: Mapping[int, int]) -> bool:
        """Tell whether these are its locks, by function id."""
        return {devif.function_id: lock for devif, lock in zip(self.devifs, self.locks, strict=True)} == locks

    @property
    def in_use(self) -> bool:
        """Whether an interface is bound, or may be, under a lock that holds."""
        locks = zip(self.devifs, self.locks, strict=True)
        return any(devif.bind_session_id == lock and devif.function_id in self.asked for devif, lock in locks)

    @property
    def unreleased(self) -> set[int]:
        """The interfaces whose device may still have them bound: one forgets it with the lock (PCIe Base 11.3.16).

        Only its own word counts, which CONFIG_UNLOCKED and another lock are. An interface that the TSM has given up may run on.
        """
        locks = zip(self.devifs, self.locks, strict=True)
        return {
            devif.function_id
            for devif, lock in locks
            if devif.function_id in self.asked
            and devif.state is not InterfaceState.CONFIG_UNLOCKED
            and devif.bind_session_id in (lock, NO_BIND_SESSION)
        }

    @property
    def active(self) -> bool:
        """Whether direct access works."""
        return self.holds() and len(self.bound) == len(self.devifs) and self.stream is not None and self.stream.keyed


def runs_for_peers(devif: Devif, lock: int) -> bool:
    """Tell whether an interface runs under this lock, validated, and was locked with BIND_P2P."""
    locked = devif.lock is not None and bool(devif.lock.flags & LockFlags.BIND_P2P)
    return locked and devif.bind_session_id == lock and devif.validated and devif.state is InterfaceState.RUN


def device_tlb(function_id: int) -> str:
    """Name an interface's translation cache, for the secure EPT."""
    return f"device TLB of {Bdf.of(function_id)}"


@dataclass(slots=True)
class PeerRecords:
    """All of it; `offered` says whether the TSM has the profile."""

    offered: bool = False
    streams: list[PeerStream] = field(default_factory=list)
    links: dict[frozenset[int], PeerLink] = field(default_factory=dict)

    def check_offered(self) -> None:
        """Refuse everything without the profile. Raises `Reject`."""
        if not self.offered:
            raise Reject(Status.P2P_NOT_SUPPORTED, "this TSM has no peer-to-peer profile (TDX Connect has no P2P)")

    def of(self, context: SpdmContext) -> Iterator[PeerStream]:
        """Yield a device's streams to other devices."""
        return (stream for stream in self.streams if any(end.context is context for end in stream.ends))

    def stream(self, context: SpdmContext, stream_id: int) -> PeerStream:
        """Look a stream up. Raises `Reject`."""
        found = next((stream for stream in self.of(context) if stream.stream_id == stream_id), None)
        if found is None:
            raise Reject(Status.OPERAND_INVALID, f"the device has no P2P stream {stream_id}")
        return found

    def link(self, one: Devif, other: Devif) -> PeerLink | None:
        """Look up a pair, whatever has become of it; the same interfaces of a TVM, not others at their place."""
        found = self.links.get(frozenset({one.function_id, other.function_id}))
        known = found is not None and {id(devif) for devif in found.devifs} == {id(one), id(other)}
        return found if known else None

    def peers_of(self, devif: Devif) -> Iterator[Devif]:
        """Yield the interfaces that a TVM has ever paired with this one."""
        for link in self.links.values():
            if any(one is devif for one in link.devifs):
                yield from (other for other in link.devifs if other is not devif)

    def forget(self, devif: Devif) -> None:
        """Drop the pairs of an interface that leaves its TVM, and its translation cache: it is quiet by now."""
        self.links = {pair: link for pair, link in self.links.items() if devif.function_id not in pair}
        devif.tvm.sept.leave_cache(device_tlb(devif.function_id))


def addressable(records: Records, devif: Devif) -> frozenset[int]:
    """Give the MiB, by number, in which the TVM has accepted MMIO of an interface.

    Address associations are whole MiB (PCIe Base 7.9.26), so this is as close as they come to it; what else lies there
    has no translation, and its owner takes no T=1 on a stream that it has not bound.
    """
    accepted = (leaf for leaf in records.mmio_mappings(devif) if leaf.state is SeptState.MMIO_MAPPED)
    return frozenset(
        number
        for leaf in accepted
        for number in range(leaf.hpa // MEGABYTE, (leaf.hpa + leaf.level.size - 1) // MEGABYTE + 1)
    )


def megabytes(memory: AddressRange) -> range:
    """Give the MiB of a range, by number; there may be very many."""
    return range(memory.start // MEGABYTE, -(-memory.end // MEGABYTE))
