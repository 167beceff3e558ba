"""The Advanced Error Reporting extended capability (PCIe Base 7.8.4).

Left out: the TLP prefix log, the root error registers.
"""

from __future__ import annotations

from enum import IntEnum

from teeio.pcie.config_space import ExtendedCapability
from teeio.pcie.registers import Access, Register, bit, bits


class Uncorrectable(IntEnum):
    """The bits of the uncorrectable error registers."""

    DATA_LINK_PROTOCOL = 4
    SURPRISE_DOWN = 5
    POISONED_TLP = 12
    COMPLETION_TIMEOUT = 14
    COMPLETER_ABORT = 15
    UNEXPECTED_COMPLETION = 16
    MALFORMED_TLP = 18
    UNSUPPORTED_REQUEST = 20
    ACS_VIOLATION = 21
    INTERNAL = 22
    TLP_PREFIX_BLOCKED = 25
    IDE_CHECK_FAILED = 28
    MISROUTED_IDE_TLP = 29
    PCRC_CHECK_FAILED = 30


_FATAL = {
    Uncorrectable.DATA_LINK_PROTOCOL,
    Uncorrectable.SURPRISE_DOWN,
    Uncorrectable.MALFORMED_TLP,
    Uncorrectable.INTERNAL,
    Uncorrectable.IDE_CHECK_FAILED,
}


def _errors(offset: int, name: str, access: Access, doc: str, severity: bool = False) -> Register:
    fields = tuple(
        bit(error.name.lower(), error, access, doc, reset=int(severity and error in _FATAL), sticky=True)
        for error in Uncorrectable
    )
    return Register(offset, 4, name, fields)


class AerCapability(ExtendedCapability):
    """What went wrong; every field is sticky, none matters to a locked TDI."""

    NAME = "AER Capability"
    ID = 0x0001
    VERSION = 2
    UNCORRECTABLE_STATUS = _errors(0x04, "Uncorrectable Error Status", Access.RW1C, "Error detected")
    UNCORRECTABLE_MASK = _errors(0x08, "Uncorrectable Error Mask", Access.RW, "Do not report")
    UNCORRECTABLE_SEVERITY = _errors(0x0C, "Uncorrectable Error Severity", Access.RW, "1: fatal", severity=True)
    CORRECTABLE_STATUS = Register(
        0x10,
        4,
        "Correctable Error Status",
        (bit("advisory_non_fatal", 13, Access.RW1C, "Advisory error", sticky=True),),
    )
    CORRECTABLE_MASK = Register(
        0x14,
        4,
        "Correctable Error Mask",
        (bit("advisory_non_fatal", 13, Access.RW, "Do not report", reset=1, sticky=True),),
    )
    CONTROL = Register(
        0x18,
        4,
        "Advanced Error Capabilities and Control",
        (
            bits("first_error", 4, 0, Access.RO, "First error's bit"),
            bit("flit", 18, Access.RO, "The TLP was logged in Flit Mode"),
            bits("logged_size", 23, 19, Access.RO, "In Flit Mode: DWs that were logged"),
        ),
    )
    HEADER_LOG = tuple(
        Register(
            0x1C + 4 * number, 4, "Header Log", (bits("data", 31, 0, Access.RO, "Header of the first error"),), number
        )
        for number in range(4)
    )

    def __init__(self) -> None:
        super().__init__(0x2C, self.HEADER_LOG)

    def record(self, error: Uncorrectable, header: bytes = b"", *, flit: bool = False) -> None:
        """Set an error's status bit; the header of the first one is logged, most significant byte first.

        With `flit` the header is a header base and OHC words of Flit Mode, as many as there is room for.
        """
        if not self.value(self.UNCORRECTABLE_STATUS):
            size = min(-(-len(header) // 4), len(self.HEADER_LOG)) if flit else 0
            self.set(self.CONTROL, first_error=error & 0x1F, flit=int(flit), logged_size=size)
            for number, register in enumerate(self.HEADER_LOG):
                self.set(register, data=int.from_bytes(header[4 * number : 4 * number + 4].ljust(4, b"\0"), "big"))
        self.set(self.UNCORRECTABLE_STATUS, **{error.name.lower(): 1})

    def recorded(self, error: Uncorrectable) -> bool:
        """Tell whether an error's status bit is set."""
        return bool(self.get(self.UNCORRECTABLE_STATUS, error.name.lower()))
