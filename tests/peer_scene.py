"""Two devices or more below one switch, a TSM with the peer-to-peer profile, and a TVM with a VF of each, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from teeio.abi import CALLS, Result
from teeio.abi import peer_calls as p
from teeio.abi.operands import KmOperation
from teeio.accelerator_interface import MEMORY_OFFSET
from teeio.device.bus import FunctionBus
from teeio.device.configuration import Configuration
from teeio.device.models.accelerator import Accelerator
from teeio.device.tdi import Tdi
from teeio.guest.accept import AssignedInterface
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.mailbox import Mailbox
from teeio.host.vmm.pci_tsm import Binding
from teeio.host.vmm.peers import PeerToPeer
from teeio.host.vmm.vfio import UnitKind
from teeio.observe import BoundaryCalled, Event, Observer
from teeio.platform import Guest, Platform

A, B, C = 0, 1, 2
MEMORY = 8 << 20
TVM_MEMORY = 1 << 20
DATA = b"what one device tells the other " * 16


class PeerHost:
    """The host with its devices connected; `tenants` come and go."""

    def __init__(
        self, devices: int = 2, *, peer_to_peer: bool = True, vfs: int = 2, flit_mode: bool = False, **options: Any
    ) -> None:
        self.events: list[Event] = []
        first = Configuration(vfs=vfs, **options)
        self.platform = Platform.assemble(
            seed=5,
            configuration=first,
            others=[first.another(number) for number in range(1, devices)],
            memory_size=MEMORY,
            switch=True,
            flit_mode=flit_mode,
            peer_to_peer=peer_to_peer,
            observer=self.events.append,
        )
        self.vmm, self.module, self.now = self.platform.vmm, self.platform.module, self.platform.now
        self.vmm.pci_tsm.mailboxes = self._mailbox
        self.pfs = self.vmm.bus.enumerate()
        for pf in self.pfs:
            self.vmm.bus.enable_vfs(pf, vfs)
            self.vmm.pci_tsm.connect(pf, self.now())

    def _mailbox(self, function: PciFunction, observer: Observer) -> Mailbox:
        """Carry data objects without the register traffic of the DOE mailbox, across a link that is up."""
        device, link = next(
            (one, link)
            for one, link in zip(self.platform.devices, self.platform.links, strict=True)
            if function.address in one.present()
        )
        mailbox = Mailbox(function, observer)
        mailbox.courier = lambda data, now: (device.responder.respond(data, now) or b"") if link.up else b""
        return mailbox

    def spdm_id(self, number: int) -> int:
        return self.vmm.pci_tsm.connections[self.pfs[number].address].spdm_id

    def check_declared(self) -> None:
        """Every refusal that happened is one that its call declares."""
        for event in self.events:
            if isinstance(event, BoundaryCalled) and event.callee == "TSM":
                declared = {status.name for status in CALLS[event.name].refusals}
                fine = {"SUCCESS", "SPDM_REQUEST", "INTERRUPTED_RESUMABLE"}
                assert event.status in declared | fine, f"{event.name} answered {event.status}"

    def pump(self, number: int, step: Callable[[bytes | None, float], Result[Any]]) -> Result[Any]:
        """Drive a resumable call at a device."""
        return self.vmm.pci_tsm.connections[self.pfs[number].address].mailbox.pump(step, self.now())

    def stream(self, stream_id: int = 7, one: int = A, other: int = B, **changes: Any) -> Any:
        """Create a stream; give the call's result."""
        windows = [self.vmm.bus.windows[self.pfs[number].bridge] for number in (one, other)]
        operands: dict[str, Any] = {
            "spdm_id": self.spdm_id(one),
            "peer_spdm_id": self.spdm_id(other),
            "stream_id": stream_id,
            "memory": windows[0],
            "peer_memory": windows[1],
            "pages": changes.get("pages") or (self.vmm.memory.allocate(),),
        }
        result = self.module.tdh_p2p_stream_create(p.TdhP2pStreamCreate(**(operands | changes)))
        if result.status.is_error and "pages" not in changes:
            self.vmm.memory.free(operands["pages"][0])
        return result

    def km(self, number: int, operation: KmOperation, stream_id: int = 7, response: bytes | None = None) -> Any:
        """Take one step of a turn, without carrying anything."""
        call = p.TdhP2pStreamKm(
            spdm_id=self.spdm_id(number), stream_id=stream_id, operation=operation, response=response
        )
        return self.module.tdh_p2p_stream_km(call, self.now())

    def turn(self, number: int, operation: KmOperation, stream_id: int = 7) -> Any:
        """Take a whole turn at one end."""
        return self.pump(
            number,
            lambda response, at: self.module.tdh_p2p_stream_km(
                p.TdhP2pStreamKm(
                    spdm_id=self.spdm_id(number), stream_id=stream_id, operation=operation, response=response
                ),
                at,
            ),
        )

    def delete(self, stream_id: int = 7, number: int = A) -> None:
        """Take a stream down."""
        spdm_id = self.spdm_id(number)
        self.module.tdh_p2p_stream_block(p.TdhP2pStreamBlock(spdm_id=spdm_id, stream_id=stream_id)).require("BLOCK")
        deleted = self.module.tdh_p2p_stream_delete(p.TdhP2pStreamDelete(spdm_id=spdm_id, stream_id=stream_id))
        self.vmm.memory.free(deleted.require("DELETE").pages[0])


