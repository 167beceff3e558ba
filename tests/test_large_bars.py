"""A device with memory behind a BAR of 4 MiB: its private MMIO is mapped and accepted by 2 MiB."""

from __future__ import annotations

import pytest

from large_accelerator import LARGE, LARGE_BAR, REGISTERS, SIZE, TAIL, LargeAccelerator
from teeio.abi import CallRefused
from teeio.abi.operands import PAGE_SIZE, PageLevel
from teeio.abi.statuses import Status
from teeio.device.configuration import Configuration
from teeio.device.models.model import Region
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.secure_ept import SeptState
from teeio.host.vmm import trusted_mappings
from teeio.host.vmm.trusted_mappings import MappedInterface
from teeio.host.vmm.vfio import UnitKind
from teeio.platform import Guest, Platform


class Scene:
    def __init__(self) -> None:
        self.platform = Platform.assemble(seed=5, configuration=Configuration(vfs=2, model=LargeAccelerator))
        vmm = self.platform.vmm
        (self.pf,) = vmm.bus.enumerate()
        self.vf = vmm.bus.enable_vfs(self.pf, 2)[1]
        vmm.pci_tsm.connect(self.pf, self.platform.now())
        self.before = self.platform.memory.accounting()
        unit = vmm.vfio.unit(UnitKind.VF, self.vf.address)
        self.guest: Guest = self.platform.launch("TVM", unit, memory_size=2 << 20)
        self.interface = self.guest.interface()

    def bring_up(self) -> None:
        self.interface.bring_up(self.guest.verifier, TRUSTED_REGISTERS, self.platform.now())

    def mappings(self) -> list[tuple[SeptState, PageLevel, int]]:
        """List what is mapped of the large BAR: state, size, offset in the BAR."""
        sept = self.platform.module.records.tvm(self.guest.machine.tdr).sept
        start = self.vf.bars[LARGE_BAR].address
        found = [(leaf.state, leaf.level, leaf.hpa - start) for _, leaf in sept.leaves()]
        return sorted((one for one in found if 0 <= one[2] < SIZE), key=lambda one: one[2])

    def end(self) -> None:
        self.interface.unlock(self.platform.now())
        assert not self.mappings()
        self.platform.shut_down(self.guest)
        assert self.platform.memory.accounting() == self.before
        assert not self.platform.vmm.pci_tsm.mappings.in_use


def test_mmio_is_mapped_by_2_mib_where_it_can_be() -> None:
    scene = Scene()
    scene.bring_up()
    levels = [level for _, level, _ in scene.mappings()]
    assert levels == [LARGE, *[PageLevel.PAGE_4K] * 512]
    assert {state for state, _, _ in scene.mappings()} == {SeptState.MMIO_MAPPED}
    window = scene.interface.window(LARGE_BAR, 0, SIZE)
    now = scene.platform.now()
    for offset in (0, LARGE.size - 8, LARGE.size, SIZE - TAIL - 8, SIZE - 8):
        window.write(offset, 8, 0x0123_4567_89AB_CDEF ^ offset, now)
    for offset in (0, LARGE.size - 8, LARGE.size, SIZE - TAIL - 8, SIZE - 8):
        assert window.read(offset, 8, now) == 0x0123_4567_89AB_CDEF ^ offset
        address = scene.vf.bars[LARGE_BAR].address + offset
        assert scene.platform.root_complex.vmm.mmio_read(address, 8) == b"\xff" * 8
    scene.end()


def test_the_guest_takes_what_the_vmm_has_mapped_by_4_kib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted_mappings, "_largest", lambda *_: PageLevel.PAGE_4K)
    scene = Scene()
    scene.bring_up()
    assert [level for _, level, _ in scene.mappings()] == [PageLevel.PAGE_4K] * (SIZE // PAGE_SIZE)
    assert scene.interface.window(LARGE_BAR, SIZE - 8, 8).read(0, 8, scene.platform.now()) == 0
    scene.end()


@pytest.mark.parametrize(
    ("gpa_off", "mmio_off", "status"),
    [(0, LARGE.size, Status.MMIO_REPORT_MISMATCH), (SIZE, 0, Status.EPT_WALK_FAILED)],
    ids=["halves exchanged", "elsewhere"],
)
def test_a_large_page_that_is_elsewhere_is_not_accepted(
    gpa_off: int, mmio_off: int, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The VMM maps the right pages of the right interface, but not where the report says."""
    monkeypatch.setattr(LargeAccelerator, "regions", (*REGISTERS, Region("large", LARGE_BAR, 0, SIZE)))
    scene = Scene()
    mappings, bar = scene.platform.vmm.pci_tsm.mappings, scene.vf.bars[LARGE_BAR].address
    honest = mappings.map_mmio

    def lying(mapped: MappedInterface, gpa: int, mmio: int, size: int) -> None:
        if mmio != bar:
            honest(mapped, gpa, mmio, size)
            return
        for half in (0, LARGE.size):
            honest(mapped, gpa + gpa_off + half, bar + (half ^ mmio_off), LARGE.size)

    monkeypatch.setattr(mappings, "map_mmio", lying)
    with pytest.raises(CallRefused) as raised:
        scene.bring_up()
    assert raised.value.status is status
    scene.platform.shut_down(scene.guest)
    assert scene.platform.memory.accounting() == scene.before
