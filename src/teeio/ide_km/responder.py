"""The ports' side of IDE_KM: answers QUERY, KEY_PROG, K_SET_GO and K_SET_STOP (PCIe Base 6.33.3).

The first session that queries or programs owns the ports. A second live session gets no answer. When the owner ends,
its keys die; the next session's first request kills whatever is left before it is answered. What is wrong with
KEY_PROG is said in KP_ACK; other bad requests get no answer, which the specification recommends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from teeio.errors import DecodeError, Misuse, Reject
from teeio.ide_km.messages import (
    BY_CODE,
    INITIAL_IFV,
    PROTOCOL_ID,
    STANDARD_ID,
    VENDOR_ID,
    KeyAddress,
    KeyProg,
    KeySlot,
    KGostopAck,
    KpAck,
    KpAckStatus,
    KSetGo,
    KSetStop,
    ObjectId,
    Query,
    QueryResp,
    Response,
    decode_message,
)
from teeio.ide_km.slots import SLOT_RULES, KeyPort
from teeio.observe import Observer, Refused, ignore

_KEY_PROG_PREFIX = 7
"""Bytes of KEY_PROG in which everything lies that KP_ACK echoes."""
_NO_ANSWER = 0
"""Code of a `Reject` that leaves the request unanswered; any other code is a KP_ACK status."""


class IdeKmResponder:
    """Answers IDE_KM messages for the ports of one device, by PortIndex.

    `keys_survive_session` keeps keys beyond the end of the session that programmed them, until another session's
    first request. Plain IDE allows it; a device for TEE-I/O may not (PCIe Base 11.4.5), so it is off.

    `answer_wrong_length`: UNCONFIRMED. KP_ACK has the status Incorrect Length, and a validator expects it for a
    KEY_PROG of wrong size; another reading gives no answer to any message of wrong size, which False follows.
    """

    standard_id = STANDARD_ID
    vendor_id = VENDOR_ID
    protocol_id = PROTOCOL_ID

    def __init__(
        self,
        ports: Mapping[int, KeyPort],
        *,
        keys_survive_session: bool = False,
        answer_wrong_length: bool = True,
        observer: Observer = ignore,
    ) -> None:
        if not ports or not all(0 <= index <= 255 for index in ports):
            raise Misuse(f"port indices {sorted(ports)} are not one or more numbers within 0 to 255")
        self.ports = dict(ports)
        self._keys_survive_session = keys_survive_session
        self._answer_wrong_length = answer_wrong_length
        self._observer = observer
        self._owner: int | None = None
        self._stale = False

    @property
    def owner(self) -> int | None:
        """The SPDM session that may program keys; None before the first and after its end."""
        return self._owner

    def respond(self, session_id: int, message: bytes, now: float) -> bytes | None:
        """Answer one message of the SPDM session `session_id`; None gives no answer. Never raises on peer bytes."""
        message = bytes(message)
        try:
            return self._answer(session_id, message).encode()
        except Reject as refusal:
            self._observer(Refused("IDE_KM", _name(message), refusal.clause))
            return None if refusal.code == _NO_ANSWER else _refusing_ack(message, refusal.code)

    def session_ended(self, session_id: int) -> None:
        """Release the ports if the session owned them; its keys die with it unless they are to survive."""
        if session_id != self._owner:
            return
        self._owner = None
        self._stale = True
        if not self._keys_survive_session:
            self._kill_stale_keys()

    # -- ownership ---------------------------------------------------------------------------------------------------

    def check_owner(self, session_id: int) -> None:
        """Leave a request of another session than the live owner's unanswered. Raises `Reject`."""
        if self._owner not in (None, session_id):
            raise Reject(_NO_ANSWER, "another live session owns the ports (PCIe Base 6.33.3, 11.4.5)")

    def _own(self, session_id: int) -> None:
        """Let a QUERY or KEY_PROG bind the ports to its session, without keys of an earlier one."""
        if self._owner is None:
            self._kill_stale_keys()
            self._owner = session_id

    def _kill_stale_keys(self) -> None:
        if self._stale:
            for port in self.ports.values():
                port.kill_keys()
            self._stale = False

    # -- handlers ----------------------------------------------------------------------------------------------------

    def _answer(self, session_id: int, message: bytes) -> Response:
        self.check_owner(session_id)
        try:
            request = decode_message(message)
        except DecodeError as error:
            raise Reject(self._length_status(message), str(error)) from error
        handler: Callable[[IdeKmResponder, int, Any], Response] | None = _HANDLERS.get(type(request))
        if handler is None:
            raise Reject(_NO_ANSWER, f"{request.NAME} is not a request")
        return handler(self, session_id, request)

    def _length_status(self, message: bytes) -> int:
        echoable = len(message) >= _KEY_PROG_PREFIX and message[0] == ObjectId.KEY_PROG
        return KpAckStatus.INCORRECT_LENGTH if echoable and self._answer_wrong_length else _NO_ANSWER

    def _query(self, session_id: int, request: Query) -> Response:
        port = self.ports.get(request.port_index)
        if port is None:
            raise Reject(_NO_ANSWER, f"port index {request.port_index} does not exist")
        self._own(session_id)
        return QueryResp(
            port_index=request.port_index,
            device_function=port.device_function,
            bus=port.bus,
            segment=port.segment,
            max_port_index=max(self.ports),
            registers=port.capability_registers(),
        )

    def _key_prog(self, session_id: int, request: KeyProg) -> Response:
        self._own(session_id)
        port, slot = self.named_port(request), named_slot(request)
        check_stream(request, port)
        check_ifv(request)
        rule = SLOT_RULES[ObjectId.KEY_PROG, port.slot_state(request.stream_id, slot)]
        if rule.next_state is None:
            raise Reject(KpAckStatus.UNSPECIFIED_FAILURE, rule.why)
        problem = port.program(request.stream_id, slot, request.key, request.ifv)
        if problem is not None:
            raise Reject(KpAckStatus.UNSPECIFIED_FAILURE, problem)
        return KpAck(
            stream_id=request.stream_id,
            status=KpAckStatus.SUCCESSFUL,
            key_sub_stream=request.key_sub_stream,
            port_index=request.port_index,
        )

    def named_port(self, request: KeyProg) -> KeyPort:
        """Give the port that KEY_PROG names. Raises `Reject`."""
        port = self.ports.get(request.port_index)
        if port is None:
            raise Reject(KpAckStatus.UNSUPPORTED_PORT_INDEX, f"port index {request.port_index} does not exist")
        return port

    def _set_go(self, session_id: int, request: KSetGo) -> Response:
        port, slot = self._addressed(session_id, request)
        port.set_go(request.stream_id, slot)
        return _acknowledge(request)

    def _set_stop(self, session_id: int, request: KSetStop) -> Response:
        port, slot = self._addressed(session_id, request)
        port.set_stop(request.stream_id, slot)
        return _acknowledge(request)

    def _addressed(self, session_id: int, request: KSetGo | KSetStop) -> tuple[KeyPort, KeySlot]:
        """Give the port and slot that a legal request names."""
        if self._owner != session_id:
            raise Reject(_NO_ANSWER, "the session has neither queried nor programmed a port")
        port = self.ports.get(request.port_index)
        slot = request.key_sub_stream.slot()
        if port is None or slot is None or request.stream_id not in port.stream_ids():
            raise Reject(_NO_ANSWER, f"port {request.port_index} has no such sub-stream of stream {request.stream_id}")
        rule = SLOT_RULES[ObjectId(request.CODE), port.slot_state(request.stream_id, slot)]
        if rule.next_state is None:
            raise Reject(_NO_ANSWER, rule.why)
        return port, slot


