"""A key update that the responder asks for: UpdateKey and VerifyNewKey of its own direction, encapsulated (DSP0274, KEY_UPDATE)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from teeio.errors import Misuse, TeeioError
from teeio.flow import Flow
from teeio.spdm import flows
from teeio.spdm.constants import Capability
from teeio.spdm.encapsulation import Counterpart, ask_requester
from teeio.spdm.state import Session

if TYPE_CHECKING:
    from teeio.spdm.responder import Responder


def renew_response_key(r: Responder, session_id: int) -> None:
    """Ask for a new response key of a session; it happens when the requester next fetches an encapsulated request there.

    Raises `Misuse` as `ask_requester` does, and if KEY_UPD is not negotiated.
    """
    if not r.connection.common_capabilities & Capability.KEY_UPD:
        raise Misuse("KEY_UPD is not negotiated", remedy="offer it on both sides")
    ask_requester(r, lambda side: _renewal(side, r.sessions[session_id]), session_id)


def _renewal(side: Counterpart, session: Session) -> Flow[None]:
    """Run the requester's key update with the directions exchanged; each new key serves `session` at once."""
    mirrored = session.mirrored()
    flow = flows.key_update(side, mirrored, both=False)
    try:
        asked = next(flow)
        while True:
            try:
                answer = yield asked
            except TeeioError as error:
                asked = flow.throw(error)
            else:
                asked = flow.send(answer)
            session.response_key = mirrored.request_key
    except StopIteration:
        return
