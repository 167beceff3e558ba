"""The table of calls, the interfaces and the status codes say the same."""

import dataclasses
import inspect
import typing

import pytest

from teeio.abi import CALLS, Boundary, Call, CallRefused, HypercallResult, Result, TvmToTsm, TvmToVmm, VmmToTsm
from teeio.abi.absent import ABSENT
from teeio.abi.operands import AUTHORITY, Actor, DevifOperation, PageLevel
from teeio.abi.statuses import PENDING, HypercallError, Status, TdcmStatus

INTERFACES = {Boundary.SEAMCALL: VmmToTsm, Boundary.TDCALL: TvmToTsm, Boundary.HYPERCALL: TvmToVmm}
PREFIXES: dict[Boundary, tuple[str, ...]] = {
    Boundary.SEAMCALL: ("TDH.",),
    Boundary.TDCALL: ("TDG.",),
    Boundary.HYPERCALL: ("TDCM.", "TDVMCALL."),
}
ROWS = pytest.mark.parametrize("row", CALLS.values(), ids=CALLS.keys())


def methods(interface: type) -> set[str]:
    return {name for name, member in vars(interface).items() if inspect.isfunction(member) and name.startswith("td")}


@ROWS
def test_each_call_is_a_method_of_its_interface(row: Call) -> None:
    method = getattr(INTERFACES[row.boundary], row.method)
    hints = typing.get_type_hints(method)
    parameters = list(inspect.signature(method).parameters)
    assert parameters == (["self", "call", "now"] if row.timed else ["self", "call"])
    assert hints["call"] is row.arguments
    kind = HypercallResult if row.boundary is Boundary.HYPERCALL else Result
    assert typing.get_origin(hints["return"]) is kind
    assert typing.get_args(hints["return"]) == (row.returns or type(None),)


@pytest.mark.parametrize("boundary", Boundary)
def test_each_method_is_a_declared_call(boundary: Boundary) -> None:
    assert methods(INTERFACES[boundary]) == {row.method for row in CALLS.values() if row.boundary is boundary}


@pytest.mark.parametrize("boundary", Boundary)
def test_leaf_numbers_are_unique_within_a_boundary(boundary: Boundary) -> None:
    leaves = [row.leaf for row in CALLS.values() if row.boundary is boundary and row.leaf is not None]
    assert len(leaves) == len(set(leaves))


@ROWS
def test_rows_are_well_formed(row: Call) -> None:
    assert row.name.startswith(PREFIXES[row.boundary])
    assert row.meaning.endswith(".")
    assert len(row.meaning) > 15
    assert row.arguments.__name__.lower() == row.name.replace(".", "").lower()
    hypercall = row.boundary is Boundary.HYPERCALL
    assert all(isinstance(status, HypercallError if hypercall else Status) for status in row.refusals)
    assert (HypercallError.INVALID_OPERAND if hypercall else Status.OPERAND_INVALID) in row.refusals
    assert not row.refusals & PENDING


@ROWS
def test_operands_are_frozen_and_named(row: Call) -> None:
    fields = dataclasses.fields(row.arguments)
    assert all(field.kw_only for field in fields)
    call = row.arguments(**{field.name: field.name for field in fields})
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(call, fields[0].name, None)


@ROWS
def test_resumable_calls_are_seamcalls_that_take_a_response(row: Call) -> None:
    names = {field.name for field in dataclasses.fields(row.arguments)}
    if row.resumable:
        assert row.boundary is Boundary.SEAMCALL
        assert row.timed
        assert "response" in names or row.name == "TDH.DEVIF.REQUEST"
    else:
        assert "response" not in names


def test_who_may_trigger_what() -> None:
    assert set(AUTHORITY) == set(DevifOperation)
    assert {operation.name for operation, who in AUTHORITY.items() if Actor.VMM in who} == {"LOCK", "STATE", "STOP"}
    assert {operation.name for operation, who in AUTHORITY.items() if Actor.TVM in who} == {
        "REPORT",
        "MEASUREMENTS",
        "STATE",
        "START",
    }


def test_status_numbers_are_unique_and_own_ones_are_marked() -> None:
    assert len(Status.__members__) == len(list(Status))
    assert not Status.SUCCESS.is_error
    assert Status.OPERAND_BUSY.is_error
    assert Status.SPDM_REQUEST.is_documented
    assert not Status.DEVIF_NOT_AUTHORISED.is_documented
    assert all(status & 0xFFFF_FFFF == 0 for status in Status), "bits 31:0 carry the operand number"


