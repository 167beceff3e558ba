"""What a data path costs the TVM: copies, bytes that its CPU encrypts, CPU time, exits, halts, interrupts.

Only the TVM's own work is charged, whatever else happens in between (the device, the link, the VMM run elsewhere): the
sealing, opening and copying of payload, the writing of descriptors and the reading of completions. Reading plaintext
where it lies is part of the sealing and no copy. Sealing into shared memory is counted as one encryption and one copy,
as the software path of today does both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs of some work. Bytes of `payload` are source and result in the clear, once each.

    `exits` are calls of TSM and VMM, `halts` the times that the processor was given away to wait, `descriptors` the
    pieces of work that the device was given.
    """

    payload: int = 0
    copies: int = 0
    bytes_copied: int = 0
    bytes_encrypted: int = 0
    bytes_decrypted: int = 0
    cpu_seconds: float = 0.0
    exits: int = 0
    halts: int = 0
    interrupts: int = 0
    descriptors: int = 0

    def __sub__(self, earlier: Cost) -> Cost:
        """Give the cost of what happened since `earlier`."""
        return Cost(*(getattr(self, one.name) - getattr(earlier, one.name) for one in fields(self)))

    def per_byte(self) -> dict[str, float]:
        """Give copied bytes, encrypted or decrypted bytes and CPU nanoseconds for each byte of payload."""
        payload = max(self.payload, 1)
        return {
            "bytes_copied": self.bytes_copied / payload,
            "bytes_encrypted": (self.bytes_encrypted + self.bytes_decrypted) / payload,
            "cpu_nanoseconds": self.cpu_seconds * 1e9 / payload,
        }


class CostMeter:
    """Adds up costs. `cpu_clock` gives the seconds of CPU that this thread has used."""

    def __init__(self, cpu_clock: Callable[[], float]) -> None:
        self._cpu_clock = cpu_clock
        self.total = Cost()

    def add(
        self,
        *,
        payload: int = 0,
        copied: int = 0,
        encrypted: int = 0,
        decrypted: int = 0,
        exits: int = 0,
        halts: int = 0,
        interrupts: int = 0,
        descriptors: int = 0,
    ) -> None:
        """Charge work; `copied` bytes are one copy."""
        total = self.total
        self.total = replace(
            total,
            payload=total.payload + payload,
            copies=total.copies + (copied > 0),
            bytes_copied=total.bytes_copied + copied,
            bytes_encrypted=total.bytes_encrypted + encrypted,
            bytes_decrypted=total.bytes_decrypted + decrypted,
            exits=total.exits + exits,
            halts=total.halts + halts,
            interrupts=total.interrupts + interrupts,
            descriptors=total.descriptors + descriptors,
        )

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Charge the CPU time of a block; not to be nested."""
        start = self._cpu_clock()
        try:
            yield
        finally:
            spent = self._cpu_clock() - start
            self.total = replace(self.total, cpu_seconds=self.total.cpu_seconds + spent)
