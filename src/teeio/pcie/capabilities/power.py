"""The Power Management capability (PCIe Base 7.5.2): D0 and D3hot only, no PME."""

from __future__ import annotations

from teeio.pcie.config_space import Capability
from teeio.pcie.registers import Access, Locked, Register, bit, bits


class PowerManagementCapability(Capability):
    """The function's power state; No_Soft_Reset tells that D3hot keeps its context."""

    NAME = "Power Management Capability"
    ID = 0x01
    CAPABILITIES = Register(
        0x02, 2, "Power Management Capabilities", (bits("version", 2, 0, Access.HWINIT, "Version", reset=3),)
    )
    CONTROL = Register(
        0x04,
        2,
        "Power Management Control/Status",
        (
            bits("power_state", 1, 0, Access.RW, "0: D0, 3: D3hot", locked=Locked.IF_STATE_LOST),
            bit("no_soft_reset", 3, Access.HWINIT, "D3hot keeps the context", reset=1),
        ),
    )

    def __init__(self) -> None:
        super().__init__(8)
