"""Where the VMM says BARs are and where the report says TEE memory is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from evidence_scene import mmio
from guest.assigned import assert_undone, interface_of
from guest.fake_memory import BAR0, RAM, REPORTING_OFFSET
from guest.fake_world import World
from teeio.abi.operands import PAGE_SIZE
from teeio.accelerator_interface import BAR_SIZE
from teeio.errors import Incompatible, PeerViolation
from teeio.guest.accept import tee_ranges
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.guest.pci import GuestBar
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.tdisp.messages import DeviceInterfaceReport, InterfaceInfo, RangeAttributes


@pytest.mark.parametrize(
    ("bars", "message"),
    [
        ((GuestBar(0, RAM.start, BAR_SIZE, True),), "overlaps the TVM's memory"),
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
