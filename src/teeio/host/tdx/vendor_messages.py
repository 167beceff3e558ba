"""IDE_KM and TDISP messages inside VENDOR_DEFINED ones: told to an observer, their errors kept apart from SPDM's.

An SPDM ERROR in answer to such a message is raised as `PeerViolation`, so that the code of an `ErrorResponse` is always the vendor
protocol's own.
"""

from __future__ import annotations

from typing import TypeVar

from teeio.errors import ErrorResponse, PeerViolation
from teeio.flow import Flow
from teeio.ide_km import messages as ide_km
from teeio.observe import MessageMoved, Observer, heard
from teeio.spdm.exchange import Answer, Ask
from teeio.spdm.messages import Message, VendorDefinedRequest, VendorDefinedResponse
from teeio.tdisp import messages as tdisp

T = TypeVar("T")

_TDISP_TYPE = 2
"""Where the message type stands in the payload: behind protocol id and version."""


def observed(flow: Flow[T], observer: Observer, source: str, target: str, session_id: int | None) -> Flow[T]:
    """Run `flow`, tell of the vendor messages in it, and keep SPDM's errors apart from theirs."""

    def tell(message: Message, sender: str, receiver: str) -> None:
        if heard(observer) and isinstance(message, VendorDefinedRequest | VendorDefinedResponse):
            named = name_of(message.payload)
            if named is not None:
                observer(MessageMoved(sender, receiver, *named, len(message.payload), session_id))

    try:
        asked: Ask = next(flow)
        while True:
            tell(asked.request, source, target)
            try:
                answer: Answer[VendorDefinedResponse] = yield asked
            except ErrorResponse as error:
                of_spdm = isinstance(asked.request, VendorDefinedRequest)
                asked = flow.throw(PeerViolation(str(error), "DSP0274 ERROR") if of_spdm else error)
            except Exception as error:
                asked = flow.throw(error)
            else:
                tell(answer.message, target, source)
                asked = flow.send(answer)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    finally:
        flow.close()


def name_of(payload: bytes) -> tuple[str, str] | None:
    """Give protocol and name of a payload that begins with PCI-SIG's protocol id; None for anything else."""
    if len(payload) > 1 and payload[0] == ide_km.PROTOCOL_ID:
        found = ide_km.BY_CODE.get(payload[1])
        return "IDE_KM", found.NAME if found else f"{payload[1]:#04x}"
    if len(payload) > _TDISP_TYPE and payload[0] == tdisp.PROTOCOL_ID:
        return "TDISP", tdisp.name_of(payload[_TDISP_TYPE])
    return None
