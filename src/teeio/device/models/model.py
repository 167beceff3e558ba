"""What a function of a device must offer, and what it is given to reach the outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from teeio.errors import TransportError
from teeio.pcie.capabilities.bar import Bar
from teeio.tdisp.messages import RangeAttributes


class DmaError(TransportError):
    """A function's memory request did not succeed: not allowed now, refused, or never answered."""


@dataclass(frozen=True, slots=True)
class Region:
    """A run of pages of a BAR with attributes of their own; without IS_NON_TEE_MEM they are the TVM's once locked."""

    name: str
    bar: int
    offset: int
    size: int
    attributes: RangeAttributes = RangeAttributes.NONE


class Bus(Protocol):
    """A function's way to memory and interrupts."""

    def read(self, address: int, size: int) -> bytes:
        """Read memory. Raises `DmaError`."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Write memory. Raises `DmaError` if the request may not go out now."""
        ...

    def translate(self, address: int, size: int, *, write: bool) -> None:
        """Have these addresses translated, so that requests for them go where they lead. Raises `DmaError`."""
        ...

    def interrupt(self, vector: int) -> None:
        """Raise an interrupt; one that may not go out now is dropped."""
        ...


class FunctionModel(Protocol):
    """What a function does. The BAR of the MSI-X table is not its business."""

    @property
    def bars(self) -> tuple[Bar, ...]:
        """The BARs that the model decodes."""

    @property
    def regions(self) -> tuple[Region, ...]:
        """All pages of the BARs, ascending by BAR and offset."""

    @property
    def vectors(self) -> int:
        """Number of MSI-X vectors."""

    def attach(self, bus: Bus) -> None:
        """Take the way to memory and interrupts."""

    def read(self, bar: int, offset: int, size: int) -> bytes:
        """Answer a read of a BAR with exactly `size` bytes."""

    def write(self, bar: int, offset: int, data: bytes) -> None:
        """Take a write to a BAR."""

    def work(self) -> bool:
        """Do what has been accepted; False if there was nothing to do."""

    def abort(self) -> None:
        """Drop accepted work; what is computed already stays."""

    def scrub(self) -> None:
        """Forget everything: all registers and all data."""

    def describe(self) -> bytes:
        """Give the device specific part of the interface report."""
