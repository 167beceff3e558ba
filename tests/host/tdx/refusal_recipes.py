"""How to bring about refusals that a walk with good operands does not meet: each recipe ends with the calls that are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from host.tdx.exchanges import LOCK, bring_to, request
from host_machine import NOW, Guest, Host
from large_accelerator import LARGE, LARGE_BAR, LargeAccelerator
from teeio.abi import CallRefused
from teeio.abi import device_seamcalls as d
from teeio.abi import memory_seamcalls as m
from teeio.abi import tdcalls as g
from teeio.abi.operands import (
    PAGE_SIZE,
    DevifOperation,
    DmarLevel,
    Invalidation,
    KmOperation,
    PageLevel,
    StreamOptions,
)
from teeio.abi.statuses import Status
from teeio.errors import Misuse
from teeio.host.dmar_tables import offered, qwords
from teeio.pcie.ide_port import InsecureCause
from teeio.spdm.requester import Requester
from teeio.tdisp.messages import InterfaceInfo, InterfaceState
from teeio.tdisp.responder import DsmCapabilities
from teeio.tdisp.states import Event

STREAM = 1


def locked() -> Guest:
    guest = Guest(Host())
    bring_to(guest, InterfaceState.CONFIG_LOCKED)
    return guest


def answered(guest: Guest, operation: DevifOperation, change: Callable[[bytes], bytes] = bytes) -> None:
    """Take a request to the device, and its answer, changed, back."""
    asked = request(guest, operation, LOCK if operation is DevifOperation.LOCK else None)
    while asked.pending:
        answer = guest.host.device.responder.respond(asked.data_object, NOW) or b""
        call = d.TdhDevifResponse(function_id=guest.function_id, response=change(answer))
        asked = guest.host.module.tdh_devif_response(call, NOW)


def km(host: Host, operation: KmOperation, response: bytes | None = None) -> Any:
    spdm_id = next(iter(host.module.records.contexts))
    return host.module.tdh_ide_stream_km(
        d.TdhIdeStreamKm(spdm_id=spdm_id, stream_id=STREAM, operation=operation, response=response), NOW
    )


def block(host: Host) -> None:
    spdm_id = next(iter(host.module.records.contexts))
    host.module.tdh_ide_stream_block(d.TdhIdeStreamBlock(spdm_id=spdm_id, stream_id=STREAM)).require("BLOCK")


def create(guest: Guest, page: int | None = None) -> Any:
    spdm_id = next(iter(guest.host.module.records.contexts))
    page = guest.host.memory.vmm.allocate() if page is None else page
    call = d.TdhDevifCreate(
        tdr=guest.machine.tdr, function_id=guest.function_id, spdm_id=spdm_id, stream_id=STREAM, pages=(page,)
    )
    return guest.host.module.tdh_devif_create(call)


# -- recipes: each gives the host on which it has happened


def asked_again_under_way() -> Host:
    guest = locked()
    lock = guest.info().bind_session_id
    start = g.TdgTdiStart(function_id=guest.function_id, bind_session_id=lock)
    guest.tsm.tdg_tdi_start(start)
    guest.validate(lock).require("VALIDATE")
    guest.tsm.tdg_tdi_start(start).require("START")
    request(guest, DevifOperation.START)
    guest.tsm.tdg_tdi_start(start)
    guest.ask(DevifOperation.REPORT, lock)
    km(guest.host, KmOperation.REFRESH)
    answer = guest.host.device.responder.respond(request(guest, DevifOperation.START).data_object, NOW) or b""
    block(guest.host)
    guest.host.module.tdh_devif_response(d.TdhDevifResponse(function_id=guest.function_id, response=answer), NOW)
    return guest.host


def accepted_twice() -> Host:
    guest = locked()
    lock = guest.info().bind_session_id
    report = guest.report(lock)
    for _ in range(2):
        guest.accept_dma(lock)
    guest.accept_mmio(lock, report)
    part = report.ranges[0]
    accept = g.TdgMmioAccept(
        function_id=guest.function_id,
        bind_session_id=lock,
        gpa=part.first_address(),
        range_index=0,
        page_offset=0,
        count=part.pages,
    )
    for call in (accept, replace(accept, gpa=1 << 46)):
        guest.tsm.tdg_mmio_accept(call)
    guest.validate(lock).require("VALIDATE")
    guest.start(lock).require("START")
    guest.accept_dma(lock)
    return guest.host


def in_another_size() -> Host:
    host = Host(model=LargeAccelerator, memory_size=8 << 20)
    guest = Guest(host)
    lock = guest.bind()
    report = guest.report(lock)
    index, part = next((i, part) for i, part in enumerate(report.ranges) if part.range_id == LARGE_BAR)
    guest.tsm.tdg_mmio_accept(
        g.TdgMmioAccept(
            function_id=guest.function_id,
            bind_session_id=lock,
            gpa=part.first_address(),
            range_index=index,
            page_offset=0,
            count=1,
        )
    )
    tdr, gpa = guest.machine.tdr, part.first_address()
    for level in (PageLevel.PAGE_4K, LARGE, LARGE):
        host.module.tdh_mmio_block(m.TdhMmioBlock(tdr=tdr, gpa=gpa, level=level))
    bar = guest.function.bars[LARGE_BAR].address
    other = host.vmm.kvm.create("other", PAGE_SIZE, {})
    for owner in (tdr, other.tdr):
        host.module.tdh_mmio_map(m.TdhMmioMap(tdr=owner, gpa=0, mmio=bar))
    unmap = m.TdhMmioUnmap(tdr=tdr, gpa=gpa, level=LARGE)
    host.module.tdh_mmio_unmap(unmap)
    answered(guest, DevifOperation.STOP)
    host.module.tdh_mmio_unmap(unmap)
    for step in host.vmm.pci_tsm.mappings.remove_dma(host.connection.bindings[guest.function.address].mapped):
        step()
    host.module.tdh_devif_remove(d.TdhDevifRemove(function_id=guest.function_id))
    block(host)
    host.module.tdh_mmio_map(m.TdhMmioMap(tdr=tdr, gpa=1 << 40, mmio=bar))
    return host


def streams_on_their_way_out() -> Host:
    guest = Guest(Host())
    host, tdr = guest.host, guest.machine.tdr
    guest.bring_up()
    guest.unbind().require("UNBIND")
    create(guest)  # under the keys that it has run with
    host.vmm.pci_tsm.refresh_keys(host.pf, NOW)
    create(guest, tdr)
    host.vmm.pci_tsm.bind(guest.function, tdr, NOW)
    host.port.ide.make_insecure(STREAM, InsecureCause.CHECK_FAILED)
    request(guest, DevifOperation.LOCK, LOCK)
    other = Guest(host, "other", 1)
    create(other)
    block(host)
    request(guest, DevifOperation.LOCK, LOCK)
    create(other)
    km(host, KmOperation.REFRESH)
    return host


def mmio_of_another_under_the_same_keys() -> Host:
    """The VMM gives pages to a second interface that were a first one's under these keys."""
    host = Host()
    one, two = Guest(host, "one", 0), Guest(host, "two", 1)
    one.bring_up()
    one.unbind().require("UNBIND")
    two.bind()
    bar = one.function.bars[0].address
    host.module.tdh_mmiomt_add(m.TdhMmiomtAdd(mmio=bar & -LARGE.size, page=host.memory.vmm.allocate())).require("ADD")
    host.module.tdh_mmiomt_set(m.TdhMmiomtSet(mmio=bar, count=1, function_id=two.function_id)).require("SET")
    host.module.tdh_mmio_map(m.TdhMmioMap(tdr=two.machine.tdr, gpa=1 << 40, mmio=bar))
    return host


