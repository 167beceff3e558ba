"""Attacks on peer-to-peer, which is this model's own profile of the TSM: entries 57 and 58 of the catalogue."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from teeio.abi import device_seamcalls as d
from teeio.abi import peer_calls as p
from teeio.abi.operands import KmOperation
from teeio.accelerator_interface import MEMORY_OFFSET
from teeio.device.bus import FunctionBus
from teeio.device.configuration import Configuration
from teeio.errors import TeeioError
from teeio.guest.accept import AssignedInterface
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.guest.peers import PeerLink
from teeio.host.tdx.peer_records import PeerLink as PeerRecord
from teeio.host.tdx.queried_registers import SelectiveBlock
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.pci_tsm import Binding
from teeio.host.vmm.peers import Peering
from teeio.host.vmm.resumable import stream_keys
from teeio.host.vmm.vfio import UnitKind
from teeio.pcie.address import AddressRange
from teeio.pcie.ide_tlp import message_code
from teeio.pcie.link import Way
from teeio.pcie.link_mode import NON_FLIT
from teeio.pcie.tlp import MessageCode
from teeio.platform import Guest, Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.scenario import Outcome, Scenario, nothing, without
from teeio.scenarios.stage import Stage

PLANTED = b"from a device that its TVM has not any more"
_FIRST = Configuration(vfs=2)
_TVM_MEMORY = 1 << 20


class Tenant:
    """A TVM with an interface of each device, both in RUN."""

    def __init__(self, stage: PeerStage, name: str, vfs: tuple[PciFunction, PciFunction]) -> None:
        self.stage, self.vfs = stage, vfs
        self.guest: Guest = stage.platform.launch(name, memory_size=_TVM_MEMORY)
        self.interfaces = [self._bring_up(number) for number in (0, 1)]
        self.link = PeerLink(*self.interfaces)

    def _bring_up(self, number: int) -> AssignedInterface:
        platform, before = self.stage.platform, {function.address for function in self.guest.functions()}
        unit = platform.vmm.vfio.unit(UnitKind.VF, self.vfs[number].address)
        platform.vmm.kvm.assign(self.guest.machine, unit)
        found = next(one for one in self.guest.functions() if one.address not in before)
        interface = AssignedInterface(self.guest.tvm, found)
        verifier = platform.verifier(self.guest.tvm.entropy, platform.devices[number])
        interface.bring_up(verifier, TRUSTED_REGISTERS, platform.now())
        return interface

    @property
    def inbox(self) -> int:
        """Where this TVM has the memory of B."""
        return self.interfaces[1].ranges[0].gpa + MEMORY_OFFSET

    def received(self) -> bytes:
        """Read the memory of B as its TVM does."""
        window = self.interfaces[1].window(0, MEMORY_OFFSET, 64)
        at = range(0, len(PLANTED) & -8, 8)
        return b"".join(window.read(offset, 8, self.stage.platform.now()).to_bytes(8, "little") for offset in at)


class PeerStage:
    """Two connected devices below one switch, and a TVM with an interface of each; the VMM's means against them."""

    def __init__(self, platform: Platform, journal: Journal) -> None:
        self.platform, self.journal = platform, journal
        self.pci_tsm, self.now = platform.vmm.pci_tsm, platform.now
        with journal.step("VMM", "enumerate two devices below one switch, and connect them"):
            self.pfs = platform.vmm.bus.enumerate()
            for pf in self.pfs:
                platform.vmm.bus.enable_vfs(pf, 2)
                self.pci_tsm.connect(pf, self.now())
        with journal.step("TVM", "bring up an interface of each"):
            self.first = Tenant(self, "TVM", (self.pfs[0].vfs[0], self.pfs[1].vfs[0]))

    @property
    def engine(self) -> FunctionBus:
        """What the first TVM's interface of A sends with."""
        return self.platform.devices[0].bus_of(self.first.vfs[0].address)

    def send(self) -> None:
        """Let A write to where the first TVM has B's memory, as its cache has it. Raises `DmaError`."""
        self.engine.translate(self.first.inbox, len(PLANTED), write=True)
        self.engine.write(self.first.inbox, PLANTED)

    def connect(self, tenant: Tenant) -> str:
        """Let a TVM ask for direct access; say why it has none."""
        try:
            tenant.link.connect(self.now())
        except TeeioError as error:
            return str(error).splitlines()[0]
        return ""


# -- 57


def _another_association(platform: Platform, journal: Journal) -> Outcome:
    """Tell the TSM of another address association than the registers get, which say where a device's T=1 requests go."""
    stage = PeerStage(platform, journal)
    outcome = Outcome("told the TSM of another address association than it wrote, and let both interfaces be bound")
    peers = platform.vmm.pci_tsm.peers
    honest = peers._create

    def create(peering: Peering, memory: tuple[AddressRange, AddressRange]) -> None:
        honest(peering, (memory[0], AddressRange(0, 0)))

    with journal.step("VMM", "attack: tell the TSM of another association"), Stage.instead(peers, "_create", create):
        said = stage.connect(stage.first)
    outcome.see(f"the TVM asks for direct access: {said or 'granted'}", bool(said))
    active = stage.first.link.active
    outcome.see(f"the TSM vouches for the peers: {'yes' if active else 'no'}", not active)
    return outcome


# -- 58


