"""The loads and stores of one TVM: the EPTs decide where each page of an access goes (TDX; TDX Connect, private MMIO).

A private address goes through the secure EPT: to memory with the TVM's key, or as T=1 TLPs to MMIO that the TVM has
accepted. An address with the shared bit goes through the VMM's shared EPT: to what the VMM itself can read, or as T=0
TLPs to device memory. What no EPT translates raises `EptViolation`; a device that does not answer reads as all ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from teeio.abi import EptViolation
from teeio.abi.operands import GPA_SHARED_BIT, PAGE_SIZE
from teeio.errors import Misuse
from teeio.host.memory import SHARED, PhysicalMemory
from teeio.host.root_complex import RootComplex
from teeio.host.secure_ept import TRANSLATES, SecureEpt, SeptState, SharedEpt

MAX_ACCESS = 1 << 26
"""Most bytes of one load or store."""


class Piece(NamedTuple):
    """A contiguous part of an access: where it goes, and with which T bit if that is device memory."""

    hpa: int
    size: int
    mmio: bool
    private: bool


class TvmProcessor:
    """The processors of one TVM, by its two EPTs."""

    def __init__(self, memory: PhysicalMemory, root_complex: RootComplex, sept: SecureEpt, shared: SharedEpt) -> None:
        self._memory = memory
        self._root_complex = root_complex
        self._sept = sept
        self._shared = shared
        self._private_view = memory.view(sept.owner)
        self._shared_view = memory.view(SHARED)

    def load(self, gpa: int, size: int) -> bytes:
        """Read `size` bytes, `MAX_ACCESS` at most."""
        found = []
        for piece in self._pieces(gpa, size):
            if piece.mmio:
                found.append(self._root_complex.mmio_read(piece.hpa, piece.size, t_bit=piece.private))
            else:
                view = self._private_view if piece.private else self._shared_view
                found.append(view.read(piece.hpa, piece.size))
        return found[0] if len(found) == 1 else b"".join(found)

    def store(self, gpa: int, data: bytes) -> None:
        """Write `data`, `MAX_ACCESS` bytes at most; nothing is written if a page of it has no translation."""
        at = 0
        for piece in list(self._pieces(gpa, len(data))):
            part = data[at : at + piece.size]
            at += piece.size
            if piece.mmio:
                self._root_complex.mmio_write(piece.hpa, part, t_bit=piece.private)
            else:
                view = self._private_view if piece.private else self._shared_view
                view.write(piece.hpa, part)

    def _pieces(self, gpa: int, size: int) -> Iterator[Piece]:
        if not 0 <= size <= MAX_ACCESS or not 0 <= gpa <= 2 * GPA_SHARED_BIT - size:
            raise Misuse(f"access of {size} bytes at {gpa:#x}", remedy=f"access at most {MAX_ACCESS} bytes at a time")
        end = gpa + size
        while gpa < end:
            hpa, room, mmio = self._shared_page(gpa) if gpa & GPA_SHARED_BIT else self._private_page(gpa)
            part = min(room, end - gpa)
            yield Piece(hpa, part, mmio, not gpa & GPA_SHARED_BIT)
            gpa += part

    def _private_page(self, gpa: int) -> tuple[int, int, bool]:
        leaf = self._sept.leaf(gpa)
        if leaf is None:
            raise EptViolation(gpa, "nothing is mapped", remedy="ask the VMM for memory here, or map the device's MMIO")
        if leaf.state not in TRANSLATES:
            raise EptViolation(gpa, leaf.state.value, remedy="accept it first: TDG.MEM.PAGE.ACCEPT, TDG.MMIO.ACCEPT")
        offset = gpa & leaf.level.size - 1
        return leaf.hpa | offset, leaf.level.size - offset, leaf.state is SeptState.MMIO_MAPPED

    def _shared_page(self, gpa: int) -> tuple[int, int, bool]:
        hpa = self._shared.translate(gpa & ~GPA_SHARED_BIT)
        if hpa is None:
            raise EptViolation(gpa, "nothing is mapped in the shared EPT", remedy="ask the VMM (TDVMCALL.MAP.GPA)")
        return hpa, PAGE_SIZE - gpa % PAGE_SIZE, not self._memory.contains(hpa)
