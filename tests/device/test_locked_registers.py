"""Every configuration register of PF and VF against the class that its fields declare, for all that may matter.

`test_tdi` flips each field for the function's own TDI with everything locked and bound; here it is the other function's
TDI, the conditions on which a class depends, and writes that change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from teeio.crypto.entropy import SeededEntropy
from teeio.device.configuration import Configuration
from teeio.device.device import Device
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.pcie.capabilities.ide import IdeCapability
from teeio.pcie.capabilities.page_request import PageRequestCapability
from teeio.pcie.capabilities.power import PowerManagementCapability
from teeio.pcie.capabilities.sriov import SriovCapability
from teeio.pcie.config_space import ConfigSpace
from teeio.pcie.registers import Access, BitField, Block, Locked, Register
from teeio.tdisp.messages import InterfaceState, LockFlags

UNLOCKED, LOCKED, RUN, ERROR = InterfaceState
SOFTWARE = (Access.RW, Access.ACT, Access.RW1C)
SHARED = (ExpressCapability, SriovCapability, IdeCapability, PageRequestCapability)
"""Capabilities of the PF that rule its VFs too (PCIe Base 9.3.5.4, 11.2.6)."""
CONDITIONAL = (Locked.IF_MSIX_LOCKED, Locked.IF_STREAM_BOUND, Locked.IF_STATE_LOST)


class Case(NamedTuple):
    """Fields of one class in one register of one block of a function."""

    block: Block
    register: Register
    at: int
    locked: Locked
    fields: tuple[BitField, ...]

    @property
    def name(self) -> str:
        return f"{self.block.NAME}-{self.register.name}-{self.register.index}-{self.locked.name}"


def blocks(space: ConfigSpace) -> Iterator[tuple[Block, int]]:
    yield space.header, 0
    for block in (*space.capabilities, *space.extended):
        yield block, block.base


def cases(space: ConfigSpace) -> list[Case]:
    found = []
    for block, base in blocks(space):
        for register in block.registers:
            fields = [one for one in register.fields if one.access in SOFTWARE]
            for locked in Locked:
                some = tuple(one for one in fields if one.locked is locked)
                if some:
                    found.append(Case(block, register, base + register.offset, locked, some))
    return found


def of(which: list[Case]) -> Any:
    return pytest.mark.parametrize("case", which, ids=lambda case: case.name)


MODEL = Device(Configuration(address=Bdf(0, 1, 0, 0), streams=2, address_blocks=1), SeededEntropy(b"model"), 1.8e9)
PF_CASES, VF_CASES = cases(MODEL.pfs[0].space), cases(MODEL.vfs[0].space)


def flip(rig: Any, function: Bdf, case: Case) -> None:
    """Change all bits of the case's fields by one configuration write, and no other."""
    kept = rig.fabric.config_read(function, case.at, case.register.size) & ~case.register.mask(Access.RW1C)
    rig.fabric.config_write(function, case.at, case.register.size, kept ^ sum(one.mask for one in case.fields))


@of(PF_CASES)
def test_the_pfs_registers_hit_a_vf_where_they_rule_it(protected: Any, case: Case) -> None:
    vf = protected.bring(protected.vf(1), RUN, LockFlags.LOCK_MSIX)
    flip(protected, protected.address(protected.pf), case)
    ruled = isinstance(case.block, SHARED)
    ends = case.locked in (Locked.ERROR, Locked.ERROR_ON_CLEAR) or (
        case.locked is Locked.IF_STREAM_BOUND and case.register.index == 0
    )
    assert vf.state is (ERROR if ruled and ends else RUN)


@pytest.mark.parametrize("which", ["pf", "vf"])
def test_a_write_that_changes_nothing_breaks_nothing(protected: Any, which: str) -> None:
    tdi = protected.pf if which == "pf" else protected.vf(0)
    function = protected.address(tdi)
    protected.bring(tdi, RUN, LockFlags.LOCK_MSIX)
    for case in PF_CASES if which == "pf" else VF_CASES:
        keep = ~(case.register.mask(Access.RW1C, Access.ACT))
        value = protected.fabric.config_read(function, case.at, case.register.size) & keep
        protected.fabric.config_write(function, case.at, case.register.size, value)
        assert tdi.state is RUN, case.name


@pytest.mark.parametrize("which", ["pf", "vf"])
def test_what_software_cannot_write_it_cannot_break(protected: Any, which: str) -> None:
    """All bits that are read-only, hardware's or reserved, in all registers of the space, one by one."""
    tdi = protected.pf if which == "pf" else protected.vf(0)
    function = protected.address(tdi)
    protected.bring(tdi, RUN, LockFlags.LOCK_MSIX)
    space = tdi.function.space
    for block, base in blocks(space):
        for register in block.registers:
            fixed = ~register.mask(*SOFTWARE) & (1 << 8 * register.size) - 1
            at = base + register.offset
            before = protected.fabric.config_read(function, at, register.size)
            protected.fabric.config_write(
                function, at, register.size, before & ~register.mask(Access.RW1C, Access.ACT) ^ fixed
            )
            assert protected.fabric.config_read(function, at, register.size) == before, f"{block.NAME} {register.name}"
            assert tdi.state is RUN


def conditional() -> Iterator[Any]:
    """Give each such case with its condition met and not; block 0's stream is bound here, block 1's is not."""
    for case in PF_CASES:
        if case.locked is Locked.IF_STREAM_BOUND:
            yield pytest.param(case, case.register.index == 0, id=case.name)
        elif case.locked in CONDITIONAL:
            yield from (pytest.param(case, holds, id=f"{case.name}-{holds}") for holds in (False, True))


@pytest.mark.parametrize(("case", "holds"), list(conditional()))
def test_a_class_with_a_condition_counts_when_it_holds(protected: Any, case: Case, holds: bool) -> None:
    tdi = protected.pf
    if case.locked is Locked.IF_STATE_LOST:
        power = tdi.function.space.need(PowerManagementCapability)
        power.set(power.CONTROL, no_soft_reset=int(not holds))
    msix_locked = holds and case.locked is Locked.IF_MSIX_LOCKED
    protected.bring(tdi, RUN, LockFlags.LOCK_MSIX if msix_locked else LockFlags.NONE)
    flip(protected, protected.address(tdi), case)
    assert tdi.state is (ERROR if holds else RUN)


@pytest.mark.parametrize("state", [UNLOCKED, ERROR], ids=lambda state: state.name)
@of([case for case in VF_CASES if case.locked is not Locked.ALLOWED])
def test_nothing_is_tracked_outside_locked_and_run(protected: Any, case: Case, state: InterfaceState) -> None:
    tdi = protected.bring(protected.vf(0), state, LockFlags.LOCK_MSIX)
    flip(protected, protected.address(tdi), case)
    assert tdi.state is state


def partial(case: Case) -> Iterator[tuple[int, int]]:
    """Give the bytes of a register that hold some of the case's fields."""
    for byte in range(case.register.size):
        mask = sum(one.mask for one in case.fields) >> 8 * byte & 0xFF
        if mask:
            yield byte, mask


@of([case for case in VF_CASES if case.locked is Locked.ERROR])
def test_a_write_of_one_byte_counts(protected: Any, case: Case, make_rig: Callable[..., Any]) -> None:
    for byte, mask in partial(case):
        rig = make_rig().protect()
        tdi = rig.bring(rig.vf(0), LOCKED)
        function = rig.address(tdi)
        held = rig.fabric.config_read(function, case.at + byte, 1)
        rig.fabric.config_write(function, case.at + byte, 1, held ^ mask)
        assert tdi.state is ERROR
