"""Access to a device's registers and memory from the TVM.

A trusted window goes through private guest addresses that the TVM has accepted: the accesses leave as T=1 TLPs, and the
VMM can neither see nor answer them. A shared window goes through `GPA_SHARED_BIT`: T=0 TLPs, or, where the VMM maps
nothing, a request that the VMM carries out (#VE, TDVMCALL.REQUEST.MMIO). Nothing read through a shared window is
trusted. Sources: TDX Connect (trusted MMIO), TDX guest-host communication interface.
"""

from __future__ import annotations

from teeio.abi.hypercalls import TdvmcallRequestMmio
from teeio.abi.interfaces import EptViolation
from teeio.abi.operands import GPA_SHARED_BIT
from teeio.errors import Misuse
from teeio.guest.tvm import Tvm, checked
from teeio.pcie.registers import Register

WIDTHS = (1, 2, 4, 8)
"""Bytes of one access."""


def request_mmio(tvm: Tvm, gpa: int, size: int, value: int | None, now: float) -> int:
    """Let the VMM carry out one access; `gpa` is without `GPA_SHARED_BIT`. Raises `CallRefused`."""
    call = TdvmcallRequestMmio(gpa=gpa, size=size, value=value)
    answer = tvm.ask(call, tvm.vmm.tdvmcall_request_mmio, now)
    return 0 if value is not None else checked(answer.value, int, "an MMIO read", 1 << 8 * size)


class MmioWindow:
    """`size` bytes of MMIO at the guest address `gpa`, which is without `GPA_SHARED_BIT`."""

    def __init__(self, tvm: Tvm, gpa: int, size: int, *, trusted: bool) -> None:
        self.gpa = gpa
        self.size = size
        self.trusted = trusted
        self._tvm = tvm

    def read(self, offset: int, size: int, now: float) -> int:
        """Read 1, 2, 4 or 8 bytes, little endian; a device that does not answer gives all ones."""
        gpa = self._check(offset, size)
        if not self.trusted:
            return self._read_shared(gpa, size, now)
        return int.from_bytes(self._tvm.processor.load(gpa, size), "little")

    def write(self, offset: int, size: int, value: int, now: float) -> None:
        """Write 1, 2, 4 or 8 bytes, little endian."""
        gpa, data = self._check(offset, size), value.to_bytes(size, "little")
        if self.trusted:
            self._tvm.processor.store(gpa, data)
            return
        try:
            self._tvm.processor.store(gpa | GPA_SHARED_BIT, data)
        except EptViolation:
            request_mmio(self._tvm, gpa, size, value, now)

    def read_register(self, register: Register, now: float) -> int:
        """Read a declared register."""
        return self.read(register.offset, register.size, now)

    def write_register(self, register: Register, now: float, **fields: int) -> None:
        """Write a declared register with these fields, the others 0."""
        self.write(register.offset, register.size, register.put(0, **fields), now)

    def load(self, offset: int, size: int, now: float) -> bytes:
        """Read any number of bytes."""
        pieces = _pieces(offset, size)
        return b"".join(self.read(at, width, now).to_bytes(width, "little") for at, width in pieces)

    def store(self, offset: int, data: bytes, now: float) -> None:
        """Write any number of bytes."""
        for at, width in _pieces(offset, len(data)):
            self.write(at, width, int.from_bytes(data[at - offset : at - offset + width], "little"), now)

    def _read_shared(self, gpa: int, size: int, now: float) -> int:
        try:
            return int.from_bytes(self._tvm.processor.load(gpa | GPA_SHARED_BIT, size), "little")
        except EptViolation:
            return request_mmio(self._tvm, gpa, size, None, now)

    def _check(self, offset: int, size: int) -> int:
        if size not in WIDTHS or offset % size or not 0 <= offset <= self.size - size:
            raise Misuse(
                f"access of {size} bytes at offset {offset:#x} of a window of {self.size:#x} bytes",
                remedy="use aligned accesses of 1, 2, 4 or 8 bytes inside the window",
            )
        return self.gpa + offset


def _pieces(offset: int, size: int) -> list[tuple[int, int]]:
    """Cut a byte range into aligned accesses."""
    pieces, end = [], offset + size
    while offset < end:
        width = next(width for width in reversed(WIDTHS) if offset % width == 0 and offset + width <= end)
        pieces.append((offset, width))
        offset += width
    return pieces
