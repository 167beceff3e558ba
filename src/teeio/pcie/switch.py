"""A switch: an upstream port, downstream ports, and the bus between them (PCIe Base 1.3.3, 2.2.4, 6.33.4, 7.3.3).

A Selective IDE TLP flows through as it is, since the switch has no key for it: it reads the header, which is in the clear,
and passes the frame on if both its ports have Flow-Through enabled and their links are in the same mode; else the TLP is
misrouted. A Link IDE stream ends at each port: its TLPs are opened where they come in, and sealed anew where they go out.

Left out: ACS, multicast, arbitration, error messages toward the root complex, hot-plug.
"""

from __future__ import annotations

from teeio.errors import DecodeError, Misuse
from teeio.observe import Observer, Refused, ignore
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.capabilities.express import ExpressCapability, PortType
from teeio.pcie.capabilities.header import Type1Header
from teeio.pcie.capabilities.ide import SwitchIdeCapability
from teeio.pcie.config_space import ConfigSpace
from teeio.pcie.ide_port import IdePort
from teeio.pcie.link import LinkEnd
from teeio.pcie.link_mode import LinkMode
from teeio.pcie.link_rules import CLOSED, LinkRules
from teeio.pcie.seams import UNSUPPORTED
from teeio.pcie.tlp import CONFIGURATION, TYPE_0, CompletionStatus, SubStream, Tlp, TlpType, completion
from teeio.pcie.transfer import refusal, serve_configuration

SWITCH_VENDOR, SWITCH_DEVICE = 0x1AF4, 0x5057
TO_ROOT = frozenset({TlpType.MSG_ROOT, TlpType.MSGD_ROOT, TlpType.MSG_GATHERED})
BROADCAST = frozenset({TlpType.MSG_BROADCAST, TlpType.MSGD_BROADCAST})
LOCAL = frozenset({TlpType.MSG_LOCAL, TlpType.MSGD_LOCAL})


class SwitchPort:
    """One port of a switch: configuration space of a bridge, Link IDE streams, and the end of a link."""

    def __init__(
        self, switch: Switch, name: str, kind: PortType, observer: Observer, rules: LinkRules, flit_mode: bool
    ) -> None:
        self.name = name
        self.config = ConfigSpace(
            Type1Header(SWITCH_VENDOR, SWITCH_DEVICE),
            [ExpressCapability(kind, flit_mode=flit_mode)],
            [AerCapability(), SwitchIdeCapability()],
        )
        self.header = self.config.need(Type1Header)
        self.aer = self.config.need(AerCapability)
        self.express = self.config.need(ExpressCapability)
        self.capability = self.config.need(SwitchIdeCapability)
        self._switch = switch
        self._observer = observer
        self._end: LinkEnd | None = None
        self.ide = IdePort(
            self.capability,
            self.emit,
            lambda: switch.address_of(self).requester_id,
            aer=self.aer,
            name=name,
            observer=observer,
            rules=rules,
        )

    def attach(self, end: LinkEnd) -> None:
        """Put the port at an end of a link."""
        self._end = end
        end.receiver = lambda frame: self._switch.arrived(self, frame)
        end.on_down = self.ide.reset
        end.on_up = self.link_up
        end.express, end.segment = self.express, self._switch.segment
        self.link_up(end.mode)

    def link_up(self, mode: LinkMode) -> None:
        """Take over the mode in which the link came up."""
        self.ide.mode = mode
        self.express.set(ExpressCapability.LINK_STATUS_2, flit_mode=int(mode.is_flit))

    @property
    def leads_somewhere(self) -> bool:
        """Whether something is at the other end of the link."""
        return self._end is not None and self._end.up

    def emit(self, frame: bytes) -> None:
        """Send a frame as it is; where nothing is attached it is lost."""
        if self._end is not None:
            self._end.send(frame)

    @property
    def mode(self) -> LinkMode:
        """What TLPs look like on the port's link."""
        return self.ide.mode

    def note(self, error: Uncorrectable, what: str, header: bytes) -> None:
        """Record an error."""
        self.aer.record(error, header, flit=self.mode.is_flit)
        self._observer(Refused(self.name, what, error.name))


