"""The kinds of transport there are, and what each of them means. Bindings are loaded when they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING

from teeio.errors import Misuse

if TYPE_CHECKING:
    from teeio.spdm.binding import Binding
    from teeio.spdm.state import Settings
    from teeio.transport.platform_port import TransportType

DEFAULT_PORT = 2323
TCP_PORT = 4194
"""The port registered for SPDM over TCP; the reference emulator uses it too."""


class Transport(Enum):
    """Values of --transport."""

    PCI_DOE = "pci_doe"
    MCTP = "mctp"
    TCP = "tcp"
    NONE = "none"

    @property
    def type(self) -> TransportType:
        """The transport's number in the emulator's socket protocol."""
        from teeio.transport.platform_port import TransportType

        return TransportType[self.name]

    @property
    def binding(self) -> Binding:
        """A binding for the SPDM engines."""
        from teeio.mctp import MctpBinding
        from teeio.pcie.doe import DoeBinding
        from teeio.raw_binding import RawBinding
        from teeio.tcp_binding import TcpBinding

        made: dict[Transport, type[Binding]] = {
            Transport.PCI_DOE: DoeBinding,
            Transport.MCTP: MctpBinding,
            Transport.TCP: TcpBinding,
            Transport.NONE: RawBinding,
        }
        return made[self]()

    def binding_of(self, doe_connection: int | None) -> Binding:
        """A binding for the SPDM connection through a DOE mailbox that has this id, or none. Raises `Misuse`."""
        if doe_connection is None:
            return self.binding
        from teeio.pcie.doe import DoeBinding

        self.check_doe_only(doe_connection_id=True)
        return DoeBinding(doe_connection)

    @property
    def default_port(self) -> int:
        """The port that a peer on this transport is expected at."""
        return TCP_PORT if self is Transport.TCP else DEFAULT_PORT

    @property
    def has_sessions(self) -> bool:
        """Tell whether secured messages can travel."""
        return self is not Transport.NONE

    @property
    def has_streams(self) -> bool:
        """Tell whether a device behind this transport has a PCIe link, so that IDE and TDISP make sense without being asked for.

        Over TCP the reference responder answers their messages with bytes that are no SPDM message.
        """
        return self in (Transport.PCI_DOE, Transport.MCTP)

    def limited(self, settings: Settings) -> Settings:
        """Give the settings as far as this transport can carry them."""
        from dataclasses import replace

        from teeio.raw_binding import WITHOUT_SESSIONS

        if self.has_sessions:
            return settings
        return replace(settings, capabilities=settings.capabilities & ~WITHOUT_SESSIONS)

    def check_tcp_only(self, **given: bool) -> None:
        """Refuse options that only TCP has. Raises `Misuse`."""
        self._check_only(Transport.TCP, given)

    def check_doe_only(self, **given: bool) -> None:
        """Refuse options that only PCI DOE has. Raises `Misuse`."""
        self._check_only(Transport.PCI_DOE, given)

    def _check_only(self, only: Transport, given: Mapping[str, bool]) -> None:
        for name, wanted in given.items():
            if wanted and self is not only:
                option = "--" + name.replace("_", "-")
                raise Misuse(
                    f"{option} does not go with --transport {self.value}", remedy=f"give --transport {only.value}"
                )