class Tenant:
    """A TVM with the VF `vf` of some devices, each in RUN unless it is to stop before."""

    def __init__(self, host: PeerHost, devices: tuple[int, ...] = (A, B), *, vf: int = 0, run: bool = True) -> None:
        self.host = host
        self.guest: Guest = host.platform.launch("TVM", memory_size=TVM_MEMORY)
        self.tsm, self.vmm = self.guest.tvm.tsm, self.guest.tvm.vmm
        self.vfs: dict[int, PciFunction] = {}
        self.interfaces: dict[int, AssignedInterface] = {}
        for number in devices:
            self._assign(number, vf)
            if run:
                self.bring_up(number)

    def _assign(self, number: int, vf: int) -> None:
        function = self.vfs[number] = self.host.pfs[number].vfs[vf]
        known = {one.function.address for one in self.interfaces.values()}
        self.host.vmm.kvm.assign(self.guest.machine, self.host.vmm.vfio.unit(UnitKind.VF, function.address))
        seen = next(one for one in self.guest.functions() if one.address not in known)
        self.interfaces[number] = AssignedInterface(self.guest.tvm, seen)

    def bring_up(self, number: int) -> None:
        platform = self.host.platform
        verifier = platform.verifier(self.guest.tvm.entropy, platform.devices[number])
        self.interfaces[number].bring_up(verifier, TRUSTED_REGISTERS, self.host.now())

    # -- calls

    def pair(self, one: int = A, other: int = B) -> dict[str, int]:
        return {
            "function_id": self.vfs[one].function_id,
            "peer_function_id": self.vfs[other].function_id,
        }

    def allow(self, one: int = A, other: int = B, **changes: int) -> Any:
        locks = {
            "bind_session_id": self.interfaces[one].bind_session_id,
            "peer_bind_session_id": self.interfaces[other].bind_session_id,
        }
        return self.tsm.tdg_p2p_allow(p.TdgP2pAllow(**(self.pair(one, other) | locks | changes)))

    def info(self, one: int = A, other: int = B) -> p.P2pInfo:
        return self.tsm.tdg_p2p_read(p.TdgP2pRead(**self.pair(one, other))).require("TDG.P2P.READ")

    def ask(self, one: int = A, other: int = B) -> Any:
        """Ask the VMM to bind the pair."""
        return self.vmm.tdcm_p2p_bind(p.TdcmP2pBind(**self.pair(one, other)), self.host.now())

    def connect(self, one: int = A, other: int = B) -> None:
        self.allow(one, other).require("TDG.P2P.ALLOW")
        self.ask(one, other).require("TDCM.P2P.BIND")
        assert self.info(one, other).active

    def bind(self, one: int = A, other: int = B, stream_id: int = 7) -> Any:
        """Make the TSM's call for one end."""
        return self.host.pump(
            one,
            lambda response, at: self.host.module.tdh_p2p_bind(
                p.TdhP2pBind(**self.pair(one, other), stream_id=stream_id, response=response), at
            ),
        )

    def unbind(self, one: int = A, other: int = B) -> Any:
        return self.host.pump(
            one,
            lambda response, at: self.host.module.tdh_p2p_unbind(
                p.TdhP2pUnbind(**self.pair(one, other), response=response), at
            ),
        )

    def invalidate(self, number: int = A) -> Any:
        return self.invalidate_at(self.vfs[number].function_id)

    def invalidate_at(self, function_id: int) -> Any:
        return self.host.module.tdh_p2p_invalidate(p.TdhP2pInvalidate(function_id=function_id))

    # -- what the devices do

    @property
    def peers(self) -> PeerToPeer:
        return self.host.vmm.pci_tsm.peers

    def binding(self, number: int) -> Binding:
        return self.host.vmm.pci_tsm.binding(self.vfs[number])

    def tdi(self, number: int) -> Tdi:
        return self.host.platform.devices[number].tdi(self.vfs[number].address)

    def bus(self, number: int) -> FunctionBus:
        return self.host.platform.devices[number].bus_of(self.vfs[number].address)

    def inbox(self, number: int) -> int:
        """Give the guest address of a device's memory."""
        return self.interfaces[number].ranges[0].gpa + MEMORY_OFFSET

    def held(self, number: int) -> bytes:
        """Look at what a device's memory begins with."""
        model = self.tdi(number).function.model
        assert isinstance(model, Accelerator)
        return bytes(model.memory[: len(DATA)])

    def send(self, one: int = A, other: int = B, data: bytes = DATA) -> None:
        """Let a device write to the other as its model does: translate, then write. Raises `DmaError`."""
        gpa = self.inbox(other)
        self.bus(one).translate(gpa, len(data), write=True)
        self.bus(one).write(gpa, data)
