"""The trusted life of a VF by nothing but sysfs: what host and TVM show before and after each write.

Where Linux does something by other ways than sysfs - assigning a function, reading evidence, binding a driver - the tour says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from teeio.errors import Misuse
from teeio.guest.cost import CostMeter
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.guest.sysfs import GuestSysfs
from teeio.host.vmm.sysfs import HostSysfs
from teeio.host.vmm.vfio import UnitKind
from teeio.platform import Platform
from teeio.scenarios.trusted_life import no_cpu_clock
from teeio.sysfs import Sysfs, SysfsError

HOST, GUEST = "VMM", "TVM"
VFS = 2


@dataclass(frozen=True, slots=True)
class Change:
    """What a step did to one path of one side's tree; None where it is not there."""

    side: str
    path: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class TourStep:
    """One write, or something else that was done; `error` is the errno's name if it failed, as `expected` or not."""

    side: str
    command: str
    error: str
    expected: str
    changes: tuple[Change, ...]

    @property
    def went_well(self) -> bool:
        """Whether it ended as it must."""
        return self.error == self.expected


@dataclass(slots=True)
class Tour:
    """The host's tree at the beginning and at the end, and the steps between."""

    before: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    steps: list[TourStep] = field(default_factory=list)

    @property
    def went_well(self) -> bool:
        """Whether every step ended as it must, and nothing is left."""
        return all(step.went_well for step in self.steps) and self.before == self.after

    def as_dict(self) -> dict[str, Any]:
        """Give the tour for JSON."""
        return asdict(self) | {"went_well": self.went_well}


class _Guide:
    """Takes the steps and looks what each has changed."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.trees: dict[str, Sysfs] = {HOST: HostSysfs(platform.vmm)}
        self.tour = Tour(before=self.trees[HOST].snapshot())
        self._seen = self._look()

    def _look(self) -> dict[tuple[str, str], str]:
        return {(side, path): text for side, tree in self.trees.items() for path, text in tree.snapshot().items()}

    def write(self, side: str, path: str, text: str, expected: str = "") -> None:
        """Write an attribute."""
        self.do(
            side, f"echo {text} > {path}", lambda: self.trees[side].write(path, text, self.platform.now()), expected
        )

    def do(self, side: str, command: str, done: Callable[[], object], expected: str = "") -> None:
        """Do anything, and note what it has changed."""
        error = ""
        try:
            done()
        except SysfsError as failure:
            error = failure.name
        before, after = self._seen, self._look()
        self._seen = after
        changes = tuple(
            Change(*key, before.get(key), after.get(key))
            for key in sorted(before.keys() | after.keys())
            if before.get(key) != after.get(key)
        )
        self.tour.steps.append(TourStep(side, command, error, expected, changes))


def tour(platform: Platform) -> Tour:
    """Take the tour on a fresh platform."""
    vmm = platform.vmm
    pf = vmm.bus.enumerate()[0]
    guide = _Guide(platform)
    device = f"/sys/bus/pci/devices/{pf.address}"
    guide.write(HOST, f"{device}/sriov_numvfs", str(VFS))
    guide.write(HOST, f"{device}/tsm/connect", "tsm0")
    guide.write(HOST, f"{device}/tsm/connect", "tsm0", expected="EBUSY")
    vf = pf.vfs[0]
    guest = platform.launch("TVM", memory_size=2 << 20)
    guide.do(
        HOST,
        f"VFIO: assign {vf.address} to a TVM",
        lambda: vmm.kvm.assign(guest.machine, vmm.vfio.unit(UnitKind.VF, vf.address)),
    )
    inside = GuestSysfs(guest.tvm, guest.functions())
    guide.do(GUEST, "enumerate", lambda: guide.trees.update({GUEST: inside}))
    ((address, interface),) = inside.interfaces.items()
    function = f"/sys/bus/pci/devices/{address}/tsm"
    guide.write(GUEST, f"{function}/lock", "tsm0")
    guide.write(GUEST, f"{function}/accept", "1", expected="EPERM")
    verify = guest.verifier
    guide.do(
        GUEST,
        "user space: read the evidence and judge it",
        lambda: inside.appraise(address, verify, TRUSTED_REGISTERS, platform.now()),
    )
    guide.write(GUEST, f"{function}/accept", "1")
    if interface.verdict is None or not interface.verdict.accepted:
        raise Misuse("the device was not accepted", remedy="see its verdict: teeio run")
    driver, dma = guest.driver(interface.function, CostMeter(no_cpu_clock), interface=interface)
    guide.do(GUEST, f"driver {interface.driver} is bound", lambda: None)
    guide.write(GUEST, f"{function}/unlock", "tsm0", expected="EBUSY")
    guide.do(GUEST, "the driver is taken off", lambda: driver.remove(platform.now()))
    dma.close(platform.now())
    guide.write(GUEST, f"{function}/unlock", "tsm0")
    del guide.trees[GUEST]
    guide.do(HOST, "end the TVM", lambda: platform.shut_down(guest))
    guide.write(HOST, f"{device}/tsm/disconnect", "tsm1", expected="EINVAL")
    guide.write(HOST, f"{device}/tsm/disconnect", "tsm0")
    guide.write(HOST, f"{device}/sriov_numvfs", "0")
    guide.tour.after = guide.trees[HOST].snapshot()
    return guide.tour
