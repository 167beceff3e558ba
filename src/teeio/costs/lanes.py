"""Four data paths through the platform, on real bytes: what one message costs by each.

A message of n bytes: the accelerator reads n bytes of the guest's memory and writes n bytes back (COPY), the guest checks
them. Everything is counted where it happens: copies, ciphers and exits in the guest's driver, TLPs on the link, calls
at the trust boundaries. CPU time is the guest's own, by the clock that the caller gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from teeio.abi.operands import PAGE_SIZE
from teeio.accelerator_interface import Operation
from teeio.costs.traffic import LinkMeter, Traffic
from teeio.crypto.aead import NONCE_SIZE, TAG_SIZE, AeadKey
from teeio.crypto.algorithms import Aead
from teeio.device.configuration import Configuration
from teeio.device.models.accelerator import Accelerator
from teeio.errors import Misuse
from teeio.guest.cost import Cost, CostMeter
from teeio.guest.dma import DirectDma, DmaInterface, ProtectedSession
from teeio.guest.driver import TRUSTED_REGISTERS, AcceleratorDriver
from teeio.guest.tvm import MemoryRegion
from teeio.host.vmm.vfio import UnitKind
from teeio.observe import BoundaryCalled, Event
from teeio.platform import Guest, Platform, forked

MAX_PAYLOAD = 256
"""Max_Payload_Size that the host sets: what the device and its root port can."""
SMALLEST, LARGEST = 64, 8 << 20
"""Bytes of a message."""
REPEATED_BYTES = 256 << 10
"""Smaller messages are repeated for their CPU time, up to `MOST_REPEATS` times."""
MOST_REPEATS = 9
_SPARE = 4 << 20
"""Guest memory besides source and result: bounce pool, rings."""


class Lane(Enum):
    """The four data paths."""

    DIRECT = "direct"
    ENCRYPTED = "bounce-encrypted"
    COPIED = "bounce-copy"
    TDISP = "tdisp"

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        return _TITLES[self]

    @property
    def bounces(self) -> bool:
        """Whether data go through bounce buffers."""
        return self in (Lane.ENCRYPTED, Lane.COPIED)


_TITLES = {
    Lane.DIRECT: "a VM without confidentiality: T=0, no IDE, data in shared memory",
    Lane.ENCRYPTED: "bounce buffers, each transfer encrypted by the guest",
    Lane.COPIED: "bounce buffers, payload that the application has encrypted already",
    Lane.TDISP: "an accepted TDI: T=1, IDE, private memory",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One message by one path: its cost to the guest, what crossed the link, calls by callee, wall-clock seconds.

    `device_opened` and `device_sealed` are bytes of payload that the device's own cipher, not IDE's, has worked on.
    """

    lane: Lane
    size: int
    cost: Cost
    down: Traffic
    up: Traffic
    device_opened: int
    device_sealed: int
    calls: dict[str, int]
    wall_seconds: float
    correct: bool

    def per_byte(self) -> dict[str, float]:
        """Give what a byte of payload costs; payload is what the device reads and what it writes."""
        traffic, payload = self.down + self.up, self.cost.payload
        return {
            **self.cost.per_byte(),
            "device_bytes_ciphered": (self.device_opened + self.device_sealed) / payload,
            "exits": self.cost.exits / payload,
            "tlps": traffic.tlps / payload,
            "ide_bytes": traffic.ide_bytes / payload,
            "tlp_bytes": traffic.tlp_bytes / payload,
        }

    def as_dict(self) -> dict[str, Any]:
        """Give the counts for JSON, by actor."""
        cost = self.cost
        return {
            "payload": cost.payload,
            "guest": {
                "copies": cost.copies,
                "bytes_copied": cost.bytes_copied,
                "bytes_encrypted": cost.bytes_encrypted,
                "bytes_decrypted": cost.bytes_decrypted,
                "cpu_seconds": cost.cpu_seconds,
                "exits": cost.exits,
                "halts": cost.halts,
                "interrupts": cost.interrupts,
                "descriptors": cost.descriptors,
            },
            "device": {"bytes_opened": self.device_opened, "bytes_sealed": self.device_sealed},
            "link": {"down": self.down.as_dict(), "up": self.up.as_dict()},
            "calls": self.calls,
            "per_payload_byte": self.per_byte(),
            "wall_seconds": self.wall_seconds,
            "result_correct": self.correct,
        }


def expect_size(size: int) -> None:
    """Raises `Misuse` for a size that is no multiple of 4 from SMALLEST to LARGEST."""
    if not SMALLEST <= size <= LARGEST or size % 4:
        raise Misuse(f"a message of {size} bytes", remedy=f"use multiples of 4 from {SMALLEST} to {LARGEST}")


