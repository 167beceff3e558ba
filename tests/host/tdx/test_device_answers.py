"""What the device says of its interface, and what the TSM makes of an answer that is wrong, lost or forged."""

from __future__ import annotations

import pytest

from host.tdx.exchanges import LOCK, bring_to, drive, request
from host_machine import NOW, Guest, Host
from teeio.abi import CallRefused
from teeio.abi import device_seamcalls as d
from teeio.abi import hypercalls as v
from teeio.abi import tdcalls as g
from teeio.abi.operands import DevifOperation
from teeio.abi.statuses import Status
from teeio.pcie.doe import SPDM, encode_object
from teeio.tdisp.messages import InterfaceState
from teeio.tdisp.messages import LockParameters as TdispLockParameters
from teeio.tdisp.states import Event


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
