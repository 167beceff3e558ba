"""The discrete-event clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeio.costs.events import Process, Resource, Simulation, Use, Wait


def holding(resource: Resource, *seconds: float) -> Process:
    for each in seconds:
        yield Use(resource, each)


def test_waits_pass_side_by_side() -> None:
    simulation = Simulation()

    def waiting(seconds: float) -> Process:
        yield Wait(seconds)
        yield Wait(seconds)

    simulation.start(waiting(1.0))
    simulation.start(waiting(3.0))
    assert simulation.run() == 6.0


def test_a_resource_serves_one_at_a_time_in_the_order_of_arrival() -> None:
    simulation, resource = Simulation(), Resource("one")
    order: list[str] = []

    def user(name: str, arrival: float) -> Process:
        yield Wait(arrival)
        yield Use(resource, 2.0)
        order.append(name)

    for name, arrival in (("late", 1.5), ("first", 0.0), ("second", 1.0)):
        simulation.start(user(name, arrival))
    assert simulation.run() == 6.0
    assert order == ["first", "second", "late"]
    assert (resource.busy, resource.waited) == (6.0, 1.0 + 2.5)


def test_a_hold_may_depend_on_how_many_wait() -> None:
    simulation, resource = Simulation(), Resource("lock")
    seen: list[int] = []

    def hold(waiting: int) -> float:
        seen.append(waiting)
        return 1.0 + waiting

    def user() -> Process:
        yield Wait(1.0)
        yield Use(resource, hold)

    for _ in range(3):
        simulation.start(user())
    # All arrive at the same moment: the first finds nobody behind it yet, the second one, the third none.
    assert simulation.run() == 1.0 + 1.0 + 2.0 + 1.0
    assert seen == [0, 1, 0]


@given(st.lists(st.lists(st.integers(0, 50), max_size=5), max_size=5))
def test_a_resource_is_busy_for_the_sum_and_never_twice_at_once(work: list[list[int]]) -> None:
    simulation, resource = Simulation(), Resource("one")
    for each in work:
        simulation.start(holding(resource, *(float(seconds) for seconds in each)))
    total = float(sum(map(sum, work)))
    assert simulation.run() == pytest.approx(total)
    assert resource.busy == total
