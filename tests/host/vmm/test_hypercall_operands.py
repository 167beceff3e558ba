"""TDCM.CHECK.TEEIO.SUPP and the two TDVMCALLs: what they declare to refuse happens, nothing else, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from host.tdx.tsm_state import state_of
from host_machine import NOW, RAM, Guest, Host
from teeio.abi import CALLS
from teeio.abi import hypercalls as v
from teeio.abi.operands import ECAM, GPA_SHARED_BIT, PAGE_SIZE
from teeio.abi.statuses import HypercallError
from teeio.host.vmm.bus import PciFunction

OPERANDS = (v.TdcmCheckTeeioSupp, v.TdvmcallMapGpa, v.TdvmcallRequestMmio)
E = HypercallError


@pytest.fixture(scope="module")
def guest() -> Guest:
    return Guest(Host())


def ask(guest: Guest, call: Any) -> Any:
    row = next(row for row in CALLS.values() if row.arguments is type(call))
    method = getattr(guest.vmm, row.method)
    return method(call, NOW) if row.timed else method(call)


def declared(call: Any) -> frozenset[Any]:
    return next(row for row in CALLS.values() if row.arguments is type(call)).refusals


def everything(guest: Guest) -> dict[str, Any]:
    """Give all that a call could change: at the TSM, of the VMM's, in the device and in the guest's view of it."""
    host, machine = guest.host, guest.machine
    (place,) = machine.functions
    registers = range(0, 0x100, 4)
    model = guest.tdi.function.model
    return {
        "TSM": state_of(host.module),
        "memory": (dict(machine.private), dict(machine.shared), dict(machine.domain._pages), host.memory.accounting()),
        "guest's function": [machine.functions[place].config_read(at, 4) for at in registers],
        "device": [guest.function.config.read(at, 4) for at in registers],
        "model": (bytes(model.memory), guest.tdi.function.msix.table.read(0, 4)),
        "bound": sorted(host.connection.bindings),
    }


def refused_as_declared(guest: Guest, call: Any) -> HypercallError:
    """Make a call; if it is refused nothing may have changed."""
    before = everything(guest)
    result = ask(guest, call)
    if result.error is not E.NONE:
        assert result.error in declared(call), f"{call}: {result.error.name}: {result.reason}"
        after = everything(guest)
        assert [name for name in before if before[name] != after[name]] == [], call
    return result.error


REFUSED: list[tuple[Any, HypercallError]] = [
    (v.TdcmCheckTeeioSupp(requester_id=0xFFFF), E.INVALID_OPERAND),
    (v.TdcmCheckTeeioSupp(requester_id=-1), E.INVALID_OPERAND),
    (v.TdvmcallMapGpa(gpa=1, size=PAGE_SIZE, shared=True), E.INVALID_OPERAND),
    (v.TdvmcallMapGpa(gpa=0, size=0, shared=True), E.INVALID_OPERAND),
    (v.TdvmcallMapGpa(gpa=0, size=-PAGE_SIZE, shared=False), E.INVALID_OPERAND),
    (v.TdvmcallMapGpa(gpa=RAM, size=PAGE_SIZE, shared=True), E.INVALID_OPERAND),
    (v.TdvmcallMapGpa(gpa=0, size=RAM + PAGE_SIZE, shared=True), E.INVALID_OPERAND),
    (v.TdvmcallRequestMmio(gpa=0x2000, size=4), E.INVALID_OPERAND),
    (v.TdvmcallRequestMmio(gpa=ECAM.start, size=3), E.INVALID_OPERAND),
    (v.TdvmcallRequestMmio(gpa=ECAM.start + 2, size=4), E.INVALID_OPERAND),
    (v.TdvmcallRequestMmio(gpa=ECAM.start, size=2, value=1 << 16), E.INVALID_OPERAND),
    (v.TdvmcallRequestMmio(gpa=-8, size=8, value=0), E.INVALID_OPERAND),
]


@pytest.mark.parametrize(("call", "error"), REFUSED, ids=[repr(call) for call, _ in REFUSED])
def test_what_makes_no_sense_is_refused_and_changes_nothing(guest: Guest, call: Any, error: HypercallError) -> None:
    assert refused_as_declared(guest, call) is error


def test_a_function_without_tee_io_is_told() -> None:
    guest = Guest(Host())
    (place,) = guest.machine.functions
    call = v.TdcmCheckTeeioSupp(requester_id=place.requester_id)
    assert refused_as_declared(guest, call) is E.NONE
    with mock.patch.object(PciFunction, "tee_io", False):
        assert refused_as_declared(guest, call) is E.DEVICE


@pytest.mark.parametrize("arguments", OPERANDS, ids=lambda one: one.__name__)
def test_the_cases_are_all_there_are(arguments: type) -> None:
    row = next(row for row in CALLS.values() if row.arguments is arguments)
    reached = {error for call, error in REFUSED if type(call) is arguments}
    assert row.refusals == reached | ({E.DEVICE} if arguments is v.TdcmCheckTeeioSupp else set())


def near(*places: int) -> Iterator[int]:
    yield from (place + by for place in places for by in (-PAGE_SIZE, -1, 0, 1, 2, 4, 8, PAGE_SIZE))


ADDRESSES = st.sampled_from(sorted({*near(0, PAGE_SIZE, RAM, ECAM.start, ECAM.end, GPA_SHARED_BIT, 1 << 64)}))
SIZES = st.sampled_from([-PAGE_SIZE, 0, 1, 2, 3, 4, 8, 16, PAGE_SIZE, 2 * PAGE_SIZE, RAM, RAM + PAGE_SIZE, 1 << 63])
VALUES = st.none() | st.integers(-1, 256) | st.just(1 << 32) | st.just(1 << 64)
MAPS = st.builds(
    v.TdvmcallMapGpa,
    gpa=ADDRESSES | st.integers(0, RAM // PAGE_SIZE).map(PAGE_SIZE.__mul__),
    size=SIZES,
    shared=st.booleans(),
)
CHECKS = st.builds(v.TdcmCheckTeeioSupp, requester_id=st.integers(-1, 1 << 17))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        MAPS | CHECKS | st.builds(v.TdvmcallRequestMmio, gpa=ADDRESSES, size=SIZES, value=VALUES),
        min_size=1,
        max_size=6,
    )
)
def test_any_operands_are_served_or_refused_as_declared(guest: Guest, calls: list[Any]) -> None:
    for call in calls:
        refused_as_declared(guest, call)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(bar=st.sampled_from([0, 2, 4]), offset=ADDRESSES, size=SIZES, value=VALUES)
def test_any_access_near_a_bar_is_served_or_refused_as_declared(
    guest: Guest, bar: int, offset: int, size: int, value: int | None
) -> None:
    refused_as_declared(guest, v.TdvmcallRequestMmio(gpa=guest.bar(bar) + offset, size=size, value=value))
