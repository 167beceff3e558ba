"""Every error that a TDCM hypercall declares happens, and none that it does not declare."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import pytest

from host.tdx.exchanges import bring_to
from host_machine import NOW, Guest, Host
from teeio.abi import CALLS
from teeio.abi import device_seamcalls as d
from teeio.abi import hypercalls as v
from teeio.abi import memory_seamcalls as m
from teeio.abi import tdcalls as g
from teeio.abi.operands import DevifOperation, Invalidation, SpdmOperation
from teeio.abi.statuses import HypercallError
from teeio.errors import ErrorResponse, TransportError
from teeio.host.tdx.tpa import Agent
from teeio.tdisp import flows
from teeio.tdisp.messages import ErrorCode, InterfaceState
from teeio.tdisp.states import Event

LOCKED, UNLOCKED = InterfaceState.CONFIG_LOCKED, InterfaceState.CONFIG_UNLOCKED
Fault = Callable[[Guest], AbstractContextManager[Any]]


def none(guest: Guest) -> AbstractContextManager[Any]:
    return nullcontext()


def lost(guest: Guest) -> AbstractContextManager[Any]:
    def gone(data: bytes, now: float) -> bytes:
        raise TransportError("the link is down")

    guest.host.connection.mailbox.courier = gone
    return nullcontext()


def nonsense(guest: Guest) -> AbstractContextManager[Any]:
    guest.host.connection.mailbox.courier = lambda data, now: b"nonsense" * 4
    return nullcontext()


def elsewhere(guest: Guest) -> AbstractContextManager[Any]:
    """The device has left the state that the TSM knows."""
    guest.tdi.interface.happen(Event.CONFIG_CHANGED)
    return nullcontext()


def unwilling(guest: Guest) -> AbstractContextManager[Any]:
    """The device answers that it will not, whatever it is asked."""
    error = ErrorResponse("the device will not", ErrorCode.UNSPECIFIED)
    names = ("get_version", "get_device_interface_report_bytes", "start_interface", "get_state")
    patched = {name: mock.Mock(side_effect=error) for name in names}
    stack = mock.patch.multiple(flows, **patched)
    mock.patch.object(Agent, "measure", side_effect=error).start()
    return stack


def busy(guest: Guest) -> AbstractContextManager[Any]:
    """Another exchange with the device is under way."""
    (spdm_id,) = guest.host.module.records.contexts
    guest.host.module.tdh_spdm_mng(d.TdhSpdmMng(spdm_id=spdm_id, operation=SpdmOperation.HEARTBEAT), NOW)
    return nullcontext()


def half_unmapped(guest: Guest) -> AbstractContextManager[Any]:
    """The VMM has taken the trusted entry away by other ways."""
    module, entry = guest.host.module, {"iommu_id": 0, "function_id": guest.function_id}
    module.tdh_dmar_block(m.TdhDmarBlock(**entry)).require("TDH.DMAR.BLOCK")
    guest.host.vmm.pci_tsm.mappings._dma.invalidate(0, Invalidation.PASID, guest.function_id)
    module.tdh_dmar_remove(m.TdhDmarRemove(**entry)).require("TDH.DMAR.REMOVE")
    return nullcontext()


def used_before(guest: Guest) -> AbstractContextManager[Any]:
    """The interface has run, so it needs new keys, and these cannot be had."""
    guest.bring_up()
    guest.unbind().require("TDCM.UNBIND")
    return nonsense(guest)


def ask(guest: Guest, lock: int, call: type) -> None:
    """Ask the TSM for what the call drives."""
    operation = {
        v.TdcmGetDevInfo: DevifOperation.MEASUREMENTS,
        v.TdcmGetTdiReport: DevifOperation.REPORT,
        v.TdcmGetTdiState: DevifOperation.STATE,
    }.get(call)
    if operation is not None:
        nonce = b"n" * 32 if operation is DevifOperation.MEASUREMENTS else b""
        guest.ask(operation, lock, nonce).require("TDG.DEVIF.REQUEST")
    elif call is v.TdcmStartTdi:
        guest.validate(lock).require("TDG.DEVIF.VALIDATE")
        start = g.TdgTdiStart(function_id=guest.function_id, bind_session_id=lock)
        guest.tsm.tdg_tdi_start(start).require("TDG.TDI.START")


E = HypercallError
DRIVEN = (v.TdcmGetDevInfo, v.TdcmGetTdiReport, v.TdcmStartTdi, v.TdcmGetTdiState)
CASES: list[tuple[type, InterfaceState | None, bool, Fault, HypercallError]] = [
    *((call, None, False, none, E.INVALID_STATE) for call in DRIVEN),
    *((call, LOCKED, True, lost, E.DEVICE) for call in DRIVEN),
    *((call, LOCKED, True, nonsense, E.SPDM) for call in DRIVEN),
    *((call, LOCKED, True, unwilling, E.TDISP) for call in DRIVEN),
    (v.TdcmBind, LOCKED, False, none, E.INVALID_STATE),
    (v.TdcmBind, None, False, lost, E.DEVICE),
    (v.TdcmBind, None, False, nonsense, E.SPDM),
    (v.TdcmBind, None, False, unwilling, E.TDISP),
    (v.TdcmBind, None, False, used_before, E.IDE_KM),
    (v.TdcmGetTdiReport, LOCKED, True, elsewhere, E.INVALID_STATE),
    (v.TdcmGetTdiReport, LOCKED, False, none, E.MODULE),
    (v.TdcmStartTdi, LOCKED, False, none, E.MODULE),
    (v.TdcmBind, None, False, busy, E.MODULE),
    (v.TdcmGetDevInfo, LOCKED, True, busy, E.MODULE),
    (v.TdcmGetTdiState, LOCKED, True, busy, E.MODULE),
    (v.TdcmUnbind, UNLOCKED, False, half_unmapped, E.MODULE),
]


@pytest.mark.parametrize(
    ("call", "state", "asked", "fault", "error"),
    CASES,
    ids=[f"{call.__name__} {fault.__name__} {error.name}" for call, _, _, fault, error in CASES],
)
def test_what_goes_wrong_is_told_by_its_error(
    call: type, state: InterfaceState | None, asked: bool, fault: Fault, error: HypercallError
) -> None:
    guest = Guest(Host())
    lock = 0 if state is None else bring_to(guest, state)
    if asked:
        ask(guest, lock, call)
    row = next(row for row in CALLS.values() if row.arguments is call)
    try:
        with fault(guest):
            result = getattr(guest.vmm, row.method)(call(function_id=guest.function_id), NOW)
    finally:
        mock.patch.stopall()
    assert result.error is error, result.reason
    assert error in row.refusals
    unknown = getattr(guest.vmm, row.method)(call(function_id=0), NOW)
    assert unknown.error is E.INVALID_OPERAND


@pytest.mark.parametrize("call", [*DRIVEN, v.TdcmBind, v.TdcmUnbind], ids=lambda call: call.__name__)
def test_the_cases_are_all_there_are(call: type) -> None:
    row = next(row for row in CALLS.values() if row.arguments is call)
    assert row.refusals == {E.INVALID_OPERAND} | {error for one, *_, error in CASES if one is call}
