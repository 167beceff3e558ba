"""The VMM makes a SEAMCALL again that is refused only for now, and no other."""

import pytest

from teeio.abi import Result
from teeio.abi import memory_seamcalls as m
from teeio.abi.statuses import TRIES, Status
from teeio.host.vmm.patience import patient

CALL = m.TdhMemTrack(tdr=0)


class Tsm:
    """Answers with one status after the other, the last one for ever."""

    def __init__(self, *statuses: Status) -> None:
        self.statuses = list(statuses)
        self.asked = 0

    def tdh_mem_track(self, call: m.TdhMemTrack, /) -> Result[None]:
        self.asked += 1
        assert call is CALL
        return Result(self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0])


@pytest.mark.parametrize("status", [Status.OPERAND_BUSY, Status.RND_NO_ENTROPY])
def test_a_call_that_is_refused_for_now_is_made_again(status: Status) -> None:
    tsm = Tsm(status, Status.SUCCESS)
    assert patient(tsm).tdh_mem_track(CALL).status is Status.SUCCESS  # type: ignore[arg-type]
    assert tsm.asked == 2


def test_it_is_made_a_few_times_at_most() -> None:
    tsm = Tsm(Status.OPERAND_BUSY)
    assert patient(tsm).tdh_mem_track(CALL).status is Status.OPERAND_BUSY  # type: ignore[arg-type]
    assert tsm.asked == TRIES


@pytest.mark.parametrize("status", [Status.SUCCESS, Status.OPERAND_INVALID, Status.SPDM_REQUEST])
def test_any_other_answer_stands(status: Status) -> None:
    tsm = Tsm(status)
    assert patient(tsm).tdh_mem_track(CALL).status is status  # type: ignore[arg-type]
    assert tsm.asked == 1
