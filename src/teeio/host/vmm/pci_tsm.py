"""The VMM's side of TDISP, in the verbs of Linux PCI/TSM: connect, disconnect, bind, unbind, guest_req.

connect: SPDM session and IDE stream of a device; bind: one interface for a TVM, with its place in the trusted tables,
not yet locked; guest_req: drive an exchange that the TVM or the VMM itself asks for. A step that fails is undone with
all before it. Order of steps: Linux's TDX host driver; the TSM writes the root port's stream registers,
the VMM the device's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from math import inf

from teeio.abi import CallRefused, Result, VmmToTsm
from teeio.abi import device_seamcalls as d
from teeio.abi import memory_seamcalls as m
from teeio.abi.operands import (
    DevifOperation,
    KmOperation,
    LockParameters,
    PagesReturned,
    SpdmOperation,
    StreamOptions,
)
from teeio.abi.statuses import Status
from teeio.errors import Busy, Incompatible, Misuse, TeeioError
from teeio.host.memory import VmmMemory
from teeio.host.vmm.bus import PciBus, PciFunction, is_dsm
from teeio.host.vmm.mailbox import Mailbox, Waiting
from teeio.host.vmm.page_lender import PageLender
from teeio.host.vmm.peers import PeerToPeer
from teeio.host.vmm.resumable import interface_exchange, session_end, stream_keys
from teeio.host.vmm.stream_registers import DeviceStream
from teeio.host.vmm.teardown import Teardown
from teeio.host.vmm.trusted_mappings import MappedInterface, TrustedMappings
from teeio.observe import Observer, ignore
from teeio.pcie.address import AddressRange, Bdf


@dataclass(slots=True)
class Connection:
    """A connected device: its DSM, mailbox, session, stream, evidence, and the interfaces bound over it, in order.

    `kept_at` is when the VMM last saw to the session.
    """

    dsm: PciFunction
    mailbox: Mailbox
    iommu_id: int
    spdm_id: int
    stream: DeviceStream
    evidence: d.SpdmConnected
    kept_at: float
    bindings: dict[Bdf, Binding] = field(default_factory=dict)
    teardown: Teardown | None = None

    @property
    def keep_at(self) -> float:
        """When its session needs the next heartbeat; never, if the device has set no period."""
        return self.kept_at + self.evidence.heartbeat_period / 2 if self.evidence.heartbeat_period else inf


@dataclass(slots=True, eq=False)
class Binding:
    """An interface bound to a TVM, and what is mapped of it."""

    function: PciFunction
    tdr: int
    connection: Connection
    mapped: MappedInterface
    teardown: Teardown | None = None

    @property
    def function_id(self) -> int:
        """FUNCTION_ID of the interface."""
        return self.function.function_id


class PciTsm:
    """The VMM's use of one TSM. Public verbs raise `TeeioError`.

    What `connect` and `bind` did before they raise is undone; `disconnect` and `unbind` go on where they stopped when
    they are called again.
    """

    def __init__(self, tsm: VmmToTsm, bus: PciBus, memory: VmmMemory, observer: Observer = ignore) -> None:
        self._tsm = tsm
        self._bus = bus
        self._lender = PageLender(memory)
        self._observer = observer
        self.mappings = TrustedMappings(tsm, self._lender)
        self.peers = PeerToPeer(tsm, self._lender, self._quieten)
        self.mappings.empty_device_tlbs = self.peers.empty_caches
        self.connections: dict[Bdf, Connection] = {}
        self.mailboxes: Callable[[PciFunction, Observer], Mailbox] = Mailbox
        self.wait: Waiting | None = None
        """How to wait for devices, if there is time that can pass."""
        self.stream_options = StreamOptions()
        """What streams to devices are set to unless `connect` is told otherwise."""

    # -- connect and disconnect

    def connect(self, dsm: PciFunction, now: float, options: StreamOptions | None = None) -> Connection:
        """Set up session and stream of a device. Raises `Incompatible` if it cannot have them, or not with these options."""
        if dsm.address in self.connections:
            raise Misuse(f"{dsm.address} is connected", remedy="disconnect it first")
        if not is_dsm(dsm):
            raise Incompatible(f"{dsm.address} is no DSM: it needs function 0 with DOE, and IDE or TEE-IO")
        mailbox = self.mailboxes(dsm, self._observer)
        mailbox.wait = self.wait or mailbox.wait
        iommu_id = self._bus.host.iommu_of(dsm.root_port)
        with ExitStack() as undo:
            self._use_iommu(iommu_id, undo)
            spdm_id = self._create_session(dsm, iommu_id, undo)
            evidence = mailbox.pump(
                lambda response, at: self._tsm.tdh_spdm_connect(
                    d.TdhSpdmConnect(spdm_id=spdm_id, response=response), at
                ),
                now,
            ).require("TDH.SPDM.CONNECT")
            undo.callback(self._end_session, mailbox, spdm_id, now)
            stream = self._set_up_stream(dsm, mailbox, spdm_id, options or self.stream_options, now, undo)
            undo.pop_all()
        connection = Connection(dsm, mailbox, iommu_id, spdm_id, stream, evidence, now)
        self.connections[dsm.address] = connection
        return connection

    def disconnect(self, dsm: PciFunction, now: float) -> None:
        """Unbind all interfaces, last first, and end stream and session, whatever the device says."""
        connection = self._connected(dsm)
        for binding in reversed(list(connection.bindings.values())):
            self.unbind(binding.function, now)
        mailbox, spdm_id, stream = connection.mailbox, connection.spdm_id, connection.stream
        connection.teardown = connection.teardown or Teardown(
            [
                stream.disable,
                partial(self._km, mailbox, spdm_id, stream.stream_id, KmOperation.STOP, now),
                partial(self._delete_stream, spdm_id, stream),
                partial(self._end_session, mailbox, spdm_id, now),
                partial(self._delete_session, spdm_id),
                partial(self._leave_iommu, connection.iommu_id, leaving=connection),
            ]
        )
        connection.teardown.run()
        del self.connections[dsm.address]

    def manage(self, dsm: PciFunction, operation: SpdmOperation, now: float) -> d.SpdmConnected:
        """Keep the session of a device: heartbeat, key update, or measurements taken again."""
        connection = self._connected(dsm)
        connection.kept_at = now
        result = connection.mailbox.pump(
            lambda response, at: self._tsm.tdh_spdm_mng(
                d.TdhSpdmMng(spdm_id=connection.spdm_id, operation=operation, response=response), at
            ),
            now,
        )
        connection.evidence = result.require("TDH.SPDM.MNG")
        return connection.evidence

    def refresh_keys(self, dsm: PciFunction, now: float) -> None:
        """Give the device's stream new keys while it is in use."""
        connection = self._connected(dsm)
        operation, stream_id = KmOperation.REFRESH, connection.stream.stream_id
        self._km(connection.mailbox, connection.spdm_id, stream_id, operation, now).require("TDH.IDE.STREAM.KM")

    def _connected(self, dsm: PciFunction) -> Connection:
        found = self.connections.get(dsm.address)
        if found is None:
            raise Misuse(f"{dsm.address} is not connected", remedy="connect it first")
        return found

    def _use_iommu(self, iommu_id: int, undo: ExitStack) -> None:
        """Put the IOMMU into TDX mode if it is not; that it is, is no error."""
        if any(connection.iommu_id == iommu_id for connection in self.connections.values()):
            return
        self._lender.give(
            lambda pages: self._tsm.tdh_iommu_setup(m.TdhIommuSetup(iommu_id=iommu_id, pages=pages)), m.IOMMU_PAGES
        ).require("TDH.IOMMU.SETUP")
        undo.callback(self._leave_iommu, iommu_id)

    def _leave_iommu(self, iommu_id: int, leaving: Connection | None = None) -> None:
        """Take the IOMMU out of TDX mode unless another device still needs it."""
        others = [connection for connection in self.connections.values() if connection is not leaving]
        if not any(connection.iommu_id == iommu_id for connection in others):
            self._take_back(self._tsm.tdh_iommu_clear(m.TdhIommuClear(iommu_id=iommu_id)), "TDH.IOMMU.CLEAR")

    def _take_back(self, result: Result[PagesReturned], call: str) -> None:
        result.require(call)
        self._lender.take_back(result)

    def _create_session(self, dsm: PciFunction, iommu_id: int, undo: ExitStack) -> int:
        created = self._lender.give(
            lambda pages: self._tsm.tdh_spdm_create(
                d.TdhSpdmCreate(
                    iommu_id=iommu_id,
                    function_id=dsm.function_id,
                    root_port=dsm.root_port.requester_id,
                    pages=pages,
                )
            )
        ).require("TDH.SPDM.CREATE")
        undo.callback(self._delete_session, created.spdm_id)
        return created.spdm_id

    def _delete_session(self, spdm_id: int) -> None:
        self._take_back(self._tsm.tdh_spdm_delete(d.TdhSpdmDelete(spdm_id=spdm_id)), "TDH.SPDM.DELETE")

    def _end_session(self, mailbox: Mailbox, spdm_id: int, now: float) -> None:
        ended = mailbox.pump(session_end(self._tsm, spdm_id), now)
        if ended.status is not Status.SPDM_SESSION_NOT_PRESENT:  # a session that is over already is as wanted
            ended.require("TDH.SPDM.DISCONNECT")

    # -- the stream

    def _set_up_stream(
        self,
        dsm: PciFunction,
        mailbox: Mailbox,
        spdm_id: int,
        options: StreamOptions,
        now: float,
        undo: ExitStack,
    ) -> DeviceStream:
        stream = DeviceStream.free(dsm, self._free_stream_id(dsm.root_port))
        stream.require(options)
        self._lender.give(
            lambda pages: self._tsm.tdh_ide_stream_create(
                d.TdhIdeStreamCreate(
                    spdm_id=spdm_id,
                    stream_id=stream.stream_id,
                    requesters=(dsm.function_id, dsm.last_requester),
                    memory=self._association(dsm),
                    pages=pages,
                    options=options,
                )
            )
        ).require("TDH.IDE.STREAM.CREATE")
        undo.callback(self._delete_stream, spdm_id, stream)
        self._bus.let_streams_through(dsm)
        stream.associate(dsm.root_port, options=options)
        undo.callback(stream.clear)
        self._km(mailbox, spdm_id, stream.stream_id, KmOperation.SETUP, now).require("TDH.IDE.STREAM.KM")
        if not stream.enable():
            raise Incompatible(f"IDE stream {stream.stream_id} of {dsm.address} did not become Secure")
        return stream

    def _free_stream_id(self, root_port: Bdf) -> int:
        """Give a Stream ID that no other device behind the root port uses; 0 is what registers reset to."""
        used = {c.stream.stream_id for c in self.connections.values() if c.dsm.root_port == root_port}
        return next(stream_id for stream_id in range(1, 256) if stream_id not in used)

    def _association(self, dsm: PciFunction) -> AddressRange:
        """Give the window of the port at the other end of the device's link: all memory of the device."""
        return self._bus.windows[dsm.bridge]

    def _km(self, mailbox: Mailbox, spdm_id: int, stream_id: int, operation: KmOperation, now: float) -> Result[None]:
        return mailbox.pump(stream_keys(self._tsm, spdm_id, stream_id, operation), now)

    def _delete_stream(self, spdm_id: int, stream: DeviceStream) -> None:
        stream_id = stream.stream_id
        self._tsm.tdh_ide_stream_block(d.TdhIdeStreamBlock(spdm_id=spdm_id, stream_id=stream_id))
        stream.clear()
        deleted = self._tsm.tdh_ide_stream_delete(d.TdhIdeStreamDelete(spdm_id=spdm_id, stream_id=stream_id))
        self._take_back(deleted, "TDH.IDE.STREAM.DELETE")

    # -- bind and unbind

    def bind(self, function: PciFunction, tdr: int, now: float) -> Binding:
        """Give an interface to a TVM, with a trusted DMA entry that the TVM may accept. It is not locked by this.

        If the TSM wants new keys first, as another binding of the interface had traffic under these, the stream gets them. Binding
        again to the same TVM changes nothing; to another one is refused. Raises `Busy` amid an exchange, as a lock follows.
        """
        connection = self._connection_of(function)
        connection.mailbox.expect_free()
        bound = connection.bindings.get(function.address)
        if bound is not None:
            if bound.tdr != tdr:
                raise Misuse(f"{function.address} is bound to another TVM", remedy="unbind it first")
            if bound.teardown is not None:
                raise Misuse(f"{function.address} is only half unbound", remedy="unbind it again")
            return bound
        with ExitStack() as undo:
            created = self._create_interface(function, tdr, connection)
            if created.status is Status.IDE_STREAM_NEEDS_NEW_KEYS:
                self.refresh_keys(connection.dsm, now)
                created = self._create_interface(function, tdr, connection)
            created.require("TDH.DEVIF.CREATE")
            undo.callback(self._remove_interface, function.function_id)
            mapped = MappedInterface(function.function_id, tdr, connection.iommu_id)
            self.mappings.add_dma(mapped)
            undo.pop_all()
        binding = Binding(function, tdr, connection, mapped)
        connection.bindings[function.address] = binding
        return binding

    def _create_interface(self, function: PciFunction, tdr: int, connection: Connection) -> Result[None]:
        return self._lender.give(
            lambda pages: self._tsm.tdh_devif_create(
                d.TdhDevifCreate(
                    tdr=tdr,
                    function_id=function.function_id,
                    spdm_id=connection.spdm_id,
                    stream_id=connection.stream.stream_id,
                    pages=pages,
                )
            )
        )

    def map_mmio(self, binding: Binding, gpa: int, mmio: int, size: int, now: float) -> None:
        """Map MMIO of a bound interface privately, for its TVM to accept. Raises `CallRefused`.

        If the TSM wants new keys first, as the MMIO was another interface's under these, the stream gets them.
        """
        try:
            self.mappings.map_mmio(binding.mapped, gpa, mmio, size)
        except CallRefused as refused:
            if refused.status is not Status.IDE_STREAM_NEEDS_NEW_KEYS:
                raise
            self.refresh_keys(binding.connection.dsm, now)
            self.mappings.map_mmio(binding.mapped, gpa, mmio, size)

    def unbind(self, function: PciFunction, now: float) -> None:
        """Stop an interface and take it from its TVM; if it cannot be stopped its stream is blocked, for all on it."""
        binding = self.binding(function)
        binding.teardown = binding.teardown or Teardown(
            [
                partial(self.peers.release, binding, now),
                partial(self._quieten, binding, now),
                *self.mappings.remove_dma(binding.mapped),
                *self.mappings.unmap_mmio(binding.mapped),
                partial(self._remove_interface, binding.function_id),
            ]
        )
        binding.teardown.run()
        del binding.connection.bindings[function.address]

    def _quieten(self, binding: Binding, now: float) -> None:
        function, connection = binding.function, binding.connection
        try:
            self.guest_req(function, DevifOperation.STOP, now)
        except Busy:
            raise  # the device was not asked: no reason to stop the others on the stream
        except TeeioError:
            stream_id = connection.stream.stream_id
            self._tsm.tdh_ide_stream_block(
                d.TdhIdeStreamBlock(spdm_id=connection.spdm_id, stream_id=stream_id)
            ).require("TDH.IDE.STREAM.BLOCK")
            connection.stream.disable()

    def is_bound(self, function: PciFunction) -> bool:
        """Tell whether an interface is bound to some TVM."""
        return any(function.address in connection.bindings for connection in self.connections.values())

    def binding(self, function: PciFunction) -> Binding:
        """Look a binding up. Raises `Misuse`."""
        for connection in self.connections.values():
            if function.address in connection.bindings:
                return connection.bindings[function.address]
        raise Misuse(f"{function.address} is not bound", remedy="bind it first")

    def dsm_of(self, function: PciFunction) -> PciFunction | None:
        """Give the DSM of a function whose device is connected."""
        return next((one.dsm for one in self.connections.values() if one.dsm.bridge == function.bridge), None)

    def _connection_of(self, function: PciFunction) -> Connection:
        """Find the connection of the device that a function belongs to."""
        dsm = self.dsm_of(function)
        if dsm is not None:
            return self.connections[dsm.address]
        raise Misuse(f"the device of {function.address} is not connected", remedy="connect its function 0 first")

    def _remove_interface(self, function_id: int) -> None:
        self._take_back(self._tsm.tdh_devif_remove(d.TdhDevifRemove(function_id=function_id)), "TDH.DEVIF.REMOVE")

    # -- exchanges with an interface

    def guest_req(
        self, function: PciFunction, operation: DevifOperation, now: float, lock: LockParameters | None = None
    ) -> d.DevifCompleted:
        """Drive one exchange with a bound interface. Raises `CallRefused`."""
        binding = self.binding(function)
        step = interface_exchange(self._tsm, binding.function_id, operation, lock)
        return binding.connection.mailbox.pump(step, now).require(f"TDH.DEVIF.REQUEST {operation.name}")
