"""HEARTBEAT, KEY_UPDATE and END_SESSION with their responses (DSP0274)."""

from __future__ import annotations

from teeio.spdm.constants import KeyUpdateOperation
from teeio.spdm.messages.base import Request, Response, message
from teeio.wire import bits, reserved, reserved_bits, u8


@message(0xE8, "HEARTBEAT")
class Heartbeat(Request["HeartbeatAck"]):
    """Keep a session alive."""

    _params: None = reserved(2)


@message(0x68, "HEARTBEAT_ACK")
class HeartbeatAck(Response):
    """Answer HEARTBEAT."""

    _params: None = reserved(2)


@message(0xE9, "KEY_UPDATE")
class KeyUpdate(Request["KeyUpdateAck"]):
    """Replace the session's data keys."""

    operation: int = u8("Key operation", enum=KeyUpdateOperation)
    tag: int = u8("Tag, echoed by the response")


@message(0x69, "KEY_UPDATE_ACK")
class KeyUpdateAck(Response):
    """Answer KEY_UPDATE."""

    operation: int = u8("Key operation, echoed", enum=KeyUpdateOperation)
    tag: int = u8("Tag, echoed")


@message(0xEC, "END_SESSION")
class EndSession(Request["EndSessionAck"]):
    """End a session."""

    clear_negotiated_state: int = bits(1, "Clear the negotiated state", of=1, default=0)
    _param1: None = reserved_bits(7)
    _param2: None = reserved(1)


@message(0x6C, "END_SESSION_ACK")
class EndSessionAck(Response):
    """Answer END_SESSION."""

    _params: None = reserved(2)
