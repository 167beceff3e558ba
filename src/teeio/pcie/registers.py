"""Registers declared once: place, bit fields, what a write does, and what a change means to a locked TDI.

A block of registers derives its read and write behaviour, its reset values and its documentation rows from the
declaration (attributes of PCIe Base 7.4). `Locked` keeps the register-tracking guidance of PCIe Base chapter 11,
table 11-2, as data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from enum import Enum
from functools import cached_property, lru_cache, partial
from typing import Any, ClassVar, NamedTuple, TypeAlias

from teeio.errors import Misuse


class Access(Enum):
    """What software may do with a field (PCIe Base table 7-2)."""

    RO = "read only"
    HWINIT = "read only, set once by the hardware"
    RW = "read, write"
    RW1C = "read, write 1 to clear"
    ACT = "a write acts and is not stored"
    RSVDP = "reserved"


class Locked(Enum):
    """What a change of a field does to a TDI in CONFIG_LOCKED or RUN (PCIe Base table 11-2)."""

    ALLOWED = "allowed"
    ERROR = "moves the TDI to ERROR"
    ERROR_ON_CLEAR = "moves the TDI to ERROR when cleared"
    IF_MSIX_LOCKED = "moves the TDI to ERROR if its MSI-X table is locked"
    IF_STREAM_BOUND = "moves the TDI to ERROR if the stream is bound to it"
    IF_STATE_LOST = "moves the TDI to ERROR if the function loses state"


@dataclass(frozen=True, slots=True)
class BitField:
    """A named run of bits of a register; `sticky` fields keep their value over a function-level or hot reset."""

    name: str
    low: int
    width: int
    access: Access
    doc: str
    reset: int = 0
    locked: Locked = Locked.ALLOWED
    sticky: bool = False
    mask: int = dataclass_field(init=False, repr=False, compare=False)
    """The field's bits within its register."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", ((1 << self.width) - 1) << self.low)


def bit(name: str, at: int, access: Access, doc: str, **options: object) -> BitField:
    """Declare one bit. Options: reset, locked, sticky."""
    return BitField(name, at, 1, access, doc, **options)  # type: ignore[arg-type]


def bits(name: str, high: int, low: int, access: Access, doc: str, **options: object) -> BitField:
    """Declare bits high:low. Options: reset, locked, sticky."""
    return BitField(name, low, high - low + 1, access, doc, **options)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Register:
    """A register of 1, 2 or 4 bytes at `offset` of its block; bits that no field names are reserved and read as zero.

    `index` numbers the copies of a register that a block repeats (a stream block, a table entry).
    """

    offset: int
    size: int
    name: str
    fields: tuple[BitField, ...]
    index: int = 0

    def __post_init__(self) -> None:
        taken = 0
        for field in self.fields:
            if taken & field.mask or field.mask >> 8 * self.size:
                raise TypeError(
                    f"{self.name}: field {field.name} overlaps another or does not fit in {self.size} bytes"
                )
            if not 0 <= field.reset < 1 << field.width:
                raise TypeError(f"{self.name}: reset value of {field.name} does not fit")
            taken |= field.mask
        if self.offset % self.size:
            raise TypeError(f"{self.name}: offset {self.offset:#x} is not aligned to its size")

    def at(self, offset: int, index: int) -> Register:
        """Give copy number `index` of this register at another offset."""
        return replace(self, offset=offset, index=index)

    def mask(self, *kinds: Access) -> int:
        """The bits whose fields have one of these access kinds."""
        return sum(field.mask for field in self.fields if field.access in kinds)

    @cached_property
    def written(self) -> tuple[int, int, int]:
        """The bits that a write stores, those that writing 1 clears, and those whose writing acts."""
        return self.mask(Access.RW), self.mask(Access.RW1C), self.mask(Access.ACT)

    @cached_property
    def reset_value(self) -> int:
        """The value after a conventional reset."""
        return sum(field.reset << field.low for field in self.fields)

    @cached_property
    def place(self) -> tuple[int, int, int]:
        """Where the register lies in its block: the DW, the lowest bit in it, and all ones of the register's size."""
        return self.offset // 4, self.offset % 4 * 8, (1 << 8 * self.size) - 1

    def bits(self, *names: str) -> int:
        """Give the bits of these fields."""
        return sum(self.field(name).mask for name in names)

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        return {field.name: self._place(field.name) for field in self.fields}

    def _place(self, name: str) -> tuple[int, int]:
        field = self.field(name)
        return field.mask, field.low

    @cached_property
    def _by_name(self) -> dict[str, BitField]:
        return {field.name: field for field in self.fields}

    def field(self, name: str) -> BitField:
        """Find a field by name. Raises `Misuse`."""
        try:
            return self._by_name[name]
        except KeyError:
            remedy = f"it has {', '.join(self._by_name)}"
            raise Misuse(f"register {self.name!r} has no field {name!r}", remedy=remedy) from None

    def get(self, value: int, name: str) -> int:
        """Take the field out of a register value."""
        mask, low = self._places.get(name) or self._place(name)
        return (value & mask) >> low

    def put(self, value: int, **fields: int) -> int:
        """Give `value` with these fields replaced. Raises `Misuse` if one does not fit."""
        for name, part in fields.items():
            field = self.field(name)
            if not 0 <= part < 1 << field.width:
                raise Misuse(f"{self.name}.{name}: {part:#x} does not fit in {field.width} bits")
            value = value & ~field.mask | part << field.low
        return value


