"""The published shapes of protected I/O beside what the model gives: where they agree, and where they do not.

What a paper's abstract says is all that is compared; its machine, its x axis and its software are mostly not known. A
claim `holds` if the model gives the published figure or lies in the published band; None where there is no figure to meet.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from teeio.costs import hardware as hw
from teeio.costs import swiotlb
from teeio.costs.events import Resource
from teeio.costs.lanes import Lane, Sample
from teeio.costs.swiotlb import Kind, published
from teeio.costs.timing import Machine, cipher_seconds, demand, timing

Samples: TypeAlias = Mapping[Lane, Mapping[int, Sample]]

FASTRACK = (12.69, 33.53)
"""CPU to GPU communication under confidential computing, times without (arXiv 2410.15240, abstract)."""
FOLIO = 0.06
"""Most that a software path loses against the projected optimum of TEE-I/O (arXiv 2403.03360, abstract)."""
PACKET = 9000
"""The largest packet of a network, a jumbo frame: what is published is of UDP, IPsec and nginx."""
STREAMS = (1, 2, 4, 8)
STREAM_SIZE = 64 << 10
STREAM_MESSAGES = 64


@dataclass(frozen=True, slots=True)
class Claim:
    """One published figure and the model's."""

    shape: str
    what: str
    published: str
    model: str
    holds: bool | None
    remark: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Give the claim for JSON."""
        return asdict(self)


def claims(samples: Samples) -> list[Claim]:
    """Compare all shapes whose paths were measured."""
    found: list[Claim] = []
    if {Lane.DIRECT, Lane.ENCRYPTED} <= samples.keys():
        found += fastrack(samples)
    found += one_lock()
    if {Lane.ENCRYPTED, Lane.TDISP} <= samples.keys():
        found += serialized(samples)
    if {Lane.COPIED, Lane.TDISP} <= samples.keys():
        found += folio(samples)
    return found


# -- S1: the ratio by size


def ratios(samples: Samples) -> dict[int, float]:
    """Give the latency of encrypted bounce buffers to that of direct DMA, by size."""
    direct, encrypted = samples[Lane.DIRECT], samples[Lane.ENCRYPTED]
    return {n: demand(encrypted[n]).latency / demand(direct[n]).latency for n in sorted(direct.keys() & encrypted)}


def fastrack(samples: Samples) -> list[Claim]:
    """Compare the ratio by size with FASTRACK's band."""
    low, high = FASTRACK
    band = f"{low} to {high}"
    found = []
    for size in sorted(samples[Lane.DIRECT]):
        bare = cipher_to_copy(size)
        what = f"cipher and copies to one copy, {bytes_of(size)}, declared"
        found.append(Claim("S1", what, band, f"{bare:.2f}", low <= bare <= high, "declared hardware, no fixed costs"))
    for size, ratio in ratios(samples).items():
        inside = low <= ratio <= high
        remark = "" if inside else "fixed costs, the same by both paths, dominate" if ratio < low else "above the band"
        found.append(Claim("S1", f"encrypted bounce to direct, {bytes_of(size)}", band, f"{ratio:.2f}", inside, remark))
    return found


def cipher_to_copy(size: int) -> float:
    """Give seal, copy out, copy in and open to one copy by the declared hardware, without driver, device and link."""
    copy = size / hw.COPY_RATE.value
    return (cipher_seconds(2 * size, 2) + 2 * copy) / copy


# -- S2: one lock


def one_lock() -> list[Claim]:
    """Compare one swiotlb lock and per-queue areas with Gao's table."""
    found = []
    for kind, areas in itertools.product(Kind, (False, True)):
        what = f"{'areas' if areas else 'one lock'}: {{}}, {kind.name.lower()}"
        one, four = (published(kind, jobs, areas=areas) for jobs in (1, 4))
        single, several = (swiotlb.play(kind, jobs, areas=areas) for jobs in (1, 4))
        remark = "constants are fitted to both rows" if four.fitted else "predicted from the reads"
        ratios = four.kiops / one.kiops, several.kiops / single.kiops
        found.append(_near("S2", what.format("4 jobs to 1"), *ratios, 0.02, remark))
        found.append(_near("S2", what.format("guest CPU of 4 jobs, %"), four.cpu, several.cpu, 0.05, "predicted"))
    return found


# -- S3: a toll and a serial channel


def affine(points: Mapping[int, float]) -> tuple[float, float, float]:
    """Fit t(n) = toll + n / rate to the latencies, by relative error; give toll, rate and the largest relative error."""
    weights = {n: 1 / t**2 for n, t in points.items()}
    w = sum(weights.values())
    wn = sum(weight * n for n, weight in weights.items())
    wnn = sum(weight * n * n for n, weight in weights.items())
    wt = sum(weight * points[n] for n, weight in weights.items())
    wnt = sum(weight * n * points[n] for n, weight in weights.items())
    slope = (w * wnt - wn * wt) / (w * wnn - wn * wn)
    toll = (wt - slope * wn) / w
    return toll, 1 / slope, max(abs(toll + slope * n - t) / t for n, t in points.items())


