"""A TVM's devices and its TSM as Linux's sysfs shows them in the guest, and the verbs lock, accept and unlock behind the files.

Sources: Linux "devsec" TSM, Documentation/ABI/testing/sysfs-bus-pci (tsm/lock, unlock, accept) and drivers/pci/tsm.c as posted. The
evidence between lock and accept goes to user space (there: netlink), so it is a method here: `appraise`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from teeio.attestation import RegisterWindow, Verdict
from teeio.errors import Misuse
from teeio.guest.accept import AssignedInterface, Phase
from teeio.guest.attest import Verifier
from teeio.guest.pci import PciFunction
from teeio.guest.tvm import Tvm
from teeio.pcie.address import Bdf
from teeio.sysfs import Attribute, Entry, Link, Sysfs, SysfsError

TSM = "tsm0"
TRUE = frozenset({"1", "y", "Y", "t", "T", "on", "On", "ON"})
"""What a boolean attribute takes for true (Linux, kstrtobool; only what follows from the first letters is left out)."""


class GuestSysfs(Sysfs):
    """The tree of a TVM with these functions, which have one TSM and one bus."""

    def __init__(self, tvm: Tvm, functions: Sequence[PciFunction]) -> None:
        self.interfaces = {function.address: AssignedInterface(tvm, function) for function in functions}

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """Yield the TSM and all functions."""
        yield f"/sys/class/tsm/{TSM}/pci_mode", Attribute(lambda: "devsec")
        for address, interface in self.interfaces.items():
            place = f"/sys/devices/pci{address.segment:04x}:{address.bus:02x}/{address}"
            yield f"/sys/bus/pci/devices/{address}", Link(place)
            for name, entry in self._of_interface(interface):
                yield f"{place}/{name}", entry

    def _of_interface(self, interface: AssignedInterface) -> Iterator[tuple[str, Entry]]:
        function = interface.function
        yield "vendor", Attribute(lambda: f"0x{function.vendor_id:04x}")
        yield "device", Attribute(lambda: f"0x{function.device_id:04x}")
        yield "class", Attribute(lambda: f"0x{function.class_code:06x}")
        if interface.driver is not None:
            yield "driver", Link(f"/sys/bus/pci/drivers/{interface.driver}")
        if function.tee_io:
            yield "tsm/lock", Attribute(lambda: _holder(interface), partial(self._lock, interface))
            yield "tsm/unlock", Attribute(store=partial(self._unlock, interface))
            accepted = interface.phase is Phase.ACCEPTED
            yield "tsm/accept", Attribute(lambda: str(int(accepted)), partial(self._accept, interface))

    def appraise(self, address: Bdf, verifier: Verifier, registers: tuple[RegisterWindow, ...], now: float) -> Verdict:
        """Judge the evidence of a locked function, as user space does before it writes `accept`. Raises as `attest` does."""
        return self.interfaces[address].attest(verifier, registers, now)

    @staticmethod
    def _lock(interface: AssignedInterface, text: str, now: float) -> None:
        number = text.removeprefix("tsm")
        if number == text or not number.isdecimal():
            raise SysfsError(errno.EINVAL, f"{text!r} is not tsmN")
        if interface.phase is not Phase.UNLOCKED:
            raise SysfsError(errno.EBUSY, "the device is locked")
        if text != TSM:
            raise SysfsError(errno.ENXIO, f"there is no devsec TSM {text}")
        _without_driver(interface, lambda: _or_busy(interface, now))

    @staticmethod
    def _unlock(interface: AssignedInterface, text: str, now: float) -> None:
        if text != _holder(interface) or not text:
            raise SysfsError(errno.EINVAL, f"the device is locked by {_holder(interface) or 'nobody'}, not by {text!r}")
        _without_driver(interface, lambda: interface.unlock(now))

    @staticmethod
    def _accept(interface: AssignedInterface, text: str, now: float) -> None:
        if text not in TRUE:
            raise SysfsError(errno.EINVAL, "only 1 is accepted: the way back is unlock")
        if interface.phase is not Phase.LOCKED:
            raise SysfsError(errno.EINVAL, f"the interface is {interface.phase.value}")
        verdict = interface.verdict if interface.evidence is not None else None
        if interface.driver is None and (verdict is None or not verdict.accepted):
            # Linux leaves it to user space not to accept what it has not verified; this TVM refuses.
            raise SysfsError(errno.EPERM, "the evidence of this lock has not been accepted")
        _without_driver(interface, lambda: interface.accept(now))


def _holder(interface: AssignedInterface) -> str:
    """Name the TSM that holds the lock; also of an interface that was lost, until it is unlocked."""
    return "" if interface.phase is Phase.UNLOCKED else TSM


def _or_busy(interface: AssignedInterface, now: float) -> None:
    try:
        interface.lock(now)
    except Misuse as in_use:  # the TSM has it locked, though this TVM did not lock it
        raise SysfsError(errno.EBUSY, str(in_use)) from in_use


def _without_driver(interface: AssignedInterface, verb: Callable[[], object]) -> None:
    if interface.driver is not None:
        raise SysfsError(errno.EBUSY, f"driver {interface.driver} is bound")
    verb()