OnWrite: TypeAlias = Callable[[Register, int, int], None]
"""Told of each software write: the register, its value before, and after; ACT fields show what was written."""


def disturbs(
    register: Register, old: int, new: int, *, msix_locked: bool, stream_bound: bool, state_lost: bool = False
) -> list[BitField]:
    """List the fields whose change from `old` to `new` moves a locked TDI to ERROR.

    `stream_bound` tells whether the stream block that holds `register` (its `index`) is bound to the TDI,
    `state_lost` whether the function loses state in the power state written (PCIe Base table 11-2).
    """
    counts = {
        Locked.ALLOWED: False,
        Locked.ERROR: True,
        Locked.ERROR_ON_CLEAR: True,
        Locked.IF_MSIX_LOCKED: msix_locked,
        Locked.IF_STREAM_BOUND: stream_bound,
        Locked.IF_STATE_LOST: state_lost,
    }
    changed = old ^ new
    return [
        field
        for field in register.fields
        if changed & field.mask
        and counts[field.locked]
        and (field.locked is not Locked.ERROR_ON_CLEAR or old & changed & field.mask)
    ]


class RegisterAccess(NamedTuple):
    """One DW of configuration space that is read and written again and again, with nothing else in between."""

    read: Callable[[], int]
    write: Callable[[int], object]


class RegisterRow(NamedTuple):
    """One field of a block, as documentation shows it."""

    offset: int
    register: str
    bits: str
    field: str
    access: Access
    reset: int
    locked: Locked
    doc: str


