"""The Data Object Exchange extended capability (PCIe Base 7.9.24).

The mailbox behind it is `teeio.pcie.doe_mailbox`.
"""

from __future__ import annotations

from teeio.pcie.config_space import ExtendedCapability
from teeio.pcie.registers import Access, Register, bit, bits


class DoeCapability(ExtendedCapability):
    """The mailbox registers. No field matters to a locked TDI (PCIe Base table 11-2)."""

    NAME = "DOE Capability"
    ID = 0x002E
    VERSION = 2
    CAPABILITIES = Register(
        0x04,
        4,
        "DOE Capabilities",
        (
            bit("interrupt_support", 0, Access.HWINIT, "The mailbox can interrupt"),
            bits("interrupt_message", 11, 1, Access.HWINIT, "Interrupt message number"),
        ),
    )
    CONTROL = Register(
        0x08,
        4,
        "DOE Control",
        (
            bit("abort", 0, Access.ACT, "Drop what is in hand and clear Error"),
            bit("interrupt_enable", 1, Access.RW, "Interrupt on a change of Ready or Error"),
            bit("go", 31, Access.ACT, "The data object is written: take it"),
        ),
    )
    STATUS = Register(
        0x0C,
        4,
        "DOE Status",
        (
            bit("busy", 0, Access.RO, "The mailbox takes no data now"),
            bit("interrupt", 1, Access.RW1C, "An interrupt was raised"),
            bit("error", 2, Access.RO, "Cleared only by Abort"),
            bit("ready", 31, Access.RO, "A data object waits in the read mailbox"),
        ),
    )
    WRITE_MAILBOX = Register(0x10, 4, "DOE Write Data Mailbox", (bits("data", 31, 0, Access.ACT, "Appends a DW"),))
    READ_MAILBOX = Register(
        0x14,
        4,
        "DOE Read Data Mailbox",
        (bits("data", 31, 0, Access.ACT, "Reads the current DW; a write of any value goes on"),),
    )

    def __init__(self) -> None:
        super().__init__(0x18)
