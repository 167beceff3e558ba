"""What the VMM has the TSM do to trusted DMA entries and private MMIO, step by step and with the wrong operands."""

from __future__ import annotations

from teeio.abi import memory_seamcalls as m
from teeio.abi.operands import PAGE_SIZE, DmarLevel, Invalidation
from teeio.explorer.action import Own, Topic
from teeio.explorer.world import Tenant, World
from teeio.host.dmar_tables import offered, qwords
from teeio.host.vmm.trusted_mappings import MappedInterface

# -- trusted DMA --------------------------------------------------------------------------------------------------------


def _block_dma(world: World, own: Tenant) -> None:
    call = m.TdhDmarBlock(iommu_id=world.iommu_id, function_id=own.function_id)
    world.tsm.tdh_dmar_block(call).require("TDH.DMAR.BLOCK")


def _invalidate_dma(world: World, own: Tenant) -> None:
    world.invalidate(Invalidation.PASID, own.function_id)


def _remove_dma(world: World, own: Tenant) -> None:
    call = m.TdhDmarRemove(iommu_id=world.iommu_id, function_id=own.function_id)
    world.tsm.tdh_dmar_remove(call).require("TDH.DMAR.REMOVE")


def _add_dma(world: World, own: Tenant, tenant: Tenant) -> None:
    entry = qwords(offered(DmarLevel.PASID, 0))
    call = m.TdhDmarAdd(
        iommu_id=world.iommu_id, function_id=own.function_id, level=DmarLevel.PASID, entry=entry, tdr=tenant.tdr
    )
    world.tsm.tdh_dmar_add(call).require("TDH.DMAR.ADD")


# -- private MMIO -------------------------------------------------------------------------------------------------------


def _map_crosswise(world: World, own: Tenant) -> None:
    """Map two pages of the device's memory, each where the other belongs, before the right ones are asked for."""
    binding = world.pci_tsm.binding(own.vf)
    first, second = own.device_page, own.device_page + PAGE_SIZE
    shift = own.registers - own.vf.bars[0].address
    for gpa, other in ((first, second), (second, first)):
        world.pci_tsm.map_mmio(binding, gpa, other - shift, PAGE_SIZE, world.now())


def _map_for_other(world: World, own: Tenant) -> None:
    """Map the page of this interface, on which its TVM's secret will lie, for the other TVM where its own belongs."""
    other = world.other(own)
    binding = world.pci_tsm.binding(other.vf).mapped
    lying = MappedInterface(own.function_id, other.tdr, world.iommu_id, binding.pages, binding.regions)
    mmio = own.vf.bars[0].address + own.device_page - own.registers
    world.pci_tsm.mappings.map_mmio(lying, other.device_page, mmio, PAGE_SIZE)


def _block_mmio(world: World, own: Tenant) -> None:
    world.tsm.tdh_mmio_block(m.TdhMmioBlock(tdr=own.tdr, gpa=own.device_page)).require("TDH.MMIO.BLOCK")


def _unmap_mmio(world: World, own: Tenant) -> None:
    world.tsm.tdh_mmio_unmap(m.TdhMmioUnmap(tdr=own.tdr, gpa=own.device_page)).require("TDH.MMIO.UNMAP")


def _disown_mmio(world: World, own: Tenant) -> None:
    """Say that a page of the interface is the other's, whether it is mapped or not."""
    mmio = own.vf.bars[0].address + own.device_page - own.registers
    for function_id in (0, world.other(own).function_id):
        call = m.TdhMmiomtSet(mmio=mmio, count=1, function_id=function_id)
        world.tsm.tdh_mmiomt_set(call).require("TDH.MMIOMT.SET")


def _map_again(world: World, own: Tenant) -> None:
    """Map the page of the interface at a second guest address."""
    mmio = own.vf.bars[0].address + own.device_page - own.registers
    world.tsm.tdh_mmio_map(m.TdhMmioMap(tdr=own.tdr, gpa=own.registers - PAGE_SIZE, mmio=mmio)).require("TDH.MMIO.MAP")


TABLE_ACTIONS: tuple[Own, ...] = (
    Own("VMM", "block the DMA entry", Topic.DMA, _block_dma),
    Own("VMM", "invalidate the DMA entry", Topic.DMA, _invalidate_dma, of="A"),
    Own("VMM", "remove the DMA entry", Topic.DMA, _remove_dma, of="A"),
    Own("VMM", "add the DMA entry", Topic.DMA, lambda world, own: _add_dma(world, own, own), of="A"),
    Own(
        "VMM",
        "add the DMA entry for the other TVM",
        Topic.DMA,
        lambda world, own: _add_dma(world, own, world.other(own)),
        of="A",
    ),
    Own("VMM", "map MMIO crosswise", Topic.MMIO, _map_crosswise, of="A"),
    Own("VMM", "map MMIO for the other TVM", Topic.MMIO, _map_for_other, of="A"),
    Own("VMM", "block the MMIO page", Topic.MMIO, _block_mmio, of="A"),
    Own("VMM", "unmap the MMIO page", Topic.MMIO, _unmap_mmio, of="A"),
    Own("VMM", "give the MMIO page to the other interface", Topic.MMIO, _disown_mmio, of="A"),
    Own("VMM", "map the MMIO page twice", Topic.MMIO, _map_again, of="A"),
)
"""What the VMM can do to the trusted entry and the private MMIO of each interface."""
