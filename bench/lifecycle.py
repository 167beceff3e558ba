"""What a whole life of one VF costs on a device that is connected: assign, lock, attest, accept, run, stop, take back.

    PYTHONPATH=src python bench/lifecycle.py [--json] [--scale 1,16,64,256]

The life is measured with memory in 4 KiB pages and in 2 MiB pages. With --scale so many TDIs go through it together, up to 16 in a
TVM and one in a TVM, each case in a process of its own: CPU time and resident memory of each should not grow with their number.
"""

from __future__ import annotations

import resource
import time
from multiprocessing import get_context
from pathlib import Path

from figures import Figures, cpu, options

from teeio.crypto.algorithms import BaseAsym, BaseHash
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import SigningKey
from teeio.device.configuration import Configuration
from teeio.guest.accept import AssignedInterface
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.vfio import UnitKind
from teeio.platform import Platform

VFS = 4
TDIS_OF_A_TVM = 16
SMALL_TVM = 512 << 10
"""Bytes of a TVM where there are many."""


def enumerated(vfs: int = VFS) -> tuple[Platform, PciFunction]:
    """Power a platform on and let the VMM find the device."""
    platform = Platform.assemble(seed=1, configuration=Configuration(vfs=vfs))
    (pf,) = platform.vmm.bus.enumerate()
    platform.vmm.bus.enable_vfs(pf, vfs)
    return platform, pf


def life(platform: Platform, pf: PciFunction, *, huge_pages: bool = False) -> dict[str, float]:
    """Take the first VF through its life; give the CPU seconds of each part."""
    spent: dict[str, float] = {}

    def lap(name: str) -> None:
        nonlocal last
        now = time.process_time()
        spent[name] = now - last
        last = now

    last = time.process_time()
    unit = platform.vmm.vfio.unit(UnitKind.VF, pf.vfs[0].address)
    guest = platform.launch("TVM", unit, huge_pages=huge_pages)
    lap("launch and assign")
    interface = guest.interface()
    interface.lock(platform.now())
    lap("enumerate and lock")
    verdict = interface.attest(guest.verifier, TRUSTED_REGISTERS, platform.now())
    if not verdict.accepted:
        raise SystemExit("the device was not accepted")
    lap("attest")
    interface.accept(platform.now())
    lap("accept and start")
    interface.unlock(platform.now())
    platform.shut_down(guest)
    lap("stop and take back")
    return spent


def together(tdis: int, tvms: int) -> tuple[float, float]:
    """Take many TDIs of one device through their lives, all in RUN at once; give CPU seconds and bytes of memory of each."""
    platform, pf = enumerated(tdis)
    vmm, kvm = platform.vmm, platform.vmm.kvm
    vmm.pci_tsm.connect(pf, platform.now())
    life(platform, pf)  # codecs are compiled on first use
    each = -(-tdis // tvms)
    memory, begun = resident(), time.process_time()
    guests, interfaces = [], []
    for number in range(0, tdis, each):
        first, *others = [vmm.vfio.unit(UnitKind.VF, vf.address) for vf in pf.vfs[number : number + each]]
        guest = platform.launch(f"TVM {number}", first, memory_size=SMALL_TVM)
        guests.append(guest)
        for unit in others:
            kvm.assign(guest.machine, unit)
        for function in guest.functions():
            interface = AssignedInterface(guest.tvm, function)
            interface.bring_up(guest.verifier, TRUSTED_REGISTERS, platform.now())
            interfaces.append(interface)
    memory = resident() - memory
    for interface in interfaces:
        interface.unlock(platform.now())
    for guest in guests:
        platform.shut_down(guest)
    return (time.process_time() - begun) / tdis, memory / tdis


def resident() -> int:
    """Give the memory that this process has now, in bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def scale(figures: Figures, counts: list[int]) -> None:
    """Compare many TDIs with few, for each in its own TVM and for many in one."""
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name, share, most in (("16 a TVM", TDIS_OF_A_TVM, 256), ("1 a TVM", 1, 64)):
            first = None
            for tdis in (count for count in counts if count <= most):
                cpu_seconds, memory = pool.apply(together, (tdis, -(-tdis // share)))
                figures.measure(f"{tdis} TDIs, {name}: each", cpu_seconds * 1e3, "ms of CPU")
                figures.measure(f"{tdis} TDIs, {name}: memory of each", memory / 1024, "KiB")
                if first is not None:
                    figures.ratio(
                        f"life of each of {tdis} TDIs, {name}, to {first[0]}", cpu_seconds / first[1], "at most 1.5"
                    )
                first = first or (tdis, cpu_seconds)


def main() -> None:
    """Measure."""
    chosen = options(
        "The life of a VF on a connected device.", ("--scale", {"default": "", "help": "TDIs, as 1,16,64,256"})
    )
    figures = Figures("life of a VF")
    connecting = []
    for _ in range(2):
        platform, pf = enumerated()
        begun = time.process_time()
        platform.vmm.pci_tsm.connect(pf, platform.now())
        connecting.append(time.process_time() - begun)
    figures.measure("connect (SPDM, IDE keys)", connecting[-1] * 1e3, "ms of CPU")
    key = SigningKey.generate(BaseAsym.ECDSA_P384, SeededEntropy(b"bench"))
    sign = cpu(lambda: key.sign(b"message", BaseHash.SHA_384), chosen.seconds / 4)
    figures.measure("P-384 signature", sign * 1e3, "ms of CPU")
    for huge_pages, pages in ((False, "4 KiB pages"), (True, "2 MiB pages")):
        life(platform, pf, huge_pages=huge_pages)
        laps = []
        begun = time.process_time()
        while len(laps) < 3 or time.process_time() - begun < chosen.seconds * 3:
            laps.append(life(platform, pf, huge_pages=huge_pages))
        total = sum(sum(lap.values()) for lap in laps) / len(laps)
        figures.measure(f"life of a VF, {pages}", total * 1e3, "ms of CPU")
        for name in laps[0]:
            part = sum(lap[name] for lap in laps) / len(laps)
            figures.measure(f"  {name}, {pages}", part * 1e3, "ms of CPU")
            figures.ratio(f"{name}, of the whole life, {pages}", part / total)
        figures.ratio(f"life of a VF, to connecting its device, {pages}", total / connecting[-1])
        figures.ratio(f"life of a VF, in P-384 signatures, {pages}", total / sign)
    if chosen.scale:
        scale(figures, [int(count) for count in chosen.scale.split(",")])
    figures.show(chosen.json)


if __name__ == "__main__":
    main()
