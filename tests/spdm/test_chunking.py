"""Large messages in pieces, both ways, and what a peer may not do with them."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdm_pair import Pair
from teeio.crypto.algorithms import P384_SUITE
from teeio.errors import Misuse, PeerViolation
from teeio.flow import Send
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.chunking import Incoming, Outgoing
from teeio.spdm.constants import Capability, ErrorCode, SummaryType, Version
from teeio.spdm.exchange import ask
from teeio.spdm.rules import Phase
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES
from teeio.spdm.vendor import vendor_exchange


def small(version: int, requester: int, responder: int, **more: Any) -> Pair:
    return Pair(
        version,
        P384_SUITE,
        {"versions": (version,), "capabilities": RESPONDER_CAPABILITIES, "data_transfer_size": responder},
        {"data_transfer_size": requester},
        **more,
    )


@pytest.mark.parametrize("version", [Version.V1_2, Version.V1_3, Version.V1_4], ids=lambda v: v.text)
@pytest.mark.parametrize(("requester", "responder"), [(64, 64), (64, 4608), (4608, 64), (300, 100)])
def test_everything_works_in_small_pieces(version: Version, requester: int, responder: int) -> None:
    pair = small(version, requester, responder)
    pair.authenticate()
    r = pair.requester
    pair.run(flows.challenge(r, 0, SummaryType.ALL))
    for index in (1, 2):
        pair.run(flows.get_measurements(r, index, signed=False))
    pair.run(flows.get_measurements(r))
    session = pair.run(flows.key_exchange(r))
    pair.run(flows.get_measurements(r, session=session.session_id))
    pair.run(flows.key_update(r, session))
    pair.run(flows.end_session(r, session))
    assert pair.responder.large.incoming is None
    assert pair.responder.large.outgoing is None
    codes = {frame[2] for way, frame in pair.frames if frame[0] == 0}
    assert (m.ChunkSend.CODE in codes) == (responder < 4608)
    assert (m.ChunkGet.CODE in codes) == (requester < 4608)
    limits = {"req": responder, "rsp": requester}
    # GET_CAPABILITIES is where the sizes are told; what comes before and it itself are small anyway.
    assert all(len(frame) - 1 <= limits[way] for way, frame in pair.frames if frame[0] == 0)


@pytest.mark.parametrize("version", [Version.V1_2, Version.V1_3, Version.V1_4], ids=lambda v: v.text)
@pytest.mark.parametrize(("requester", "responder"), [(42, 42), (42, 4608), (4608, 42)])
def test_the_smallest_transfer_size_carries_negotiation_too(version: Version, requester: int, responder: int) -> None:
    """NEGOTIATE_ALGORITHMS, ALGORITHMS and CAPABILITIES with its block of algorithms are larger than 42 bytes."""
    pair = small(version, requester, responder)
    pair.run(flows.connect(pair.requester, list_algorithms=True))
    listed = pair.requester.connection.offered_by_responder
    assert (listed is not None) == (version >= Version.V1_3)
    pair.run(flows.get_certificate(pair.requester))
    pair.run(flows.challenge(pair.requester))
    pair.run(flows.end_session(pair.requester, pair.run(flows.key_exchange(pair.requester))))
    limits = {"req": responder, "rsp": requester}
    assert all(len(frame) - 1 <= limits[way] for way, frame in pair.frames if frame[0] == 0)


def test_chunks_before_capabilities_are_unexpected() -> None:
    pair = Pair()
    assert pair.say(m.GetVersion().encode(m.Facts(version=Version.V1_0))) is not None
    for request in (m.ChunkSend(handle=1, chunk=b"x" * 50, large_message_size=100), m.ChunkGet(handle=1)):
        answer = pair.say(bytes([Version.V1_0]) + request.encode(m.Facts(version=Version.V1_2))[1:])
        assert (answer or b"")[1] == m.Error.CODE


def test_without_chunk_chunks_are_not_supported_before_algorithms_either() -> None:
    pair = small(Version.V1_3, 64, 64)
    pair.responder.settings = replace(pair.responder.settings, capabilities=RESPONDER_CAPABILITIES & ~Capability.CHUNK)
    facts = m.Facts(version=Version.V1_3)
    offered = m.GetCapabilities(flags=REQUESTER_CAPABILITIES, data_transfer_size=64, max_message_size=4096)
    for request, version in ((m.GetVersion(), Version.V1_0), (offered, Version.V1_3)):
        assert (pair.say(request.encode(m.Facts(version=version))) or b"")[1] != m.Error.CODE
    answer = pair.say(m.ChunkSend(handle=1, chunk=b"x" * 48, large_message_size=100).encode(facts))
    assert (answer or b"")[1:4] == bytes([m.Error.CODE, ErrorCode.UNSUPPORTED_REQUEST, m.ChunkSend.CODE])


def test_without_chunk_a_large_answer_before_capabilities_is_a_violation() -> None:
    """The requester's own flag is all that the peer can go by then."""
    pair = small(Version.V1_3, 42, 4608)
    requester = pair.requester
    requester.agreed(phase=Phase.VERSION_DONE, version=Version.V1_3)
    requester.settings = replace(requester.settings, capabilities=requester.settings.capabilities & ~Capability.CHUNK)
    action = requester.start(ask(m.GetCapabilities(data_transfer_size=42, max_message_size=42)))
    assert isinstance(action, Send)
    large = m.Error(error_code=ErrorCode.LARGE_RESPONSE, extended=b"\x01").encode(m.Facts(version=Version.V1_3))
    with pytest.raises(PeerViolation, match="without CHUNK"):
        requester.receive(pair.requester.binding.wrap(large, secured=False))


