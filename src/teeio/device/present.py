"""Which functions of a device exist now, as VFs come and go and the bus number changes; listed anew only when they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from teeio.device.function import Function
from teeio.pcie.address import Bdf
from teeio.pcie.config_space import ConfigSpace, Functions
from teeio.tdisp.interface import Interface
from teeio.tdisp.messages import FunctionId


class Present:
    """The functions that exist now; `by_space` has all that the device can have, `interface` gives a function's TDI."""

    def __init__(
        self,
        spaces: Functions,
        by_space: Mapping[ConfigSpace, Function],
        interface: Callable[[Function], Interface],
    ) -> None:
        self._spaces = spaces
        self._by_space = by_space
        self._interface = interface
        self._listed: Mapping[Bdf, ConfigSpace] | None = None
        self._functions: Mapping[Bdf, Function] = {}
        self._interfaces: Mapping[int, Interface] = {}

    def functions(self) -> Mapping[Bdf, Function]:
        """Give the functions by address."""
        self._follow()
        return self._functions

    def interfaces(self) -> Mapping[int, Interface]:
        """Give their interfaces by FUNCTION_ID, with and without the segment."""
        self._follow()
        return self._interfaces

    def _follow(self) -> None:
        spaces = self._spaces.present()
        if spaces is self._listed:
            return
        functions = {address: self._by_space[space] for address, space in spaces.items()}
        interfaces: dict[int, Interface] = {}
        for address, function in functions.items():
            interfaces[address.requester_id] = self._interface(function)
            if address.segment <= 0xFF:
                named = FunctionId(requester_id=address.requester_id, segment=address.segment, segment_valid=1)
                interfaces[named.number()] = self._interface(function)
        self._listed = spaces
        self._functions, self._interfaces = MappingProxyType(functions), MappingProxyType(interfaces)