def keys_that_fail() -> Host:
    host = Host()
    km(host, KmOperation.REFRESH)
    km(host, KmOperation.REFRESH, b"nonsense" * 4)
    host = _same_events(host, Host())
    records = host.module.records
    records.entropy = lambda size: b""
    asked = km(host, KmOperation.REFRESH)
    while asked.pending:
        asked = km(host, KmOperation.REFRESH, host.device.responder.respond(asked.data_object, NOW))
    return host


def procedures_that_cannot_begin() -> Host:
    guest = locked()
    with mock.patch.object(Requester, "start", side_effect=Misuse("the connection cannot do this")):
        request(guest, DevifOperation.STATE)
        km(guest.host, KmOperation.REFRESH)
    answered(guest, DevifOperation.STATE, lambda answer: b"nonsense" * 4)
    return guest.host


def streams_without_a_session() -> Host:
    host = Host()
    guest = Guest(host)
    (spdm_id,) = host.module.records.contexts
    block(host)
    host.module.tdh_ide_stream_delete(d.TdhIdeStreamDelete(spdm_id=spdm_id, stream_id=STREAM)).require("DELETE")
    host.module.tdh_spdm_delete(d.TdhSpdmDelete(spdm_id=spdm_id))
    private = next(leaf.hpa for _, leaf in host.module.records.tvm(guest.machine.tdr).sept.leaves())
    stream = d.TdhIdeStreamCreate(
        spdm_id=spdm_id,
        stream_id=STREAM,
        requesters=(host.pf.function_id, host.pf.last_requester),
        memory=host.vmm.bus.windows[host.pf.root_port],
        pages=(private,),
    )
    host.module.tdh_ide_stream_create(stream)
    host.module.tdh_ide_stream_create(replace(stream, pages=(host.memory.vmm.allocate(),))).require("CREATE")
    asked: Any = host.module.tdh_spdm_disconnect(d.TdhSpdmDisconnect(spdm_id=spdm_id), NOW)
    answer = host.device.responder.respond(asked.data_object, NOW)
    host.module.tdh_spdm_disconnect(d.TdhSpdmDisconnect(spdm_id=spdm_id, response=answer), NOW)
    km(host, KmOperation.SETUP)
    return host