class Switch:
    """A switch with so many downstream ports, each a device of its own on the bus inside."""

    def __init__(
        self,
        downstream: int = 2,
        *,
        segment: int = 0,
        name: str = "switch",
        observer: Observer = ignore,
        rules: LinkRules = CLOSED,
        flit_mode: bool = False,
    ) -> None:
        if not 1 <= downstream <= 32:
            raise Misuse(f"a switch with {downstream} downstream ports", remedy="a bus has room for 1 to 32")
        self.name = name
        self.upstream = SwitchPort(self, f"{name}, upstream port", PortType.UPSTREAM_PORT, observer, rules, flit_mode)
        self.downstream = [
            SwitchPort(self, f"{name}, downstream port {number}", PortType.DOWNSTREAM_PORT, observer, rules, flit_mode)
            for number in range(downstream)
        ]
        self.segment = segment
        self._captured = Bdf(segment, 0, 0, 0)

    def address_of(self, port: SwitchPort) -> Bdf:
        """Give a port's address now: that of the upstream port is captured from the requests that configure it."""
        if port is self.upstream:
            return self._captured
        return Bdf(self.segment, self._inside, self.downstream.index(port), 0)

    @property
    def _inside(self) -> int:
        return self.upstream.header.get(Type1Header.BUSES, "secondary")

    # -- what comes in

    def arrived(self, ingress: SwitchPort, frame: bytes) -> None:
        """Take a frame from the link of `ingress`. Never raises on what a partner sends."""
        try:
            stream_id = ingress.mode.stream_of(frame)
            if stream_id is None:
                self._plain(ingress, frame)
            elif not ingress.ide.owns(stream_id):
                self._flow_through(ingress, frame, stream_id)
            else:
                for received in ingress.ide.receive(frame):
                    self._forward(ingress, received.tlp, received.t_bit, linked=True)
        except DecodeError as error:
            ingress.note(Uncorrectable.MALFORMED_TLP, str(error), ingress.mode.logged(frame))

    def _flow_through(self, ingress: SwitchPort, frame: bytes, stream_id: int) -> None:
        """Pass a Selective IDE TLP on as it is, which it cannot be where the other link is in another mode."""
        egress, header = self._route(ingress, ingress.mode.heading(frame)), ingress.mode.logged(frame)
        if egress is None or egress is ingress:
            ingress.ide.misrouted(header, f"an IDE TLP of stream {stream_id}, which ends elsewhere, leads nowhere")
        elif ingress.mode.is_flit is not egress.mode.is_flit:
            crossing = f"from {ingress.mode.name} to {egress.mode.name}"
            ingress.ide.misrouted(header, f"an IDE TLP of stream {stream_id} {crossing}")
        elif not (ingress.capability.flows_through and egress.capability.flows_through):
            port = ingress if not ingress.capability.flows_through else egress
            port.ide.misrouted(header, f"an IDE TLP of stream {stream_id} at a port without Flow-Through")
        else:
            egress.emit(frame)

    def _plain(self, ingress: SwitchPort, frame: bytes) -> None:
        tlp = ingress.mode.decode(frame)
        if tlp.type in LOCAL:
            ingress.ide.receive(frame)
        else:
            self._forward(ingress, tlp, False, linked=False)

    def _forward(self, ingress: SwitchPort, tlp: Tlp, t_bit: bool, *, linked: bool) -> None:
        """Send a TLP on; one from a Link IDE stream never goes on in the clear."""
        if tlp.type in BROADCAST and ingress is self.upstream:
            for port in self.downstream:
                self._send(ingress, port, tlp, t_bit)
            return
        if tlp.type in CONFIGURATION and self._is_own(ingress, tlp):
            self._configure(ingress, tlp, t_bit)
            return
        egress = self._route(ingress, tlp)
        if egress is None or egress is ingress:
            self._refuse(ingress, tlp, t_bit)
            return
        if tlp.type in CONFIGURATION and tlp.configuration().target_id >> 8 == self._bus_below(egress):
            tlp = tlp.as_type_0()
        if linked and egress.ide.select(tlp, t_bit) is None:
            header = egress.mode.header_of(tlp)
            egress.ide.misrouted(header, "a Link IDE TLP at a port without a Link stream for it")
            return
        self._send(ingress, egress, tlp, t_bit)

    def _send(self, ingress: SwitchPort, egress: SwitchPort, tlp: Tlp, t_bit: bool) -> None:
        """Send a TLP out, in the form of the link there; one with a prefix that has no place in it goes no further."""
        if egress.mode.carries(tlp):
            egress.ide.transmit(tlp, t_bit)
            return
        header = ingress.mode.header_of(tlp)
        ingress.note(Uncorrectable.TLP_PREFIX_BLOCKED, f"a {tlp.type.label} on its way to {egress.mode.name}", header)

    @staticmethod
    def _bus_below(port: SwitchPort) -> int:
        return port.header.get(Type1Header.BUSES, "secondary")

    def _refuse(self, ingress: SwitchPort, tlp: Tlp, t_bit: bool) -> None:
        if tlp.type.is_completion:
            ingress.note(Uncorrectable.UNEXPECTED_COMPLETION, "a completion for nobody", ingress.mode.header_of(tlp))
            return
        header = ingress.mode.header_of(tlp)
        ingress.note(Uncorrectable.UNSUPPORTED_REQUEST, f"{tlp.type.value.label} to nowhere", header)
        if tlp.sub_stream is SubStream.NPR:
            completer = self.address_of(ingress).requester_id
            ingress.ide.transmit(refusal(tlp, completer, CompletionStatus.UR), t_bit)

    # -- where it goes

    def _route(self, ingress: SwitchPort, tlp: Tlp) -> SwitchPort | None:
        """Give the port that leads to a TLP's destination; None if there is none (PCIe Base 2.2.4)."""
        if tlp.type in TO_ROOT:
            return self.upstream
        if tlp.type in CONFIGURATION:
            return self._toward(tlp.configuration().target_id) if tlp.type not in TYPE_0 else None
        if tlp.type.is_completion:
            return self._toward(tlp.requester_id)
        if tlp.type.is_message:
            by_id = tlp.type in (TlpType.MSG_ID, TlpType.MSGD_ID)
            return self._toward(int.from_bytes(tlp.header[8:10], "big")) if by_id else None
        return self._holding(ingress, tlp.memory().address)

    def _toward(self, requester_id: int) -> SwitchPort | None:
        bus = requester_id >> 8
        below = next((port for port in self.downstream if port.header.forwards_bus(bus)), None)
        if below is not None:
            return below if below.leads_somewhere else None
        return None if self.upstream.header.forwards_bus(bus) else self.upstream

    def _holding(self, ingress: SwitchPort, address: int) -> SwitchPort | None:
        for port in self.downstream:
            if any(window.holds(address) for window in port.header.windows()):
                return port if port.leads_somewhere else None
        inside = any(window.holds(address) for window in self.upstream.header.windows())
        return None if inside or ingress is self.upstream else self.upstream

    # -- the ports' own configuration space

    def _is_own(self, ingress: SwitchPort, tlp: Tlp) -> bool:
        """Tell whether a configuration request is for a port of the switch, or for a place on its bus where none is."""
        return ingress is self.upstream and (tlp.type in TYPE_0 or tlp.configuration().target_id >> 8 == self._inside)

    def _configure(self, ingress: SwitchPort, tlp: Tlp, t_bit: bool) -> None:
        target = Bdf.of(tlp.configuration().target_id, self.segment)
        if tlp.type in TYPE_0 and not target.device and not target.function:
            self._captured = target
        reply = serve_configuration(self, tlp, self.segment)
        if reply == UNSUPPORTED:
            self._refuse(ingress, tlp, t_bit)
            return
        requester_id, tag = tlp.requester_id, tlp.header[6]
        ingress.ide.transmit(completion(target.requester_id, requester_id, tag, reply.data), t_bit)

    def _port_at(self, function: Bdf) -> SwitchPort | None:
        if function == self._captured:
            return self.upstream
        inside = function.bus == self._inside and not function.function and function.device < len(self.downstream)
        return self.downstream[function.device] if inside else None

    def config_read(self, function: Bdf, offset: int, size: int) -> int | None:
        """Read configuration space of a port; None if no port is there."""
        port = self._port_at(function)
        return None if port is None else port.config.read(offset, size)

    def config_write(self, function: Bdf, offset: int, size: int, value: int) -> bool:
        """Write configuration space of a port; False if no port is there."""
        port = self._port_at(function)
        if port is not None:
            port.config.write(offset, size, value)
        return port is not None
