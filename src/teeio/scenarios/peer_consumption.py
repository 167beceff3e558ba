"""Peer consumption: one device produces what another consumes, for one TVM, in three ways on one platform.

Directly over a bound peer-to-peer stream, over the TVM's private memory with T=1 both ways, and over shared memory as
today, encrypted by the TVM's CPU. Below one switch, on the same bytes, counted where it happens. Direct access is the
model's own profile of the TSM; TDX Connect has the other two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from teeio.accelerator_interface import MEMORY_OFFSET, REGISTER_BAR, Operation
from teeio.device.configuration import Configuration
from teeio.guest.accept import AssignedInterface
from teeio.guest.cost import CostMeter
from teeio.guest.device_memory import DeviceMemoryDma, device_memory
from teeio.guest.dma import ProtectedSession, dma_for
from teeio.guest.driver import TRUSTED_REGISTERS, AcceleratorDriver
from teeio.guest.pci import PciFunction
from teeio.guest.peers import PeerLink
from teeio.host.vmm.bus import PciFunction as HostFunction
from teeio.host.vmm.vfio import UnitKind
from teeio.observe import BoundaryCalled, Event
from teeio.platform import Platform, forked
from teeio.scenarios.journal import Journal
from teeio.scenarios.peer_ways import BLOCK, PAYLOAD, Consumption, Listener, Passage, Way
from teeio.scenarios.trusted_life import no_cpu_clock

MEMORY_SIZE, TVM_MEMORY_SIZE = 8 << 20, 2 << 20
POOL = 256 << 10
"""Bytes of a driver's bounce pool."""
NAMES = ("A", "B")


@dataclass(slots=True)
class Worker:
    """A driver at work on one function, and how it reaches memory."""

    function: PciFunction
    driver: AcceleratorDriver
    dma: DeviceMemoryDma


def configuration() -> Configuration:
    """Give a device with a VF to trust and one to use as today."""
    return Configuration(vfs=2)