def root_ports_that_lack_an_option() -> Host:
    host = Host(connect=False)
    for options, root_port in (
        (StreamOptions(pcrc=True), "pcrc"),
        (StreamOptions(aggregation=(0, 0, 1)), "aggregation"),
    ):
        host = _same_events(host, Host(connect=False, root_port={root_port: False}))
        with pytest.raises(CallRefused, match=f"the root port does not support {root_port}") as refused:
            host.vmm.pci_tsm.connect(host.pf, NOW, options)
        assert refused.value.status is Status.IDE_OPTION_NOT_SUPPORTED
        assert host.memory.accounting() == host.before
    return host


def devices_that_disagree() -> Host:
    guest = locked()
    lock = guest.info().bind_session_id
    good = guest.tdi.interface.report(guest.host.device.dsm.ide_km.owner)
    honest = guest.tdi.interface.report
    guest.tdi.interface.report = lambda session: replace(good, info=InterfaceInfo.NONE)
    guest.ask(DevifOperation.REPORT, lock).require("ASK")
    answered(guest, DevifOperation.REPORT)
    guest.tsm.tdg_devif_response(g.TdgDevifResponse(function_id=guest.function_id))
    guest.tdi.interface.report = honest
    guest.tdi.interface.happen(Event.CONFIG_CHANGED)
    guest.ask(DevifOperation.REPORT, lock).require("ASK")
    answered(guest, DevifOperation.REPORT)
    guest.ask(DevifOperation.REPORT, 0)
    request(guest, DevifOperation.LOCK, LOCK)
    return guest.host


def a_narrow_device() -> Host:
    guest = Guest(Host(capabilities=DsmCapabilities(dev_addr_width=48)))
    guest.host.vmm.pci_tsm.bind(guest.function, guest.machine.tdr, NOW)
    for operation in (DevifOperation.REPORT, DevifOperation.LOCK):
        guest.ask(operation, 0)
    answered(guest, DevifOperation.LOCK)
    return guest.host


def pages_of_2_mib() -> Host:
    host = Host(connect=False, vfs=0, memory_size=8 << 20)
    machine = host.vmm.kvm.create("guest", 2 * LARGE.size, {}, huge_pages=True)
    tdr = machine.tdr
    host.module.guest(tdr).tdg_mem_page_accept(g.TdgMemPageAccept(gpa=LARGE.size))
    demote = m.TdhMemPageDemote(tdr=tdr, gpa=0)
    host.module.tdh_mem_page_demote(demote)
    for level in (PageLevel.PAGE_4K, LARGE, LARGE):
        host.module.tdh_mem_range_block(m.TdhMemRangeBlock(tdr=tdr, gpa=0, level=level))
    host.module.tdh_mem_page_demote(demote)
    for level in PageLevel:
        host.module.tdh_mem_page_remove(m.TdhMemPageRemove(tdr=tdr, gpa=0, level=level))
    return host


def what_runs_out() -> Host:
    host = Host(memory_size=4 << 20)
    tdr = host.memory.vmm.allocate()
    host.module.tdh_mng_create(m.TdhMngCreate(tdr=tdr)).require("CREATE")
    for _ in range(257):
        host.module.tdh_iqinv_req(m.TdhIqinvReq(iommu_id=0, scope=Invalidation.IOTLB, target=tdr))
        host.module.tdh_mng_create(m.TdhMngCreate(tdr=host.memory.vmm.allocate()))
    return host


