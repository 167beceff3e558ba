"""Records that several readers share, frozen, so that none of them alters what another reads."""

from __future__ import annotations

from functools import cache
from typing import Any, NoReturn, TypeVar

from teeio.errors import Misuse
from teeio.wire.layout import Record

R = TypeVar("R", bound=Record)

_CHANGE = object.__setattr__


def frozen(one: R) -> R:
    """Make a record, with the records in it, refuse every change from now on, and give it back.

    It stays an instance of its class and equal to its like; `dataclasses.replace` gives a copy that can be changed.
    """
    cls: Any = type(one)
    twin, inner = _twin(cls)
    for name in inner:
        frozen(getattr(one, name))
    _CHANGE(one, "__class__", twin)
    return one


@cache
def _twin(cls: type[Record]) -> tuple[Any, tuple[str, ...]]:
    """Give the class of the same layout whose objects cannot be changed, and the fields that are records.

    Called, it makes an object that can be changed.
    """
    if cls.__setattr__ is _refuse:
        return cls, ()

    def equal(self: Record, other: object) -> bool:
        alike = isinstance(other, cls)
        return alike and all(getattr(self, f.name) == getattr(other, f.name) for f in cls.FIELDS if f.stored)

    def new(_: type[Record], **fields: Any) -> Record:
        return cls(**fields)

    namespace = {
        "__slots__": (),
        "__module__": cls.__module__,
        "__doc__": cls.__doc__,
        "__new__": new,
        "__setattr__": _refuse,
        "__delattr__": _refuse,
        "__eq__": equal,
        "__hash__": None,
    }
    return type(cls.__name__, (cls,), namespace), tuple(f.name for f in cls.FIELDS if f.kind == "record")


def _refuse(self: Record, name: str, *_: object) -> NoReturn:
    raise Misuse(
        f"{type(self).__name__}.{name} is not to be changed: others read the same object",
        remedy="make a copy with dataclasses.replace",
    )
