"""Whatever operands a caller passes, a call answers with a declared status and takes no page that it does not account for."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from host_machine import NOW, Guest, Host
from teeio.abi import CALLS, Boundary, Call
from teeio.abi.operands import (
    PAGE_SIZE,
    DevifOperation,
    DmarLevel,
    Invalidation,
    KmOperation,
    LockParameters,
    PageLevel,
    SpdmOperation,
    StreamOptions,
)
from teeio.abi.statuses import PENDING, Status
from teeio.host.root_complex import DEVICE_MEMORY
from teeio.pcie.address import AddressRange

NUMBERS = st.one_of(
    st.sampled_from(
        [0, 1, 2, 3, 0x100, 0x108, 0x109, 0x1000, 0x7000, DEVICE_MEMORY.start, 1 << 51, 1 << 63, -1, -4096]
    ),
    st.integers(0, 600).map(lambda page: page * PAGE_SIZE),
    st.integers(-(1 << 70), 1 << 70),
)
OPERANDS: dict[Any, st.SearchStrategy[Any]] = {
    int: NUMBERS,
    int | None: st.none() | NUMBERS,
    bool: st.booleans(),
    bytes: st.binary(max_size=40),
    bytes | None: st.none() | st.binary(max_size=40),
    PageLevel: st.sampled_from(PageLevel),
    Invalidation: st.sampled_from(Invalidation),
    DmarLevel: st.sampled_from(DmarLevel) | NUMBERS,
    KmOperation: st.sampled_from(KmOperation) | NUMBERS,
    SpdmOperation: st.sampled_from(SpdmOperation) | NUMBERS,
    DevifOperation: st.sampled_from(DevifOperation) | NUMBERS,
    LockParameters | None: st.none() | st.builds(LockParameters, NUMBERS, NUMBERS),
    StreamOptions: st.builds(
        StreamOptions, st.booleans(), st.lists(st.integers(0, 3) | NUMBERS, max_size=4).map(tuple)
    ),
    AddressRange: st.builds(AddressRange, NUMBERS, NUMBERS),
    tuple[int, int]: st.tuples(NUMBERS, NUMBERS),
    tuple[int, ...]: st.lists(NUMBERS, max_size=3).map(tuple),
}


@pytest.fixture(scope="module")
def guest() -> Guest:
    made = Guest(Host())
    made.bring_up()
    return made


def operands(row: Call) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(row.arguments)
    return st.builds(row.arguments, **{f.name: OPERANDS[hints[f.name]] for f in dataclasses.fields(row.arguments)})


def called(row: Call, target: Any, call: Any) -> Any:
    method = getattr(target, row.method)
    return method(call, NOW) if row.timed else method(call)


@pytest.mark.parametrize(
    "row", [row for row in CALLS.values() if row.boundary is not Boundary.HYPERCALL], ids=lambda row: row.name
)
@settings(max_examples=10)
@given(data=st.data())
def test_calls_answer_everything(guest: Guest, row: Call, data: st.DataObject) -> None:
    host = guest.host
    target = host.module if row.boundary is Boundary.SEAMCALL else guest.tsm
    result = called(row, target, data.draw(operands(row)))
    assert result.status in row.refusals | PENDING | {Status.SUCCESS}, result.reason
    assert sum(host.memory.accounting().values()) * PAGE_SIZE == host.memory.size


@pytest.mark.parametrize(
    "row", [row for row in CALLS.values() if row.boundary is Boundary.HYPERCALL], ids=lambda row: row.name
)
@settings(max_examples=10)
@given(data=st.data())
def test_hypercalls_answer_everything(guest: Guest, row: Call, data: st.DataObject) -> None:
    result = called(row, guest.vmm, data.draw(operands(row)))
    assert result.error in row.refusals or not result.error
