"""IDE_KM and TDISP in a session: a stream's keys, and an interface taken to RUN and back."""

from __future__ import annotations

from typing import Any

from teeio.cli.visits.visit import Visit
from teeio.errors import ErrorResponse, Misuse, PeerViolation
from teeio.ide_km import flows as ide_flows
from teeio.ide_km.messages import Direction, KeySet, key_name, key_slots
from teeio.observe import SecretDerived
from teeio.spdm.constants import ErrorCode
from teeio.tdisp import flows as tdisp_flows
from teeio.tdisp.messages import InterfaceState, LockFlags, LockParameters

NOT_OFFERED = (ErrorCode.UNSUPPORTED_REQUEST, ErrorCode.INVALID_REQUEST)
"""How responders without IDE_KM answer its first message; the reference responder says InvalidRequest over MCTP."""


def key_stream(visit: Visit) -> bool:
    """Key the IDE stream; tell whether the responder speaks IDE_KM at all."""
    plan, session = visit.plan, visit.session

    def run(flow: Any) -> Any:
        return visit.run(flow, session)

    try:
        answer = run(ide_flows.query(plan.port_index))
    except ErrorResponse as error:
        if error.code not in NOT_OFFERED:
            raise
        visit.done("ide_km", None, "IDE_KM", "not offered by this responder on this transport")
        return False
    slots = [slot for direction in Direction for slot in key_slots(KeySet.K0, direction)]
    keys = {slot: visit.entropy(32) for slot in slots}
    for slot, key in keys.items():
        name = key_name(plan.stream_id, plan.port_index, slot)
        visit.requester.observer(SecretDerived("ide_key", name, key))
    run(ide_flows.program_keys(plan.port_index, plan.stream_id, keys))
    for direction in (Direction.RX, Direction.TX):
        run(ide_flows.set_go(plan.port_index, plan.stream_id, KeySet.K0, direction))
    details = {
        "port_index": plan.port_index,
        "max_port_index": answer.max_port_index,
        "stream_id": plan.stream_id,
        "keys": len(keys),
    }
    note = f"port {plan.port_index}, stream {plan.stream_id}: {len(keys)} keys set and running"
    visit.done("ide_km", details, "IDE_KM", note)
    return True


def key_stream_or_fail(visit: Visit) -> None:
    """Key the IDE stream. Raises `Misuse` where the responder does not speak IDE_KM: it was asked for by name."""
    if not key_stream(visit):
        raise Misuse("this responder does not speak IDE_KM", remedy="leave ide, tdisp and ide-stop out of --operations")


def stop_stream(visit: Visit) -> None:
    """Erase the stream's keys."""
    plan = visit.plan
    for direction in (Direction.RX, Direction.TX):
        visit.run(ide_flows.set_stop(plan.port_index, plan.stream_id, KeySet.K0, direction), visit.session)
    visit.done("ide_km_stopped", True, "K_SET_STOP", "all keys erased")


def live_interface(visit: Visit) -> None:
    """Take the interface to RUN and back."""
    function_id, session = visit.plan.function_id, visit.session
    states: list[str] = []

    def run(flow: Any) -> Any:
        return visit.run(flow, session)

    def see(expected: InterfaceState) -> None:
        state = run(tdisp_flows.get_state(function_id))
        states.append(state.name)
        if state is not expected:
            raise PeerViolation(f"the interface is in {state.name}, not in {expected.name}", "PCIe Base 11.2")

    version = run(tdisp_flows.get_version(function_id))
    capabilities = run(tdisp_flows.get_capabilities(function_id))
    see(InterfaceState.CONFIG_UNLOCKED)
    flags = LockFlags.NO_FW_UPDATE & capabilities.lock_flags_supported
    parameters = LockParameters(
        flags=flags,
        default_stream_id=visit.plan.stream_id,
        mmio_reporting_offset=visit.plan.mmio_reporting_offset,
        bind_p2p_address_mask=0,
    )
    nonce = run(tdisp_flows.lock_interface(function_id, parameters))
    see(InterfaceState.CONFIG_LOCKED)
    report = run(tdisp_flows.get_device_interface_report(function_id))
    run(tdisp_flows.start_interface(function_id, nonce))
    see(InterfaceState.RUN)
    run(tdisp_flows.stop_interface(function_id))
    see(InterfaceState.CONFIG_UNLOCKED)
    details = {
        "version": f"{version >> 4}.{version & 15}",
        "function_id": f"{function_id:#06x}",
        "states": states,
        "ranges": [
            {
                "first_page": item.first_page,
                "pages": item.pages,
                "attributes": int(item.attributes),
                "range_id": item.range_id,
            }
            for item in report.ranges
        ],
    }
    visit.done("tdisp", details, "TDISP", " > ".join(states))
