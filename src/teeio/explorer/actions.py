"""What can happen next: one row for each thing that the VMM, a TVM, the link or a device can do, whether it makes sense or not.

An action that is refused is no error: that it changes nothing is what is explored. A TVM's actions are those of an honest TVM,
at the grain of its calls; the VMM's are the calls that it could make at any time, driven in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from teeio.abi import hypercalls as v
from teeio.abi import memory_seamcalls as m
from teeio.abi import tdcalls as g
from teeio.abi.operands import PAGE_SIZE, DevifOperation, Invalidation, LockParameters, PageLevel
from teeio.errors import TeeioError
from teeio.explorer.world import NAMES, Tenant, World
from teeio.guest.accept import tee_ranges
from teeio.guest.attest import exchange, read_interface
from teeio.pcie.capabilities.sriov import VF_BARS_AT, SriovCapability
from teeio.pcie.doe import DoeBinding
from teeio.pcie.ide_tlp import PREFIX_TYPE
from teeio.scenarios.stage import STREAM_ID
from teeio.spdm.messages import Facts, GetVersion
from teeio.tdisp.messages import DeviceInterfaceReport, LockFlags

K4 = PageLevel.PAGE_4K


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that can happen. `do` raises `TeeioError` where it is refused."""

    name: str
    actor: str
    do: Callable[[World], object]

    def happen(self, world: World) -> str:
        """Let it happen; give why it was refused, or an empty text."""
        try:
            self.do(world)
        except TeeioError as error:
            return str(error).splitlines()[0]
        return ""


# -- an honest TVM, call by call ----------------------------------------------------------------------------------------


def _bind(world: World, own: Tenant) -> None:
    tvm = own.guest.tvm
    tvm.ask(v.TdcmBind(function_id=own.function_id), tvm.vmm.tdcm_bind, world.now())


def _attest(world: World, own: Tenant) -> None:
    """Take the lock's id, then what belongs to it; the evidence counts for that lock alone."""
    tvm, function_id = own.guest.tvm, own.function_id
    own.attested, own.ranges = 0, ()
    info = read_interface(tvm, function_id)
    call = v.TdcmGetTdiReport(function_id=function_id)
    carried, answer = exchange(
        tvm,
        function_id,
        info.bind_session_id,
        DevifOperation.REPORT,
        lambda: tvm.ask(call, tvm.vmm.tdcm_get_tdi_report, world.now()),
    )
    if answer.bind_session_id == info.bind_session_id:
        report = DeviceInterfaceReport.decode(carried.report)
        own.ranges = tee_ranges(report, info.mmio_reporting_offset, own.interface.function.bars)
        own.attested = info.bind_session_id


def _accept(world: World, own: Tenant) -> None:
    tvm, lock = own.guest.tvm, own.attested
    key = read_interface(tvm, own.function_id).public_key_hash
    validate = g.TdgDevifValidate(function_id=own.function_id, bind_session_id=lock, public_key_hash=key)
    tvm.tdcall(validate, tvm.tsm.tdg_devif_validate)
    for found in own.ranges:
        call = g.TdgMmioAccept(
            function_id=own.function_id,
            bind_session_id=lock,
            gpa=found.gpa,
            range_index=found.index,
            page_offset=0,
            count=found.pages,
        )
        tvm.tdcall(call, tvm.tsm.tdg_mmio_accept)


def _accept_dma(world: World, own: Tenant) -> None:
    tvm = own.guest.tvm
    call = g.TdgDmarAccept(function_id=own.function_id, bind_session_id=own.attested)
    tvm.tdcall(call, tvm.tsm.tdg_dmar_accept)


def _allow_start(world: World, own: Tenant) -> None:
    tvm = own.guest.tvm
    tvm.tdcall(g.TdgTdiStart(function_id=own.function_id, bind_session_id=own.attested), tvm.tsm.tdg_tdi_start)


def _write_registers(world: World, own: Tenant) -> None:
    """Write the secret to the device, which only its own TVM may read there."""
    if own.ranges:
        own.guest.tvm.processor.store(own.ranges[-1].gpa + PAGE_SIZE, own.mark[:8])


def _accept_page(world: World, own: Tenant) -> None:
    tvm = own.guest.tvm
    tvm.tdcall(g.TdgMemPageAccept(gpa=own.spare), tvm.tsm.tdg_mem_page_accept)


# -- the VMM ------------------------------------------------------------------------------------------------------------


def _drive(operation: DevifOperation) -> Callable[[World, Tenant], None]:
    def drive(world: World, own: Tenant) -> None:
        lock = LockParameters(int(LockFlags.NO_FW_UPDATE), 0) if operation is DevifOperation.LOCK else None
        world.pci_tsm.guest_req(own.vf, operation, world.now(), lock)

    return drive


def _unbind(world: World, own: Tenant) -> None:
    world.pci_tsm.unbind(own.vf, world.now())


def _give_to_other(world: World, own: Tenant) -> None:
    """Bind the VF to the other TVM."""
    other = next(tenant for tenant in world.tenants if tenant is not own)
    world.pci_tsm.bind(own.vf, other.tdr, world.now())


def _block_page(world: World, own: Tenant) -> None:
    world.tsm.tdh_mem_range_block(m.TdhMemRangeBlock(tdr=own.tdr, gpa=own.secret)).require("TDH.MEM.RANGE.BLOCK")


