"""The two ports of a link, a root port and an endpoint's: requests in and out (PCIe Base 2.2, 2.3, 2.8, 6.33).

What comes in is served by who stands behind the port, the device or the host bridge; what goes out waits for its
completions. What nobody answers reads as all ones. Which root port a request of the host takes is `fabric`'s.

Left out: flow control, ordering between TLPs on the way (delivery is immediate), interrupts as INTx.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from teeio.observe import Observer, ignore
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.aer import Uncorrectable
from teeio.pcie.capabilities.header import Type1Header
from teeio.pcie.capabilities.msix import MsixMessage
from teeio.pcie.config_space import ConfigSpace, all_ones
from teeio.pcie.ide_port import InsecureCause
from teeio.pcie.link import LinkEnd
from teeio.pcie.link_rules import CLOSED, LinkRules
from teeio.pcie.pasid import pasid_of
from teeio.pcie.port import Port
from teeio.pcie.registers import RegisterAccess
from teeio.pcie.seams import DONE, UNSUPPORTED, ConfigRegisters, Dma, Reply, TranslationAgent
from teeio.pcie.tlp import (
    PAGE,
    CompletionStatus,
    Tlp,
    TlpType,
    config_read,
    config_write,
)
from teeio.pcie.transfer import (
    serve_configuration,
)
from teeio.pcie.translation_service import TranslatedDma, concerns_translation, serve_translation


class Endpoint(ConfigRegisters, Protocol):
    """What sits below an endpoint port: a device."""

    def receive(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
        """Take a memory request or a message; the reply to a read has the bytes that `tlp.memory().span` names."""
        ...

    def renumber(self, bus: int) -> None:
        """Take another bus number (PCIe Base 2.2.6.2): the port is told by its `function`."""
        ...


class HostBridge(Dma, Protocol):
    """What sits above a root port: the root complex with its IOMMU."""

    def with_pasid(self, pasid: int) -> Dma:
        """Give memory as requests with this PASID reach it."""
        ...


class EndpointPort(Port):
    """The port of a device: serves it requests from above, and is its `Dma` and `Interrupts`."""

    def __init__(
        self,
        endpoint: Endpoint,
        function: Bdf,
        config: ConfigSpace,
        *,
        on_insecure: Callable[[int, InsecureCause], None] | None = None,
        name: str = "endpoint",
        observer: Observer = ignore,
        rules: LinkRules = CLOSED,
    ) -> None:
        super().__init__(
            name,
            function,
            config,
            checks_all_rids=False,
            on_insecure=on_insecure,
            observer=observer,
            rules=rules,
        )
        self.endpoint = endpoint
        self.translated = TranslatedDma(self)

    def attach(self, end: LinkEnd) -> None:
        """Put the port at an end of a link."""
        super().attach(end)
        end.access = self._access

    def _access(self, function: Bdf) -> ConfigRegisters | None:
        """Give who serves configuration requests to a function, unless one would tell the device its bus number."""
        own = self.function
        return self.endpoint if function.bus == own.bus and function.segment == own.segment else None

    def _serve(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
        if tlp.type.is_configuration:
            return self._configure(tlp)
        return self.endpoint.receive(tlp, t_bit, stream_id)

    def _configure(self, tlp: Tlp) -> Reply:
        """Serve a configuration request; one of Type 0 finds its target whatever the bus, and a write gives it the number."""
        bus = tlp.configuration().target_id >> 8
        if bus != self.function.bus and tlp.type.is_type_0:
            if tlp.type is TlpType.CFGWR0:
                self.endpoint.renumber(bus)
            else:
                tlp = tlp.on_bus(self.function.bus)
        return serve_configuration(self.endpoint, tlp, self.function.segment)

    def dma_read(self, requester_id: int, address: int, size: int, t_bit: bool, stream_id: int | None = None) -> Reply:
        """Read host memory; all of it or the status of the first piece that failed."""
        return self.read(requester_id, address, size, t_bit, stream_id)

    def dma_write(
        self, requester_id: int, address: int, data: bytes, t_bit: bool, stream_id: int | None = None
    ) -> CompletionStatus:
        """Write host memory; a posted write tells no more than that it was sent (SC) or not (UR)."""
        return self.write(requester_id, address, data, t_bit, stream_id)

    def signal(
        self, function: Bdf, vector: int, message: MsixMessage, t_bit: bool, stream_id: int | None = None
    ) -> None:
        """Send an MSI-X message: a memory write of 4 bytes."""
        self.dma_write(function.requester_id, message.address, message.data.to_bytes(4, "little"), t_bit, stream_id)


class RootPort(Port):
    """A port of the root complex: sends the host's requests down, brings the device's to the host bridge."""

    def __init__(
        self,
        host: HostBridge,
        function: Bdf,
        config: ConfigSpace,
        *,
        on_insecure: Callable[[int, InsecureCause], None] | None = None,
        name: str = "root port",
        observer: Observer = ignore,
        rules: LinkRules = CLOSED,
    ) -> None:
        super().__init__(
            name,
            function,
            config,
            checks_all_rids=True,
            on_insecure=on_insecure,
            observer=observer,
            rules=rules,
        )
        self.host = host
        self.agent: TranslationAgent | None = None
        self.header = config.need(Type1Header)

    def _serve(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
        if tlp.type is TlpType.MWR and tlp.memory().common.poisoned:
            # Here bad data are dropped, where a host would mark the memory as bad (PCIe Base 2.7.2.2).
            self._note(Uncorrectable.POISONED_TLP, tlp.type.label, tlp)
            return DONE
        pasid = pasid_of(tlp) if tlp.prefixes else None
        if concerns_translation(tlp):
            return serve_translation(self.agent, tlp, t_bit, stream_id) if pasid is None else UNSUPPORTED
        host = self.host if pasid is None else self.host.with_pasid(pasid)
        if tlp.type is TlpType.MRD:
            header = tlp.memory()
            start, size = header.span
            return host.dma_read(header.requester_id, start, size, t_bit, stream_id) if size else DONE
        if tlp.type is TlpType.MWR:
            header = tlp.memory()
            for address, data in header.enabled(tlp.payload):
                status = host.dma_write(header.requester_id, address, data, t_bit, stream_id)
                if status is not CompletionStatus.SC:
                    return Reply(status)
            return DONE
        return DONE if tlp.type.is_message else UNSUPPORTED

    def config_read(self, function: Bdf, offset: int, size: int) -> int:
        """Read configuration space below the port; all ones if nobody answers."""
        unseen = self._unseen(function, offset, size)
        value = None if unseen is None else unseen.config_read(function, offset, size)
        if value is not None:
            self.requester.pass_tag(self.function.requester_id)
            return value
        requester_id, type_1 = self.function.requester_id, self._is_type_1(function)
        request = config_read(requester_id, 0, function.requester_id, offset, size, type_1=type_1)
        reply = self._transfer(request, 4, 0, False, None)
        if not reply.ok:
            return all_ones(size)
        at = offset % 4
        return int.from_bytes(reply.data[at : at + size], "little")

    def config_write(self, function: Bdf, offset: int, size: int, value: int) -> CompletionStatus:
        """Write configuration space below the port."""
        unseen = self._unseen(function, offset, size)
        if unseen is not None and unseen.config_write(function, offset, size, value & all_ones(size)):
            self.requester.pass_tag(self.function.requester_id)
            return CompletionStatus.SC
        requester_id, type_1 = self.function.requester_id, self._is_type_1(function)
        request = config_write(requester_id, 0, function.requester_id, offset, size, value, type_1=type_1)
        return self._transfer(request, 0, 0, False, None).status

    def config_register(self, function: Bdf, offset: int) -> RegisterAccess:
        """Give access to one DW below the port. Whether its requests go as TLPs, and to whom, is settled here, for all of them."""
        unseen = self._unseen(function, offset, 4)
        access = None if unseen is None else unseen.config_register(function, offset)
        if access is None:
            return RegisterAccess(
                partial(self.config_read, function, offset, 4), partial(self.config_write, function, offset, 4)
            )
        read, write = access
        pass_tag, requester_id = self.requester.pass_tag, self.function.requester_id

        def read_unseen() -> int:
            pass_tag(requester_id)
            return read()

        def write_unseen(value: int) -> None:
            write(value)
            pass_tag(requester_id)

        return RegisterAccess(read_unseen, write_unseen)

    def _unseen(self, function: Bdf, offset: int, size: int) -> ConfigRegisters | None:
        """Give who serves a configuration request without a TLP being made of it: none could be seen or refused.

        What has no such answer, and what is no access at all, goes as a TLP and meets what TLPs meet.
        """
        if size not in (1, 2, 4) or offset % size or not 0 <= offset < PAGE or not self.requester.all_tags:
            return None
        end = self._end
        if end is None or function.bus != self.header.secondary or self.ide.links_enabled:
            return None
        return end.beyond(function)

    def _is_type_1(self, function: Bdf) -> bool:
        return function.bus != self.header.secondary

    def memory_read(self, address: int, size: int, t_bit: bool = False, stream_id: int | None = None) -> Reply:
        """Read device memory on behalf of the host."""
        return self.read(self.function.requester_id, address, size, t_bit, stream_id)

    def memory_write(
        self, address: int, data: bytes, t_bit: bool = False, stream_id: int | None = None
    ) -> CompletionStatus:
        """Write device memory on behalf of the host; SC says that it was sent."""
        return self.write(self.function.requester_id, address, data, t_bit, stream_id)
