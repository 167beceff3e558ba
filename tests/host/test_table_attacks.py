"""A VMM that goes for the trusted tables themselves, with a running device behind them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from host_machine import Guest, Host
from teeio.abi import memory_seamcalls as m
from teeio.abi.operands import PAGE_SIZE, DmarLevel
from teeio.abi.statuses import Status
from teeio.device.bus import DmaError
from teeio.host.dmar_tables import address, offered, qwords
from teeio.host.iommu_faults import FaultReason
from teeio.host.memory import TSM
from teeio.pcie.tlp import CompletionStatus, Tlp, memory_read, memory_write

STREAM = 1
PASID_PREFIX = bytes([0x91, 0, 0, 7])


@pytest.fixture
def running() -> Guest:
    guest = Guest(Host())
    guest.bring_up()
    guest.processor.store(PAGE_SIZE, b"secret of the TVM")
    return guest


def table_pages(host: Host) -> Iterator[int]:
    """Give the pages of the trusted tables, from the root down."""
    yield host.module.records.iommu_pages[0][0]
    for level, _, entry in host.module.records.dmar[0].entries():
        if level is not DmarLevel.PASID:
            yield address(entry)


def read(guest: Guest) -> bytes:
    return guest.host.device.bus_of(guest.function.address).read(PAGE_SIZE, 17)


def test_the_vmm_reads_ciphertext_in_every_table(running: Guest) -> None:
    host = running.host
    pages = list(table_pages(host))
    assert len(pages) == 4
    for page in (*pages, *host.module.records.iommu_pages[0][1:]):
        assert host.memory.owner_of(page) == TSM
        clear = host.memory.view(TSM).read(page, PAGE_SIZE)
        assert host.memory.vmm.read(page, PAGE_SIZE) != clear
    assert read(running) == b"secret of the TVM"


@pytest.mark.parametrize("number", range(4))
def test_a_table_that_the_vmm_writes_into_leads_nowhere(running: Guest, number: int) -> None:
    """It lays out tables in its own memory, and points the way there."""
    host = running.host
    mine = host.memory.vmm.allocate()
    host.memory.vmm.write(mine, (mine | 1).to_bytes(8, "little") * 512)
    page = list(table_pages(host))[number]
    host.memory.vmm.write(page, (mine | 1).to_bytes(8, "little") * 512)
    with pytest.raises(DmaError):
        read(running)
    reasons = [
        FaultReason.ROOT_ENTRY_UNREADABLE,
        FaultReason.CONTEXT_ENTRY_UNREADABLE,
        FaultReason.DIRECTORY_ENTRY_UNREADABLE,
        FaultReason.PASID_ENTRY_UNREADABLE,
    ]
    assert host.iommu.faults[-1].reason is reasons[number]
    assert running.processor.load(PAGE_SIZE, 17) == b"secret of the TVM"


@pytest.mark.parametrize("level", DmarLevel)
def test_no_call_puts_another_entry_in_the_place_of_one_in_use(running: Guest, level: DmarLevel) -> None:
    host = running.host
    mine = host.memory.vmm.allocate()
    leaf = level is DmarLevel.PASID
    place = {"iommu_id": 0, "function_id": running.function_id, "level": level}
    entry = qwords(offered(level, 0 if leaf else mine))
    add = m.TdhDmarAdd(**place, entry=entry, tdr=running.machine.tdr if leaf else 0)
    assert host.module.tdh_dmar_add(add).status is Status.DMAR_INVALID_MAPPING_STATE
    assert host.module.tdh_dmar_remove(m.TdhDmarRemove(**place)).status is Status.DMAR_INVALID_MAPPING_STATE
    blocked = host.module.tdh_dmar_block(m.TdhDmarBlock(**place)).status
    assert blocked is (Status.SUCCESS if leaf else Status.DMAR_INVALID_MAPPING_STATE)
    if not leaf:
        assert read(running) == b"secret of the TVM"
    setup = m.TdhIommuSetup(iommu_id=0, pages=(mine, mine, mine))
    assert host.module.tdh_iommu_setup(setup).status is Status.OPERAND_INVALID
    assert host.memory.owner_of(mine) != TSM


@pytest.mark.parametrize("t_bit", [True, False])
def test_a_request_with_pasid_is_blocked_on_the_link(running: Guest, t_bit: bool) -> None:
    """The device sends, on its stream or without IDE, what it may send, and a PASID with it."""
    host, requester_id = running.host, running.function.address.requester_id
    way = (True, STREAM) if t_bit else (False, None)
    write = memory_write(requester_id, 0, PAGE_SIZE, b"over")
    host.device.port.post(Tlp(write.header, write.payload, PASID_PREFIX), *way)
    assert host.iommu.faults[-1].reason is FaultReason.PASID_NOT_ENABLED
    assert host.iommu.faults[-1].write
    request = memory_read(requester_id, 0, PAGE_SIZE, 8)
    reply = host.device.port._transfer(Tlp(request.header, b"", PASID_PREFIX), 8, PAGE_SIZE, *way)
    assert reply.status is CompletionStatus.UR
    assert host.iommu.faults[-1].reason is FaultReason.PASID_NOT_ENABLED
    assert running.processor.load(PAGE_SIZE, 17) == b"secret of the TVM"
    host.device.port.post(write, *way)
    assert (running.processor.load(PAGE_SIZE, 4) == b"over") is t_bit, "the same without PASID"


def test_an_interrupt_with_pasid_is_none(running: Guest) -> None:
    host, seen = running.host, []
    host.root_complex.vmm.deliver_interrupts(seen.append)
    write = memory_write(running.function.address.requester_id, 0, 0xFEE0_0000, bytes(4))
    host.device.port.post(Tlp(write.header, write.payload, PASID_PREFIX), False, None)
    assert not seen
    host.device.port.post(write, False, None)
    assert len(seen) == 1
