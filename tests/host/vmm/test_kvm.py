"""TVMs, assignment and hypercalls at the VMM: what guests see, what they may ask, what goes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from host_machine import NOW, RAM, Guest, Host
from teeio.abi import hypercalls as v
from teeio.abi import tdcalls as g
from teeio.abi.operands import ECAM, GPA_SHARED_BIT, PAGE_SIZE, PageLevel
from teeio.abi.statuses import HypercallError, TdcmStatus
from teeio.errors import Misuse
from teeio.host.iommu_faults import FaultReason
from teeio.host.memory import SHARED
from teeio.host.root_complex import Interrupt
from teeio.host.vmm.vfio import UnitKind
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.header import CommonHeader
from teeio.tdisp.messages import InterfaceState

PLACE = ECAM.start + (Bdf(0, 0, 1, 0).requester_id << 12)


@pytest.fixture(scope="module")
def _host() -> Host:
    return Host(connect=False)


@pytest.fixture
def host(_host: Host) -> Iterator[Host]:
    """A host without a connected device; afterwards all TVMs are gone and all that was lent is back."""
    yield _host
    for machine in list(_host.vmm.kvm.machines.values()):
        _host.vmm.kvm.destroy(machine, NOW)
    assert _host.memory.accounting() == _host.before
    _host.check_declared()


@pytest.fixture
def guest(host: Host) -> Guest:
    return Guest(host)


def mmio(guest: Guest, gpa: int, size: int = 4, value: int | None = None) -> int:
    call = v.TdvmcallRequestMmio(gpa=gpa, size=size, value=value)
    return guest.vmm.tdvmcall_request_mmio(call, NOW).require("TDVMCALL.REQUEST.MMIO").value


def error(result: Any) -> HypercallError:
    assert result.status is TdcmStatus.ERROR
    assert result.reason
    return result.error  # type: ignore[no-any-return]


# -- memory -----------------------------------------------------------------------------------------------------------


def test_creating_and_destroying_gives_everything_back(host: Host) -> None:
    machine = host.vmm.kvm.create("guest", RAM, {PAGE_SIZE: b"image"})
    assert host.module.processor(machine.tdr).load(PAGE_SIZE, 5) == b"image"
    assert SHARED not in host.memory.accounting(), "nothing is left lying about"
    host.vmm.kvm.share(machine, 0, 2 * PAGE_SIZE)
    host.vmm.kvm.destroy(machine, NOW)
    assert host.memory.accounting() == host.before
    assert not host.vmm.kvm.machines


@pytest.mark.parametrize("size", [0, 17, -PAGE_SIZE, ECAM.start + PAGE_SIZE])
def test_a_tvm_has_whole_pages(host: Host, size: int) -> None:
    with pytest.raises(Misuse, match="a TVM of"):
        host.vmm.kvm.create("guest", size)


@pytest.mark.parametrize("image", [{17: b""}, {RAM: b"beyond"}, {0: bytes(PAGE_SIZE + 1)}])
def test_a_creation_that_fails_leaves_nothing(host: Host, image: dict[int, bytes]) -> None:
    with pytest.raises(Misuse):
        host.vmm.kvm.create("guest", RAM, image)
    with pytest.raises(Misuse, match="no 4096 bytes"):
        host.vmm.kvm.create("too large", host.memory.size + PAGE_SIZE)
    assert host.memory.accounting() == host.before
    assert not host.module.records.tvms


def test_huge_pages_are_used_where_they_fit_and_split_where_they_are_shared() -> None:
    large = PageLevel.PAGE_2M
    host = Host(connect=False, vfs=0, memory_size=4 * large.size)
    machine = host.vmm.kvm.create("guest", 2 * large.size + PAGE_SIZE, {0: b"image"}, huge_pages=True)
    levels = [level for _, level in sorted(machine.private.items())]
    assert levels == [PageLevel.PAGE_4K] * 512 + [large, PageLevel.PAGE_4K]
    tsm = host.module.guest(machine.tdr)
    tsm.tdg_mem_page_accept(g.TdgMemPageAccept(gpa=large.size, level=large)).require("accept")
    processor = host.module.processor(machine.tdr)
    processor.store(2 * large.size - 8, b"12345678")
    processor.store(large.size, b"to be shared")
    host.vmm.kvm.share(machine, large.size, PAGE_SIZE)
    assert large not in machine.private.values()
    assert processor.load(2 * large.size - 8, 8) == b"12345678"
    assert processor.load(large.size | GPA_SHARED_BIT, 12) == bytes(12)
    host.vmm.kvm.unshare(machine, large.size, PAGE_SIZE)
    tsm.tdg_mem_page_accept(g.TdgMemPageAccept(gpa=large.size)).require("accept")
    assert processor.load(large.size, 12) == bytes(12)
    host.vmm.kvm.destroy(machine, NOW)
    assert host.memory.accounting() == host.before


def test_memory_is_converted_both_ways(guest: Guest) -> None:
    call = v.TdvmcallMapGpa(gpa=4 * PAGE_SIZE | GPA_SHARED_BIT, size=2 * PAGE_SIZE, shared=True)
    guest.processor.store(4 * PAGE_SIZE, b"secret")
    guest.vmm.tdvmcall_map_gpa(call, NOW).require("share")
    guest.vmm.tdvmcall_map_gpa(call, NOW).require("sharing shared memory changes nothing")
    guest.processor.store(5 * PAGE_SIZE - 3 | GPA_SHARED_BIT, b"public")
    assert b"secret" not in guest.host.memory.vmm.read(0, guest.host.memory.size)
    back = v.TdvmcallMapGpa(gpa=4 * PAGE_SIZE, size=PAGE_SIZE, shared=False)
    guest.vmm.tdvmcall_map_gpa(back, NOW).require("unshare")
    guest.tsm.tdg_mem_page_accept(g.TdgMemPageAccept(gpa=4 * PAGE_SIZE)).require("accept")
    assert guest.processor.load(4 * PAGE_SIZE, PAGE_SIZE) == bytes(PAGE_SIZE)
    assert guest.processor.load(5 * PAGE_SIZE | GPA_SHARED_BIT, 3) == b"lic"


@pytest.mark.parametrize(
    ("gpa", "size"), [(1, PAGE_SIZE), (0, 0), (0, 5), (RAM, PAGE_SIZE), (0, RAM + PAGE_SIZE), (-PAGE_SIZE, PAGE_SIZE)]
)
def test_conversions_are_of_whole_pages_of_the_memory(guest: Guest, gpa: int, size: int) -> None:
    call = v.TdvmcallMapGpa(gpa=gpa, size=size, shared=True)
    assert error(guest.vmm.tdvmcall_map_gpa(call, NOW)) is HypercallError.INVALID_OPERAND


# -- the guest's PCI tree ---------------------------------------------------------------------------------------------


def test_the_guest_sees_the_function_and_not_the_hosts_addresses(guest: Guest) -> None:
    assert mmio(guest, PLACE, 2) == guest.function.vendor_id, "a VF's own header says FFFFh"
    assert mmio(guest, PLACE + 2, 2) == guest.function.device_id
    low, high = mmio(guest, PLACE + 0x10), mmio(guest, PLACE + 0x14)
    assert high << 32 | low & ~0xF == guest.bar(0) != guest.function.bars[0].address
    mmio(guest, PLACE + 0x10, 4, 0xFFFF_FFFF)
    assert ~mmio(guest, PLACE + 0x10) & 0xFFFF_FFF0 == guest.function.bars[0].size - 0x10
    assert mmio(guest, ECAM.start, 4) == 0xFFFF_FFFF, "nobody else is there"
    assert mmio(guest, PLACE, 8) == (1 << 64) - 1


def test_the_command_register_is_the_guests_own(guest: Guest) -> None:
    """A guest or VMM that clears Bus Master Enable of a locked interface would move it to ERROR."""
    mmio(guest, PLACE + 4, 2, 6)
    assert mmio(guest, PLACE + 4, 2) == 6
    mmio(guest, PLACE + 4, 2, 0)
    assert guest.function.config.read(4, 2) & 4


def test_writes_beyond_the_guests_own_are_dropped(guest: Guest) -> None:
    before = guest.tdi.function.space.snapshot()
    msix = guest.function.capabilities[0x11]
    for offset in range(0x40, 0x300, 4):
        if not msix <= offset < msix + 12:
            mmio(guest, PLACE + offset, 4, 0xFFFF_FFFF)
    assert guest.tdi.function.space.snapshot() == before
    mmio(guest, PLACE + msix + 2, 2, 0x8000)
    assert guest.tdi.function.msix.get(guest.tdi.function.msix.CONTROL, "enable")


def test_the_device_gets_the_hosts_interrupt_messages(guest: Guest) -> None:
    table = guest.bar(2)
    for at, value in ((16, 0xFEE0_0000), (24, 0x77)):
        mmio(guest, table + at, 4, value)
    assert guest.tdi.function.msix.table.read(16, 12) == 0, "an entry is set up when its mask is written"
    mmio(guest, table + 28, 4, 0)
    assert mmio(guest, table + 24) == 0x77
    message = guest.tdi.function.msix.table.message(1)
    assert message.data == 1, "the entry's number, not the guest's vector"
    assert not guest.tdi.function.msix.table.masked(1)
    assert guest.tdi.function.msix.table.masked(0)
    sink = guest.host.vmm.kvm.interrupt
    for data in (1, 0, 99):
        sink(Interrupt(guest.function_id, message.address, data))
    sink(Interrupt(0x999, message.address, 1))
    assert guest.vectors == [0x77], "masked entries and strangers raise nothing"
    assert mmio(guest, table + 0x1000) == 0


def test_other_bars_are_reached_with_t_0(guest: Guest) -> None:
    mmio(guest, guest.bar(0) + 0x1008, 8, 0x1122_3344_5566_7788)
    assert mmio(guest, guest.bar(0) + 0x1008, 4) == 0x5566_7788
    assert guest.processor.load(guest.bar(0) + 0x1008 | GPA_SHARED_BIT, 2) == b"\x88\x77"


@pytest.mark.parametrize(
    ("gpa", "size", "value"),
    [(PLACE, 3, None), (PLACE + 1, 4, None), (0x1000, 4, None), (PLACE, 4, 1 << 32), (PLACE, 4, -1), (-8, 4, None)],
)
def test_bad_accesses_are_errors(guest: Guest, gpa: int, size: int, value: int | None) -> None:
    call = v.TdvmcallRequestMmio(gpa=gpa, size=size, value=value)
    assert error(guest.vmm.tdvmcall_request_mmio(call, NOW)) is HypercallError.INVALID_OPERAND


# -- TDCM -------------------------------------------------------------------------------------------------------------


def test_support_is_told_by_function(guest: Guest) -> None:
    ask = guest.vmm.tdcm_check_teeio_supp
    place = guest.assigned.address.requester_id
    found = ask(v.TdcmCheckTeeioSupp(requester_id=place)).require("support")
    assert found.function_id == guest.function_id
    assert error(ask(v.TdcmCheckTeeioSupp(requester_id=0x1234))) is HypercallError.INVALID_OPERAND


def test_without_a_connection_nothing_is_bound(guest: Guest) -> None:
    call = v.TdcmBind(function_id=guest.function_id)
    assert error(guest.vmm.tdcm_bind(call, NOW)) is HypercallError.INVALID_STATE, "the operand is fine"
    state = v.TdcmGetTdiState(function_id=guest.function_id)
    assert error(guest.vmm.tdcm_get_tdi_state(state, NOW)) is HypercallError.INVALID_STATE
    guest.unbind().require("what is not bound is unbound")
    assert error(guest.vmm.tdcm_unbind(v.TdcmUnbind(function_id=0x999), NOW)) is HypercallError.INVALID_OPERAND
    assert guest.machine.exits["TDCM.BIND"] == 1


def test_a_lock_that_fails_leaves_nothing_bound() -> None:
    host = Host()
    guest = Guest(host)
    after = host.memory.accounting()
    host.pf.config.write(host.pf.extended[0x10] + 0x24, 4, 0)
    host.pf.config.write(host.pf.extended[0x10] + 0x28, 4, 0)
    assert error(guest.vmm.tdcm_bind(v.TdcmBind(function_id=guest.function_id), NOW)) is HypercallError.TDISP
    assert not host.module.records.devifs
    assert host.memory.accounting() == after
    host.pf.write_bars()
    assert guest.bind()
    assert error(guest.vmm.tdcm_bind(v.TdcmBind(function_id=guest.function_id), NOW)) is HypercallError.INVALID_STATE
    assert guest.info().bind_session_id, "binding again changes nothing"
    host.check_declared()


# -- assignment -------------------------------------------------------------------------------------------------------


def test_units_follow_from_what_is_there() -> None:
    host = Host(connect=False)
    kinds = {(unit.kind, unit.function.address.requester_id) for unit in host.vmm.vfio.units()}
    assert kinds == {(UnitKind.PF, 0x100), (UnitKind.VF, 0x108), (UnitKind.VF, 0x109)}
    host.vmm.bus.disable_vfs(host.pf)
    assert {unit.kind for unit in host.vmm.vfio.units()} == {UnitKind.DEVICE, UnitKind.PF}
    with pytest.raises(Misuse, match="is no virtual function now"):
        host.vmm.vfio.unit(UnitKind.VF, Bdf.of(0x108))


def test_a_unit_is_claimed_once_and_a_pf_not_beside_its_vfs(host: Host) -> None:
    one, two = Guest(host, "one", 0), Guest(host, "two", 1)
    for kind, address in ((UnitKind.VF, 0x108), (UnitKind.PF, 0x100)):
        with pytest.raises(Misuse, match="cannot be claimed"):
            host.vmm.kvm.assign(two.machine, host.vmm.vfio.unit(kind, Bdf.of(address)))
    assert one.function.config.read(4, 2) & 4
    host.vmm.kvm.destroy(one.machine, NOW)
    assert not one.function.config.read(4, 2) & 4, "no bus mastering without an owner"
    assert host.iommu.legacy.domain(0x108) is None
    three = Guest(host, "three", 0)
    assert three.processor.load(three.bar(0) + 0x1000 | GPA_SHARED_BIT, 8) == bytes(8)


def test_nothing_of_one_owner_reaches_the_next(host: Host) -> None:
    one = Guest(host, "one", 0)
    one.processor.store(one.bar(0) + 0x1000 | GPA_SHARED_BIT, b"left behind")
    host.vmm.kvm.destroy(one.machine, NOW)
    two = Guest(host, "two", 0)
    assert two.processor.load(two.bar(0) + 0x1000 | GPA_SHARED_BIT, 11) == bytes(11)


def test_releasing_what_is_not_claimed_is_a_mistake(host: Host) -> None:
    with pytest.raises(Misuse, match="is not claimed"):
        host.vmm.vfio.release(host.vmm.vfio.unit(UnitKind.VF, Bdf.of(0x108)))


def test_bus_mastering_is_the_guests_and_costs_no_lock() -> None:
    """The guest's Bus Master Enable opens and closes the IOMMU for T=0; the device's stays on, so that RUN stays RUN."""
    guest = Guest(Host())
    gpa, port = 4 * PAGE_SIZE, guest.host.port.host
    guest.bring_up()
    share = v.TdvmcallMapGpa(gpa=gpa, size=PAGE_SIZE, shared=True)
    guest.vmm.tdvmcall_map_gpa(share, NOW).require("share")
    assert port.dma_read(guest.function_id, gpa, 4, False).ok
    guest.command(memory_space=1)
    assert not port.dma_read(guest.function_id, gpa, 4, False).ok
    assert guest.host.iommu.faults[-1].reason is FaultReason.NO_DOMAIN
    assert guest.function.config.get(CommonHeader.COMMAND, "bus_master")
    assert guest.tdi.state is InterfaceState.RUN
    guest.command(memory_space=1, bus_master=1)
    assert port.dma_read(guest.function_id, gpa, 4, False).ok


def test_without_bus_mastering_the_guest_gets_no_interrupts(guest: Guest) -> None:
    """A message-signalled interrupt is a memory write, which Bus Master Enable rules (PCIe Base 7.5.1.1.3)."""
    guest.command(memory_space=1, bus_master=1)
    table = guest.bar(2)
    for at, value in ((16, 0xFEE0_0000), (24, 0x77), (28, 0)):
        mmio(guest, table + at, 4, value)
    interrupt = Interrupt(guest.function_id, 0xFEE0_0000, 1)
    guest.command(memory_space=1)
    guest.host.vmm.kvm.interrupt(interrupt)
    assert guest.vectors == []
    guest.command(memory_space=1, bus_master=1)
    guest.host.vmm.kvm.interrupt(interrupt)
    assert guest.vectors == [0x77]
