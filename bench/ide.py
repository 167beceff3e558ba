"""IDE: what sealing and opening a TLP costs beside the bare cipher.

    PYTHONPATH=src python bench/ide.py [--json]

`openssl speed` gives what the cipher alone does on blocks of the same size; a TLP costs one seal at one port and one open at the other,
with header, prefix, counters, MAC and parsing in Python.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

from figures import Figures, cpu, options

from teeio.crypto.aead import AeadKey
from teeio.crypto.algorithms import Aead
from teeio.pcie.ide import Direction, KeySet, Stream, StreamSettings
from teeio.pcie.tlp import SubStream, memory_write

AIMS = {256: 0.2, 4096: 0.4}
"""Sizes, and what part of the speed of `openssl speed` each of seal and open should keep."""
BATCH = 200
RUNS = 10


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


def work(size: int) -> dict[str, Callable[[], None]]:
    """Give what is measured, each `BATCH` times: with TLPs of `size` bytes of payload, or calls of the cipher alone."""
    near, far = streams()
    tlp = memory_write(0x100, 0, 0x1_0000_0000, bytes(size))
    key, data, header = AeadKey(Aead.AES_256_GCM, bytes(32)), bytes(size), bytes(20)

    def both() -> None:
        for _ in range(BATCH):
            far.receive(near.seal(tlp))
            if near.sync_due:
                far.receive(near.seal_sync(0x8, 0x100))

    def seal() -> None:
        for _ in range(BATCH):
            near.seal(tlp)
            if near.sync_due:
                near.seal_sync(0x8, 0x100)

    def cipher() -> None:
        for number in range(BATCH):
            key.seal(number.to_bytes(12, "big"), data, b"")

    def twice() -> None:
        for number in range(BATCH):
            nonce = number.to_bytes(12, "big")
            key.seal(nonce, data, None)
            key.seal(nonce, data, header)

    return {
        "seal and open": both,
        "seal": seal,
        "AES-256-GCM from Python": cipher,
        "the two calls of the cipher in open": twice,
    }


def main() -> None:
    """Measure; of each time the least of several runs."""
    chosen = options("IDE seal and open beside the cipher alone.")
    figures = Figures("IDE")
    for size, aim in AIMS.items():
        times = []
        for name, batch in work(size).items():
            least = min(cpu(batch, chosen.seconds / RUNS) for _ in range(RUNS))
            times.append(figures.measure(f"{name}, {size} B", least / BATCH * 1e6, "us of CPU"))
        pair, one, bare, calls = times
        figures.ratio(f"seal, to the same cipher called from Python, {size} B", one / bare)
        figures.ratio(f"open, to the same cipher called from Python, {size} B", (pair - one) / bare)
        rate = max(openssl_rate(size) or 0 for _ in range(2))
        if not rate:
            figures.note("`openssl speed` is not there")
            continue
        speed = figures.measure(f"openssl speed aes-256-gcm, {size} B", size / rate * 1e6, "us")
        figures.ratio(f"speed of seal, to openssl speed, {size} B", speed / one, f"at least {aim}")
        figures.ratio(f"speed of open, to openssl speed, {size} B", speed / (pair - one), f"at least {aim}")
        figures.ratio(f"speed of the two calls in open alone, to openssl speed, {size} B", speed / calls)
    figures.show(chosen.json)


if __name__ == "__main__":
    main()
