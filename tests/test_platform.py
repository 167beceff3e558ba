"""The assembled platform, where no scenario says it already."""

import pytest

from teeio.abi.operands import PAGE_SIZE, PageLevel
from teeio.accelerator_interface import Operation
from teeio.device.configuration import Configuration
from teeio.errors import Misuse
from teeio.guest.cost import CostMeter
from teeio.guest.dma import BounceDma
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.vmm.vfio import UnitKind
from teeio.platform import Platform


@pytest.mark.parametrize("huge_pages", [False, True])
def test_a_tvm_lives_on_pages_of_either_size_and_gives_all_back(huge_pages: bool) -> None:
    platform = Platform.assemble(seed=1)
    vmm = platform.vmm
    (pf,) = vmm.bus.enumerate()
    (vf, *_) = vmm.bus.enable_vfs(pf, 1)
    vmm.pci_tsm.connect(pf, platform.now())
    before = platform.memory.accounting()
    unit = vmm.vfio.unit(UnitKind.VF, vf.address)
    guest = platform.launch("TVM", unit, memory_size=6 << 20, huge_pages=huge_pages)
    levels = list(guest.machine.private.values())
    assert levels.count(PageLevel.PAGE_2M) == (2 if huge_pages else 0)
    assert sum(level.size for level in levels) == 6 << 20
    region = guest.tvm.allocate(5 << 20)
    region.write(PAGE_SIZE - 2, b"across pages")
    assert region.read(PAGE_SIZE - 2, 12) == b"across pages"
    interface = guest.interface()
    assert interface.bring_up(guest.verifier, TRUSTED_REGISTERS, platform.now()).accepted
    interface.unlock(platform.now())
    platform.shut_down(guest)
    assert platform.memory.accounting() == before


def test_units_are_found_by_kind_and_address() -> None:
    platform = Platform.assemble(seed=1)
    bus, vfio = platform.vmm.bus, platform.vmm.vfio
    (pf,) = bus.enumerate()
    assert {unit.kind for unit in vfio.units()} == {UnitKind.PF, UnitKind.DEVICE}
    vfs = bus.enable_vfs(pf, 3)
    assert [(unit.kind, unit.function) for unit in vfio.units()] == [
        (UnitKind.PF, pf),
        *((UnitKind.VF, vf) for vf in vfs),
    ]
    assert vfio.unit(UnitKind.VF, vfs[2].address).function is vfs[2]


def test_bounce_buffers_split_the_large_pages_that_they_lie_in() -> None:
    """A TVM on 2 MiB pages uses a function as today: what it shares is split off, the rest keeps its contents."""
    platform = Platform.assemble(seed=1)
    vmm, now = platform.vmm, platform.now
    (pf,) = vmm.bus.enumerate()
    (vf,) = vmm.bus.enable_vfs(pf, 1)
    before = platform.memory.accounting()
    unit = vmm.vfio.unit(UnitKind.VF, vf.address)
    guest = platform.launch("TVM", unit, memory_size=6 << 20, huge_pages=True)
    source, result = guest.tvm.allocate(3 << 19), guest.tvm.allocate(3 << 19)
    source.write(0, b"kept" * (3 << 17))
    large = [gpa for gpa, level in guest.machine.private.items() if level is PageLevel.PAGE_2M]
    driver, dma = guest.driver(guest.functions()[0], CostMeter(lambda: 0.0))
    assert isinstance(dma, BounceDma)
    left = [gpa for gpa, level in guest.machine.private.items() if level is PageLevel.PAGE_2M]
    assert set(left) < set(large)
    driver.run(Operation.COPY, source.gpa, source.size, result.gpa, now())
    assert result.read(0, result.size) == b"kept" * (3 << 17)
    driver.remove(now())
    dma.close(now())
    platform.shut_down(guest)
    assert platform.memory.accounting() == before


def test_devices_have_serial_numbers_of_their_own() -> None:
    """A verifier knows a device by it: with one number for two, the second would pass for the first."""
    with pytest.raises(Misuse, match="two devices have the serial number '000001'"):
        Platform.assemble(seed=1, others=[Configuration()])
    with pytest.raises(Misuse, match=r"'000001\.1'"):
        Platform.assemble(seed=1, others=[Configuration().another(1), Configuration().another(1)])
    assert len(Platform.assemble(seed=1, others=[Configuration().another(1)]).devices) == 2
