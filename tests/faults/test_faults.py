"""Faults strike at every kind of step; what the platform was found to do wrong once stands here by name."""

import pytest

from faults.striking import Struck
from teeio.abi import CALLS
from teeio.abi.operands import MESSAGE_ADDRESS
from teeio.faults import (
    FAULTS,
    STEPS,
    Ending,
    Moment,
    Point,
    Returned,
    State,
    Strike,
    campaign,
    play,
    points,
    sampled,
    selected,
)
from teeio.faults.points import Seam
from teeio.faults.scene import Scene
from teeio.host.memory import PhysicalMemory
from teeio.host.vmm.guest_function import GuestFunction
from teeio.host.vmm.page_lender import PageLender
from teeio.pcie.capabilities.msix import MsixCapability, MsixMessage
from teeio.spdm.responder import Responder


@pytest.fixture(scope="session")
def chosen(passed: list[Point]) -> dict[str, Strike]:
    return {fault.name: strike for fault, strike in selected(FAULTS.values(), passed)}


@pytest.mark.parametrize("name", FAULTS)
def test_after_a_fault_nothing_is_half_done_and_everything_comes_back(chosen: dict[str, Strike], name: str) -> None:
    assert play(FAULTS[name], chosen[name]).problems == []


def test_every_step_is_struck(chosen: dict[str, Strike]) -> None:
    assert {strike.point.step for strike in chosen.values()} == set(STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_at_every_eighth_point(passed: list[Point], name: str) -> None:
    """All points are `teeio fault all`."""
    played = [play(fault, strike) for fault, strike in list(campaign([FAULTS[name]], passed))[::8]]
    assert [(str(one.strike), one.problems) for one in played if one.problems] == []


NOT_MADE = {
    "TDH.MEM.PAGE.DEMOTE": "the TVM has no pages of 2 MiB",
    "TDH.DMAR.READ": "it changes nothing",
    "TDH.MMIOMT.RD": "it changes nothing",
}
"""Besides those of peer-to-peer: the platform has one device."""


def test_a_life_makes_every_call_that_changes_something(passed: list[Point]) -> None:
    made = {point.call for point in passed if point.seam is Seam.CALL}
    assert {call for call in set(CALLS) - made if ".P2P." not in call} == set(NOT_MADE)


def test_every_call_and_message_is_struck_before_and_after(passed: list[Point]) -> None:
    struck = {(strike.point, strike.moment) for strike in FAULTS["session-end"].strikes(passed)}
    for point in passed:
        if point.seam is not Seam.FRAME:
            assert {(point, Moment.BEFORE), (point, Moment.AFTER)} <= struck


def test_a_life_repeats(passed: list[Point]) -> None:
    assert sampled(points()) == passed


def test_of_what_repeats_the_first_the_second_and_the_last_are_taken() -> None:
    repeated = [Point(Seam.CALL, "launch", "TDG.MEM.PAGE.ACCEPT", number) for number in range(1, 8)]
    assert [point.count for point in sampled(repeated)] == [1, 2, 7]


# -- what was found


def test_a_session_that_could_not_be_ended_is_not_forgotten(struck: Struck) -> None:
    played = struck("refused", "disconnect", "TDH.SPDM.DISCONNECT")
    assert (played.ending, played.problems) == (Ending.UNFINISHED, [])


@pytest.mark.parametrize("call", ["TDG.MEM.PAGE.ACCEPT", "TDH.MEM.PAGE.AUG"])
def test_a_tvm_that_does_not_boot_leaves_nothing(struck: Struck, call: str) -> None:
    played = struck("refused", "launch", call)
    assert (played.ending, played.returned, played.problems) == (Ending.UNDONE, Returned.AT_ONCE, [])


def test_a_tvm_whose_device_is_reset_while_it_boots_leaves_nothing(struck: Struck) -> None:
    played = struck("reset", "launch", "TDH.MNG.CREATE", Moment.BEFORE)
    assert (played.ending, played.returned, played.problems) == (Ending.LOST, Returned.AT_ONCE, [])


@pytest.mark.parametrize(
    ("step", "call"),
    [("lock", "TDH.DEVIF.RESPONSE, with an answer"), ("accept", "TDG.DMAR.ACCEPT"), ("launch", "TDG.MEM.PAGE.ACCEPT")],
)
def test_a_call_that_is_refused_for_now_is_made_again(struck: Struck, step: str, call: str) -> None:
    played = struck("busy", step, call)
    assert (played.ending, played.problems) == (Ending.WENT_ON, [])


def test_the_interrupt_table_of_a_function_that_is_gone_is_still_the_guests() -> None:
    """A function that answers with all ones says that its table is in a BAR which no function has."""
    scene = Scene()
    function = GuestFunction(scene.vf, scene.vf.address, lambda _: None, lambda _: None)
    (bar,) = (bar for bar in scene.vf.bars.values() if function.holds_msix(bar))
    place = scene.vf.config.get(MsixCapability.TABLE, "offset", scene.vf.capabilities[MsixCapability.ID]) * 8
    scene.platform.link.fail()
    assert function.holds_msix(bar)
    entry = MsixMessage(MESSAGE_ADDRESS, 0x31)
    for at, value in ((0, entry.address), (8, entry.data), (12, 1)):
        function.msix_write(place + at, value.to_bytes(4, "little"))
        assert int.from_bytes(function.msix_read(place + at, 4), "little") == value


def test_a_device_that_is_removed_amid_an_access_to_its_registers(struck: Struck) -> None:
    played = struck("removal", "probe", "CfgRd0 plain downstream", Moment.AFTER)
    assert (played.ending, played.state, played.problems) == (Ending.LOST, State.SESSION_FORGOTTEN, [])


# -- what a run would notice


def test_a_page_that_does_not_come_back_is_noticed(struck: Struck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PageLender, "take_back", lambda *_: None)
    played = struck("busy", "accept", "TDG.TDI.START")
    assert any("pages that the VMM uses" in problem for problem in played.problems)


def test_a_page_that_is_not_scrubbed_is_noticed(struck: Struck, monkeypatch: pytest.MonkeyPatch) -> None:
    move = PhysicalMemory._move

    def moved(memory: PhysicalMemory, hpa: int, size: int, old: int, new: int) -> None:
        contents = memory._store[hpa : hpa + size]
        move(memory, hpa, size, old, new)
        memory._store[hpa : hpa + size] = contents

    monkeypatch.setattr(PhysicalMemory, "_move", moved)
    played = struck("halt", "unlock", "TDCM.UNBIND", Moment.BEFORE)
    assert "the VMM can read the secret in memory" in played.problems


def test_a_session_that_is_not_forgotten_is_noticed(struck: Struck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Responder, "reset", lambda *_: None)
    monkeypatch.setattr(Responder, "expire", lambda *_: None)
    played = struck("answer-lost", "keep", "HEARTBEAT")
    assert any("SPDM sessions (device)" in problem for problem in played.problems)