class _Echo:
    standard_id = 3
    vendor_id = b"\x01\x00"
    protocol_id = 7

    def respond(self, session_id: int, message: bytes, now: float) -> bytes | None:
        return message

    def session_ended(self, session_id: int) -> None:
        """Nothing hangs on the session."""


def test_large_vendor_messages_in_a_session() -> None:
    pair = small(Version.V1_3, 128, 96, vendor_protocols=(_Echo(),))
    session = pair.open_session()
    payload = b"\x07" + bytes(range(256)) * 16
    assert pair.run(vendor_exchange(3, b"\x01\x00", payload), session.session_id) == payload


@given(st.binary(min_size=43, max_size=2000), st.integers(42, 300), st.sampled_from([Version.V1_2, Version.V1_4]))
def test_pieces_put_together_give_the_message(message: bytes, limit: int, version: Version) -> None:
    outgoing, incoming = Outgoing(message, 7, limit), Incoming(7, version, 4096)
    if limit >= len(message) + 16:
        return
    while not outgoing.finished:
        piece = outgoing.next()
        assert len(piece.chunk) + 12 + (4 if piece.number == 0 else 0) <= max(limit, 42)
        incoming.add(7, piece.number, piece.chunk, piece.size, last=piece.last)
    assert bytes(incoming.data) == message


@pytest.mark.parametrize(
    ("add", "message"),
    [
        ((8, 0, b"x" * 50, 100, False), "of handle 8"),
        ((7, 1, b"x" * 50, 100, False), "expected 0"),
        ((7, 0, b"x" * 50, 100, True), "more than one chunk"),
        ((7, 0, b"x" * 30, 42, False), "more than 42 bytes"),
        ((7, 0, b"x" * 50, 5000, False), "above MaxSPDMmsgSize"),
        ((7, 0, b"", 100, False), "0 bytes"),
        ((7, 0, b"x" * 101, 100, False), "101 bytes"),
        ((7, 0, b"x" * 100, 100, False), "last chunk"),
    ],
)
def test_chunks_out_of_order_are_violations(add: tuple[int, int, bytes, int, bool], message: str) -> None:
    incoming = Incoming(7, Version.V1_2, 4096)
    handle, number, chunk, size, last = add
    with pytest.raises(PeerViolation, match=message):
        incoming.add(handle, number, chunk, size, last=last)


def _send(pair: Pair, **fields: Any) -> bytes:
    request = m.ChunkSend(**{"handle": 1, "chunk": b"x" * 50, "large_message_size": 100, **fields})
    answer = pair.say(request.encode(pair.requester.connection.facts))
    assert answer is not None
    return answer


def test_a_responder_refuses_bad_chunks_early_and_keeps_nothing() -> None:
    pair = Pair()
    pair.authenticate()
    assert _send(pair, sequence=3)[1:3] == bytes([m.Error.CODE, ErrorCode.UNEXPECTED_REQUEST])
    answer = _send(pair, large_message_size=1 << 30)
    ack = m.ChunkSendAck.decode(answer, pair.requester.connection.facts)
    assert ack.early_error
    assert ack.response[1:3] == bytes([m.Error.CODE, ErrorCode.INVALID_REQUEST])
    assert pair.responder.large.incoming is None
    assert not m.ChunkSendAck.decode(_send(pair), pair.requester.connection.facts).early_error
    again = m.ChunkSendAck.decode(_send(pair), pair.requester.connection.facts)
    assert again.early_error, "chunk 1 was due"
    assert pair.responder.large.incoming is None