class Bench:
    """A platform with one guest whose driver works by one path."""

    def __init__(
        self,
        lane: Lane,
        platform: Platform,
        guest: Guest,
        driver: AcceleratorDriver,
        dma: DmaInterface,
        meter: CostMeter,
        accelerator: Accelerator,
        wall_clock: Callable[[], float],
    ) -> None:
        self.lane = lane
        self._accelerator = accelerator
        self._platform = platform
        self._guest = guest
        self._driver = driver
        self._dma = dma
        self._meter = meter
        self._wall_clock = wall_clock
        self._entropy = forked(platform.entropy, "payload")
        self._application = AeadKey(Aead.AES_256_GCM, self._entropy(32))
        self._messages = 0
        self._calls: Counter[str] = Counter()
        self._link = LinkMeter()
        platform.link.tamper = self._link
        platform.listeners.append(self._listen)

    def _listen(self, event: Event) -> None:
        if isinstance(event, BoundaryCalled):
            self._calls[event.callee] += 1

    def measure(self, size: int) -> Sample:
        """Send a message to get warm, then as many as its size allows; give the first, with the least times of all.

        Large ones are sent once. Raises `Misuse` as `expect_size` does.
        """
        expect_size(size)
        source, result = self._allocate(size), self._allocate(size)
        repeats = max(1, min(MOST_REPEATS, REPEATED_BYTES // size))
        warm = 1 if repeats > 1 else 0
        found = [self._send(source, result, size) for _ in range(warm + repeats)]
        for region in (source, result):
            self._guest.tvm.free(region, self._platform.now())
        first, *_ = counted = found[warm:]
        return replace(
            first,
            cost=replace(first.cost, cpu_seconds=min(sample.cost.cpu_seconds for sample in counted)),
            wall_seconds=min(sample.wall_seconds for sample in counted),
            correct=all(sample.correct for sample in found),
        )

    def _allocate(self, size: int) -> MemoryRegion:
        tvm = self._guest.tvm
        return tvm.allocate_shared(size, self._platform.now()) if self.lane is Lane.DIRECT else tvm.allocate(size)

    def _send(self, source: MemoryRegion, result: MemoryRegion, size: int) -> Sample:
        payload, check = self._payload(size)
        source.write(0, payload)
        now, before = self._platform.now(), self._meter.total
        self._calls.clear()
        self._link.take()
        device = self._accelerator
        opened, sealed = device.opened, device.sealed
        begun = self._wall_clock()
        self._driver.run(Operation.COPY, source.gpa, size, result.gpa, now)
        wall_seconds = self._wall_clock() - begun
        down, up = self._link.take()
        cost = self._meter.total - before
        return Sample(
            self.lane,
            size,
            cost,
            down,
            up,
            device.opened - opened,
            device.sealed - sealed,
            dict(self._calls),
            wall_seconds,
            check(result.read(0, size)),
        )

    def _payload(self, size: int) -> tuple[bytes, Callable[[bytes], bool]]:
        """Give a message and the check of what comes back; what an application seals must open again."""
        if self.lane is not Lane.COPIED:
            data = self._entropy(size)
            return data, lambda found: found == data
        self._messages += 1
        nonce, plain = self._messages.to_bytes(NONCE_SIZE, "big"), self._entropy(size - TAG_SIZE)
        sealed = self._application.seal(nonce, plain, b"")
        return sealed, lambda found: self._application.open(nonce, found, b"") == plain

    def close(self) -> None:
        """Remove the driver and give back its memory."""
        self._driver.remove(self._platform.now())
        self._dma.close(self._platform.now())


@contextmanager
def prepared(
    lane: Lane,
    *,
    largest: int = LARGEST,
    cpu_clock: Callable[[], float],
    wall_clock: Callable[[], float],
    seed: int = 1,
) -> Iterator[Bench]:
    """Set up a path on a platform of its own, for messages of up to `largest` bytes; clocks give seconds."""
    platform = Platform.assemble(seed=seed, configuration=Configuration(vfs=1))
    vmm, meter = platform.vmm, CostMeter(cpu_clock)
    (pf,) = vmm.bus.enumerate()
    vmm.bus.set_max_payload(pf, MAX_PAYLOAD)
    (vf,) = vmm.bus.enable_vfs(pf, 1)
    if lane is Lane.TDISP:
        vmm.pci_tsm.connect(pf, platform.now())
    memory_size = 2 * -(-largest // PAGE_SIZE) * PAGE_SIZE + _SPARE
    guest = platform.launch("guest", vmm.vfio.unit(UnitKind.VF, vf.address), memory_size=memory_size)
    if lane is Lane.TDISP:
        interface = guest.interface()
        interface.bring_up(guest.verifier, TRUSTED_REGISTERS, platform.now())
        driver, dma = guest.driver(interface.function, meter, interface=interface)
    else:
        (function,) = guest.functions()
        session = None
        if lane is Lane.ENCRYPTED:
            key = forked(platform.entropy, "driver session")(32)
            platform.use_session_key(vf.address, key)
            session = ProtectedSession(key)
        direct = DirectDma(guest.tvm) if lane is Lane.DIRECT else None
        driver, dma = guest.driver(function, meter, session=session, dma=direct)
    bed = Bench(lane, platform, guest, driver, dma, meter, platform.accelerator(vf.address), wall_clock)
    try:
        yield bed
    finally:
        bed.close()
