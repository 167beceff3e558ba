"""Attacks on LOCK_INTERFACE: entries 45 to 47 of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from teeio.abi.operands import PAGE_SIZE, DevifOperation, LockParameters
from teeio.accelerator_interface import BAR_SIZE, MAGIC
from teeio.guest import accept
from teeio.guest.accept import Phase
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.tdx.interface import Devif
from teeio.host.tdx.interface_calls import InterfaceCalls
from teeio.ide_km.messages import Direction, KeySet, key_slots
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.rogue import Rogue
from teeio.scenarios.scenario import Outcome, Scenario, nothing, without, without_lock_checks, without_rule
from teeio.scenarios.stage import Stage
from teeio.spdm import flows as spdm
from teeio.tdisp import flows
from teeio.tdisp.interface import Interface
from teeio.tdisp.messages import InterfaceState, LockFlags

_RECEIVING = key_slots(KeySet.K0, Direction.RX)
_BAD_STREAMS: tuple[tuple[str, dict[str, object]], ...] = (
    ("no keys at all", {"slots": []}),
    ("keys for reception only", {"slots": list(_RECEIVING)}),
    ("one key of six missing", {"slots": [*_RECEIVING, *key_slots(KeySet.K0, Direction.TX)][:-1]}),
    ("all keys, on traffic class 1", {"traffic_class": 1}),
)


def _lock_without_keys(platform: Platform, journal: Journal) -> Outcome:
    """Lock in a session of the VMM's own, while the device's stream is not fit to be trusted."""
    stage = Stage(platform, journal)
    outcome = Outcome("asked the device to lock a TDI on a stream that lacks keys, or has another traffic class")
    for case, how in _BAD_STREAMS:
        with stage.attack("VMM", f"LOCK_INTERFACE with {case}"):
            rogue = Rogue(stage, case)
            rogue.open_session()
            rogue.key_stream(**how)  # type: ignore[arg-type]
            said = stage.refused(rogue.lock)
            outcome.see(f"{case}: {said or 'locked'}", "INVALID_REQUEST" in said)
            state = stage.state()
            outcome.see(f"{case}: the TDI is in {state.name}", state is InterfaceState.CONFIG_UNLOCKED)
    with stage.attack("VMM", "LOCK_INTERFACE with keys of another session"):
        rogue = Rogue(stage, "two sessions")
        rogue.open_session()
        rogue.key_stream()
        rogue.session = rogue.run(spdm.key_exchange(rogue.requester))
        said = stage.refused(rogue.lock)
        outcome.see(f"keys of another session, which is alive: {said or 'locked'}", "INVALID_REQUEST" in said)
        state = stage.state()
        outcome.see(f"keys of another session: the TDI is in {state.name}", state is InterfaceState.CONFIG_UNLOCKED)
    return outcome


def _illegal_state(platform: Platform, journal: Journal) -> Outcome:
    """Ask for everything that the state table forbids in the state at hand."""
    stage = Stage(platform, journal)
    outcome = Outcome("asked for LOCK, START and the report in states in which they are illegal")
    function_id = stage.vf.function_id
    rogue = Rogue(stage)
    rogue.open_session()
    rogue.key_stream()
    with stage.attack("VMM", "START and report in CONFIG_UNLOCKED"):
        _illegal(stage, outcome, "START", lambda: rogue.inside(flows.start_interface(function_id, bytes(32))))
        _illegal(stage, outcome, "report", lambda: rogue.inside(flows.get_device_interface_report(function_id)))
    nonce = rogue.lock()
    with stage.attack("VMM", "LOCK in CONFIG_LOCKED"):
        _illegal(stage, outcome, "LOCK", rogue.lock)
    said = stage.refused(lambda: rogue.inside(flows.start_interface(function_id, nonce)))
    outcome.see(f"START with the lock's nonce: {said or 'done'}", not said)
    with stage.attack("VMM", "LOCK and START in RUN"):
        _illegal(stage, outcome, "LOCK", rogue.lock)
        _illegal(stage, outcome, "START", lambda: rogue.inside(flows.start_interface(function_id, nonce)))
    outcome.tdi_states = stage.tdi_states()
    return outcome


def _illegal(stage: Stage, outcome: Outcome, what: str, attempt: object) -> None:
    before = stage.state()
    said = stage.refused(attempt)  # type: ignore[arg-type]
    outcome.see(f"{what} in {before.name}: {said or 'done'}", "INVALID_INTERFACE_STATE" in said)
    outcome.see(f"the TDI stays in {before.name}", stage.state() is before)


def _weak_lock(platform: Platform, journal: Journal) -> Outcome:
    """Lock without NO_FW_UPDATE: the device's firmware could change after it was measured."""
    stage = Stage(platform, journal)
    stage.vmm.lock_flags = LockFlags(0)
    outcome = Outcome("locked the TDI without NO_FW_UPDATE and hoped that the TVM does not look")
    with stage.attack("VMM", "LOCK_INTERFACE without NO_FW_UPDATE"):
        locked = stage.locked
        outcome.see("the device locked, as it may", stage.state() is InterfaceState.CONFIG_LOCKED)
    said = stage.refused(lambda: stage.attested)
    outcome.see(f"the TVM: {said or 'accepted the evidence'}", "NO_FW_UPDATE" in said)
    state = stage.state()
    outcome.see(f"the TVM gave the interface back: it is in {state.name}", state is InterfaceState.CONFIG_UNLOCKED)
    outcome.see("the TVM has accepted nothing", not locked.ranges)
    return outcome


