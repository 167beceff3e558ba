"""Exchanges about one interface, as VMM and TVM bring them about."""

from __future__ import annotations

from typing import Any

from host_machine import NOW, Guest
from teeio.abi import device_seamcalls as d
from teeio.abi.operands import DevifOperation, LockParameters
from teeio.tdisp.messages import InterfaceState
from teeio.tdisp.states import Event

LOCK = LockParameters(1)
OTHER_NONCE = b"n" * 32


def request(guest: Guest, operation: DevifOperation, lock: LockParameters | None = None) -> Any:
    """Let the VMM begin an exchange; without one under way nothing is carried."""
    call = d.TdhDevifRequest(function_id=guest.function_id, operation=operation, lock=lock)
    return guest.host.module.tdh_devif_request(call, NOW)


def drive(guest: Guest, operation: DevifOperation, lock: LockParameters | None = None) -> d.DevifCompleted:
    return guest.host.vmm.pci_tsm.guest_req(guest.function, operation, NOW, lock)


def bring_to(guest: Guest, state: InterfaceState) -> int:
    """Bring interface, TSM and device to a state; give the bind session id."""
    guest.host.vmm.pci_tsm.bind(guest.function, guest.machine.tdr, NOW)
    if state is InterfaceState.RUN:
        return guest.bring_up()
    if state is not InterfaceState.CONFIG_UNLOCKED:
        guest.bind()
    if state is InterfaceState.ERROR:
        guest.tdi.interface.happen(Event.CONFIG_CHANGED)
        drive(guest, DevifOperation.STATE)
    assert guest.info().state == guest.tdi.state == state
    return guest.info().bind_session_id
