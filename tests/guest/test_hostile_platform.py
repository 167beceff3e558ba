"""Each way in which a hostile VMM or device is refused while an interface comes up, and everything undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from evidence_scene import DEVICE, identity_of, mmio
from guest.assigned import assert_undone, bring_up, interface_of
from guest.fake_memory import BAR0
from guest.fake_world import World
from teeio.abi import CallRefused
from teeio.abi.operands import PAGE_SIZE
from teeio.abi.statuses import Status
from teeio.crypto.algorithms import P384_SUITE
from teeio.errors import AuthenticationFailed, Misuse, PeerViolation, TeeioError
from teeio.guest.accept import NotAccepted, Phase
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.observe import Event, Refused
from teeio.tdisp.messages import DeviceInterfaceReport, InterfaceInfo, InterfaceState, LockFlags, RangeAttributes

# -- evidence -------------------------------------------------------------------------------------------------------------


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def report_of(change: Callable[[DeviceInterfaceReport], DeviceInterfaceReport]) -> Callable[[bytes], bytes]:
    return lambda data: change(DeviceInterfaceReport.decode(data)).encode()


@pytest.mark.parametrize("name", ["certificate_chain", "vca", "measurements", "report"])
@pytest.mark.parametrize("change", [flip, lambda data: data[:-1], lambda data: b""], ids=["flip", "truncate", "empty"])
def test_evidence_changed_in_transit_is_noticed_by_digest(
    world: World, name: str, change: Callable[[bytes], bytes]
) -> None:
    """Attack 52."""
    world.carry[name] = change
    interface = interface_of(world)
    with pytest.raises(NotAccepted) as caught:
        interface.bring_up(world.verifier(), TRUSTED_REGISTERS, 1.0)
    assert "evidence-digests" in {result.rule.id for result in caught.value.verdict.failures}
    assert_undone(world, interface)


def test_a_report_that_the_vmm_makes_look_better_is_noticed(world: World) -> None:
    """Attack 52 on top of 54: the device says non-TEE, the VMM edits that away."""
    world.ranges = (replace(world.ranges[0], attributes=RangeAttributes.IS_NON_TEE_MEM), *world.ranges[1:])
    world.carry["report"] = report_of(
        lambda report: replace(
            report, ranges=(replace(report.ranges[0], attributes=RangeAttributes.NONE), *report.ranges[1:])
        )
    )
    with pytest.raises(NotAccepted) as caught:
        bring_up(world)
    assert {result.rule.id for result in caught.value.verdict.failures} == {"evidence-digests"}


@pytest.mark.parametrize("name", ["certificate_chain", "vca", "measurements", "report"])
@pytest.mark.parametrize("value", [None, "text", 7, bytes(101)])
def test_evidence_that_is_none_or_far_too_long_is_not_even_judged(
    world: World, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(value, bytes):
        monkeypatch.setattr("teeio.guest.attest.MAX_EVIDENCE", 100)
    world.carry[name] = lambda data: value
    interface = interface_of(world)
    with pytest.raises(AuthenticationFailed, match="is no bytes below"):
        interface.bring_up(world.verifier(), TRUSTED_REGISTERS, 1.0)
    assert interface.verdict is None
    assert_undone(world, interface)


def set_flags(world: World) -> None:
    world.flags = LockFlags.NONE


def set_p2p(world: World) -> None:
    world.flags |= LockFlags.BIND_P2P


def allow_update(world: World) -> None:
    world.scene.report["info"] = InterfaceInfo.DMA_WITHOUT_PASID


def enable_ats(world: World) -> None:
    world.scene.report["info"] = InterfaceInfo(0b1011)


def hide_registers(world: World) -> None:
    world.ranges = (replace(world.ranges[0], attributes=RangeAttributes.IS_NON_TEE_MEM), *world.ranges[1:])


def claim_msix(world: World) -> None:
    world.ranges = (*world.ranges[:2], replace(world.ranges[2], attributes=RangeAttributes.MSIX_TABLE), world.ranges[3])


def overlap(world: World) -> None:
    world.ranges = (world.ranges[0], replace(world.ranges[1], first_page=world.reported(0)), *world.ranges[2:])


def outgrow_the_bar(world: World) -> None:
    world.ranges = (world.ranges[0], replace(world.ranges[1], pages=16), *world.ranges[2:])


def name_a_missing_bar(world: World) -> None:
    world.ranges = (*world.ranges, mmio(5, 0x9100, 1))


def be_another_device(world: World) -> None:
    world.scene.identity = identity_of(P384_SUITE, replace(DEVICE, serial="0002"))


def run_other_firmware(world: World) -> None:
    world.scene.change(2, value=bytes(48))


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (set_flags, "lock-flags"),  # attack 47
        (set_p2p, "tdx-lock-flags"),  # attack 47
        (allow_update, "lock-flags"),
        (enable_ats, "tdx-interface-info"),
        (hide_registers, "tee-registers"),  # attack 54
        (claim_msix, "msix"),  # attack 54
        (overlap, "report-ranges"),  # attack 53
        (outgrow_the_bar, "placed-ranges"),  # attack 53
        (name_a_missing_bar, "placed-ranges"),  # attack 53
        (be_another_device, "identity"),
        (run_other_firmware, "reference-values"),
    ],
)
def test_a_bad_lock_report_or_device_is_rejected_by_its_rule(
    world: World, spoil: Callable[[World], None], rule: str
) -> None:
    spoil(world)
    interface = interface_of(world)
    with pytest.raises(NotAccepted) as caught:
        interface.bring_up(world.verifier(), TRUSTED_REGISTERS, 1.0)
    assert rule in {result.rule.id for result in caught.value.verdict.failures}
    assert caught.value.verdict is interface.verdict
    assert "tdg_mmio_accept" not in world.calls
    assert_undone(world, interface)


# -- mappings, locks and calls ------------------------------------------------------------------------------------------


def test_a_shifted_mapping_is_refused_by_the_tsm(world: World) -> None:
    """Attack 53: the VMM maps the device's pages in another place than the report says."""
    world.shift = 1
    interface = interface_of(world)
    with pytest.raises(CallRefused) as caught:
        interface.bring_up(world.verifier(), TRUSTED_REGISTERS, 1.0)
    assert caught.value.status is Status.MMIO_REPORT_MISMATCH
    assert_undone(world, interface)


