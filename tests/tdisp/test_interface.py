"""The TDI state machine: every state x request and x event, the nonce, the session, the conditions of lock and bind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from teeio.crypto.entropy import SeededEntropy
from teeio.errors import Reject
from teeio.observe import StateChanged
from teeio.tdisp.backend import StreamStatus
from teeio.tdisp.interface import Interface, InterfacePolicy
from teeio.tdisp.messages import (
    ErrorCode,
    InterfaceState,
    LockFlags,
    LockParameters,
    MessageType,
    MmioRange,
    RangeAttributes,
)
from teeio.tdisp.preconditions import BIND_CHECKS, LOCK_CHECKS
from teeio.tdisp.states import REQUEST_RULES, Event, next_state

SESSION, OTHER = 0x11, 0x22
Rig = Any
ENTROPY = SeededEntropy(b"test")

ACTIONS: dict[MessageType, Callable[[Rig], object]] = {
    MessageType.LOCK_INTERFACE_REQUEST: lambda rig: rig.interface.lock(SESSION, rig.parameters, ENTROPY),
    MessageType.GET_DEVICE_INTERFACE_REPORT: lambda rig: rig.interface.report(SESSION),
    MessageType.START_INTERFACE_REQUEST: lambda rig: rig.interface.start(SESSION, rig.nonce),
    MessageType.STOP_INTERFACE_REQUEST: lambda rig: rig.interface.stop(SESSION),
    MessageType.BIND_P2P_STREAM_REQUEST: lambda rig: rig.interface.bind_p2p_stream(SESSION, 5),
    MessageType.UNBIND_P2P_STREAM_REQUEST: lambda rig: _bound(rig).unbind_p2p_stream(SESSION, 5),
    MessageType.SET_MMIO_ATTRIBUTE_REQUEST: lambda rig: rig.interface.set_mmio_attribute(SESSION, _updatable(rig)),
}


def _bound(rig: Rig) -> Interface:
    interface: Interface = rig.interface
    if interface.state is InterfaceState.RUN:
        interface.bind_p2p_stream(SESSION, 5)
    return interface


def _updatable(rig: Rig, attributes: RangeAttributes = RangeAttributes.IS_NON_TEE_MEM) -> MmioRange:
    return MmioRange(first_page=0xD0104, pages=2, attributes=attributes, range_id=0)


@pytest.mark.parametrize("state", list(InterfaceState))
@pytest.mark.parametrize("request_code", list(ACTIONS))
def test_every_state_and_request(rig: Rig, state: InterfaceState, request_code: MessageType) -> None:
    rig.bring_to(state)
    rule = REQUEST_RULES[request_code]
    if state in rule.legal:
        ACTIONS[request_code](rig)
        assert rig.interface.state is (state if rule.next_state is None else rule.next_state)
    else:
        with pytest.raises(Reject) as refusal:
            ACTIONS[request_code](rig)
        assert refusal.value.code == ErrorCode.INVALID_INTERFACE_STATE
        assert rule.clause in refusal.value.clause
        assert rig.interface.state is state


@pytest.mark.parametrize("state", list(InterfaceState))
@pytest.mark.parametrize("event", list(Event))
def test_every_state_and_event(rig: Rig, state: InterfaceState, event: Event) -> None:
    rig.bring_to(state)
    rig.device.calls.clear()
    rig.interface.happen(event)
    assert rig.interface.state is next_state(event, state)
    if event is Event.CONVENTIONAL_RESET:
        assert rig.interface.state is InterfaceState.CONFIG_UNLOCKED
    elif state.locked:
        assert rig.interface.state is InterfaceState.ERROR
        assert rig.device.calls == ["quiesce"]
        assert rig.seen[-1] == StateChanged("TDI 0", state.name, "ERROR", event.value)
    else:
        assert rig.interface.state is state


@pytest.mark.parametrize("state", list(InterfaceState))
def test_reset_by_the_other_source_leads_to_error(make_rig: Callable[..., Rig], state: InterfaceState) -> None:
    rig = make_rig(policy=InterfacePolicy(reset_to_unlocked=False))
    rig.bring_to(state)
    rig.interface.happen(Event.CONVENTIONAL_RESET)
    assert rig.interface.state is (InterfaceState.ERROR if state.locked else state)


def _refused(action: Callable[[], object]) -> Reject:
    with pytest.raises(Reject) as refusal:
        action()
    return refusal.value


# -- nonce -----------------------------------------------------------------------------------------------------------


def test_a_wrong_nonce_leaves_the_interface_locked_and_the_nonce_alive(rig: Rig) -> None:
    rig.bring_to(InterfaceState.CONFIG_LOCKED)
    for wrong in (bytes(32), b"", rig.nonce[:31]):
        assert _refused(lambda wrong=wrong: rig.interface.start(SESSION, wrong)).code == ErrorCode.INVALID_NONCE
    assert rig.interface.state is InterfaceState.CONFIG_LOCKED
    rig.interface.start(SESSION, rig.nonce)
    assert rig.interface.state is InterfaceState.RUN


def test_a_used_nonce_does_not_start_the_next_lock(rig: Rig) -> None:
    rig.bring_to(InterfaceState.RUN)
    used = rig.nonce
    rig.interface.stop(SESSION)
    fresh = rig.interface.lock(SESSION, rig.parameters, ENTROPY)
    assert fresh != used
    assert _refused(lambda: rig.interface.start(SESSION, used)).code == ErrorCode.INVALID_NONCE


def test_the_nonce_dies_with_stop(rig: Rig) -> None:
    rig.bring_to(InterfaceState.CONFIG_LOCKED)
    rig.interface.stop(SESSION)
    rig.interface.lock(SESSION, rig.parameters, ENTROPY)
    assert _refused(lambda: rig.interface.start(SESSION, rig.nonce)).code == ErrorCode.INVALID_NONCE


@pytest.mark.parametrize("event", list(Event))
def test_the_nonce_dies_with_every_event_that_leaves_locked(rig: Rig, event: Event) -> None:
    rig.bring_to(InterfaceState.CONFIG_LOCKED)
    rig.interface.happen(event)
    assert _refused(lambda: rig.interface.start(SESSION, rig.nonce)).code == ErrorCode.INVALID_INTERFACE_STATE
    rig.interface.stop(SESSION)
    rig.interface.lock(SESSION, rig.parameters, ENTROPY)
    assert _refused(lambda: rig.interface.start(SESSION, rig.nonce)).code == ErrorCode.INVALID_NONCE


def _no_randomness(size: int) -> bytes:
    raise OSError


@pytest.mark.parametrize("entropy", [_no_randomness, lambda size: b"short"])
def test_without_entropy_there_is_no_lock(rig: Rig, entropy: Callable[[int], bytes]) -> None:
    refusal = _refused(lambda: rig.interface.lock(SESSION, rig.parameters, entropy))
    assert refusal.code == ErrorCode.INSUFFICIENT_ENTROPY
    assert rig.interface.state is InterfaceState.CONFIG_UNLOCKED
    assert rig.device.calls == []


# -- session ---------------------------------------------------------------------------------------------------------

SESSION_BOUND = [
    (request, state)
    for request, rule in REQUEST_RULES.items()
    if rule.session_bound
    for state in sorted(rule.legal)
    if state is not InterfaceState.CONFIG_UNLOCKED
]


@pytest.mark.parametrize(("request_code", "state"), SESSION_BOUND)
def test_another_session_may_not_drive_a_locked_interface(
    rig: Rig, request_code: MessageType, state: InterfaceState
) -> None:
    rig.bring_to(state)
    assert _refused(lambda: rig.interface.admit(request_code, OTHER)).code == ErrorCode.INVALID_REQUEST
    rig.interface.admit(request_code, SESSION)


@pytest.mark.parametrize("state", [InterfaceState.CONFIG_LOCKED, InterfaceState.RUN])
def test_session_end_moves_to_error_and_lets_another_session_stop(rig: Rig, state: InterfaceState) -> None:
    rig.bring_to(state)
    rig.interface.session_ended(OTHER)
    assert rig.interface.state is state
    rig.interface.session_ended(SESSION)
    assert rig.interface.state is InterfaceState.ERROR
    rig.interface.stop(OTHER)
    assert rig.interface.state is InterfaceState.CONFIG_UNLOCKED


# -- conditions of locking -------------------------------------------------------------------------------------------

DEFAULT = StreamStatus(0, default=True, keys_set=True, key_session=SESSION, secure=True)
BROKEN_LOCKS: dict[str, tuple[dict[str, object], LockParameters]] = {
    "lock flags supported": ({}, LockParameters(flags=LockFlags.LOCK_MSIX)),
    "stream is the default stream": ({"streams": {0: replace(DEFAULT, default=False)}}, LockParameters()),
    "one default stream": ({"default_streams": 2}, LockParameters()),
    "default stream on TC0": ({"streams": {0: replace(DEFAULT, traffic_class=3)}}, LockParameters()),
    "keys for all sub-streams": ({"streams": {0: replace(DEFAULT, keys_set=False)}}, LockParameters()),
    "keys from this session": ({"streams": {0: replace(DEFAULT, key_session=OTHER)}}, LockParameters()),
    "stream secure": ({"streams": {0: replace(DEFAULT, secure=False)}}, LockParameters()),
    "reporting offset fits": ({}, LockParameters(mmio_reporting_offset=-0x1000_0000)),
    "device configuration": ({"problem": "two BARs overlap"}, LockParameters()),
    "report fits": ({"device_specific": bytes(0x10000)}, LockParameters()),
}


@pytest.mark.parametrize("check", LOCK_CHECKS, ids=lambda check: check.name)
def test_every_condition_of_locking_is_enforced(make_rig: Callable[..., Rig], check: Any) -> None:
    options, parameters = BROKEN_LOCKS[check.name]
    rig = make_rig(policy=InterfacePolicy(secure_stream_at_lock=True), **options)
    rig.interface.lock_flags = LockFlags.NO_FW_UPDATE
    refusal = _refused(lambda: rig.interface.lock(SESSION, parameters, ENTROPY))
    assert refusal.code == check.error
    assert check.name in refusal.clause
    assert rig.interface.state is InterfaceState.CONFIG_UNLOCKED
    assert rig.device.calls == []


@pytest.mark.parametrize("check", [c for c in LOCK_CHECKS if c.ide_only], ids=lambda check: check.name)
def test_stream_conditions_do_not_hold_back_an_endpoint_without_ide(make_rig: Callable[..., Rig], check: Any) -> None:
    options, parameters = BROKEN_LOCKS[check.name]
    rig = make_rig(ide_required=False, **options)
    rig.interface.lock(SESSION, parameters, ENTROPY)
    assert rig.interface.state is InterfaceState.CONFIG_LOCKED


@pytest.mark.parametrize("offset", [1, 0x800, (1 << 63) - 0x1000])
def test_reporting_offset_must_keep_pages_whole_and_in_range(make_rig: Callable[..., Rig], offset: int) -> None:
    rig = make_rig(ranges=(MmioRange(first_page=(1 << 51) + 2, pages=1, range_id=0),))
    refusal = _refused(lambda: rig.interface.lock(SESSION, LockParameters(mmio_reporting_offset=offset), ENTROPY))
    assert refusal.code == ErrorCode.INVALID_REQUEST


def test_an_unknown_stream_is_no_default_stream(rig: Rig) -> None:
    refusal = _refused(lambda: rig.interface.lock(SESSION, LockParameters(default_stream_id=9), ENTROPY))
    assert refusal.code == ErrorCode.INVALID_REQUEST


def test_locking_quiesces_before_it_arms(rig: Rig) -> None:
    rig.bring_to(InterfaceState.CONFIG_LOCKED)
    assert rig.device.calls == ["quiesce", "arm"]
    assert rig.interface.bound_streams == {0}
    assert rig.interface.parameters == rig.parameters


def test_the_report_is_shifted_and_frozen(rig: Rig) -> None:
    rig.bring_to(InterfaceState.RUN)
    report = rig.interface.report(SESSION)
    assert [item.first_page for item in report.ranges] == [0xD0100, 0xD0104, 0xD0200]
    rig.device.ranges = ()
    rig.interface.set_mmio_attribute(SESSION, _updatable(rig))
    assert rig.interface.report(SESSION) == report


def test_stop_scrubs_once_and_is_idempotent(rig: Rig) -> None:
    rig.bring_to(InterfaceState.RUN)
    rig.interface.bind_p2p_stream(SESSION, 5)
    rig.device.calls.clear()
    rig.interface.stop(SESSION)
    rig.interface.stop(OTHER)
    assert rig.device.calls == ["quiesce", "scrub"]
    assert rig.interface.bound_streams == frozenset()
    assert rig.interface.session is None
    assert rig.interface.parameters is None
    assert rig.interface.range_at(0x100000) is None


# -- peer-to-peer streams --------------------------------------------------------------------------------------------

PEER = StreamStatus(5, keys_set=True, key_session=SESSION, secure=True)
BROKEN_BINDS: list[tuple[int, dict[str, object]]] = [
    (0, {}),
    (1, {}),
    (2, {"streams": {0: DEFAULT}}),
    (3, {}),
    (4, {"streams": {0: DEFAULT, 5: replace(PEER, blocks=2)}}),
    (5, {"streams": {0: DEFAULT, 5: replace(PEER, default=True)}}),
    (6, {"streams": {0: DEFAULT, 5: replace(PEER, keys_set=False)}}),
    (7, {"streams": {0: DEFAULT, 5: replace(PEER, key_session=OTHER)}}),
    (8, {"streams": {0: DEFAULT, 5: replace(PEER, overlaps=True)}}),
]


@pytest.mark.parametrize(("index", "options"), BROKEN_BINDS)
def test_every_condition_of_binding_is_enforced(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, index: int, options: dict[str, object]
) -> None:
    rig = make_rig(**options)
    if index == 0:
        rig.parameters = LockParameters()
    if index == 1:
        full = rig.device.report
        monkeypatch.setattr(rig.device, "report", lambda p: replace(full(p), info=0))
    rig.bring_to(InterfaceState.RUN)
    if index == 3:
        rig.interface.bind_p2p_stream(SESSION, 5)
    refusal = _refused(lambda: rig.interface.bind_p2p_stream(SESSION, 5))
    assert refusal.code == ErrorCode.INVALID_REQUEST
    assert BIND_CHECKS[index].problem in refusal.clause


def test_every_bind_check_has_a_test() -> None:
    assert [index for index, _ in BROKEN_BINDS] == list(range(len(BIND_CHECKS)))


def test_bind_and_unbind(rig: Rig) -> None:
    rig.bring_to(InterfaceState.RUN)
    assert _refused(lambda: rig.interface.unbind_p2p_stream(SESSION, 5)).code == ErrorCode.INVALID_REQUEST
    rig.interface.bind_p2p_stream(SESSION, 5)
    assert rig.interface.p2p_streams == {5}
    assert rig.interface.bound_streams == {0, 5}
    rig.interface.unbind_p2p_stream(SESSION, 5)
    assert rig.interface.p2p_streams == frozenset()


# -- MMIO attributes -------------------------------------------------------------------------------------------------


def test_an_updatable_range_changes_and_changes_back(rig: Rig) -> None:
    rig.bring_to(InterfaceState.RUN)
    address = 0x104 * 4096 + 5
    rig.interface.set_mmio_attribute(SESSION, _updatable(rig))
    assert rig.interface.range_at(address).attributes & RangeAttributes.IS_NON_TEE_MEM
    rig.interface.set_mmio_attribute(SESSION, _updatable(rig, RangeAttributes.NONE))
    assert not rig.interface.range_at(address).attributes & RangeAttributes.IS_NON_TEE_MEM
    assert rig.interface.range_at(0x300 * 4096) is None


@pytest.mark.parametrize(
    "wanted",
    [
        MmioRange(first_page=0xD0100, pages=4, attributes=RangeAttributes.IS_NON_TEE_MEM, range_id=0),
        MmioRange(first_page=0x104, pages=2, attributes=RangeAttributes.IS_NON_TEE_MEM, range_id=0),
        MmioRange(first_page=0xD0104, pages=1, attributes=RangeAttributes.IS_NON_TEE_MEM, range_id=0),
        MmioRange(first_page=0xD0104, pages=2, attributes=RangeAttributes.IS_NON_TEE_MEM, range_id=1),
        MmioRange(first_page=0xD0104, pages=2, attributes=RangeAttributes.MSIX_TABLE, range_id=0),
    ],
)
def test_other_ranges_and_attributes_are_refused_without_harm(rig: Rig, wanted: MmioRange) -> None:
    rig.bring_to(InterfaceState.RUN)
    assert _refused(lambda: rig.interface.set_mmio_attribute(SESSION, wanted)).code == ErrorCode.INVALID_REQUEST
    assert rig.interface.state is InterfaceState.RUN
