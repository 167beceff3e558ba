"""The states that a device may be in after a fault are told apart, and a wrong one is noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from itertools import combinations, pairwise

import pytest

from faults.striking import Struck
from teeio.faults import FAULTS, FORMS, STEPS, Ending, Fault, Moment, Point, State, Strike
from teeio.faults.expected import Stage, stage_of
from teeio.faults.inflictions import GET_VERSION
from teeio.faults.scene import Scene
from teeio.faults.standing import End, Standing
from teeio.faults.states import state_of
from teeio.host.tdx.records import Records, StreamPhase
from teeio.host.vmm.mailbox import Mailbox
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.doe import SECURED_SPDM
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


def test_a_tlp_that_is_overtaken_fails_the_check_and_one_that_is_only_late_does_not(struck: Struck) -> None:
    where = "probe", "MWr IDE T=1 downstream"
    late, overtaken = struck("frame-late", *where), struck("frame-overtaken", *where)
    assert (late.problems, late.ending) == ([], Ending.WENT_ON)
    assert (overtaken.problems, overtaken.state) == ([], State.STREAM_FAILED)
    assert late.stood is not None
    assert overtaken.stood is not None
    assert (late.stood.device_errors, overtaken.stood.device_errors) == (set(), {Uncorrectable.IDE_CHECK_FAILED})


def test_a_completion_that_comes_when_nobody_waits_is_unexpected(struck: Struck) -> None:
    played = struck("frame-late", "probe", "CplD IDE T=1 upstream")
    assert (played.problems, played.state) == ([], State.RUNNING)
    assert played.stood is not None
    assert played.stood.root_errors == {Uncorrectable.COMPLETION_TIMEOUT, Uncorrectable.UNEXPECTED_COMPLETION}


# -- data objects that come when nobody waits for them


def test_an_answer_that_comes_twice_is_no_answer_to_the_next_request(struck: Struck) -> None:
    played = struck("answer-twice", "connect", "GET_MEASUREMENTS")
    assert (played.problems, played.state) == ([], State.SESSION_LEFT)
    assert "KEY_EXCHANGE" in played.refusal


def test_a_request_that_comes_late_is_carried_out_by_the_device_alone(struck: Struck) -> None:
    where = "disconnect", "END_SESSION"
    lost, late = struck("request-lost", *where), struck("request-late", *where)
    assert (lost.problems, late.problems) == ([], [])
    assert (lost.state, late.state) == (State.SESSION_LEFT, State.NOT_CONNECTED)


def test_a_request_that_the_next_connection_overtakes_does_it_no_harm(
    struck: Struck, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry, carried = Scene.carry, list[bytes]()

    def noted(scene: Scene, mailbox: Mailbox, data_object: bytes, now: float) -> bytes:
        carried.append(data_object)
        return carry(scene, mailbox, data_object, now)

    monkeypatch.setattr(Scene, "carry", noted)
    played = struck("request-overtaken", "keep", "HEARTBEAT")
    assert (played.problems, played.state) == ([], State.SESSION_FORGOTTEN)
    after = [two for one, two in pairwise(carried) if one == GET_VERSION]
    assert [(one[0] | one[1] << 8, one[2]) == SECURED_SPDM for one in after] == [False, True]


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
