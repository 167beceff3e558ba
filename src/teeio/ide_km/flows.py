"""The key manager's side of IDE_KM, as generators (PCIe Base 6.33.3).

The order of a stream's set-up is the caller's, since it involves both ports: program all keys at both ends, then
K_SET_GO for reception at both ends, then for transmission, then set the Enable bits. `program_keys`, `set_go` and
`set_stop` do one end's share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from teeio.errors import DecodeError, ErrorResponse, Misuse, PeerViolation
from teeio.flow import Flow
from teeio.ide_km.messages import (
    BY_CODE,
    INITIAL_IFV,
    KEY_SIZE,
    PROTOCOL_ID,
    STANDARD_ID,
    VENDOR_ID,
    Direction,
    KeyProg,
    KeySet,
    KeySlot,
    KeySubStream,
    KGostopAck,
    KpAck,
    KpAckStatus,
    KSetGo,
    KSetStop,
    Query,
    QueryResp,
    Request,
    Response,
    key_slots,
    reverse_dwords,
)
from teeio.spdm.vendor import vendor_exchange

Rsp = TypeVar("Rsp", bound=Response)
_CLAUSE = "PCIe Base 6.33.3"


def exchange(request: Request[Rsp]) -> Flow[Rsp]:
    """Send `request` and give its response, checked to be of the right kind."""
    payload = yield from vendor_exchange(STANDARD_ID, VENDOR_ID, bytes([PROTOCOL_ID]) + request.encode())
    if payload[:1] != bytes([PROTOCOL_ID]):
        raise PeerViolation(f"the answer to {request.NAME} is not of protocol IDE_KM", _CLAUSE)
    answer = payload[1:]
    expected = request.response_class()
    if not answer:
        raise DecodeError(expected.__name__, "object_id", 0, "the message is empty")
    if answer[0] != expected.CODE:
        found = BY_CODE.get(answer[0])
        raise PeerViolation(f"{found.NAME if found else hex(answer[0])} answers {request.NAME}", _CLAUSE)
    # The declared pair of request and response makes this the class that `Request[Rsp]` names.
    return expected.decode(answer)  # type: ignore[return-value]


def query(port_index: int) -> Flow[QueryResp]:
    """Give a port's identity and IDE capability registers; this binds the port to the session."""
    response = yield from exchange(Query(port_index=port_index))
    if response.port_index != port_index:
        raise PeerViolation(f"QUERY_RESP is for port {response.port_index}, not {port_index}", _CLAUSE)
    if len(response.registers) % 4:
        raise PeerViolation(f"QUERY_RESP has {len(response.registers)} bytes of 32-bit registers", _CLAUSE)
    return response


def program_key(port_index: int, stream_id: int, slot: KeySlot, key: bytes) -> Flow[None]:
    """Program one key (32 bytes, AES order). Raises `ErrorResponse` with the status of KP_ACK if it is refused."""
    if len(key) != KEY_SIZE:
        raise Misuse(f"an IDE key has {KEY_SIZE} bytes, not {len(key)}")
    request = KeyProg(
        stream_id=stream_id,
        key_sub_stream=KeySubStream.of(slot),
        port_index=port_index,
        key_dwords=reverse_dwords(key),
        ifv_high=INITIAL_IFV >> 32,
        ifv_low=INITIAL_IFV & 0xFFFF_FFFF,
    )
    response = yield from exchange(request)
    _check_echo(request, response)
    if response.status != KpAckStatus.SUCCESSFUL:
        status = response.status if isinstance(response.status, KpAckStatus) else KpAckStatus.UNSPECIFIED_FAILURE
        raise ErrorResponse(
            f"port {port_index} refused the key {_shown(slot)} of stream {stream_id}: {status.name}",
            int(response.status),
            remedy=_REMEDIES[status],
        )


_REMEDIES = {
    KpAckStatus.INCORRECT_LENGTH: "The port expects another size of KEY_PROG; check its IDE algorithm.",
    KpAckStatus.UNSUPPORTED_PORT_INDEX: "Use a port index up to MaxPortIndex of QUERY_RESP.",
    KpAckStatus.UNSUPPORTED_VALUE: "Write the Stream ID into the port's stream control register before its keys.",
    KpAckStatus.UNSPECIFIED_FAILURE: "A key set in use cannot be overwritten: program the idle set, or stop this one.",
}


def set_key_go(port_index: int, stream_id: int, slot: KeySlot) -> Flow[None]:
    """Make one programmed key ready for use."""
    request = KSetGo(stream_id=stream_id, key_sub_stream=KeySubStream.of(slot), port_index=port_index)
    _check_echo(request, (yield from exchange(request)))


def set_key_stop(port_index: int, stream_id: int, slot: KeySlot) -> Flow[None]:
    """Erase one key."""
    request = KSetStop(stream_id=stream_id, key_sub_stream=KeySubStream.of(slot), port_index=port_index)
    _check_echo(request, (yield from exchange(request)))


def program_keys(port_index: int, stream_id: int, keys: Mapping[KeySlot, bytes]) -> Flow[None]:
    """Program several keys, in the mapping's order. Raises `Misuse` if two are equal: that would break AES-GCM."""
    if len(set(keys.values())) != len(keys):
        raise Misuse("two keys of a stream are equal: each sub-stream and direction needs its own key")
    for slot, key in keys.items():
        yield from program_key(port_index, stream_id, slot, key)


def set_go(port_index: int, stream_id: int, key_set: KeySet, direction: Direction) -> Flow[None]:
    """Make the keys of all sub-streams of one key set ready in one direction."""
    for slot in key_slots(key_set, direction):
        yield from set_key_go(port_index, stream_id, slot)


def set_stop(port_index: int, stream_id: int, key_set: KeySet, direction: Direction) -> Flow[None]:
    """Erase the keys of all sub-streams of one key set in one direction."""
    for slot in key_slots(key_set, direction):
        yield from set_key_stop(port_index, stream_id, slot)


def _check_echo(request: KeyProg | KSetGo | KSetStop, response: KpAck | KGostopAck) -> None:
    sent = (request.stream_id, request.key_sub_stream, request.port_index)
    if (response.stream_id, response.key_sub_stream, response.port_index) != sent:
        raise PeerViolation(
            f"{response.NAME} is for another key than {request.NAME}: stream {response.stream_id}, "
            f"port {response.port_index}, {response.key_sub_stream!r}",
            _CLAUSE,
        )


def _shown(slot: KeySlot) -> str:
    return f"{slot.key_set.name} {slot.direction.name} {slot.sub_stream.name}"
