"""A function's 4 KiB configuration space, and the functions of one device (PCIe Base 7.2, 7.5, 9.2).

The space is put together from a header and two lists of capabilities; the next pointers follow from the lists.
Functions that do not exist, virtual functions that are not enabled among them, read as all ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import ClassVar, Protocol, TypeVar

from teeio.errors import Misuse
from teeio.pcie.address import AddressRange, Bdf
from teeio.pcie.registers import Access, Block, OnWrite, Register, RegisterAccess, bits

SPACE_SIZE = 4096
FIRST_CAPABILITY = 0x40
FIRST_EXTENDED = 0x100
MAX_CAPABILITIES = (FIRST_EXTENDED - FIRST_CAPABILITY) // 4
MAX_EXTENDED = (SPACE_SIZE - FIRST_EXTENDED) // 4
"""Capabilities that fit in the space for them: a longer list is a loop."""


def all_ones(size: int) -> int:
    """Give what a read of `size` bytes returns when nobody answers."""
    return (1 << 8 * size) - 1


class Capability(Block):
    """A capability of the list that starts at offset 34h (PCIe Base 7.5.1.1.11)."""

    ID: ClassVar[int]
    ID_REGISTER = Register(0, 1, "Capability ID", (bits("id", 7, 0, Access.RO, "Capability ID"),))
    NEXT_REGISTER = Register(
        1, 1, "Next Capability Pointer", (bits("next", 7, 0, Access.RO, "Next capability, 0 ends"),)
    )

    def __init__(self, size: int, registers: Sequence[Register] = ()) -> None:
        super().__init__(size, registers)
        self.base = 0
        self.set(self.ID_REGISTER, id=self.ID)

    def link(self, following: int) -> None:
        """Point to the next capability of the list."""
        self.set(self.NEXT_REGISTER, next=following)


class ExtendedCapability(Block):
    """A capability of the list that starts at offset 100h (PCIe Base 7.6.3)."""

    ID: ClassVar[int]
    VERSION: ClassVar[int] = 1
    HEADER = Register(
        0,
        4,
        "Extended Capability Header",
        (
            bits("id", 15, 0, Access.RO, "Extended capability ID"),
            bits("version", 19, 16, Access.RO, "Capability version"),
            bits("next", 31, 20, Access.RO, "Next capability, 0 ends"),
        ),
    )

    def __init__(self, size: int, registers: Sequence[Register] = ()) -> None:
        super().__init__(size, registers)
        self.base = 0
        self.set(self.HEADER, id=self.ID, version=self.VERSION)

    def link(self, following: int) -> None:
        """Point to the next capability of the list."""
        self.set(self.HEADER, next=following)


class Header(Block, ABC):
    """The first 64 bytes; `capabilities/header.py` has both types."""

    @abstractmethod
    def link(self, first: int) -> None:
        """Point to the first capability."""

    @abstractmethod
    def bar_ranges(self) -> dict[int, AddressRange]:
        """Give the memory that each BAR decodes now, by BAR number; nothing while memory decoding is off."""


B = TypeVar("B", bound=Block)


class ConfigSpace:
    """The configuration space of one function.

    Capabilities are laid out in the order given, each at its `base` if that is set beforehand, else packed; a layout
    that overlaps or does not fit raises `Misuse`.
    """

    def __init__(
        self, header: Header, capabilities: Sequence[Capability] = (), extended: Sequence[ExtendedCapability] = ()
    ) -> None:
        self.header = header
        self.capabilities = tuple(capabilities)
        self.extended = tuple(extended)
        self._blocks: dict[int, tuple[Block, int]] = {}
        self._map(header, 0, FIRST_CAPABILITY)
        self._chain(self.capabilities, FIRST_CAPABILITY, FIRST_EXTENDED)
        self._chain(self.extended, FIRST_EXTENDED, SPACE_SIZE)
        header.link(self.capabilities[0].base if self.capabilities else 0)
        if self.extended and self.extended[0].base != FIRST_EXTENDED:
            raise Misuse("the first extended capability must lie at 100h")

    def _chain(self, blocks: Sequence[Capability] | Sequence[ExtendedCapability], start: int, end: int) -> None:
        free = start
        for block in blocks:
            block.base = block.base or free
            self._map(block, block.base, end)
            free = (block.base + block.size + 3) & ~3
        for number in range(len(blocks)):
            blocks[number].link(blocks[number + 1].base if number + 1 < len(blocks) else 0)

    def _map(self, block: Block, base: int, end: int) -> None:
        if base % 4 or base + block.size > end:
            raise Misuse(
                f"{block.NAME} of {block.size} bytes at {base:#x} does not fit below {end:#x} on a DW boundary"
            )
        for position in range(base // 4, (base + block.size + 3) // 4):
            if position in self._blocks:
                raise Misuse(f"{block.NAME} at {base:#x} overlaps {self._blocks[position][0].NAME}")
            self._blocks[position] = (block, base)

    def find(self, kind: type[B]) -> B | None:
        """Find the header or the capability of a class."""
        for block in (self.header, *self.capabilities, *self.extended):
            if isinstance(block, kind):
                return block
        return None

    def need(self, kind: type[B]) -> B:
        """Find the header or the capability of a class. Raises `Misuse` if the function lacks it."""
        found = self.find(kind)
        if found is None:
            raise Misuse(f"this function has no {kind.NAME}")
        return found

    def observe_guarded(self, callback: OnWrite) -> None:
        """Call back after every software write to a block of this function in which a field matters to a locked TDI."""
        for block in (self.header, *self.capabilities, *self.extended):
            if block.guarded:
                block.observe(callback)

    def reset(self, *, sticky_too: bool = False) -> None:
        """Give all registers their reset values; what stands behind them (streams, mailboxes) is reset by its owner."""
        for block in (self.header, *self.capabilities, *self.extended):
            block.reset(sticky_too=sticky_too)

    def read(self, offset: int, size: int) -> int:
        """Read `size` bytes at `offset`, little-endian. What lies in no register reads as zero."""
        if offset % 4 + size <= 4:
            found = self._blocks.get(offset // 4)
            return 0 if found is None else found[0].read(offset - found[1], size)
        value = 0
        for at, part, block, base in self._parts(offset, size):
            value |= block.read(at - base, part) << 8 * (at - offset)
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """Write `size` bytes at `offset`, each field by its access kind. What lies in no register is ignored."""
        if offset % 4 + size <= 4:
            found = self._blocks.get(offset // 4)
            if found is not None:
                found[0].write(offset - found[1], size, value)
            return
        for at, part, block, base in self._parts(offset, size):
            block.write(at - base, part, value >> 8 * (at - offset) & (1 << 8 * part) - 1)

    def register(self, offset: int) -> RegisterAccess:
        """Give access to the DW at `offset`, a multiple of 4. What lies in no register reads as zero, and ignores writes."""
        found = self._blocks.get(offset // 4)
        if found is None:
            return RegisterAccess(partial(self.read, offset, 4), partial(self.write, offset, 4))
        return found[0].access(offset - found[1])

    def _parts(self, offset: int, size: int) -> Iterator[tuple[int, int, Block, int]]:
        at, end = max(offset, 0), min(offset + size, SPACE_SIZE)
        while at < end:
            part = min(4 - at % 4, end - at)
            found = self._blocks.get(at // 4)
            if found is not None:
                yield at, part, *found
            at += part

    def snapshot(self) -> bytes:
        """Give all 4096 bytes as software would read them."""
        return self.read(0, SPACE_SIZE).to_bytes(SPACE_SIZE, "little")


@dataclass(frozen=True, slots=True)
class BarHit:
    """An address that a function's BAR decodes: BAR number and offset in it."""

    function: Bdf
    bar: int
    offset: int


