"""Lock, attest, accept, unlock: the order of calls, phases, and falling out of RUN."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guest.assigned import assert_undone, bring_up, interface_of
from guest.fake_memory import BAR0, BAR2, FUNCTION_ID
from guest.fake_world import World
from teeio.abi import EptViolation
from teeio.abi.operands import PAGE_SIZE
from teeio.accelerator_interface import BAR_SIZE
from teeio.attestation import Decision
from teeio.errors import Misuse, PeerViolation
from teeio.guest.accept import Phase
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.guest.pci import GuestBar
from teeio.observe import Event, StateChanged
from teeio.tdisp.messages import InterfaceState

# -- the happy path ------------------------------------------------------------------------------------------------------


def test_an_interface_is_brought_up_in_order(world: World) -> None:
    world.calls.clear()
    interface = bring_up(world)
    assert interface.phase is Phase.ACCEPTED
    assert world.state is InterfaceState.RUN
    order = [call for call in world.calls if call.startswith(("tdcm", "tdg"))]
    assert order == [
        "tdcm_check_teeio_supp",
        "tdg_devif_read",
        "tdcm_bind",
        "tdg_devif_read",
        "tdg_devif_request",
        "tdcm_get_tdi_report",
        "tdg_devif_response",
        "tdg_devif_request",
        "tdcm_get_dev_info",
        "tdg_devif_response",
        "tdg_devif_read",
        "tdg_devif_read",
        "tdg_devif_validate",
        "tdg_mmio_accept",
        "tdg_mmio_accept",
        "tdg_dmar_accept",
        "tdg_tdi_start",
        "tdcm_start_tdi",
        "tdg_devif_read",
    ]
    assert interface.verdict is not None
    assert interface.verdict.decision is Decision.ACCEPT


def test_only_tee_ranges_are_accepted_and_reachable(world: World) -> None:
    interface = bring_up(world)
    assert [(found.index, found.gpa, found.pages) for found in interface.ranges] == [
        (0, BAR0, 1),
        (1, BAR0 + PAGE_SIZE, 15),
    ]
    window = interface.window(0, 0, BAR_SIZE)
    assert window.read(0, 4, 0.0) == 0x31434341
    for bar, offset, size in ((2, 0, 4), (0, BAR_SIZE, 4), (0, 0, BAR_SIZE + 1), (0, 8, 0)):
        with pytest.raises(Misuse, match="not accepted"):
            interface.window(bar, offset, size)


def test_each_appraisal_has_a_nonce_of_its_own(world: World) -> None:
    interface, verifier, nonces = interface_of(world), world.verifier(), set()
    for _ in range(3):
        interface.bring_up(verifier, TRUSTED_REGISTERS, 1.0)
        assert interface.evidence is not None
        nonces.add(interface.evidence.nonce)
        interface.unlock(2.0)
    assert len(nonces) == 3


def test_the_observer_hears_of_phases(world: World) -> None:
    events: list[Event] = []
    world.tvm.observer = events.append
    bring_up(world).unlock(2.0)
    moves = [event.new for event in events if isinstance(event, StateChanged)]
    assert moves == ["LOCKED", "ACCEPTED", "UNLOCKED"]


# -- phases ----------------------------------------------------------------------------------------------------------------


def test_a_bound_driver_makes_every_verb_busy(world: World) -> None:
    interface = interface_of(world)
    interface.bind_driver("someone")
    verifier = world.verifier()
    for verb in (
        lambda: interface.lock(1.0),
        lambda: interface.attest(verifier, (), 1.0),
        lambda: interface.accept(1.0),
        lambda: interface.unlock(1.0),
        lambda: interface.bind_driver("another"),
    ):
        with pytest.raises(Misuse, match="busy: driver someone"):
            verb()
    interface.release_driver()
    interface.lock(1.0)


def test_a_second_look_at_a_function_sees_the_same_interface(world: World) -> None:
    interface = bring_up(world)
    interface.bind_driver("someone")
    again, state = interface_of(world), world.state
    assert (again.phase, again.bind_session_id, again.ranges) == (
        Phase.ACCEPTED,
        interface.bind_session_id,
        interface.ranges,
    )
    for verb in (lambda: again.lock(2.0), lambda: again.unlock(2.0), lambda: again.bind_driver("another")):
        with pytest.raises(Misuse, match="busy: driver someone"):
            verb()
    assert world.state is state is InterfaceState.RUN
    again.release_driver()
    again.unlock(3.0)
    assert_undone(world, interface)


@pytest.mark.parametrize("over", ["another BAR", "memory"])
def test_the_bars_of_a_view_that_did_not_lock_are_checked_too(world: World, over: str) -> None:
    """Attack: the VMM shows other BARs to whoever looks after the lock."""
    interface_of(world).lock(1.0)
    again = interface_of(world)
    first, *others = again.function.bars
    gpa = others[0].gpa if over == "another BAR" else world.tvm.memory.start
    again.function = replace(again.function, bars=(replace(first, gpa=gpa), *others))
    with pytest.raises(PeerViolation, match="overlap"):
        again.attest(world.verifier(), TRUSTED_REGISTERS, 1.0)
    assert_undone(world, again)


def test_verbs_out_of_order_are_refused(world: World) -> None:
    interface, verifier = interface_of(world), world.verifier()
    for verb in (
        lambda: interface.attest(verifier, (), 1.0),
        lambda: interface.accept(1.0),
        lambda: interface.unlock(1.0),
    ):
        with pytest.raises(Misuse, match="not locked"):
            verb()
    interface.lock(1.0)
    with pytest.raises(Misuse, match="no accepted evidence"):
        interface.accept(1.0)
    with pytest.raises(Misuse, match="locked"):
        interface.lock(1.0)


# -- falling out of RUN --------------------------------------------------------------------------------------------------


def test_error_is_noticed_though_the_vmm_says_run(world: World) -> None:
    interface = bring_up(world)
    assert interface.check(2.0) is InterfaceState.RUN
    assert interface.phase is Phase.ACCEPTED
    world.fail()
    assert interface.check(3.0) is InterfaceState.ERROR
    assert interface.phase is Phase.LOST
    with pytest.raises(Misuse):
        interface.window(0, 0, 4)


def test_a_vmm_that_does_not_let_the_tvm_ask_loses_the_interface(world: World) -> None:
    interface = bring_up(world)
    world.refuse.add("tdcm_get_tdi_state")
    assert interface.check(2.0) is InterfaceState.RUN  # what the TSM knows, but it cannot be confirmed
    assert interface.phase is Phase.LOST


def test_an_interface_that_was_stopped_and_run_again_is_lost(world: World) -> None:
    """Attack 56: RUN alone does not say that it is the same RUN."""
    interface = bring_up(world)
    world.stop()
    world.lock()
    world.state = InterfaceState.RUN
    interface.check(2.0)
    assert interface.phase is Phase.LOST


def test_recovery_goes_the_whole_way_again(world: World) -> None:
    interface = bring_up(world)
    first = interface.bind_session_id
    world.fail()
    interface.check(2.0)
    for verb in (lambda: interface.accept(3.0), lambda: interface.lock(3.0)):
        with pytest.raises(Misuse, match="is lost"):
            verb()
    interface.unlock(3.0)
    assert_undone(world, interface)
    interface.bring_up(world.verifier(), TRUSTED_REGISTERS, 4.0)
    assert interface.bind_session_id not in (0, first)
    assert world.state is InterfaceState.RUN


def test_mmio_is_gone_after_unlock(world: World) -> None:
    interface = bring_up(world)
    window = interface.window(0, 0, 8)
    interface.unlock(2.0)
    with pytest.raises(EptViolation):
        window.read(0, 4, 3.0)


def test_the_function_id_is_the_one_that_the_tsm_knows(world: World) -> None:
    interface = bring_up(world)
    assert interface.function_id == FUNCTION_ID
    assert interface.function.bar(2) == GuestBar(2, BAR2, 2 * PAGE_SIZE, True)
