"""ResponseNotReady as the responder: a request that waits, and RESPOND_IF_READY that asks for it again (DSP0274).

One request waits at a time; whoever sends something else has given it up.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2

from teeio.errors import Reject
from teeio.spdm import messages as m
from teeio.spdm.call import Call
from teeio.spdm.constants import ErrorCode

WAIT_FACTOR = 4
"""RDTM: for how many times the announced time the requester may still come; at least 2."""

MAX_EXPONENT = 31


@dataclass(frozen=True, slots=True)
class Postponed:
    """A request that is worked on until `until` and is asked for again by `token`."""

    request: bytes
    session_id: int | None
    token: int
    until: float

    def refusal(self, now: float) -> Reject:
        """Make ResponseNotReady."""
        microseconds = max(self.until - now, 0) * 1e6
        exponent = min(ceil(log2(microseconds)) if microseconds > 1 else 0, MAX_EXPONENT)
        details = m.ResponseNotReady(
            rdt_exponent=exponent, request_code=self.request[1], token=self.token, rdtm=WAIT_FACTOR
        )
        return Reject(
            ErrorCode.RESPONSE_NOT_READY, "the response is being made (DSP0274 ERROR)", extended=details.encode()
        )


def resumed(postponed: Postponed | None, request: m.RespondIfReady, call: Call) -> Call:
    """Give the call that a RESPOND_IF_READY resumes, or refuse."""
    if postponed is None:
        raise Reject(ErrorCode.INVALID_REQUEST, "no request is waiting (DSP0274 RESPOND_IF_READY)")
    asked = (request.original_request_code, request.token, call.session_id)
    if asked != (postponed.request[1], postponed.token, postponed.session_id):
        raise Reject(ErrorCode.INVALID_REQUEST, "another request is waiting (DSP0274 RESPOND_IF_READY)")
    if call.now < postponed.until:
        raise postponed.refusal(call.now)
    return Call(postponed.request, call.session, call.now, in_one_transfer=False)
