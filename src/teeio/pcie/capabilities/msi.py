"""The MSI capability with a 64-bit address and one vector (PCIe Base 7.7.1). Left out: masking, several vectors."""

from __future__ import annotations

from teeio.pcie.capabilities.msix import MsixMessage
from teeio.pcie.config_space import Capability
from teeio.pcie.registers import Access, Register, bit, bits


class MsiCapability(Capability):
    """Where an interrupt goes. No field matters to a locked TDI: MSI is never trusted (PCIe Base table 11-2)."""

    NAME = "MSI Capability"
    ID = 0x05
    CONTROL = Register(
        0x02,
        2,
        "Message Control",
        (
            bit("enable", 0, Access.RW, "MSI Enable"),
            bits("vectors_log2", 3, 1, Access.HWINIT, "Vectors wanted, as a power of 2"),
            bits("vectors_enabled_log2", 6, 4, Access.RW, "Vectors granted, as a power of 2"),
            bit("wide", 7, Access.HWINIT, "64-bit address", reset=1),
        ),
    )
    ADDRESS = Register(0x04, 4, "Message Address", (bits("address", 31, 2, Access.RW, "Bits 31:2"),))
    UPPER_ADDRESS = Register(0x08, 4, "Message Upper Address", (bits("address", 31, 0, Access.RW, "Bits 63:32"),))
    DATA = Register(0x0C, 2, "Message Data", (bits("data", 15, 0, Access.RW, "Data written"),))

    def __init__(self) -> None:
        super().__init__(0x10)

    @property
    def enabled(self) -> bool:
        """Whether MSI is on."""
        return bool(self.get(self.CONTROL, "enable"))

    def message(self) -> MsixMessage:
        """Give the message to send."""
        address = self.value(self.UPPER_ADDRESS) << 32 | self.value(self.ADDRESS)
        return MsixMessage(address, self.value(self.DATA))
