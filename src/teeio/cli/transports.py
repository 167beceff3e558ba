"""The transports that commands can choose."""

from __future__ import annotations

from enum import Enum

from teeio.mctp import MctpBinding
from teeio.pcie.doe import DoeBinding
from teeio.spdm.binding import Binding
from teeio.transport.platform_port import TransportType

DEFAULT_PORT = 2323


class Transport(Enum):
    """Values of --transport."""

    PCI_DOE = "pci_doe"
    MCTP = "mctp"

    @property
    def type(self) -> TransportType:
        """The transport's number in the emulator's socket protocol."""
        return TransportType[self.name]

    @property
    def binding(self) -> Binding:
        """A binding for the SPDM engines."""
        return DoeBinding() if self is Transport.PCI_DOE else MctpBinding()