class VirtualFunctions(Protocol):
    """What a physical function's SR-IOV capability says of its VFs; see `capabilities/sriov.py`."""

    stores: int
    """As of any block of registers."""

    def offsets(self) -> range:
        """Give the routing ID distance from the PF to each VF that exists now."""
        ...

    def vf_bar_ranges(self, number: int) -> dict[int, AddressRange]:
        """Give the memory that each BAR of VF `number` (from 0) decodes now."""
        ...


class Functions:
    """The functions of one device, by function number, and their VFs while they are enabled.

    `virtual` maps a PF's function number to its SR-IOV capability and the configuration spaces of its VFs, VF 0 first.
    """

    def __init__(
        self,
        first: Bdf,
        physical: Mapping[int, ConfigSpace],
        virtual: Mapping[int, tuple[VirtualFunctions, Sequence[ConfigSpace]]] | None = None,
    ) -> None:
        self.first = first
        self.physical = dict(physical)
        self.virtual = dict(virtual or {})
        self._last_first = tuple(reversed(self.virtual.items()))
        self._present: tuple[object, Mapping[Bdf, ConfigSpace]] = None, {}
        self._decoded: tuple[object, list[tuple[Bdf, int, AddressRange]]] = None, []

    def present(self) -> Mapping[Bdf, ConfigSpace]:
        """List the functions that exist now; the same object as long as they are the same."""
        places = self.first, [capability.offsets() for capability, _ in self.virtual.values()]
        if self._present[0] != places:
            self._present = places, MappingProxyType(dict(self._list()))
        return self._present[1]

    def _list(self) -> Iterator[tuple[Bdf, ConfigSpace]]:
        for number, space in self.physical.items():
            yield self._bdf(number), space
        for number, (capability, spaces) in self.virtual.items():
            for offset, space in zip(capability.offsets(), spaces, strict=False):
                yield Bdf.of(self._bdf(number).requester_id + offset & 0xFFFF, self.first.segment), space

    def _bdf(self, number: int) -> Bdf:
        return Bdf.of(self.first.requester_id + number, self.first.segment)

    def find(self, function: Bdf) -> ConfigSpace | None:
        """Find the configuration space of a function that exists now, as `present` would list it."""
        # Every configuration request ends here, so the list of all functions is not made for it.
        if function.segment != self.first.segment:
            return None
        distance = function.requester_id - self.first.requester_id
        for number, (capability, spaces) in self._last_first:
            offsets, offset = capability.offsets(), distance - number & 0xFFFF
            while offset < offsets.stop:
                if offset in offsets and (index := offsets.index(offset)) < len(spaces):
                    return spaces[index]
                offset += 1 << 16  # routing IDs wrap around
        return self.physical.get(distance & 0xFFFF)

    def config_read(self, function: Bdf, offset: int, size: int) -> int | None:
        """Read configuration space; None if there is no such function."""
        space = self.find(function)
        return None if space is None else space.read(offset, size)

    def config_write(self, function: Bdf, offset: int, size: int, value: int) -> bool:
        """Write configuration space; False if there is no such function."""
        space = self.find(function)
        if space is not None:
            space.write(offset, size, value)
        return space is not None

    def config_register(self, function: Bdf, offset: int) -> RegisterAccess | None:
        """Give access to one DW of configuration space; None if there is no such function."""
        space = self.find(function)
        return None if space is None else space.register(offset)

    def decode(self, address: int, size: int = 1) -> BarHit | None:
        """Find whose BAR decodes all of [address, address + size); nobody's if another BAR claims any of it too."""
        claims = [claim for claim in self.decoded() if claim[2].start < address + size and address < claim[2].end]
        if len(claims) != 1 or not claims[0][2].holds(address, size):
            return None
        function, bar, decoded = claims[0]
        return BarHit(function, bar, address - decoded.start)

    def decoded(self) -> Sequence[tuple[Bdf, int, AddressRange]]:
        """List the memory that all BARs decode now, VF BARs included."""
        stores = [space.header.stores for space in self.physical.values()]
        virtual = [(capability.stores, capability.offsets()) for capability, _ in self.virtual.values()]
        registers = self.first, stores, virtual
        if self._decoded[0] != registers:
            self._decoded = registers, list(self._decode_all())
        return self._decoded[1]

    def _decode_all(self) -> Iterator[tuple[Bdf, int, AddressRange]]:
        for number, space in self.physical.items():
            for bar, decoded in space.header.bar_ranges().items():
                yield self._bdf(number), bar, decoded
        for number, (capability, _) in self.virtual.items():
            for index, offset in enumerate(capability.offsets()):
                function = Bdf.of(self._bdf(number).requester_id + offset & 0xFFFF, self.first.segment)
                for bar, decoded in capability.vf_bar_ranges(index).items():
                    yield function, bar, decoded
