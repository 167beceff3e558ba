"""Attack 48: the VMM moves a BAR of a device that a TVM has accepted.

The move itself completes, as a configuration write does. It takes the TDI out of RUN, so the TVM's private memory and the
device's registers are out of reach for everybody until the TVM has locked and attested anew.
"""

from __future__ import annotations

from teeio.accelerator_interface import Operation
from teeio.guest.cost import CostMeter
from teeio.guest.driver import DeviceLost
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.vfio import UnitKind
from teeio.pcie.capabilities.sriov import VF_BARS_AT, SriovCapability
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.scenario import Outcome, Scenario
from teeio.scenarios.trusted_life import bring_up, connecting, enumerate_device, no_cpu_clock

SECRET = b"weights of a model that nobody else may see " * 64


def _play(platform: Platform, journal: Journal) -> Outcome:
    vmm = platform.vmm
    pf = enumerate_device(platform, journal)
    vf = pf.vfs[0]
    with connecting(platform, journal):
        vmm.pci_tsm.connect(pf, platform.now())
    with journal.step("VMM", "assign VF 0 to a TVM"):
        guest = platform.launch("TVM", vmm.vfio.unit(UnitKind.VF, vf.address))
    interface = bring_up(platform, journal, guest)
    with journal.step("TVM", "work on a secret in private memory"):
        driver, _ = guest.driver(interface.function, CostMeter(no_cpu_clock), interface=interface)
        source, result = guest.tvm.allocate(len(SECRET)), guest.tvm.allocate(len(SECRET))
        source.write(0, SECRET)
        driver.run(Operation.COPY, source.gpa, len(SECRET), result.gpa, platform.now())
    outcome = Outcome(f"moved BAR 0 of the VFs of {pf.address} in the SR-IOV capability while {vf.address} was in RUN")
    with journal.step("VMM", "attack: move BAR 0 of the locked VF"):
        moved = _move_vf_bar(pf)
        outcome.see(f"the configuration write completed: BAR 0 reads back {moved:#x}", moved != vf.bars[0].address)
    with journal.step("TVM", "notice, and stop using the device") as step:
        noticed = "nothing"
        try:
            driver.run(Operation.COPY, source.gpa, 64, result.gpa, platform.now())
        except DeviceLost as lost:
            noticed = str(lost)
        step.note = noticed
        outcome.see(f"the TVM's next job failed: {noticed}", "ERROR" in noticed)
    with journal.step("VMM", "look for the secret in memory and in the device"):
        _look_for_the_secret(platform, moved, outcome)
    outcome.tdi_states = journal.states(f"TDI {vf.address}")
    outcome.see(f"the TDI's states were {' > '.join(outcome.tdi_states)}", outcome.tdi_states[-2:] == ["RUN", "ERROR"])
    return outcome


def _move_vf_bar(pf: PciFunction) -> int:
    """Rewrite BAR 0 of the VFs, as the VMM may; give what it reads back."""
    at = pf.extended[SriovCapability.ID] + VF_BARS_AT
    address = pf.vf_bars[0].address ^ 1 << 32
    pf.config.write(at, 4, address & 0xFFFF_FFFF)
    pf.config.write(at + 4, 4, address >> 32)
    return (pf.config.read(at, 4) & ~0xF) | pf.config.read(at + 4, 4) << 32


def _look_for_the_secret(platform: Platform, moved: int, outcome: Outcome) -> None:
    """Let the VMM look for the secret: in all of memory, and in the device at its new place."""
    memory = platform.vmm.memory.read(0, platform.memory.size)
    outcome.see(f"the secret is nowhere in the {len(memory) >> 20} MiB that the VMM reads", SECRET[:16] not in memory)
    registers = platform.root_complex.vmm.mmio_read(moved, 4)
    outcome.see(f"the VMM's read of the device's registers gives {registers.hex()}", registers == b"\xff" * 4)


BAR_MOVE = Scenario(
    "bar-move",
    "the VMM moves a BAR of a locked device",
    "VMM",
    "PCIe Base 11.2.6: a change to the locked configuration moves the TDI to ERROR",
    _play,
)