class PeerStory:
    """The platform with both devices connected, and a TVM that has a trusted and an untrusted VF of each."""

    def __init__(self, platform: Platform, journal: Journal, cpu_clock: Callable[[], float] | None = None) -> None:
        self.platform = platform
        self.journal = journal
        self.told = Consumption()
        self.meter = CostMeter(cpu_clock or no_cpu_clock)
        self._measured = cpu_clock is not None
        vmm, now = platform.vmm, platform.now
        with journal.step("VMM", "enumerate two devices below one switch, and connect them"):
            self.pfs = vmm.bus.enumerate()
            for pf in self.pfs:
                vmm.bus.enable_vfs(pf, 2)
            self.before = platform.memory.accounting()
            for pf in self.pfs:
                vmm.pci_tsm.connect(pf, now())
        self.guest = platform.launch("TVM", memory_size=TVM_MEMORY_SIZE)
        self.trusted = [self._assign(pf.vfs[0]) for pf in self.pfs]
        self.untrusted = [self._assign(pf.vfs[1]) for pf in self.pfs]
        self.payload = forked(platform.entropy, "payload")(PAYLOAD)
        self.interfaces = [self._bring_up(number) for number in range(len(self.pfs))]
        links = {f"link of {name}": link for name, link in zip(NAMES, platform.links, strict=True)}
        self._listener = Listener(({"uplink": platform.uplink} if platform.uplink else {}) | links)
        self.link = PeerLink(*self.interfaces)

    def _assign(self, vf: HostFunction) -> PciFunction:
        """Give the TVM a VF; give the function that it sees."""
        before = {function.address for function in self.guest.functions()}
        self.platform.vmm.kvm.assign(self.guest.machine, self.platform.vmm.vfio.unit(UnitKind.VF, vf.address))
        return next(one for one in self.guest.functions() if one.address not in before)

    def _bring_up(self, number: int) -> AssignedInterface:
        with self.journal.step(
            "TVM", f"bring up the interface of device {NAMES[number]}: lock, attest, accept"
        ) as step:
            interface = AssignedInterface(self.guest.tvm, self.trusted[number])
            verifier = self.platform.verifier(self.guest.tvm.entropy, self.platform.devices[number])
            verdict = interface.bring_up(verifier, TRUSTED_REGISTERS, self.platform.now())
            step.note = f"{verdict.decision.value}, {len(verdict.results)} rules"
        return interface

    # -- the three ways

    def connect(self) -> None:
        """Let both interfaces exchange data directly."""
        tvm = self.guest.tvm
        with self.journal.step("TVM", "connect the peers: allow, key the stream, bind both") as step:
            exits = tvm.exits
            self.link.connect(self.platform.now())
            step.note = f"{tvm.exits - exits} exits, once; the TSM says active: {'yes' if self.link.active else 'no'}"
        self.told.seen.append(("the TSM vouches for the peers", self.link.active))

    def pass_directly(self) -> None:
        """A writes to B's memory, B works on it there."""
        with self._passing(Way.DIRECT) as workers:
            producer, consumer = workers
            inbox = device_memory(consumer.function)
            producer.dma.peers.append(inbox)
            self._pass(Way.DIRECT, workers, inbox.start)
        uses = self.told.passages[-1].links
        stays = not uses["uplink"].peer_tlps and all(uses[f"link of {name}"].peer_tlps for name in NAMES)
        self.told.seen.append(("the peer-to-peer stream is on both devices' links, and never on the uplink", stays))

    def pass_over_private_memory(self) -> None:
        """A writes to the TVM's memory, B reads it there."""
        with self._passing(Way.PRIVATE) as workers:
            self._pass(Way.PRIVATE, workers, self.guest.tvm.allocate(PAYLOAD).gpa)

    def pass_over_shared_memory(self) -> None:
        """A seals into the bounce pool, the TVM opens and seals anew, B opens."""
        with self._passing(Way.SHARED) as workers:
            self._pass(Way.SHARED, workers, self.guest.tvm.allocate(PAYLOAD).gpa)

    @contextmanager
    def _passing(self, way: Way) -> Iterator[tuple[Worker, Worker]]:
        producer, consumer = (self._worker(way, number) for number in range(len(NAMES)))
        self._produce(producer)
        yield producer, consumer
        for worker in (producer, consumer):
            worker.driver.remove(self.platform.now())
            worker.dma.close(self.platform.now())

    def _worker(self, way: Way, number: int) -> Worker:
        tvm, now = self.guest.tvm, self.platform.now
        interface, session = self.interfaces[number], None
        function = self.trusted[number]
        if way is Way.SHARED:
            # As if agreed in the driver's own SPDM session with the device; how is outside this story.
            key = forked(self.platform.entropy, f"driver session {NAMES[number]}")(32)
            self.platform.use_session_key(self.pfs[number].vfs[1].address, key)
            function, session = self.untrusted[number], ProtectedSession(key)
        accepted = None if session else interface
        inner = dma_for(tvm, accepted, self.meter, now(), session=session, pool_size=POOL)
        dma = DeviceMemoryDma(inner, device_memory(function))
        driver, _ = self.guest.driver(function, self.meter, interface=accepted, dma=dma)
        return Worker(function, driver, dma)

    def _produce(self, producer: Worker) -> None:
        """Let the first device have the payload in its memory; what that costs is not counted."""
        source = self.guest.tvm.allocate(PAYLOAD)
        source.write(0, self.payload)
        outbox = device_memory(producer.function).start
        producer.driver.run(Operation.COPY, source.gpa, PAYLOAD, outbox, self.platform.now())
        self.guest.tvm.free(source, self.platform.now())

    def _pass(self, way: Way, workers: tuple[Worker, Worker], place: int) -> None:
        """Let the payload go from the first device to `place`, and the second work on it there; count all of it."""
        producer, consumer = workers
        tvm, now = self.guest.tvm, self.platform.now
        result = tvm.allocate(sha256().digest_size)
        before = self.meter.total
        streams = self.platform.module.records.peers.streams
        self._listener.begin(self.payload, streams[0].stream_id if streams else None)
        with self.journal.step("TVM", f"A produces, B consumes: {way.title}"):
            producer.driver.run(Operation.COPY, device_memory(producer.function).start, PAYLOAD, place, now())
            consumer.driver.run(Operation.SHA256, place, PAYLOAD, result.gpa, now())
        start = self.payload[: 4 * BLOCK]
        self.told.passages.append(
            Passage(
                way,
                self.meter.total - before,
                self._measured,
                self._listener.end(),
                self._listener.found,
                start in self.platform.vmm.memory.read(0, self.platform.memory.size),
                start in self._device_memory_seen_by_the_vmm(trusted=way is not Way.SHARED),
                result.read(0, sha256().digest_size) == sha256(self.payload).digest(),
            )
        )

    def _device_memory_seen_by_the_vmm(self, *, trusted: bool) -> list[bytes]:
        """Read where the payload lies in the functions' device memory as the VMM does, with T=0."""
        bus = self.platform.vmm.bus.host
        bars = (pf.vfs[0 if trusted else 1].bars[REGISTER_BAR] for pf in self.pfs)
        return [bus.mmio_read(bar.address + MEMORY_OFFSET, 4 * BLOCK) for bar in bars]

    # -- the end

    def stop_the_consumer(self) -> None:
        """Stop B's interface while A runs: nothing of A may lead there any more before B's MMIO goes."""
        worker = self._worker(Way.DIRECT, 0)
        inbox, now = device_memory(self.trusted[1]), self.platform.now
        worker.dma.peers.append(inbox)
        own = device_memory(worker.function).start
        worker.driver.run(Operation.COPY, own, BLOCK, inbox.start, now())
        cache = self.platform.devices[0].tdi(self.pfs[0].vfs[0].address).function.translations
        had = len(cache)
        with self.journal.step("TVM", "stop B while A runs: A forgets B's memory before it is unmapped") as step:
            self.interfaces[1].unlock(now())
        calls = _calls(step.events)
        emptied, unmapped = "TDH.P2P.INVALIDATE", "TDH.MMIO.UNMAP"
        in_order = emptied in calls and unmapped in calls and calls.index(emptied) < calls.index(unmapped)
        self.told.seen += [
            ("A had a translation to B's memory, and has none left", had > 0 and not len(cache)),
            ("A's translation cache was seen empty before B's MMIO was unmapped", in_order),
            ("the TSM vouches for the peers no more", not self.link.active),
        ]
        place = self.guest.tvm.allocate(BLOCK)
        worker.driver.run(Operation.COPY, own, BLOCK, place.gpa, now())
        self.told.seen.append(("A goes on working on the TVM's memory", place.read(0, BLOCK) == self.payload[:BLOCK]))
        worker.driver.remove(now())

    def take_down(self) -> None:
        """Give everything back."""
        platform = self.platform
        with self.journal.step("VMM", "end the TVM, disconnect both devices"):
            platform.shut_down(self.guest)
            for pf in self.pfs:
                platform.vmm.pci_tsm.disconnect(pf, platform.now())
        back = platform.memory.accounting() == self.before and not platform.module.records.peers.streams
        self.told.seen.append(("every page and stream is back", back))


def _calls(events: list[Event]) -> list[str]:
    return [event.name for event in events if isinstance(event, BoundaryCalled) and event.status == "SUCCESS"]


def consume(platform: Platform, journal: Journal, cpu_clock: Callable[[], float] | None = None) -> Consumption:
    """Play the whole story on a fresh platform of `assemble`."""
    story = PeerStory(platform, journal, cpu_clock)
    story.connect()
    story.pass_directly()
    story.pass_over_private_memory()
    story.pass_over_shared_memory()
    story.stop_the_consumer()
    story.take_down()
    return story.told


def assemble(**options: Any) -> Platform:
    """Assemble the story's platform: two devices of a make below one switch, and a TSM with the peer-to-peer profile."""
    first = configuration()
    return Platform.assemble(
        configuration=first,
        others=[first.another(1)],
        memory_size=MEMORY_SIZE,
        switch=True,
        peer_to_peer=True,
        **options,
    )
