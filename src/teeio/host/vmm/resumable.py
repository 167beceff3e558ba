"""The TSM's resumable calls as steps that a mailbox drives: called first, and again with each answer of the device."""

from __future__ import annotations

from teeio.abi import Result, VmmToTsm
from teeio.abi import device_seamcalls as d
from teeio.abi.operands import DevifOperation, KmOperation, LockParameters
from teeio.host.vmm.mailbox import Step


def interface_exchange(
    tsm: VmmToTsm, function_id: int, operation: DevifOperation, lock: LockParameters | None = None
) -> Step[d.DevifCompleted]:
    """An exchange with an interface: TDH.DEVIF.REQUEST, then TDH.DEVIF.RESPONSE."""
    request = d.TdhDevifRequest(function_id=function_id, operation=operation, lock=lock)

    def step(response: bytes | None, now: float) -> Result[d.DevifCompleted]:
        if response is None:
            return tsm.tdh_devif_request(request, now)
        return tsm.tdh_devif_response(d.TdhDevifResponse(function_id=function_id, response=response), now)

    return step


def stream_keys(tsm: VmmToTsm, spdm_id: int, stream_id: int, operation: KmOperation) -> Step[None]:
    """Setting up, refreshing or stopping the keys of a stream: TDH.IDE.STREAM.KM."""

    def step(response: bytes | None, now: float) -> Result[None]:
        call = d.TdhIdeStreamKm(spdm_id=spdm_id, stream_id=stream_id, operation=operation, response=response)
        return tsm.tdh_ide_stream_km(call, now)

    return step


def session_end(tsm: VmmToTsm, spdm_id: int) -> Step[None]:
    """The end of a session: TDH.SPDM.DISCONNECT."""

    def step(response: bytes | None, now: float) -> Result[None]:
        return tsm.tdh_spdm_disconnect(d.TdhSpdmDisconnect(spdm_id=spdm_id, response=response), now)

    return step
