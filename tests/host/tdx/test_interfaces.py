"""Device interfaces at the TSM: who may ask for what and when, locks and their evidence, MMIO and DMA, whose is what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from host_machine import NOW, Guest, Host
from teeio.abi import CallRefused
from teeio.abi import device_seamcalls as d
from teeio.abi import hypercalls as v
from teeio.abi import memory_seamcalls as m
from teeio.abi import tdcalls as g
from teeio.abi.operands import AUTHORITY, PAGE_SIZE, Actor, DevifOperation, LockParameters, PageLevel
from teeio.abi.statuses import Status
from teeio.host.tdx.interface import MAX_NONCES, OPERATION_STATES
from teeio.host.vmm.teardown import Teardown
from teeio.pcie.doe import SPDM, encode_object
from teeio.tdisp.messages import DeviceInterfaceReport, InterfaceInfo, InterfaceState, RangeAttributes
from teeio.tdisp.messages import LockParameters as TdispLockParameters
from teeio.tdisp.states import Event

LOCK = LockParameters(1)
OTHER_NONCE = b"n" * 32


@pytest.fixture(scope="module")
def _host() -> Host:
    return Host()


@pytest.fixture
def host(_host: Host) -> Iterator[Host]:
    """A connected host; afterwards all interfaces and TVMs are gone, and nothing undeclared has happened."""
    before = _host.memory.accounting()
    yield _host
    for machine in list(_host.vmm.kvm.machines.values()):
        _host.vmm.kvm.destroy(machine, NOW)
    assert _host.memory.accounting() == before
    assert not _host.module.records.devifs
    _host.check_declared()


@pytest.fixture
def guest(host: Host) -> Guest:
    return Guest(host)


def request(guest: Guest, operation: DevifOperation, lock: LockParameters | None = None) -> Any:
    """Let the VMM begin an exchange; without one under way nothing is carried."""
    call = d.TdhDevifRequest(function_id=guest.function_id, operation=operation, lock=lock)
    return guest.host.module.tdh_devif_request(call, NOW)


def drive(guest: Guest, operation: DevifOperation, lock: LockParameters | None = None) -> d.DevifCompleted:
    return guest.host.vmm.pci_tsm.guest_req(guest.function, operation, NOW, lock)


def bring_to(guest: Guest, state: InterfaceState) -> int:
    """Bring interface, TSM and device to a state; give the bind session id."""
    guest.host.vmm.pci_tsm.bind(guest.function, guest.machine.tdr)
    if state is InterfaceState.RUN:
        return guest.bring_up()
    if state is not InterfaceState.CONFIG_UNLOCKED:
        guest.bind()
    if state is InterfaceState.ERROR:
        guest.tdi.interface.happen(Event.CONFIG_CHANGED)
        drive(guest, DevifOperation.STATE)
    assert guest.info().state == guest.tdi.state == state
    return guest.info().bind_session_id


# -- who gets an interface --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, Status.OPERAND_BUSY),
        ({"function_id": 0x109, "stream_id": 5}, Status.OPERAND_INVALID),
        ({"function_id": 0x109, "spdm_id": 77}, Status.OPERAND_INVALID),
        ({"function_id": 0x209}, Status.OPERAND_INVALID),
        ({"function_id": 0x0200_0109}, Status.OPERAND_INVALID),
        ({"function_id": 0}, Status.OPERAND_INVALID),
        ({"function_id": 0x109, "tdr": 0x5000}, Status.OPERAND_INVALID),
        ({"function_id": 0x109, "pages": (0,)}, Status.PAGE_METADATA_INCORRECT),
    ],
)
def test_an_interface_is_one_tvms(guest: Guest, changes: dict[str, Any], status: Status) -> None:
    bring_to(guest, InterfaceState.CONFIG_UNLOCKED)
    page = guest.host.memory.vmm.allocate()
    connection = guest.host.connection
    operands = {
        "tdr": guest.machine.tdr,
        "function_id": guest.function_id,
        "spdm_id": connection.spdm_id,
        "stream_id": connection.stream.stream_id,
        "pages": (page,),
    }
    result = guest.host.module.tdh_devif_create(d.TdhDevifCreate(**{**operands, **changes}))
    assert result.status is status, result.reason
    guest.host.memory.vmm.free(page)


def test_an_alias_of_a_function_id_names_the_same_interface(guest: Guest) -> None:
    bring_to(guest, InterfaceState.CONFIG_LOCKED)
    read = g.TdgDevifRead(function_id=guest.function_id | 1 << 24)
    assert guest.tsm.tdg_devif_read(read).require("read") == guest.info()


def test_a_tvm_without_tdx_connect_gets_no_interface(host: Host) -> None:
    machine = host.vmm.kvm.create("plain", 4 * PAGE_SIZE, tdx_connect=False)
    with pytest.raises(CallRefused, match="OP_STATE_INCORRECT"):
        host.vmm.pci_tsm.bind(host.vfs[0], machine.tdr)


GUEST_CALLS: list[Callable[[Guest, int], Any]] = [
    lambda guest, f: guest.tsm.tdg_devif_read(g.TdgDevifRead(function_id=f)),
    lambda guest, f: guest.tsm.tdg_devif_validate(
        g.TdgDevifValidate(function_id=f, bind_session_id=1, public_key_hash=b"")
    ),
    lambda guest, f: guest.tsm.tdg_devif_request(
        g.TdgDevifRequest(function_id=f, bind_session_id=1, operation=DevifOperation.STATE)
    ),
    lambda guest, f: guest.tsm.tdg_devif_response(g.TdgDevifResponse(function_id=f)),
    lambda guest, f: guest.tsm.tdg_mmio_accept(
        g.TdgMmioAccept(function_id=f, bind_session_id=1, gpa=0, range_index=0, page_offset=0, count=1)
    ),
    lambda guest, f: guest.tsm.tdg_dmar_accept(g.TdgDmarAccept(function_id=f, bind_session_id=1)),
    lambda guest, f: guest.tsm.tdg_tdi_start(g.TdgTdiStart(function_id=f, bind_session_id=1)),
]


@pytest.mark.parametrize("call", GUEST_CALLS)
def test_a_tvm_names_only_its_own_interfaces(host: Host, call: Callable[[Guest, int], Any]) -> None:
    mine, other = Guest(host, "mine", 0), Guest(host, "other", 1)
    bring_to(other, InterfaceState.CONFIG_LOCKED)
    before = other.info()
    for function_id in (other.function_id, 0x777):
        assert call(mine, function_id).status is Status.TDI_NOT_PRESENT
    assert other.info() == before


# -- who may ask for what, in which state -----------------------------------------------------------------------------


@pytest.mark.parametrize("state", InterfaceState)
def test_every_operation_of_the_vmm_in_every_state(host: Host, state: InterfaceState) -> None:
    guest = Guest(host)
    bring_to(guest, state)
    for operation in DevifOperation:
        lock = LOCK if operation is DevifOperation.LOCK else None
        if Actor.VMM not in AUTHORITY[operation]:
            assert request(guest, operation, lock).status is Status.DEVIF_NOT_AUTHORISED
        elif state not in OPERATION_STATES[operation]:
            wrong = Status.DEVIF_TDISP_INVALID_STATE
            expected = Status.DEVIF_TDISP_ERROR_STATE if state is InterfaceState.ERROR else wrong
            assert request(guest, operation, lock).status is expected
        assert guest.info().state == state, "a refusal changes nothing"
    assert drive(guest, DevifOperation.STATE).state == state
    assert drive(guest, DevifOperation.STOP).state == InterfaceState.CONFIG_UNLOCKED


@pytest.mark.parametrize("state", InterfaceState)
def test_every_operation_of_the_tvm_in_every_state(host: Host, state: InterfaceState) -> None:
    guest = Guest(host)
    lock = bring_to(guest, state)
    for operation in DevifOperation:
        nonce = OTHER_NONCE if operation is DevifOperation.MEASUREMENTS else b""
        result = guest.ask(operation, lock, nonce)
        if Actor.TVM not in AUTHORITY[operation]:
            assert result.status is Status.DEVIF_NOT_AUTHORISED
        elif operation is DevifOperation.START:
            assert result.status is Status.OPERAND_INVALID
        elif state in OPERATION_STATES[operation]:
            assert result.status is Status.SUCCESS
        else:
            error = state is InterfaceState.ERROR
            assert result.status is (Status.DEVIF_TDISP_ERROR_STATE if error else Status.DEVIF_TDISP_INVALID_STATE)


@pytest.mark.parametrize(
    ("operation", "lock"),
    [
        (DevifOperation.LOCK, None),
        (DevifOperation.STOP, LOCK),
        (DevifOperation.LOCK, LockParameters(0x2)),
        (DevifOperation.LOCK, LockParameters(0x5)),
        (DevifOperation.LOCK, LockParameters(0x1_0001)),
        (DevifOperation.LOCK, LockParameters(1, 1 << 63)),
        (0x99, None),
    ],
)
def test_operands_of_a_request(guest: Guest, operation: DevifOperation, lock: LockParameters | None) -> None:
    bring_to(guest, InterfaceState.CONFIG_UNLOCKED)
    assert request(guest, operation, lock).status is Status.OPERAND_INVALID


def test_a_response_nobody_asked_for(guest: Guest) -> None:
    bring_to(guest, InterfaceState.CONFIG_UNLOCKED)
    call = d.TdhDevifResponse(function_id=guest.function_id, response=b"hello")
    assert guest.host.module.tdh_devif_response(call, NOW).status is Status.DEVIF_TDISP_INVALID_REQ_STS


def test_one_exchange_at_a_time_even_for_two_interfaces(host: Host) -> None:
    one, two = Guest(host, "one", 0), Guest(host, "two", 1)
    for guest in (one, two):
        bring_to(guest, InterfaceState.CONFIG_UNLOCKED)
    first = request(one, DevifOperation.STATE)
    assert first.status is Status.SPDM_REQUEST
    assert request(one, DevifOperation.STATE) == first
    assert request(two, DevifOperation.STATE).status is Status.OPERAND_BUSY
    assert request(one, DevifOperation.STOP).status is Status.OPERAND_BUSY
    wrong = d.TdhDevifResponse(function_id=two.function_id, response=b"")
    assert host.module.tdh_devif_response(wrong, NOW).status is Status.DEVIF_TDISP_INVALID_REQ_STS
    assert drive(one, DevifOperation.STATE).state == InterfaceState.CONFIG_UNLOCKED
    assert drive(two, DevifOperation.STATE).state == InterfaceState.CONFIG_UNLOCKED


def test_the_tvm_cannot_change_a_request_under_way(guest: Guest) -> None:
    lock = bring_to(guest, InterfaceState.CONFIG_LOCKED)
    guest.ask(DevifOperation.REPORT, lock).require("ask")
    assert request(guest, DevifOperation.REPORT).status is Status.SPDM_REQUEST
    assert guest.ask(DevifOperation.STATE, lock).status is Status.OPERAND_BUSY
    response = g.TdgDevifResponse(function_id=guest.function_id)
    assert guest.tsm.tdg_devif_response(response).status is Status.DEVIF_TDISP_INVALID_REQ_STS
    done = drive(guest, DevifOperation.REPORT)
    assert guest.tsm.tdg_devif_response(response).require("response").operation is DevifOperation.REPORT
    assert done.data
    assert request(guest, DevifOperation.REPORT).status is Status.DEVIF_NOT_AUTHORISED, "asked for once, done once"


# -- locks and evidence -----------------------------------------------------------------------------------------------


def test_each_lock_has_its_own_bind_session_and_evidence(guest: Guest) -> None:
    first = bring_to(guest, InterfaceState.CONFIG_LOCKED)
    guest.report(first)
    guest.validate(first).require("validate")
    before = guest.info()
    assert before.report_digest
    assert before.validated
    drive(guest, DevifOperation.STOP)
    unlocked = guest.info()
    assert (unlocked.bind_session_id, unlocked.validated, unlocked.report_digest) == (0, False, b"")
    drive(guest, DevifOperation.LOCK, LOCK)
    second = guest.info().bind_session_id
    assert second not in (0, first)
    assert guest.info().generation > before.generation
    assert guest.validate(first).status is Status.DEVIF_BIND_SESSION_MISMATCH
    assert guest.ask(DevifOperation.REPORT, first).status is Status.DEVIF_BIND_SESSION_MISMATCH
    start = g.TdgTdiStart(function_id=guest.function_id, bind_session_id=first)
    assert guest.tsm.tdg_tdi_start(start).status is Status.DEVIF_BIND_SESSION_MISMATCH


def test_a_start_allowed_for_one_lock_does_not_start_another(guest: Guest) -> None:
    """Attack 49: the VMM stops and locks again between the TVM's decision and the start."""
    lock = bring_to(guest, InterfaceState.CONFIG_LOCKED)
    guest.report(lock)
    guest.validate(lock).require("validate")
    start = g.TdgTdiStart(function_id=guest.function_id, bind_session_id=lock)
    guest.tsm.tdg_tdi_start(start).require("start")
    drive(guest, DevifOperation.STOP)
    drive(guest, DevifOperation.LOCK, LOCK)
    assert request(guest, DevifOperation.START).status is Status.DEVIF_NOT_AUTHORISED
    response = g.TdgDevifResponse(function_id=guest.function_id)
    assert guest.tsm.tdg_devif_response(response).status is Status.DEVIF_TDISP_FAILED
    assert guest.tdi.state is InterfaceState.CONFIG_LOCKED


