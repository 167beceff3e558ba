"""IDE: what sealing and opening a TLP costs beside the bare cipher.

    PYTHONPATH=src python bench/ide.py [--json]

`openssl speed` gives what the cipher alone does on blocks of the same size; a TLP costs one seal at one port and one open at the other,
with header, prefix, counters, MAC and parsing in Python. What one port sealed is opened by the other after, as two machines would.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import islice
from statistics import quantiles

from figures import Figures, options

from teeio.crypto.aead import AeadKey
from teeio.crypto.algorithms import Aead
from teeio.pcie.ide import Direction, KeySet, Stream, StreamSettings
from teeio.pcie.ide_key import initialization_vector
from teeio.pcie.tlp import SubStream, memory_write

AIMS = {256: 0.2, 4096: 0.4}
"""Sizes, and what part of the speed of `openssl speed` each of seal and open should keep."""
BATCH = 50
BARE = "AES-256-GCM from Python"
CALLS = "the two calls of the cipher in open"
KINDS = 4
"""What `batches` measures in one turn."""


def streams() -> tuple[Stream, Stream]:
    """Make the two ends of a Secure stream."""
    ends = Stream(), Stream()
    for flip, stream in enumerate(ends):
        for direction in Direction:
            for sub_stream in SubStream:
                mine = Direction(1 - direction) if flip else direction
                stream.program(KeySet.K0, mine, sub_stream, bytes([1, direction, sub_stream]) + bytes(29))
        for direction in Direction:
            for sub_stream in SubStream:
                stream.set_go(KeySet.K0, direction, sub_stream)
        stream.enable(StreamSettings(stream_id=5))
        if not stream.secure:
            raise SystemExit("the stream is not Secure")
    return ends


def openssl_rate(size: int) -> float | None:
    """Give what `openssl speed -evp aes-256-gcm` does with blocks of `size`, bytes a second of user time."""
    program = shutil.which("openssl")
    if program is None:
        return None
    command = [program, "speed", "-mr", "-seconds", "1", "-bytes", str(size), "-evp", "aes-256-gcm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("+F:"):
            return float(line.split(":")[-1])
    return None


def batches(size: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Give what is measured, in turn: with `BATCH` TLPs of `size` bytes of payload, or as many calls of the cipher alone."""
    near, far = streams()
    tlp = memory_write(0x100, 0, 0x1_0000_0000, bytes(size))
    key, data, header = AeadKey(Aead.AES_256_GCM, bytes(32)).seal, bytes(size), bytes(20)
    frames: list[bytes] = []

    def seal() -> None:
        for _ in range(BATCH):
            frames.append(near.seal(tlp))
            if near.sync_due:
                frames.append(near.seal_sync(0x8, 0x100))

    def opened() -> None:
        receive = far.receive
        for frame in frames:
            receive(frame)
        frames.clear()

    def cipher() -> None:
        for number in range(BATCH):
            key(initialization_vector(number), data, None)

    def twice() -> None:
        for number in range(BATCH):
            key(initialization_vector(number), data, None)
            key(initialization_vector(number), data, header)

    while True:
        yield from (("seal", seal), ("open", opened), (BARE, cipher), (CALLS, twice))


def cost(size: int, seconds: float) -> dict[str, float]:
    """Give the CPU time of one of each, in us: a tenth of the measurements were less.

    All take turns, so that all see the same states of the machine; the very least is sometimes a flaw of its clock.
    """
    found: dict[str, list[float]] = {}
    turns, end = batches(size), time.process_time() + seconds
    while time.process_time() < end or len(found.get(CALLS, ())) < 2:
        for name, batch in islice(turns, KINDS):
            begun = time.process_time()
            batch()
            found.setdefault(name, []).append((time.process_time() - begun) / BATCH * 1e6)
    return {name: quantiles(times, n=10)[0] for name, times in found.items()}


def main() -> None:
    """Measure; of each time the lowest tenth."""
    chosen = options("IDE seal and open beside the cipher alone.")
    figures = Figures("IDE")
    for size, aim in AIMS.items():
        times = cost(size, 4 * chosen.seconds)
        for name, took in times.items():
            figures.measure(f"{name}, {size} B", took, "us of CPU")
        for name in ("seal", "open"):
            figures.ratio(f"{name}, to the same cipher called from Python, {size} B", times[name] / times[BARE])
        rate = max(openssl_rate(size) or 0 for _ in range(3))
        if not rate:
            figures.note("`openssl speed` is not there")
            continue
        speed = figures.measure(f"openssl speed aes-256-gcm, {size} B", size / rate * 1e6, "us")
        for name in ("seal", "open"):
            figures.ratio(f"speed of {name}, to openssl speed, {size} B", speed / times[name], f"at least {aim}")
        figures.ratio(f"speed of the two calls in open alone, to openssl speed, {size} B", speed / times[CALLS])
    figures.show(chosen.json)


if __name__ == "__main__":
    main()
