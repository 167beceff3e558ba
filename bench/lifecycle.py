"""What a whole life of one VF costs on a device that is connected: assign, lock, attest, accept, run, stop, take back.

PYTHONPATH=src python bench/lifecycle.py [--json]
"""

from __future__ import annotations

import time

from figures import Figures, cpu, options

from teeio.crypto.algorithms import BaseAsym, BaseHash
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import SigningKey
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.vfio import UnitKind
from teeio.platform import Platform

VFS = 4


def enumerated() -> tuple[Platform, PciFunction]:
    """Power a platform on and let the VMM find the device."""
    platform = Platform.assemble(seed=1)
    (pf,) = platform.vmm.bus.enumerate()
    platform.vmm.bus.enable_vfs(pf, VFS)
    return platform, pf


def life(platform: Platform, pf: PciFunction) -> dict[str, float]:
    """Take the first VF through its life; give the CPU seconds of each part."""
    spent: dict[str, float] = {}

    def lap(name: str) -> None:
        nonlocal last
        now = time.process_time()
        spent[name] = now - last
        last = now

    last = time.process_time()
    guest = platform.launch("TVM", platform.vmm.vfio.unit(UnitKind.VF, pf.vfs[0].address))
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


def main() -> None:
    """Measure."""
    chosen = options("The life of a VF on a connected device.")
    figures = Figures("life of a VF")
    connecting = []
    for _ in range(2):
        platform, pf = enumerated()
        begun = time.process_time()
        platform.vmm.pci_tsm.connect(pf, platform.now())
        connecting.append(time.process_time() - begun)
    life(platform, pf)
    laps = []
    begun = time.process_time()
    while len(laps) < 3 or time.process_time() - begun < chosen.seconds * 3:
        laps.append(life(platform, pf))
    total = sum(sum(lap.values()) for lap in laps) / len(laps)
    key = SigningKey.generate(BaseAsym.ECDSA_P384, SeededEntropy(b"bench"))
    sign = cpu(lambda: key.sign(b"message", BaseHash.SHA_384), chosen.seconds / 4)
    figures.measure("connect (SPDM, IDE keys)", connecting[-1] * 1e3, "ms of CPU")
    figures.measure("life of a VF", total * 1e3, "ms of CPU")
    figures.measure("P-384 signature", sign * 1e3, "ms of CPU")
    for name in laps[0]:
        part = sum(lap[name] for lap in laps) / len(laps)
        figures.ratio(f"{name}, of the whole life", part / total)
    figures.ratio("life of a VF, to connecting its device", total / connecting[-1])
    figures.ratio("life of a VF, in P-384 signatures", total / sign)
    figures.show(chosen.json)


if __name__ == "__main__":
    main()
