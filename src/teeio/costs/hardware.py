"""The hardware that virtual time stands for: every constant once, with its unit and its source.

Nothing here is measured by a run. Change a constant and all virtual times follow; counts do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from teeio.pcie.capabilities.express import ExpressCapability


class Basis(Enum):
    """How a constant is known."""

    READ = "read in the source"
    COMPUTED = "arithmetic on figures read in the source"
    MEASURED = "measured on a 2-vCPU AMD EPYC virtual machine"
    REMEMBERED = "remembered, not looked up"
    ASSUMED = "assumed: no published figure was found"


@dataclass(frozen=True, slots=True)
class Constant:
    """One property of the hardware."""

    name: str
    value: float
    unit: str
    basis: Basis
    source: str

    def as_dict(self) -> dict[str, str | float]:
        """Give the constant for JSON."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "basis": self.basis.value,
            "source": self.source,
        }


_LINK = ExpressCapability().get(ExpressCapability.LINK_STATUS, "width")

LINK_RATE = Constant(
    "link, each direction",
    32e9 * _LINK * 128 / 130 / 8,
    "B/s",
    Basis.COMPUTED,
    f"32 GT/s x{_LINK} as in the device's Link Status register, 128b/130b coding",
)
FRAMING = Constant(
    "framing of a TLP",
    8,
    "B",
    Basis.READ,
    "STP with sequence number 4, LCRC 4 (Intel AN 855: 5 DW of overhead with a header of 3)",
)
ROUND_TRIP = Constant(
    "round trip of a read by the device",
    0.55e-6,
    "s",
    Basis.REMEMBERED,
    "pcie-bench (SIGCOMM 2018), median of 64-byte reads on a Haswell server",
)
IDE_LATENCY = Constant(
    "IDE engines, each crossing of the link", 0.1e-6, "s", Basis.ASSUMED, "vendors publish line rate and no latency"
)
AES_RATE = Constant(
    "AES-256-GCM by one core",
    2.80e9,
    "B/s",
    Basis.READ,
    "openssl speed 3.0.8 at 8 KiB (asecuritysite.com, 2023-07-07)",
)
AES_START = Constant(
    "start of an AES-256-GCM operation",
    25e-9,
    "s",
    Basis.COMPUTED,
    "the same table at 16 B: 0.515 GB/s, less 16 B at the rate above",
)
COPY_RATE = Constant("copy by one core", 22.8e9, "B/s", Basis.MEASURED, "page-aligned copies of 1 MiB, 46 us each")
IO_WORK = Constant(
    "driver and I/O stack, each descriptor",
    1 / 283e3,
    "s",
    Basis.COMPUTED,
    "C. Gao, swiotlb v1 (lkml 2206.3/04847): 283 kIOPS of 4 KiB reads fill one vCPU; holds a 4 KiB copy",
)
EXIT = Constant(
    "exit to the host and back",
    2528 / 2.5e9,
    "s",
    Basis.COMPUTED,
    "2528 cycles (lkml 2012.2/00527, KVM on AMD), at 2.5 GHz; what the TSM adds is not published",
)
INTERRUPT = Constant("interrupt taken by the guest", 1.0e-6, "s", Basis.ASSUMED, "posted, so without an exit")
DEVICE_AES_RATE = Constant(
    "AES-256-GCM by the device", LINK_RATE.value, "B/s", Basis.ASSUMED, "its copy engine deciphers at line rate"
)

SWIOTLB_HOLD = Constant(
    "swiotlb: one lock held, each read",
    1 / 253e3 - 1 / 283e3,
    "s",
    Basis.COMPUTED,
    "Gao's table, one job: one lock 253 kIOPS, areas 283 kIOPS; the difference is the search below the one lock",
)
SWIOTLB_CONTENDED = Constant(
    "swiotlb: one lock held while others spin, each I/O",
    1 / 214.9e3,
    "s",
    Basis.COMPUTED,
    "fitted: Gao's table, four jobs on one lock read 214.9 kIOPS at 401% CPU, so the lock is all of it",
)
DISK_RATE = Constant(
    "disk behind the swiotlb table, reads",
    567e3,
    "I/O a second",
    Basis.COMPUTED,
    "fitted: Gao's table, four jobs with areas read 567 kIOPS at half of their CPUs, so the disk is full",
)
WRITE_WORK = Constant(
    "driver and I/O stack, each write to that disk",
    1 / 292e3,
    "s",
    Basis.COMPUTED,
    "Gao's table: 292 kIOPS of 4 KiB writes fill one vCPU with areas",
)
WRITE_HOLD = Constant(
    "swiotlb: one lock held, each write",
    1 / 280e3 - 1 / 292e3,
    "s",
    Basis.COMPUTED,
    "Gao's table, one job: one lock 280 kIOPS, areas 292 kIOPS",
)
DISK_WRITE_RATE = Constant(
    "disk behind the swiotlb table, writes",
    488e3,
    "I/O a second",
    Basis.COMPUTED,
    "fitted: Gao's table, four jobs with areas write 488 kIOPS at less than half of their CPUs, so the disk is full",
)

CONSTANTS = tuple(one for one in list(vars().values()) if isinstance(one, Constant))
"""All of them, as declared."""
