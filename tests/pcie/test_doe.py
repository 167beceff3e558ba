"""DOE: data objects, the mailbox state machine, the requester that drives it, and the SPDM binding."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeio.errors import DecodeError, Misuse, TransportError
from teeio.pcie.capabilities.doe import DoeCapability
from teeio.pcie.capabilities.header import Type0Header
from teeio.pcie.config_space import ConfigSpace
from teeio.pcie.doe import (
    DISCOVERY,
    MAX_DWORDS,
    SECURED_SPDM,
    SPDM,
    DoeBinding,
    DoeProtocol,
    decode_object,
    discover,
    encode_object,
    exchange,
)
from teeio.pcie.doe_mailbox import DoeMailbox

BASE = 0x100
CONTROL, STATUS, WRITE, READ = BASE + 8, BASE + 12, BASE + 16, BASE + 20
BUSY, ERROR, READY = 1, 4, 1 << 31


def echo(data: bytes) -> bytes | None:
    return encode_object(decode_object(data).protocol, decode_object(data).payload[::-1])


def make(handler: Callable[[bytes], bytes | None] = echo, **options: object) -> tuple[ConfigSpace, DoeMailbox]:
    capability = DoeCapability()
    space = ConfigSpace(Type0Header(1, 2, 3), [], [capability])
    return space, DoeMailbox(capability, handler, **options)  # type: ignore[arg-type]


def post(space: ConfigSpace, data: bytes, control: int = 1 << 31) -> None:
    for at in range(0, len(data), 4):
        space.write(WRITE, 4, int.from_bytes(data[at : at + 4], "little"))
    space.write(CONTROL, 4, control)


# -- data objects


def test_observed_discovery_object() -> None:
    """Bytes seen from spdm-emu."""
    space, _ = make()
    sent: list[bytes] = []
    doe_v1 = bytes.fromhex("0100000003000000" + "00000000")
    post(space, doe_v1)
    while space.read(STATUS, 4) & READY:
        sent.append(space.read(READ, 4).to_bytes(4, "little"))
        space.write(READ, 4, 0)
    assert b"".join(sent).hex() == "0100000003000000" + "01000001"


@given(st.binary(max_size=64), st.integers(0, 0xFFFF), st.integers(0, 255))
def test_data_objects_round_trip(payload: bytes, vendor_id: int, kind: int) -> None:
    data = encode_object(DoeProtocol(vendor_id, kind), payload)
    found = decode_object(data)
    assert found.protocol == (vendor_id, kind)
    assert found.payload == payload + bytes(-len(payload) % 4)
    assert len(data) == 4 * found.dwords


def test_length_zero_means_the_largest() -> None:
    data = encode_object(SPDM, bytes(4 * MAX_DWORDS - 8))
    assert data[4:8] == bytes(4)
    assert len(decode_object(data).payload) == 4 * MAX_DWORDS - 8
    with pytest.raises(Misuse):
        encode_object(SPDM, bytes(4 * MAX_DWORDS - 7))


@given(st.binary(max_size=40))
def test_any_bytes_raise_only_decode_errors(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode_object(data)
    with contextlib.suppress(DecodeError):
        DoeBinding().unwrap(data)


# -- the mailbox


def test_exchange_and_discovery() -> None:
    space, _ = make()
    answer = exchange(space.read, space.write, BASE, encode_object(SPDM, b"abcdefgh"))
    assert answer == encode_object(SPDM, b"hgfedcba")
    assert discover(space.read, space.write, BASE) == [DISCOVERY, SPDM, SECURED_SPDM]
    assert space.read(STATUS, 4) == 0


def test_registers_of_an_exchange_step_by_step() -> None:
    space, _ = make()
    data = encode_object(SPDM, b"abcd")
    post(space, data)
    assert space.read(STATUS, 4) == READY
    words = []
    for _ in range(3):
        words.append(space.read(READ, 4))
        assert space.read(READ, 4) == words[-1]
        space.write(READ, 4, 0xFFFFFFFF)
    assert b"".join(word.to_bytes(4, "little") for word in words) == encode_object(SPDM, b"dcba")
    assert space.read(STATUS, 4) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes.fromhex("01000100"),
        bytes.fromhex("0100010003000000"),
        bytes.fromhex("010001000200000000000000"),
        bytes.fromhex("0100010001000000"),
        bytes.fromhex("0100010000000000"),
        bytes.fromhex("0100000002000000"),
    ],
    ids=["empty", "half a header", "too short", "too long", "length 1", "length 0", "discovery without a body"],
)
def test_broken_objects_set_error_until_abort(data: bytes) -> None:
    space, _ = make()
    post(space, data)
    assert space.read(STATUS, 4) == ERROR
    post(space, encode_object(SPDM, b"abcd"))
    assert space.read(STATUS, 4) == ERROR
    space.write(CONTROL, 4, 1)
    assert space.read(STATUS, 4) == 0
    post(space, encode_object(SPDM, b"abcd"))
    assert space.read(STATUS, 4) == READY


def test_the_written_object_is_bounded() -> None:
    space, mailbox = make(limit=16)
    for _ in range(5):
        space.write(WRITE, 4, 0)
    assert space.read(STATUS, 4) == ERROR
    assert not mailbox._written


def test_reading_past_the_end_and_writing_before_it_are_errors() -> None:
    space, _ = make()
    space.write(READ, 4, 0)
    assert space.read(STATUS, 4) == ERROR
    space, _ = make()
    post(space, encode_object(SPDM, b"abcd"))
    space.write(WRITE, 4, 0)
    assert space.read(STATUS, 4) == ERROR


def test_unknown_objects_and_silence_leave_the_mailbox_idle() -> None:
    space, _ = make(lambda data: None)
    for data in (encode_object(DoeProtocol(0x1234, 9), b"abcd"), encode_object(SPDM, b"abcd")):
        post(space, data)
        assert space.read(STATUS, 4) == 0


def test_a_deferred_mailbox_is_busy_until_served() -> None:
    space, mailbox = make(deferred=True)
    post(space, encode_object(SPDM, b"abcd"))
    assert space.read(STATUS, 4) == BUSY
    assert mailbox.waiting
    answer = exchange(space.read, space.write, BASE, encode_object(SPDM, b"wxyz"), pause=mailbox.serve)  # type: ignore[arg-type]
    assert answer == encode_object(SPDM, b"zyxw")
    assert not mailbox.serve()


def test_abort_while_the_handler_works_drops_the_answer() -> None:
    spaces: list[ConfigSpace] = []

    def aborted(data: bytes) -> bytes | None:
        spaces[0].write(CONTROL, 4, 1)
        return data

    space, mailbox = make(aborted, deferred=True)
    spaces.append(space)
    post(space, encode_object(SPDM, b"abcd"))
    assert mailbox.serve()
    assert space.read(STATUS, 4) == 0


def test_interrupt_status() -> None:
    space, _ = make()
    post(space, encode_object(SPDM, b"abcd"), 1 << 31 | 2)
    assert space.read(STATUS, 4) == READY | 2
    space.write(STATUS, 4, 2)
    assert space.read(STATUS, 4) == READY


@given(st.lists(st.tuples(st.sampled_from([CONTROL, STATUS, WRITE, READ]), st.integers(0, (1 << 32) - 1)), max_size=40))
def test_no_sequence_of_writes_breaks_the_mailbox(writes: list[tuple[int, int]]) -> None:
    space, _ = make(limit=64)
    for at, value in writes:
        space.write(at, 4, value)
    assert exchange(space.read, space.write, BASE, encode_object(SPDM, b"abcd")) == encode_object(SPDM, b"dcba")


# -- the requester


def test_a_silent_mailbox_times_out_after_the_polls() -> None:
    space, _ = make(lambda data: None)
    pauses: list[int] = []
    with pytest.raises(TransportError, match="7 polls"):
        exchange(space.read, space.write, BASE, encode_object(SPDM, b""), polls=7, pause=lambda: pauses.append(1))
    assert len(pauses) == 7


def test_the_requester_reports_error_and_absence() -> None:
    space, _ = make(limit=8)
    with pytest.raises(TransportError, match="Error"):
        exchange(space.read, space.write, BASE, encode_object(SPDM, bytes(16)))
    with pytest.raises(TransportError, match="all ones"):
        exchange(lambda offset, size: 0xFFFFFFFF, space.write, BASE, encode_object(SPDM, b""))
    with pytest.raises(Misuse):
        exchange(space.read, space.write, BASE, b"123")


@pytest.mark.parametrize("answer", ["0100010001000000", "0100010000000000", "0100010004000000" + "00000000"])
def test_answers_of_impossible_length(answer: str) -> None:
    space, _ = make(lambda data: bytes.fromhex(answer))
    with pytest.raises(TransportError):
        exchange(space.read, space.write, BASE, encode_object(SPDM, b""), limit=64)


@pytest.mark.parametrize("missing", [1, 2, 5])
def test_an_object_that_ends_early_is_noticed(missing: int) -> None:
    whole = encode_object(SPDM, bytes(range(24)))
    space, _ = make(lambda data: whole[: -4 * missing])
    with pytest.raises(TransportError, match="ends before"):
        exchange(space.read, space.write, BASE, encode_object(SPDM, b""))


def test_a_dw_of_an_answer_takes_one_read_and_one_write() -> None:
    reads: list[int] = []

    def read(offset: int, size: int) -> int:
        reads.append(offset)
        return space.read(offset, size)

    few = []
    for size in (4, 400):
        space, _ = make(lambda data, size=size: encode_object(SPDM, bytes(size)))  # type: ignore[misc]
        reads.clear()
        exchange(read, space.write, BASE, encode_object(SPDM, b""))
        assert reads.count(READ) == 2 + size // 4
        few.append(reads.count(STATUS))
    assert few[0] == few[1]


def test_leftovers_of_another_exchange_are_aborted() -> None:
    space, _ = make()
    post(space, encode_object(SPDM, b"left"))
    assert exchange(space.read, space.write, BASE, encode_object(SPDM, b"abcd")) == encode_object(SPDM, b"dcba")


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (encode_object(DISCOVERY, bytes.fromhex("01000105")), "does not end"),
        (encode_object(SPDM, bytes(4)), "type"),
        (encode_object(DISCOVERY, bytes(8)), "parse"),
    ],
)
def test_discovery_answers_that_are_none(monkeypatch: pytest.MonkeyPatch, answer: bytes, complaint: str) -> None:
    monkeypatch.setattr("teeio.pcie.doe_mailbox.answer_discovery", lambda request, protocols: answer)
    space, _ = make()
    with pytest.raises(TransportError, match=complaint):
        discover(space.read, space.write, BASE)


# -- the binding


@given(st.binary(max_size=64), st.booleans())
def test_binding(message: bytes, secured: bool) -> None:
    binding = DoeBinding()
    frame = binding.wrap(message, secured)
    assert frame[:4] == bytes([1, 0, 1 + secured, 0])
    found, was_secured = binding.unwrap(frame)
    assert found[: len(message)] == message
    assert not any(found[len(message) :])
    assert was_secured is secured
    assert binding.wrap_application(message) == binding.unwrap_application(message) == message
    assert (binding.name, binding.sequence_number_size, binding.max_random_padding) == ("pci_doe", 0, 0)


@pytest.mark.parametrize("protocol", [DISCOVERY, DoeProtocol(1, 5), DoeProtocol(2, 1), DoeProtocol(2, 3)])
def test_binding_refuses_other_objects(protocol: DoeProtocol) -> None:
    with pytest.raises(DecodeError, match="no SPDM"):
        DoeBinding().unwrap(encode_object(protocol, b"abcd"))


@pytest.mark.parametrize("kind", [3, 4])
def test_binding_says_why_it_refuses_objects_of_a_connection(kind: int) -> None:
    with pytest.raises(DecodeError, match="is of a connection with an id"):
        DoeBinding().unwrap(encode_object(DoeProtocol(1, kind), b"abcd"))
