"""KEY_UPDATE as the asking side does it, and when it must (DSP0274 KEY_UPDATE, DSP0277 sequence numbers).

Apart from `flows`, since the requester itself runs it before a key has protected as many records as it may.
"""

from __future__ import annotations

from teeio.errors import ErrorResponse, Misuse, PeerViolation
from teeio.flow import Flow
from teeio.observe import SecretDerived
from teeio.spdm import messages as m
from teeio.spdm.asking import Asker
from teeio.spdm.constants import Capability, KeyUpdateOperation
from teeio.spdm.exchange import ask
from teeio.spdm.state import Session, SessionPhase

NEVER_DELAYED = frozenset({m.KeyUpdate.CODE, m.EndSession.CODE, m.DeliverEncapsulatedResponse.CODE})
"""Requests before which no key update comes: the update itself, the end, and what the responder is waiting for."""

_RESERVE = 4
"""Records that are kept for the update itself and for repeating what the peer was too busy for."""


def key_update(requester: Asker, session: Session, *, both: bool = True) -> Flow[None]:
    """Replace the data keys: both directions, or the request direction only; then prove the new request key.

    A responder that asks for it gives a mirrored session and updates one direction only.
    """
    operation = KeyUpdateOperation.UPDATE_ALL_KEYS if both else KeyUpdateOperation.UPDATE_KEY
    new_request = session.request_key.updated()
    if both:
        session.previous_key, session.response_key = session.response_key, session.response_key.updated()
    try:
        yield from _key_operation(requester, session, operation)
    except ErrorResponse:
        # A protected refusal: the responder has kept its keys, so do we.
        if both and session.previous_key is not None:
            session.response_key, session.previous_key = session.previous_key, None
        raise
    except BaseException:
        requester.drop_session(session.session_id, "whether the keys were updated is not known")
        raise
    session.previous_key = None
    session.request_key = new_request
    for direction, key in zip(session.directions, (session.request_key, session.response_key), strict=True):
        if both or key is new_request:
            label = f"{direction}_data_secret_update"
            requester.observer(SecretDerived(label, f"{session.session_id:08x}", key.secret))
    try:
        yield from _key_operation(requester, session, KeyUpdateOperation.VERIFY_NEW_KEY)
    except BaseException:
        requester.drop_session(session.session_id, "the updated keys were not verified")
        raise


def _key_operation(requester: Asker, session: Session, operation: KeyUpdateOperation) -> Flow[None]:
    tag = requester.entropy(1)[0]
    response = yield from ask(m.KeyUpdate(operation=operation, tag=tag), session.session_id)
    if (response.operation, response.tag) != (operation, tag):
        raise PeerViolation("KEY_UPDATE_ACK does not echo operation and tag", "DSP0274 KEY_UPDATE_ACK")


def key_update_due(asker: Asker, session: Session) -> bool:
    """Tell whether a key of an established session might not last for one more exchange and the update after it."""
    if session.phase is not SessionPhase.ESTABLISHED:
        return False
    reserve = min(_RESERVE + _chunks(asker), session.terms.limit // 2)
    return min(session.request_key.remaining, session.response_key.remaining) < reserve


def _chunks(asker: Asker) -> int:
    """Give the most records that one message takes in each direction."""
    settings, c = asker.settings, asker.connection
    if not c.common_capabilities & Capability.CHUNK:
        return 1
    largest = max(settings.max_message_size, c.peer_max_message_size)
    # Twice, since of the smallest DataTransferSize the header of a chunk takes almost half.
    return 2 * largest // min(settings.data_transfer_size, c.peer_data_transfer_size)


def renew_if_due(asker: Asker, session: Session) -> Flow[None]:
    """Update all keys now if they might not last for one more exchange."""
    if key_update_due(asker, session):
        yield from renew(asker, session)


def renew(asker: Asker, session: Session) -> Flow[None]:
    """Update all keys; where KEY_UPD is not negotiated end the session and raise `Misuse`."""
    if asker.connection.common_capabilities & Capability.KEY_UPD:
        yield from key_update(asker, session)
        return
    try:
        yield from ask(m.EndSession(), session.session_id)
    finally:
        asker.drop_session(session.session_id, "its keys have protected as many records as they may")
    raise Misuse(
        f"the keys of session {session.session_id:#x} have protected as many records as they may (DSP0277), "
        "and KEY_UPD is not negotiated: the session has been ended",
        remedy="start a new session, or offer KEY_UPD on both sides",
    )
