"""Every row of the completer table, in every state, by TLPs at the device's port, as seen in what comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from device.link_tap import OTHER_STREAM, Seen, Tap, second_stream
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.tlp import CompletionStatus, Tlp, TlpType, config_read, config_write, memory_read, memory_write
from teeio.pcie.tlp_headers import Common, CompletionHeader, MemoryHeader
from teeio.tdisp.interface import InterfacePolicy
from teeio.tdisp.messages import InterfaceState, LockFlags
from teeio.tdisp.states import Event
from teeio.tdisp.tlp_rules import COMPLETER_TABLE, Access, Handling, Target

UNLOCKED, LOCKED, RUN, ERROR = InterfaceState
STREAM, PAGE, ENTRY = 5, 4096, 16


class Arrival(NamedTuple):
    """How a request arrives; `stream_id` None is without IDE."""

    access: Access
    t_bit: bool
    stream_id: int | None


ARRIVALS = {
    "plain": Arrival(Access.UNTRUSTED, False, None),
    "T=0 on the bound stream": Arrival(Access.UNTRUSTED, False, STREAM),
    "T=0 on another stream": Arrival(Access.UNTRUSTED, False, OTHER_STREAM),
    "T=1 on the bound stream": Arrival(Access.TRUSTED_BOUND, True, STREAM),
    "T=1 on another stream": Arrival(Access.TRUSTED_ELSEWHERE, True, OTHER_STREAM),
}


class Place(NamedTuple):
    """A place in a BAR: what it is to a TDI that was locked, and how its bytes are looked at from inside."""

    target: Target
    bar: int
    offset: int
    inside: Callable[[Any], bytes] | None
    lock_msix: bool = False


def _table(tdi: Any) -> bytes:
    return int(tdi.function.msix.table.read(ENTRY, 4)).to_bytes(4, "little")


PLACES = {
    "registers": Place(Target.TEE, 0, 0x0, None),
    "device memory": Place(Target.TEE, 0, PAGE, lambda tdi: bytes(tdi.function.model.memory[:4])),
    "telemetry": Place(Target.NON_TEE, 4, 0, None),
    "MSI-X table": Place(Target.NON_TEE, 2, ENTRY, _table),
    "MSI-X pending bits": Place(Target.NON_TEE, 2, PAGE, None),
    "locked MSI-X table": Place(Target.LOCKED_MSIX, 2, ENTRY, _table, lock_msix=True),
    "locked MSI-X pending bits": Place(Target.LOCKED_MSIX, 2, PAGE, None, lock_msix=True),
}


def kind_of(place: Place, state: InterfaceState) -> Target:
    """Say what a place is now: before the lock the MSI-X table is the host's."""
    return Target.NON_TEE if place.lock_msix and state is UNLOCKED else place.target


class Bench:
    """A VF's TDI in a state, with a tap on its link; requests are put on the link as they are."""

    def __init__(self, make_rig: Callable[..., Any], state: InterfaceState, *, lock_msix: bool = False) -> None:
        self.rig = make_rig().protect()
        second_stream(self.rig)
        self.tdi = self.rig.bring(self.rig.vf(1), state, LockFlags.LOCK_MSIX if lock_msix else LockFlags.NONE)
        self.root = self.rig.root.function.requester_id
        self.aer = self.rig.device.pfs[0].space.need(AerCapability)
        self.tap = Tap(self.rig.link)

    def address(self, place: Place) -> int:
        at: int = self.rig.bar(self.tdi, place.bar) + place.offset
        return at

    def send(self, tlp: Tlp, arrival: Arrival) -> Seen | None:
        """Send a request; give its completion, if one came."""
        self.tap.frames.clear()
        self.aer.write(AerCapability.UNCORRECTABLE_STATUS.offset, 4, 0xFFFFFFFF)
        if arrival.stream_id is None:
            self.rig.root.ide.transmit_plain(tlp)
        else:
            assert self.rig.root.ide.transmit(tlp, arrival.t_bit, arrival.stream_id)
        answers = self.tap.completions()
        assert len(answers) <= 1
        for one in answers:
            assert (one.t_bit, one.stream_id) == (arrival.t_bit, arrival.stream_id)
        return answers[0] if answers else None

    def status(self, tlp: Tlp, arrival: Arrival) -> CompletionStatus:
        answer = self.send(tlp, arrival)
        assert answer is not None
        return CompletionStatus(CompletionHeader.decode(answer.header[:12]).status)

    @property
    def reported(self) -> bool:
        """Whether the last request was reported as unsupported, which is all that a posted one leaves."""
        return self.aer.recorded(Uncorrectable.UNSUPPORTED_REQUEST)


def states() -> Any:
    return pytest.mark.parametrize("state", list(InterfaceState), ids=lambda state: state.name)


def arrivals() -> Any:
    return pytest.mark.parametrize("arrival", ARRIVALS.values(), ids=list(ARRIVALS))


def places() -> Any:
    return pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))