def test_a_page_that_is_not_mapped_is_refused(world: World) -> None:
    interface = interface_of(world)
    interface.lock(1.0)
    interface.attest(world.verifier(), TRUSTED_REGISTERS, 1.0)
    del world.pages[BAR0 + 5 * PAGE_SIZE]
    with pytest.raises(CallRefused) as caught:
        interface.accept(1.0)
    assert caught.value.status is Status.EPT_ENTRY_STATE_INCORRECT
    assert_undone(world, interface)


RELOCK_POINTS = [
    "tdcm_get_tdi_report",
    "tdg_devif_response",
    "tdcm_get_dev_info",
    "tdg_devif_validate",
    "tdg_mmio_accept",
    "tdg_dmar_accept",
    "tdg_tdi_start",
]


@pytest.mark.parametrize("call", RELOCK_POINTS)
def test_a_lock_that_is_replaced_at_any_moment_starts_nothing(world: World, call: str) -> None:
    """Attack 49: STOP, then LOCK again, between two steps of the TVM."""

    def relock() -> None:
        world.stop()
        world.lock()

    world.before[call] = relock
    interface = interface_of(world)
    with pytest.raises(TeeioError):
        interface.bring_up(world.verifier(), TRUSTED_REGISTERS, 1.0)
    assert call not in world.before
    assert_undone(world, interface)


def test_a_lock_that_is_replaced_just_before_the_start_does_not_run(world: World) -> None:
    def relock() -> None:
        world.stop()
        world.lock()

    world.before["tdcm_start_tdi"] = relock
    with pytest.raises(CallRefused):
        bring_up(world)
    assert world.state is InterfaceState.CONFIG_UNLOCKED


def test_evidence_of_a_lock_gone_by_is_stale(world: World) -> None:
    """Attack 49, seen by the policy: the TSM's statement names another lock than the evidence."""
    interface = interface_of(world)
    interface.lock(1.0)
    world.before["tdg_devif_read"] = lambda: setattr(world, "bind_session_id", 0x9999)
    with pytest.raises(NotAccepted) as caught:
        interface.attest(world.verifier(), TRUSTED_REGISTERS, 1.0)
    assert "lock-binding" in {result.rule.id for result in caught.value.verdict.failures}


