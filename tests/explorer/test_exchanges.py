"""The VMM as the one who carries data objects: what befalls one, exchanges that wait, and what befalls the device as a whole."""

import pytest

from teeio.explorer import REMOVALS, explore
from teeio.explorer.actions import named
from teeio.explorer.courier import Mishap
from teeio.explorer.fingerprint import fingerprint
from teeio.explorer.properties import UNTOUCHED, broken
from teeio.explorer.search import at_root
from teeio.explorer.world import World
from teeio.host.tdx.interface import Devif
from teeio.scenarios.scenario import Mutant, Removed
from teeio.tdisp.messages import InterfaceState

TAKE, GIVE = "take the waiting request to the device", "give the TSM the waiting answer"


def _states(world: World) -> tuple[InterfaceState, InterfaceState]:
    """Give the state of TVM A's interface at the device, and as the TSM knows it."""
    own = world.tenants[0]
    return own.tdi.state, world.platform.module.records.devifs[own.function_id].state


def _happen(world: World, *names: str) -> None:
    for name in names:
        assert not named(name).happen(world), name


def test_an_exchange_that_waits_is_one_of_three_states_and_ends_as_if_it_had_not() -> None:
    locked, run = InterfaceState.CONFIG_LOCKED, InterfaceState.RUN
    world, seen = at_root("allowed"), []
    for name in ("A: ask for START, and let it wait", TAKE, GIVE):
        _happen(world, name)
        seen.append((_states(world), fingerprint(world)))
    assert [states for states, _ in seen] == [(locked, locked), (run, locked), (run, run)]
    assert len({state for _, state in seen}) == 3
    at_once = at_root("allowed")
    _happen(at_once, "A: drive START")
    assert fingerprint(at_once) == fingerprint(world)


def test_an_exchange_of_several_rounds_is_another_state_in_each() -> None:
    world, seen = at_root("running"), set()
    _happen(world, "ask for new IDE keys, and let it wait")
    rounds = 0
    while world.courier.waiting is not None:
        seen.add(fingerprint(world))
        _happen(world, TAKE, GIVE)
        rounds += 1
    assert len(seen) == rounds > 2
    assert broken(world) is None


def test_what_waits_keeps_others_from_asking_and_may_be_dropped() -> None:
    world = at_root("both bound")
    _happen(world, "A: ask for STOP, and let it wait")
    before = fingerprint(world)
    assert "OPERAND_BUSY" in named("B: drive GET STATE").happen(world)
    assert fingerprint(world) == before
    assert "SPDM_FAILED" in named("give the TSM no answer").happen(world)
    assert world.platform.module.records.contexts[1].agent.session is None, "it was out of step"


def test_a_request_that_is_taken_twice_is_not_carried_out_twice() -> None:
    """The record's number has passed: the device refuses it and ends the session."""
    world = at_root("starting")
    _happen(world, TAKE)
    assert named(GIVE).happen(world)
    assert _states(world)[1] is InterfaceState.ERROR


@pytest.mark.parametrize("mishap", [mishap for mishap in Mishap if mishap is not Mishap.REPEAT])
def test_a_mishap_befalls_the_next_exchange_and_costs_the_session(mishap: Mishap) -> None:
    world = at_root("allowed")
    states = {fingerprint(world)}
    _happen(world, mishap.value)
    states.add(fingerprint(world))
    assert "SPDM_FAILED" in named("A: drive START").happen(world)
    states.add(fingerprint(world))
    assert len(states) == 3
    assert _states(world)[1] is InterfaceState.ERROR
    assert broken(world) is None


def test_a_request_carried_twice_costs_the_session_as_the_tsm_learns_with_the_next() -> None:
    """The device cannot open the second record and ends the session (DSP0277); the TSM has its answer by then."""
    world = at_root("allowed")
    _happen(world, Mishap.REPEAT.value, "A: drive START")
    assert _states(world) == (InterfaceState.ERROR, InterfaceState.RUN)
    assert named("A: drive GET STATE").happen(world)
    assert _states(world) == (InterfaceState.ERROR, InterfaceState.ERROR)
    assert broken(world) is None


def test_what_is_refused_and_changes_something_is_found() -> None:
    """A look at the state that forgets the lock when it refuses: nothing was sent, and something is another."""
    check_state = Devif.check_state

    def careless(devif: Devif, operation: object) -> None:
        if devif.state is InterfaceState.CONFIG_LOCKED:
            devif.validated = True
        check_state(devif, operation)  # type: ignore[arg-type]

    mutant = Mutant("care", (Removed(Devif, "check_state", careless),))
    report = explore("bound", 1, mutant=mutant)
    assert report.found is None, "no such call about MMIO"
    report = explore("relocked", 1, mutant=mutant)
    assert report.found is not None
    assert report.found.name == UNTOUCHED


@pytest.mark.parametrize("name", ["late-answers", "blocked-stream"])
def test_an_answer_that_comes_too_late_brings_nothing_back(name: str) -> None:
    removal = REMOVALS[name]
    late = ("block the IDE stream", GIVE)
    with removal.mutant.living():
        world = at_root(removal.root)
        _happen(world, *late)
    assert broken(world) is not None
    world = at_root(removal.root)
    _happen(world, late[0])
    assert "IDE_STREAM_BLOCKED" in named(GIVE).happen(world)
    assert broken(world) is None


@pytest.mark.parametrize(
    "name",
    [
        "A: end the TVM",
        "block the IDE stream",
        "end the SPDM session",
        "disconnect the device",
        "reset function 0",
        "reset the device",
        "let the heartbeats lapse",
        "go down",
    ],
)
def test_what_befalls_the_device_ends_trust_in_its_interface(name: str) -> None:
    world = at_root("running")
    before = fingerprint(world)
    _happen(world, name)
    assert not world.tenants[0].tdi.state.locked
    assert fingerprint(world) != before
    assert broken(world) is None


def test_a_device_connected_again_is_as_it_was() -> None:
    world = at_root("assigned")
    before = fingerprint(world)
    _happen(world, "disconnect the device")
    assert "not connected" in named("A: bind to the other TVM").happen(world)
    _happen(world, "connect the device")
    assert fingerprint(world) == before
    _happen(world, "A: ask to bind and lock")


def test_after_a_reset_the_vmm_can_have_it_all_again() -> None:
    world = at_root("running")
    _happen(
        world,
        "reset the device",
        "write the device's configuration again",
        "disconnect the device",
        "connect the device",
        *(f"A: {step}" for step in ("ask to bind and lock", "read the report and the lock's id")),
        *(f"A: {step}" for step in ("validate, accept MMIO", "accept DMA", "allow the start", "drive START")),
    )
    assert _states(world) == (InterfaceState.RUN, InterfaceState.RUN)
    assert broken(world) is None