def _without_ide_fail(frame: bytes, way: Way) -> bytes | None:
    """Keep every IDE Fail from the device."""
    plain = NON_FLIT.stream_of(frame) is None
    return None if plain and message_code(NON_FLIT.decode(frame)) == MessageCode.IDE_FAIL else frame


def _given_up_peer(platform: Platform, journal: Journal) -> Outcome:
    """Take A's interface from its TVM while it runs on, and give its peer's place and their stream to the next TVM."""
    stage = PeerStage(platform, journal)
    outcome = Outcome(
        "let an interface run on that the TSM has given up, and gave its peer and their stream to another TVM"
    )
    with journal.step("TVM", "connect the peers; A writes to B"):
        stage.first.link.connect(stage.now())
        stage.send()
    peering = stage.pci_tsm.peers.peerings.pop()
    platform.links[0].tamper = _without_ide_fail
    with journal.step("VMM", "attack: block A's stream to the root port, take A away, set the stream up again"):
        _give_up(stage)
    with journal.step("VMM", "attack: give B, stopped and scrubbed, to another TVM, and bind it to the old stream"):
        machine = stage.first.guest.machine
        place = next(at for at, found in machine.functions.items() if found.function is stage.first.vfs[1])
        platform.vmm.kvm.remove_function(machine, place, stage.now())
        second = Tenant(stage, "next TVM", (stage.pfs[0].vfs[1], stage.pfs[1].vfs[0]))
        said = _bind_to(stage, second, peering)
    outcome.see(f"the next TVM's pair on the old stream: {said or 'bound'}", bool(said))
    with journal.step("device", "A's interface writes to where its peer was"):
        stage.engine.write(stage.first.inbox, PLANTED)
    found = second.received()
    outcome.see(f"the next TVM reads in B's memory: {found[:16].hex()}", not any(found))
    return outcome


def _give_up(stage: PeerStage) -> None:
    """Make all calls that a VMM makes but STOP; a refresh before lets the set-up of the other keys go unnoticed."""
    binding: Binding = stage.pci_tsm.binding(stage.first.vfs[0])
    connection, tsm, pci_tsm = binding.connection, stage.platform.module, stage.pci_tsm
    spdm_id, stream_id = connection.spdm_id, connection.stream.stream_id
    stream = tsm.records.context(spdm_id).stream(stream_id)
    pci_tsm.refresh_keys(stage.pfs[0], stage.now())
    tsm.tdh_ide_stream_block(d.TdhIdeStreamBlock(spdm_id=spdm_id, stream_id=stream_id)).require("BLOCK")
    tsm.tdh_p2p_invalidate(p.TdhP2pInvalidate(function_id=binding.function_id)).require("INVALIDATE")
    mappings = pci_tsm.mappings
    for step in (*mappings.remove_dma(binding.mapped), *mappings.unmap_mmio(binding.mapped)):
        step()
    tsm.tdh_devif_remove(d.TdhDevifRemove(function_id=binding.function_id)).require("REMOVE")
    del connection.bindings[stage.first.vfs[0].address]
    delete = d.TdhIdeStreamDelete(spdm_id=spdm_id, stream_id=stream_id)
    create = d.TdhIdeStreamCreate(
        spdm_id=spdm_id,
        stream_id=stream_id,
        requesters=(stream.requesters.start, stream.requesters.stop - 1),
        memory=stream.memory,
        pages=tsm.tdh_ide_stream_delete(delete).require("DELETE").pages,
    )
    tsm.tdh_ide_stream_create(create).require("CREATE")
    keys = stream_keys(tsm, spdm_id, stream_id, KmOperation.SETUP)
    connection.mailbox.pump(keys, stage.now()).require("KM")


def _bind_to(stage: PeerStage, tenant: Tenant, peering: Peering) -> str:
    """Give the old stream new keys and bind a pair to it; say what the refusal was."""
    peers = stage.pci_tsm.peers
    one, other = (stage.pci_tsm.binding(vf) for vf in tenant.vfs)

    def bind(*_: object) -> None:
        peers._keys(replace(peering, bindings=(one, other)), KmOperation.REFRESH, stage.now())
        for bound, peer in ((one, other), (other, one)):
            peers._bind(bound, peer, peering.stream_id, stage.now())

    with Stage.instead(peers, "bind", bind):
        return stage.connect(tenant)


_OPTIONS = MappingProxyType(
    {
        "configuration": _FIRST,
        "others": [_FIRST.another(1)],
        "memory_size": 8 << 20,
        "switch": True,
        "peer_to_peer": True,
    }
)

PEERS = (
    Scenario(
        57,
        "another-association",
        "the VMM gives a peer-to-peer stream another address association than it tells the TSM",
        "VMM",
        "run",
        "this model's peer-to-peer profile: QUERY_RESP over the session before a binding (PCIe Base 6.33.3)",
        _another_association,
        (without("the TSM's look at the stream's registers", SelectiveBlock, "problem", nothing),),
        _OPTIONS,
    ),
    Scenario(
        58,
        "given-up-peer",
        "a device that the TSM has given up writes to the next TVM at its peer's place",
        "VMM and link",
        "run",
        "this model's peer-to-peer profile: a stream serves another pair only after its devices have released it",
        _given_up_peer,
        (without("the wait for the devices' own word", PeerRecord, "unreleased", frozenset()),),
        _OPTIONS,
    ),
)