@pytest.mark.parametrize("call", ["tdcm_bind", "tdcm_get_tdi_report", "tdcm_get_dev_info", "tdcm_start_tdi"])
def test_a_vmm_that_refuses_a_step_leaves_nothing_behind(world: World, call: str) -> None:
    world.refuse.add(call)
    events: list[Event] = []
    world.tvm.observer = events.append
    interface = interface_of(world)
    with pytest.raises(CallRefused, match=call.removeprefix("tdcm_").upper().replace("_", ".")):
        interface.bring_up(world.verifier(), TRUSTED_REGISTERS, 1.0)
    assert_undone(world, interface)
    assert any(isinstance(event, Refused) for event in events)


def test_a_vmm_that_says_done_but_does_not_lock_is_noticed(world: World) -> None:
    world.before["tdcm_bind"] = lambda: world.before.update(tdg_devif_read=world.stop)
    with pytest.raises(PeerViolation, match="must be in CONFIG_LOCKED"):
        interface_of(world).lock(1.0)


@pytest.mark.parametrize("state", [InterfaceState.CONFIG_LOCKED, InterfaceState.RUN, InterfaceState.ERROR])
def test_a_lock_that_is_not_the_tvms_is_left_alone_until_it_is_unlocked(world: World, state: InterfaceState) -> None:
    """A TVM that was started anew, or whose VMM locks of its own accord."""
    world.lock()
    world.state = state
    interface = interface_of(world)
    with pytest.raises(Misuse, match=f"in {state.name} already"):
        interface.lock(1.0)
    assert (world.state, interface.phase) == (state, Phase.LOST)
    assert "tdcm_bind" not in world.calls
    assert "tdcm_unbind" not in world.calls
    interface.unlock(2.0)
    interface.bring_up(world.verifier(), TRUSTED_REGISTERS, 3.0)


@pytest.mark.parametrize("when", ["tdg_devif_read", "tdcm_start_tdi"])
def test_evidence_that_changes_after_it_was_judged_is_not_started(world: World, when: str) -> None:
    interface = interface_of(world)
    interface.lock(1.0)
    interface.attest(world.verifier(), TRUSTED_REGISTERS, 1.0)
    world.before[when] = lambda: world.objects.update(measurements=b"other measurements")
    with pytest.raises(AuthenticationFailed, match="other evidence on interface"):
        interface.accept(1.0)
    assert_undone(world, interface)


def test_a_vmm_that_says_done_but_does_not_start_is_noticed(world: World) -> None:
    interface = interface_of(world)
    interface.lock(1.0)
    interface.attest(world.verifier(), TRUSTED_REGISTERS, 1.0)
    locked = {"tdg_devif_read": lambda: setattr(world, "state", InterfaceState.CONFIG_LOCKED)}
    world.before["tdcm_start_tdi"] = lambda: world.before.update(locked)
    with pytest.raises(PeerViolation, match="must be in RUN"):
        interface.accept(1.0)
    assert_undone(world, interface)


def test_what_cannot_be_given_back_is_lost(world: World) -> None:
    world.refuse |= {"tdcm_start_tdi", "tdcm_unbind"}
    interface = interface_of(world)
    with pytest.raises(CallRefused) as caught:
        interface.bring_up(world.verifier(), TRUSTED_REGISTERS, 1.0)
    assert any("could not be given back" in note for note in caught.value.__notes__)
    assert interface.phase is Phase.LOST
    with pytest.raises(Misuse, match="is lost"):
        interface.lock(2.0)
    with pytest.raises(PeerViolation, match="CONFIG_UNLOCKED"):
        interface.unlock(2.0)
    world.refuse.clear()
    interface.unlock(3.0)
    assert_undone(world, interface)


def test_an_unbind_that_is_refused_because_nothing_was_bound_is_no_loss(world: World) -> None:
    world.refuse |= {"tdcm_bind", "tdcm_unbind"}
    interface = interface_of(world)
    with pytest.raises(CallRefused, match="BIND"):
        interface.lock(1.0)
    assert_undone(world, interface)
    world.refuse.clear()
    interface.lock(2.0)


def test_unlock_believes_the_tsm_and_not_the_vmm(world: World) -> None:
    interface = bring_up(world)
    world.before["tdg_devif_read"] = lambda: setattr(world, "state", InterfaceState.RUN)
    with pytest.raises(PeerViolation, match="must be in CONFIG_UNLOCKED"):
        interface.unlock(2.0)
    assert interface.phase is Phase.LOST