def test_the_places_are_all_that_the_table_knows() -> None:
    assert {place.target for place in PLACES.values()} == set(COMPLETER_TABLE)
    assert {arrival.access for arrival in ARRIVALS.values()} == set(Access)


@states()
@arrivals()
@places()
def test_reads_and_writes_are_handled_as_the_table_says(
    make_rig: Callable[..., Any], place: Place, arrival: Arrival, state: InterfaceState
) -> None:
    bench = Bench(make_rig, state, lock_msix=place.lock_msix)
    handled = COMPLETER_TABLE[kind_of(place, state)][arrival.access][state] is Handling.HANDLE
    at = bench.address(place)
    wanted = CompletionStatus.SC if handled else CompletionStatus.UR
    for size in (4, 0, 1):
        answer = bench.send(memory_read(bench.root, 7, at, size), arrival)
        assert answer is not None
        assert CompletionHeader.decode(answer.header[:12]).status is wanted
        assert answer.type is (TlpType.CPLD if handled else TlpType.CPL)
    before = place.inside(bench.tdi) if place.inside else b""
    for data in (b"", b"\x40\x30\x20\x10"):
        write = memory_write(bench.root, 0, at, data or b"\xff")
        if not data:
            write = write._replace(header=write.header[:7] + b"\0" + write.header[8:])
        assert bench.send(write, arrival) is None
        assert bench.reported is not handled
        if place.inside:
            assert place.inside(bench.tdi) == (data if handled and data else before)
    assert bench.tdi.state is state


@states()
@arrivals()
def test_a_policy_can_hold_trusted_requests_to_run_everywhere(
    make_rig: Callable[..., Any], arrival: Arrival, state: InterfaceState
) -> None:
    """The sources do not agree on non-TEE ranges; the strict reading takes T=1 in RUN only."""
    bench = Bench(lambda: make_rig(policy=InterfacePolicy(non_tee_ignores_state=False)), state)
    read = memory_read(bench.root, 7, bench.address(PLACES["telemetry"]), 4)
    handled = state is RUN or not arrival.t_bit
    assert bench.status(read, arrival) is (CompletionStatus.SC if handled else CompletionStatus.UR)


def _with_operands(kind: TlpType, requester_id: int, address: int, operands: int) -> Tlp:
    payload = b"\xa5" * 4 * operands
    common = Common(first_byte=kind.first_byte(address >> 32 != 0), length=operands)
    header = MemoryHeader(
        common=common,
        requester_id=requester_id,
        tag=3,
        first_be=0xF,
        last_be=0xF if operands > 1 else 0,
        address_high=address >> 32,
        address_low=address & 0xFFFFFFFC,
    )
    return Tlp(header.encode(), payload)


OTHER_REQUESTS = {
    TlpType.FETCH_ADD: 1,
    TlpType.SWAP: 1,
    TlpType.CAS: 2,
    TlpType.DMWR: 1,
}


@states()
@pytest.mark.parametrize("arrival", [ARRIVALS["plain"], ARRIVALS["T=1 on the bound stream"]], ids=["plain", "bound"])
def test_requests_that_no_function_completes_are_unsupported_everywhere(
    make_rig: Callable[..., Any], arrival: Arrival, state: InterfaceState
) -> None:
    """The accelerator is no completer of AtomicOps, deferrable writes and locked reads, whatever the state allows."""
    bench = Bench(make_rig, state)
    for place in (PLACES["device memory"], PLACES["telemetry"], PLACES["MSI-X table"]):
        before = place.inside(bench.tdi) if place.inside else b""
        for kind, operands in OTHER_REQUESTS.items():
            tlp = _with_operands(kind, bench.root, bench.address(place), operands)
            assert bench.status(tlp, arrival) is CompletionStatus.UR
        read = memory_read(bench.root, 4, bench.address(place), 4)
        locked = read._replace(header=bytes([read.header[0] | 1]) + read.header[1:])
        answer = bench.send(locked, arrival)
        assert answer is not None
        assert answer.type is TlpType.CPLLK
        assert CompletionHeader.decode(answer.header[:12]).status is CompletionStatus.UR
        assert (place.inside(bench.tdi) if place.inside else b"") == before
    assert bench.tdi.state is state


@states()
@pytest.mark.parametrize("arrival", [ARRIVALS["plain"], ARRIVALS["T=1 on the bound stream"]], ids=["plain", "bound"])
def test_configuration_needs_no_ide_and_io_is_not_decoded(
    make_rig: Callable[..., Any], arrival: Arrival, state: InterfaceState
) -> None:
    bench = Bench(make_rig, state)
    target = bench.rig.address(bench.tdi).requester_id
    # A Type 0 request may not travel on a Selective stream, so with IDE it is of Type 1 (PCIe Base 6.33.4).
    read = config_read(bench.root, 1, target, 0, type_1=arrival.stream_id is not None)
    assert bench.status(read, arrival) is CompletionStatus.SC
    if arrival.stream_id is None:
        io = Tlp(bytes([0b00010]) + read.header[1:8] + bytes(4))
        assert bench.status(io, arrival) is CompletionStatus.UR
    assert bench.tdi.state is state


