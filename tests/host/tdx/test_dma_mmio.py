"""MMIO and DMA of an interface: mapped and accepted as reported, by its own TVM, while locked."""

from __future__ import annotations

from typing import Any

from host.tdx.exchanges import bring_to, drive
from host_machine import NOW, Guest, Host
from teeio.abi import device_seamcalls as d
from teeio.abi import memory_seamcalls as m
from teeio.abi import tdcalls as g
from teeio.abi.operands import PAGE_SIZE, DevifOperation, DmarLevel, DmarState, PageLevel
from teeio.abi.statuses import Status
from teeio.host.dmar_tables import offered, qwords
from teeio.host.memory import TSM
from teeio.host.vmm.teardown import Teardown
from teeio.tdisp.messages import DeviceInterfaceReport, InterfaceState, RangeAttributes


def accept(guest: Guest, lock: int, **changes: Any) -> Status:
    operands: dict[str, Any] = {
        "function_id": guest.function_id,
        "bind_session_id": lock,
        "gpa": guest.bar(0),
        "range_index": 0,
        "page_offset": 0,
        "count": 1,
    }
    return guest.tsm.tdg_mmio_accept(g.TdgMmioAccept(**{**operands, **changes})).status


def test_mmio_is_accepted_as_reported_or_not_at_all(guest: Guest) -> None:
    lock = bring_to(guest, InterfaceState.CONFIG_LOCKED)
    assert accept(guest, lock) is Status.MMIO_REPORT_MISMATCH, "no report yet"
    report: DeviceInterfaceReport = guest.report(lock)
    non_tee = next(
        index for index, part in enumerate(report.ranges) if part.attributes & RangeAttributes.IS_NON_TEE_MEM
    )
    for changes, status in (
        ({"bind_session_id": lock + 1}, Status.DEVIF_BIND_SESSION_MISMATCH),
        ({"range_index": 99}, Status.MMIO_REPORT_MISMATCH),
        ({"range_index": -1}, Status.MMIO_REPORT_MISMATCH),
        ({"range_index": non_tee, "gpa": guest.bar(2)}, Status.MMIO_REPORT_MISMATCH),
        ({"range_index": 1}, Status.MMIO_REPORT_MISMATCH),
        ({"page_offset": 1}, Status.MMIO_REPORT_MISMATCH),
        ({"count": 2}, Status.MMIO_REPORT_MISMATCH),
        ({"count": 0}, Status.OPERAND_INVALID),
        ({"page_offset": -1}, Status.OPERAND_INVALID),
        ({"gpa": guest.bar(0) + 1}, Status.OPERAND_INVALID),
        ({"gpa": guest.bar(0) + PAGE_SIZE}, Status.MMIO_REPORT_MISMATCH),
        ({"gpa": 0x10_0000_0000}, Status.EPT_WALK_FAILED),
        ({"level": PageLevel.PAGE_2M}, Status.OPERAND_INVALID),
        (
            {"range_index": 1, "gpa": guest.bar(0) + PAGE_SIZE, "page_offset": 1, "count": 2},
            Status.MMIO_REPORT_MISMATCH,
        ),
    ):
        assert accept(guest, lock, **changes) is status, changes
    assert accept(guest, lock) is Status.SUCCESS
    assert accept(guest, lock) is Status.EPT_ENTRY_STATE_INCORRECT
    later = {"range_index": 1, "gpa": guest.bar(0) + 2 * PAGE_SIZE, "page_offset": 1, "count": 2}
    assert accept(guest, lock, **later) is Status.SUCCESS


def test_swapped_pages_are_not_accepted(guest: Guest) -> None:
    """Attack 53: the VMM maps two pages of the device the other way round."""
    lock = bring_to(guest, InterfaceState.CONFIG_LOCKED)
    mapped = guest.host.vmm.pci_tsm.binding(guest.function).mapped
    bar, gpa = guest.function.bars[0].address, guest.bar(0)
    for index, other in ((1, 2), (2, 1)):
        guest.host.vmm.pci_tsm.mappings.map_mmio(mapped, gpa + index * PAGE_SIZE, bar + other * PAGE_SIZE, PAGE_SIZE)
    guest.report(lock)
    swapped = {"range_index": 1, "gpa": gpa + PAGE_SIZE, "count": 15}
    assert accept(guest, lock, **swapped) is Status.MMIO_REPORT_MISMATCH
    straight = {"range_index": 1, "gpa": gpa + 3 * PAGE_SIZE, "page_offset": 2, "count": 13}
    assert accept(guest, lock, **straight) is Status.SUCCESS


