"""What a whole life of one VF costs on a device that is connected: from assigning it to a TVM to taking it back.

    PYTHONPATH=src python bench/lifecycle.py [--json] [--scale 1,16,64,256]

The life is measured in a new TVM with memory in 4 KiB pages and in 2 MiB pages. Without launching and ending the TVM it is measured
again and again, where the TSM refreshes the IDE keys between two TVMs, for the first time since connecting, where it need not, and
again by the rules as published, which do not ask for it.
With --scale so many TDIs go through it together, up to 16 in a TVM and one in a TVM, each case in a process of its own: CPU time and
memory of each should not grow with their number.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from itertools import product
from multiprocessing import get_context

from figures import Figures, cpu, options

from teeio.accelerator_interface import Operation
from teeio.crypto.algorithms import BaseAsym, BaseHash
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import SigningKey
from teeio.device.configuration import Configuration
from teeio.guest.accept import AssignedInterface
from teeio.guest.cost import CostMeter
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.memory import PAGE_SIZE
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.vfio import UnitKind
from teeio.pcie.link_rules import AS_PUBLISHED, CLOSED, LinkRules
from teeio.platform import Guest, Platform

VFS = 4
TDIS_OF_A_TVM = 16
FIRST_LIVES = 5
SIZE = 4096
"""Bytes that the device copies in private memory in its life."""
MAX_PAYLOAD = 256
"""Max_Payload_Size, as firmware sets it (and `teeio bench io`); after a reset it is 128."""
SMALL_TVM = 512 << 10
"""Bytes of a TVM where there are many."""


def enumerated(vfs: int = VFS, rules: LinkRules = CLOSED) -> tuple[Platform, PciFunction]:
    """Power a platform on and let the VMM find the device."""
    platform = Platform.assemble(seed=1, configuration=Configuration(vfs=vfs), link_rules=rules)
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


def warm(tdis: int) -> tuple[Platform, PciFunction]:
    """Give a platform whose device is connected, and where one life has compiled what is compiled on first use."""
    platform, pf = enumerated(tdis)
    platform.vmm.pci_tsm.connect(pf, platform.now())
    life(platform, pf)
    return platform, pf


def run_all(platform: Platform, pf: PciFunction, tdis: int, tvms: int) -> tuple[list[Guest], list[AssignedInterface]]:
    """Bring so many TDIs of one device to RUN, all at once, evenly in so many TVMs."""
    guests, interfaces = [], []
    each = -(-tdis // tvms)
    for number in range(0, tdis, each):
        first, *others = [platform.vmm.vfio.unit(UnitKind.VF, vf.address) for vf in pf.vfs[number : number + each]]
        guest = platform.launch(f"TVM {number}", first, memory_size=SMALL_TVM)
        guests.append(guest)
        for unit in others:
            platform.vmm.kvm.assign(guest.machine, unit)
        for function in guest.functions():
            interface = AssignedInterface(guest.tvm, function)
            interface.bring_up(guest.verifier, TRUSTED_REGISTERS, platform.now())
            interfaces.append(interface)
    return guests, interfaces


def cpu_of(tdis: int, tvms: int) -> float:
    """Give the CPU seconds that many TDIs take for their lives, without work."""
    platform, pf = warm(tdis)
    begun = time.process_time()
    guests, interfaces = run_all(platform, pf, tdis, tvms)
    for interface in interfaces:
        interface.unlock(platform.now())
    for guest in guests:
        platform.shut_down(guest)
    return time.process_time() - begun


def memory_of(tdis: int, tvms: int) -> float:
    """Give the bytes that many TDIs in RUN hold: objects, and pages of physical memory that are not all zeroes."""
    platform, pf = warm(tdis)
    gc.collect()
    tracemalloc.start()
    written = sum(platform.memory._written)
    held = run_all(platform, pf, tdis, tvms)
    gc.collect()
    objects, _ = tracemalloc.get_traced_memory()
    del held
    return objects + PAGE_SIZE * (sum(platform.memory._written) - written)


def scale(figures: Figures, counts: list[int]) -> None:
    """Compare many TDIs with few, for each in its own TVM and for many in one."""
    kinds = ((cpu_of, "CPU", 1e3, "ms"), (memory_of, "memory", 1 / 1024, "KiB"))
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for (name, share, most), (measure, what, factor, unit) in product(
            (("16 a TVM", TDIS_OF_A_TVM, 256), ("1 a TVM", 1, 64)), kinds
        ):
            first = None
            for tdis in (count for count in counts if count <= most):
                each = pool.apply(measure, (tdis, -(-tdis // share))) / tdis
                figures.measure(f"{tdis} TDIs, {name}: {what} of each", each * factor, unit)
                if first is not None:
                    figures.ratio(
                        f"{what} of each of {tdis} TDIs, {name}, to {first[0]}", each / first[1], "at most 1.5"
                    )
                first = first or (tdis, each)


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
    platform, pf = enumerated(rules=AS_PUBLISHED)
    connected(platform, pf)
    published = mean(repeated(platform, pf, chosen.seconds, huge_pages=True))
    figures.measure(
        "life of a VF alone, again, by the published rules", of_the_vf(published) * 1e3, "ms of CPU, at most 20"
    )
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
