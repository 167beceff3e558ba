"""What a whole life of one VF costs on a device that is connected: from assigning it to a TVM to taking it back.

    PYTHONPATH=src python bench/lifecycle.py [--json] [--scale 1,16,64,256]

The life is measured in a new TVM with memory in 4 KiB pages and in 2 MiB pages. Without launching and ending the TVM it is measured
again and again, where the TSM refreshes the IDE keys between two TVMs, and for the first time since connecting, where it need not.
With --scale so many TDIs go through it together, up to 16 in a TVM and one in a TVM, each case in a process of its own: CPU time and
resident memory of each should not grow with their number.
"""

from __future__ import annotations

import resource
import time
from multiprocessing import get_context
from pathlib import Path

from figures import Figures, cpu, options

from teeio.accelerator_interface import Operation
from teeio.crypto.algorithms import BaseAsym, BaseHash
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import SigningKey
from teeio.device.configuration import Configuration
from teeio.guest.accept import AssignedInterface
from teeio.guest.cost import CostMeter
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.vfio import UnitKind
from teeio.platform import Platform

VFS = 4
TDIS_OF_A_TVM = 16
FIRST_LIVES = 5
SIZE = 4096
"""Bytes that the device copies in private memory in its life."""
MAX_PAYLOAD = 256
"""Max_Payload_Size, as firmware sets it (and `teeio bench io`); after a reset it is 128."""
SMALL_TVM = 512 << 10
"""Bytes of a TVM where there are many."""


def enumerated(vfs: int = VFS) -> tuple[Platform, PciFunction]:
    """Power a platform on and let the VMM find the device."""
    platform = Platform.assemble(seed=1, configuration=Configuration(vfs=vfs))
    (pf,) = platform.vmm.bus.enumerate()
    platform.vmm.bus.enable_vfs(pf, vfs)
    platform.vmm.bus.set_max_payload(pf, MAX_PAYLOAD)
    return platform, pf


LIFE = ("assign", "enumerate", "lock", "attest", "accept and start", "work", "stop", "remove")
"""The parts of a VF's life; the rest of a lap is its TVM's."""


def life(platform: Platform, pf: PciFunction, *, huge_pages: bool = False) -> dict[str, float]:
    """Take the first VF through its life, in a new TVM; give the CPU seconds of each part."""
    spent: dict[str, float] = {}

    def lap(name: str) -> None:
        nonlocal last
        now = time.process_time()
        spent[name] = now - last
        last = now

    kvm = platform.vmm.kvm
    last = time.process_time()
    guest = platform.launch("TVM", huge_pages=huge_pages)
    lap("launch of the TVM")
    kvm.assign(guest.machine, platform.vmm.vfio.unit(UnitKind.VF, pf.vfs[0].address))
    lap("assign")
    interface = guest.interface()
    lap("enumerate")
    interface.lock(platform.now())
    lap("lock")
    verdict = interface.attest(guest.verifier, TRUSTED_REGISTERS, platform.now())
    if not verdict.accepted:
        raise SystemExit("the device was not accepted")
    lap("attest")
    interface.accept(platform.now())
    lap("accept and start")
    driver, _ = guest.driver(interface.function, CostMeter(time.thread_time), interface=interface)
    source, result = guest.tvm.allocate(SIZE), guest.tvm.allocate(SIZE)
    source.write(0, bytes(range(256)) * (SIZE // 256))
    driver.run(Operation.COPY, source.gpa, SIZE, result.gpa, platform.now())
    if result.read(0, SIZE) != source.read(0, SIZE):
        raise SystemExit("the device has not copied")
    driver.remove(platform.now())
    lap("work")
    interface.unlock(platform.now())
    lap("stop")
    for place in list(guest.machine.functions):
        kvm.remove_function(guest.machine, place, platform.now())
    lap("remove")
    platform.shut_down(guest)
    lap("end of the TVM")
    return spent


def mean(laps: list[dict[str, float]]) -> dict[str, float]:
    """Give the mean of each part."""
    return {name: sum(lap[name] for lap in laps) / len(laps) for name in laps[0]}


def of_the_vf(parts: dict[str, float]) -> float:
    """Give what the life of the VF alone takes, without its TVM's."""
    return sum(parts[name] for name in LIFE)


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


def connected(platform: Platform, pf: PciFunction) -> float:
    """Connect the device anew; give the CPU seconds of it."""
    tsm = platform.vmm.pci_tsm
    if pf.address in tsm.connections:
        tsm.disconnect(pf, platform.now())
    begun = time.process_time()
    tsm.connect(pf, platform.now())
    return time.process_time() - begun


def main() -> None:
    """Measure."""
    chosen = options(
        "The life of a VF on a connected device.", ("--scale", {"default": "", "help": "TDIs, as 1,16,64,256"})
    )
    figures = Figures("life of a VF")
    platform, pf = enumerated()
    connecting = [connected(platform, pf) for _ in range(3)][-1]
    figures.measure("connect (SPDM, IDE keys)", connecting * 1e3, "ms of CPU")
    key = SigningKey.generate(BaseAsym.ECDSA_P384, SeededEntropy(b"bench"))
    sign = cpu(lambda: key.sign(b"message", BaseHash.SHA_384), chosen.seconds / 4)
    figures.measure("P-384 signature", sign * 1e3, "ms of CPU")
    for huge_pages, pages in ((False, "4 KiB pages"), (True, "2 MiB pages")):
        laps = repeated(platform, pf, chosen.seconds * 2, huge_pages)
        parts = mean(laps)
        whole = sum(parts.values())
        figures.measure(f"life of a VF with its TVM, {pages}", whole * 1e3, "ms of CPU")
        for name, seconds in parts.items():
            figures.measure(f"  {name}, {pages}", seconds * 1e3, "ms of CPU")
            figures.ratio(f"{name}, of the whole life, {pages}", seconds / whole)
        figures.ratio(f"life of a VF with its TVM, to connecting its device, {pages}", whole / connecting)
    figures.measure("life of a VF alone, again", of_the_vf(parts) * 1e3, "ms of CPU, at most 20")
    figures.measure("  the least of all", min(map(of_the_vf, laps)) * 1e3, "ms of CPU")
    figures.ratio("life of a VF alone, again, in P-384 signatures", of_the_vf(parts) / sign)
    first = mean([life(platform, pf, huge_pages=True) for _ in range(FIRST_LIVES) if connected(platform, pf)])
    figures.measure("life of a VF alone, the first since connecting", of_the_vf(first) * 1e3, "ms of CPU, at most 20")
    figures.measure("  lock, the first since connecting", first["lock"] * 1e3, "ms of CPU")
    if chosen.scale:
        scale(figures, [int(count) for count in chosen.scale.split(",")])
    figures.show(chosen.json)


def repeated(platform: Platform, pf: PciFunction, seconds: float, huge_pages: bool) -> list[dict[str, float]]:
    """Take the VF through its life again and again, for about so much CPU time; the first lives do not count."""
    for _ in range(2):
        life(platform, pf, huge_pages=huge_pages)
    laps: list[dict[str, float]] = []
    begun = time.process_time()
    while len(laps) < 3 or time.process_time() - begun < seconds:
        laps.append(life(platform, pf, huge_pages=huge_pages))
    return laps


if __name__ == "__main__":
    main()
