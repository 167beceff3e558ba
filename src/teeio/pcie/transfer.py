"""Transfers cut into TLPs, and completions put together again (PCIe Base 2.2.7, 2.2.9, 2.3.1.1, 2.4.3).

A tag whose request timed out is not given out again before `flush`: a late completion can so never be taken for the
answer to another request, as it can where tags are not quarantined (`link_rules`). Left out: 10-bit tags.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from teeio.pcie.address import Bdf
from teeio.pcie.config_space import Functions
from teeio.pcie.ide_port import Received
from teeio.pcie.seams import TIMED_OUT, UNSUPPORTED, BarAccess, ConfigAccess, Reply
from teeio.pcie.tlp import PAGE, CompletionStatus, Tlp, TlpType, completion

TAGS = 256
NO_TAG = Reply(TIMED_OUT.status)
"""What a request brings that could not be sent as no tag was free; it is not `TIMED_OUT` itself."""
READ_COMPLETION_BOUNDARY = 64
DEFAULT_MAX_PAYLOAD = 256
DEFAULT_MAX_READ_REQUEST = 512


def pieces(address: int, size: int, largest: int) -> Iterator[tuple[int, int]]:
    """Cut [address, address + size) so that no piece is larger than `largest` or crosses a 4 KiB boundary."""
    end = address + size
    while address < end:
        part = min(largest, end - address, PAGE - address % PAGE)
        yield address, part
        address += part


def completions(request: Tlp, completer_id: int, reply: Reply, max_payload: int) -> list[Tlp]:
    """Build the completions that answer a memory read with `reply.data`, the bytes that its byte enables span.

    They are cut at Max_Payload_Size and 64-byte boundaries. A failed reply, or one of another length, becomes one Cpl.
    """
    header = request.memory()
    if not reply.ok:
        return [refusal(request, completer_id, reply.status)]
    start, size = header.span
    if len(reply.data) != size:
        return [refusal(request, completer_id, CompletionStatus.CA)]
    front = start - header.address
    data = bytes(front) + reply.data
    data += bytes(4 * header.dwords - len(data))
    if size == 0:
        return [completion(completer_id, header.requester_id, header.tag, data, byte_count=1)]
    found, at = [], 0
    while at < len(data):
        boundary = (header.address + at + max_payload) // READ_COMPLETION_BOUNDARY * READ_COMPLETION_BOUNDARY
        end = min(len(data), boundary - header.address)
        first = start if at == 0 else header.address + at
        found.append(
            completion(
                completer_id,
                header.requester_id,
                header.tag,
                data[at:end],
                byte_count=start + size - first,
                lower_address=first,
                traffic_class=request.traffic_class,
            )
        )
        at = end
    return found


def refusal(request: Tlp, completer_id: int, status: CompletionStatus) -> Tlp:
    """Build the Cpl that refuses a non-posted request, a CplLk for a locked read (PCIe Base 2.2.9)."""
    tag, requester_id = request.header[6], request.requester_id
    cpl = completion(completer_id, requester_id, tag, status=status, traffic_class=request.traffic_class)
    if request.type is not TlpType.MRDLK:
        return cpl
    return cpl._replace(header=bytes([TlpType.CPLLK.first_byte(False)]) + cpl.header[1:])


def serve_memory(functions: Functions, bars: BarAccess, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
    """Bring a memory read or write to the BAR that decodes it; Unsupported Request if none does, or for other TLPs."""
    if tlp.type not in (TlpType.MRD, TlpType.MWR):
        return UNSUPPORTED
    header = tlp.memory()
    start, size = header.span
    hit = functions.decode(start, max(size, 1))
    if hit is None:
        return UNSUPPORTED
    completer_id = hit.function.requester_id
    if tlp.type is TlpType.MRD:
        reply = bars.bar_read(hit.function, hit.bar, hit.offset, size, t_bit, stream_id)
        return reply._replace(completer_id=completer_id)
    status = CompletionStatus.SC
    # A write that enables no byte changes nothing, and is judged all the same.
    for address, data in header.enabled(tlp.payload) or [(start, b"")]:
        answer = bars.bar_write(hit.function, hit.bar, hit.offset + address - start, data, t_bit, stream_id)
        status = status if answer is CompletionStatus.SC else answer
    return Reply(status, b"", completer_id)


def serve_configuration(access: ConfigAccess, tlp: Tlp, segment: int) -> Reply:
    """Bring a configuration request to the function it names; Unsupported Request if there is none.

    So is a poisoned write, which changes nothing (PCIe Base 2.7.2.2).
    """
    header = tlp.configuration()
    if header.common.poisoned:
        return UNSUPPORTED
    function = Bdf.of(header.target_id, segment)
    offset = 4 * header.register
    if tlp.type.with_data:
        for start, size in _ENABLED[header.first_be]:
            written = int.from_bytes(tlp.payload[start : start + size], "little")
            if not access.config_write(function, offset + start, size, written):
                return UNSUPPORTED
        return Reply(CompletionStatus.SC, b"", header.target_id)
    word = 0
    for start, size in _ENABLED[header.first_be]:
        value = access.config_read(function, offset + start, size)
        if value is None:
            return UNSUPPORTED
        word |= value << 8 * start
    return Reply(CompletionStatus.SC, word.to_bytes(4, "little"), header.target_id)


def _enabled(first_be: int) -> list[tuple[int, int]]:
    """Cut the byte enables of a configuration request into aligned accesses of 1, 2 or 4 bytes."""
    if first_be == 0xF:
        return [(0, 4)]
    found = []
    for start in (0, 2):
        pair = first_be >> start & 3
        found += {0: [], 1: [(start, 1)], 2: [(start + 1, 1)], 3: [(start, 2)]}[pair]
    return found


_ENABLED = [_enabled(first_be) for first_be in range(16)]


class Verdict(Enum):
    """What a completion is to the requester."""

    EXPECTED = "expected"
    UNEXPECTED = "unexpected completion"
    WRONG_STREAM = "completion on another stream than its request"


@dataclass(slots=True)
class _Pending:
    """A request on its way: the bytes it asked for and those that came."""

    size: int
    front: int
    dwords: bool
    stream_id: int | None
    needs_t: bool
    data: bytearray = field(default_factory=bytearray)
    status: CompletionStatus | None = None


class Requester:
    """Tags and outstanding non-posted requests of one port, for all its requester IDs."""

    def __init__(self, *, quarantines_tags: bool = True) -> None:
        self._quarantines_tags = quarantines_tags
        self._pending: dict[tuple[int, int], _Pending] = {}
        self._retired: set[tuple[int, int]] = set()
        self._last: defaultdict[int, int] = defaultdict(lambda: TAGS - 1)

    def request(
        self,
        requester_id: int,
        size: int,
        address: int,
        stream_id: int | None,
        send: Callable[[int], bool],
        *,
        needs_t: bool = False,
    ) -> Reply:
        """Let `send` send a request of `size` bytes at `address` under a fresh tag, give what its completions bring.

        Completions come in while `send` runs. What has not come then will not come: the request has timed out. If
        `send` could not send, the reply is Unsupported Request; without a free tag it is `NO_TAG`.
        With `needs_t` a completion without T is UNPROTECTED.
        """
        tag = self._fresh(requester_id)
        if tag is None:
            return NO_TAG
        key = requester_id, tag
        pending = self._pending[key] = _Pending(size, address % 4, size > 0, stream_id, needs_t)
        sent = send(tag)
        del self._pending[key]
        if not sent:
            return UNSUPPORTED
        if pending.status is None:
            self._retire(key)
            return TIMED_OUT
        return Reply(pending.status, bytes(pending.data) if pending.status is CompletionStatus.SC else b"")

    @property
    def outstanding(self) -> int:
        """How many requests wait for completions."""
        return len(self._pending)

    @property
    def all_tags(self) -> bool:
        """Whether no tag is in quarantine."""
        return not self._retired

    def pass_tag(self, requester_id: int) -> None:
        """Use up the tag of a request that was served without a TLP, so that later ones have the tags they would have."""
        self._last[requester_id] += 1  # `_fresh` has it wrap around

    def _retire(self, key: tuple[int, int]) -> None:
        """Keep a tag out of use whose completion may still come."""
        if self._quarantines_tags:
            self._retired.add(key)

    def _fresh(self, requester_id: int) -> int | None:
        tag = self._last[requester_id]
        for _ in range(TAGS):
            tag = (tag + 1) % TAGS
            if (requester_id, tag) not in self._pending and (requester_id, tag) not in self._retired:
                self._last[requester_id] = tag
                return tag
        return None

    def flush(self) -> None:
        """Give timed-out tags free again: the link was reset, nothing of the past can arrive."""
        self._retired.clear()

    def complete(self, received: Received) -> Verdict:
        """Take a completion to the request that waits for it."""
        header = received.tlp.completion()
        pending = self._pending.get((header.requester_id, header.tag))
        if pending is None or pending.status is not None or not received.admitted:
            return Verdict.UNEXPECTED
        if pending.stream_id != received.stream_id:
            return Verdict.WRONG_STREAM
        if pending.needs_t and not received.t_bit:
            pending.status = CompletionStatus.UNPROTECTED
            return Verdict.EXPECTED
        if header.common.poisoned:
            # Spoilt data are no data: to the requester it is as if the completer had aborted.
            pending.status = CompletionStatus.CA
            return Verdict.EXPECTED
        if header.status != CompletionStatus.SC:
            known = header.status in (CompletionStatus.UR, CompletionStatus.CRS, CompletionStatus.CA)
            pending.status = CompletionStatus(header.status) if known else CompletionStatus.UR
            return Verdict.EXPECTED
        return self._gather(pending, received.tlp, header.byte_count or PAGE)

    def _gather(self, pending: _Pending, tlp: Tlp, byte_count: int) -> Verdict:
        if pending.size == 0:
            pending.status = CompletionStatus.SC
            return Verdict.EXPECTED
        left = pending.size - len(pending.data)
        front = 0 if pending.data else pending.front
        data = tlp.payload[front : front + left]
        if byte_count != left or not data:
            return Verdict.UNEXPECTED
        pending.data += data
        if len(pending.data) == pending.size:
            pending.status = CompletionStatus.SC
        return Verdict.EXPECTED