def _track(world: World, own: Tenant) -> None:
    world.tsm.tdh_mem_track(m.TdhMemTrack(tdr=own.tdr)).require("TDH.MEM.TRACK")


def _flush_iommu(world: World, own: Tenant) -> None:
    iommu_id = next(iter(world.pci_tsm.connections.values())).iommu_id
    request = m.TdhIqinvReq(iommu_id=iommu_id, scope=Invalidation.DOMAIN, target=own.tdr)
    world.tsm.tdh_iqinv_req(request).require("TDH.IQINV.REQ")
    world.tsm.tdh_iqinv_proc(m.TdhIqinvProc(iommu_id=iommu_id)).require("TDH.IQINV.PROC")


def _take_page(world: World, own: Tenant) -> None:
    call = m.TdhMemPageRemove(tdr=own.tdr, gpa=own.secret, level=K4)
    world.held.append(world.tsm.tdh_mem_page_remove(call).require("TDH.MEM.PAGE.REMOVE").pages[0])


def _put_page(world: World, own: Tenant) -> None:
    """Give a page that was taken from some TVM to this one."""
    if world.held:
        call = m.TdhMemPageAug(tdr=own.tdr, gpa=own.spare, hpa=world.held[-1], level=K4)
        world.tsm.tdh_mem_page_aug(call).require("TDH.MEM.PAGE.AUG")
        world.held.pop()


def _block_dma(world: World, own: Tenant) -> None:
    iommu_id = next(iter(world.pci_tsm.connections.values())).iommu_id
    call = m.TdhDmarBlock(iommu_id=iommu_id, function_id=own.function_id)
    world.tsm.tdh_dmar_block(call).require("TDH.DMAR.BLOCK")


def _function_reset(world: World, own: Tenant) -> None:
    world.platform.vmm.vfio.reset(own.vf)


def _move_bars(world: World) -> None:
    """Move BAR 0 of all VFs, and back if it was moved."""
    at = world.pf.extended[SriovCapability.ID] + VF_BARS_AT + 4
    world.pf.config.write(at, 4, world.pf.config.read(at, 4) ^ 1)


def _refresh_keys(world: World) -> None:
    world.pci_tsm.refresh_keys(world.pf, world.now())


# -- the link, and the device on its own --------------------------------------------------------------------------------


def _reset_connection(world: World) -> None:
    """Say GET_VERSION in the clear: the device's sessions end."""
    plain = DoeBinding().wrap(GetVersion().encode(Facts()), secured=False)
    world.platform.device.responder.respond(plain, world.now())


def _forged_tlp(world: World) -> None:
    """Put an IDE TLP on the link that nobody sealed."""
    prefix = bytes((PREFIX_TYPE, 0, STREAM_ID, 0x05))
    header = bytes.fromhex("4000000100000000") + (0x1000).to_bytes(4, "big")
    world.platform.root_complex.fabric.ports[0].receive_frame(prefix + header + bytes(16))


def _dma(world: World, own: Tenant) -> None:
    """Let the VF write its TVM's mark where the secret lies, as its state lets it; T=0 goes nowhere near it."""
    world.platform.device.bus_of(own.vf.address).write(own.secret, own.mark)


_OWN: tuple[tuple[str, str, Callable[[World, Tenant], None]], ...] = (
    ("TVM", "ask to bind and lock", _bind),
    ("TVM", "read the report and the lock's id", _attest),
    ("TVM", "validate, accept MMIO", _accept),
    ("TVM", "accept DMA", _accept_dma),
    ("TVM", "allow the start", _allow_start),
    ("TVM", "write to the device", _write_registers),
    ("TVM", "accept the given page", _accept_page),
    ("VMM", "drive START", _drive(DevifOperation.START)),
    ("VMM", "drive STOP", _drive(DevifOperation.STOP)),
    ("VMM", "drive LOCK", _drive(DevifOperation.LOCK)),
    ("VMM", "drive GET STATE", _drive(DevifOperation.STATE)),
    ("VMM", "unbind", _unbind),
    ("VMM", "bind to the other TVM", _give_to_other),
    ("VMM", "block the page", _block_page),
    ("VMM", "track the TLBs", _track),
    ("VMM", "invalidate the IOTLB", _flush_iommu),
    ("VMM", "take the page away", _take_page),
    ("VMM", "give a taken page", _put_page),
    ("VMM", "block the DMA entry", _block_dma),
    ("VMM", "reset the function", _function_reset),
    ("device", "write to the page", _dma),
)

_COMMON: tuple[tuple[str, str, Callable[[World], None]], ...] = (
    ("VMM", "move the BARs", _move_bars),
    ("VMM", "refresh the IDE keys", _refresh_keys),
    ("link", "reset the SPDM connection", _reset_connection),
    ("link", "forge an IDE TLP", _forged_tlp),
)


def _of(index: int, do: Callable[[World, Tenant], None]) -> Callable[[World], None]:
    return lambda world: do(world, world.tenants[index])


ACTIONS: tuple[Action, ...] = (
    *(
        Action(f"{NAMES[index]}: {name}", f"{actor} {NAMES[index]}" if actor == "TVM" else actor, _of(index, do))
        for index in range(len(NAMES))
        for actor, name, do in _OWN
    ),
    *(Action(name, actor, do) for actor, name, do in _COMMON),
)
"""Everything that can happen, in a fixed order."""
