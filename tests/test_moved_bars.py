"""An honest VMM moves BARs between two bindings: the next TVM is served, and nothing of the last one's reaches it."""

from __future__ import annotations

from dataclasses import replace

from teeio.abi.operands import PAGE_SIZE
from teeio.device.configuration import Configuration
from teeio.guest.accept import AssignedInterface
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.vfio import UnitKind
from teeio.pcie.ide_tlp import is_ide
from teeio.pcie.link import Way
from teeio.platform import Guest, Platform
from teeio.tdisp.messages import InterfaceState

PLANTED = b"planted!"


def served(platform: Platform, name: str, vf: PciFunction) -> tuple[Guest, AssignedInterface]:
    """Launch a TVM with a VF and bring the interface up as an honest guest does."""
    guest = platform.launch(name, platform.vmm.vfio.unit(UnitKind.VF, vf.address))
    interface = guest.interface()
    interface.bring_up(guest.verifier, TRUSTED_REGISTERS, platform.now())
    assert platform.device.tdi(vf.address).state is InterfaceState.RUN
    return guest, interface


def move_by_one(platform: Platform, pf: PciFunction) -> None:
    """Take the VFs away and bring them back one BAR further on: the first VF lies where the second one was."""
    count, bar = len(pf.vfs), pf.vf_bars[0]
    platform.vmm.bus.disable_vfs(pf)
    pf.vf_bars[0] = replace(bar, address=bar.address + bar.size)
    pf.write_bars()
    platform.vmm.bus.enable_vfs(pf, count)


def test_the_next_tvm_is_served_at_a_moved_bar_and_held_writes_do_not_reach_it() -> None:
    platform = Platform.assemble(seed=1, configuration=Configuration(vfs=4))
    vmm, link = platform.vmm, platform.link
    (pf,) = vmm.bus.enumerate()
    vmm.bus.enable_vfs(pf, 2)
    vmm.pci_tsm.connect(pf, platform.now())
    first, interface = served(platform, "first", pf.vfs[1])
    there, held = pf.vfs[1].bars[0].address, []

    def hold(frame: bytes, way: Way) -> bytes | None:
        if way is Way.DOWN and is_ide(frame):
            held.append(frame)
            return None
        return frame

    link.tamper = hold
    interface.window(0, PAGE_SIZE, PAGE_SIZE).write(0, 8, int.from_bytes(PLANTED, "little"), platform.now())
    link.tamper = None
    assert held
    platform.shut_down(first)
    move_by_one(platform, pf)
    vf = pf.vfs[0]
    assert vf.bars[0].address == there
    second, _ = served(platform, "second", vf)
    for frame in held:
        link.inject(frame, Way.DOWN)
    model = platform.device.tdi(vf.address).function
    assert model.read(0, PAGE_SIZE, 8) == bytes(8)
    platform.shut_down(second)
    vmm.pci_tsm.disconnect(pf, platform.now())
