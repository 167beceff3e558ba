"""What the VMM does with interfaces and memory: the calls that it could make at any time, driven in any order."""

from __future__ import annotations

from collections.abc import Callable

from teeio.abi import memory_seamcalls as m
from teeio.abi.operands import PAGE_SIZE, DevifOperation, Invalidation, LockParameters, PageLevel
from teeio.errors import Misuse
from teeio.explorer.action import Common, Leaves, Own, Topic
from teeio.explorer.world import Tenant, World
from teeio.pcie.capabilities.sriov import VF_BARS_AT, SriovCapability
from teeio.tdisp.messages import LockFlags

K4 = PageLevel.PAGE_4K


def lock_parameters(operation: DevifOperation) -> LockParameters | None:
    """Give what goes with an operation on an interface: LOCK has parameters, nothing else has."""
    return LockParameters(int(LockFlags.NO_FW_UPDATE), 0) if operation is DevifOperation.LOCK else None


def _drive(name: str, operation: DevifOperation, topic: Topic = Topic.LIFE) -> Own:
    def drive(world: World, own: Tenant) -> None:
        world.pci_tsm.guest_req(own.vf, operation, world.now(), lock_parameters(operation))

    return Own("VMM", f"drive {name}", topic, drive, leaves=Leaves.SENT)


def _unbind(world: World, own: Tenant) -> None:
    world.pci_tsm.unbind(own.vf, world.now())


def _give_to_other(world: World, own: Tenant) -> None:
    """Bind the VF to the other TVM."""
    world.pci_tsm.bind(own.vf, world.other(own).tdr, world.now())


def _function_reset(world: World, own: Tenant) -> None:
    world.platform.vmm.vfio.reset(own.vf)


def _move_bars(world: World) -> None:
    """Move BAR 0 of all VFs, and back if it was moved."""
    at = world.pf.extended[SriovCapability.ID] + VF_BARS_AT + 4
    world.pf.config.write(at, 4, world.pf.config.read(at, 4) ^ 1)


def _refresh_keys(world: World) -> None:
    world.pci_tsm.refresh_keys(world.pf, world.now())


# -- private memory -----------------------------------------------------------------------------------------------------


def _block_page(world: World, own: Tenant) -> None:
    world.tsm.tdh_mem_range_block(m.TdhMemRangeBlock(tdr=own.tdr, gpa=own.secret)).require("TDH.MEM.RANGE.BLOCK")


def _track(world: World, own: Tenant) -> None:
    world.tsm.tdh_mem_track(m.TdhMemTrack(tdr=own.tdr)).require("TDH.MEM.TRACK")


def _flush_iommu(world: World, own: Tenant) -> None:
    world.invalidate(Invalidation.IOTLB, own.tdr)


def _take_page(world: World, own: Tenant) -> None:
    call = m.TdhMemPageRemove(tdr=own.tdr, gpa=own.secret, level=K4)
    world.held.append(world.tsm.tdh_mem_page_remove(call).require("TDH.MEM.PAGE.REMOVE").pages[0])


def _put_page(world: World, own: Tenant) -> None:
    """Give a page that was taken from some TVM to this one."""
    if not world.held:
        raise Misuse("the VMM has taken no page")
    _augment(world, own, world.held[-1])
    world.held.pop()


def _augment(world: World, tenant: Tenant, page: int) -> None:
    call = m.TdhMemPageAug(tdr=tenant.tdr, gpa=tenant.spare, hpa=page, level=K4)
    world.tsm.tdh_mem_page_aug(call).require("TDH.MEM.PAGE.AUG")


# -- the VMM's own tables, which may say anything -----------------------------------------------------------------------


def _lead_to(what: str, page: Callable[[World, Tenant], int]) -> tuple[Own, Own]:
    """Lead addresses of the VF's legacy domain, and of the TVM's shared EPT, to a page that is not the VMM's."""

    def legacy(world: World, own: Tenant) -> None:
        own.guest.machine.domain.map(own.secret, page(world, own))

    def shared(world: World, own: Tenant) -> None:
        own.guest.machine.shared_ept.map(own.shared_page, page(world, own))

    return (
        Own("VMM", f"lead a legacy address to {what}", Topic.DMA | Topic.LINK, legacy, of="A"),
        Own("VMM", f"lead a shared address to {what}", Topic.MEMORY, shared, of="A"),
    )


def _secret_page(world: World, own: Tenant) -> int:
    leaf = world.sept(own).leaf(own.secret)
    if leaf is None:
        raise Misuse("the TVM has no such page any more")
    return leaf.hpa


def _root_table(world: World, own: Tenant) -> int:
    table = world.iommu.trusted.root_table
    if table is None:
        raise Misuse("the IOMMU has no trusted tables")
    return table


def _reuse_shared(world: World, own: Tenant) -> None:
    """Give the page that the TVM shares to the other one as its private memory, and leave every cache as it is."""
    machine = own.guest.machine
    page = machine.shared.get(own.shared_page)
    if page is None:
        raise Misuse("the TVM shares no page")
    _augment(world, world.other(own), page)
    del machine.shared[own.shared_page]
    machine.shared_ept.unmap(own.shared_page, PAGE_SIZE)


VMM_ACTIONS: tuple[Own, ...] = (
    _drive("START", DevifOperation.START, Topic.LIFE | Topic.DMA),
    _drive("STOP", DevifOperation.STOP),
    _drive("LOCK", DevifOperation.LOCK),
    _drive("GET STATE", DevifOperation.STATE),
    Own("VMM", "unbind", Topic.LIFE, _unbind, leaves=Leaves.STEPS),
    Own("VMM", "bind to the other TVM", Topic.LIFE, _give_to_other),
    Own("VMM", "reset the function", Topic.LIFE, _function_reset),
    Own("VMM", "block the page", Topic.MEMORY, _block_page),
    Own("VMM", "track the TLBs", Topic.MEMORY, _track),
    Own("VMM", "invalidate the IOTLB", Topic.MEMORY | Topic.DMA, _flush_iommu),
    Own("VMM", "take the page away", Topic.MEMORY, _take_page),
    Own("VMM", "give a taken page", Topic.MEMORY, _put_page),
    *_lead_to("its own secret", _secret_page),
    *_lead_to("the other's secret", lambda world, own: _secret_page(world, world.other(own))),
    *_lead_to("a trusted table", _root_table),
    Own("VMM", "give the shared page to the other TVM", Topic.MEMORY, _reuse_shared, of="A"),
)
"""What the VMM can do with the interface and the memory of each TVM."""

VMM_COMMON: tuple[Common, ...] = (
    Common("VMM", "move the BARs", Topic.LIFE, _move_bars),
    Common("VMM", "refresh the IDE keys", Topic.LIFE | Topic.LINK, _refresh_keys, Leaves.SENT),
)
"""What it can do besides."""