def test_mmio_of_another_tvms_interface_cannot_be_mapped(host: Host) -> None:
    mine, other = Guest(host, "mine", 0), Guest(host, "other", 1)
    mine.bring_up()
    bring_to(other, InterfaceState.CONFIG_LOCKED)
    call = m.TdhMmioMap(tdr=other.machine.tdr, gpa=1 << 33, mmio=mine.function.bars[0].address)
    assert host.module.tdh_mmio_map(call).status is Status.MMIO_DEVIF_OWNER_MISMATCH
    taken = m.TdhMmiomtSet(mmio=call.mmio, count=1, function_id=other.function_id)
    assert host.module.tdh_mmiomt_set(taken).status is Status.MMIO_INVALID_PAGE_METADATA
    entry = host.module.tdh_mmiomt_rd(m.TdhMmiomtRd(mmio=call.mmio)).require("rd")
    assert entry == m.MmioPage(mine.function_id, True)
    twice = m.TdhMmioMap(tdr=mine.machine.tdr, gpa=1 << 33, mmio=call.mmio)
    assert host.module.tdh_mmio_map(twice).status is Status.MMIO_INVALID_PAGE_METADATA


def test_mmio_outside_the_streams_association_cannot_be_mapped(guest: Guest) -> None:
    bring_to(guest, InterfaceState.CONFIG_LOCKED)
    module, page = guest.host.module, guest.host.memory.vmm.allocate()
    mmio = guest.host.vmm.bus.windows[guest.function.root_port].end
    module.tdh_mmiomt_add(m.TdhMmiomtAdd(mmio=mmio, page=page)).require("add")
    module.tdh_mmiomt_set(m.TdhMmiomtSet(mmio=mmio, count=1, function_id=guest.function_id)).require("set")
    call = m.TdhMmioMap(tdr=guest.machine.tdr, gpa=1 << 33, mmio=mmio)
    assert module.tdh_mmio_map(call).status is Status.MMIO_INVALID_PAGE_METADATA
    module.tdh_mmiomt_set(m.TdhMmiomtSet(mmio=mmio, count=1, function_id=0)).require("set")
    module.tdh_mmiomt_remove(m.TdhMmiomtRemove(mmio=mmio)).require("remove")
    guest.host.memory.vmm.free(page)


def test_a_running_interface_keeps_its_mappings(guest: Guest) -> None:
    guest.bring_up()
    module, function_id = guest.host.module, guest.function_id
    assert module.tdh_devif_remove(d.TdhDevifRemove(function_id=function_id)).status is Status.DEVIF_INVALID_STATE
    place = {"tdr": guest.machine.tdr, "gpa": guest.bar(0)}
    assert module.tdh_mmio_unmap(m.TdhMmioUnmap(**place)).status is Status.DEVIF_INVALID_STATE
    module.tdh_mmio_block(m.TdhMmioBlock(**place)).require("block")
    assert module.tdh_mmio_unmap(m.TdhMmioUnmap(**place)).status is Status.DEVIF_INVALID_STATE
    drive(guest, DevifOperation.STOP)
    assert module.tdh_mmio_unmap(m.TdhMmioUnmap(**place)).status is Status.TLB_TRACKING_NOT_DONE
    assert module.tdh_devif_remove(d.TdhDevifRemove(function_id=function_id)).status is Status.DEVIF_HAS_MAPPED_DMA
    mapped = guest.host.vmm.pci_tsm.binding(guest.function).mapped
    Teardown(guest.host.vmm.pci_tsm.mappings.remove_dma(mapped)).run()
    assert module.tdh_devif_remove(d.TdhDevifRemove(function_id=function_id)).status is Status.DEVIF_HAS_MAPPED_MMIO
    guest.host.vmm.pci_tsm.mappings.add_dma(mapped)


