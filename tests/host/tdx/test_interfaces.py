"""Device interfaces at the TSM: who gets one, who may ask what about it and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from host.tdx.exchanges import LOCK, OTHER_NONCE, bring_to, drive, request
from host_machine import NOW, Guest, Host
from teeio.abi import CallRefused
from teeio.abi import device_seamcalls as d
from teeio.abi import tdcalls as g
from teeio.abi.operands import AUTHORITY, PAGE_SIZE, Actor, DevifOperation, LockParameters
from teeio.abi.statuses import Status
from teeio.host.tdx.interface import OPERATION_STATES
from teeio.tdisp.messages import InterfaceState

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
        ({"function_id": 0x109, "tdr": 0x5008}, Status.OPERAND_INVALID),
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
        host.vmm.pci_tsm.bind(host.vfs[0], machine.tdr, NOW)


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