def test_results_give_values_or_say_why_not() -> None:
    assert Result(Status.SUCCESS, 7).require("TDH.X") == 7
    with pytest.raises(CallRefused, match=r"TDH\.X: OPERAND_BUSY: one at a time"):
        Result[int](Status.OPERAND_BUSY, reason="one at a time").require("TDH.X")
    with pytest.raises(CallRefused):
        Result[None](Status.PAGE_ALREADY_ACCEPTED).require("TDG.MEM.PAGE.ACCEPT")
    assert Result[None](Status.SPDM_REQUEST, data_object=b"1234").pending
    assert HypercallResult(TdcmStatus.DONE, values=3).require("TDCM.X") == 3
    for status in (TdcmStatus.WAIT, TdcmStatus.ERROR):
        with pytest.raises(CallRefused):
            HypercallResult[int](status, HypercallError.TDISP).require("TDCM.X")


def test_units() -> None:
    assert [level.size for level in PageLevel] == [4096, 2 << 20]


PUBLIC = [
    "TDH.EXT.MEM.ADD",
    "TDH.IOMMU.SETUP",
    "TDH.IOMMU.CLEAR",
    "TDH.SPDM.CREATE",
    "TDH.SPDM.DELETE",
    "TDH.SPDM.CONNECT",
    "TDH.SPDM.DISCONNECT",
    "TDH.SPDM.MNG",
    "TDH.IDE.STREAM.CREATE",
    "TDH.IDE.STREAM.BLOCK",
    "TDH.IDE.STREAM.DELETE",
    "TDH.IDE.STREAM.KM",
    "TDH.IOMMU.SETREG",
    "TDH.IOMMU.GETREG",
    "TDH.IDE.STREAM.IDEKMREQ",
    "TDH.IDE.STREAM.IDEKMRSP",
    "TDH.DEVIF.CREATE",
    "TDH.DEVIF.REMOVE",
    "TDH.DEVIF.REQUEST",
    "TDH.DEVIF.RESPONSE",
    "TDH.DMAR.ADD",
    "TDH.DMAR.BLOCK",
    "TDH.DMAR.READ",
    "TDH.DMAR.REMOVE",
    "TDH.MMIOMT.ADD",
    "TDH.MMIOMT.SET",
    "TDH.MMIOMT.RD",
    "TDH.MMIOMT.REMOVE",
    "TDH.MMIO.MAP",
    "TDH.MMIO.BLOCK",
    "TDH.MMIO.UNMAP",
    "TDH.IQINV.REQ",
    "TDH.IQINV.PROC",
    "TDH.MEM.SHARED.SEPT.WR",
    "TDH.DEVIFMT.ADD",
    "TDH.DEVIFMT.REMOVE",
    "TDH.DEVIFMT.RD",
    "TDG.TDI.RD",
    "TDG.TDI.START",
    "TDG.DMAR.ACCEPT",
    "TDG.MMIO.ACCEPT",
    "TDG.DEVIF.READ",
    "TDG.DEVIF.VALIDATE",
    "TDG.DEVIF.REQUEST",
    "TDG.DEVIF.RESPONSE",
]
"""The calls of both TDX Connect generations that public sources name."""


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_call_is_declared_or_an_alias_or_absent_for_a_reason(name: str) -> None:
    aliases = [alias.strip().split(" ")[0] for row in CALLS.values() for alias in row.alias.split(",")]
    absent = {one.name for one in ABSENT}
    assert name in CALLS or name in aliases or name in absent


def test_what_is_absent_is_not_declared() -> None:
    assert len({one.name for one in ABSENT}) == len(ABSENT)
    leaves = {(row.boundary, row.leaf) for row in CALLS.values()}
    for one in ABSENT:
        assert one.name not in CALLS
        assert one.reason
        boundary = Boundary.SEAMCALL if one.name.startswith("TDH.") else Boundary.TDCALL
        shared = one.name == "TDH.IOMMU.GETREG"  # the current generation uses the number for TDH.IOMMU.CLEAR
        assert shared or (boundary, one.leaf) not in leaves
