"""What moves a locked TDI to ERROR, and what locking needs of real registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from teeio.accelerator_interface import AcceleratorInformation
from teeio.crypto.entropy import SeededEntropy
from teeio.device.configuration import Configuration
from teeio.device.device import Device
from teeio.device.models.accelerator import Accelerator
from teeio.device.tdi import Tdi
from teeio.errors import Reject
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.ats import AtsCapability
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.pcie.capabilities.header import CommonHeader
from teeio.pcie.capabilities.msix import MsixCapability
from teeio.pcie.capabilities.power import PowerManagementCapability
from teeio.pcie.capabilities.sriov import SriovCapability
from teeio.pcie.config_space import ConfigSpace
from teeio.pcie.registers import Access as FieldAccess
from teeio.pcie.registers import BitField, Block, Locked, Register
from teeio.pcie.seams import ResetKind
from teeio.tdisp.messages import (
    PAGE_SIZE,
    ErrorCode,
    InterfaceInfo,
    InterfaceState,
    LockFlags,
    LockParameters,
    RangeAttributes,
)
from teeio.tdisp.states import Event

UNLOCKED, LOCKED, RUN, ERROR = InterfaceState
MSIX = LockFlags.NO_FW_UPDATE | LockFlags.LOCK_MSIX
PF, ROOT = Bdf(0, 1, 0, 0), Bdf(0, 0, 1, 0)
SESSION, STREAM, MMIO, VF_MMIO = 0x11, 5, 0x10_0000_0000, 0x10_1000_0000

MODEL = Device(Configuration(address=PF, streams=2, address_blocks=1), SeededEntropy(b"model"), 1.8e9)
"""A device to read the register declarations from."""


def base_of(space: ConfigSpace, block: Block) -> int:
    return 0 if block is space.header else block.base  # type: ignore[attr-defined,no-any-return]


def writable(space: ConfigSpace) -> list[Any]:
    """Give a case for every field that software can write, those of a register that a locked TDI allows in one case."""
    kinds = (FieldAccess.RW, FieldAccess.ACT, FieldAccess.RW1C)
    cases = []
    for block in (space.header, *space.capabilities, *space.extended):
        for register in block.registers:
            fields = [one for one in register.fields if one.access in kinds]
            allowed = [one for one in fields if one.locked is Locked.ALLOWED]
            at, name = base_of(space, block) + register.offset, f"{block.NAME}-{register.name}-{register.index}"
            if allowed:
                cases.append(pytest.param(allowed, register, at, id=f"{name}-allowed"))
            cases += [
                pytest.param([one], register, at, id=f"{name}-{one.name}") for one in fields if one not in allowed
            ]
    return cases


def flip(rig: Any, function: Bdf, at: int, register: Register, fields: list[BitField]) -> None:
    """Change all bits of some fields, and nothing else, by a configuration write."""
    value = rig.fabric.config_read(function, at, register.size) & ~register.mask(FieldAccess.RW1C)
    rig.fabric.config_write(function, at, register.size, value ^ sum(one.mask for one in fields))


def expected(fields: list[BitField], register: Register, state: InterfaceState) -> InterfaceState:
    """Give the state that the declaration asks for, with MSI-X locked, stream block 0 bound, No_Soft_Reset set."""
    disturbing = {
        Locked.ERROR: True,
        Locked.ERROR_ON_CLEAR: True,
        Locked.IF_MSIX_LOCKED: True,
        Locked.IF_STREAM_BOUND: register.index == 0,
        Locked.IF_STATE_LOST: False,
        Locked.ALLOWED: False,
    }
    return ERROR if any(disturbing[one.locked] for one in fields) else state


@pytest.mark.parametrize(("fields", "register", "at"), writable(MODEL.pfs[0].space))
def test_each_field_of_the_pf_does_what_its_class_says(
    protected: Any, fields: list[BitField], register: Register, at: int
) -> None:
    tdi = protected.bring(protected.pf, RUN, MSIX)
    flip(protected, PF, at, register, fields)
    assert tdi.state is expected(fields, register, RUN)


@pytest.mark.parametrize(("fields", "register", "at"), writable(MODEL.vfs[0].space))
def test_each_field_of_a_vf_does_what_its_class_says(
    protected: Any, fields: list[BitField], register: Register, at: int
) -> None:
    tdi, other = protected.bring(protected.vf(0), LOCKED, MSIX), protected.bring(protected.vf(1), RUN, MSIX)
    flip(protected, protected.address(tdi), at, register, fields)
    assert tdi.state is expected(fields, register, LOCKED)
    assert other.state is RUN


EXPRESS, SRIOV, COMMAND = ExpressCapability, SriovCapability, CommonHeader.COMMAND
BY_HAND = [
    # PCIe Base table 11-2, written down a second time: block, register, fields to set, hit the PF, hit its VFs.
    (CommonHeader, COMMAND, {"memory_space": 0}, True, False),
    (CommonHeader, COMMAND, {"bus_master": 0}, True, False),
    (CommonHeader, COMMAND, {"interrupt_disable": 1}, False, False),
    (CommonHeader, CommonHeader.INTERRUPT_LINE, {"line": 9}, False, False),
    (CommonHeader, CommonHeader.CACHE_LINE_SIZE, {"size": 16}, False, False),
    (EXPRESS, EXPRESS.DEVICE_CONTROL, {"extended_tag": 0}, True, True),
    (EXPRESS, EXPRESS.DEVICE_CONTROL, {"phantom_functions": 1}, True, True),
    (EXPRESS, EXPRESS.DEVICE_CONTROL, {"no_snoop": 0}, True, True),
    (EXPRESS, EXPRESS.DEVICE_CONTROL, {"initiate_flr": 1}, True, True),
    (EXPRESS, EXPRESS.DEVICE_CONTROL, {"relaxed_ordering": 0}, False, False),
    (EXPRESS, EXPRESS.DEVICE_CONTROL_2, {"ten_bit_tag": 1}, True, True),
    (EXPRESS, EXPRESS.DEVICE_CONTROL_2, {"completion_timeout": 2}, False, False),
    (EXPRESS, EXPRESS.LINK_CONTROL, {"aspm": 1}, False, False),
    (PowerManagementCapability, PowerManagementCapability.CONTROL, {"power_state": 3}, False, False),
    (MsixCapability, MsixCapability.CONTROL, {"enable": 1}, True, False),
    (AtsCapability, AtsCapability.CONTROL, {"enable": 1}, False, False),
    (SRIOV, SRIOV.CONTROL, {"vf_enable": 0}, True, True),
    (SRIOV, SRIOV.CONTROL, {"vf_memory_space": 0}, True, True),
    (SRIOV, SRIOV.NUM_VFS, {"count": 1}, True, True),
    (SRIOV, SRIOV.SYSTEM_PAGE_SIZE, {"size": 2}, True, True),
]


@pytest.mark.parametrize("state", [LOCKED, RUN], ids=lambda state: state.name)
@pytest.mark.parametrize(
    ("block", "register", "fields", "pf_hit", "vf_hit"), BY_HAND, ids=lambda item: getattr(item, "name", None)
)
def test_a_write_to_the_pf_hits_whom_it_concerns(
    protected: Any,
    block: type[Block],
    register: Register,
    fields: dict[str, int],
    pf_hit: bool,
    vf_hit: bool,
    state: InterfaceState,
) -> None:
    pf, vf = protected.bring(protected.pf, state, MSIX), protected.bring(protected.vf(1), state)
    space = protected.device.pfs[0].space
    at = base_of(space, space.need(block)) + register.offset
    value = register.put(space.read(at, register.size), **fields)
    protected.fabric.config_write(PF, at, register.size, value)
    assert (pf.state, vf.state) == (ERROR if pf_hit else state, ERROR if vf_hit else state)


def test_a_locked_write_takes_effect_all_the_same(protected: Any) -> None:
    protected.bring(protected.pf, RUN)
    protected.fabric.config_write(PF, 0x10, 4, 0x20_0000)
    assert protected.fabric.config_read(PF, 0x10, 4) & ~0xF == 0x20_0000
    assert protected.causes()[-1] == Event.CONFIG_CHANGED.value


def test_writing_the_same_value_again_changes_nothing(protected: Any) -> None:
    tdi = protected.bring(protected.pf, RUN, MSIX)
    for at in (0x10, 0x14, tdi.function.sriov.base + 8, tdi.function.msix.base):
        protected.fabric.config_write(PF, at, 4, protected.fabric.config_read(PF, at, 4))
    assert tdi.state is RUN


def test_msix_changes_matter_only_when_msix_is_locked(protected: Any) -> None:
    tdi = protected.bring(protected.pf, RUN)
    msix = tdi.function.msix
    protected.fabric.config_write(PF, msix.base + 2, 2, msix.CONTROL.put(msix.value(msix.CONTROL), enable=1))
    assert tdi.state is RUN


def test_clearing_enable_of_the_bound_stream_hits_every_tdi_bound_to_it(protected: Any) -> None:
    tdis = [protected.bring(protected.pf, LOCKED), protected.bring(protected.vf(0), RUN)]
    control = protected.block.control
    at = protected.device.streams.base + control.offset
    protected.fabric.config_write(PF, at, 4, control.put(protected.device.streams.value(control), enable=0))
    assert [tdi.state for tdi in tdis] == [ERROR, ERROR]
    assert set(protected.causes()) >= {Event.STREAM_INSECURE.value}


def test_a_stream_that_nobody_is_bound_to_does_not_matter(protected: Any) -> None:
    tdi = protected.bring(protected.pf, RUN)
    other = protected.device.streams.streams[1].control
    at = protected.device.streams.base + other.offset
    protected.fabric.config_write(PF, at, 4, other.put(0, stream_id=9, enable=1))
    assert tdi.state is RUN


def test_changes_before_enable_of_a_locked_stream_count_too(rig: Any) -> None:
    rig.associate()
    rig.key()
    tdi = rig.bring(rig.pf, LOCKED)
    limit, _ = rig.block.rid
    rig.fabric.config_write(PF, rig.device.streams.base + limit.offset, 4, 0)
    assert tdi.state is ERROR
    assert rig.causes()[-1] == Event.CONFIG_CHANGED.value


def test_a_bound_stream_may_not_change_its_name(rig: Any) -> None:
    rig.associate()
    rig.key()
    tdi = rig.bring(rig.pf, LOCKED)
    control = rig.block.control
    rig.fabric.config_write(
        PF, rig.device.streams.base + control.offset, 4, control.put(0, default=1, stream_id=STREAM + 1)
    )
    assert tdi.state is ERROR


def test_the_end_of_the_session_is_the_end_of_trust(protected: Any) -> None:
    tdi = protected.bring(protected.vf(2), RUN)
    for protocol in protected.device.dsm.protocols:
        protocol.session_ended(SESSION)
    assert tdi.state is ERROR
    assert protected.causes()[-1] == Event.SESSION_ENDED.value
    assert not protected.device.port.ide.keyed(STREAM)


def test_an_ide_fail_from_the_partner_hits_the_tdi(protected: Any) -> None:
    tdi = protected.bring(protected.pf, RUN)
    protected.root.ide.make_insecure(STREAM)
    assert tdi.state is ERROR


def test_link_down_hits_the_tdi(protected: Any) -> None:
    tdi = protected.bring(protected.pf, RUN)
    protected.link.fail()
    assert tdi.state is ERROR


def test_another_bus_number_hits_locked_tdis_and_moves_the_interfaces(protected: Any) -> None:
    tdi = protected.bring(protected.vf(0), RUN)
    protected.device.renumber(7)
    assert tdi.state is ERROR
    assert protected.causes()[-1] == Event.RID_CHANGED.value
    assert protected.device.port.function == Bdf(0, 7, 0, 0)
    assert 0x0708 in protected.device.hosted()
    assert 0x0108 not in protected.device.hosted()


def test_debug_hits_every_locked_tdi_and_shows_in_the_measurement(protected: Any) -> None:
    from teeio.attestation.device_mode import DEBUGGED, DeviceMode

    def state() -> int:
        measured = {item.index: item.content for item in protected.device.measurements.measured}
        return int(DeviceMode.decode(measured[0xFE]).debug_state)

    tdi = protected.bring(protected.pf, RUN)
    assert not state() & DEBUGGED
    protected.device.set_debug(True)
    assert tdi.state is ERROR
    assert not protected.device.port.ide.is_secure(STREAM)
    protected.device.set_debug(False)
    assert state() & DEBUGGED
    protected.device.reset(ResetKind.CONVENTIONAL)
    assert not state() & DEBUGGED
    assert state()


# -- what locking needs


def locking(rig: Any, tdi: Tdi, **parameters: Any) -> tuple[ErrorCode, str] | None:
    """Try to lock; give error code and reason of the refusal."""
    try:
        rig.lock(tdi, **parameters)
    except Reject as refusal:
        assert tdi.state is UNLOCKED
        return ErrorCode(refusal.code), refusal.clause
    assert tdi.state is LOCKED
    return None


def test_a_protected_function_can_be_locked(protected: Any) -> None:
    assert locking(protected, protected.pf) is None
    assert locking(protected, protected.vf(3)) is None


def test_keys_are_enough_to_lock_though_the_stream_is_not_enabled(rig: Any) -> None:
    rig.associate()
    rig.key()
    assert locking(rig, rig.pf) is None


@pytest.mark.parametrize("number", [0, 2, 4])
def test_overlapping_bars_of_the_function_are_refused(protected: Any, number: int) -> None:
    header = protected.pf.function.header
    taken = 2 if number == 0 else 0
    header.place(number, protected.bar(protected.pf, taken))
    code, why = locking(protected, protected.pf) or pytest.fail("locked")
    assert code is ErrorCode.INVALID_DEVICE_CONFIGURATION
    assert "overlaps BAR" in why


@pytest.mark.parametrize("which", ["pf", "vf"])
def test_a_bar_over_that_of_another_function_is_refused(protected: Any, which: str) -> None:
    tdi = protected.pf if which == "pf" else protected.vf(1)
    protected.pf.function.header.place(0, protected.bar(protected.vf(1), 0))
    code, why = locking(protected, tdi) or pytest.fail("locked")
    assert code is ErrorCode.INVALID_DEVICE_CONFIGURATION
    assert "another function" in why


def test_vf_bars_that_overlap_each_other_are_refused(protected: Any) -> None:
    sriov = protected.device.pfs[0].sriov
    sriov.place(4, protected.bar(protected.vf(0), 2))
    assert (locking(protected, protected.vf(0)) or pytest.fail("locked"))[0] is ErrorCode.INVALID_DEVICE_CONFIGURATION


def test_a_bar_without_an_address_is_refused(protected: Any) -> None:
    protected.pf.function.header.place(4, 0)
    assert "no address" in (locking(protected, protected.pf) or pytest.fail("locked"))[1]


@pytest.mark.parametrize("which", ["pf", "vf"])
def test_phantom_functions_are_refused(protected: Any, which: str) -> None:
    protected.pf.function.express.set(ExpressCapability.DEVICE_CONTROL, phantom_functions=1)
    tdi = protected.pf if which == "pf" else protected.vf(0)
    assert "phantom" in (locking(protected, tdi) or pytest.fail("locked"))[1]


@pytest.mark.parametrize("size", [0, 2, 3, 4, 1 << 31])
def test_a_bad_system_page_size_is_refused(protected: Any, size: int) -> None:
    sriov = protected.device.pfs[0].sriov
    sriov.set(sriov.SYSTEM_PAGE_SIZE, size=size)
    for tdi in (protected.pf, protected.vf(0)):
        assert "age" in (locking(protected, tdi) or pytest.fail("locked"))[1]


def test_a_sleeping_function_without_context_is_refused(protected: Any) -> None:
    power = protected.pf.function.space.need(PowerManagementCapability)
    power.set(power.CONTROL, power_state=3, no_soft_reset=0)
    assert "power state" in (locking(protected, protected.pf) or pytest.fail("locked"))[1]


STREAM_PROBLEMS: dict[str, Callable[[Any], None]] = {
    "no keys": lambda rig: rig.device.port.ide.erase_keys(),
    "not default": lambda rig: _control(rig, default=0),
    "other traffic class": lambda rig: _control(rig, traffic_class=1),
    "other Stream ID": lambda rig: _control(rig, stream_id=6),
    "two defaults": lambda rig: rig.device.streams.write(
        (other := rig.device.streams.streams[1].control).offset, 4, other.put(0, default=1, stream_id=8)
    ),
}


def _control(rig: Any, **fields: int) -> None:
    control = rig.block.control
    rig.device.streams.write(control.offset, 4, control.put(rig.device.streams.value(control), **fields))


@pytest.mark.parametrize("problem", STREAM_PROBLEMS)
def test_a_default_stream_that_is_not_ready_is_refused(rig: Any, problem: str) -> None:
    rig.associate()
    rig.key()
    STREAM_PROBLEMS[problem](rig)
    assert (locking(rig, rig.pf) or pytest.fail("locked"))[0] is ErrorCode.INVALID_REQUEST


def test_keys_of_another_session_are_refused(rig: Any) -> None:
    rig.associate()
    rig.key(session=0x99)
    code, why = locking(rig, rig.pf) or pytest.fail("locked")
    assert code is ErrorCode.INVALID_REQUEST
    assert "another SPDM session" in why


def test_unused_blocks_do_not_count_as_streams_with_the_same_id(rig: Any) -> None:
    from teeio.device.profiles import associate_default_stream

    associate_default_stream(rig.device, 0, ROOT)
    status = rig.pf.stream_status(0)
    assert (status.blocks, status.default, status.overlaps) == (1, True, False)
    limit, base = rig.device.streams.streams[1].rid
    rig.device.streams.write(limit.offset, 4, limit.put(0, limit=ROOT.requester_id))
    rig.device.streams.write(base.offset, 4, base.put(0, base=0, valid=1))
    assert (rig.pf.stream_status(0).blocks, rig.pf.stream_status(0).overlaps) == (2, True)


# -- the report


@pytest.mark.parametrize("which", ["pf", "vf"])
def test_the_report_follows_the_bars(protected: Any, which: str) -> None:
    tdi = protected.pf if which == "pf" else protected.vf(2)
    protected.bring(tdi, LOCKED)
    report = tdi.interface.report(SESSION)
    assert [
        (r.range_id, r.first_page * PAGE_SIZE - protected.bar(tdi, r.range_id), r.pages) for r in report.ranges
    ] == [
        (0, 0, 1),
        (0, PAGE_SIZE, 15),
        (2, 0, 1),
        (2, PAGE_SIZE, 1),
        (4, 0, 1),
    ]
    attributes = RangeAttributes
    assert [r.attributes for r in report.ranges] == [
        attributes.NONE,
        attributes.IS_MEM_ATTR_UPDATABLE,
        attributes.IS_NON_TEE_MEM,
        attributes.IS_NON_TEE_MEM,
        attributes.IS_NON_TEE_MEM,
    ]
    assert report.info == InterfaceInfo.NO_FW_UPDATE_WHILE_LOCKED | InterfaceInfo.DMA_WITHOUT_PASID
    assert report.msi_x_message_control == 0
    assert AcceleratorInformation.decode(report.device_specific).vectors == Accelerator.vectors


def test_the_report_names_a_locked_msix_table(protected: Any) -> None:
    protected.pf.function.msix.set(MsixCapability.CONTROL, enable=1)
    protected.lock(protected.pf, MSIX, mmio_reporting_offset=-0x10_0000_0000)
    report = protected.pf.interface.report(SESSION)
    assert [r.attributes for r in report.ranges if r.range_id == 2] == [
        RangeAttributes.MSIX_TABLE,
        RangeAttributes.MSIX_PBA,
    ]
    assert report.msi_x_message_control == 0x8003
    assert report.ranges[0].first_page == (protected.bar(protected.pf, 0) - MMIO) // PAGE_SIZE


def test_ats_shows_in_the_report(protected: Any) -> None:
    ats = protected.pf.function.space.need(AtsCapability)
    ats.set(ats.CONTROL, enable=1)
    assert protected.pf.report(LockParameters()).info & InterfaceInfo.ATS_ENABLED


def test_the_state_of_a_stream_comes_from_registers_and_keys(protected: Any) -> None:
    status = protected.pf.stream_status(STREAM)
    assert (status.secure, status.keys_set, status.key_session, status.traffic_class) == (True, True, SESSION, 0)
    assert protected.pf.stream_status(77) is None