class Block:
    """Registers that lie together and the bytes they hold.

    Registers are the class's `Register` attributes and those given to the constructor. Software reads and writes
    through `read` and `write`; the hardware side uses `get` and `set`, which obey no access kind and tell no watcher.
    """

    NAME: ClassVar[str] = ""

    def __init__(self, size: int, registers: Iterable[Register] = ()) -> None:
        self.size = size
        self._layout = _layout(type(self), size, tuple(registers))  # type: ignore[arg-type]
        self.registers = self._layout.registers
        self.stores = 0
        """How often a register was stored: what is derived from the registers stays true while it stays the same."""
        self._words = [0] * ((size + 3) // 4)
        self._watchers: dict[Register, list[OnWrite]] = {}
        self._observers: list[OnWrite] = []
        for register in self.registers:
            self._store(register, register.reset_value)

    # -- the hardware side

    def value(self, register: Register) -> int:
        """Read a whole register."""
        word, low, ones = register.place
        return self._words[word] >> low & ones

    def get(self, register: Register, field: str) -> int:
        """Read one field."""
        return register.get(self.value(register), field)

    def set(self, register: Register, **fields: int) -> None:
        """Set fields as the hardware does."""
        self._store(register, register.put(self.value(register), **fields))

    def put(self, register: Register, value: int) -> None:
        """Set a whole register as the hardware does, reserved bits too."""
        self._store(register, value & register.place[2])

    def _store(self, register: Register, value: int) -> None:
        word, low, ones = register.place
        self._words[word] = self._words[word] & ~(ones << low) | value << low
        self.stores += 1

    def watch(self, register: Register, callback: OnWrite) -> None:
        """Call back after every software write to `register`, whether its value changed or not."""
        self._watchers.setdefault(register, []).append(callback)

    def observe(self, callback: OnWrite) -> None:
        """Call back after every software write to any register of the block."""
        self._observers.append(callback)

    @property
    def guarded(self) -> bool:
        """Whether any field matters to a locked TDI."""
        return self._layout.guarded

    def reset(self, *, sticky_too: bool = False) -> None:
        """Give every field that software can change its reset value; sticky ones only if `sticky_too`."""
        for register in self.registers:
            changed = sum(
                field.mask
                for field in register.fields
                if field.access in (Access.RW, Access.RW1C) and (sticky_too or not field.sticky)
            )
            self._store(register, self.value(register) & ~changed | register.reset_value & changed)

    # -- the software side

    def read(self, offset: int, size: int) -> int:
        """Read `size` bytes at `offset`, little-endian; bytes outside the block read as zero."""
        first, skipped = offset // 4, offset % 4
        if skipped + size <= 4 and offset < self.size:
            value = self._words[first]
        else:
            words = self._words[first : (offset + size + 3) // 4]
            value = int.from_bytes(b"".join(word.to_bytes(4, "little") for word in words), "little")
        return value >> 8 * skipped & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the low `size` bytes of `value` at `offset`, each field by its access kind."""
        whole = self._layout.whole.get((offset, size))
        if whole is not None:
            mask = (1 << 8 * size) - 1
            self._apply(whole, mask, value & mask)
            return
        for position in range(offset // 4, (offset + size + 3) // 4):
            for register in self._layout.at.get(position, ()):
                shift = 8 * (register.offset - offset)
                mask = _shifted((1 << 8 * size) - 1, shift) & (1 << 8 * register.size) - 1
                if mask:
                    self._apply(register, mask, _shifted(value, shift) & mask)

    def access(self, offset: int) -> RegisterAccess:
        """Give access to the DW at `offset`."""
        register = self._layout.whole.get((offset, 4))
        if register is None:
            return RegisterAccess(partial(self.read, offset, 4), partial(self.write, offset, 4))
        return RegisterAccess(partial(self.value, register), partial(self._apply, register, 0xFFFFFFFF))

    def _apply(self, register: Register, mask: int, value: int) -> None:
        word, low, ones = register.place
        stores, clears, acts = register.written
        old = self._words[word] >> low & ones
        stores &= mask
        new = (old & ~stores | value & stores) & ~(value & clears)
        if new != old:
            self._store(register, new)
        shown = new & ~acts | value & acts
        for callback in self._watchers.get(register, ()):
            callback(register, old, shown)
        for callback in self._observers:
            callback(register, old, shown)

    def rows(self) -> Iterator[RegisterRow]:
        """Give the documentation rows: one for each field."""
        for register in self.registers:
            for field in sorted(register.fields, key=lambda field: field.low):
                span = str(field.low) if field.width == 1 else f"{field.low + field.width - 1}:{field.low}"
                yield RegisterRow(
                    register.offset, register.name, span, field.name, field.access, field.reset, field.locked, field.doc
                )


class _Layout(NamedTuple):
    """The registers of a block in order, by DW, and by offset and size; whether any field matters to a locked TDI."""

    registers: tuple[Register, ...]
    at: Mapping[int, Sequence[Register]]
    whole: Mapping[tuple[int, int], Register]
    guarded: bool


@lru_cache(maxsize=256)
def _layout(cls: type[Any], size: int, registers: tuple[Register, ...]) -> _Layout:
    """Lay out what a class declares with further registers. Raises `TypeError` if two overlap or one lies outside."""
    ordered = tuple(sorted((*declared_registers(cls), *registers), key=lambda register: register.offset))
    at: dict[int, list[Register]] = {}
    end = 0
    for register in ordered:
        if register.offset < end or register.offset + register.size > size:
            raise TypeError(f"{cls.NAME}: register {register.name} at {register.offset:#x} overlaps or lies outside")
        end = register.offset + register.size
        at.setdefault(register.offset // 4, []).append(register)
    whole = {(register.offset, register.size): register for register in ordered}
    guarded = any(field.locked is not Locked.ALLOWED for register in ordered for field in register.fields)
    return _Layout(ordered, at, whole, guarded)


def _shifted(value: int, right: int) -> int:
    return value >> right if right >= 0 else value << -right


def declared_registers(cls: type[Block]) -> list[Register]:
    """List the registers that a block class declares, its bases' first."""
    found: dict[str, Register] = {}
    for base in reversed(cls.__mro__):
        found.update({name: value for name, value in vars(base).items() if isinstance(value, Register)})
    return list(found.values())