def test_what_was_accepted_under_a_lock_goes_before_the_next(guest: Guest) -> None:
    guest.bring_up()
    drive(guest, DevifOperation.STOP)
    assert request(guest, DevifOperation.LOCK, LOCK).status is Status.OPERAND_BUSY
    guest.unbind().require("unbind")
    assert guest.bring_up()


def test_the_start_needs_a_validated_key(guest: Guest) -> None:
    lock = bring_to(guest, InterfaceState.CONFIG_LOCKED)
    start = g.TdgTdiStart(function_id=guest.function_id, bind_session_id=lock)
    assert guest.tsm.tdg_tdi_start(start).status is Status.DEVIF_NOT_VALIDATED
    validate = g.TdgDevifValidate(function_id=guest.function_id, bind_session_id=lock, public_key_hash=bytes(48))
    assert guest.tsm.tdg_devif_validate(validate).status is Status.DEVIF_PUBLIC_KEY_MISMATCH
    assert not guest.info().validated
    guest.validate(lock).require("validate")
    assert guest.tsm.tdg_tdi_start(start).status is Status.SUCCESS
    assert guest.validate(0).status is Status.DEVIF_BIND_SESSION_MISMATCH


def test_measurements_are_under_the_tvms_own_fresh_nonce(guest: Guest) -> None:
    lock = bring_to(guest, InterfaceState.CONFIG_LOCKED)
    before = guest.info()
    for nonce in (b"", b"short", bytes(33)):
        assert guest.ask(DevifOperation.MEASUREMENTS, lock, nonce).status is Status.OPERAND_INVALID
    assert guest.ask(DevifOperation.REPORT, lock, OTHER_NONCE).status is Status.OPERAND_INVALID
    guest.ask(DevifOperation.MEASUREMENTS, lock, OTHER_NONCE).require("ask")
    info = guest.vmm.tdcm_get_dev_info(v.TdcmGetDevInfo(function_id=guest.function_id), NOW).require("info")
    assert OTHER_NONCE in info.measurements
    assert guest.info().measurements_digest != before.measurements_digest
    assert guest.info().generation > before.generation
    assert guest.ask(DevifOperation.MEASUREMENTS, lock, OTHER_NONCE).status is Status.OPERAND_INVALID
    for number in range(MAX_NONCES - 1):
        guest.ask(DevifOperation.MEASUREMENTS, lock, number.to_bytes(32, "little")).require("ask")
    assert guest.ask(DevifOperation.MEASUREMENTS, lock, b"z" * 32).status is Status.OPERAND_BUSY
    assert info.certificate_chain == guest.host.connection.evidence.certificate_chain