@states()
@arrivals()
@places()
def test_a_poisoned_write_changes_nothing_and_ends_trust_where_it_counted(
    make_rig: Callable[..., Any], place: Place, arrival: Arrival, state: InterfaceState
) -> None:
    """It counts if it was the TVM's own; where anybody may write, nobody can end trust by poison."""
    bench = Bench(make_rig, state, lock_msix=place.lock_msix)
    handled = COMPLETER_TABLE[kind_of(place, state)][arrival.access][state] is Handling.HANDLE
    before = place.inside(bench.tdi) if place.inside else b""
    write = memory_write(bench.root, 0, bench.address(place), b"\x40\x30\x20\x10")
    bench.send(_poisoned(write), arrival)
    assert (place.inside(bench.tdi) if place.inside else b"") == before
    assert bench.aer.recorded(Uncorrectable.POISONED_TLP)
    counted = handled and state.locked and arrival.access is Access.TRUSTED_BOUND
    assert bench.tdi.state is (ERROR if counted else state)
    if counted:
        assert bench.rig.causes()[-1] == Event.POISONED.value


@pytest.mark.parametrize("name", ["telemetry", "MSI-X table"])
def test_whoever_may_write_a_non_tee_range_cannot_end_a_run(make_rig: Callable[..., Any], name: str) -> None:
    """The VMM's writes to it, whole or poisoned, leave the TDI in RUN, and the TVM goes on."""
    bench = Bench(make_rig, RUN)
    write = memory_write(bench.root, 0, bench.address(PLACES[name]), b"\x40\x30\x20\x10")
    for arrival in ARRIVALS.values():
        if arrival.access is not Access.TRUSTED_BOUND:
            bench.send(write, arrival)
            bench.send(_poisoned(write), arrival)
    assert bench.tdi.state is RUN
    registers = memory_read(bench.root, 7, bench.address(PLACES["registers"]), 4)
    assert bench.status(registers, ARRIVALS["T=1 on the bound stream"]) is CompletionStatus.SC


def _poisoned(tlp: Tlp) -> Tlp:
    return tlp._replace(header=tlp.header[:2] + bytes([tlp.header[2] | 0x40]) + tlp.header[3:])


def test_a_poisoned_configuration_write_changes_nothing(make_rig: Callable[..., Any]) -> None:
    """It would have cleared Bus Master Enable of a TDI in RUN."""
    bench = Bench(make_rig, RUN)
    tlp = config_write(bench.root, 1, bench.rig.address(bench.tdi).requester_id, 4, 2, 0)
    assert bench.status(_poisoned(tlp), ARRIVALS["plain"]) is CompletionStatus.UR
    assert bench.tdi.state is RUN
    assert bench.status(tlp, ARRIVALS["plain"]) is CompletionStatus.SC
    assert bench.tdi.state is ERROR


@pytest.mark.parametrize("arrival", [ARRIVALS["plain"], ARRIVALS["T=1 on the bound stream"]], ids=["plain", "bound"])
def test_no_tlp_straddles_two_ranges(make_rig: Callable[..., Any], arrival: Arrival) -> None:
    """Ranges are whole pages, and a request that crosses into the next page is malformed, not half served."""
    bench = Bench(make_rig, RUN)
    place = PLACES["device memory"]
    read = memory_read(bench.root, 1, bench.address(place) - 4, 4)
    stretched = read._replace(header=read.header[:3] + b"\2" + read.header[4:7] + b"\xff" + read.header[8:])
    assert bench.send(stretched, arrival) is None
    assert bench.aer.recorded(Uncorrectable.MALFORMED_TLP)
    write = memory_write(bench.root, 0, bench.address(place) - 4, b"\x11\x22\x33\x44")
    stretched = write._replace(
        header=write.header[:3] + b"\2" + write.header[4:7] + b"\xff" + write.header[8:], payload=b"evilevil"
    )
    bench.send(stretched, arrival)
    assert bench.aer.recorded(Uncorrectable.MALFORMED_TLP)
    assert place.inside is not None
    assert place.inside(bench.tdi) == bytes(4)


@states()
@arrivals()
def test_each_write_of_scattered_bytes_is_judged(
    make_rig: Callable[..., Any], arrival: Arrival, state: InterfaceState
) -> None:
    bench = Bench(make_rig, state)
    place = PLACES["device memory"]
    write = memory_write(bench.root, 0, bench.address(place), b"\x40\x30\x20\x10")
    bench.send(write._replace(header=write.header[:7] + b"\x05" + write.header[8:]), arrival)
    handled = COMPLETER_TABLE[Target.TEE][arrival.access][state] is Handling.HANDLE
    assert place.inside is not None
    assert place.inside(bench.tdi) == (b"\x40\0\x20\0" if handled else bytes(4))
