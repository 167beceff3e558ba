"""Keys of an IDE stream: made by the TPA, programmed at the device by IDE_KM and in the root port (PCIe Base 6.33.3).

The order of set-up: all keys at both ends, then ready for reception at both ends, then for transmission, then Enable.
The VMM enables the device's end afterwards. A refresh programs the idle key set, changes over, and erases the old one.
Each key has one use: a sub-stream in one direction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from teeio.abi.operands import StreamOptions
from teeio.abi.statuses import Status
from teeio.crypto.entropy import Entropy
from teeio.errors import PeerViolation, Reject
from teeio.flow import Flow
from teeio.host.key_unit import KeyUnit, partner_slot
from teeio.host.tdx.queried_registers import QueriedRegisters
from teeio.host.tdx.tpa import drawn
from teeio.ide_km import flows
from teeio.ide_km.messages import KEY_SIZE, Direction, KeySet, KeySlot, QueryResp, key_name, key_slots
from teeio.observe import Observer, SecretDerived, ignore

PORT_INDEX = 0
"""The device's port: an endpoint has one."""


@dataclass(frozen=True, slots=True)
class StreamEnds:
    """The two ends of a stream: `device` is the requester id of the function that holds the device's IDE registers."""

    stream_id: int
    device: int
    unit: KeyUnit
    entropy: Entropy
    observer: Observer = ignore


def set_up(ends: StreamEnds, key_set: KeySet, options: StreamOptions) -> Flow[None]:
    """Program `key_set`, make it ready and enable the root port's end.

    Before it gets a key, the device says whose port it is, that it does IDE as it should, and that it has the stream,
    with the same `options` as the root port: else the first TLP would be the stream's last.
    """
    response = yield from identified(ends.device)
    QueriedRegisters(response.registers).check_offers(ends.stream_id, options)
    yield from _program(ends, key_set)
    yield from _go(ends, key_set)
    if not ends.unit.enable(ends.stream_id):
        raise Reject(Status.IDE_KM_FAILED, "the root port's end of the stream did not become Secure")


def identified(device: int) -> Flow[QueryResp]:
    """Ask whose the device's port is: of the function with this requester id, or `PeerViolation`."""
    response = yield from flows.query(PORT_INDEX)
    if response.bus << 8 | response.device_function != device:
        raise PeerViolation(
            f"the IDE port is that of function {response.bus:02x}:{response.device_function:02x}, not of {device:#06x}",
            "PCIe Base 6.33.3, QUERY_RESP",
        )
    return response


def refresh(ends: StreamEnds, old: KeySet, new: KeySet, changes_over: Callable[[], None]) -> Flow[None]:
    """Change over from one key set to the other without leaving Secure; `changes_over` is told when that begins."""
    yield from _program(ends, new)
    changes_over()
    yield from _go(ends, new)
    yield from _stop(ends, old)
    ends.unit.set_stop(ends.stream_id, old)


def stop(ends: StreamEnds, key_set: KeySet) -> Flow[None]:
    """Disable the root port's end, then erase the keys at the device."""
    ends.unit.disable(ends.stream_id)
    yield from _stop(ends, key_set)


def _program(ends: StreamEnds, key_set: KeySet) -> Flow[None]:
    keys = draw_keys(ends.entropy, ends.observer, ends.stream_id, key_set)
    yield from flows.program_keys(PORT_INDEX, ends.stream_id, keys)
    for slot, key in keys.items():
        problem = ends.unit.program(ends.stream_id, partner_slot(slot), key)
        if problem is not None:
            raise Reject(Status.IDE_KM_FAILED, f"the root port takes no key: {problem}")


def draw_keys(entropy: Entropy, observer: Observer, stream_id: int, key_set: KeySet) -> dict[KeySlot, bytes]:
    """Draw a key for each slot of a set, all different. Raises `Reject` (RND_NO_ENTROPY)."""
    keys: dict[KeySlot, bytes] = {}
    for direction in Direction:
        for slot in key_slots(key_set, direction):
            keys[slot] = drawn(entropy, KEY_SIZE)
            observer(SecretDerived("ide_key", key_name(stream_id, PORT_INDEX, slot), keys[slot]))
    if len(set(keys.values())) != len(keys):
        raise Reject(Status.RND_NO_ENTROPY, "two of the drawn keys are equal")
    return keys


def _go(ends: StreamEnds, key_set: KeySet) -> Flow[None]:
    for direction in (Direction.RX, Direction.TX):
        yield from flows.set_go(PORT_INDEX, ends.stream_id, key_set, direction)
        if not ends.unit.set_go(ends.stream_id, key_set, direction):
            raise Reject(Status.IDE_KM_FAILED, f"the root port has no {direction.name} keys")


def _stop(ends: StreamEnds, key_set: KeySet) -> Flow[None]:
    for direction in Direction:
        yield from flows.set_stop(PORT_INDEX, ends.stream_id, key_set, direction)
