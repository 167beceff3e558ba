"""What is counted is really taken by a life, and what a fault takes is given back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from faults.striking import Struck
from teeio.faults import (
    ACCOUNTS,
    Ending,
    Returned,
    State,
    counts,
    left,
)
from teeio.faults.life import Life
from teeio.faults.points import Seam
from teeio.faults.scene import Scene
from teeio.host.memory import VmmMemory
from teeio.host.vmm.page_lender import PageLender

NOT_IN_THIS_LIFE = {
    "TDIs in ERROR (device)",
    "peer-to-peer streams bound (device)",
    "P2P streams (TSM)",
    "pairs that TVMs have allowed (TSM)",
    "pairs of interfaces (VMM)",
    "cached translations (device)",
    "messages in chunks under way (device)",
}
"""Accounts of what a life without faults does not use: it has no peer, no ATS, and no message that is too large."""


class Counting(Scene):
    """Remembers the most that each account had when something passed."""

    def __init__(self) -> None:
        self.most: Counter[str] = Counter()
        super().__init__()

    def passes(self, seam: Seam, name: str, act: Callable[[Any], Any], subject: Any) -> Any:
        def counted(subject: Any) -> Any:
            if not self.step or self.points[-1].count > (8 if "KM" in name or "CfgRd0" in name else 2):
                return act(subject)
            self.most |= Counter(counts(self.platform))
            answer = act(subject)
            self.most |= Counter(counts(self.platform))
            return answer

        return super().passes(seam, name, counted, subject)


def test_a_life_takes_something_of_every_account() -> None:
    scene = Counting()
    assert left(counts(scene.platform)) == {}
    Life(scene).live()
    assert left(counts(scene.platform)) == {}
    never = {str(account) for account in ACCOUNTS} - set(left(scene.most))
    assert never == NOT_IN_THIS_LIFE


# -- the VMM broken off: its memory is in nobody's records but its own


@pytest.mark.parametrize(
    ("step", "call"),
    [("connect", "TDH.SPDM.CREATE"), ("connect", "TDH.IDE.STREAM.CREATE"), ("launch", "TDH.MEM.PAGE.AUG")],
)
def test_a_page_for_a_call_that_was_never_made_comes_back(struck: Struck, step: str, call: str) -> None:
    played = struck("break-off", step, call)
    assert (played.ending, played.returned, played.problems) == (Ending.UNDONE, Returned.AT_ONCE, [])


def test_a_page_that_is_lost_with_its_call_is_noticed(struck: Struck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PageLender, "_take_one", lambda lender, undo: VmmMemory.allocate(lender._memory))
    played = struck("break-off", "connect", "TDH.SPDM.CREATE")
    assert any("1 pages that the VMM uses or shares" in problem for problem in played.problems)


def test_an_exchange_that_is_broken_off_goes_on_or_is_given_up(struck: Struck) -> None:
    played = struck("break-off", "refresh", "KEY_PROG")
    assert (played.ending, played.state, played.problems) == (Ending.UNFINISHED, State.RUNNING, [])


def test_a_tvm_whose_hypercall_never_returns_is_ended_from_outside(struck: Struck) -> None:
    played = struck("break-off", "lock", "LOCK_INTERFACE_REQUEST")
    assert (played.ending, played.state, played.returned) == (Ending.HALTED, State.BOUND, Returned.AFTER_LAPSE)
    assert played.problems == []


# -- calls that are repeated


def test_a_call_that_is_never_let_through_fails_its_step(struck: Struck) -> None:
    played = struck("busy-long", "launch", "TDH.MEM.PAGE.AUG")
    assert (played.ending, played.state, played.problems) == (Ending.UNDONE, State.CONNECTED, [])
    assert "OPERAND_BUSY" in played.refusal


@pytest.mark.parametrize(
    ("step", "call"),
    [("launch", "TDH.MEM.PAGE.AUG"), ("lock", "TDCM.BIND"), ("accept", "TDG.MMIO.ACCEPT"), ("unlock", "TDCM.UNBIND")],
)
def test_a_call_that_is_made_twice_is_done_once(struck: Struck, step: str, call: str) -> None:
    played = struck("call-twice", step, call)
    assert (played.ending, played.state, played.problems) == (Ending.WENT_ON, State.NOT_CONNECTED, [])