_UNASKED: tuple[tuple[str, dict[str, int], str], ...] = (
    ("BIND_P2P", {"flags": int(LockFlags.NO_FW_UPDATE | LockFlags.BIND_P2P)}, "LOCK flags"),
    ("LOCK_MSIX", {"flags": int(LockFlags.NO_FW_UPDATE | LockFlags.LOCK_MSIX)}, "LOCK flags"),
    ("a BIND_P2P_ADDRESS_MASK", {"bind_p2p_address_mask": BAR_SIZE - 1}, "BIND_P2P_ADDRESS_MASK without BIND_P2P"),
)
"""What the VMM asks for behind the TVM's back, and what the TSM says."""


def _aliasing_lock(platform: Platform, journal: Journal) -> Outcome:
    """Lock with what nobody asked for: flags, a peer-to-peer mask, an offset by which the report's ranges seem to lie elsewhere."""
    stage = Stage(platform, journal)
    interface, pci_tsm = stage.assigned, stage.vmm.pci_tsm
    honest = pci_tsm.guest_req
    outcome = Outcome(
        "locked with peer-to-peer on, with a mask for it, and with offsets by which the memory's range seems to be the registers'"
    )

    def locking_with(change: Callable[[LockParameters], LockParameters]) -> Callable[..., Any]:
        def dishonest(vf: Any, operation: DevifOperation, now: float, lock: LockParameters | None = None) -> Any:
            return honest(vf, operation, now, None if lock is None else change(lock))

        return dishonest

    for what, changes, wanted in _UNASKED:
        dishonest = locking_with(lambda lock, changes=changes: replace(lock, **changes))  # type: ignore[misc]
        with stage.attack("VMM", f"LOCK_INTERFACE with {what}"), stage.instead(pci_tsm, "guest_req", dishonest):
            said = stage.refused(lambda: interface.lock(stage.now()))
        outcome.see(f"{what}: {said or 'locked'}", wanted in said)
        state = stage.state()
        outcome.see(f"{what}: the TDI is in {state.name}", state is InterfaceState.CONFIG_UNLOCKED)
        if interface.phase is not Phase.UNLOCKED:
            interface.unlock(stage.now())
    for what, shift in (("half a page", PAGE_SIZE // 2), ("a page less than the BAR", BAR_SIZE - PAGE_SIZE)):
        dishonest = locking_with(lambda lock, shift=shift: replace(lock, mmio_reporting_offset=shift))  # type: ignore[misc]
        with stage.attack("VMM", f"an offset of {what}"), stage.instead(pci_tsm, "guest_req", dishonest):
            said = stage.refused(lambda: interface.bring_up(stage.guest.verifier, TRUSTED_REGISTERS, stage.now()))
        if shift % PAGE_SIZE:
            outcome.see(f"an offset of {what}: {said or 'accepted'}", "INVALID_REQUEST" in said)
            continue
        outcome.see(f"an offset of {what}: {said or 'accepted, as the TSM tells the TVM which it is'}", not said)
        window = interface.window(0, 0, 4) if not said else None
        read = window.read(0, 4, stage.now()) if window else 0
        outcome.see(f"the TVM reads {read:#x} where the device's identity is", read == MAGIC)
    return outcome


def _any_mask(self: InterfaceCalls, devif: Devif, lock: LockParameters) -> None:
    """Check a lock but for its peer-to-peer mask."""
    _check_lock(self, devif, replace(lock, bind_p2p_address_mask=0))


_check_lock = InterfaceCalls._check_lock


def _no_offset(report: Any, _: int, bars: Any) -> Any:
    return _places(report, 0, bars)


_places = accept.tee_ranges

LOCKING = (
    Scenario(
        45,
        "lock-without-keys",
        "the VMM locks a TDI whose stream is not keyed, or keyed by somebody else",
        "VMM",
        "lock",
        "PCIe Base 11.3.8: the default stream has all keys, from this session, on TC0",
        _lock_without_keys,
        (
            without_lock_checks("keys for all sub-streams", "keys from this session"),
            without_lock_checks("keys from this session"),
            without_lock_checks("default stream on TC0"),
        ),
    ),
    Scenario(
        46,
        "illegal-state",
        "the VMM asks for what the TDI's state forbids",
        "VMM",
        "lock",
        "PCIe Base 11.3.1: legal states of each request",
        _illegal_state,
        (without("the device's table of legal states", Interface, "admit", nothing),),
    ),
    Scenario(
        47,
        "weak-lock",
        "the VMM locks without NO_FW_UPDATE",
        "VMM",
        "lock, accept",
        "PCIe Base 11.3.8: FLAGS; the TVM's policy on the flags that the report echoes",
        _weak_lock,
        (without_rule("lock-flags"),),
    ),
    Scenario(
        47,
        "aliasing-lock",
        "the VMM locks with flags and a peer-to-peer mask of its own, and with an offset that makes one range look like another",
        "VMM",
        "lock, accept",
        "PCIe Base 11.3.8; TDX Connect: NO_FW_UPDATE alone, and TDG.DEVIF.READ tells the MMIO_REPORTING_OFFSET",
        _aliasing_lock,
        (
            without("the TSM's look at the lock's parameters", InterfaceCalls, "_check_lock", nothing),
            without("the TSM's look at the peer-to-peer mask", InterfaceCalls, "_check_lock", _any_mask),
            without("the TVM's subtraction of the offset", accept, "tee_ranges", _no_offset),
        ),
    ),
)