def test_unacceptable_reports_are_not_vouched_for(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = bring_to(guest, InterfaceState.CONFIG_LOCKED)
    good = guest.tdi.interface.report(guest.host.device.dsm.ide_km.owner)
    for bad in (
        replace(good, info=InterfaceInfo.NONE),
        replace(good, info=good.info | InterfaceInfo.ATS_ENABLED),
        replace(good, info=good.info | InterfaceInfo.DMA_WITH_PASID),
        replace(good, msi_x_message_control=1),
        replace(good, tph_control=1),
        replace(good, lnr_control=1),
    ):
        monkeypatch.setattr(guest.tdi.interface, "report", lambda session, bad=bad: bad)
        guest.ask(DevifOperation.REPORT, lock).require("ask")
        with pytest.raises(CallRefused, match="DEVIF_REPORT_UNACCEPTABLE"):
            drive(guest, DevifOperation.REPORT)
        assert guest.info().report_digest == b""
        response = g.TdgDevifResponse(function_id=guest.function_id)
        assert guest.tsm.tdg_devif_response(response).status is Status.DEVIF_TDISP_FAILED


# -- what the device says ---------------------------------------------------------------------------------------------


def test_a_device_that_left_the_lock_is_noticed(guest: Guest) -> None:
    lock = guest.bring_up()
    guest.tdi.interface.happen(Event.CONFIG_CHANGED)
    assert guest.info().state == InterfaceState.RUN, "TDISP tells nobody"
    guest.ask(DevifOperation.STATE, lock).require("ask")
    call = v.TdcmGetTdiState(function_id=guest.function_id)
    assert guest.vmm.tdcm_get_tdi_state(call, NOW).require("state").state == InterfaceState.ERROR
    answer = guest.tsm.tdg_devif_response(g.TdgDevifResponse(function_id=guest.function_id)).require("response")
    assert (answer.state, answer.bind_session_id) == (InterfaceState.ERROR, 0)
    assert guest.ask(DevifOperation.STATE, lock).status is Status.DEVIF_BIND_SESSION_MISMATCH


def test_a_device_that_refuses_the_start_loses_its_lock(guest: Guest) -> None:
    lock = bring_to(guest, InterfaceState.CONFIG_LOCKED)
    guest.report(lock)
    guest.validate(lock).require("validate")
    guest.tdi.interface.happen(Event.CONFIG_CHANGED)
    with pytest.raises(CallRefused, match="INVALID_STATE"):
        guest.start(lock).require("start")
    assert guest.info().state == InterfaceState.ERROR
    assert guest.info().bind_session_id == 0


def test_a_state_the_tsm_did_not_bring_about_is_not_believed(guest: Guest) -> None:
    bring_to(guest, InterfaceState.CONFIG_UNLOCKED)
    parameters = TdispLockParameters(default_stream_id=guest.host.connection.stream.stream_id)
    guest.tdi.interface.lock(guest.host.device.dsm.ide_km.owner, parameters, bytes)
    assert drive(guest, DevifOperation.STATE).state == InterfaceState.ERROR
    assert drive(guest, DevifOperation.STOP).state == InterfaceState.CONFIG_UNLOCKED


@pytest.mark.parametrize("operation", [DevifOperation.LOCK, DevifOperation.START, DevifOperation.STOP])
def test_an_answer_that_is_lost_leaves_no_trust(operation: DevifOperation) -> None:
    host = Host()
    guest = Guest(host)
    unlocked = operation is DevifOperation.LOCK
    lock = bring_to(guest, InterfaceState.CONFIG_UNLOCKED if unlocked else InterfaceState.CONFIG_LOCKED)
    if operation is DevifOperation.START:
        guest.report(lock)
        guest.validate(lock).require("validate")
        start = g.TdgTdiStart(function_id=guest.function_id, bind_session_id=lock)
        guest.tsm.tdg_tdi_start(start).require("start")
    result = request(guest, operation, LOCK if unlocked else None)
    while result.pending:
        answer = host.connection.mailbox.carry(result.data_object, NOW)
        last = guest.tdi.state is not InterfaceState.CONFIG_UNLOCKED if unlocked else True
        call = d.TdhDevifResponse(function_id=guest.function_id, response=b"" if last else answer)
        result = host.module.tdh_devif_response(call, NOW)
    assert result.status is Status.SPDM_FAILED
    assert guest.info().state == InterfaceState.ERROR
    assert guest.info().bind_session_id == 0
    host.vmm.kvm.destroy(guest.machine, NOW)
    host.vmm.pci_tsm.disconnect(host.pf, NOW)
    assert host.memory.accounting() == host.before
    host.check_declared()


def test_an_unprotected_error_is_not_the_devices_word() -> None:
    """Anybody on the way can say SPDM ERROR; its code 04h is not TDISP's INVALID_INTERFACE_STATE."""
    host = Host()
    guest = Guest(host)
    bring_to(guest, InterfaceState.CONFIG_LOCKED)
    assert request(guest, DevifOperation.STOP).pending
    forged = encode_object(SPDM, bytes([0x13, 0x7F, 0x04, 0x00]))
    call = d.TdhDevifResponse(function_id=guest.function_id, response=forged)
    assert host.module.tdh_devif_response(call, NOW).status is Status.SPDM_FAILED
    assert guest.info().state == InterfaceState.ERROR
    host.check_declared()


# -- MMIO and DMA -----------------------------------------------------------------------------------------------------


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
    mmio = guest.host.vmm.bus.windows[guest.function.root_port].limit
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
    assert guest.host.module.tdh_dmar_read(read).require("read") == m.DmarEntry("PENDING", guest.machine.tdr)
    guest.accept_dma(lock).require("accept")
    assert guest.accept_dma(lock).status is Status.DMAR_ENTRY_STATE_INCORRECT
    assert guest.host.module.tdh_dmar_read(read).require("read").state == "PRESENT"


def test_dma_entries_lead_to_the_interfaces_own_tvm_only(host: Host) -> None:
    mine, other = Guest(host, "mine", 0), Guest(host, "other", 1)
    bring_to(mine, InterfaceState.CONFIG_LOCKED)
    page = host.memory.vmm.allocate()
    for changes, status in (
        ({"tdr": other.machine.tdr}, Status.TDI_NOT_PRESENT),
        ({"function_id": other.function_id}, Status.TDI_NOT_PRESENT),
        ({"iommu_id": 5}, Status.OPERAND_INVALID),
        ({}, Status.DMAR_ENTRY_STATE_INCORRECT),
    ):
        operands = {"iommu_id": 0, "function_id": mine.function_id, "tdr": mine.machine.tdr, "pages": (page,)}
        assert host.module.tdh_dmar_add(m.TdhDmarAdd(**{**operands, **changes})).status is status
    host.memory.vmm.free(page)
    gone = m.TdhDmarRead(iommu_id=0, function_id=other.function_id)
    assert host.module.tdh_dmar_read(gone).require("read") == m.DmarEntry("ABSENT", 0)


def test_dma_is_not_accepted_in_run(guest: Guest) -> None:
    lock = bring_to(guest, InterfaceState.CONFIG_LOCKED)
    guest.report(lock)
    guest.validate(lock).require("validate")
    guest.start(lock).require("start")
    assert guest.accept_dma(lock).status is Status.DEVIF_TDISP_INVALID_STATE
