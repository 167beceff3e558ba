"""The root ports of a segment, and which of them a request of the host takes (PCIe Base 2.2.6, 7.5.1.3).

Configuration requests go by bus number, memory requests by the root ports' windows. What nobody answers reads as all
ones. Left out: peer-to-peer between root ports.
"""

from __future__ import annotations

from functools import partial

from teeio.errors import Misuse
from teeio.observe import Observer, ignore
from teeio.pcie.address import Bdf
from teeio.pcie.config_space import all_ones
from teeio.pcie.link import Attachable, Link, Tamper, join
from teeio.pcie.ports import RootPort
from teeio.pcie.registers import RegisterAccess
from teeio.pcie.seams import UNSUPPORTED, Reply
from teeio.pcie.tlp import CompletionStatus


class Fabric:
    """The root ports of one segment: the host's way to configuration space and device memory."""

    def __init__(self) -> None:
        self.ports: list[RootPort] = []

    def add(self, port: RootPort) -> None:
        """Take a root port into the segment."""
        if any(port.function == other.function for other in self.ports):
            raise Misuse(f"{port.function} is taken")
        self.ports.append(port)

    def attach(
        self, port: RootPort, below: Attachable, tamper: Tamper | None = None, observer: Observer = ignore
    ) -> Link:
        """Join a root port and an endpoint's port, or a switch's upstream port, by a link."""
        return join(port, below, tamper=tamper, observer=observer)

    def _towards(self, function: Bdf) -> RootPort | None:
        """Find the root port that is this function itself, else the one whose buses below hold it."""
        above = None
        for port in self.ports:
            if port.function.segment == function.segment:
                if port.function.requester_id == function.requester_id:
                    return port
                if above is None and port.header.forwards_bus(function.bus):
                    above = port
        return above

    def config_read(self, function: Bdf, offset: int, size: int) -> int:
        """Read configuration space, of a root port or below one; all ones if there is nothing."""
        port = self._towards(function)
        if port is None:
            return all_ones(size)
        if port.function.requester_id == function.requester_id:
            return port.config.read(offset, size)
        return port.config_read(function, offset, size)

    def config_write(self, function: Bdf, offset: int, size: int, value: int) -> CompletionStatus:
        """Write configuration space, of a root port or below one."""
        port = self._towards(function)
        if port is None:
            return CompletionStatus.UR
        if port.function.requester_id == function.requester_id:
            port.config.write(offset, size, value)
            return CompletionStatus.SC
        return port.config_write(function, offset, size, value)

    def config_register(self, function: Bdf, offset: int) -> RegisterAccess:
        """Give access to one DW of configuration space that is read and written again and again."""
        port = self._towards(function)
        if port is not None and port.function.requester_id != function.requester_id:
            return port.config_register(function, offset)
        return RegisterAccess(
            partial(self.config_read, function, offset, 4), partial(self.config_write, function, offset, 4)
        )

    def port_for(self, address: int, size: int = 1) -> RootPort | None:
        """Find the root port whose windows hold the memory."""
        return next((p for p in self.ports if any(w.holds(address, size) for w in p.header.windows())), None)

    def memory_read(self, address: int, size: int, t_bit: bool = False) -> Reply:
        """Read device memory; Unsupported Request if it lies in no window."""
        port = self.port_for(address, size)
        return port.memory_read(address, size, t_bit) if port else UNSUPPORTED

    def memory_write(self, address: int, data: bytes, t_bit: bool = False) -> CompletionStatus:
        """Write device memory; Unsupported Request if it lies in no window."""
        port = self.port_for(address, len(data))
        return port.memory_write(address, data, t_bit) if port else CompletionStatus.UR
