"""What sealing, copying out, copying in and opening cost beside one copy, measured on this machine (shape S1).

The cipher and the copies are C and assembler here as anywhere, so from some KiB on this says something about hardware: about
this machine's. Buffers are page-aligned, as guest memory is: the speed of a copy can depend on it tenfold.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable

from teeio.costs.shapes import FASTRACK, Claim, bytes_of
from teeio.crypto.aead import NONCE_SIZE, TAG_SIZE, AeadKey
from teeio.crypto.algorithms import Aead
from teeio.crypto.entropy import Entropy

BYTES = 4 << 20
"""Bytes that each measurement works on, in as many messages as they make."""
ROUNDS = 5
MOST_MESSAGES = 2000


def measured_ratio(size: int, entropy: Entropy, cpu_clock: Callable[[], float]) -> float | None:
    """Give the CPU time of both ends of an encrypted bounce to that of a copy; None where the clock shows nothing."""
    private, shared, arrived = (memoryview(mmap.mmap(-1, size + TAG_SIZE)) for _ in range(3))
    private[:size] = entropy(size)
    sealer, opener = (AeadKey(Aead.AES_256_GCM, key) for key in [entropy(32)] * 2)
    count = max(1, min(MOST_MESSAGES, BYTES // size))
    numbers = iter(range(1, 1 << 62))

    def copy() -> None:
        arrived[:size] = private[:size]

    def bounce() -> None:
        nonce = next(numbers).to_bytes(NONCE_SIZE, "big")
        shared[:] = sealer.seal(nonce, private[:size], b"")  # type: ignore[arg-type]
        arrived[:size] = opener.open(nonce, bytes(shared), b"")

    def spent(work: Callable[[], None]) -> float:
        begun = cpu_clock()
        for _ in range(count):
            work()
        return cpu_clock() - begun

    one, both = (min(spent(work) for _ in range(ROUNDS)) for work in (copy, bounce))
    return both / one if one > 0 else None


def claims(sizes: Iterable[int], entropy: Entropy, cpu_clock: Callable[[], float]) -> list[Claim]:
    """Compare the measured ratios with FASTRACK's band."""
    low, high = FASTRACK
    found = []
    for size in sizes:
        ratio = measured_ratio(size, entropy, cpu_clock)
        if ratio is not None:
            what = f"cipher and copies to one copy, {bytes_of(size)}, measured"
            remark = "CPU of this machine"
            found.append(Claim("S1", what, f"{low} to {high}", f"{ratio:.1f}", low <= ratio <= high, remark))
    return found