# -- what may be wrong with a KEY_PROG; each raises `Reject`


def named_slot(request: KeyProg) -> KeySlot:
    """Give the slot that KEY_PROG names."""
    slot = request.key_sub_stream.slot()
    if slot is None:
        raise Reject(KpAckStatus.UNSUPPORTED_VALUE, f"sub-stream {request.key_sub_stream.sub_stream} is reserved")
    return slot


def check_stream(request: KeyProg, port: KeyPort) -> None:
    """Refuse a stream that the port has not."""
    if request.stream_id not in port.stream_ids():
        raise Reject(KpAckStatus.UNSUPPORTED_VALUE, f"the port has no stream {request.stream_id}")


def check_ifv(request: KeyProg) -> None:
    """Refuse another first invocation than 1."""
    if request.ifv != INITIAL_IFV:
        raise Reject(KpAckStatus.UNSUPPORTED_VALUE, f"the IFV is {request.ifv:#x}, it must be {INITIAL_IFV}")


def _refusing_ack(message: bytes, status: int) -> bytes:
    """Answer a KEY_PROG of any length that holds what KP_ACK echoes."""
    echo, _ = KeyAddress.decode_prefix(message[1:])
    return KpAck(
        stream_id=echo.stream_id,
        status=KpAckStatus(status),
        key_sub_stream=echo.key_sub_stream,
        port_index=echo.port_index,
    ).encode()


def _acknowledge(request: KSetGo | KSetStop) -> KGostopAck:
    return KGostopAck(stream_id=request.stream_id, key_sub_stream=request.key_sub_stream, port_index=request.port_index)


def _name(message: bytes) -> str:
    found = BY_CODE.get(message[0]) if message else None
    return found.NAME if found else "an unknown IDE_KM message"


_HANDLERS: dict[type[Any], Callable[..., Response]] = {
    Query: IdeKmResponder._query,
    KeyProg: IdeKmResponder._key_prog,
    KSetGo: IdeKmResponder._set_go,
    KSetStop: IdeKmResponder._set_stop,
}