def test_dma_is_accepted_by_its_tvm_while_locked(guest: Guest) -> None:
    lock = bring_to(guest, InterfaceState.CONFIG_LOCKED)
    call = g.TdgDmarAccept(function_id=guest.function_id, bind_session_id=lock, target=1)
    assert guest.tsm.tdg_dmar_accept(call).status is Status.OPERAND_INVALID
    read = m.TdhDmarRead(iommu_id=0, function_id=guest.function_id)
    entry: m.DmarRead = guest.host.module.tdh_dmar_read(read).require("read")
    assert entry.state is DmarState.PENDING
    assert entry.entry[0] & (1 << 52) - PAGE_SIZE == guest.machine.tdr
    guest.accept_dma(lock).require("accept")
    assert guest.accept_dma(lock).status is Status.DMAR_INVALID_MAPPING_STATE
    assert guest.host.module.tdh_dmar_read(read).require("read").state is DmarState.PRESENT


def test_dma_entries_lead_to_the_interfaces_own_tvm_only(host: Host) -> None:
    mine, other = Guest(host, "mine", 0), Guest(host, "other", 1)
    bring_to(mine, InterfaceState.CONFIG_LOCKED)
    for changes, status in (
        ({"tdr": other.machine.tdr}, Status.TDI_NOT_PRESENT),
        ({"tdr": 0}, Status.OPERAND_INVALID),
        ({"function_id": other.function_id}, Status.TDI_NOT_PRESENT),
        ({"iommu_id": 5}, Status.OPERAND_INVALID),
        ({}, Status.DMAR_INVALID_MAPPING_STATE),
    ):
        entry = {"level": DmarLevel.PASID, "entry": qwords(offered(DmarLevel.PASID, 0))}
        operands = {"iommu_id": 0, "function_id": mine.function_id, "tdr": mine.machine.tdr, **entry}
        assert host.module.tdh_dmar_add(m.TdhDmarAdd(**{**operands, **changes})).status is status, changes
    gone = m.TdhDmarRead(iommu_id=0, function_id=other.function_id)
    assert host.module.tdh_dmar_read(gone).status is Status.DMAR_ENTRY_NOT_PRESENT
    context = m.TdhDmarRead(iommu_id=0, function_id=other.function_id, level=DmarLevel.CONTEXT)
    assert host.module.tdh_dmar_read(context).require("read").state is DmarState.FREE, "the context table is shared"


def test_tables_are_shared_as_far_as_interfaces_have_them_in_common(host: Host) -> None:
    """Two VFs of one bus: one root entry and one context table, the rest each its own; all of it comes back."""
    before = host.memory.accounting()[TSM]
    guests = [Guest(host, name, number) for number, name in enumerate(("mine", "other"))]
    for guest in guests:
        guest.bring_up()
    levels = [level for level, _, _ in host.module.records.dmar[0].entries()]
    counts = {DmarLevel.ROOT: 1, DmarLevel.CONTEXT: 2, DmarLevel.PASID_DIRECTORY: 2, DmarLevel.PASID: 2}
    assert {level: levels.count(level) for level in DmarLevel} == counts
    guests[0].unbind().require("UNBIND")
    assert guests[1].info().state == int(InterfaceState.RUN)
    assert host.device.bus_of(guests[1].function.address).read(0, 6) == b"kernel"
    guests[1].unbind().require("UNBIND")
    assert not list(host.module.records.dmar[0].entries())
    for guest in guests:
        host.vmm.kvm.destroy(guest.machine, NOW)
    assert host.memory.accounting()[TSM] == before


def test_dma_is_not_accepted_in_run(guest: Guest) -> None:
    lock = bring_to(guest, InterfaceState.CONFIG_LOCKED)
    guest.report(lock)
    guest.validate(lock).require("validate")
    guest.start(lock).require("start")
    assert guest.accept_dma(lock).status is Status.DEVIF_TDISP_INVALID_STATE
