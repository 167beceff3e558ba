"""Virtual time of a message: what was counted, at the speed of the declared hardware.

Latency is one message on an idle machine, its stages one after the other. Throughput is many messages under way, each
descriptor queuing for the guest's one core, the link's two directions and the device's cipher. Left out: DLLPs (ACK,
flow control), memory bandwidth, and the work of IOMMU and TSM, which a message in steady state does not call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from teeio.costs import hardware as hw
from teeio.costs.events import Process, Resource, Simulation, Use, Wait
from teeio.costs.lanes import Sample

IN_FLIGHT = 32
"""Messages under way when throughput is taken."""
MESSAGES = 8
"""Messages that each of them sends, one after the other."""


_ROUND_TRIPS = 2
"""The fetch of the descriptor, and the read of the data."""
_CROSSINGS = 2 * _ROUND_TRIPS + 2
"""Both ways of these, the doorbell, and the write of the data."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Seconds that one descriptor of a message asks of each stage."""

    before: float
    waiting: float
    down: float
    device: float
    up: float
    after: float
    descriptors: int

    @property
    def cpu(self) -> float:
        """Seconds of the guest's core for the whole message."""
        return self.descriptors * (self.before + self.after)

    @property
    def latency(self) -> float:
        """Seconds that the whole message takes alone."""
        return self.descriptors * (self.before + self.waiting + self.down + self.device + self.up + self.after)


def cipher_seconds(data: float, operations: float) -> float:
    """Give the seconds of a core for `operations` of AES-256-GCM over `data` bytes together."""
    return data / hw.AES_RATE.value + operations * hw.AES_START.value


def demand(sample: Sample) -> Demand:
    """Turn the counts of a message into seconds of hardware, by descriptor."""
    cost, count = sample.cost, max(sample.cost.descriptors, 1)
    sealed = cost.bytes_encrypted + cost.bytes_decrypted
    copied = cost.bytes_copied / 2 / hw.COPY_RATE.value
    outward = cipher_seconds(cost.bytes_encrypted, count if sealed else 0) + copied
    inward = cipher_seconds(cost.bytes_decrypted, count if sealed else 0) + copied
    calls = (cost.exits + cost.halts) * hw.EXIT.value + cost.interrupts * hw.INTERRUPT.value
    crossings = _CROSSINGS * hw.IDE_LATENCY.value if sample.down.ide_tlps else 0.0
    return Demand(
        before=hw.IO_WORK.value + outward / count,
        waiting=_ROUND_TRIPS * hw.ROUND_TRIP.value + crossings,
        down=sample.down.on_link(hw.FRAMING.value) / hw.LINK_RATE.value / count,
        device=sealed / hw.DEVICE_AES_RATE.value / count,
        up=sample.up.on_link(hw.FRAMING.value) / hw.LINK_RATE.value / count,
        after=(inward + calls) / count,
        descriptors=count,
    )


@dataclass(frozen=True, slots=True)
class Timing:
    """A message in virtual time. `throughput` is bytes of payload a second, `cpu` the core's seconds a message."""

    latency: float
    throughput: float
    cpu: float
    busiest: str

    def as_dict(self) -> dict[str, Any]:
        """Give the figures for JSON."""
        return {
            "latency_seconds": self.latency,
            "throughput_bytes_per_second": self.throughput,
            "cpu_seconds": self.cpu,
            "busiest": self.busiest,
        }


class Machine:
    """One run of the clock: streams of messages that share the link and the device; cores and channels as given."""

    def __init__(self) -> None:
        self.simulation = Simulation()
        self.down, self.up = Resource("link down"), Resource("link up")
        self.device = Resource("device's cipher")

    def stream(self, work: Demand, messages: int, core: Resource, channel: Resource | None = None) -> Process:
        """Send messages one after the other; with a `channel` the guest's part of each goes through it alone."""
        guest = channel or core
        for _ in range(messages * work.descriptors):
            yield Use(guest, work.before)
            yield Wait(work.waiting)
            yield Use(self.down, work.down)
            if work.device:
                yield Use(self.device, work.device)
            yield Use(self.up, work.up)
            yield Use(guest, work.after)


def timing(sample: Sample) -> Timing:
    """Time a message alone, and `IN_FLIGHT` of them under way on one core."""
    work, machine, core = demand(sample), Machine(), Resource("guest's core")
    for _ in range(IN_FLIGHT):
        machine.simulation.start(machine.stream(work, MESSAGES, core))
    seconds = machine.simulation.run()
    busiest = max((core, machine.down, machine.up, machine.device), key=lambda one: one.busy)
    return Timing(work.latency, IN_FLIGHT * MESSAGES * sample.cost.payload / seconds, work.cpu, busiest.name)
