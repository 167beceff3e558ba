"""The whole story on real bytes, for every unit of assignment."""

import time
from functools import cache

import pytest

from teeio.abi.operands import PAGE_SIZE
from teeio.errors import Misuse
from teeio.host.vmm.vfio import UnitKind
from teeio.observe import BoundaryCalled, MessageMoved, SecretDerived, TlpMoved
from teeio.platform import Platform, VirtualClock
from teeio.scenarios import Journal, Life, live
from teeio.scenarios.trusted_life import configuration_for, scale_add


@cache
def lived(unit: UnitKind, seed: int = 1) -> tuple[Life, Journal, Platform]:
    """Give a life that is over: tests only look at it."""
    return _live(unit, seed)


def _live(unit: UnitKind, seed: int) -> tuple[Life, Journal, Platform]:
    journal = Journal()
    platform = Platform.assemble(seed=seed, configuration=configuration_for(unit), observer=journal)
    return live(platform, journal, time.thread_time, unit), journal, platform


@pytest.mark.parametrize("unit", UnitKind, ids=lambda unit: unit.name)
def test_every_unit_of_assignment_lives_its_whole_life(unit: UnitKind) -> None:
    life, journal, platform = lived(unit)
    assert life.tdi_states == ["CONFIG_UNLOCKED", "CONFIG_LOCKED", "RUN", "CONFIG_UNLOCKED"]
    assert life.verdict is not None
    assert life.verdict.accepted
    assert life.pages_returned
    assert life.streams_returned
    assert not platform.vmm.kvm.machines
    assert [step.actor for step in journal.steps].count("TVM") == 7


def test_the_trusted_path_copies_and_encrypts_nothing_and_todays_path_everything() -> None:
    life, journal, _ = lived(UnitKind.VF)
    trusted, bounce = life.data_paths
    assert trusted.correct
    assert bounce.correct
    assert trusted.cost.payload == bounce.cost.payload == 2 << 16
    assert (trusted.cost.copies, trusted.cost.bytes_copied, trusted.cost.bytes_encrypted, trusted.cost.exits) == (
        0,
        0,
        0,
        0,
    )
    assert bounce.cost.bytes_encrypted == bounce.cost.bytes_decrypted == 1 << 16
    assert bounce.cost.bytes_copied >= 2 << 16
    steps = {step.title.split(":")[0]: step for step in journal.steps}

    def payload_writes(title: str) -> set[str]:
        events = [
            e for e in steps[title].events if isinstance(e, TlpMoved) and e.source == "device" and e.kind == "MWr"
        ]
        return {event.protection for event in events if event.size > 64}

    assert payload_writes("work on private memory") == {"IDE T=1"}
    assert payload_writes("the same work as today") == {"IDE T=0"}


def test_the_vmm_carries_data_objects_and_sees_no_session_message_in_the_clear() -> None:
    carried: list[bytes] = []
    journal = Journal()
    platform = Platform.assemble(seed=1, observer=journal)
    carry = platform.vmm.bus.host.config_write
    platform.vmm.bus.host.config_write = lambda f, o, s, v: (
        carried.append(v.to_bytes(s, "little")),
        carry(f, o, s, v),
    )[1]  # type: ignore[assignment,func-returns-value,method-assign]
    live(platform, journal)
    keys = [event.value for event in journal.events() if isinstance(event, SecretDerived)]
    assert len(keys) >= 14
    seen = b"".join(carried)
    assert not any(key in seen or key[:16] in seen for key in keys)


def test_the_messages_are_those_of_the_specifications_in_their_order() -> None:
    _, journal, _ = lived(UnitKind.VF)
    asked = [event.name for event in journal.events() if isinstance(event, MessageMoved) and event.source == "TPA"]
    asked = [name for name in asked if name != "VENDOR_DEFINED_REQUEST"]
    assert asked[:9] == [
        "GET_VERSION", "GET_CAPABILITIES", "NEGOTIATE_ALGORITHMS", "GET_DIGESTS", "GET_CERTIFICATE", "CHALLENGE",
        "GET_MEASUREMENTS", "KEY_EXCHANGE", "FINISH",
    ]  # fmt: skip
    assert asked[9:22] == ["QUERY", *["KEY_PROG"] * 6, *["K_SET_GO"] * 6]
    assert asked[22:] == [
        "GET_TDISP_VERSION", "GET_TDISP_CAPABILITIES", "LOCK_INTERFACE_REQUEST", "GET_DEVICE_INTERFACE_REPORT",
        "GET_MEASUREMENTS", "START_INTERFACE_REQUEST", "STOP_INTERFACE_REQUEST", *["K_SET_STOP"] * 6, "END_SESSION",
    ]  # fmt: skip


def test_a_seed_repeats_everything_and_another_seed_nothing_secret() -> None:
    def events(seed: int) -> list[object]:
        return list(_live(UnitKind.VF, seed)[1].events())

    first = list(lived(UnitKind.VF)[1].events())
    assert first == events(1)
    keys, others = ({e.value for e in found if isinstance(e, SecretDerived)} for found in (first, events(6)))
    assert not keys & others


def test_every_call_crosses_a_boundary_that_is_declared() -> None:
    from teeio.abi import CALLS

    _, journal, _ = lived(UnitKind.VF)
    calls = {event.name for event in journal.events() if isinstance(event, BoundaryCalled)}
    assert calls <= set(CALLS)
    assert {"TDH.SPDM.CONNECT", "TDH.IDE.STREAM.KM", "TDG.MMIO.ACCEPT", "TDG.DMAR.ACCEPT", "TDG.TDI.START"} <= calls


def test_a_platform_needs_a_seed_or_a_clock() -> None:
    with pytest.raises(Misuse, match="needs a clock"):
        Platform.assemble()
    assert VirtualClock(5.0)() < VirtualClock(5.0)() + PAGE_SIZE
    platform = Platform.assemble(clock=lambda: 1.8e9)
    assert platform.now() == 1.8e9


def test_the_platform_speaks_for_the_accelerators_arithmetic() -> None:
    assert scale_add((0xFFFF_FFFF).to_bytes(4, "little")) == (0xFFFF_FFFF * 3 + 0x01020304 & 0xFFFF_FFFF).to_bytes(
        4, "little"
    )
