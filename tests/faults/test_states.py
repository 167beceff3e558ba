"""The states that a device may be in after a fault are told apart, and a wrong one is noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from itertools import combinations

import pytest

from faults.striking import Struck
from teeio.faults import FAULTS, FORMS, STEPS, Fault, Moment, Point, State, Strike
from teeio.faults.expected import Stage, stage_of
from teeio.faults.standing import End, Standing
from teeio.faults.states import state_of
from teeio.host.tdx.records import Records, StreamPhase
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.ide_port import IdePort
from teeio.tdisp.interface import Interface
from teeio.tdisp.messages import InterfaceState

RUNNING = Standing(InterfaceState.RUN, InterfaceState.RUN, End.SECURE, End.SECURE, StreamPhase.READY, True, True)


def test_no_two_states_are_alike() -> None:
    for one, other in combinations(FORMS.values(), 2):
        alike = [
            set(mine) & set(its) if isinstance(mine, tuple) else mine is its
            for mine, its in ((getattr(one, field.name), getattr(other, field.name)) for field in fields(one)[:7])
        ]
        assert not all(alike), (one.meaning, other.meaning)


def test_every_state_may_follow_some_fault() -> None:
    reached = {state for fault in FAULTS.values() for row in fault.rows for _, state in row.outcomes}
    assert reached == set(State)


def test_every_row_is_of_steps_that_there_are() -> None:
    assert {step for fault in FAULTS.values() for row in fault.rows for step in row.steps} <= set(STEPS)


def test_what_is_half_a_state_is_none() -> None:
    assert state_of(RUNNING) is State.RUNNING
    assert stage_of(RUNNING) is Stage.RUN
    one_end = Standing(
        InterfaceState.ERROR, InterfaceState.ERROR, End.INSECURE, End.SECURE, StreamPhase.READY, True, True
    )
    assert state_of(one_end) is None


# -- the states themselves, by where a TLP is corrupted


@pytest.mark.parametrize(
    ("name", "device", "root_port"),
    [
        ("CplD IDE T=1 downstream", {Uncorrectable.IDE_CHECK_FAILED, Uncorrectable.COMPLETION_TIMEOUT}, set()),
        ("CplD IDE T=1 upstream", set(), {Uncorrectable.IDE_CHECK_FAILED, Uncorrectable.COMPLETION_TIMEOUT}),
    ],
)
def test_a_corrupted_completion_on_a_secure_stream(
    struck: Struck, name: str, device: set[Uncorrectable], root_port: set[Uncorrectable]
) -> None:
    played = struck("frame-changed", "probe" if name.endswith("upstream") else "work", name)
    stood = played.stood
    assert (played.problems, played.state) == ([], State.STREAM_FAILED)
    assert stood is not None
    assert (stood.device_errors, stood.root_errors) == (device, root_port)
    assert stood.told == ({"device"} if root_port else {"root port"})


def test_a_corrupted_completion_of_a_plain_request_is_just_wrong_data(struck: Struck) -> None:
    played = struck("frame-changed", "probe", "CplD plain upstream")
    assert (played.problems, played.state) == ([], State.NOT_CONNECTED)
    assert played.stood is not None
    assert not played.stood.device_errors | played.stood.root_errors


# -- a wrong ending is noticed: one check removed from device, port, TSM


def not_failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TDI that neither its reset nor the registers that it clears send to ERROR."""
    monkeypatch.setattr(Interface, "happen", lambda *_: None)


def not_reporting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that does not record what failed."""
    monkeypatch.setattr(AerCapability, "record", lambda *_, **__: None)


def not_telling_the_partner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that sends no IDE Fail: the other end stays Secure."""
    monkeypatch.setattr(IdePort, "_send_fail", lambda *_: None)


def not_blocking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TSM that leaves the streams of a lost session as they are."""
    monkeypatch.setattr(Records, "block", lambda *_: None)


@pytest.mark.parametrize(
    ("mutate", "fault", "step", "name", "noticed"),
    [
        (not_failing, "flr-vf", "share", "TDVMCALL.MAP.GPA", "expected ERROR (TDI failed)"),
        (not_reporting, "frame-changed", "work", "CplD IDE T=1 downstream", "error bits at the device: none"),
        (not_telling_the_partner, "frame-changed", "work", "CplD IDE T=1 downstream", "Secure at the root port"),
        (not_blocking, "answer-lost", "keep", "HEARTBEAT", "READY at the TSM"),
    ],
)
def test_a_wrong_ending_is_noticed(
    struck: Struck,
    monkeypatch: pytest.MonkeyPatch,
    mutate: Callable[[pytest.MonkeyPatch], None],
    fault: str,
    step: str,
    name: str,
    noticed: str,
) -> None:
    mutate(monkeypatch)
    problems = struck(fault, step, name).problems
    assert any(noticed in problem for problem in problems), problems


def test_an_ending_that_the_table_does_not_have_is_noticed() -> None:
    fault = FAULTS["flr-vf"]
    strike = Strike(Point(next(iter(fault.seams)), "share", "TDVMCALL.MAP.GPA", 1), Moment.BEFORE)
    narrow = Fault(fault.name, fault.what, fault.seams, fault.moments, (), fault.inflict)
    assert "no row" in narrow.judged(strike, RUNNING, fault.rows[0].outcomes[0][0], RUNNING)