def concurrency(sample: Sample, streams: Sequence[int] = STREAMS) -> dict[int, float]:
    """Give what k streams at once carry, times one stream; bounce paths share one secure channel, others nothing."""
    return {k: _rate(sample, k) / _rate(sample, 1) for k in streams}


def _rate(sample: Sample, streams: int) -> float:
    machine = Machine()
    channel = Resource("secure channel") if sample.lane.bounces else None
    for number in range(streams):
        core = Resource(f"core {number}")
        machine.simulation.start(machine.stream(demand(sample), STREAM_MESSAGES, core, channel))
    return streams * STREAM_MESSAGES * sample.cost.payload / machine.simulation.run()


def serialized(samples: Samples) -> list[Claim]:
    """Compare toll, rate and concurrency with the Serialized Bridge."""
    found = []
    for lane in (Lane.ENCRYPTED, Lane.TDISP):
        points = {n: demand(sample).latency for n, sample in samples[lane].items()}
        if len(points) < 3:
            continue
        toll, rate, error = affine(points)
        model = f"{toll * 1e6:.1f} us + n / {rate / 1e9:.2f} GB/s"
        remark = f"affine to {error:.1%}: counts are, and the constants are fixed"
        found.append(Claim("S3", f"t(n) of {lane.value}", "toll + n / BW", model, error < 0.10, remark))
    common = samples[Lane.ENCRYPTED].keys() & samples[Lane.TDISP]
    size = max((n for n in common if n <= STREAM_SIZE), default=None)
    if size is None:
        return found
    bounce, trusted = (concurrency(samples[lane][size]) for lane in (Lane.ENCRYPTED, Lane.TDISP))
    most = max(STREAMS)
    what = f"{most} streams to one, {bytes_of(size)}"
    one_channel = "one channel is how the paper explains it, so this is put in"
    found.append(
        Claim(
            "S3", f"{what}, {Lane.ENCRYPTED.value}", "no gain", f"{bounce[most]:.2f}", bounce[most] < 1.1, one_channel
        )
    )
    gain = f"{trusted[most]:.2f}"
    found.append(Claim("S3", f"{what}, {Lane.TDISP.value}", "no figure", gain, None, "until the link is full"))
    big = max(common)
    bulk = demand(samples[Lane.ENCRYPTED][big]).latency / demand(samples[Lane.TDISP][big]).latency
    what = f"bulk: {Lane.ENCRYPTED.value} to {Lane.TDISP.value}, {bytes_of(big)}"
    remark = "the paper's is a model load with all of its software"
    found.append(Claim("S3", what, "34 (with CC to without)", f"{bulk:.1f}", None, remark))
    return found


# -- FOLIO's objection


def folio(samples: Samples) -> list[Claim]:
    """Compare the copying path with TDISP where the application encrypts anyway, on one core."""
    found = []
    for size in sorted(samples[Lane.COPIED].keys() & samples[Lane.TDISP]):
        copied, trusted = samples[Lane.COPIED][size], samples[Lane.TDISP][size]
        # The application's own encryption, of what goes out and of what comes in, is the same work by both paths.
        application = cipher_seconds(trusted.cost.payload, 2)
        lost = 1 - (application + demand(trusted).cpu) / (application + demand(copied).cpu)
        packet = size <= PACKET
        figure, remark = (f"< {FOLIO:.0%}", "") if packet else ("no figure", "no packet is as large")
        what = f"copying path below TDISP, {bytes_of(size)}"
        found.append(Claim("FOLIO", what, figure, f"{lost:.1%}", lost < FOLIO if packet else None, remark))
    return found


def throughput_gain(samples: Samples) -> dict[Lane, dict[int, float]]:
    """Give the virtual throughput of TDISP to that of each other path, by size."""
    trusted = {n: timing(sample).throughput for n, sample in samples.get(Lane.TDISP, {}).items()}
    return {
        lane: {n: trusted[n] / timing(sample).throughput for n, sample in found.items() if n in trusted}
        for lane, found in samples.items()
        if lane is not Lane.TDISP
    }


def _near(shape: str, what: str, published: float, model: float, tolerance: float, remark: str) -> Claim:
    holds = abs(model - published) <= tolerance * published
    return Claim(shape, what, f"{published:.2f}", f"{model:.2f}", holds, remark)


def bytes_of(size: int) -> str:
    """Write a size for people."""
    for unit, scale in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= scale and size % scale == 0:
            return f"{size // scale} {unit}"
    return f"{size} B"
