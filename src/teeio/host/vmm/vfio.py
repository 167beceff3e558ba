"""Assignment: which unit a guest gets - a whole device, a function, a PF, a VF - and taking it back clean (Linux VFIO).

A claimed function may do DMA once its owner wants it: T=0 into the owner's legacy domain. Before it is claimed and after
it is released it may not, and it is reset in between, so that nothing of one owner reaches the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from teeio.errors import Misuse
from teeio.host.iommu import Domain, LegacyTables
from teeio.host.vmm.bus import FunctionKind, PciBus, PciFunction
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.express import ExpressCapability


class UnitKind(Enum):
    """What can be assigned."""

    DEVICE = "whole device"
    FUNCTION = "function without SR-IOV"
    PF = "physical function"
    VF = "virtual function"


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of assignment; the first function is the one that TDISP names it by."""

    kind: UnitKind
    functions: tuple[PciFunction, ...]

    @property
    def function(self) -> PciFunction:
        """The function that is the TDI."""
        return self.functions[0]

    def __str__(self) -> str:
        return f"{self.kind.value} {self.function.address}"


class Vfio:
    """Gives units to guests and takes them back; who has what, each function says."""

    def __init__(self, bus: PciBus) -> None:
        self._bus = bus

    @property
    def claims(self) -> tuple[Bdf, ...]:
        """The functions that are claimed."""
        return tuple(function.address for function in self._bus.functions.values() if function.claimed_as is not None)

    def units(self) -> list[Unit]:
        """List everything that could be assigned, were nothing claimed: devices, and functions one by one."""
        return [unit for function in self._bus.functions.values() for unit in self._units_of(function)]

    def _units_of(self, function: PciFunction) -> Iterator[Unit]:
        """List the units that a function leads: itself, and its whole device if it is the first function."""
        if function.kind is not FunctionKind.VF:
            device = self._device_of(function)
            if function is device[0] and not any(other.vfs for other in device):
                yield Unit(UnitKind.DEVICE, tuple(device))
        yield Unit(_KINDS[function.kind], (function,))

    def unit(self, kind: UnitKind, address: Bdf) -> Unit:
        """Look a unit up. Raises `Misuse`."""
        function = self._bus.functions.get(address)
        for unit in self._units_of(function) if function else ():
            if unit.kind is kind:
                return unit
        raise Misuse(f"{address} is no {kind.value} now", remedy=f"there is {', '.join(map(str, self.units()))}")

    def owner(self, function: PciFunction) -> Unit | None:
        """Give the claimed unit that a function belongs to."""
        return function.claimed_as

    def claim(self, unit: Unit) -> None:
        """Claim all functions of a unit. Raises `Misuse` if one is taken.

        Their Bus Master Enable is on from here on, as a lock needs and freezes it; that their DMA reaches nothing yet is
        the IOMMU's doing. A PF rules its VFs, so it and they are not given to guests at the same time.
        """
        for function in unit.functions:
            for other in (function, *_relatives(function)):
                if other.claimed_as is not None:
                    raise Misuse(f"{unit} cannot be claimed: {other.address} belongs to {other.claimed_as}")
        for function in unit.functions:
            function.claimed_as = unit
            function.command(bus_master=1)

    def open(self, unit: Unit, domain: Domain) -> None:
        """Let the functions of a claimed unit do T=0 DMA into `domain`."""
        for function in unit.functions:
            self._tables(function).attach(function.function_id, domain)

    def close(self, unit: Unit) -> None:
        """Let them do no T=0 DMA any more."""
        for function in unit.functions:
            self._tables(function).detach(function.function_id)

    def release(self, unit: Unit) -> None:
        """Take a unit back, reset."""
        for function in unit.functions:
            if function.claimed_as is not unit:
                raise Misuse(f"{unit} is not claimed")
        self.close(unit)
        for function in unit.functions:
            function.command(bus_master=0)
            self.reset(function)
            function.claimed_as = None

    def reset(self, function: PciFunction) -> None:
        """Reset one function and give it back what it had; a locked interface goes to ERROR by this (PCIe Base 11.4.9)."""
        express = function.capabilities.get(ExpressCapability.ID)
        if express is None:
            return
        function.config.set(ExpressCapability.DEVICE_CONTROL, express, initiate_flr=1)
        self._bus.restore(function)

    def _tables(self, function: PciFunction) -> LegacyTables:
        return self._bus.host.legacy_tables(self._bus.host.iommu_of(function.root_port))

    def _device_of(self, function: PciFunction) -> list[PciFunction]:
        """List the physical functions of a function's device."""
        return [
            other
            for other in self._bus.functions.values()
            if other.bridge == function.bridge and other.kind is not FunctionKind.VF
        ]


def _relatives(function: PciFunction) -> Iterable[PciFunction]:
    return function.vfs if function.parent is None else (function.parent,)


_KINDS = {
    FunctionKind.PLAIN: UnitKind.FUNCTION,
    FunctionKind.PF: UnitKind.PF,
    FunctionKind.VF: UnitKind.VF,
}