def entry_by_entry() -> Host:
    """The trusted tables in every wrong order."""
    guest = locked()
    host, place = guest.host, {"iommu_id": 0, "function_id": guest.function_id}
    leaf = qwords(offered(DmarLevel.PASID, 0))

    def add(**changes: Any) -> None:
        operands = {**place, "level": DmarLevel.PASID, "entry": leaf, "tdr": guest.machine.tdr}
        host.module.tdh_dmar_add(m.TdhDmarAdd(**{**operands, **changes}))

    def try_all(level: DmarLevel) -> None:
        host.module.tdh_dmar_remove(m.TdhDmarRemove(**place, level=level))
        host.module.tdh_dmar_block(m.TdhDmarBlock(**place, level=level))
        for _ in range(2):
            ask = m.TdhIqinvReq(iommu_id=0, scope=Invalidation[level.name], target=guest.function_id)
            host.module.tdh_iqinv_req(ask)
        host.module.tdh_dmar_remove(m.TdhDmarRemove(**place, level=level))
        host.module.tdh_iqinv_proc(m.TdhIqinvProc(iommu_id=0))
        host.module.tdh_dmar_remove(m.TdhDmarRemove(**place, level=level))
        host.module.tdh_dmar_read(m.TdhDmarRead(**place, level=level))

    add()
    add(function_id=host.vfs[1].function_id)
    for level in (DmarLevel.CONTEXT, *DmarLevel):
        try_all(level)
    guest.accept_dma(guest.info().bind_session_id)
    try_all(DmarLevel.PASID)
    add()
    private = next(leaf.hpa for _, leaf in host.module.records.tvm(guest.machine.tdr).sept.leaves())
    root = qwords(offered(DmarLevel.ROOT, private))
    add(level=DmarLevel.ROOT, entry=root, tdr=0)
    add(level=DmarLevel.ROOT, entry=root)
    add(level=DmarLevel.ROOT, entry=(2,), tdr=0)
    return host


def tables_written_into() -> Host:
    """The VMM writes into the pages of the trusted tables and of their queue."""
    guest = locked()
    host, place = guest.host, {"iommu_id": 0, "function_id": guest.function_id}
    lock = guest.info().bind_session_id
    for page in host.module.records.iommu_pages[0]:
        host.memory.vmm.write(page, b"VMM")
    add = m.TdhDmarAdd(**place, level=DmarLevel.PASID, entry=qwords(offered(DmarLevel.PASID, 0)), tdr=guest.machine.tdr)
    host.module.tdh_dmar_add(add)
    host.module.tdh_dmar_block(m.TdhDmarBlock(**place))
    host.module.tdh_dmar_read(m.TdhDmarRead(**place))
    host.module.tdh_dmar_remove(m.TdhDmarRemove(**place))
    host.module.tdh_iqinv_req(m.TdhIqinvReq(iommu_id=0, scope=Invalidation.IOTLB, target=guest.machine.tdr))
    host.module.tdh_iqinv_proc(m.TdhIqinvProc(iommu_id=0))
    guest.accept_dma(lock)
    alone = Host(connect=False)
    pages = tuple(alone.memory.vmm.allocate() for _ in range(m.IOMMU_PAGES))
    alone.module.tdh_iommu_setup(m.TdhIommuSetup(iommu_id=0, pages=pages)).require("SETUP")
    alone.memory.vmm.write(pages[0], b"VMM")
    alone.module.tdh_iommu_clear(m.TdhIommuClear(iommu_id=0))
    return _same_events(host, alone)


def before_anything() -> Host:
    host = Host(connect=False)
    host.module.tdh_iommu_clear(m.TdhIommuClear(iommu_id=0))
    host.module.tdh_dmar_block(m.TdhDmarBlock(iommu_id=0, function_id=host.vfs[0].function_id))
    host.module.tdh_mmiomt_rd(m.TdhMmiomtRd(mmio=5))
    tdr, page = host.memory.vmm.allocate(), host.memory.vmm.allocate()
    host.module.tdh_mng_create(m.TdhMngCreate(tdr=tdr)).require("CREATE")
    host.module.tdh_mng_init(m.TdhMngInit(tdr=tdr)).require("INIT")
    for source in (page, page, tdr):
        hpa = host.memory.vmm.allocate()
        host.module.tdh_mem_page_add(m.TdhMemPageAdd(tdr=tdr, gpa=PAGE_SIZE, hpa=hpa, source=source))
    return host


def _same_events(old: Host, new: Host) -> Host:
    """Go on with a fresh host, and keep what was seen on the old one."""
    new.events[:0] = old.events
    return new


RECIPES: tuple[Callable[[], Host], ...] = (
    asked_again_under_way,
    accepted_twice,
    in_another_size,
    streams_on_their_way_out,
    mmio_of_another_under_the_same_keys,
    keys_that_fail,
    procedures_that_cannot_begin,
    streams_without_a_session,
    root_ports_that_lack_an_option,
    devices_that_disagree,
    a_narrow_device,
    pages_of_2_mib,
    what_runs_out,
    entry_by_entry,
    tables_written_into,
    before_anything,
)