def test_nothing_but_get_version_interrupts_a_transfer() -> None:
    """DSP0274 as the DMTF reference quotes it: anything else is unexpected, and the transfer goes on."""
    pair = Pair()
    pair.authenticate()
    facts = pair.requester.connection.facts
    _send(pair)
    for request in (m.GetDigests(), m.ChunkGet(handle=1)):
        answer = pair.say(request.encode(facts))
        assert (answer or b"")[1:3] == bytes([m.Error.CODE, ErrorCode.UNEXPECTED_REQUEST])
    ack = m.ChunkSendAck.decode(_send(pair, sequence=1, last=1, large_message_size=0), facts)
    assert not ack.early_error
    assert pair.responder.large.incoming is None
    _send(pair)
    pair.run(flows.connect(pair.requester))
    assert pair.responder.large.incoming is None


def test_a_chunk_above_our_data_transfer_size_is_refused_early() -> None:
    pair = small(Version.V1_2, 4608, 64)
    pair.authenticate()
    ack = m.ChunkSendAck.decode(_send(pair), pair.requester.connection.facts)
    assert ack.early_error
    assert ack.response[1:3] == bytes([m.Error.CODE, ErrorCode.INVALID_REQUEST])


def test_chunks_that_are_too_small_are_refused_early() -> None:
    pair = Pair()
    pair.authenticate()
    facts = pair.requester.connection.facts
    assert m.ChunkSendAck.decode(_send(pair, chunk=b"x" * 25), facts).early_error
    assert not m.ChunkSendAck.decode(_send(pair, chunk=b"x" * 26), facts).early_error
    assert m.ChunkSendAck.decode(_send(pair, chunk=b"x" * 29, sequence=1, large_message_size=0), facts).early_error


def test_no_chunks_inside_chunks() -> None:
    pair = Pair()
    pair.authenticate()
    inner = m.ChunkSend(handle=2, chunk=b"y" * 60, large_message_size=100).encode(pair.requester.connection.facts)
    _send(pair, chunk=inner[:40], large_message_size=len(inner))
    answer = _send(pair, chunk=inner[40:], sequence=1, last=1, large_message_size=0)
    assert m.ChunkSendAck.decode(answer, pair.requester.connection.facts).response[2] == ErrorCode.UNEXPECTED_REQUEST


def test_a_chunk_that_nobody_offered_is_refused() -> None:
    pair = Pair()
    pair.authenticate()
    answer = pair.say(m.ChunkGet(handle=9).encode(pair.requester.connection.facts))
    assert answer is not None
    assert answer[1:3] == bytes([m.Error.CODE, ErrorCode.INVALID_REQUEST])


def test_without_chunks_a_request_that_is_too_large_is_our_misuse() -> None:
    pair = small(Version.V1_2, 4608, 64)
    pair.requester.settings = pair.requester.settings.__class__(
        versions=(Version.V1_2,), capabilities=REQUESTER_CAPABILITIES & ~Capability.CHUNK
    )
    pair.authenticate()
    with pytest.raises(Misuse, match="takes 64"):
        pair.run(flows.key_exchange(pair.requester))


def _pieces(pair: Pair, message: bytes) -> tuple[bytes, bytes]:
    facts = pair.requester.connection.facts
    first = m.ChunkSend(handle=1, large_message_size=len(message), chunk=message[:60])
    last = m.ChunkSend(handle=1, sequence=1, last=1, chunk=message[60:])
    return first.encode(facts), last.encode(facts)


@pytest.mark.parametrize(("begun", "continued"), [(0, None), (None, 0), (0, 1), (1, 0)])
def test_a_message_begun_at_one_place_does_not_go_on_at_another(begun: int | None, continued: int | None) -> None:
    pair = small(Version.V1_3, 100, 100, vendor_protocols=(_Echo(),))
    pair.authenticate()
    sessions = [pair.run(flows.key_exchange(pair.requester)) for _ in range(2)]
    start, other = (None if place is None else sessions[place] for place in (begun, continued))
    request = m.VendorDefinedRequest(standard_id=3, vendor_id=b"\x01\x00", payload=b"\x07" + bytes(60))
    first, last = _pieces(pair, request.encode(pair.requester.connection.facts))
    assert (pair.say(first, start) or b"")[1] == m.ChunkSendAck.CODE
    refused = bytes([m.Error.CODE, ErrorCode.UNEXPECTED_REQUEST])
    assert (pair.say(last, other) or b"")[1:3] == refused
    pair.say(last, start)
    # A large answer stays where it was asked for, too.
    asked = m.GetMeasurements(operation=0xFF, context=bytes(8)).encode(pair.requester.connection.facts)
    answer = pair.say(asked, start) or b""
    assert answer[1:3] == bytes([m.Error.CODE, ErrorCode.LARGE_RESPONSE])
    get = m.ChunkGet(handle=answer[4]).encode(pair.requester.connection.facts)
    assert (pair.say(get, other) or b"")[1:3] == bytes([m.Error.CODE, ErrorCode.INVALID_REQUEST])
    assert (pair.say(get, start) or b"")[1] == m.ChunkResponse.CODE
