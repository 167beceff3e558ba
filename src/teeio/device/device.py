"""A PCIe device with TDIs: function 0 with DOE, IDE and SR-IOV, its VFs, and the DSM behind the mailbox.

It implements the seams of `pcie.seams` that a device implements, and reaches the host through the two that it is given;
by default both are its own port, which stands at the end of a link (`pcie.ports`). Time comes from outside through
`advance`.

Left out: several ports in use, Flow-Through IDE, I/O space, expansion ROMs, enhanced allocation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from teeio.crypto.entropy import Entropy
from teeio.device.bus import FunctionBus
from teeio.device.completer import Completer
from teeio.device.configuration import Configuration, build_functions, services_of, stream_registers
from teeio.device.doe_connections import DoeConnections
from teeio.device.dsm import Dsm, HostedTdisp
from teeio.device.function import Function
from teeio.device.identity import Firmware, Manufacturer
from teeio.device.key_port import DeviceKeyPort
from teeio.device.measured_state import MeasuredState
from teeio.device.present import Present
from teeio.device.tdi import Tdi
from teeio.device.vendor_messages import VendorMessages
from teeio.errors import Misuse
from teeio.ide_km.slots import KeyPort
from teeio.observe import Observer, Refused, ignore
from teeio.pcie.address import AddressRange, Bdf
from teeio.pcie.capabilities.doe import DoeCapability
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.pcie.capabilities.ide import IdeCapability
from teeio.pcie.config_space import Functions
from teeio.pcie.doe_mailbox import DoeMailbox
from teeio.pcie.ide_port import IdePort, InsecureCause
from teeio.pcie.link import Link
from teeio.pcie.link_rules import CLOSED, LinkRules
from teeio.pcie.ports import EndpointPort
from teeio.pcie.registers import Register, RegisterAccess
from teeio.pcie.seams import Dma, Interrupts, Reply, ResetKind
from teeio.pcie.tlp import CompletionStatus, Tlp
from teeio.spdm.device_state import DeviceMeasurements, Identity
from teeio.spdm.messages import DmtfEvent
from teeio.tdisp.interface import Interface
from teeio.tdisp.messages import LockFlags
from teeio.tdisp.states import Event

DOE_LIMIT = 1 << 16
"""Bytes of a data object that the mailbox takes."""


class Device:
    """The device. `entropy` makes its nonces, `now` (seconds since 1970 UTC) is when it is made.

    `manufacturer` certifies it; without one it comes from a manufacturer of its own.
    """

    def __init__(
        self,
        configuration: Configuration,
        entropy: Entropy,
        now: float,
        *,
        manufacturer: Manufacturer | None = None,
        observer: Observer = ignore,
        link_rules: LinkRules = CLOSED,
    ) -> None:
        self.configuration = configuration
        self.now = now
        self.observer = observer
        self.streams = stream_registers(configuration)
        self._doe_registers = DoeCapability()
        self.pfs, self.vfs = build_functions(configuration, [self._doe_registers, self.streams])
        pf0_sriov = self.pfs[0].sriov
        self.functions = Functions(
            configuration.address,
            {pf.number: pf.space for pf in self.pfs},
            {0: (pf0_sriov, [vf.space for vf in self.vfs])} if pf0_sriov else {},
        )
        self._by_space = {function.space: function for function in (*self.pfs, *self.vfs)}
        self._present = Present(self.functions, self._by_space, lambda function: self.tdis[function].interface)
        self.port = self._make_port(link_rules)
        self.dma: Dma = self.port
        self.interrupts: Interrupts = self.port
        self.tdis = {function: self._make_tdi(function) for function in (*self.pfs, *self.vfs)}
        self._buses = {function: self._make_bus(function) for function in self.tdis}
        self._completer = Completer(
            self.functions,
            self._at,
            self.tdis,
            self._buses,
            log=self.port.log,
            observer=self.observer,
        )
        self.runs = MeasuredState(
            configuration, lambda changed: self.dsm.happened(DmtfEvent.MEASUREMENT_CHANGED, changed)
        )
        self.dsm = self._make_dsm(entropy, self._identities(manufacturer, entropy, now))
        self.connections = DoeConnections(
            self.dsm, configuration.doe_connections, lambda: self.now, name=configuration.name
        )
        self.responder = self.connections.responders[None]
        self.mailbox = DoeMailbox(
            self._doe_registers, self.connections.respond, self.connections.protocols, limit=DOE_LIMIT
        )
        self._watch()

    # -- construction

    def _make_port(self, rules: LinkRules) -> EndpointPort:
        c = self.configuration
        port = EndpointPort(
            self,
            c.address,
            self.pfs[0].space,
            on_insecure=self._insecure,
            name=c.name,
            observer=self.observer,
            rules=rules,
        )
        port.link_status = [function.express for function in self.pfs]
        # Until somebody attaches the port it stands at a link with an open end.
        open_end = Link(bottom=c.name)
        open_end.top.receiver = _lost
        port.attach(open_end.bottom)
        return port

    def _make_tdi(self, function: Function) -> Tdi:
        c = self.configuration
        return Tdi(
            f"TDI {self._initial_address(function)}",
            function,
            self.port.ide,
            self.streams,
            neighbours=lambda: [placed for other, _, placed in self._placed() if other is not function],
            key_session=lambda: self.dsm.ide_km.owner,
            lock_flags=c.lock_flags,
            policy=c.policy,
            observer=self.observer,
        )

    def _make_bus(self, function: Function) -> FunctionBus:
        bus = FunctionBus(
            self.tdis[function],
            lambda: self.address_of(function),
            self.port,
            dma=lambda: self.dma,
            interrupts=lambda: self.interrupts,
            observer=self.observer,
        )
        function.model.attach(bus)
        return bus

    def _identities(self, manufacturer: Manufacturer | None, entropy: Entropy, now: float) -> tuple[Identity, ...]:
        c = self.configuration
        if c.identities:
            return c.identities
        maker = manufacturer or Manufacturer.found(c.manufacture.info, entropy, now)
        return tuple(maker.certify(c.manufacture).values())

    def _make_dsm(self, entropy: Entropy, identities: tuple[Identity, ...]) -> Dsm:
        c = self.configuration
        idle = [_idle_port() for _ in range(c.idle_ports)]
        ports = [(self.port.ide, self.streams)]
        keys: list[KeyPort] = [
            DeviceKeyPort(port, streams, lambda: self.functions.first) for port, streams in (*idle, *ports)
        ]
        tdisp = HostedTdisp(
            self.hosted,
            [tdi.interface for tdi in self.tdis.values()],
            entropy,
            capabilities=c.capabilities,
            vdm=VendorMessages(c.manufacture.pci.vendor, lambda: self.runs.firmware),
            observer=self.observer,
        )
        return Dsm(
            identities,
            self.runs.measurements,
            dict(enumerate(keys)),
            tdisp,
            entropy,
            protocols=c.protocols,
            settings=c.settings,
            psks=c.psks,
            services=services_of(c),
            observer=self.observer,
        )

    def _watch(self) -> None:
        for function in self.tdis:
            function.express.watch(ExpressCapability.DEVICE_CONTROL, self._control_watcher(function))
            for ruling in (function.msix, function.header):
                # After the TDI, which may forbid interrupts now.
                ruling.observe(self._buses[function].interrupts_ruled)
        for function in self.pfs:
            # What places memory: BARs and Command in the header, VF BARs and VF Enable in SR-IOV.
            for block in (function.header, function.sriov):
                if block is not None:
                    block.observe(self._ranges_written)
        if self.pfs[0].sriov is not None:
            # The last observer: the TDIs have heard of the change before their functions vanish.
            self.pfs[0].sriov.observe(self._vfs_written)

    def _control_watcher(self, function: Function) -> Callable[[Register, int, int], None]:
        def written(register: Register, old: int, new: int) -> None:
            if register.get(new, "initiate_flr"):
                self._function_level_reset(function)

        return written

    # -- functions

    def _initial_address(self, function: Function) -> Bdf:
        c = self.configuration
        return Bdf.of(c.address.requester_id + c.distance(function) & 0xFFFF, c.address.segment)

    def address_of(self, function: Function) -> Bdf:
        """Give a function's address now."""
        first = self.functions.first
        return Bdf.of(first.requester_id + self.configuration.distance(function) & 0xFFFF, first.segment)

    @property
    def measurements(self) -> DeviceMeasurements:
        """What the device measures of itself now."""
        return self.runs.measurements

    def present(self) -> Mapping[Bdf, Function]:
        """List the functions that exist now."""
        return self._present.functions()

    def _at(self, function: Bdf) -> Function | None:
        space = self.functions.find(function)
        return None if space is None else self._by_space[space]

    def tdi(self, function: Bdf) -> Tdi:
        """Find the TDI of a function that exists now. Raises `Misuse`."""
        found = self._at(function)
        if found is None:
            raise Misuse(f"{function} does not exist", remedy=f"there is {', '.join(map(str, self.present()))}")
        return self.tdis[found]

    def bus_of(self, function: Bdf) -> FunctionBus:
        """Give a function's way to memory, which its state rules. Raises `Misuse`."""
        return self._buses[self.tdi(function).function]

    def hosted(self) -> Mapping[int, Interface]:
        """Give the interfaces by FUNCTION_ID, with and without the segment, as functions exist now."""
        return self._present.interfaces()

    def _placed(self) -> Iterator[tuple[Function, int, AddressRange]]:
        for function in self.present().values():
            for bar, placed in function.placed().items():
                yield function, bar, placed

    def renumber(self, bus: int) -> None:
        """Take another bus number: all Requester IDs change, and locked TDIs go to ERROR (PCIe Base 11.2)."""
        if bus == self.functions.first.bus:
            return
        self.functions.first = replace(self.functions.first, bus=bus)
        self.port.function = self.functions.first
        self._happen(Event.RID_CHANGED)

    # -- seams: configuration space, BARs, reset

    def config_read(self, function: Bdf, offset: int, size: int) -> int | None:
        """Read configuration space; None if there is no such function now."""
        return self.functions.config_read(function, offset, size)

    def config_write(self, function: Bdf, offset: int, size: int, value: int) -> bool:
        """Write configuration space; False if there is no such function now. Locked or not, the write takes effect."""
        return self.functions.config_write(function, offset, size, value)

    def config_register(self, function: Bdf, offset: int) -> RegisterAccess | None:
        """Give access to one DW of configuration space; None if there is no such function now."""
        return self.functions.config_register(function, offset)

    def bar_read(self, function: Bdf, bar: int, offset: int, size: int, t_bit: bool, stream_id: int | None) -> Reply:
        """Read a BAR as the TDI's state allows, else Unsupported Request."""
        return self._completer.bar_read(function, bar, offset, size, t_bit, stream_id)

    def bar_write(
        self, function: Bdf, bar: int, offset: int, data: bytes, t_bit: bool, stream_id: int | None
    ) -> CompletionStatus:
        """Write a BAR as the TDI's state allows, else Unsupported Request."""
        return self._completer.bar_write(function, bar, offset, data, t_bit, stream_id)

    def reset(self, kind: ResetKind, function: Bdf | None = None) -> None:
        """Reset the whole device, or one function."""
        if kind is ResetKind.CONVENTIONAL:
            self._conventional_reset()
            return
        found = self.present().get(self.functions.first if function is None else function)
        if found is None:
            raise Misuse(f"{function} does not exist", remedy="name a function that is there, and enable its VFs first")
        self._function_level_reset(found)

    def _function_level_reset(self, function: Function) -> None:
        """Reset a function, with a PF its VFs too (PCIe Base 6.6.2, 11.4.9).

        UNCONFIRMED: that SPDM sessions outlive it. They belong to the device, not to the function; their TDIs are in
        ERROR by then.
        """
        affected = [function, *(vf for vf in self.vfs if vf.parent is function)]
        for one in affected:
            self.tdis[one].interface.happen(Event.FLR)
        if function is self.pfs[0]:
            # While the registers still say whom to tell: only a link down or a conventional reset goes without IDE Fail (6.33.8).
            self.port.ide.erase_keys(InsecureCause.FUNCTION_RESET)
        for one in affected:
            one.reset()
        if function is self.pfs[0]:
            self.port.ide.reset()
            self.mailbox.reset()

    def _conventional_reset(self) -> None:
        """Reset everything: TDIs to CONFIG_UNLOCKED, sessions and keys gone (PCIe Base 11.4.8)."""
        self._happen(Event.CONVENTIONAL_RESET)
        self.dsm.reset("conventional reset")
        self.port.link_down()
        for function in self.tdis:
            function.reset()
        self.port.ide.reset(conventional=True)
        self.mailbox.reset()
        self.runs.reset()

    # -- what comes from the port

    def receive(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
        """Take a memory request or a message from the link."""
        return self._completer.receive(tlp, t_bit, stream_id)

    def _insecure(self, stream_id: int, cause: InsecureCause) -> None:
        for tdi in self.tdis.values():
            tdi.stream_insecure(stream_id)

    def _vfs_written(self, register: Register, old: int, new: int) -> None:
        present = set(self.present().values())
        for function in self.vfs:
            if function not in present:
                function.reset()

    def _ranges_written(self, register: Register, old: int, new: int) -> None:
        """See that no BAR has come over a locked TDI's: what must not overlap at LOCK must not come to (11.3.8)."""
        locked = {self.address_of(function): tdi for function, tdi in self.tdis.items() if tdi.state.locked}
        if not locked:
            return
        decoded = list(self.functions.decoded())
        for address, tdi in locked.items():
            if any(tdi.covers(claimed) for function, _, claimed in decoded if function != address):
                tdi.interface.happen(Event.CONFIG_CHANGED)

    def _happen(self, event: Event) -> None:
        for tdi in self.tdis.values():
            tdi.interface.happen(event)

    # -- what goes on inside

    def advance(self, now: float) -> None:
        """Let time pass: sessions without heartbeat end."""
        self.now = now
        self.dsm.expire(now)

    def work(self) -> bool:
        """Let every function do what it has accepted; False if there was nothing to do."""
        worked = [function.model.work() for function in self.present().values()]
        return any(worked)

    def set_debug(self, active: bool) -> None:
        """Turn invasive debug on or off; while on, what the device holds is no longer safe (PCIe Base 11.2, 6.33)."""
        self.runs.debug(active)
        if active:
            self._happen(Event.TRUST_CHANGED)
            self.port.ide.erase_keys()

    def update_firmware(self, firmware: Firmware) -> bool:
        """Run other firmware, as the next measurement shows; False while a TDI is locked with NO_FW_UPDATE."""
        for tdi in self.tdis.values():
            parameters = tdi.interface.parameters
            if tdi.state.locked and parameters is not None and parameters.flags & LockFlags.NO_FW_UPDATE:
                self.observer(Refused(self.configuration.name, "a firmware update", "NO_FW_UPDATE (PCIe Base 11.3.8)"))
                return False
        self.runs.run(firmware)
        return True


def _lost(frame: bytes) -> None:
    """Take what is sent into an open end."""


def _idle_port() -> tuple[IdePort, IdeCapability]:
    """Make a port that no link hangs on: it takes keys, and nothing ever uses them."""
    streams = IdeCapability(1, 0)
    return IdePort(streams, _lost, lambda: 0, name="idle port"), streams
