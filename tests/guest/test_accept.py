"""Lock, attest, accept, unlock: the order of calls, and each way in which a hostile VMM or device is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from evidence_scene import DEVICE, identity_of, mmio
from guest.fake_world import BAR0, BAR2, FUNCTION_ID, RAM, REPORTING_OFFSET, World
from teeio.abi import CallRefused, EptViolation
from teeio.abi.operands import PAGE_SIZE
from teeio.abi.statuses import Status
from teeio.accelerator_interface import BAR_SIZE
from teeio.attestation import Decision
from teeio.crypto.algorithms import P384_SUITE
from teeio.errors import AuthenticationFailed, Incompatible, Misuse, PeerViolation, TeeioError
from teeio.guest.accept import AssignedInterface, NotAccepted, Phase, tee_ranges
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.guest.pci import GuestBar, enumerate_functions
from teeio.observe import Event, Refused, StateChanged
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.tdisp.messages import DeviceInterfaceReport, InterfaceInfo, InterfaceState, LockFlags, RangeAttributes


@pytest.fixture
def world() -> World:
    world = World()
    world.tvm.boot()
    return world


def interface_of(world: World) -> AssignedInterface:
    return AssignedInterface(world.tvm, enumerate_functions(world.tvm, 0.0)[0])


def bring_up(world: World, **expectations: Any) -> AssignedInterface:
    interface = interface_of(world)
    interface.bring_up(world.verifier(**expectations), TRUSTED_REGISTERS, 1.0)
    return interface


def assert_undone(world: World, interface: AssignedInterface) -> None:
    """Nothing may be left of what was begun."""
    assert interface.phase is Phase.UNLOCKED
    assert (interface.bind_session_id, interface.evidence, interface.ranges) == (0, None, ())
    assert world.state is InterfaceState.CONFIG_UNLOCKED
    assert not any("mmio" in page.state for page in world.pages.values())
    assert not world.dmar
    with pytest.raises(Misuse):
        interface.window(0, 0, 4)


# -- the happy path ------------------------------------------------------------------------------------------------------


def test_an_interface_is_brought_up_in_order(world: World) -> None:
    world.calls.clear()
    interface = bring_up(world)
    assert interface.phase is Phase.ACCEPTED
    assert world.state is InterfaceState.RUN
    order = [call for call in world.calls if call.startswith(("tdcm", "tdg"))]
    assert order == [
        "tdcm_check_teeio_supp",
        "tdcm_bind",
        "tdg_devif_read",
        "tdg_devif_request",
        "tdcm_get_tdi_report",
        "tdg_devif_response",
        "tdg_devif_request",
        "tdcm_get_dev_info",
        "tdg_devif_response",
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


# -- hostile VMM, hostile device: each is refused, and everything undone ------------------------------------------------


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
    world.before["tdg_devif_read"] = world.stop
    with pytest.raises(PeerViolation, match="must be in CONFIG_LOCKED"):
        interface_of(world).lock(1.0)


def test_a_vmm_that_says_done_but_does_not_start_is_noticed(world: World) -> None:
    interface = interface_of(world)
    interface.lock(1.0)
    interface.attest(world.verifier(), TRUSTED_REGISTERS, 1.0)
    world.before["tdg_devif_read"] = lambda: setattr(world, "state", InterfaceState.CONFIG_LOCKED)
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


# -- the VMM's picture of the PCI tree -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bars", "message"),
    [
        ((GuestBar(0, RAM.base, BAR_SIZE, True),), "overlaps the TVM's memory"),
        ((GuestBar(0, BAR0, BAR_SIZE, True), GuestBar(2, BAR0 + BAR_SIZE // 2, PAGE_SIZE, True)), "overlap"),
        ((GuestBar(0, (1 << 51) - PAGE_SIZE, BAR_SIZE, True),), "overlaps"),
    ],
)
def test_bars_in_impossible_places_are_refused_before_the_lock(
    world: World, bars: tuple[GuestBar, ...], message: str
) -> None:
    interface = interface_of(world)
    interface.function = replace(interface.function, bars=bars)
    with pytest.raises(PeerViolation, match=message):
        interface.lock(1.0)
    assert "tdcm_bind" not in world.calls


def test_tee_memory_below_4_gib_is_refused(world: World) -> None:
    interface = interface_of(world)
    bars = (GuestBar(0, 0x8000_0000, BAR_SIZE, True), *interface.function.bars[1:])
    interface.function = replace(interface.function, bars=bars)
    with pytest.raises(PeerViolation, match="below 4 GiB"):
        interface.bring_up(world.verifier(), TRUSTED_REGISTERS, 1.0)
    assert_undone(world, interface)


def test_registers_are_where_the_driver_looks_for_them(world: World) -> None:
    """A report whose first page of BAR 0 is not the BAR's first page satisfies the policy but not the driver."""
    world.ranges = (replace(world.ranges[1], attributes=RangeAttributes.NONE), *world.ranges[2:])
    (window,) = TRUSTED_REGISTERS
    interface = interface_of(world)
    with pytest.raises(PeerViolation, match="not in a TEE range"):
        interface.bring_up(world.verifier(), (replace(window, pages=15),), 1.0)
    assert_undone(world, interface)


def test_a_function_without_the_tee_io_bit_is_not_locked(world: World) -> None:
    world.config.need(ExpressCapability).set(ExpressCapability.DEVICE_CAPABILITIES, tee_io=0)
    with pytest.raises(Incompatible, match="TEE-IO"):
        interface_of(world).lock(1.0)


@pytest.mark.parametrize("offset", [0, 0x1_0000, REPORTING_OFFSET, -(1 << 40), (1 << 62) - (1 << 40)])
def test_ranges_are_found_whatever_the_reporting_offset(offset: int) -> None:
    hpa = 0x38_0004_0000
    first = ((hpa + offset) % (1 << 64)) // PAGE_SIZE
    report = DeviceInterfaceReport(info=InterfaceInfo.NONE, ranges=(mmio(0, first + 2, 3),))
    (found,) = tee_ranges(report, offset, (GuestBar(0, BAR0, BAR_SIZE, True),))
    assert (found.offset, found.gpa, found.pages) == (2 * PAGE_SIZE, BAR0 + 2 * PAGE_SIZE, 3)


@pytest.mark.parametrize("part", [mmio(0, 1, 16), mmio(3, 1, 1), mmio(0, 0, 0), mmio(0, 0, 1 << 31)])
def test_ranges_that_fit_no_bar_are_left_out(part: Any) -> None:
    report = DeviceInterfaceReport(info=InterfaceInfo.NONE, ranges=(part,))
    assert tee_ranges(report, 0, (GuestBar(0, BAR0, BAR_SIZE, True),)) == ()


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
