"""Keys of a stream between two devices, one end and one turn at a time (PCIe Base 6.33.3).

The TPA draws the keys once; each end gets them in its own SPDM session, the directions of the second mirrored. The device
is asked who it is before it gets any, and before a binding what its stream registers say: QUERY_RESP comes over the
session, so the VMM, who wrote them, cannot say otherwise. Once the stream is enabled a change of them turns it Insecure.
"""

from __future__ import annotations

from teeio.abi.operands import KmOperation
from teeio.abi.statuses import Status
from teeio.errors import PeerViolation, Reject
from teeio.flow import Flow
from teeio.host.key_unit import partner_slot
from teeio.host.tdx.peer_records import PeerStream, Turn
from teeio.host.tdx.queried_registers import QueriedRegisters
from teeio.host.tdx.records import Records
from teeio.host.tdx.stream_keys import PORT_INDEX, draw_keys, identified
from teeio.ide_km import flows
from teeio.ide_km.messages import Direction


def take_turn(records: Records, stream: PeerStream, end: int, turn: Turn) -> Flow[None]:
    """Do one turn of the key change under way at one end."""
    change, context = stream.change, stream.ends[end].context
    if change is None:
        raise Reject(Status.OPERAND_INVALID, "no key change is under way")
    new = change.key_set
    if turn is Turn.PROGRAM:
        response = yield from identified(context.function_id)
        registers = QueriedRegisters(response.registers)
        registers.check_offers(stream.stream_id)
        if change.operation == KmOperation.SETUP:
            # A stream that is Secure may be bound to an interface of another pair, which would get the new keys too.
            registers.stream(stream.stream_id).check_insecure()
        if not change.keys:
            change.keys = draw_keys(records.entropy, records.observer, stream.stream_id, new)
        mine = change.keys if end == 0 else {partner_slot(slot): key for slot, key in change.keys.items()}
        yield from flows.program_keys(PORT_INDEX, stream.stream_id, mine)
    elif turn is Turn.STOP:
        for direction in Direction:
            yield from flows.set_stop(PORT_INDEX, stream.stream_id, stream.key_set, direction)
    else:
        direction = Direction.RX if turn is Turn.RECEIVE else Direction.TX
        yield from flows.set_go(PORT_INDEX, stream.stream_id, new, direction)


def check_registers(stream: PeerStream, end: int) -> Flow[None]:
    """See that an end's registers are what the stream was created with, enabled and Secure. Raises `Reject`."""
    own, peer = stream.ends[end], stream.ends[1 - end]
    response = yield from identified(own.context.function_id)
    try:
        block = QueriedRegisters(response.registers).stream(stream.stream_id)
    except PeerViolation as wrong:
        raise Reject(Status.P2P_STREAM_MISMATCH, str(wrong)) from wrong
    problem = block.problem(peer.context.requesters, peer.memory)
    if problem is not None:
        raise Reject(Status.P2P_STREAM_MISMATCH, f"registers of P2P stream {stream.stream_id}: {problem}")
